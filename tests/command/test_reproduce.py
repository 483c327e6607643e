import json

import pytest

from atrous.__main__ import main
from atrous.command.reproduce import compare, verdict


def reproduced(*words):
    try:
        return main(["reproduce", *words])
    except SystemExit as error:
        return error.code


def test_a_run_is_repeated_from_its_folder_to_the_last_pixel(copy, capsys):
    before = (copy / "result.json").read_bytes()
    assert reproduced(f"run={copy}", "trust=true") == 0
    assert "the same: every pixel is counted as it was" in capsys.readouterr().out
    found = json.loads((copy / "reproduce" / "reproduce.json").read_text())
    assert found["same"]
    assert found["configuration"]
    again = json.loads((copy / "reproduce" / "result.json").read_text())
    assert again["confusion_crf"] == json.loads(before)["confusion_crf"]
    assert (copy / "result.json").read_bytes() == before
    assert (copy / "reproduce" / "metrics.csv").exists()


def test_a_result_that_differs_is_told_in_points_with_exit_code_1(copy, tmp_path, capsys):
    path = copy / "result.json"
    result = json.loads(path.read_text())
    counts = result["confusion"]
    counts[0][0], result["scores"]["mean_iou"] = counts[0][0] + 1, result["scores"]["mean_iou"] - 0.01
    path.write_text(json.dumps(result))
    assert reproduced(f"run={copy}", "trust=true", f"out={tmp_path / 'again'}") == 1
    told = capsys.readouterr().out
    assert "NOT the same: mean IoU +1.000 points" in told
    assert json.loads((tmp_path / "again" / "reproduce.json").read_text())["same"] is False


def test_the_difference_is_after_minus_before_for_each_class():
    def result(disc, ring):
        iou = {"disc": disc, "ring": ring}
        scores = {"mean_iou": (disc + (ring or 0)) / 2, "iou": iou}
        return {"confusion": [disc], "confusion_crf": None, "config_hash": "a", "scores": scores, "scores_crf": None}

    found = compare(result(0.5, 0.25), result(0.75, None))
    assert found["iou"] == {"scores": {"disc": 25.0, "ring": None}}
    assert found["mean_iou"] == {"scores": pytest.approx(0.0)}
    assert "disc moved most, +25.000" in verdict(found)


def test_what_is_another_today_is_told_first(copy, capsys):
    path = copy / "environment.json"
    about = json.loads(path.read_text())
    about["packages"]["numpy"], about["gpus"] = "0.1", ["A card"]
    path.write_text(json.dumps(about | {"commit": "abc"}))
    (copy / "checkpoint" / "last.ckpt").unlink()
    assert reproduced(f"run={copy}", "trust=true") == 0
    told = capsys.readouterr().out
    assert "commit: abc then" in told
    assert "numpy: 0.1 then" in told
    assert "gpus: A card then, none now" in told


def test_a_class_that_conf_does_not_name_needs_trust(copy, capsys):
    assert reproduced(f"run={copy}") == 2
    assert "names running.Scramble, which nothing in conf/ does: trust=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "`run` must say which run"),
        (["run=nowhere"], "nowhere holds no config.yaml"),
        (["run={run}", "out={run}", "trust=true"], "is the run itself"),
    ],
)
def test_a_slip_of_reproduce_is_told_in_a_line(trained, words, says, capsys):
    assert reproduced(*(word.replace("{run}", str(trained)) for word in words)) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_weights_that_are_gone_are_told_in_a_line(copy, capsys):
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("weights: null", "weights: gone.pth"))
    assert reproduced(f"run={copy}", "trust=true") == 2
    told = capsys.readouterr().err
    assert "gone.pth" in told
    assert told.count("\n") == 1
