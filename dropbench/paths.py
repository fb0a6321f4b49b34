"""Where the configs lie."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from dropbench.errors import UserError
from dropbench.parts import roots


def conf_dirs(extensions: tuple[str, ...] = ()) -> list[Path]:
    """The folders with configs, in the order in which they are searched: that of dropbench first, then plug-ins'.

    A wheel carries `conf` inside the package; in a checkout, and so in an editable install, it stands beside it.

    Args:
        extensions: packages that the user names; `<package>/conf` counts where there is one.
    """
    own, *others = roots(extensions)
    package = Path(__file__).parent
    places = [package / "conf", package.parent / "conf"]
    found = [place for place in places if place.is_dir()][:1]
    if not found:
        raise UserError(f"{places[0]}: the configs of {own} are missing; install it again")
    for name in others:
        found += [folder / "conf" for folder in folders(name) if (folder / "conf").is_dir()]
    return found


def folders(package: str) -> list[Path]:
    """The folders of an importable package, found without running its code.

    Raises:
        UserError: there is no such package.
    """
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UserError(f"extensions={package}: no package of that name can be imported")
    return [Path(folder) for folder in spec.submodule_search_locations or ()]
