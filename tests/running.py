"""Runs as tests start them: miniature, in this process or as a user would, in another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate

from atrous.config.build import build_network
from atrous.config.error import message_of
from atrous.config.override import absences
from atrous.config.place import CONF
from atrous.datamodule import AugmentedPictures, collate
from atrous.module import SegmentationModule
from atrous.run.train import train

# Twelve iterations of a network of some thousand weights, validated after every sixth.
MINIATURE = (
    "experiment=shapes",
    "crf=null",
    "model.backbone.width=8",
    "data.size=[33,41]",
    "data.train_pictures=24",
    "data.val_pictures=10",
    "augment=null",
    "trainer.max_steps=12",
    "trainer.val_check_interval=6",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
    "total_batch=4",
    "val_batch=4",
    "workers=0",
    "checkpoint_every=4",
    "callback.pictures=null",
    "callback.charts=null",
    "logger=csv",
)


@cache
def _composed(overrides: tuple[str, ...]) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", absences(overrides))


def configure(*overrides: str) -> Any:
    """Composed once for all tests; each has a copy of its own."""
    return deepcopy(_composed(overrides))


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """Train the miniature in this process."""
    asked = {word.split("=")[0] for word in overrides}
    usual = [word for word in MINIATURE if word.split("=")[0] not in asked]
    return run_plain(*usual, *overrides, folder=folder)


def run_plain(*overrides: str, folder: Path | None = None) -> dict[str, Any]:
    cfg = configure(*overrides)
    if folder is not None:
        cfg.run_dir = str(folder)
    result = train(cfg)
    assert result is not None
    return result


def take_a_step(cfg: Any, pictures: int) -> float:
    """The loss of the first step of a run, taken without a trainer, on the first pictures of the training split."""
    dataset = instantiate(cfg.data, _convert_="all")
    network = build_network(cfg.model, len(dataset.labels)).train()
    augment = None if cfg.augment is None else instantiate(cfg.augment, _convert_="all")
    drawn = AugmentedPictures(dataset.split(dataset.train), augment)
    batch = collate([drawn[k, k] for k in range(pictures)])
    loss = instantiate(cfg.loss, _convert_="all")
    optimizer = instantiate(cfg.optim, _convert_="all")(network)
    before = [parameter.clone() for parameter in network.parameters()]
    module = SegmentationModule(network, dataset.labels.names, loss=loss)
    total = module.training_step(batch, 0)
    total.backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters()))
    return total.item()


def refusal(folder: Path, *overrides: str) -> str:
    """The message of a run that is refused: one, with exit code 2."""
    with pytest.raises((ValueError, OSError, HydraException)) as caught:
        run(folder, *overrides)
    message = message_of(caught.value)
    assert message is not None, caught.value
    assert message[1] == 2
    return message[0]


def atrous(
    *overrides: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """`atrous overrides…` in a process of its own, as a user starts it."""
    with started(*overrides, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def started(
    *overrides: str, env: dict[str, str] | None = None, module: str = "atrous", **how: Any
) -> Iterator[subprocess.Popen[str]]:
    """`atrous overrides…` while it runs. What still runs at the end is killed."""
    # W&B leaves in the environment how to reach the service of this process.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | (env or {})
    command = [sys.executable, "-m", module, *overrides]
    with subprocess.Popen(command, env=environment, text=True, **how) as process:
        try:
            yield process
        finally:
            process.kill()  # nothing, where it has ended


def living(folder: Path) -> list[str]:
    """The processes other than this one that are in the folder."""
    there = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve(strict=True) == folder.resolve() and int(process.name) != os.getpid():
                there.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended meanwhile, or is another's
            continue
    return there


def ended() -> list[str]:
    """The programs of this process's children that have come to their end, and have not been waited for."""
    names = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            names += [name] if state == "Z" and int(parent) == os.getpid() else []
    return names


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint" / f"{name}.ckpt", weights_only=True)["state_dict"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---- callbacks that make things go wrong ----------------------------------------------------------------------------
class Interrupted(RuntimeError):
    pass


class Die(L.Callback):
    """The process is gone at batch `at`: nothing is saved by that."""

    def __init__(self, at: int):
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == self.at:
            raise Interrupted


class Signal(L.Callback):
    """The process gets a signal in batch `at`."""

    def __init__(self, at: int, name: str):
        self.at, self.number = at, signal.Signals[name]

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == self.at:
            os.kill(os.getpid(), self.number)


class Mishap(L.Callback):
    """As long as no file `unless` exists, the runs of some seeds go wrong at batch `at`: one raises, one is killed."""

    def __init__(self, at: int, raises: int, killed: int, unless: str):
        self.at, self.raises, self.killed, self.unless = at, raises, killed, Path(unless)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == self.at and not self.unless.exists():
            if module.seed == self.raises:
                raise Interrupted(f"seed {self.raises} would not")
            if module.seed == self.killed:
                os.kill(os.getpid(), signal.SIGKILL)


class Witness(L.Callback):
    """<run folder>/rank<k>.txt: with which learning rate and how many companions each process trained."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        rate = trainer.optimizers[0].param_groups[0]["initial_lr"]
        Path(trainer.default_root_dir, f"rank{trainer.global_rank}.txt").write_text(f"{rate} {trainer.world_size}")


class Poison(L.Callback):
    """A weight is no number from batch `at` on."""

    def __init__(self, at: int):
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == self.at:
            next(iter(module.parameters())).data.fill_(float("nan"))


class Scramble(L.Callback):
    """The classifiers are drawn again at batch `at`, so large that a network which has learnt little predicts all
    classes."""

    def __init__(self, at: int):
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == self.at:
            rng = torch.Generator().manual_seed(0)
            for layer in module.network.classifiers():
                layer.weight.data.normal_(std=0.2, generator=rng)


SCRAMBLED = "+callback.scramble={_target_:running.Scramble,at:11}"
