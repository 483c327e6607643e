"""DeepLab v1 and v2. From Python: `network` builds an untrained network, `load` opens a trained one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from atrous.inference.segmenter import Segmenter

__version__ = "0.1.0"


def network(*overrides: str, num_classes: int = 21, config_dir: str | Path | None = None) -> nn.Module:
    """Build the network that these overrides mean on the command line, untrained.

    `network("model/backbone=vgg16", "model/head=largefov")(image)` gives logits at stride 8, (B, num_classes, h, w),
    for RGB pictures (B, 3, H, W) in 0..255. With `experiment=…` among the overrides it is that experiment's network.
    `config_dir`: a folder of choices of your own, as `--config-dir` names it.
    """
    from hydra import compose  # here and in `load`: `import atrous` imports nothing heavy

    from atrous.config.build import build_network
    from atrous.config.folders import config_dir as choices_of
    from atrous.config.override import absences, composing
    from atrous.config.suggest import problem_with

    config_name = "config" if any(text.startswith("experiment=") for text in overrides) else "describe"
    with choices_of(config_dir):
        overrides = tuple(absences(overrides, config_name))
        problem = problem_with(overrides, config_name)
        if problem:
            raise ValueError(problem)
        with composing():
            return build_network(compose(config_name, list(overrides)).model, num_classes)


def load(path: str | Path, device: str = "cpu", trust: bool = False) -> Segmenter:
    """Open the trained network of a run folder, a checkpoint or an exported file, ready to segment pictures.

    `trust`: build the network also where its classes are not this package's own, which runs their code.
    """
    from atrous.inference.segmenter import load  # as in `network`

    return load(path, device, trust)
