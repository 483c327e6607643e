import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from running import SCRAMBLED, atrous, run

from atrous.__main__ import main
from atrous.batch import LabelSpace
from atrous.command.compare import compare
from atrous.command.evaluate import evaluate
from atrous.config.override import absences
from atrous.config.place import CONF
from atrous.evaluation.compare import pair_pictures
from atrous.evaluation.evaluator import open_evaluator
from atrous.metric.confusion import Scores


def configured(verb, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, absences(["workers=1", *overrides]))


def compared(a, b, *overrides):
    named = [f"a='{a}'", *([f"b='{b}'"] if b else [])]
    return compare(configured("compare", *named, "resamples=200", *overrides))


def evaluated(folder, *overrides):
    result = evaluate(configured("evaluate", f"run='{folder}'", "charts=false", *overrides))
    assert result is not None
    return result


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another run on the same pictures, that learnt for longer before its classifiers were drawn again."""
    folder = tmp_path_factory.mktemp("other") / "longer"
    run(folder, "trainer.max_steps=18", "seed=1", SCRAMBLED)
    return folder


@pytest.fixture
def longer(other, tmp_path):
    return shutil.copytree(other, tmp_path / "longer")


def test_the_scores_are_those_that_evaluate_finds(copy, longer):
    result = compared(copy, longer)
    for key, folder in (("a", copy), ("b", longer)):
        scores = evaluated(folder)["scores"]
        assert result["mean_iou"][key] == pytest.approx(scores["mean_iou"], abs=1e-12)
        assert {name: row[key] for name, row in result["classes"].items()} == pytest.approx(scores["iou"], abs=1e-12)
    difference = result["mean_iou"]["b"] - result["mean_iou"]["a"]
    assert result["mean_iou"]["difference"] == difference != 0
    assert result["mean_iou"]["low"] <= difference <= result["mean_iou"]["high"]


def test_the_pictures_changes_are_of_their_own_mean_iou(copy, longer):
    result = compared(copy, longer)["pictures"]
    trials = [open_evaluator(configured("evaluate", f"run='{folder}'")) for folder in (copy, longer)]
    changes = {}
    for index in range(10):
        a, b = (Scores.of(evaluator.counts.confusion(None, index)).mean_iou for evaluator in trials)
        changes[trials[0].name(index)] = b - a
    assert result["change"] == pytest.approx(changes, abs=1e-12)
    signs = [np.sign(value) for value in changes.values()]
    assert [result[key] for key in ("better", "worse", "same", "void")] == [*map(signs.count, (1, -1, 0)), 0]


def test_turned_round_the_difference_is_its_negative(copy, longer):
    one, other = compared(copy, longer)["mean_iou"], compared(longer, copy)["mean_iou"]
    assert one["difference"] == -other["difference"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), abs=1e-15)


def test_a_run_is_no_better_than_its_copy(copy, tmp_path, capsys):
    shutil.copytree(copy, tmp_path / "twin")
    assert main(["compare", f"a={copy}", f"b={tmp_path / 'twin'}", "resamples=100"]) == 0
    output = capsys.readouterr().out
    assert (
        "these pictures can't tell: b minus a is +0.00 points, and the 95 % interval +0.00 to +0.00 holds 0" in output
    )
    assert "b is ahead in 0.0 % of 100 draws of 10 pictures" in output
    assert "0 pictures are better, 0 worse, 10 the same" in output
    assert "no picture changed" in output


def test_a_run_can_be_compared_with_itself_after_a_crf(copy):
    result = compared(copy, None, "crf=shapes")
    scores = evaluated(copy, "crf=shapes")
    assert result["mean_iou"]["a"] == pytest.approx(scores["scores"]["mean_iou"], abs=1e-12)
    assert result["mean_iou"]["b"] == pytest.approx(scores["scores_crf"]["mean_iou"], abs=1e-12)
    assert [result[side]["protocol"]["crf"] is None for side in "ab"] == [True, False]
    assert (copy / "compare" / "network" / "val-crf-10-20-10-3-1" / "compare.json").exists()


def test_with_a_crf_both_runs_are_compared_after_it(copy, longer):
    result = compared(copy, longer, "crf=shapes")
    for key, folder in (("a", copy), ("b", longer)):
        scores = evaluated(folder, "crf=shapes")["scores_crf"]
        assert result["mean_iou"][key] == pytest.approx(scores["mean_iou"], abs=1e-12)
        assert result[key]["protocol"]["crf"]["w1"] == 10


def test_what_was_evaluated_is_not_counted_again(copy, longer):
    for folder in (copy, longer):
        evaluated(folder)
    kept = [path for folder in (copy, longer) for path in folder.glob("trial/*/counts.jsonl")]
    before = [path.read_bytes() for path in kept]
    assert len(kept) == 2
    compared(copy, longer)
    assert [path.read_bytes() for path in kept] == before


def test_compare_as_a_user_types_it(copy, longer):
    done = atrous("compare", f"a={copy}", f"b={longer}", "seed=3")
    assert done.returncode == 0, done.stderr
    folder = longer / "compare" / "run" / "val"
    result = json.loads((folder / "compare.json").read_text())
    assert done.stdout.rstrip().splitlines()[-2] == f"{folder}/"
    assert result["verdict"] in done.stdout
    assert f"a = run: {copy}" in done.stdout
    assert "an interval over pictures says nothing about another seed of training" in done.stdout
    assert "of 10 pictures an interval is a guess itself" in done.stdout
    assert result["bootstrap"] == {"over": "pictures", "resamples": 10000, "seed": 3, "interval": 0.95}
    assert result["b"]["protocol"]["pictures"] == 10
    with Image.open(folder / "compare.png") as picture:
        assert min(picture.size) > 400


def test_runs_on_other_pictures_are_not_compared(copy, longer, tmp_path, capsys):
    overrides = ["compare", f"a={copy}"]
    one = tmp_path / "more"
    run(one, "data.val_pictures=12", "trainer.max_steps=6", "crf=null")
    assert main([*overrides, f"b={one}"]) == 2
    assert "val/000010 is one of 2 in one split alone" in capsys.readouterr().err
    another = tmp_path / "larger"  # pictures of the same names, and yet not the same
    run(another, "data.size=[41,33]", "trainer.max_steps=6", "crf=null")
    assert main([*overrides, f"b={another}"]) == 2
    assert "scored by other labels, of val/000000 and 9 more" in capsys.readouterr().err
    assert main([*overrides, f"b={another}", "data=shapes", "data.size=[33,41]", "data.val_pictures=5", "seed=2"]) == 0


def test_runs_of_other_classes_are_not_compared(copy, longer, capsys):
    path = longer / "checkpoint" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    rename(saved)
    torch.save(saved, path)
    assert main(["compare", f"a={copy}", f"b={longer}"]) == 2
    assert f"class 7 of {longer} is 'other', that of the dataset is 'moon'" in capsys.readouterr().err


def test_runs_on_datasets_of_other_classes_each_its_own_are_not_compared():
    def evaluator(*names: str) -> Any:
        return SimpleNamespace(labels=LabelSpace(names, np.arange(3 * len(names)).reshape(-1, 3)))

    with pytest.raises(ValueError, match=r"the runs know other classes \(as disc / ring\)"):
        pair_pictures(evaluator("ground", "disc"), evaluator("ground", "ring"))
    with pytest.raises(ValueError, match=r"the runs know other classes \(2 and 3\)"):
        pair_pictures(evaluator("ground", "disc"), evaluator("ground", "disc", "ring"))


def rename(saved):
    """Another name for a class, wherever the checkpoint keeps the list of them."""
    for key, value in saved.items():
        if key == "names":
            saved[key] = [*value[:-1], "other"]
        elif isinstance(value, dict):
            rename(value)


def test_a_run_can_be_compared_with_weights_from_elsewhere(copy, tmp_path, capsys):
    weights = torch.load(copy / "checkpoint" / "last.ckpt", weights_only=True)["state_dict"]
    torch.save({name.removeprefix("network."): tensor for name, tensor in weights.items()}, tmp_path / "foreign.pth")
    network = ["like=shapes", "model/backbone=small", "model.backbone.width=8"]
    data = ["data=shapes", "data.size=[33,41]", "data.val_pictures=10"]
    overrides = ["compare", f"a={copy}", f"b={tmp_path / 'foreign.pth'}", *network, *data]
    assert main(overrides) == 0
    (path,) = tmp_path.glob("foreign/compare/run/shapes-*-val/compare.json")
    result = json.loads(path.read_text())
    assert result["mean_iou"]["difference"] == pytest.approx(
        0, abs=0.02
    )  # the foreign one is computed in another precision
    assert main(["compare", f"a={copy}", f"b={copy}", *network, *data]) == 2
    assert "says itself which network it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "`a` and `b` must say which runs"),
        (["a={run}"], "`b` must say what to compare with"),
        (["a={run}", "b=nowhere"], "there is no nowhere"),
        (["a={run}", "b={run}", "run={run}"], "there is no `run`"),
        (["a={run}", "b={run}", "resamples=10"], "`resamples` must be 100 to 100,000 (got 10)"),
        (["a={run}", "b={run}", "resamples=null"], "`resamples` must be 100 to 100,000 (got null)"),
        (["a={run}", "b={run}", "seed=-1"], "`seed` must be at least 0 (got -1)"),
        (["a={run}", "b={run}", "seed=null"], "`seed` must be at least 0 (got null)"),
        (["a={run}", "b={run}", "split=test"], "train, val"),
        (["a={run}", "b={run}", "data=voc"], "8 classes, the dataset has 21"),
        (["a={run}", "b={run}", "data=shapes", "data.val_pictures=1"], "a split of two or more"),
    ],
)
def test_a_slip_of_compare_is_one_message(trained, overrides, says, capsys):
    assert main(["compare", *(word.replace("{run}", str(trained)) for word in overrides)]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") <= 3


def test_the_comparison_can_be_in_a_folder_that_is_a_number_and_a_file_in_its_place_is_refused_first(
    copy, longer, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    overrides = ["compare", f"a={copy}", f"b={longer}", "resamples=100"]
    (tmp_path / "2023").write_text("a file")
    assert main([*overrides, "out=2023"]) == 2
    assert "`out=2023` can't be made a folder" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/evaluator/*/counts*"))
    assert main([*overrides, "out=2024"]) == 0
    assert (tmp_path / "2024" / "compare.json").exists()
