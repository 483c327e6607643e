"""The fully connected CRF: ours beside pydensecrf picture by picture, and how ours grows.

    python benchmarks/crf.py [--pictures FOLDER] [--threads 1 2] [--size 375 500] [--labels 21] [--count 10]
    python benchmarks/crf.py --cuda [--batch 16]
    python benchmarks/crf.py --grow                  # time and memory against pixels and labels, to 19 x 1024 x 2048

The pictures are cut from the JPEGs in FOLDER, or drawn: leaves over leaves, and a camera's noise. On each picture both
sides take turns and each keeps its best of --repeat, so that a busy machine favours neither. An iteration is a ninth of
the difference between 10 and 1; "lattice" is what 10 of them leave: lattices, and the ways in and out. The spatial
lattice, which ours keeps for all pictures of one size, is there from the first turn on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from atrous.crf import DenseCRF

SETTINGS = {  # as conf/crf has them
    "v1": {"w1": 5, "sigma_alpha": 50, "sigma_beta": 10, "w2": 3, "sigma_gamma": 3, "normalization": "after"},
    "v2": {"w1": 4, "sigma_alpha": 67, "sigma_beta": 3, "w2": 3, "sigma_gamma": 1, "normalization": "symmetric"},
}


def drawn(H: int, W: int, seed: int) -> Tensor:
    """(3, H, W) uint8: shaded and textured leaves, one over another, and noise."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    picture = torch.zeros(3, H, W)
    for _ in range(100):
        radius = 5 + max(H, W) / 2 * torch.rand((), generator=rng) ** 3
        at = torch.rand(2, generator=rng) * torch.tensor([H, W])
        slope = torch.randn(2, generator=rng) * 60 / max(H, W)
        texture = interpolate(torch.randn(1, 1, H // 6 + 1, W // 6 + 1, generator=rng), (H, W), mode="bilinear")[0]
        shade = slope[0] * (y - at[0]) + slope[1] * (x - at[1]) + texture * 12 * torch.rand((), generator=rng)
        leaf = (y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2
        picture = torch.where(leaf, torch.rand(3, 1, 1, generator=rng) * 220 + shade, picture)
    return (picture + 2 * torch.randn(3, H, W, generator=rng)).clamp(0, 255).byte()


def read(folder: Path | None, count: int, H: int, W: int) -> list[tuple[str, Tensor]]:
    """`count` names and pictures (1, 3, H, W)."""
    if folder is None:
        return [(f"drawn {seed}", drawn(H, W, seed)[None]) for seed in range(count)]
    from PIL import Image

    found: list[tuple[str, Tensor]] = []
    for path in sorted(folder.glob("*.jpg")):
        picture = np.array(Image.open(path).convert("RGB"))[:H, :W]
        if picture.shape[:2] == (H, W) and len(found) < count:
            found.append((path.stem, torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()))
    if len(found) < count:
        raise SystemExit(f"{folder} has {len(found)} pictures of at least {W}x{H}, not {count}: --count or --size")
    return found


def smooth(B: int, K: int, H: int, W: int) -> Tensor:
    """(B, K, H, W): probabilities as smooth as a network's."""
    logits = 3 * torch.randn(B, K, H // 32 + 2, W // 32 + 2, generator=torch.Generator().manual_seed(0))
    return interpolate(logits, (H, W), mode="bilinear", align_corners=True).softmax(1)


def best(calls: Mapping[str, Callable[..., Any]], repeat: int) -> dict[str, float]:
    """The shortest of `repeat` turns each, in ms."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(t) for name, t in times.items()}


def beside_pydensecrf(images: list[tuple[str, Tensor]], K: int, version: str, threads: int, repeat: int) -> None:
    torch.set_num_threads(threads)
    H, W = images[0][1].shape[2:]
    probs = smooth(1, K, H, W)
    crfs: dict[tuple[str, int], DenseCRF] = {}
    for backend in ("pydensecrf", "native"):
        for n in (1, 10):
            options: dict[str, Any] = SETTINGS[version] | {"backend": backend, "iterations": n}
            crfs[backend, n] = DenseCRF(**options, processes=1)
    print(f"\n{version}, {W}x{H}, {K} labels, {threads} thread(s) for ours, one for pydensecrf; ms")
    print(f"{'':14}|{'pydensecrf':^29}|{'native':^29}|{'times faster':^20}| largest")
    print(f"{'picture':14}|" + f"{'all':>9}{'lattice':>10}{'iteration':>10}|" * 2 + f"{'all':>10}{'iteration':>10}| dQ")
    rows = []
    for name, image in images:
        calls = {f"{backend} {n}": partial(crf, image, probs) for (backend, n), crf in crfs.items()}
        t = best(calls, repeat)
        row = []
        for backend in ("pydensecrf", "native"):
            iteration = (t[f"{backend} 10"] - t[f"{backend} 1"]) / 9
            row += [t[f"{backend} 10"], t[f"{backend} 10"] - 10 * iteration, iteration]
        row += [row[0] / row[3], row[2] / row[5]]
        row.append(float((crfs["native", 10](image, probs) - crfs["pydensecrf", 10](image, probs)).abs().max()))
        rows.append(row)
        _show(name, row)
    medians = [median(column) for column in zip(*rows)]
    _show("median", medians)
    worst = min(row[6] for row in rows)
    print(f"native {1000 / medians[3]:.2f} pictures/s, pydensecrf {1000 / medians[0]:.2f}; worst picture x{worst:.2f}")


def _show(name: str, row: list[float]) -> None:
    print(f"{name:14}|" + "".join(f"{x:9.0f}{y:10.0f}{z:10.1f}|" for x, y, z in (row[:3], row[3:6])), end="")
    print(f"{row[6]:10.2f}{row[7]:10.2f}| {row[8]:.0e}", flush=True)


def on_cuda(images: list[tuple[str, Tensor]], K: int, batch: int, repeat: int) -> None:
    image = torch.cat([images[i % len(images)][1] for i in range(batch)]).cuda()
    B, _, H, W = image.shape
    probs = smooth(B, K, H, W).cuda()
    print(f"\n{torch.cuda.get_device_name()}, batch {B}, {W}x{H}, {K} labels; ms a picture")
    for version, options in SETTINGS.items():

        def run(n: int, options: dict[str, Any] = options) -> None:
            DenseCRF(**options, iterations=n)(image, probs)
            torch.cuda.synchronize()

        run(10)
        torch.cuda.reset_peak_memory_stats()
        t = best({"1": partial(run, 1), "10": partial(run, 10)}, repeat)
        iteration = (t["10"] - t["1"]) / 9
        memory = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{version}: all {t['10'] / B:.2f}, lattice {(t['10'] - 10 * iteration) / B:.2f}, "
            f"iteration {iteration / B:.3f}; {1000 * B / t['10']:.0f} pictures/s, {memory:.1f} GiB"
        )


def grow(threads: int, repeat: int) -> None:
    """Time and memory a pixel and label should not depend on how many there are."""
    print(f"\nnative, v2, {threads} thread(s); each in a process of its own")
    print(f"{'W x H x K':>16} {'s':>7} {'ns a pixel and label':>21} {'GiB':>6} {'bytes a pixel and label':>24}")
    for H, W, K in (
        (256, 512, 19),
        (512, 1024, 19),
        (1024, 2048, 19),
        (512, 1024, 10),
        (512, 1024, 38),
        (512, 1024, 76),
    ):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, size = process.submit(cost, H, W, K, threads, repeat).result()
        cells, what = H * W * K, f"{W} x {H} x {K}"
        print(f"{what:>16} {seconds:7.2f} {1e9 * seconds / cells:21.1f} {size / 2**30:6.2f} {size / cells:24.0f}")


def cost(H: int, W: int, K: int, threads: int, repeat: int) -> tuple[float, float]:
    """Seconds of the best call, and the bytes that the first one adds to the process at its peak."""
    torch.set_num_threads(threads)
    crf = DenseCRF(**SETTINGS["v2"])  # type: ignore[arg-type]
    image, probs = drawn(H, W, 0)[None], smooth(1, K, H, W)
    crf(image[..., :32, :32], probs[..., :32, :32])  # what the first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is there now
    before = _status("VmRSS")
    crf(image, probs)
    peak = _status("VmHWM") - before
    return best({"": partial(crf, image, probs)}, repeat)[""] / 1000, peak


def _status(field: str) -> float:
    """Bytes, of Linux' account of this process."""
    return next(1024 * int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if field in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of JPEGs")
    parser.add_argument("--count", type=int, default=10, help="pictures")
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500], metavar=("H", "W"))
    parser.add_argument("--labels", type=int, default=21)
    parser.add_argument("--versions", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--grow", action="store_true")
    given = parser.parse_args()
    if given.grow:
        grow(given.threads[-1], given.repeat)
        return
    images = read(given.pictures, given.count, *given.size)
    if given.cuda:
        on_cuda(images, given.labels, given.batch, given.repeat)
        return
    for version in given.versions:
        for threads in given.threads:
            beside_pydensecrf(images, given.labels, version, threads, given.repeat)


if __name__ == "__main__":
    main()
