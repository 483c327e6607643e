"""Refining probabilities by the picture: the fully connected CRF of both papers, and the contract of any refiner."""

from atrous.crf.dense import DenseCRF
from atrous.crf.refiner import Refiner

__all__ = ["DenseCRF", "Refiner"]
