"""Where conf/ and sweeps/ are: inside the package where it is installed, beside src/ in a clone."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CLONE = PACKAGE.parents[1]
"""The root of the repository, if this is a clone: an installed package finds none of its files there."""


def _folder(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else CLONE / name


CONF, SWEEPS = _folder("conf"), _folder("sweeps")
