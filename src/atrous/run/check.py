"""Check a run before any work: what can't fit is refused in a line at the start, not met hours later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import nn

from atrous.batch import IGNORE
from atrous.config.error import message_of
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


OURS = {
    "accumulate_grad_batches": "it follows from total_batch=… and device_batch=… (pictures on a device at a time)",
    "callbacks": "callback=… chooses them, +callback.mine={_target_:…} adds one",
    "check_val_every_n_epoch": "validation is counted in iterations: trainer.val_check_interval=…",
    "default_root_dir": "the run's folder is run_dir=…",
    "enable_checkpointing": "the run saves itself, every checkpoint_every=… iterations",
    "enable_model_summary": "`atrous describe` shows the network's layers",
    "enable_progress_bar": "progress is a callback: callback.progress.every=…, callback.progress=null",
    "log_every_n_steps": "callbacks decide what is logged how often: callback.progress.every=…",
    "logger": "logger=… chooses them",
    "max_epochs": "a run is counted in iterations: trainer.max_steps=…",
    "num_sanity_val_steps": "nothing is validated before the first iteration: trainer.val_check_interval=… sets when",
    "plugins": "the run writes its checkpoints with a plugin of its own",
    "use_distributed_sampler": "every picture is scored exactly once, whatever the number of devices",
}
"""Arguments of Lightning's Trainer that the run sets itself, and what to set instead."""


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse arguments of the Trainer that would be overridden in silence."""
    for name in OURS.keys() & trainer.keys():
        raise ValueError(f"`trainer.{name}={trainer[name]}` would change nothing: {OURS[name]}")


def check_choices(cfg: Config) -> None:
    """Refuse choices that exclude each other."""
    if cfg.crf is not None and cfg.model.crf is not None:
        raise ValueError(
            "`crf` and `model.crf` are both chosen, and would refine the network's probabilities twice: "
            "crf=null keeps the network's own (model/crf=recurrent), model/crf=null the other"
        )


def check_launcher(launcher: str, trainer: Mapping[str, Any], tasks: int = 1, nodes: int = 1) -> None:
    """Refuse a run whose processes the sweep's launcher can't start; `tasks`: of SLURM on each of `nodes`.

    Lightning starts the other processes of a run from the first one's command line: under a launcher that calls the run
    within a process of its own each would replay the sweep, with settings of its own.
    """
    if launcher == "local":
        return
    devices, num_nodes = count_devices(trainer["devices"]), trainer["num_nodes"]
    if launcher == "submitit_slurm":
        if (devices, num_nodes) == (tasks, nodes):
            return
        if devices is None:
            raise ValueError(
                f"`trainer.devices={trainer['devices']}` needs a number under hydra/launcher=submitit_slurm, which "
                "starts the processes itself: trainer.devices=8 hydra.launcher.tasks_per_node=8, for eight"
            )
        raise ValueError(
            f"hydra/launcher=submitit_slurm would start {tasks} processes on each of {nodes} nodes, a run wants "
            f"{devices} on each of {num_nodes}: hydra.launcher.tasks_per_node={devices} "
            f"hydra.launcher.nodes={num_nodes}"
        )
    if devices is None or devices * num_nodes > 1:
        many = "several" if devices is None else devices * num_nodes
        raise ValueError(
            f"hydra/launcher={launcher} can't train a sweep's runs on {many} processes each: "
            "hydra/launcher=local can on one machine, hydra/launcher=submitit_slurm on a cluster"
        )


def count_devices(devices: Any) -> int | None:
    """The number that `trainer.devices` asks for; None where only the machine knows it."""
    if isinstance(devices, (list, tuple)):
        return len(devices)
    number = int(devices) if str(devices).isdigit() else -1
    return number if number > 0 else None


def check_processes(world_size: int) -> None:
    """Check again within a job: its launcher's settings may differ from those of the sweep."""
    if world_size == 1 or not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    launcher = str(HydraConfig.get().runtime.choices.get("hydra/launcher"))
    started = os.environ.get("SLURM_NTASKS") if launcher == "submitit_slurm" else None
    if started != str(world_size):
        check_launcher(launcher, {"devices": world_size, "num_nodes": 1}, int(started or 1))


def check_run(network: Any, pictures: Any, data: SegmentationDataModule) -> None:
    """Refuse a network, a dataset and batches that do not fit each other."""
    if network.num_classes != len(pictures.labels):
        raise ValueError(f"the head gives {network.num_classes} classes, the dataset has {len(pictures.labels)}")
    crop, multiple, rest = getattr(data.augment, "crop", None), network.multiple, network.crop_remainder
    if crop is not None and crop % multiple != rest % multiple:
        near = max(crop - (crop - rest) % multiple, rest)
        raise ValueError(
            f"`augment.crop={crop}` must be {multiple}k+{rest}, so that labels meet logits without padding "
            f"(the network's output stride is {network.stride}): {near} or {near + multiple}"
        )
    trained = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and is_trained(m)]
    if trained and data.device_batch < 2:
        raise ValueError(
            f"{len(trained)} batch-norm layers are trained, which needs 2 pictures or more on a device at a time "
            f"(`device_batch={data.device_batch}`): a larger device_batch, or a backbone with frozen batch-norm"
        )
    data.setup("fit")
    if not len(data.val_split):
        raise ValueError(f"the split {pictures.val!r} is empty: there is nothing to score")


def is_trained(norm: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in norm.parameters())


def check_loss(loss: Any, num_classes: int) -> None:
    """Try the loss on four pixels, one of them without a label: a run would meet such a pixel sooner or later."""
    logits = torch.zeros(1, num_classes, 2, 2, requires_grad=True)
    label = torch.tensor([[[0, num_classes - 1], [0, IGNORE]]])
    try:
        value = loss(logits, label)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if message_of(error) is not None:
            raise
        raise ValueError(
            f"`loss` can't be called with logits (B, {num_classes}, h, w) and labels (B, h, w) in int64, {IGNORE} "
            f"where there is none (of torch's own losses: loss.ignore_index={IGNORE}): {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.isfinite():
        raise ValueError(f"`loss` must give one finite number, also where labels are {IGNORE} (got {value})")
