"""The policy of learning: which parameter moves how fast."""

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
) -> SGD:
    """SGD over the papers' four groups; `bias` and `classifier` multiply the learning rate.

    Paper: weights 1x, biases 2x without decay, the new classifier's weights 10x and its biases 20x (released solvers).
    The network says which layers are new classifiers (`network.classifiers()`).
    """
    new = {id(p) for layer in network.classifiers() for p in layer.parameters()}  # type: ignore[operator]
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in new, name.rpartition(".")[2] == "bias"), []).append(parameter)
    if not groups:
        raise ValueError("nothing to train: every parameter of the network is frozen")
    return SGD(
        [
            {
                "name": ("classifier_" if is_new else "") + ("bias" if is_bias else "weight"),
                "params": parameters,
                "lr": lr * (classifier if is_new else 1.0) * (bias if is_bias else 1.0),
                "weight_decay": 0.0 if is_bias else weight_decay,
            }
            for (is_new, is_bias), parameters in sorted(groups.items())
        ],
        lr=lr,
        momentum=momentum,
    )
