import pytest

from atrous.run.reproduce import compare_results


def test_the_difference_is_after_minus_before_for_each_class():
    def result(disc, ring):
        iou = {"disc": disc, "ring": ring}
        scores = {"mean_iou": (disc + (ring or 0)) / 2, "iou": iou}
        return {"confusion": [disc], "confusion_crf": None, "config_hash": "a", "scores": scores, "scores_crf": None}

    comparison = compare_results(result(0.5, 0.25), result(0.75, None))
    assert comparison["iou"] == {"scores": {"disc": 25.0, "ring": None}}
    assert comparison["mean_iou"] == {"scores": pytest.approx(0.0)}
