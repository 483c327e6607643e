"""The CRF's parameters: what makes two of them the same, and what they are called."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from atrous.crf.energy import Energy, energy

V1: dict[str, Any] = {"w1": 5, "sigma_alpha": 50, "sigma_beta": 10, "w2": 3, "sigma_gamma": 3, "normalization": "after"}
COSTS = torch.tensor([[0.0, 1.0], [0.5, 0.0]])
# Keys that files on disk hold.
KEY_V1 = (
    '{"w1": 5.0, "sigma_alpha": 50.0, "sigma_beta": 10.0, "w2": 3.0, "sigma_gamma": 3.0, "iterations": 10.0, '
    '"normalization": "after", "backend": "native", "compatibility": null}'
)
KEY_COSTS = (
    '{"w1": [4.0, 2.0], "sigma_alpha": 67.5, "sigma_beta": 3.0, "w2": 3.0, "sigma_gamma": 1.0, "iterations": 5.0, '
    '"normalization": "symmetric", "backend": "pydensecrf", "compatibility": [[0.0, 1.0], [0.5, 0.0]]}'
)


def test_the_energy_of_a_probability_is_its_negative_logarithm_also_of_0():
    probs = torch.tensor([1.0, 0.5, 0.0])
    expected = torch.tensor([0.0, 0.6931472, 18.420681])  # log 2, and 8 log 10 in place of infinity
    torch.testing.assert_close(energy(probs), expected)
    assert probs.tolist() == [1.0, 0.5, 0.0]


def test_a_cache_key_is_what_files_on_disk_hold():
    assert Energy(**V1).cache_key == KEY_V1
    crf = Energy(torch.tensor([4.0, 2.0]), 67.5, 3, torch.tensor(3.0), 1, 5, backend="pydensecrf", compatibility=COSTS)
    assert crf.cache_key == KEY_COSTS


@pytest.mark.parametrize(
    "same",
    [
        {"w1": 5.0, "sigma_alpha": 50.0},
        {"w1": torch.tensor(5.0)},
        {"w2": torch.tensor(3.0, requires_grad=True)},
        {"iterations": 10, "backend": "native", "compatibility": None},
        {"processes": 7},
    ],
    ids=lambda same: "-".join(same),
)
def test_the_same_computation_has_the_same_cache_key(same):
    assert Energy(**V1 | same).cache_key == KEY_V1


def test_costs_as_rows_and_as_a_tensor_have_the_same_cache_key():
    rows: Any = COSTS.tolist()
    assert Energy(**V1, compatibility=rows).cache_key == Energy(**V1, compatibility=COSTS).cache_key


def test_any_other_parameter_is_another_cache_key_but_how_many_processes_compute_it():
    other: dict[str, Any] = {field.name: 7 for field in fields(Energy)}
    other |= {"normalization": "symmetric", "backend": "pydensecrf", "compatibility": COSTS}
    crf = Energy(**V1)
    keys = {name: replace(crf, **{name: value}).cache_key for name, value in other.items()}
    assert [name for name, key in keys.items() if key == crf.cache_key] == ["processes"]
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        ({"normalization": "symmetric"}, "crf-5-50-10-3-3", "w1 5, sigma_alpha 50, sigma_beta 10, w2 3, sigma_gamma 3"),
        ({}, "crf-5-50-10-3-3-after", "w1 5, sigma_alpha 50, sigma_beta 10, w2 3, sigma_gamma 3, after"),
        (
            {"w1": 2.5, "w2": torch.tensor(1.0), "iterations": 5, "backend": "pydensecrf"},
            "crf-2.5-50-10-1-3-5_iterations-after-pydensecrf",
            "w1 2.5, sigma_alpha 50, sigma_beta 10, w2 1, sigma_gamma 3, 5 iterations, after, pydensecrf",
        ),
        (
            {"compatibility": COSTS},
            "crf-5-50-10-3-3-after-HASH",
            "w1 5, sigma_alpha 50, sigma_beta 10, w2 3, sigma_gamma 3, after",
        ),
        (
            {"w1": torch.tensor([4.0, 2.0])},
            "crf-various-50-10-3-3-after-HASH",
            "w1 various, sigma_alpha 50, sigma_beta 10, w2 3, sigma_gamma 3, after",
        ),
    ],
)
def test_a_name_and_a_text_hold_the_values_and_what_is_unusual(change, name, text):
    crf = Energy(**V1 | change)
    assert crf.text == text
    begin, hash_, _ = name.partition("HASH")
    assert crf.name.startswith(begin)
    assert len(crf.name) == len(begin) + (6 if hash_ else 0)


def test_other_costs_are_another_name():
    names = {Energy(**V1, compatibility=costs).name for costs in (None, COSTS, 2 * COSTS)}
    assert len(names) == 3
