"""A configuration as a flat list of settings, what two of them do not share, and a short name for all of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def flat(config: Any, prefix: str = "") -> dict[str, str]:
    """A nested configuration as {"optim.lr": "0.001", …}."""
    if not isinstance(config, dict) or not config:
        return {prefix[:-1]: json.dumps(config)}
    return {key: value for name, node in config.items() for key, value in flat(node, f"{prefix}{name}.").items()}


def digest(config: Any) -> str:
    return hashlib.sha256(json.dumps(flat(config), sort_keys=True).encode()).hexdigest()[:16]


def differing(there: Any, here: Any) -> str:
    """The first few settings that differ, in words; empty where none does."""
    old, new = flat(there), flat(here)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    told = ", ".join(f"{key}: {old.get(key, '-')} there, {new.get(key, '-')} here" for key in keys[:4])
    return told + (", …" if len(keys) > 4 else "")


def of_file(path: Path) -> str | None:
    """A short name for what it holds; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
