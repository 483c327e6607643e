"""The name of a run, made from the command line: the same command finds the same folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig

from atrous.config.schema import IRRELEVANT, IRRELEVANT_IN, SWEEP_ONLY


def run_name() -> str:
    """Return <experiment>/<other overrides>, the same for the same command, short enough for a folder's name."""
    if not HydraConfig.initialized():
        return "run"
    hydra = HydraConfig.get()
    return name_of(hydra.runtime.choices.get("experiment"), hydra.overrides.task)


def name_of(experiment: str | None, overrides: Sequence[str]) -> str:
    return f"{experiment or 'run'}/{folder_name(overrides, ('experiment',))}"


def folder_name(overrides: Sequence[str], aside: Sequence[str] = ()) -> str:
    """Join the overrides that change what is computed to the name of a folder. `aside`: keys to leave out."""
    out = {*IRRELEVANT, *SWEEP_ONLY, *aside, "seed", *(f"data.{key}" for key in IRRELEVANT_IN["data"])}
    files = {o.split("=")[0][1:]: o for o in overrides if o.startswith("+") and "={" in o}  # from `read_choices`
    typed = [o.removesuffix("=null") if o.startswith("~") else o for o in overrides]  # Hydra's sweeper: `~crf=null`
    shown = [o for o in typed if o not in files.values() and o[1:].replace("/", ".") not in files]
    shown += [f"{key}={hashlib.sha256(o.encode()).hexdigest()[:8]}" for key, o in files.items()]
    kept = sorted(o for o in shown if not {key := o.lstrip("+~").split("=")[0], key.split(".")[0]} & out)
    text = ",".join(kept).replace("/", ".") or "default"
    # Folders have short names.
    return text if len(text) <= 120 else text[:100] + "-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def choice(group: str) -> str:
    """The name of the group's file that the command chose."""
    return str(HydraConfig.get().runtime.choices.get(group)) if HydraConfig.initialized() else "run"


def tenth(iterations: int | None) -> int:
    """A tenth of a row's iterations, or of v2's usual 20,000 where the paper states none."""
    return (iterations or 20_000) // 10


def sibling(experiment: str, name: str) -> str:
    """Return the name of the run that the same command makes of another experiment."""
    return f"{experiment}/{name.partition('/')[2]}"
