"""Keep a network's probabilities on disk: one float16 file a picture, computed once."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from atrous.batch import Sample, check_finite, name_of
from atrous.disk import make_folder, write_whole


@dataclass(frozen=True)
class Probabilities:
    """The probabilities of one split's pictures by one network, (classes, H, W) for each label (H, W), in `folder`."""

    split: Sequence[Sample]
    folder: Path
    classes: int
    names: dict[int, str] = field(default_factory=dict)  # those that were asked for

    def name(self, index: int) -> str:
        if index not in self.names:
            self.names[index] = name_of(self.split, index)
        return self.names[index]

    def path(self, index: int) -> Path:
        return self.folder / f"{quote(self.name(index), safe=' ')}.npy"

    def missing(self, indices: Iterable[int]) -> list[int]:
        return [index for index in indices if not self.path(index).exists()]

    def __getitem__(self, index: int) -> tuple[Sample, Tensor]:
        """A sample and its probabilities (C, H, W) float32."""
        sample, path = self.split[index], self.path(index)
        expected = (self.classes, *sample.label.shape)
        try:
            probs = np.load(path)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} can't be read ({error}): delete it, and it is made again") from None
        if probs.shape != expected:
            raise ValueError(f"{path} holds {probs.shape}, its label wants {expected}: delete it, and it is made again")
        return sample, torch.from_numpy(probs).float()

    def fill(
        self, indices: Sequence[int], network: Callable[[np.ndarray], Tensor], report: Callable[[int, int], None]
    ) -> None:
        """Compute what is missing. `network`: (H, W, 3) uint8 RGB -> probabilities (C, H, W)."""
        missing = self.missing(indices)
        if not missing:
            return
        make_folder(self.folder, "run")
        height, width = self.split[missing[0]].label.shape
        self._check_room(len(missing) * 2 * self.classes * height * width)
        for done, index in enumerate(missing):
            report(done, len(missing))
            probs = network(self.split[index].image)
            check_finite(probs, f"the picture {self.name(index)}")
            write_whole(self.path(index), npy(half(probs).cpu().numpy()), durable=False)

    def _check_room(self, need: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise ValueError(
                f"the probabilities need about {need / 1e6:,.0f} MB in {self.folder}, where {free / 1e6:,.0f} MB are "
                "free: free some space, or take fewer pictures"
            )


def half(probs: Tensor) -> Tensor:
    """(C, H, W) in float16, where each pixel's likeliest class is still its only likeliest."""
    first = probs.max(0, keepdim=True).indices
    rounded = probs.half()
    winner = rounded.gather(0, first)
    second = rounded.scatter(0, first, 0).amax(0, keepdim=True)
    above = (second.view(torch.int16) + 1).view(torch.half)  # the next float16
    return rounded.scatter(0, first, torch.where(winner > second, winner, above))


def npy(array: np.ndarray) -> memoryview:
    """The content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getbuffer()
