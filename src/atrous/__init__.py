"""DeepLab v1 and v2. From Python: `network` builds an untrained network, `load` opens a trained one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from atrous.inference.segmenter import Segmenter

__version__ = "0.1.0"


def network(*overrides: str, num_classes: int = 21) -> nn.Module:
    """Build the network that these overrides mean on the command line, untrained.

    `network("model/backbone=vgg16", "model/head=largefov")(image)` gives logits at stride 8, (B, num_classes, h, w),
    for RGB pictures (B, 3, H, W) in 0..255. With `experiment=…` among them it is that experiment's network.
    """
    from hydra import compose, initialize_config_dir

    from atrous.config.build import build_network
    from atrous.config.override import absences
    from atrous.config.place import CONF
    from atrous.config.suggest import problem_with

    config_name = "config" if any(word.startswith("experiment=") for word in overrides) else "describe"
    words = absences(overrides, config_name)
    problem = problem_with(words, config_name)
    if problem:
        raise ValueError(problem)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_network(compose(config_name, words).model, num_classes)


def load(path: str | Path, device: str = "cpu", trust: bool = False) -> Segmenter:
    """The trained network of a run folder, a checkpoint or an exported file, ready to segment pictures.

    `trust`: build the network also where its classes are not this package's own, which runs their code.
    """
    from atrous.inference.segmenter import load

    return load(path, device, trust)
