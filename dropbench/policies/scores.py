"""Scores of units from a file of the user's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.errors import UserError

if TYPE_CHECKING:
    from dropbench.spec import Site


def given(file: str, site: Site) -> list[float]:
    """The scores of the units of a site.

    Args:
        file: JSON, for each site by name a list of numbers.
        site: whose units are scored.

    Raises:
        UserError: no such file, or other content.
    """
    key = f"strategy.policies.targeted.file={file}"
    try:
        scores = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))[site.name]
        values = [float(value + 0) for value in scores]  # a text of digits is no number
        if not all(map(math.isfinite, values)):
            raise ValueError("a score must be finite")
    except OSError as error:
        raise UserError(f"{key}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{key}: allowed: a JSON mapping with a list of numbers for the site {site.name}") from error
    if len(values) != site.units:
        raise UserError(f"{key}: {len(values)} scores for {site.name}, which has {site.units} units")
    return values
