"""The folder of a run is its state: its configuration, its environment, its checkpoints, its result."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from lightning_utilities.core.rank_zero import rank_zero_only  # Lightning's own, without Lightning
from omegaconf import OmegaConf

from atrous.config.schema import IRRELEVANT, IRRELEVANT_IN
from atrous.digest import describe_differences, digest
from atrous.disk import write_whole

log = logging.getLogger("atrous")


class RunFolder:
    """runs/<experiment>/<overrides>/seed<k>: the same command finds the same folder, so running again resumes."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path, self.config = path, config
        self.identity = identity(config)
        self.digest = digest(self.identity)
        self.restarts = config["resume"] == "never"

    @property
    def last(self) -> Path:
        return self.path / "checkpoint" / "last.ckpt"

    @property
    def resume_from(self) -> Path | None:
        """The checkpoint from which the run goes on, if there is one."""
        return self.last if self.last.exists() and not self.restarts else None

    def finished(self) -> dict[str, Any] | None:
        """The result, if this very configuration has come to its end here before."""
        if self.restarts or not (self.path / "result.json").exists():
            return None
        result = self.result()
        return result if result["config_hash"] == self.digest else None

    def result(self) -> dict[str, Any]:
        return json.loads((self.path / "result.json").read_text())

    def changed(self) -> str:
        """Say in what the run that the folder holds differs from this one; empty where it does not."""
        if self.restarts or not (self.path / "config.yaml").exists():
            return ""
        old: Any = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"))
        return describe_differences(identity(old), self.identity)

    @rank_zero_only
    def check_resumable(self) -> None:
        """Refuse a folder that holds the run of another configuration."""
        if difference := self.changed():
            raise ValueError(
                f"{self.path} holds a run of another configuration ({difference}): "
                "resume=never trains this one in its place, run_dir=… keeps both"
            )

    @rank_zero_only
    def forget_wandb(self) -> None:
        """Before the loggers are made: a run that is restarted is another one in W&B."""
        if self.restarts:
            (self.path / "wandb_id").unlink(missing_ok=True)

    def running(self) -> bool:
        """Whether a process, of this machine or another one on the same disk, trains the run at this moment."""
        path = self.path / ".lock"
        if not path.exists():
            return False
        with open(path, "r+") as lock:
            return not try_lock(lock)

    def failure(self) -> str | None:
        """The error with which the last attempt ended, if it failed."""
        path = self.path / "failure.json"
        return json.loads(path.read_text())["error"] if path.exists() else None

    def note_failure(self, error: str) -> None:
        """Keep the error; called by the first process of a run, or by whoever started it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "failure.json", json.dumps({"error": error, "time": time.time()}).encode())

    @rank_zero_only
    def open(self) -> None:
        """Make the folder this process's own, and write down what is about to run."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / ".writable", b"")
            (self.path / ".writable").unlink()
        except OSError as error:
            raise ValueError(
                f"the run folder {self.path} cannot be made ({error.strerror}): run_dir=… takes another"
            ) from None
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 (held as long as the process lives)
        if not try_lock(self._lock):
            raise ValueError(f"another process trains the run in {self.path}: wait for it, or run_dir=… takes another")
        if self.restarts:
            for name in ("checkpoint", "pictures", "wandb", "tensorboard"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in ("metrics.csv", "result.json"):
                (self.path / name).unlink(missing_ok=True)
        (self.path / "failure.json").unlink(missing_ok=True)
        write_whole(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.config)).encode())
        about, diff = environment()
        write_whole(self.path / "environment.json", json.dumps(about, indent=2).encode())
        if diff:
            write_whole(self.path / "git.diff", diff.encode())
        self._open_log()

    @rank_zero_only
    def close(self) -> None:
        """Let another process train the run."""
        self._lock.close()

    def _open_log(self) -> None:
        file = logging.FileHandler(self.path / "run.log")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(file)
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").addHandler(file)
        logging.getLogger("lightning.pytorch").addHandler(file)


def try_lock(lock: IO[str]) -> bool:
    """Take the lock, unless another process has it. A forked process does not inherit it, and it goes with the process,
    however that ends."""
    import fcntl  # Unix only, and only who trains or watches needs it

    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that makes two runs the same run."""
    aside = (*IRRELEVANT, "device_batch")
    kept = {key: node for key, node in config.items() if key not in aside}
    for group in kept.keys() & IRRELEVANT_IN.keys():
        kept[group] = {key: value for key, value in kept[group].items() if key not in IRRELEVANT_IN[group]}
    return kept


def environment() -> tuple[dict[str, Any], str]:
    """The code, machine and packages of a run, enough to repeat it; and the uncommitted changes."""
    import torch  # for weight: a sweep asks for folders before it needs torch

    here = Path(__file__).parent

    def git(*args: str) -> str:
        try:
            return subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=20).stdout
        except (OSError, subprocess.TimeoutExpired):
            return ""

    diff = git("diff", "HEAD")
    about = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": git("rev-parse", "HEAD").strip() or None,
        "uncommitted_changes": bool(diff),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": packages(),
    }
    return about, diff


@cache
def packages() -> dict[str, str]:
    """The version of everything that is installed, by name."""
    known = [package.metadata for package in metadata.distributions()]  # each `metadata` reads and parses a file
    return {package["Name"]: package["Version"] for package in sorted(known, key=lambda meta: meta["Name"].lower())}
