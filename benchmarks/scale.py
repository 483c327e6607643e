"""What more processes cost and bring: a ring's volume and time by bandwidth and latency, and what gloo shows here.

    python benchmarks/scale.py [--processes 2 4] [--rounds 5]

An all-reduce of V bytes over n processes moves 2 (n-1)/n V through each of them, in 2 (n-1) messages that follow each
other. At worst none of it hides behind the backward pass, at best all does but what is longer than it: both are told.
It writes benchmarks/results/scale-cpu.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from atrous.model.backbone.resnet import ResNet
from atrous.model.backbone.small import Small
from atrous.model.backbone.vgg import VGG16
from atrous.model.head import ASPP
from atrous.model.network import Network

RESULT = Path(__file__).parent / "results" / "scale-cpu.md"
LINKS = {
    "NVLink, 300 GB/s": (300e9, 5e-6),
    "InfiniBand, 25 GB/s": (25e9, 10e-6),
    "Ethernet, 1.25 GB/s": (1.25e9, 50e-6),
}
STEP = 0.25
"""Seconds of an iteration on one GPU, assumed: the table tells a trend, not a machine."""


def ring_seconds(volume: float, n: int, bandwidth: float, latency: float) -> float:
    return 2 * (n - 1) * (volume / n / bandwidth + latency)


def efficiency(step: float, reduce: float) -> tuple[float, float]:
    """(nothing hidden, all hidden behind the backward pass, which is two thirds of an iteration)"""
    return step / (step + reduce), step / (step + max(0.0, reduce - step * 2 / 3))


def networks() -> dict[str, nn.Module]:
    return {"VGG-16 LargeFOV": join(VGG16(), [12]), "ResNet-101 ASPP-L": join(ResNet(101), [6, 12, 18, 24])}


def join(backbone: Any, rates: list[int]) -> nn.Module:
    return Network(backbone, ASPP(backbone.channels[-1], 21, backbone.fc_channels, rates=rates))


# ---- measured -------------------------------------------------------------------------------------------------------
def median(work: Any, rounds: int) -> float:
    work()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def measure(rank: int, world: int, port: int, sizes: list[int], rounds: int, out: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    reduces = []
    for size in sizes:
        values = torch.zeros(size)
        reduces.append(median(lambda values=values: dist.all_reduce(values), rounds))
    torch.manual_seed(0)
    network = join(Small(), [6, 12])
    parallel = DistributedDataParallel(network) if world > 1 else network
    image = torch.randint(0, 256, (4, 3, 161, 161), dtype=torch.uint8)

    def step() -> None:
        parallel(image).square().mean().backward()

    took = median(step, rounds)
    dist.destroy_process_group()
    if rank == 0:
        out.put((reduces, took))


def here(world: int, sizes: list[int], rounds: int) -> tuple[list[float], float]:
    out = mp.get_context("spawn").SimpleQueue()
    mp.spawn(measure, (world, 29600 + world, sizes, rounds, out), nprocs=world)
    return out.get()


# ---- told -----------------------------------------------------------------------------------------------------------
def predicted(parameters: dict[str, int]) -> list[str]:
    lines = ["| network | gradients | link | GPUs | through each | all-reduce | efficiency, nothing to all hidden |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, count in parameters.items():
        volume = 4.0 * count
        for link, (bandwidth, latency) in LINKS.items():
            for n in (8, 64, 512):
                took = ring_seconds(volume, n, bandwidth, latency)
                worst, best = efficiency(STEP, took)
                through = f"{2 * (n - 1) / n * volume / 1e6:.0f} MB"
                told = f"{1e3 * took:.1f} ms | {100 * worst:.0f} to {100 * best:.0f} %"
                lines.append(f"| {name} | {volume / 1e6:.0f} MB | {link} | {n} | {through} | {told} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    parameters = {name: sum(p.numel() for p in net.parameters() if p.requires_grad) for name, net in networks().items()}
    _, alone = here(1, [1], asked.rounds)
    measured = {n: here(n, [*parameters.values()], asked.rounds) for n in asked.processes}
    # The bandwidth that the model needs for the first network on the fewest processes predicts all others.
    first, sizes = asked.processes[0], list(parameters.values())
    bandwidth = 2 * (first - 1) / first * 4 * sizes[0] / measured[first][0][0]
    lines = [
        "# What more processes cost",
        "",
        f"`python benchmarks/scale.py --processes {' '.join(map(str, asked.processes))} --rounds {asked.rounds}`; "
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores; {date.today()}. "
        f"Load of the machine when it began: {load:.1f} processes.",
        "",
        f"## Computed, for an iteration of {1e3 * STEP:.0f} ms on one GPU (assumed), the batch on each GPU constant",
        "",
        *predicted(parameters),
        "",
        "## Measured, gloo on this machine",
        "",
        f"The first row gives the model's bandwidth, {bandwidth / 1e9:.2f} GB/s; by it the others are predicted.",
        "",
        "| network | processes | all-reduce | the model says |",
        "|---|---|---|---|",
    ]
    for n, (reduces, _) in measured.items():
        for name, size, took in zip(parameters, sizes, reduces):
            told = ring_seconds(4.0 * size, n, bandwidth, 0.0)
            lines.append(f"| {name} | {n} | {1e3 * took:.0f} ms | {1e3 * told:.0f} ms |")
    lines += ["", "| small ASPP, 4 pictures of 161² on each | forward and backward | as one alone |", "|---|---|---|"]
    lines.append(f"| 1 process | {1e3 * alone:.0f} ms | 100 % |")
    for n, (_, took) in measured.items():
        lines.append(f"| {n} processes | {1e3 * took:.0f} ms | {100 * alone / took:.0f} % |")
    lines += ["", "More processes than cores share them: those rows tell of the cores, not of the network."]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
