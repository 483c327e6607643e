"""Loggers: metrics.csv, which every run writes, and W&B, offline without a login."""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.loggers.wandb import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from atrous.disk import read_metrics, write_whole


class MetricsCSV(Logger):
    """Write <save_dir>/metrics.csv, a row for each logged iteration; a resumed run drops rows that it writes again."""

    def __init__(self, save_dir: str):
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: list[dict[str, Any]] | None = None

    name, version = "csv", 0

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml beside the file holds the resolved configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0
        if self.rows is None:
            self.rows = [row for row in read_metrics(self.path) if row["step"] < step]
            self._rewrite()
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= values
            self._rewrite()
        else:
            self.rows.append({"step": step} | values)
            if set(self.rows[-1]) <= set(self.columns):
                with open(self.path, "a", newline="") as file:
                    csv.DictWriter(file, self.columns).writerow(self.rows[-1])
            else:
                self._rewrite()

    def _rewrite(self) -> None:
        assert self.rows is not None
        self.columns = list(dict.fromkeys(key for row in [{"step": 0}, *self.rows] for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, text.getvalue().encode())


def wandb(
    save_dir: str,
    project: str = "atrous",
    name: str | None = None,
    group: str | None = None,
    job_type: str = "train",
    tags: Sequence[str] = (),
    mode: str = "auto",
) -> WandbLogger:
    """Open a W&B run; its id is in the run folder before the first iteration, so that a resumed run continues it.

    `mode` is auto, online, offline or disabled; auto is WANDB_MODE where set, online with a login, else offline. The
    runs of a sweep are one group, given by WANDB_RUN_GROUP.
    """
    if mode not in ("auto", "online", "offline", "disabled"):
        raise ValueError(f"`logger.wandb.mode` must be auto, online, offline or disabled (got {mode!r})")
    silence_wandb()
    if mode == "auto":
        mode = default_mode()
    os.environ["WANDB_MODE"] = mode  # never empty, which W&B refuses
    logger = WandbLogger(
        save_dir=save_dir,
        project=project,
        name=name,
        group=group or os.environ.get("WANDB_RUN_GROUP") or None,
        job_type=job_type,
        tags=list(tags),
        id=_run_id(Path(save_dir)),
        resume="allow",
        log_model=False,
        mode=mode,
    )
    logger._wandb_init.pop("anonymous", None)  # W&B warns about it, and Lightning always passes it
    return logger


def close(failed: bool = False) -> None:
    """Finish the W&B run, if there is one: else the next run of this process would continue it."""
    module = sys.modules.get("wandb")
    if module is not None and module.run is not None:
        module.finish(exit_code=int(failed))


def silence_wandb() -> None:
    """Keep W&B from printing and asking; call before it is imported."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it asks for its host even offline


def default_mode() -> str:
    """Return WANDB_MODE where set, online with a login that works, else offline."""
    return os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")


def _logged_in() -> bool:
    import wandb  # half a second to import: not for a run that does not log to it

    os.environ.pop("WANDB_MODE", None)
    try:
        return bool(wandb.login(prompt=False))
    except Exception:  # a key, but no way to the server
        return False


def _run_id(folder: Path) -> str:
    path = folder / "wandb_id"
    # An agent of a W&B sweep sets the id.
    swept = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    if getattr(rank_zero_only, "rank", 0) == 0 and (swept or not path.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(swept or secrets.token_hex(4))
    return path.read_text().strip() if path.exists() else secrets.token_hex(4)
