"""Configurations as flat settings: their differences, and a short hash as a key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def flat(config: Any, prefix: str = "") -> dict[str, str]:
    """Flatten a nested configuration to {"optim.lr": "0.001", …}."""
    if not isinstance(config, dict) or not config:
        return {prefix[:-1]: json.dumps(config)}
    return {key: value for name, node in config.items() for key, value in flat(node, f"{prefix}{name}.").items()}


def digest(config: Any) -> str:
    """Hash a configuration; equal ones have equal digests."""
    return hashlib.sha256(json.dumps(flat(config), sort_keys=True).encode()).hexdigest()[:16]


def describe_differences(there: Any, here: Any) -> str:
    """Describe the first few settings that differ; empty where none does."""
    old, new = flat(there), flat(here)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    text = ", ".join(f"{key}: {old.get(key, '-')} there, {new.get(key, '-')} here" for key in keys[:4])
    return text + (", …" if len(keys) > 4 else "")


def file_digest(path: Path) -> str | None:
    """Hash a file's content; None where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
