"""`atrous sync`: send W&B the runs that were logged offline."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from atrous.logger import default_mode, silence_wandb

log = logging.getLogger("atrous")


def sync(cfg: DictConfig) -> list[Path]:
    """Send what W&B does not have yet, and return what was sent."""
    root = Path(str(cfg.runs)).expanduser()
    if not root.is_dir():
        raise ValueError(f"`runs={cfg.runs}` is no folder: runs=… says where the runs are")
    waiting = unsynced(root)
    if not waiting:
        log.info(f"nothing to send: no unsynced offline run of W&B under {root}/")
        return []
    silence_wandb()
    if default_mode() != "online":
        raise ValueError(
            f"{len(waiting)} offline runs wait under {root}/, but W&B has no login here, or WANDB_MODE forbids it: "
            "`wandb login`, without WANDB_MODE, then the same command again"
        )
    sent = [run for number, run in enumerate(waiting, 1) if send(run, f"{number}/{len(waiting)}")]
    if failed := len(waiting) - len(sent):
        raise ValueError(f"{len(sent)} runs sent, {failed} not: the same command tries those again")
    log.info(f"{len(sent)} runs sent")
    return sent


def unsynced(root: Path) -> list[Path]:
    """The folders of offline runs that were not sent, the parts of a resumed run in their order."""
    logs = [path for path in root.rglob("wandb/offline-run-*/run-*.wandb") if not is_sent(path)]
    return sorted(path.parent for path in logs)


def is_sent(log: Path) -> bool:
    """W&B leaves a mark beside what it has sent."""
    return log.with_name(f"{log.name}.synced").exists()


def send(run: Path, position: str) -> bool:
    """In a process for each run: one that W&B can't read leaves the others alone."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes", str(run)]
    env = os.environ | {
        "WANDB_DIR": str(run.parent.parent)
    }  # for its own log, or it makes a folder where it is started
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    sent = done.returncode == 0 and all(is_sent(path) for path in run.glob("run-*.wandb"))
    reason = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "W&B said nothing")
    log.info(f"{position}  {run.parent.parent}  " + ("sent" if sent else f"NOT sent: {reason.strip()}"))
    return sent
