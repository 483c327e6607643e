"""The contract of everything that refines a network's probabilities by looking at the picture."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Refiner(ABC):
    """A refiner turns a picture and the probabilities of its pixels into better probabilities.

    Evaluation, tuning, prediction and the tables know no more of it than this. It promises:

    - image (B, 3, H, W) uint8 RGB of 0 … 255 and probs (B, K, H, W) floating point give (B, K, H, W) in float32 at
      least: no entry is negative, and the sum over K is 1. It works on the device of `probs` and leaves both arguments
      as they are. Derivatives are not promised.
    - Every picture is refined by itself: a batch gives what its pictures give one by one, whatever was refined before.
    - It can be pickled: worker processes get copies.
    - Two that compute the same have the same `cache_key`; two that compute different things differ in it.
    """

    @abstractmethod
    def __call__(self, image: Tensor, probs: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def cache_key(self) -> str:
        """The parameters that decide the result, as a JSON object. A key of results on disk: its form never changes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name for folders and tables, of letters, digits and `+-._`; other parameters have another name."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The parameters on one line, for people."""
