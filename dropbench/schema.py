"""Plain data (what YAML can say) to frozen dataclasses and back: closed, typed, checked.

Every error is one line that names the key, the value, what is allowed and the nearest known name.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from dropbench.errors import UserError, nearest
from dropbench.parts import Part, find

T = TypeVar("T")
#: What was found for the value of a key, or why it is refused: by extensions, path and text of the value.
Seen = dict[tuple[tuple[str, ...], str, str], Any]


class UnknownKeyError(UserError):
    """A key that means nothing where it stands; `key` is its path."""

    def __init__(self, line: str, key: str = "") -> None:
        super().__init__(line)
        self.key = key


def build(
    cls: Callable[..., T], data: object, path: str = "", extensions: tuple[str, ...] = (), seen: Seen | None = None
) -> T:
    """Checks `data` against the fields of the dataclass `cls` and returns an instance.

    Args:
        cls: a dataclass; the annotations of its fields say what is allowed.
        data: a mapping with string keys.
        path: of `data` in the config, for messages.
        extensions: packages that bring parts of their own.
        seen: the keys of `data` whose values were checked before, for the same `cls`; it grows. They are frozen, so
            that many instances can share them.

    Raises:
        UserError: an unknown or missing key, a wrong type, a value out of range.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{path}={data!r}: allowed is a mapping of the keys {', '.join(_hints(cls))}")
    hints = _hints(cls)
    for key in data:
        if key not in hints:
            close = nearest(str(key), hints, path)
            raise UnknownKeyError(
                f"unknown key {_join(path, str(key))}={_shown(data[key])}"
                f"{close or '; known: ' + ', '.join(_join(path, name) for name in hints)}",
                _join(path, str(key)),
            )
    values = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name in data:
            at = _join(path, item.name)
            if seen is None:
                values[item.name] = _value(hints[item.name], data[item.name], at, extensions)
            else:
                values[item.name] = _recalled(hints[item.name], data[item.name], at, extensions, seen)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise UserError(f"missing key {_join(path, item.name)}")
    try:
        return cls(**values)
    except ValueError as error:  # a rule between fields, stated by the class itself
        raise UserError(f"{path}: {error}" if path else str(error)) from error


def plain(value: object) -> Any:
    """The inverse of `build`: mappings, lists and scalars, with every key written out and the kind of every part."""
    if isinstance(value, Part):
        return {"kind": value.kind(), **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}  # type: ignore[arg-type]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


class Same:
    """A frozen object as a key that equals itself alone: cheaper than its content, and not every content can be one."""

    __slots__ = ("it",)

    def __init__(self, it: Any) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of the fields. Other annotations of the class may name what is imported for type checkers alone."""
    owner = {name: base for base in reversed(cls.__mro__) for name in vars(base).get("__annotations__", ())}
    scopes = {item.name: vars(sys.modules[owner[item.name].__module__]) for item in fields(cls)}
    return {
        item.name: eval(item.type, scopes[item.name]) if isinstance(item.type, str) else item.type  # noqa: S307 - a part's own source
        for item in fields(cls)
    }


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _recalled(hint: Any, value: object, path: str, extensions: tuple[str, ...], seen: Seen) -> Any:
    key = extensions, path, repr(value)
    if key not in seen:
        try:
            seen[key] = _value(hint, value, path, extensions)
        except UserError as error:
            seen[key] = error
    found = seen[key]
    if isinstance(found, UserError):
        raise found.with_traceback(None)
    return found


def _value(hint: Any, value: object, path: str, extensions: tuple[str, ...]) -> Any:
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *bounds = get_args(hint)
        result = _value(inner, value, path, extensions)
        for number in result if isinstance(result, tuple) else (result,):
            for bound in bounds:
                if number is not None and number not in bound:
                    raise UserError(f"{path}={_shown(value)}: out of range; allowed: {bound}")
        return result
    if origin in (Union, types.UnionType):
        return _any_of(get_args(hint), value, path, extensions)
    if origin is Literal:
        if value in get_args(hint) and not isinstance(value, bool):
            return value
        known = [str(choice) for choice in get_args(hint)]
        raise UserError(f"{path}={_shown(value)}: allowed: {', '.join(known)}{nearest(str(value), known)}")
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]  # one value stands for a list of one
        item_hint = get_args(hint)[0]
        paths = [f"{path}[{index}]" for index in range(len(items))] if items is value else [path]
        return tuple(_value(item_hint, item, at, extensions) for item, at in zip(items, paths, strict=True))
    if origin in (dict, Mapping):
        return _mapping(get_args(hint)[1], value, path, extensions)
    if isinstance(hint, type) and issubclass(hint, Part):
        return _part(hint, value, path, extensions, default=None)
    if is_dataclass(hint):
        return build(hint, value, path, extensions)  # type: ignore[arg-type]
    return _scalar(hint, value, path)


def _any_of(hints: tuple[Any, ...], value: object, path: str, extensions: tuple[str, ...]) -> Any:
    if value is None and type(None) in hints:
        return None
    allowed = []
    for hint in hints:
        if hint is type(None):
            allowed.append("null")
            continue
        try:
            return _value(hint, value, path, extensions)
        except UserError as error:
            if "out of range" in str(error):
                raise
            allowed.append(str(error).partition("allowed: ")[2].partition(";")[0])
    raise UserError(f"{path}={_shown(value)}: allowed: {' or '.join(dict.fromkeys(filter(None, allowed)))}")


def _mapping(hint: Any, value: object, path: str, extensions: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{path}={_shown(value)}: allowed: a mapping of names")
    result = {}
    for label, item in value.items():
        if item is None and hint is not Any:  # `strategy.policies.gradual=null` takes the entry out
            continue
        where = _join(path, str(label))
        if isinstance(hint, type) and issubclass(hint, Part):
            result[str(label)] = _part(hint, item, where, extensions, default=str(label))
        else:
            result[str(label)] = _value(hint, item, where, extensions)
    return result


def _part(base: type[Part], value: object, path: str, extensions: tuple[str, ...], default: str | None) -> Part:
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        what = base.__name__.lower()
        raise UserError(f"{path}={_shown(value)}: allowed: the name of a {what}, or a mapping with its kind")
    kind = value.get("kind", default)
    if not isinstance(kind, str):
        raise UnknownKeyError(f"missing key {path}.kind", path)
    cls = find(base, kind, f"{path}.kind" if "kind" in value else path, extensions)
    return build(cls, {key: item for key, item in value.items() if key != "kind"}, path, extensions)


def _scalar(hint: Any, value: object, path: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and _finite(value):
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    wanted = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
    if hint not in wanted:
        raise TypeError(f"{path}: the schema knows no rule for {hint!r}")
    raise UserError(f"{path}={_shown(value)}: allowed: {wanted[hint]}")


def _finite(value: float) -> bool:
    """Neither infinite, nor nan, nor an integer that no float can hold."""
    return abs(value) <= sys.float_info.max
