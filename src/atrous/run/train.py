"""`atrous train`: one run, from its configuration by way of objects and a trainer to its result."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from atrous.batch import LabelSpace
from atrous.callback.checkpoint import Checkpoint, WholeFiles
from atrous.callback.guard import FiniteLoss, RanksAgree
from atrous.callback.preflight import preflight
from atrous.callback.print_result import print_result
from atrous.callback.result import Result
from atrous.config.build import build_augment, build_crf, build_dataset, build_each, build_network, precision
from atrous.config.schema import Config, TrainOnly
from atrous.datamodule import SegmentationDataModule
from atrous.inference.network_file import NetworkInfo
from atrous.logger import close
from atrous.model.crf import RecurrentCRF
from atrous.model.multiscale import MultiScaleFeatures
from atrous.model.weights import load
from atrous.module import SegmentationModule
from atrous.run.check import check_choices, check_devices, check_loss, check_processes, check_run, check_trainer
from atrous.run.folder import RunFolder

log = logging.getLogger("atrous")


def train(cfg: Config) -> dict[str, Any] | None:
    """Train, or go on training, the run that `cfg` describes, score it, and leave result.json in its folder."""
    check_choices(cfg)
    check_trainer(cfg.trainer)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    folder = RunFolder(Path(cfg.run_dir), config)
    finished = folder.finished()
    if finished is not None:
        log.info("this run is complete (resume=never trains it again); its result:\n")
        print_result(finished, folder.path)
        return finished
    folder.check_resumable()
    _quiet_libraries()

    pictures = build_dataset(cfg.data)
    torch.manual_seed(cfg.seed)
    network = build_network(cfg.model, len(pictures.labels)).to(memory_format=torch.channels_last)
    if cfg.weights is not None and not folder.resume_from:
        load_weights(cfg, network, pictures.labels)
    if cfg.train_only is not None:
        train_only(cfg.train_only, network)
    module = build_module(cfg, network, pictures.labels, config)
    folder.forget_wandb()
    trainer = build_trainer(cfg, config, folder)
    check_processes(trainer.world_size)
    preflight(trainer)
    data = build_data(cfg, pictures, trainer)
    check_run(network, pictures, data)
    check_loss(module.loss, len(pictures.labels))

    folder.open()
    log.info(opening(cfg, module, data, trainer))
    if folder.resume_from:
        log.info(f"going on from {folder.resume_from}")
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    return fit_and_test(trainer, module, data, folder)


def fit_and_test(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, folder: RunFolder
) -> dict[str, Any] | None:
    """Return the result in the first process, None in the others. However it ends, the folder is left to be taken up
    again."""
    done = False
    try:
        trainer.fit(module, datamodule=data, ckpt_path=folder.resume_from, weights_only=True)
        trainer.test(module, datamodule=data, verbose=False)
        done = True
    except Exception as error:
        if trainer.is_global_zero:
            folder.note_failure(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    finally:
        close(failed=not done)
        folder.close()
    return folder.result() if trainer.is_global_zero else None


# ---- configuration -> objects -------------------------------------------------------------------------------------
def load_weights(cfg: Config, network: Any, labels: LabelSpace) -> None:
    assert cfg.weights is not None
    if cfg.weights == "imagenet":
        log.info("weights=imagenet: torchvision's, downloaded unless they are in its cache")
    log.info(load(network, cfg.weights, names=labels.names, seed=cfg.seed))


def train_only(part: TrainOnly, network: Any) -> None:
    """Freeze all parameters but those of a part."""
    network.requires_grad_(False)
    if part is TrainOnly.classifier:
        nn.ModuleList(network.classifiers()).requires_grad_(True)
        return
    kind, description = {
        TrainOnly.msc: (MultiScaleFeatures, "the side branches of model/multiscale=features"),
        TrainOnly.crf: (RecurrentCRF, "the CRF of model/crf=recurrent"),
    }[part]
    wrapper: Any = next((module for module in network.modules() if isinstance(module, kind)), None)
    if wrapper is None:
        raise ValueError(f"`train_only={part.name}` trains {description}: choose that too")
    for parameter in wrapper.new_parameters():
        parameter.requires_grad_(True)
    if part is TrainOnly.crf:
        wrapper.network.eval()  # as it was tested: without dropout, with the statistics of its own training


def build_module(cfg: Config, network: nn.Module, labels: LabelSpace, config: dict[str, Any]) -> SegmentationModule:
    return SegmentationModule(
        network,
        labels.names,
        loss=instantiate(cfg.loss, _convert_="all"),
        optimizer=instantiate(cfg.optim, _convert_="all"),
        schedule=partial(instantiate(cfg.schedule, _convert_="all"), steps=cfg.trainer.max_steps),
        crf=build_crf(cfg.crf),
        validate_crf=bool(cfg.crf is not None and cfg.crf.get("validate")),
        seed=cfg.seed,
        about=NetworkInfo(config, labels).plain(),
    )


def build_trainer(cfg: Config, config: dict[str, Any], folder: RunFolder) -> L.Trainer:
    """`check_trainer` refuses those of its arguments that are set here."""
    check_devices(cfg.trainer)
    callbacks = [
        RanksAgree(folder.identity),
        FiniteLoss(),
        *build_each(cfg.callback),
        Checkpoint(folder.path / "checkpoint", cfg.checkpoint_every),
        Result(config, folder.digest),
    ]
    make = instantiate(cfg.trainer, precision=precision(cfg.trainer), _partial_=True, _convert_="all")
    return make(
        default_root_dir=folder.path,
        logger=build_each(cfg.logger),
        callbacks=callbacks,
        plugins=[WholeFiles()],
        max_epochs=1,  # one pass over one stream of iterations
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # what is logged, and how often, is the callbacks' business
        use_distributed_sampler=False,  # `datamodule` has exact ones
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def build_data(cfg: Config, pictures: Any, trainer: L.Trainer) -> SegmentationDataModule:
    """Divide the total batch: total_batch = devices x device_batch x accumulation."""
    total, world, device_batch = cfg.total_batch, trainer.world_size, cfg.device_batch
    if device_batch is None:
        if total % world:
            raise ValueError(f"`total_batch={total}` does not divide over {world} devices")
        device_batch = total // world
    if device_batch < 1 or total % (world * device_batch):
        raise ValueError(
            f"`total_batch={total}` is no multiple of {world} devices x `device_batch={device_batch}`: "
            f"an iteration takes devices x device_batch x accumulation pictures"
        )
    trainer.accumulate_grad_batches = total // (world * device_batch)
    trainer.val_check_interval = cfg.trainer.val_check_interval * trainer.accumulate_grad_batches  # counts batches
    return SegmentationDataModule(
        pictures,
        build_augment(cfg.augment),
        device_batch=device_batch,
        total_batch=total,
        seed=cfg.seed,
        val_batch=cfg.val_batch,
        workers=cfg.workers,
    )


# ---- messages -----------------------------------------------------------------------------------------------------
def opening(cfg: Config, module: L.LightningModule, data: SegmentationDataModule, trainer: L.Trainer) -> str:
    """Summarise what is about to be trained, on what, and where, in three lines."""
    millions = sum(p.numel() for p in module.parameters()) / 1e6
    device = torch.cuda.get_device_name() if trainer.accelerator.__class__.__name__ == "CUDAAccelerator" else "cpu"
    reason = "the device computes in bf16" if trainer.precision == "bf16-mixed" else "the device has no bf16"
    choice = f" (trainer.precision=auto: {reason})" if cfg.trainer.precision == "auto" else ""
    return "\n".join(
        [
            f"{len(data.train_split)} pictures to train on, {len(data.val_split)} to score, "
            f"{len(data.pictures.labels)} classes; {millions:.2f} M parameters",
            f"{trainer.world_size} x {device} in {trainer.precision}{choice}; {trainer.max_steps} iterations of "
            f"{data.total_batch} pictures = {trainer.world_size} device(s) x {data.device_batch} x "
            f"{trainer.accumulate_grad_batches} accumulation step(s)",
            f"run folder: {trainer.default_root_dir}",
        ]
    )


def _quiet_libraries() -> None:
    """Silence warnings of Lightning about what is meant here, or said better elsewhere."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    intended = (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*LeafSpec.*",
        ".*in eval mode.*",
        ".*`srun` command is available.*",  # on a cluster's login node, or a workstation that can submit
    )
    for message in intended:
        warnings.filterwarnings("ignore", message)
