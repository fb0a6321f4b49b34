"""The schema: closed, typed, checked, and its messages name the key, the value, what is allowed and the nearest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import CONF, choices, composed, config, message, set_at

from dropbench.config import Config, Evaluation, check
from dropbench.errors import UserError
from dropbench.models import Model
from dropbench.noise import Noise
from dropbench.noise.bernoulli import Bernoulli
from dropbench.noise.gaussian import Gaussian
from dropbench.parts import Part, names
from dropbench.policies import Policy
from dropbench.policies.gradual import Gradual
from dropbench.schema import build, plain
from dropbench.spec import NonNegative, Positive, Range, Rate


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, Range(1, 10)] = 1
    shape: Literal["round", "square"] = "round"


@dataclass(frozen=True)
class Outer:
    rate: Rate
    name: str = "x"
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    widths: Annotated[tuple[int, ...], Range(1, 100)] = (3, 4)
    words: tuple[Literal["auto", "step", "unit"], ...] = ("auto",)
    bound: NonNegative | None = None
    size: Annotated[int, Range(1, 9)] | Literal["auto"] = "auto"
    noise: Noise = field(default_factory=Bernoulli)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    items: tuple[Inner, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "flag" and not self.flag:
            raise ValueError("name=flag: needs flag=true")


def refused(path: str = "", **data: object) -> str:
    with pytest.raises(UserError) as error:
        build(Outer, {"rate": 0.5, **data}, path)
    return message(error)


def test_what_is_not_said_has_its_default_and_what_is_said_its_type():
    assert build(Outer, {"rate": 0}) == Outer(rate=0.0)
    assert isinstance(build(Outer, {"rate": 0}).rate, float)  # an integer is a real number
    built = build(
        Outer,
        {
            "rate": 0.25,
            "name": "y",
            "flag": True,
            "inner": {"count": 2, "shape": "square"},
            "widths": [5],
            "words": ["step", "unit"],
            "bound": 3,
            "size": 4,
            "noise": {"kind": "gaussian"},
            "policies": {"gradual": {"until": 0.25}, "other": {"kind": "gradual", "start": 1}},
            "items": [{"count": 3}, {}],
        },
    )
    policies = {"gradual": Gradual(until=0.25), "other": Gradual(start=1.0)}
    items = (Inner(3), Inner())
    inner = Inner(2, "square")
    assert built == Outer(0.25, "y", True, inner, (5,), ("step", "unit"), 3.0, 4, Gaussian(), policies, items)
    assert build(Outer, plain(built)) == built


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"flga": True}, "unknown key top.flga=True; nearest: top.flag"),
        ({"zzzzzzzz": 1}, "unknown key top.zzzzzzzz=1; known: top.rate, top.name, top.flag, "),
        ({"inner": {"zzzz": 1}}, "unknown key top.inner.zzzz=1; known: top.inner.count, top.inner.shape"),
        ({"inner": {"cuont": 3}}, "unknown key top.inner.cuont=3; nearest: top.inner.count"),
        ({"items": [{}, {"cont": 3}]}, "unknown key top.items[1].cont=3; nearest: top.items[1].count"),
        ({"policies": {"gradual": {"shap": 1}}}, "unknown key top.policies.gradual.shap=1; nearest: top.policies."),
        ({"noise": {"kind": "bernoulli", "sigma": 1}}, "unknown key top.noise.sigma=1"),
        ({1: 2}, "unknown key top.1=2"),
    ],
)
def test_closed_at_every_level(data, text):
    with pytest.raises(UserError) as error:
        build(Outer, {"rate": 0.5, **data}, "top")
    assert message(error).startswith(text)


def test_a_missing_key():
    with pytest.raises(UserError) as error:
        build(Outer, {}, "top")
    assert message(error) == "missing key top.rate"


@pytest.mark.parametrize("value", [None, 3, "x", [1], True])
def test_a_mapping_is_needed(value):
    with pytest.raises(UserError) as error:
        build(Outer, value, "top")
    assert "allowed is a mapping of the keys rate, name, flag" in message(error)
    assert refused(inner=value).startswith("inner=")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("rate", "0.5", "rate=0.5: allowed: a finite number"),
        ("rate", True, "rate=True: allowed: a finite number"),
        ("rate", None, "rate=null: allowed: a finite number"),
        ("rate", [0.5], "rate=[0.5]: allowed: a finite number"),
        ("rate", float("nan"), "rate=nan: allowed: a finite number"),
        ("rate", float("inf"), "rate=inf: allowed: a finite number"),
        pytest.param("rate", 10**400, f"rate=1{'0' * 56}...: allowed: a finite number", id="rate-10**400"),
        ("rate", 1, "rate=1: out of range; allowed: 0 <= value < 1"),
        ("rate", 1.0, "rate=1.0: out of range; allowed: 0 <= value < 1"),
        ("rate", -0.1, "rate=-0.1: out of range; allowed: 0 <= value < 1"),
        ("name", 3, "name=3: allowed: a text"),
        ("flag", 1, "flag=1: allowed: true or false"),
        ("flag", "true", "flag=true: allowed: true or false"),
        ("inner", {"count": 0}, "inner.count=0: out of range; allowed: 1 <= value <= 10"),
        ("inner", {"count": 1.0}, "inner.count=1.0: allowed: a whole number"),
        ("inner", {"count": True}, "inner.count=True: allowed: a whole number"),
        ("inner", {"shape": "rund"}, "inner.shape=rund: allowed: round, square; nearest: round"),
        ("inner", {"shape": 1}, "inner.shape=1: allowed: round, square"),
        ("widths", [3, 0], "widths=[3, 0]: out of range; allowed: 1 <= value <= 100"),
        ("widths", [3, "4"], "widths[1]=4: allowed: a whole number"),
        ("widths", "3", "widths=3: allowed: a whole number"),
        ("words", ["step", "unti"], "words[1]=unti: allowed: auto, step, unit; nearest: unit"),
        ("bound", -1, "bound=-1: out of range; allowed: 0 <= value <= 1e+09"),
        ("bound", "x", "bound=x: allowed: a finite number or null"),
        ("size", 10, "size=10: out of range; allowed: 1 <= value <= 9"),
        ("size", "aut", "size=aut: allowed: a whole number or auto"),
        ("noise", "gausian", "noise.kind=gausian: there is no such noise; known: alpha, bernoulli, "),
        ("noise", {}, "missing key noise.kind"),
        ("noise", 3, "noise=3: allowed: the name of a noise, or a mapping with its kind"),
        ("noise", None, "noise=null: allowed: the name of a noise"),
        ("policies", [1], "policies=[1]: allowed: a mapping of names"),
        ("policies", {"gradul": {}}, "policies.gradul=gradul: there is no such policy; known: "),
        ("policies", {"a": {"kind": "gradul"}}, "policies.a.kind=gradul: there is no such policy; known: "),
        ("policies", {"gradual": {"end": 2}}, "policies.gradual.end=2: out of range; allowed: 0 <= value <= 1"),
        ("policies", {"gradual": {"after": 0.9}}, "policies.gradual: after=0.9 must be less than until=0.5"),
    ],
)
def test_types_and_ranges(key, value, text):
    assert refused(**{key: value}).startswith(text)
    assert refused("top", **{key: value}).partition("top.")[2].startswith(text.removeprefix("missing key "))


def test_the_nearest_part_is_named():
    assert refused(noise="gausian").endswith("nearest: gaussian")
    assert refused(policies={"gradul": {}}).endswith("nearest: gradual")


def test_a_rule_between_fields_is_told_with_its_path():
    assert refused(name="flag") == "name=flag: needs flag=true"
    assert refused("top", name="flag") == "top: name=flag: needs flag=true"


def test_open_ends():
    @dataclass(frozen=True)
    class _Open:
        speed: Positive = 1.0

    globals()["_Open"] = _Open
    assert build(_Open, {"speed": 1e-9}).speed == 1e-9
    with pytest.raises(UserError, match=r"speed=0: out of range; allowed: 0 < value <= 1e\+09"):
        build(_Open, {"speed": 0})
    assert 0 in Range(0, 1)
    assert 1 in Range(0, 1)
    assert 1 not in Range(0, 1, open_high=True)
    assert 0 not in Range(0, 1, open_low=True)


def test_null():
    assert build(Outer, {"rate": 0.5, "bound": None}).bound is None
    # null takes an entry out of a mapping of parts, and an unknown one too
    assert build(Outer, {"rate": 0.5, "policies": {"gradual": None, "whatever": None}}).policies == {}
    assert "a whole number" in refused(inner={"count": None})
    assert "name=null: allowed: a text" in refused(name=None)


def test_one_stands_for_a_list_of_one():
    built = build(Outer, {"rate": 0.5, "widths": 8, "words": "unit", "items": {"count": 2}})
    assert (built.widths, built.words, built.items) == ((8,), ("unit",), (Inner(2),))
    assert build(Outer, {"rate": 0.5, "widths": [], "words": []}).widths == ()


def test_a_part_by_its_bare_name():
    built = build(Outer, {"rate": 0.5, "noise": "gaussian", "policies": {"later": "gradual"}})
    assert built.noise == Gaussian()
    assert built.policies == {"later": Gradual()}


def test_a_long_value_is_cut():
    text = refused(name=["x" * 500])
    assert len(text) < 120
    assert "...: allowed: a text" in text


# ---- anything at all

KEYS = st.one_of(st.text(max_size=5), st.sampled_from(["kind", "rate", "widths", "gradual", "shape", "count"]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["auto", "bernoulli", "gradual", "mlp", "digits", "nowhere", ".", "..", "a.b"]),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
QUICK = settings(
    deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


def only_user_errors(make, *arguments):
    try:
        return make(*arguments)
    except UserError:
        return None


@QUICK
@given(data=st.one_of(JSON, st.fixed_dictionaries({}, optional={f.name: JSON for f in fields(Outer)})))
@example(data={"rate": 10**400})
def test_any_data_are_built_or_refused(data):
    built = only_user_errors(build, Outer, data)
    if built is not None:
        assert build(Outer, plain(built)) == built


def _paths(node: object, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inside = [path for key, item in node.items() for path in _paths(item, (*at, key))] if isinstance(node, dict) else []
    return [*([at] if at else []), *inside]


WHOLE = composed("strategy=gradual").data


@QUICK
@given(path=st.sampled_from(_paths(WHOLE)), value=JSON)
@example(path=("extensions",), value=[""])
@example(path=("extensions",), value=["..", "a b", "\0"])
@example(path=("strategy", "rate"), value=10**400)
@example(path=("dataset", "kind"), value=["digits"])
@example(path=("seed",), value=2**64)
def test_a_config_with_one_wrong_node_is_checked_or_refused(path, value):
    checked = only_user_errors(check, set_at(WHOLE, path, value))
    if checked is not None:
        assert check(plain(checked)) == checked


@QUICK
@given(
    path=st.sampled_from([path for path in _paths(WHOLE) if path != ("strategy", "policies")]),
    key=st.text(max_size=6),
    value=JSON,
)
def test_no_unknown_key_passes_anywhere(path, key, value):
    node = WHOLE
    for name in path:
        node = node[name]
    known = {"kind", "input_rate"}
    if isinstance(node, dict) and key not in node and key not in known:
        with pytest.raises(UserError, match="unknown key"):
            check(set_at(WHOLE, path, {**node, key: value}))


# ---- every YAML of every group

GROUPS = {group: group for group in ("dataset", "model", "strategy", "optimizer", "logger")}
YAMLS = [(group, name) for group in GROUPS for name in choices(group)]


def test_the_yamls_are_found():
    assert {"digits", "mnist", "adding"} <= set(choices("dataset"))
    assert {"mlp", "cnn", "lstm"} <= set(choices("model"))
    assert {"none", "standard", "gradual", "gradual/late"} <= set(choices("strategy"))
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} <= {*GROUPS, "experiment"}


@pytest.mark.parametrize(("group", "name"), YAMLS, ids="-".join)
def test_every_yaml_survives_the_round_trip(group, name):
    checked = config(f"{group}={name}")
    again = plain(checked)
    assert check(again) == checked
    assert plain(check(again)) == again
    assert check(yaml.safe_load(yaml.safe_dump(again))) == checked  # nothing but what YAML can say


def written(group: str, name: str) -> tuple[list[str], dict[str, object]]:
    """The comments at the head of a YAML, and what it says of its group."""
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    lines = iter(text.splitlines())
    comments = [line.removeprefix("# ") for line in iter(lambda: next(lines, ""), "") if line.startswith("# ")]
    node = yaml.safe_load(text)
    return [line for line in comments if not line.startswith("@package")], node.get(group, node)


@pytest.mark.parametrize(("group", "name"), YAMLS, ids="-".join)
def test_every_yaml_says_what_it_is(group, name):
    comments, _ = written(group, name)
    assert comments
    assert not re.match(r"formula:|source:", comments[0])
    if group == "strategy":
        assert re.match(r"formula: .+", comments[1])
        assert re.match(r"source: .+", comments[2])


def test_no_two_yamls_of_a_group_say_that_they_are_the_same():
    for group in GROUPS:
        said = [written(group, name)[0][0] for name in choices(group)]
        assert len(set(said)) == len(said)


#: A strategy writes out what it chooses, and a further preset of a model what makes it another one.
WHOLE_YAMLS = [(group, name) for group, name in YAMLS if group in ("dataset", "optimizer", "logger")] + [
    ("model", name) for name in choices("model") if name in names(Model)
]


@pytest.mark.parametrize(("group", "name"), WHOLE_YAMLS, ids="-".join)
def test_the_yaml_of_a_part_writes_out_every_key(group, name):
    compare_keys(written(group, name)[1], getattr(config(f"{group}={name}"), group), f"{group}={name}")


def compare_keys(node: object, part: object, where: str) -> None:
    assert isinstance(node, dict)
    names = [item.name for item in fields(part)]
    assert set(node) == ({*names, "kind"} if isinstance(part, Part) else set(names)), where
    for name in names:
        value = getattr(part, name)
        if is_dataclass(value) and fields(value):
            compare_keys(node[name], value, f"{where}.{name}")


@pytest.mark.parametrize("name", choices("strategy"))
def test_a_strategy_is_what_its_yaml_says(name):
    """Every key of the YAML is a key of the strategy, with the value that is written there."""
    says(written("strategy", name)[1], plain(config(f"strategy={name}"))["strategy"], name)


def says(node: object, built: object, where: str) -> None:
    if isinstance(node, dict):
        assert isinstance(built, dict), where
        for key, value in node.items():
            says(value, built[key], f"{where}.{key}")
    elif isinstance(built, dict):
        assert built["kind"] == node, where
    else:
        assert built in (node, [node]), where


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_is_a_config(name):
    assert check(plain(config(f"experiment={name}"))) == config(f"experiment={name}")


def test_the_whole_config_is_written_out():
    """conf/config.yaml names every key of a run, none of them hidden in the code."""
    data = composed().data
    assert set(data) == {item.name for item in fields(Config)}
    assert set(data["evaluation"]) == {item.name for item in fields(Evaluation)}
