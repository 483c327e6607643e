"""Write a network as one complete file, uint8 RGB in, scores at the picture's size out, and check what was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from atrous.batch import labels_of
from atrous.inference.network_file import Complete, NetworkInfo
from atrous.inference.segmenter import Segmenter, load
from atrous.model.crf import RecurrentCRF

SIZES = ((1, 97, 131), (2, 129, 129), (3, 150, 200))
"""(B, H, W) of the pictures that are compared: with and without padding, none of the size that was traced."""


class Format(NamedTuple):
    suffix: str
    save: Callable[[Complete, NetworkInfo, Path], None]
    packages: tuple[str, ...]
    """Packages of the extra that it needs."""

    def missing(self) -> list[str]:
        return [name for name in self.packages if find_spec(name) is None]


def export(network: Any, info: NetworkInfo, name: str, out: Path, trust: bool = False) -> str:
    """Write the file once it is known to compute the same as the network; return the comparison."""
    if isinstance(network, RecurrentCRF) and name != "safetensors":
        raise ValueError(
            f"`format={name}` can't hold this network: its CRF (model/crf=recurrent) builds a lattice of each "
            "picture's colours, which is no graph of fixed operations; format=safetensors holds it, for atrous.load"
        )
    if missing := FORMATS[name].missing():
        raise ValueError(
            f"format={name} needs {', '.join(missing)}: pip install {' '.join(missing)} (the extra [export])"
        )
    part = out.with_name(f".part.{out.name}")
    try:
        FORMATS[name].save(Complete(network).eval(), info, part)
        comparison = parity(Complete(network).eval(), load(part, trust=trust))
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return comparison


# ---- the formats ----------------------------------------------------------------------------------------------------
def save_safetensors(complete: Complete, info: NetworkInfo, path: Path) -> None:
    """The weights, and the configuration from which `atrous.load` builds the network around them."""
    path.write_bytes(save(complete.network.state_dict(), metadata={"atrous": info.json()}))


def save_torch_export(complete: Complete, info: NetworkInfo, path: Path) -> None:
    program = trace(complete)
    program.example_inputs = None  # they would be pickled
    torch.export.save(program, path, extra_files={"atrous.json": info.json()})


def save_onnx(complete: Complete, info: NetworkInfo, path: Path) -> None:
    program: Any = torch.onnx.export(
        trace(complete), dynamo=True, verbose=False, input_names=["image"], output_names=["scores"]
    )
    program.model.metadata_props["atrous"] = info.json()
    program.save(path)


def trace(complete: Complete) -> torch.export.ExportedProgram:
    """The network as a graph, for any number of pictures of any height and width."""
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2, 3, 97, 131, dtype=torch.uint8)
    dim = torch.export.Dim
    least = complete.least_size
    free = {0: dim("batch"), 2: dim("height", min=least), 3: dim("width", min=least)}
    try:
        return torch.export.export(complete, (example,), dynamic_shapes=(free,), strict=False)
    except (torch._dynamo.exc.UserError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"this network fits no graph with free height and width ({str(error).splitlines()[0]}): "
            "format=safetensors holds it, for atrous.load"
        ) from None


FORMATS = {
    "safetensors": Format(".safetensors", save_safetensors, ()),
    "onnx": Format(".onnx", save_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch_export": Format(".pt2", save_torch_export, ()),
}


# ---- the check ------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def parity(complete: Complete, exported: Segmenter) -> str:
    """Compare the written file with the network on pictures of noise of three sizes; refuse a difference."""
    generator = torch.Generator().manual_seed(0)
    lines, worst = [], 0.0
    for B, H, W in SIZES:
        image = torch.randint(0, 256, (B, 3, H, W), generator=generator, dtype=torch.uint8)
        expected, given = complete(image), exported.scores(image)
        difference = (expected - given).abs().max()
        worst = max(worst, float(difference / expected.abs().max().clamp(min=1e-30)))
        same = (labels_of(expected) == labels_of(given)).double().mean()
        lines.append(f"  {B} x {H} x {W}: at most {difference:.2g}, the same class at {100 * same:.2f} % of the pixels")
    largest = f"{expected.abs().max():.3g}"
    if not worst < 1e-3:
        raise FloatingPointError("\n".join(["the exported file computes something else, and is not kept:", *lines]))
    return "\n".join([f"read back and compared with the network (scores reach {largest}):", *lines])
