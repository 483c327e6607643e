"""Refining probabilities by the picture: the fully connected CRF of both papers, other refiners, and their contract."""

from atrous.crf.dense import DenseCRF
from atrous.crf.grid import GridCRF
from atrous.crf.refiner import Refiner
from atrous.crf.superpixel import Superpixels

__all__ = ["DenseCRF", "GridCRF", "Refiner", "Superpixels"]
