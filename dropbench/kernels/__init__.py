"""Inner loops: differentiated by hand, or in C, where a chain of torch's operations is too slow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The kernels in C that every training on a CPU comes to; a model names those that it comes to besides.
COMMON = ("bits", "loss", "update")


def in_use(names: Iterable[str]) -> dict[str, str]:
    """Which way the inner loops of these names go on this CPU: `native`, which is C, `torch`, or `torch (why)`."""
    from dropbench.kernels import native

    for name in names:
        import_module(f"dropbench.kernels.{name}").is_native()
    return {name: said(native.choices()[name]) for name in names}


def said(choice: Mapping[str, object]) -> str:
    """A choice in words."""
    return f"{choice['chosen']} ({choice['why']})" if "why" in choice else str(choice["chosen"])
