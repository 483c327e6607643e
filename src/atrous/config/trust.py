"""The classes that a configuration from a file names: only the package's own are built, unless the user trusts it."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_object


def check_targets(node: Any, package: str, trust: bool) -> None:
    """Refuse to build what a file names, unless it is a class of `package`: a `_target_` can be any function."""
    for target in () if trust else targets(node):
        named = _class(target) if target.startswith(f"{package}.") else None
        if not isinstance(named, type) or not f"{named.__module__}.".startswith(f"{package}."):
            raise ValueError(
                f"the file names `{target}`, which is no class of {package}: "
                "trust=True lets it run, if you know where the file comes from"
            )


def _class(target: str) -> Any:
    try:
        return get_object(target)
    except (ImportError, ValueError):
        return None


def targets(node: Any) -> list[str]:
    """Return all `_target_`s in a tree of dictionaries and lists."""
    if isinstance(node, dict):
        inside = [target for value in node.values() for target in targets(value)]
        return inside + ([str(node["_target_"])] if "_target_" in node else [])
    return [target for value in node for target in targets(value)] if isinstance(node, list) else []
