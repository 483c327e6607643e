"""The pictures on which a network fails most, overall and for each class, and what goes wrong in each."""

from __future__ import annotations

from typing import Any

import numpy as np

from atrous.batch import labels_of
from atrous.draw.worst_page import draw_card
from atrous.evaluation.evaluator import Evaluator
from atrous.metric.bootstrap import iou, mean_iou, numbers, parts

CONFUSIONS = 3
"""So many of a picture are shown."""


def choose(counts: np.ndarray, count: int, per_class: int, least: int) -> tuple[list[int], list[list[int]]]:
    """(N, 3, C) -> the pictures with the lowest mean IoU over the classes in their truth or prediction; and for each
    class those with the lowest IoU of it, of the pictures whose truth has `least` pixels of it. Worst first; of equals
    the one that comes first in the split."""
    values = iou(counts)
    overall = lowest(mean_iou(values), count)
    truth = counts[:, 1]
    by_class = [lowest(np.where(truth[:, k] >= least, values[:, k], np.nan), per_class) for k in range(counts.shape[2])]
    return overall, by_class


def lowest(values: np.ndarray, count: int) -> list[int]:
    """The places of the lowest, without those that have no value."""
    order = np.argsort(values, kind="stable")  # NaN last
    return [int(index) for index in order[:count] if np.isfinite(values[index])]


def rank(overall: list[int], by_class: list[list[int]]) -> dict[int, dict[str, int]]:
    """{picture: {"": its rank overall, "3": its rank for class 3}}, the overall worst first, each picture once."""
    ranks: dict[int, dict[str, int]] = {}
    for key, chosen in [("", overall), *((str(k), chosen) for k, chosen in enumerate(by_class))]:
        for place, index in enumerate(chosen, 1):
            ranks.setdefault(index, {})[key] = place
    return ranks


def predict(evaluator: Evaluator, index: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint8 of the network, and after the CRF, which takes the probabilities that are kept."""
    predictor = evaluator.predictor
    if predictor.crf is None:
        return labels_of(predictor.scores(image)).cpu().numpy(), None
    evaluator.probs.fill([index], predictor.probs, lambda done, total: None)
    probs = evaluator.probs[index][1].to(predictor.device)
    both = probs, predictor.refine(image, probs)
    prediction, refined = (labels_of(each).cpu().numpy() for each in both)
    return prediction, refined


def card(evaluator: Evaluator, index: int, ranks: dict[str, int], side: int) -> dict[str, Any]:
    """All that the page shows of a picture; its scores are those that were counted."""
    before, final = (evaluator.counts.confusion(crf, index) for crf in (None, evaluator.predictor.crf))
    image, label, name = evaluator.probs.split[index]
    prediction, refined = predict(evaluator, index, image)
    return {
        "name": name,
        "ranks": ranks,
        **draw_card(image, label, prediction, refined, evaluator.labels.palette, side),
        **scores(final),
        "before": None if refined is None else scores(before)["mean_iou"],
        "confusions": confusions(final),
    }


def scores(matrix: np.ndarray) -> dict[str, Any]:
    """The scores of one picture from its counts (C, C)."""
    counts = parts(matrix)
    right, truth, _ = counts.sum(1)
    values = numbers(iou(counts))
    return {
        "mean_iou": numbers([mean_iou(iou(counts))])[0],
        "pixel_accuracy": float(right / max(truth, 1)),
        "wrong": int(truth - right),
        "counted": int(truth),
        "iou": {k: value for k, value in enumerate(values) if value is not None},
        "truth": {k: int(pixels) for k, pixels in enumerate(counts[1]) if pixels},
    }


def confusions(matrix: np.ndarray) -> list[list[float]]:
    """[class in the truth, class that it was taken for, pixels, their share of the class's], most pixels first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    return [[t, p, int(wrong[t, p]), float(wrong[t, p] / matrix[t].sum())] for t, p in pairs if wrong[t, p]]
