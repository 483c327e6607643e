"""How fast the networks are, beside torchvision's DeepLabV3 and that of segmentation_models_pytorch.

    python benchmarks/network.py [--device cuda] [--rounds 7] [--compile] [--picture 513 --crop 321 --batch 2]

All networks take turns within a round, so that what slows the machine slows all of them; printed are the medians, and
the median of the ratios within a round with its extremes. Each trains as it is meant to: ours on the logits of stride
8, the peers on the scores that they zoom to the picture. Peers that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from atrous.model.backbone.resnet import ResNet
from atrous.model.backbone.vgg import VGG16
from atrous.model.head import ASPP
from atrous.model.network import Network

CLASSES = 21
PEAK = {"NVIDIA H200": 788e12}  # bf16 matrix products per second, measured on such a card


class Candidate:
    """A network, the precision and layout that it runs in, and its two tasks."""

    def __init__(self, name: str, network: nn.Module, device: torch.device, bf16: bool, stride: int = 1):
        self.name = name
        self.format = torch.channels_last if bf16 else torch.contiguous_format
        self.network = network.to(device).to(memory_format=self.format)
        self.bf16, self.device, self.stride = bf16, device, stride
        self.optimizer = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad], lr=1e-9, momentum=0.9, weight_decay=5e-4
        )

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def logits(self, image: Tensor) -> Tensor:
        return self.network(image.contiguous(memory_format=self.format))

    def forward(self, image: Tensor, label: Tensor) -> None:
        self.network.eval()
        with torch.inference_mode(), self.autocast():
            self.logits(image)

    def step(self, image: Tensor, label: Tensor) -> None:
        self.network.train()
        with self.autocast():
            logits = self.logits(image)
        F.cross_entropy(logits.float(), label[:, :: self.stride, :: self.stride]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Normalised(nn.Module):
    """A peer with the normalisation and padding that ours does itself, so that all start from bytes of any size."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, multiple: int = 1):
        super().__init__()
        self.multiple = multiple
        self.network = network
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        x = F.pad((image - self.mean) / self.std, (0, -width % self.multiple, 0, -height % self.multiple))
        output = self.network(x)
        return (output["out"] if isinstance(output, dict) else output)[..., :height, :width]


def resnet(fused: bool, fold: bool) -> Network:
    backbone = ResNet(depth=101, fold=fold)
    return Network(backbone, ASPP(backbone.channels[-1], CLASSES, fused=fused))


def vgg() -> Network:
    backbone = VGG16()
    return Network(backbone, ASPP(backbone.channels[-1], CLASSES, backbone.fc_channels, rates=[12], pool5a=True))


def compiled(network: Network) -> Network:
    network.backbone.compile(dynamic=False)
    return network


def candidates(device: torch.device, compile_too: bool) -> list[Candidate]:
    """The rows of the table, ours first."""
    ours: list[tuple[str, Callable[[], Network], bool]] = [
        ("ResNet-101 ASPP-L, plain, fp32", lambda: resnet(fused=False, fold=False), False),
        ("ResNet-101 ASPP-L, plain, bf16", lambda: resnet(fused=False, fold=False), True),
        ("+ ASPP as one product", lambda: resnet(fused=True, fold=False), True),
        ("+ frozen norms folded", lambda: resnet(fused=True, fold=True), True),
        ("VGG-16 LargeFOV, bf16", vgg, True),
    ]
    if compile_too:
        ours.insert(4, ("+ backbone compiled", lambda: compiled(resnet(fused=True, fold=True)), True))
    rows = [Candidate(name, build(), device, bf16, stride=8) for name, build, bf16 in ours]
    if find_spec("torchvision"):
        from torchvision.models.segmentation import deeplabv3_resnet101

        peer = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=CLASSES)
        rows.append(Candidate("torchvision deeplabv3_resnet101, bf16", Normalised(peer), device, bf16=True))
    else:
        print("torchvision is not installed: left out")
    if find_spec("segmentation_models_pytorch"):
        from segmentation_models_pytorch import DeepLabV3

        peer = DeepLabV3("resnet101", encoder_weights=None, classes=CLASSES)
        rows.append(Candidate("smp DeepLabV3 resnet101, bf16", Normalised(peer, multiple=8), device, bf16=True))
    else:
        print("segmentation_models_pytorch is not installed: left out (pip install segmentation-models-pytorch)")
    return rows


def seconds(task: Callable[[Tensor, Tensor], None], image: Tensor, label: Tensor) -> float:
    """Of one call; on a GPU from an idle device to an idle device."""
    wait = torch.cuda.synchronize if image.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    task(image, label)
    wait()
    return time.perf_counter() - start


def measure(rows: list[Candidate], task: str, batch: int, size: int, rounds: int) -> list[list[float]]:
    """Seconds, for each row one number a round; a first round warms up and does not count."""
    device = rows[0].device
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    label = torch.randint(0, CLASSES, (batch, size, size), device=device)
    times = [[seconds(getattr(row, task), image, label) for row in rows] for _ in range(rounds + 1)]
    return [list(row) for row in zip(*times[1:])]


def flops(row: Candidate, size: int) -> int:
    """Of a forward pass of one picture, a multiply-add counted as 2."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        row.network.eval()
        row.logits(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=row.device))
    return counter.get_total_flops()


def report(rows: list[Candidate], task: str, times: list[list[float]]) -> None:
    peer = next((i for i, row in enumerate(rows) if row.name.startswith("torchvision")), 0)
    print(f"\n| {task} | median | best | times as fast as {rows[peer].name} (extremes) |\n|---|---|---|---|")
    for row, own in zip(rows, times):
        ratios = sorted(theirs / mine for theirs, mine in zip(times[peer], own))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {row.name} | {1e3 * statistics.median(own):.0f} ms | {1e3 * min(own):.0f} ms | {spread} |")


def claims(rows: list[Candidate], times: list[list[float]], batch: int, size: int) -> None:
    """What the project says of its training step, and what was seen here."""
    step = {row.name: own for row, own in zip(rows, times)}
    ours = step["+ frozen norms folded"]

    def ratio(name: str) -> float:
        return statistics.median(theirs / mine for theirs, mine in zip(step[name], ours))

    print()
    for name in step:
        if name.startswith("torchvision"):
            print(f"claim: 1.8 times torchvision's at the same precision; here {ratio(name):.2f}")
    if rows[0].device.type == "cpu":
        amx = "with" if torch.cpu._is_amx_tile_supported() else "without"
        print(f"claim: 4 times our own plain fp32 on a CPU with AMX; here, {amx} AMX, {ratio(rows[0].name):.2f}")
    else:
        card = torch.cuda.get_device_name()
        peak = next((speed for name, speed in PEAK.items() if card.startswith(name)), None)
        floor = 3 * batch * flops(rows[0], size) / peak if peak else None
        seen = f"{statistics.median(ours) / floor:.2f} of {1e3 * floor:.1f} ms" if floor else f"not known for {card}"
        print(f"claim: within 2 times the FLOP floor on an H200; here {seen}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--compile", action="store_true", help="add a row with the backbone compiled (slow to start)")
    parser.add_argument("--picture", type=int, default=513, help="side of the pictures of the forward pass")
    parser.add_argument("--pictures", type=int, default=16 if gpu else 1, help="pictures in a forward pass")
    parser.add_argument("--crop", type=int, default=321, help="side of the crops of the training step")
    parser.add_argument("--batch", type=int, default=10 if gpu else 2, help="crops in a training step")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {platform.machine()}, {where}, {options.rounds} rounds")
    rows = candidates(device, options.compile)
    forward = measure(rows, "forward", options.pictures, options.picture, options.rounds)
    report(rows, f"forward {options.picture}², batch {options.pictures}", forward)
    step = measure(rows, "step", options.batch, options.crop, options.rounds)
    report(rows, f"training step {options.crop}², batch {options.batch}", step)
    claims(rows, step, options.batch, options.crop)


if __name__ == "__main__":
    main()
