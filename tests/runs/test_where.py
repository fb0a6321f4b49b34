"""The filter language: what it means, what it refuses, and that no text does harm."""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, study, write

from dropbench.errors import UserError
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord
from dropbench.runs.where import FACTS, facts, select, where

ONE = RunRecord(
    Path("outputs/main/one"),
    "done",
    study="main",
    seed=3,
    group="g",
    task="classification",
    choices={"dataset": "digits", "model": "mlp", "strategy": "gradual/step", "optimizer": "adam"},
    rate=0.25,
    epoch=17,
    figures={"train": {}, "test": {"error": 2.5}, "test_mc": {"error": 2.25}},
    seconds={"total": 4.5, "train": 4.0},
    settings={
        "strategy.rate": 0.5, "strategy.where": ["input", "hidden"], "model.widths": [64, 64], "early_stop": None,
        "control": "mean", "diagnostics": True, "optimizer.learning_rate": 0.1, "batch_size": 64, "seed": 3,
    },
    sizes={"epochs": 30, "steps": 900, "parameters": 85002},
)  # fmt: skip
TWO = RunRecord(
    Path("outputs/main/two"),
    "done",
    study="main",
    seed=4,
    choices=dict.fromkeys(("dataset", "model", "strategy", "optimizer"), "none"),
    rate=0.0,
    settings={"control": "none", "strategy.policies.gap.until": 0.5, "diagnostics": False},
)
FAILED = RunRecord(Path("outputs/main/three"), "failed", study="main", seed=1)
BROKEN = RunRecord(Path("outputs/else/four"), "unreadable", "result.json: torn or not JSON")
ALL = (ONE, TWO, FAILED, BROKEN)


def ids(text: str, records: tuple[RunRecord, ...] = ALL) -> list[str]:
    return [record.id for record in select(records, text)]


def line(text: str, records: tuple[RunRecord, ...] = ALL) -> str:
    with pytest.raises(UserError) as caught:
        select(records, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what it means


@pytest.mark.parametrize(
    "text",
    [
        'strategy=="gradual/step"', "strategy == 'gradual/step'", "strategy==gradual/step", "gradual/step == strategy",
        "strategy.rate==0.5", "strategy.rate==.5", "0.1<rate<0.4", "seed==3 and rate <= 0.25", "not rate!=0.25",
        '"grad" in strategy', "strategy not in [none, 'x']", "seed in (2, 3)", "seed not in [1, 4]", "id=='one'",
        "state==done and rate>0", "study==main and seed==3", "dataset==digits", "optimizer==adam", "model==mlp",
        "epochs==30", "steps>=900", "parameters==85_002", "epoch==17", "seconds==4.5", "seconds<1e9", "test.error<3",
        "test_mc.error==2.25", "model.widths==[64,64]", "model.widths==(64,64.0)", "64 in model.widths",
        "hidden in strategy.where", "strategy.where==[input, hidden]", "strategy.where!=[hidden, input]",
        "optimizer.learning_rate==0.1", "diagnostics", "not not diagnostics", "diagnostics==true",
        "diagnostics!=False", "control==mean", "not control==none", "early_stop!=3", "rate>0.2 or seed==9",
        "rate<0.3 and (seed==1 or seed==3)", "rate<strategy.rate<seconds", "seed<epoch<epochs", "rate>+.1",
        "rate>- 1e-3 and rate!=0", "seed==9 or seed==3", "rate<seed\n and\tseed==3", "rate<0.4\xa0and seed==3",
        "seed==3 and '==' not in id", "seed==3 and id!='a and b = c'", "seed==3 and id!='it\\'s'",
        r'seed==3 and "\d" not in id', "seed==3 and '' in id", "seed==3 and seed not in []", "id in [null, 'one']",
        "task==classification", "group=='g'", "seed==3 and true", "seed==3 and 1<2 and 'a'<'b' and not false",
        "not (seed==1 or seed==4)", "seed>=3 and not seed>=4", "not seed<3 and seed<4", "seed==0x3",
    ],
)  # fmt: skip
def test_means_the_first(text: str) -> None:
    assert ids(text) == ["one"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("true", ["one", "two", "three", "four"]),
        ("false", []),
        ("state==failed", ["three"]),
        ("state in [failed, unreadable]", ["three", "four"]),
        ("state==running", []),  # a state is known though no run is in it
        ("study=='else'", ["four"]),
        ("strategy==none", ["two"]),
        ("strategy!=none", ["one"]),  # of the others the strategy is unknown
        ("not strategy==none", ["one"]),
        ("strategy==none or state==failed", ["two", "three"]),
        ("strategy!=none and state==failed", []),
        ("not (strategy!=none and state==failed)", ["one", "two", "four"]),  # false whatever the strategy is
        ("diagnostics", ["one"]),
        ("not diagnostics", ["two"]),
        ("test.error<3", ["one"]),
        ("not test.error<3", []),
        ("test.error!=null", ["one"]),
        ("test.error==null", ["two", "three", "four"]),
        ("strategy.policies.gap.until==null", ["one", "three", "four"]),
        ("early_stop==null", ["one", "two", "three", "four"]),
        ("early_stop<3", []),  # null is not below
        ("early_stop!=3", ["one"]),
        ("not early_stop<3", []),
        ("rate in [0, null]", ["two", "three", "four"]),
        ("model.widths==64", []),
        ("model.widths<[65]", []),
        ("3 in seed", []),
        ("rate in [strategy.rate, 0.25]", ["one"]),
        ("strategy in ['none', state]", ["two"]),
    ],
)
def test_what_a_run_lacks_is_unknown(text: str, meant: list[str]) -> None:
    assert ids(text) == meant


def test_a_name_comes_before_a_word() -> None:
    """`control` is a setting, so it is never the text "control"."""
    twin = RunRecord(Path("x/five"), "done", choices={"strategy": "mean"}, settings={"control": "mean"})
    assert ids("strategy==control", (*ALL, twin)) == ["two", "five"]
    assert ids("strategy=='control'", (*ALL, twin)) == []
    assert ids("control==strategy", (*ALL, twin)) == ["two", "five"]


def test_no_filter_means_all() -> None:
    assert select(iter(ALL), None) == list(ALL)
    assert select([], "strategi==3") == []


def test_a_filter_can_be_asked_without_a_check() -> None:
    meant = where("strategy==gradual/step and batch_size==64")
    assert meant(ONE)
    assert not meant(TWO)
    assert meant.text == "strategy==gradual/step and batch_size==64"


def test_names_of_recorded_runs(tmp_path: Path) -> None:
    """Of folders on the disk: every name that `facts` gives can be asked for, and means the run."""
    study(tmp_path)
    records = read([tmp_path])
    known = facts(records[0])
    assert known["test.error"] == 1.5
    assert known["strategy.rate"] == 0.25
    assert known["model.widths"] == [256, 256]
    for name, value in known.items():
        assert records[0] in select(records, f"{name}=={value!r}"), name
    assert {record.state for record in select(records, "seed!=7")} == {"done", "failed"}
    assert set(FACTS) - set(known) == {"samples", "forward_passes"} - set(known)


def test_facts_leave_out_what_is_no_value(tmp_path: Path) -> None:
    deep: Any = [1]
    for _ in range(9):
        deep = [deep]
    odd = {"a": float("inf"), "b": float("nan"), "c": {"x": 1}, "d": deep, "e": [1, [2]], "f": None, "seed": "no"}
    write(tmp_path / "main" / "x", result(settings=odd))
    (record,) = read([tmp_path])
    known = facts(record)
    assert {key: known.get(key, "absent") for key in "abcdef"} == dict.fromkeys("abcd", "absent") | {
        "e": [1, [2]],
        "f": None,
    }
    assert known["seed"] == 0  # a fact comes before a setting of that name
    assert select([record], "b<1 or not b<1 or b==b") == []
    assert select([record], "c==1 or c==d") == []
    assert select([record], "a>1e300 and e==[1,[2]] and d==d") == [record]


# ---- what it refuses


EXAMPLE = 'an example: strategy=="gradual" and rate<0.4'
ALLOWED = "allowed: and, or, not, ==, !=, <, <=, >, >=, in, names, numbers, text in quotes, true, false, null, lists"
KNOWN = (
    "no run has this; known: id, state, study, dataset, model, strategy, optimizer, rate, seed, task, group, epoch, "
    "epochs, steps, samples, forward_passes, parameters, peak_memory_bytes, seconds, figures (test.error), settings by "
    "their keys"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strategy='gradual'", "strategy='gradual': a single = compares nothing; write =="),
        ("rate<1 and strategy = gradual", "strategy = gradual: a single = compares nothing; write =="),
        ("", f"there is no condition; {EXAMPLE}"),
        (" \n\t", f"there is no condition; {EXAMPLE}"),
        ("a" * 1001, "1,001 characters; at most 1,000 are read"),
        ("rate", f"rate: this is not true or false of a run; compare it; {EXAMPLE}"),
        ("not control", f"control: this is not true or false of a run; compare it; {EXAMPLE}"),
        ("3", f"3: this is a value, and no condition; {EXAMPLE}"),
        ("rate<1 and 'x'", f"'x': this is a value, and no condition; {EXAMPLE}"),
        ("[rate<1]", f"[rate<1]: this is a value, and no condition; {EXAMPLE}"),
        ("null", f"null: {ALLOWED}"),
        ("rate+1<2", f"rate+1: {ALLOWED}"),
        ("-rate<2", f"-rate: {ALLOWED}"),
        ("rate<-true", f"-true: {ALLOWED}"),
        ("seed-1==2", f"seed-1: {ALLOWED}"),
        ("rate**9<2", f"rate**9<2: nothing is written with * here; {ALLOWED}"),
        ("min(rate, 1)<2", f"min(rate, 1): {ALLOWED}"),
        ("strategy.upper()=='X'", f"strategy.upper(): {ALLOWED}"),
        ("'x'.y==1", f"'x'.y: {ALLOWED}"),
        ("model.widths[0]==64", f"model.widths[0]: {ALLOWED}"),
        ("rate.__class__==1", f"rate.__class__: {ALLOWED}"),
        ("__import__==1", f"__import__: {ALLOWED}"),
        ("rate is null", f"rate is null: {ALLOWED}"),
        ("1 if rate else 2", f"1 if rate else 2: {ALLOWED}"),
        ("(rate:=2)", f"(rate:=2): nothing is written with : here; {ALLOWED}"),
        ("lambda: 0", f"lambda: 0: nothing is written with : here; {ALLOWED}"),
        ("{1}=={2}", f"{{1}}=={{2}}: nothing is written with {{ here; {ALLOWED}"),
        ("rate<1 # low", f"rate<1 # low: nothing is written with # here; {ALLOWED}"),
        ("rate==1j", f"1j: {ALLOWED}"),
        ("rate==...", f"...: {ALLOWED}"),
        ("f'{rate}'=='x'", "f'{rate}': text stands in plain quotes: '{rate}'"),
        ("strategy==b'x'", "b'x': text stands in plain quotes: 'x'"),
        ("rate<1 && seed<3", "&& seed<3: write and, or, not as words"),
        ("rate<1 | seed<3", "| seed<3: write and, or, not as words"),
        ("!(rate<1)", "!(rate<1): write and, or, not as words"),
        ("strategy=='grad", "'grad: the quotes are not closed"),
        ('strategy==""" or 1', '" or 1: the quotes are not closed'),
        ("rate<1 and", f"rate<1 and: cannot be read here; {EXAMPLE}"),
        ("rate < < 1", f"< 1: cannot be read here; {EXAMPLE}"),
        ("(rate<1", f"(rate<1: cannot be read here; {EXAMPLE}"),
        ("rate<07", f"07: cannot be read here; {EXAMPLE}"),
        ("rate<1\0", f"rate<1\0: nothing is written with \0 here; {ALLOWED}"),
        ("(" * 21 + "1" + ")" * 21, f"{'(1'}{')' * 21}: more than 20 parentheses in one another"),
        ("not " * 30 + "true", f"{'not ' * 10}true: more than 20 conditions in one another"),
        ("seed<'a'", '"a": this is a text, seed a number'),
        ("seed!='3'", '"3": this is a text, seed a number'),  # it would mean every run
        ("3=='x' or '3'==seed", '"3": this is a text, seed a number'),
        ("diagnostics==1", "1: this is a number, diagnostics a truth"),
        ("strategi==3", f"strategi: {KNOWN}; nearest: strategy"),
        ("strategi==gradual", f"strategi: {KNOWN}; nearest: strategy"),
        ("model.width==3", f"model.width: {KNOWN}; nearest: model.widths"),
        ("error<3", f"error: {KNOWN}; nearest: test.error"),
        ("learning_rate<3", f"learning_rate: {KNOWN}; nearest: optimizer.learning_rate"),
        ("test.nll<3 or true", f"test.nll: {KNOWN}; nearest: test.error"),
        ("rate<low", f"low: {KNOWN}"),
        ("rate<gradual/step", f"gradual/step: {KNOWN}; nearest: rate"),
        (
            "strategy==graduel/step",
            "graduel/step: no run has this as strategy; any text can stand in quotes; known: gradual/step, none; "
            "nearest: gradual/step",
        ),
        (
            "state in [done, faild]",
            "faild: no run has this as state; any text can stand in quotes; known: done, failed, interrupted, pruned, "
            "running, unreadable; nearest: failed",
        ),
        ("rate==high", "high: no run has this as rate; any text can stand in quotes"),
    ],
)
def test_refuses_in_one_line(text: str, said: str) -> None:
    assert line(text) == f"--where: {said}"


def test_names_are_not_judged_where_no_run_could_have_them() -> None:
    """Of a study in which all runs failed, nobody knows the figures; so a filter means none, and is no error."""
    assert ids("test.error<3", (FAILED, BROKEN)) == []
    assert ids("strategy.rate<3 and strategy==gradual", (FAILED, BROKEN)) == []
    assert ids("gradual==strategy or batch_size==64 or state==failed", (FAILED, BROKEN)) == ["three"]
    assert line("test.nll<3", (FAILED, ONE)).endswith("nearest: test.error")
    named = RunRecord(Path("o/six"), "failed", choices={"strategy": "gradual"})
    assert ids("gradual==strategy", (named,)) == ids("strategy==gradual", (named,)) == ["six"]


def test_long_pieces_and_many_names_are_cut() -> None:
    said = line("rate<1 and x" + "y" * 500 + "==3")
    assert f"--where: x{'y' * 56}...: no run has this" in said
    many = tuple(
        RunRecord(Path(f"o/{i:03}"), "done", choices={"strategy": f"s{i:02}"}, settings={"a": 1}) for i in range(20)
    )
    assert "known: s00, s01, s02, s03, s04, s05, s06, s07, ...; nearest: s" in line("strategy==s2x", many)


# ---- no text does harm


FRAGMENTS = [
    "rate", "strategy", "test.error", "gradual", "none", "x.__class__", "__import__", "(", ")", "[", "]", "{", "}", ",",
    "**", "*", "=", "==", "!=", "<", ">", ">=", " and ", " or ", " not ", " in ", " is ", "-", "+", "~", ".", "..", ":",
    ":=", "lambda", " if ", " else ", "1", "0", "9" * 300, "1e999", "0x", "1_", "'", '"', "'a'", '"b"', "f'", "b''",
    "\\", "\n", "\r", "\0", "\t", "\u202e", "\ud800", "\ufeff", "é", "ﬁ", "٣", "#", ";", "@", "`", "true", "null",
    "None", "True", "await ", "yield ", "print(", "*a", "**{", "[[", "))", "not " * 9, "- " * 9, "((", "a.b.c",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)))
@example("9" * 999)
@example("-" * 999 + "1")
@example("not " * 249 + "1")
@example("(" * 500 + ")" * 500)
@example("[" * 999)
@example("a." * 499 + "b")
@example("rate<" * 199 + "1")
@example("1if 0else " * 99 + "1")
@example("a and " * 166 + "a")
@example("a,(" * 20 + ")" * 20)
@example("'" + "x" * 998 + "'")
@example("'\\N{NULL}'==id")
@example("'\\x'==id")
@example("10**10**10")
@example("rate==9" + "9" * 900)
@example("1e" + "9" * 900 + "<rate")
@example("a(" * 333)
@example("x" * 10_000_000)
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        meant = select(ALL, text)
    except UserError as error:
        said = str(error)
    else:
        said = "--where: "
        assert [record for record in ALL if where(text).check(ALL)(record)] == meant
        where(text)(ONE)
    assert said.startswith("--where: ")
    assert len(said) < 800


conditions = st.recursive(
    st.sampled_from(
        ["rate<0.3", "seed==3", "test.error<3", "state==done", "diagnostics", "early_stop==null", "'a' in strategy"]
    ),
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.tuples(inner, inner).map("({0[0]}) and ({0[1]})".format),
        st.tuples(inner, inner).map("({0[0]}) or ({0[1]})".format),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(conditions, conditions)
def test_the_logic_is_one(one: str, other: str) -> None:
    """No run is meant by a condition and its opposite; de Morgan holds, also for what is unknown."""
    assert not set(ids(one)) & set(ids(f"not ({one})"))
    assert ids(f"not (({one}) and ({other}))") == ids(f"not ({one}) or not ({other})")
    assert ids(f"not (({one}) or ({other}))") == ids(f"not ({one}) and not ({other})")
    assert set(ids(f"({one}) and ({other})")) == set(ids(one)) & set(ids(other))


def test_whatever_lies_in_a_run_folder(tmp_path: Path) -> None:
    """Hostile results: values of any kind under any key."""
    draw = random.Random(0)
    values: list[Any] = [
        None,
        True,
        3,
        10**4000,
        -1e300,
        float("nan"),
        "x\0\x1b[31m",
        [],
        [[]],
        {},
        {"a": [1]},
        "",
        -0.0,
    ]
    keys = ["seed", "rate", "choices", "test", "settings", "seconds", "selection", "study", "group", "epochs", "status"]
    for i in range(60):
        content = result() | {key: draw.choice(values) for key in draw.sample(keys, 3)}
        content["status"] = draw.choice(["done", "failed", "failed"])
        odd = {f"k{n}": draw.choice(values) for n in range(6)} | {"\n[red]": 1, "k0.k1": 2, "": 3}
        write(tmp_path / "main" / f"r{i:02}", content | {"settings": draw.choice([odd, odd, None, 3])})
    records = read([tmp_path])
    everything = [f"k{n}" for n in range(6)] + ["rate", "seed", "test.error", "seconds", "study", "k0.k1"]
    for name in everything:
        for text in (f"{name}<{name}", f"{name}==k1", f"k2 in {name}", f"{name} in [k3, null, [1]]", f"{name}>'x'"):
            with suppress(UserError):  # of a kind that no run has there
                select(records, f"not {text}")
    for record in records:
        facts(record)
