"""argparse, with the manners of dropbench: one line an error, and the nearest known name."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from dropbench.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse prints its usage and exits."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        raise UserError(f"{self.prog.removeprefix('dropbench ')}: {message}; see {self.prog} --help")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser.parse_args`."""
        words = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        parse = self.parse_known_args if words else self.parse_known_intermixed_args  # PATH may stand after options
        values, unknown = parse(args, namespace)
        if unknown:
            word = unknown[0]
            options = [option for action in _actions(self) for option in action.option_strings if "--" in option]
            known = f"; known: {', '.join(dict.fromkeys(options))}" if word.startswith("-") else ""
            verb = self.prog.removeprefix("dropbench ")
            raise UserError(f"{verb}: unknown argument {word}{known}{nearest(word.partition('=')[0], options)}")
        return values

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            option = f"{action.option_strings[-1]}=" if action.option_strings else ""
            verb = self.prog.removeprefix("dropbench ")
            raise UserError(f"{verb} {option}{value}: known: {', '.join(known)}{nearest(str(value), known)}")


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The actions of a parser and of its subparsers."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += _actions(child)
    return found
