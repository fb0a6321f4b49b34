"""The filter language of `--where`: which of the recorded runs are meant.

    strategy=="gradual" and rate<0.4
    state in [failed, interrupted] or not 10 <= seed < 20
    optimizer.learning_rate<=0.1 and model.widths==[64,64] and test_mc.error!=null

- A condition is a comparison (`==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in`, also chained), a setting that is true
  or false, or conditions joined by `and`, `or`, `not` and parentheses. Values are numbers, text in quotes, `true`,
  `false`, `null` and lists of these. There is nothing else: no arithmetic, no call.
- Names are the facts of a run (`FACTS`), its figures (`test.error`), and its settings by their dotted keys. `strategy`
  is the name of the choice, `strategy.rate` a setting of it.
- A word without quotes that is no name is text, if some run has it there: `strategy==gradual`.
- Numbers are ordered among numbers, text among text. Numbers, text, lists, and true or false never equal each other;
  to compare a name with a kind of value that no run has there is refused (`seed!="3"` would mean every run).
  `in` looks into a list, or for a part of a text.
- What a run lacks is unknown, and so is a comparison with it, its opposite, and an order of things of two kinds; a run
  is meant only where the whole is true (Kleene's logic, as in SQL). Therefore neither `rate<0.4` nor `not rate<0.4`
  means a run without a rate. `null` alone equals what is lacking.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dropbench.errors import UserError, nearest
from dropbench.runs.records import MEASURED, STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dropbench.runs.records import RunRecord

_LONGEST = 1_000  # characters of a filter
_DEEPEST = 20  # parentheses, lists and `not` in one another; values from disk are looked into as deep
_SHOWN = 60  # characters of an offending piece
_LISTED = 8  # known values in a message
_COMPARED = 5_000  # known names among which the nearest is looked for

#: What can be asked of any run, beside figures and settings; None or empty where it is not known.
FACTS: Final[Mapping[str, Callable[[RunRecord], object]]] = {
    "id": lambda record: record.id,
    "state": lambda record: record.state,
    "study": lambda record: record.study or record.path.parent.name,
    "dataset": lambda record: record.choices.get("dataset"),
    "model": lambda record: record.choices.get("model"),
    "strategy": lambda record: record.choices.get("strategy"),
    "optimizer": lambda record: record.choices.get("optimizer"),
    "rate": lambda record: record.rate,
    "seed": lambda record: record.seed,
    "task": lambda record: record.task,
    "group": lambda record: record.group,
    "epoch": lambda record: record.epoch,
    "epochs": lambda record: record.sizes.get("epochs", record.settings.get("epochs")),
    "steps": lambda record: record.sizes.get("steps"),
    "samples": lambda record: record.sizes.get("samples"),
    "forward_passes": lambda record: record.sizes.get("forward_passes"),
    "parameters": lambda record: record.sizes.get("parameters"),
    "peak_memory_bytes": lambda record: record.sizes.get("peak_memory_bytes"),
    "seconds": lambda record: record.seconds.get("total"),
}

_LANGUAGE = "allowed: and, or, not, ==, !=, <, <=, >, >=, in, names, numbers, text in quotes, true, false, null, lists"
_EXAMPLE = 'an example: strategy=="gradual" and rate<0.4'


class _Unknown:
    """What a run lacks."""


_UNKNOWN = _Unknown()


@dataclass(frozen=True)
class _Literal:
    value: object


@dataclass(frozen=True)
class _Name:
    """A name, or a `word` that may be text: which of both is decided when it is known what runs have."""

    key: str
    word: bool = False


@dataclass(frozen=True)
class _List:
    items: tuple[_Operand, ...]


@dataclass(frozen=True)
class _Comparison:
    left: _Operand
    sign: str
    right: _Operand


@dataclass(frozen=True)
class _Not:
    item: _Condition


@dataclass(frozen=True)
class _Joined:
    every: bool  # and, else or
    items: tuple[_Condition, ...]


_Operand = _Literal | _Name | _List
_Condition = _Comparison | _Not | _Joined | _Name | _Literal

_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
    ast.NotIn: "not in",
}  # fmt: skip
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_KINDS = {int: "number", float: "number", str: "text", bool: "truth", type(None): "null"}
_CONSTANTS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Where:
    """A filter, true of the runs that are meant.

    Args:
        text: as the user wrote it.
        tree: what it says.
    """

    text: str
    tree: _Condition

    def __call__(self, record: RunRecord) -> bool:
        """Whether the run is meant."""
        return _truth(self.tree, record) is True

    def check(self, records: Sequence[RunRecord]) -> Where:
        """The same filter with every word settled to be a name or a text.

        What none of the runs could have (a figure, where all failed) is not held against a name.

        Raises:
            UserError: no run has a name, or has a word as the value it is compared with.
        """
        return replace(self, tree=_settled(self.tree, _Runs(records))) if records else self


def where(text: str) -> Where:
    """Reads a filter; nothing in it is run.

    Args:
        text: see the module; at most 1,000 characters.

    Raises:
        UserError: it is not of the language; the line shows the piece.
    """
    line = re.sub(r"\s", " ", text[: 2 * _LONGEST]).strip()
    if not line:
        raise UserError(f"--where: there is no condition; {_EXAMPLE}")
    if len(text) > _LONGEST:
        raise UserError(f"--where: {len(text):,} characters; at most {_LONGEST:,} are read")
    _look(line)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about its own syntax
            body = ast.parse(line, mode="eval").body
    except SyntaxError as error:
        _refuse(line[max(0, (error.offset or 1) - 1) :] or line, f"cannot be read here; {_EXAMPLE}")
    except (ValueError, MemoryError, RecursionError, OverflowError):
        _refuse(line, f"cannot be read; {_EXAMPLE}")
    return Where(text, _condition(body, line, _DEEPEST))


def select(records: Iterable[RunRecord], text: str | None) -> list[RunRecord]:
    """The runs that a filter means, in their order; all of them where there is no filter.

    Raises:
        UserError: it is not of the language, or asks for a name or a word that no run has.
    """
    found = list(records)
    if text is None:
        return found
    meant = where(text).check(found)
    return [record for record in found if meant(record)]


def facts(record: RunRecord) -> dict[str, object]:
    """What can be asked of a run, by name; left out is what it lacks, and what is no value of the language."""
    names = dict.fromkeys((*FACTS, *_figures(record), *record.settings))
    values = ((name, _value(name, record)) for name in names)
    return {name: value for name, value in values if _plain(value)}


# ---- reading


def _refuse(piece: str, why: str) -> NoReturn:
    raise UserError(f"--where: {piece if len(piece) <= _SHOWN else piece[: _SHOWN - 3] + '...'}: {why}")


_QUOTED = re.compile(r"""(\w*)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_ASSIGNED = re.compile(r"[\w.]*\s*(?<![=!<>:])=(?!=)\s*[\w.\[]*")
_SIGN_FOR_WORD = re.compile(r"&&?|\|\|?|!(?!=)|~")
_FOREIGN = re.compile(r"[^\w\s.,()\[\]<>=!/+-]")


def _look(line: str) -> None:
    """Refuses what Python's parser need not see: it keeps its work small, and the messages to the point."""
    for prefix, quoted in _QUOTED.findall(line):
        if prefix.lower() in ("b", "f", "r", "t", "u", "br", "rb", "fr", "rf", "tr", "rt"):
            _refuse(prefix + quoted, f"text stands in plain quotes: {quoted}")
    bare = _QUOTED.sub(lambda match: match[1] + "_" * len(match[2]), line)  # as long as the line
    if found := _ASSIGNED.search(bare):
        piece = line[slice(*found.span())].strip()
        _refuse(piece, "a single = compares nothing; write ==")
    if found := _SIGN_FOR_WORD.search(bare):
        _refuse(line[found.start() :], "write and, or, not as words")
    if found := _FOREIGN.search(bare):
        if found[0] in "\"'":
            _refuse(line[found.start() :], "the quotes are not closed")
        _refuse(line, f"nothing is written with {found[0]} here; {_LANGUAGE}")
    depth = 0
    for place, character in enumerate(bare):
        depth += (character in "([") - (character in ")]")
        if depth > _DEEPEST:
            _refuse(line[place:], f"more than {_DEEPEST} parentheses in one another")


def _condition(node: ast.expr, line: str, left: int) -> _Condition:
    if not left:
        _refuse(_piece(node, line), f"more than {_DEEPEST} conditions in one another")
    match node:
        case ast.BoolOp(op=op, values=values):
            return _Joined(isinstance(op, ast.And), tuple(_condition(value, line, left - 1) for value in values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _Not(_condition(operand, line, left - 1))
        case ast.Compare(left=first, ops=signs, comparators=others) if all(type(sign) in _SIGNS for sign in signs):
            operands = [_operand(each, line, left - 1) for each in (first, *others)]
            pairs = zip(pairwise(operands), signs, strict=True)
            found = tuple(_Comparison(one, _SIGNS[type(sign)], other) for (one, other), sign in pairs)
            return found[0] if len(found) == 1 else _Joined(True, found)
        case ast.Name() | ast.Attribute():
            flag = _operand(node, line, left)
            if isinstance(flag, _Name):
                return replace(flag, word=False)
            if isinstance(flag, _Literal) and isinstance(flag.value, bool):
                return flag
        case ast.Constant(value=bool(value)):
            return _Literal(value)
        case ast.Constant() | ast.List() | ast.Tuple():
            _refuse(_piece(node, line), f"this is a value, and no condition; {_EXAMPLE}")
    _refuse(_piece(node, line), _LANGUAGE)


def _operand(node: ast.expr, line: str, left: int) -> _Operand:
    if not left:
        _refuse(_piece(node, line), f"more than {_DEEPEST} lists in one another")
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return _Literal(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=ast.Constant(value=int() | float() as value)) if (
            not isinstance(value, bool)
        ):
            return _Literal(-value if isinstance(op, ast.USub) else value)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return _List(tuple(_operand(item, line, left - 1) for item in items))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _Literal(_CONSTANTS[name])
        case ast.Name() | ast.Attribute() if (key := _key(node)) and "__" not in key:
            return _Name(key, word=isinstance(node, ast.Name) and key not in FACTS)
        case ast.BinOp(op=ast.Div() | ast.Sub()):  # a strategy is named gradual/step, a study may be named a-b
            word = _piece(node, line)
            if re.fullmatch(r"[^\W\d]\w*(?:[/-][^\W\d]\w*)+", word):
                return _Name(word, word=True)
    _refuse(_piece(node, line), _LANGUAGE)


def _key(node: ast.expr) -> str:
    """`a.b.c` of an attribute; nothing where something else stands before a dot."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join((node.id, *reversed(parts))) if isinstance(node, ast.Name) else ""


def _piece(node: ast.expr, line: str) -> str:
    return ast.get_source_segment(line, node) or line


# ---- what runs have


@dataclass(frozen=True)
class _Runs:
    """What runs have, together: by this names and words are judged."""

    records: Sequence[RunRecord]
    _texts: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def figures(self) -> dict[str, None]:
        """Their names, those of the test set first."""
        found = {name: None for record in self.records for name in _figures(record)}
        return dict.fromkeys(sorted(found, key=lambda name: not name.startswith("test.")))

    @cached_property
    def settings(self) -> dict[str, None]:
        """Their keys."""
        return {key: None for record in self.records for key in record.settings}

    def has(self, key: str) -> bool:
        """Whether a name is known, or cannot be judged, since no run has anything of its kind."""
        if key in FACTS or key in self.figures or key in self.settings:
            return True
        split, dot, _ = key.partition(".")
        return not (self.figures if dot and split in MEASURED else self.settings)

    def require(self, key: str) -> None:
        """Refuses a name that no run has."""
        if self.has(key):
            return
        known = [*FACTS, *self.figures, *self.settings]
        same = [name for name in known if name.endswith(f".{key}")]
        near = f"; nearest: {same[0]}" if same else _near(key, known)
        _refuse(key, f"no run has this; known: {', '.join(FACTS)}, figures (test.error), settings by their keys{near}")

    def under(self, key: str) -> list[object]:
        """What is known of the runs under a name."""
        return [value for record in self.records if (value := _value(key, record)) is not _UNKNOWN]

    def texts(self, key: str) -> list[str]:
        """The texts under a name, alone or in lists."""
        if key not in self._texts:
            items = (item for value in self.under(key) for item in (value if isinstance(value, list) else [value]))
            states = STATES if key == "state" else ()
            self._texts[key] = sorted({item for item in items if isinstance(item, str)}.union(states))
        return self._texts[key]


def _figures(record: RunRecord) -> Iterator[str]:
    return (f"{split}.{figure}" for split, figures in record.figures.items() for figure in figures)


def _value(key: str, record: RunRecord) -> object:
    """What a run has under a name, unknown where it lacks it."""
    value: object
    if fact := FACTS.get(key):
        value = fact(record)
        return _UNKNOWN if value is None or value == "" else value
    value = record.figure(key)
    if value is None:
        value = record.settings.get(key, _UNKNOWN)
    return _UNKNOWN if isinstance(value, float) and math.isnan(value) else value


def _settled(node: _Condition, runs: _Runs) -> _Condition:
    match node:
        case _Not(item):
            return _Not(_settled(item, runs))
        case _Joined(every, items):
            return _Joined(every, tuple(_settled(item, runs) for item in items))
        case _Comparison(left, sign, right):
            names = [each for each in (left, right) if isinstance(each, _Name) and sign not in _ORDERS]
            names.sort(key=lambda name: name.word)  # what has a dot or is a fact can only be a name
            beside = next((name.key for name in names if runs.has(name.key)), "")
            one, other = _operand_settled(left, beside, runs), _operand_settled(right, beside, runs)
            for name, value in ((one, other), (other, one)):
                if isinstance(name, _Name) and isinstance(value, _Literal):
                    _require_kind(name.key, value.value, runs)
            return _Comparison(one, sign, other)
        case _Name(key):
            runs.require(key)
            values = runs.under(key)
            if values and not any(isinstance(value, bool) for value in values):
                _refuse(key, f"this is not true or false of a run; compare it; {_EXAMPLE}")
    return node


def _require_kind(key: str, value: object, runs: _Runs) -> None:
    """Refuses to compare with what no run has there: `rate!="0.2"` would mean every run, for a rate is a number."""
    kinds = {_kind(each) for each in runs.under(key)} - {"null"}
    if kinds and not kinds & {_kind(value), "other"} and value is not None:
        told = f'"{value}"' if isinstance(value, str) else str(value).lower()
        _refuse(told, f"this is a {_kind(value)}, {key} a {' or a '.join(sorted(kinds))}")


def _operand_settled(node: _Operand, beside: str, runs: _Runs) -> _Operand:
    """The operand with its words settled; `beside` is the name that it is compared with."""
    if isinstance(node, _List):
        return _List(tuple(_operand_settled(item, beside, runs) for item in node.items))
    if isinstance(node, _Literal):
        return node
    if node.word and beside not in ("", node.key) and node.key not in runs.settings:
        known = runs.texts(beside)
        if node.key not in known and (known or runs.under(beside)):
            listed = ", ".join(known[:_LISTED]) + ", ..." * (len(known) > _LISTED)
            said = f"; known: {listed}{_near(node.key, known)}" if known else ""
            _refuse(node.key, f"no run has this as {beside}; any text can stand in quotes{said}")
        return _Literal(node.key)
    runs.require(node.key)
    return _Name(node.key)


def _near(name: str, known: Iterable[str]) -> str:
    return nearest(name[:_SHOWN], islice((each for each in known if len(each) <= 2 * _SHOWN), _COMPARED))


# ---- deciding


def _truth(node: _Condition, record: RunRecord) -> bool | None:
    """Whether a condition holds; None where that is unknown."""
    match node:
        case _Comparison(left, sign, right):
            return _compared(_known_as(left, record), sign, _known_as(right, record))
        case _Not(item):
            return _opposite(_truth(item, record))
        case _Joined(every, items):
            truths = [_truth(item, record) for item in items]
            return _opposite(_any(map(_opposite, truths))) if every else _any(truths)
        case _Name(key):
            value = _value(key, record)
        case _Literal(value):
            pass
    return value if isinstance(value, bool) else None


def _known_as(node: _Operand, record: RunRecord) -> object:
    """What an operand stands for."""
    match node:
        case _Literal(value):
            return value
        case _List(items):
            return [_known_as(item, record) for item in items]
        case _Name(key, word):
            value = _value(key, record)
            return key if word and value is _UNKNOWN else value


def _compared(one: object, sign: str, other: object) -> bool | None:
    match sign:
        case "==":
            return _equal(one, other)
        case "!=":
            return _opposite(_equal(one, other))
        case "in":
            return _within(one, other)
        case "not in":
            return _opposite(_within(one, other))
    kind = _kind(one)
    return _ORDERS[sign](one, other) if kind == _kind(other) and kind in ("number", "text") else None


def _equal(one: object, other: object, left: int = _DEEPEST) -> bool | None:
    if one is _UNKNOWN or other is _UNKNOWN:
        return True if one is None or other is None else None
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other) or not left:
            return False
        pairs = zip(one, other, strict=True)
        return _opposite(_any(_opposite(_equal(*pair, left - 1)) for pair in pairs))
    return _kind(one) == _kind(other) != "other" and one == other  # an object of JSON equals nothing


def _within(one: object, other: object) -> bool | None:
    if isinstance(other, list):
        return _any(_equal(one, item) for item in other)
    return one in other if isinstance(one, str) and isinstance(other, str) else None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "other")


def _plain(value: object, left: int = 4) -> bool:
    """Whether a value is one of the language, finite, and a list not deeper than lists of settings are."""
    if isinstance(value, list):
        return left > 0 and all(_plain(item, left - 1) for item in value)
    return _kind(value) != "other" and not (isinstance(value, float) and not math.isfinite(value))


def _any(truths: Iterable[bool | None]) -> bool | None:
    """Or: true where one is, unknown where none is and one is unknown."""
    unknown = False
    for truth in truths:
        if truth:
            return True
        unknown |= truth is None
    return None if unknown else False


def _opposite(truth: bool | None) -> bool | None:
    return None if truth is None else not truth
