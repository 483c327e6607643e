import pytest
from running import configure

from atrous.config.build import build_network
from atrous.optim import sgd


def network(*overrides):
    return build_network(configure("experiment=shapes", *overrides).model, num_classes=5)


def test_the_four_groups_are_the_papers():
    """Released solvers: weights 1x, biases 2x without decay, the new classifier's weights 10x, its biases 20x."""
    groups = {group["name"]: group for group in sgd(network("model.backbone.width=8"), lr=1e-3).param_groups}
    assert {name: (round(g["lr"], 12), g["weight_decay"]) for name, g in groups.items()} == {
        "weight": (1e-3, 5e-4),
        "bias": (2e-3, 0.0),
        "classifier_weight": (1e-2, 5e-4),
        "classifier_bias": (2e-2, 0.0),
    }
    assert all(group["momentum"] == 0.9 for group in groups.values())


def test_each_trained_parameter_is_in_exactly_one_group():
    net = network("model.backbone.width=8")
    next(net.parameters()).requires_grad_(False)
    grouped = [id(p) for group in sgd(net, lr=1.0).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    assert len(grouped) == len(list(net.parameters())) - 1


def test_a_frozen_network_has_nothing_to_train():
    net = network("model.backbone.width=8").requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        sgd(net, lr=1.0)
