"""The fully connected CRF of both papers: pictures and probabilities in, refined probabilities out."""

from atrous.crf.dense import DenseCRF

__all__ = ["DenseCRF"]
