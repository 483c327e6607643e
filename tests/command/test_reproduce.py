import json

import pytest

from atrous.__main__ import main
from atrous.command.reproduce import verdict


def reproduce(*overrides):
    try:
        return main(["reproduce", *overrides])
    except SystemExit as error:
        return error.code


def test_a_run_is_repeated_from_its_folder_to_the_last_pixel(copy, capsys):
    before = (copy / "result.json").read_bytes()
    assert reproduce(f"run={copy}", "trust=true") == 0
    assert "the same: every pixel is counted as it was" in capsys.readouterr().out
    comparison = json.loads((copy / "reproduce" / "reproduce.json").read_text())
    assert comparison["same"]
    assert comparison["configuration"]
    again = json.loads((copy / "reproduce" / "result.json").read_text())
    assert again["confusion_crf"] == json.loads(before)["confusion_crf"]
    assert (copy / "result.json").read_bytes() == before
    assert (copy / "reproduce" / "metrics.csv").exists()


def test_a_result_that_differs_is_shown_in_points_with_exit_code_1(copy, tmp_path, capsys):
    path = copy / "result.json"
    result = json.loads(path.read_text())
    counts = result["confusion"]
    counts[0][0], result["scores"]["mean_iou"] = counts[0][0] + 1, result["scores"]["mean_iou"] - 0.01
    path.write_text(json.dumps(result))
    assert reproduce(f"run={copy}", "trust=true", f"out={tmp_path / 'again'}") == 1
    output = capsys.readouterr().out
    assert "NOT the same: mean IoU +1.000 points" in output
    assert json.loads((tmp_path / "again" / "reproduce.json").read_text())["same"] is False


def test_the_verdict_names_the_class_that_moved_most():
    comparison = {"same": False, "mean_iou": {"scores": 1.0}, "iou": {"scores": {"disc": 25.0, "ring": -2.0}}}
    assert verdict(comparison).endswith("of the classes disc moved most, +25.000")


def test_what_has_changed_since_is_shown_first(copy, capsys):
    path = copy / "environment.json"
    about = json.loads(path.read_text())
    about["packages"]["numpy"], about["gpus"] = "0.1", ["A card"]
    path.write_text(json.dumps(about | {"commit": "abc"}))
    (copy / "checkpoint" / "last.ckpt").unlink()
    assert reproduce(f"run={copy}", "trust=true") == 0
    output = capsys.readouterr().out
    assert "commit: abc then" in output
    assert "numpy: 0.1 then" in output
    assert "gpus: A card then, none now" in output


def test_a_class_that_conf_does_not_name_needs_trust(copy, capsys):
    assert reproduce(f"run={copy}") == 2
    assert "names running.Scramble, which nothing in conf/ does: trust=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "`run` must say which run"),
        (["run=nowhere"], "nowhere holds no config.yaml"),
        (["run={run}", "out={run}", "trust=true"], "is the run itself"),
    ],
)
def test_a_slip_is_answered_in_one_line(trained, overrides, expected, capsys):
    assert reproduce(*(override.replace("{run}", str(trained)) for override in overrides)) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


def test_missing_weights_are_reported_in_one_line(copy, capsys):
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("weights: null", "weights: gone.pth"))
    assert reproduce(f"run={copy}", "trust=true") == 2
    message = capsys.readouterr().err
    assert "gone.pth" in message
    assert message.count("\n") == 1
