"""The fully connected CRF as the last layer of a network, trained with it (CRF-as-RNN, Zheng et al. 2015)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from atrous.crf import DenseCRF
from atrous.model.network import Network, Wrapper
from atrous.model.upsample import crop


class RecurrentCRF(Wrapper):
    """Unrolled mean field on the network's zoomed scores: the output is log-probabilities (B, C, H, W) of each pixel.

    It learns `w1` and `w2`, one for each label, and the `compatibility` of each two labels (C, C), which starts as
    Potts'. The three widths, named as in DenseCRF, stay fixed. All of a picture is one field, also the padding of a
    crop, whose label is IGNORE, but which passes messages on.
    """

    def __init__(
        self,
        network: Network | Wrapper,
        w1: float,
        sigma_alpha: float,
        sigma_beta: float,
        w2: float,
        sigma_gamma: float,
        iterations: int = 5,
        iterations_test: int = 10,
        normalization: Literal["symmetric", "after"] = "after",
    ):
        super().__init__(network)
        DenseCRF(w1, sigma_alpha, sigma_beta, w2, sigma_gamma, iterations, normalization)  # checks the values
        if iterations_test < 0:
            raise ValueError(f"`iterations_test` must not be negative (got {iterations_test})")
        self.iterations, self.iterations_test = iterations, iterations_test
        self.kernels = {
            "sigma_alpha": sigma_alpha,
            "sigma_beta": sigma_beta,
            "sigma_gamma": sigma_gamma,
            "normalization": normalization,
        }
        K = self.num_classes
        start = {
            "w1": torch.full((K,), float(w1)),
            "w2": torch.full((K,), float(w2)),
            "compatibility": 1 - torch.eye(K),
        }
        self.crf = nn.ParameterDict(start)

    def forward(self, image: Tensor) -> Tensor:
        return self.infer(image, self.network(image))

    def supervise(self, image: Tensor) -> list[Tensor]:
        """Return log-probabilities in place of the logits; then a pyramid's scales, as without a CRF.

        Paper: the loss is at the end alone. v2's scales are each supervised because only the largest logit of the
        three learns from what comes after it; that holds before a CRF too.
        """
        logits, *scales = self.network.supervise(image)
        return [self.infer(image, logits), *scales]

    def infer(self, image: Tensor, logits: Tensor) -> Tensor:
        """Infer log-probabilities (B, C, H, W) from a picture (B, 3, H, W) and the network's logits of it."""
        height, width = image.shape[-2:]
        scores = self.network.zoom(logits, (height, width))
        probs = scores.softmax(1)
        if image.is_floating_point():
            image = image.round().clamp(0, 255).byte()
        # Paper: 5 iterations in training, against vanishing gradients and for speed; 10 in the test.
        iterations = self.iterations if self.training else self.iterations_test
        crf = DenseCRF(**self.crf, **self.kernels, iterations=iterations)  # type: ignore[arg-type]
        Q = crf(image, probs.nan_to_num())
        # NaN stays NaN: the training has diverged, and the check of its loss names the pictures.
        return torch.where(probs.isnan(), probs, Q.clamp(min=torch.finfo(Q.dtype).tiny).log())

    def subsample(self, label: Tensor, logits: Tensor) -> Tensor:
        return label if logits.shape[-2:] == label.shape[-2:] else super().subsample(label, logits)

    def zoom(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop: the scores have the picture's size already."""
        return crop(logits, size)

    def new_parameters(self) -> list[nn.Parameter]:
        return self.crf_parameters()

    def crf_parameters(self) -> list[nn.Parameter]:
        return [*super().crf_parameters(), *self.crf.values()]
