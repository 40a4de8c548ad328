"""
Lengths of time as people type them: ``90``, ``90s``, ``15m``, ``2h``, ``30d``.
"""

from __future__ import annotations

import argparse
import re

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """The seconds; for argparse's ``type``. Raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time: say 90s, 15m, 2h or 30d")
    return float(found[1]) * _UNITS[found[2]]
