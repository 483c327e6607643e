"""The optimizer: which parameters learn how fast."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD


def sgd(
    network: nn.Module,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    bias: float = 2.0,
    classifier: float = 10.0,
    crf: float = 1.0,
) -> SGD:
    """Make SGD over the papers' four groups, and a fifth; `bias`, `classifier` and `crf` multiply the learning rate.

    Paper: weights 1x, biases 2x without decay, the new classifier's weights 10x and its biases 20x (released solvers).
    The network states which layers are new classifiers (`network.classifiers()`), and which parameters are those of a
    CRF of its own (`network.crf_parameters()`): costs, on which decay would make the CRF forget the picture.
    """
    classifiers = {id(p) for layer in network.classifiers() for p in layer.parameters()}  # type: ignore[operator]
    costs = {id(p) for p in network.crf_parameters()}  # type: ignore[operator]
    policy = {  # name -> (multiple of the learning rate, decay)
        "weight": (1.0, weight_decay),
        "bias": (bias, 0.0),
        "classifier_weight": (classifier, weight_decay),
        "classifier_bias": (classifier * bias, 0.0),
        "crf": (crf, 0.0),
    }
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in policy}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = "bias" if name.rpartition(".")[2] == "bias" else "weight"
            kind = f"classifier_{kind}" if id(parameter) in classifiers else kind
            groups["crf" if id(parameter) in costs else kind].append(parameter)
    if not any(groups.values()):
        raise ValueError("nothing to train: every parameter of the network is frozen")
    return SGD(
        [
            {"name": name, "params": parameters, "lr": lr * policy[name][0], "weight_decay": policy[name][1]}
            for name, parameters in groups.items()
            if parameters
        ],
        lr=lr,
        momentum=momentum,
    )
