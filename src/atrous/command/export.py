"""`atrous export`: a run's network as one complete file: safetensors, ONNX, torch.export."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from atrous.inference.export import FORMATS
from atrous.inference.export import export as write
from atrous.inference.network_file import read_network
from atrous.inference.segmenter import last_checkpoint

log = logging.getLogger("atrous")


def export(cfg: DictConfig) -> Path:
    """Write the file that `cfg` asks for; return its path."""
    if cfg.format not in FORMATS:
        raise ValueError(f"`format` must be {', '.join(FORMATS)} (got {cfg.format!r})")
    if cfg.run is None:
        raise ValueError("`run` must say whose network: the folder of a run or a checkpoint, run=runs/…/seed0")
    source = Path(cfg.run).expanduser()
    checkpoint = last_checkpoint(source) if source.is_dir() else source
    if checkpoint.suffix not in (".ckpt", ".safetensors") or not checkpoint.exists():
        raise ValueError(f"`run={source}` must be the folder of a run, a .ckpt or a .safetensors file that exists")
    network, info = read_network(checkpoint, cfg.trust)
    out = output(cfg.out, source, FORMATS[cfg.format].suffix)
    comparison = write(network, info, cfg.format, out, cfg.trust)
    log.info(f"{comparison}\n{out} ({out.stat().st_size / 2**20:.1f} MiB), from {checkpoint}")
    return out


def output(asked: str | None, source: Path, suffix: str) -> Path:
    beside = source / "network" if source.is_dir() else source
    out = beside.with_suffix(suffix) if asked is None else Path(asked).expanduser()
    if out.suffix != suffix or out == source:
        raise ValueError(f"`out={out}` must be a file of its own that ends in {suffix}")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out
