"""`atrous export`: a run's network as one complete file, uint8 RGB in, scores at the picture's size out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from atrous.inference.segmenter import About, Complete, Segmenter, last_checkpoint, load, read_network
from atrous.model.crf import RecurrentCRF

log = logging.getLogger("atrous")

SIZES = ((1, 97, 131), (2, 129, 129), (3, 150, 200))
"""Of the pictures of the check, (B, H, W): with and without padding, none of the size that was traced."""


def export(cfg: DictConfig) -> Path:
    """Writes the file that `cfg` asks for, once it is known to compute what the network computes."""
    if cfg.format not in FORMATS:
        raise ValueError(f"`format` must be {', '.join(FORMATS)} (got {cfg.format!r})")
    if cfg.run is None:
        raise ValueError("`run` must say whose network: the folder of a run or a checkpoint, run=runs/…/seed0")
    suffix, save, packages = FORMATS[cfg.format]
    source = Path(cfg.run).expanduser()
    checkpoint = last_checkpoint(source) if source.is_dir() else source
    if checkpoint.suffix not in (".ckpt", ".safetensors") or not checkpoint.exists():
        raise ValueError(f"`run={source}` must be the folder of a run, a .ckpt or a .safetensors file that exists")
    network, about = read_network(checkpoint, cfg.trust)
    if isinstance(network, RecurrentCRF) and cfg.format != "safetensors":
        raise ValueError(
            f"`format={cfg.format}` can't hold this network: its CRF (model/crf=recurrent) builds a lattice of each "
            "picture's colours, which is no graph of fixed operations; format=safetensors holds it, for atrous.load"
        )
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"format={cfg.format} needs {', '.join(missing)}: pip install {' '.join(missing)} (the extra [export])"
        )
    out = output(cfg.out, source, suffix)
    part = out.with_name(f".part.{out.name}")
    try:
        save(Complete(network).eval(), about, part)
        report = parity(Complete(network).eval(), load(part, trust=cfg.trust))
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    log.info(f"{report}\n{out} ({out.stat().st_size / 2**20:.1f} MiB), from {checkpoint}")
    return out


def output(asked: str | None, source: Path, suffix: str) -> Path:
    beside = source / "network" if source.is_dir() else source
    out = beside.with_suffix(suffix) if asked is None else Path(asked).expanduser()
    if out.suffix != suffix or out == source:
        raise ValueError(f"`out={out}` must be a file of its own that ends in {suffix}")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


# ---- the formats ----------------------------------------------------------------------------------------------------
def save_safetensors(complete: Complete, about: About, path: Path) -> None:
    """The weights, and the configuration from which `atrous.load` builds the network around them."""
    from safetensors.torch import save

    path.write_bytes(save(complete.network.state_dict(), metadata={"atrous": about.json()}))


def save_torch_export(complete: Complete, about: About, path: Path) -> None:
    program = trace(complete)
    program.example_inputs = None  # they would be pickled
    torch.export.save(program, path, extra_files={"atrous.json": about.json()})


def save_onnx(complete: Complete, about: About, path: Path) -> None:
    program: Any = torch.onnx.export(
        trace(complete), dynamo=True, verbose=False, input_names=["image"], output_names=["scores"]
    )
    program.model.metadata_props["atrous"] = about.json()
    program.save(path)


def trace(complete: nn.Module) -> torch.export.ExportedProgram:
    """The network as a graph, for any number of pictures of any height and width."""
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2, 3, 97, 131, dtype=torch.uint8)
    dim = torch.export.Dim
    free = {0: dim("batch"), 2: dim("height", min=8), 3: dim("width", min=8)}
    return torch.export.export(complete, (example,), dynamic_shapes=(free,), strict=False)


Save = Callable[[Complete, About, Path], None]
FORMATS: dict[str, tuple[str, Save, tuple[str, ...]]] = {
    "safetensors": (".safetensors", save_safetensors, ()),
    "onnx": (".onnx", save_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch_export": (".pt2", save_torch_export, ()),
}


# ---- the check ------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def parity(complete: Complete, exported: Segmenter) -> str:
    """What the written file computes against what the network computes, on pictures of noise of three sizes."""
    generator = torch.Generator().manual_seed(0)
    told, worst = [], 0.0
    for B, H, W in SIZES:
        image = torch.randint(0, 256, (B, 3, H, W), generator=generator, dtype=torch.uint8)
        ours, theirs = complete(image), exported.scores(image)
        difference = (ours - theirs).abs().max()
        worst = max(worst, float(difference / ours.abs().max().clamp(min=1e-30)))
        same = (ours.argmax(1) == theirs.argmax(1)).double().mean()
        told.append(f"  {B} x {H} x {W}: at most {difference:.2g}, the same class at {100 * same:.2f} % of the pixels")
    largest = f"{ours.abs().max():.3g}"
    if not worst < 1e-3:
        raise FloatingPointError("\n".join(["the exported file computes something else, and is not kept:", *told]))
    return "\n".join([f"read back and compared with the network (scores reach {largest}):", *told])
