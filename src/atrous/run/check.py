"""What is checked before any work: what can't fit is told in one line, not met hours later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import nn

from atrous.config.schema import Config

if TYPE_CHECKING:  # a sweep checks its launcher without Lightning
    from atrous.datamodule import SegmentationDataModule


def check_devices(trainer: DictConfig) -> None:
    gpus = torch.cuda.device_count()
    wants_gpu = trainer.accelerator in ("gpu", "cuda")
    if wants_gpu and not gpus:
        raise ValueError(
            f"`trainer.accelerator={trainer.accelerator}`, but PyTorch sees no GPU: trainer.accelerator=cpu"
        )
    on_gpu = wants_gpu or (trainer.accelerator == "auto" and gpus)
    if on_gpu and isinstance(trainer.devices, int) and trainer.devices > gpus:
        raise ValueError(f"`trainer.devices={trainer.devices}`, but this machine has {gpus} GPU(s)")
    if trainer.devices in ("auto", -1) and not gpus and trainer.strategy != "auto":
        raise ValueError("`trainer=ddp` on CPUs needs a number of processes: trainer.devices=2")


def check_choices(cfg: Config) -> None:
    """What one choice makes of another."""
    if cfg.crf is not None and cfg.model.crf is not None:
        raise ValueError(
            "`crf` and `model.crf` are both chosen, but what the network gives has been through its own CRF already "
            "(model/crf=recurrent), and a second one would refine it twice: crf=null, or model/crf=null"
        )


def check_launcher(launcher: str, trainer: Mapping[str, Any], tasks: int = 1, nodes: int = 1) -> None:
    """Whether a sweep's launcher can start the processes of this run; `tasks`: of SLURM on each of `nodes`.

    Lightning starts the other processes of a run from the first one's command line: under a launcher that calls the run
    within a process of its own each would replay the sweep, with settings of its own.
    """
    if launcher == "local":
        return
    devices, wanted = count(trainer["devices"]), trainer["num_nodes"]
    if launcher == "submitit_slurm":
        if (devices, wanted) == (tasks, nodes):
            return
        if devices is None:
            raise ValueError(
                f"`trainer.devices={trainer['devices']}` under hydra/launcher=submitit_slurm, which starts the "
                "processes before the devices are seen: trainer.devices=8 hydra.launcher.tasks_per_node=8, for eight"
            )
        raise ValueError(
            f"hydra/launcher=submitit_slurm would start {tasks} processes on each of {nodes} nodes, a run wants "
            f"{devices} on each of {wanted}: hydra.launcher.tasks_per_node={devices} hydra.launcher.nodes={wanted}"
        )
    if devices is None or devices * wanted > 1:
        many = "several" if devices is None else devices * wanted
        raise ValueError(
            f"hydra/launcher={launcher} can't train a sweep's runs on {many} processes each: "
            "hydra/launcher=local can on one machine, hydra/launcher=submitit_slurm on a cluster"
        )


def count(devices: Any) -> int | None:
    """None: known only where they are."""
    if isinstance(devices, (list, tuple)):
        return len(devices)
    number = int(devices) if str(devices).isdigit() else -1
    return number if number > 0 else None


def check_processes(world_size: int) -> None:
    """A second look within a job, where the launcher may have been told otherwise than the sweep was."""
    if world_size == 1 or not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    launcher = str(HydraConfig.get().runtime.choices.get("hydra/launcher"))
    started = os.environ.get("SLURM_NTASKS") if launcher == "submitit_slurm" else None
    if started != str(world_size):
        check_launcher(launcher, {"devices": world_size, "num_nodes": 1}, int(started or 1))


def check_run(network: Any, pictures: Any, data: SegmentationDataModule) -> None:
    if network.num_classes != len(pictures.labels):
        raise ValueError(f"the head gives {network.num_classes} classes, the dataset has {len(pictures.labels)}")
    crop, stride, rest = getattr(data.augment, "crop", None), network.stride, network.crop_remainder
    if crop is not None and crop % stride != rest % stride:
        near = max(crop - (crop - rest) % stride, rest)
        raise ValueError(
            f"`augment.crop={crop}` must be {stride}k+{rest}, so that every {stride}th label pixel meets a logit "
            f"(the network's output stride is {stride}): {near} or {near + stride}"
        )
    trained = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and _learns(m)]
    if trained and data.device_batch < 2:
        raise ValueError(
            f"{len(trained)} batch-norm layers are trained, which needs 2 pictures or more on a device at a time "
            f"(`device_batch={data.device_batch}`): a larger device_batch, or a backbone with frozen batch-norm"
        )
    data.setup("fit")
    if not len(data.val_split):
        raise ValueError(f"the split {pictures.val!r} is empty: there is nothing to score")


def _learns(norm: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in norm.parameters())
