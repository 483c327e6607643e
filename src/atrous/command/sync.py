"""`atrous sync`: the W&B runs that were kept on this disk, sent to the server."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from atrous.logger import quieten, usual_mode

log = logging.getLogger("atrous")


def sync(cfg: DictConfig) -> list[Path]:
    """Sends what is not there yet, and gives what was sent."""
    root = Path(str(cfg.runs)).expanduser()
    if not root.is_dir():
        raise ValueError(f"`runs={cfg.runs}` is no folder: runs=… says where the runs are")
    waiting = unsynced(root)
    if not waiting:
        log.info(f"under {root}/ there is no offline run of W&B that is not synced")
        return []
    quieten()
    if usual_mode() != "online":
        raise ValueError(
            f"{len(waiting)} offline runs wait under {root}/, and there is no way to W&B: `wandb login`, with "
            "WANDB_MODE not set, then the same command again"
        )
    sent = [run for number, run in enumerate(waiting, 1) if send(run, f"{number}/{len(waiting)}")]
    if failed := len(waiting) - len(sent):
        raise ValueError(f"{len(sent)} runs sent, {failed} not: the same command sends those alone")
    log.info(f"{len(sent)} runs sent")
    return sent


def unsynced(root: Path) -> list[Path]:
    """The folders of offline runs, the parts of a resumed one in their order; W&B leaves a mark beside what it sent."""
    logs = [path for path in root.rglob("wandb/offline-run-*/run-*.wandb") if not marked(path)]
    return sorted(path.parent for path in logs)


def marked(log: Path) -> bool:
    return log.with_name(f"{log.name}.synced").exists()


def send(run: Path, counted: str) -> bool:
    """A process for each: one that W&B can't read leaves the others alone."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes", str(run)]
    env = os.environ | {"WANDB_DIR": str(run.parent.parent)}  # for its own log: else a folder appears where one stands
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    sent = done.returncode == 0 and all(marked(path) for path in run.glob("run-*.wandb"))
    told = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "W&B said nothing")
    log.info(f"{counted}  {run.parent.parent}  " + ("sent" if sent else f"NOT sent: {told.strip()}"))
    return sent
