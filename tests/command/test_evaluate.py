import json

import pytest
import torch
from hydra import compose, initialize_config_dir

from atrous.__main__ import main
from atrous.command.evaluate import evaluate
from atrous.override import CONF
from atrous.trial import open_trial


def evaluated(folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return evaluate(compose("evaluate", [f"run='{folder}'", "workers=1", *overrides]))


def test_the_scores_are_those_of_the_runs_own_test(copy):
    own = json.loads((copy / "result.json").read_text())
    assert evaluated(copy)["confusion"] == own["confusion"]
    assert not (copy / "probs").exists()
    found = evaluated(copy, "crf=shapes")
    assert found["confusion"] == own["confusion"]
    assert found["scores_crf"]["mean_iou"] == pytest.approx(own["scores_crf"]["mean_iou"], abs=1e-3)
    assert found["protocol"]["crf"] == own["protocol"]["crf"]
    assert json.loads((copy / "evaluate" / "val-crf-10-20-10-3-1.json").read_text()) == found
    assert (copy / "evaluate" / "val.json").exists()


def test_another_crf_needs_no_network(copy):
    evaluated(copy, "crf=shapes")
    files = {path: path.stat().st_mtime_ns for path in copy.glob("probs/*/*.npy")}
    assert len(files) == 10
    first, second = evaluated(copy, "crf=v1"), evaluated(copy, "crf=shapes", "crf.iterations=2")
    assert first["confusion_crf"] != second["confusion_crf"]
    assert {path: path.stat().st_mtime_ns for path in copy.glob("probs/*/*.npy")} == files


def test_all_cores_give_what_one_gives(copy):
    one = evaluated(copy, "crf=v2")
    next(copy.glob("probs/*/refined.jsonl")).unlink()
    assert evaluated(copy, "crf=v2", "workers=2") == one


def test_other_weights_never_meet_the_probabilities_of_these(copy):
    before = evaluated(copy, "crf=shapes")
    change_weights(copy, lambda name, tensor: tensor.mul_(-1 if "head" in name else 1))
    after = evaluated(copy, "crf=shapes")
    assert after["confusion"] != before["confusion"]
    assert len(list(copy.glob("probs/*"))) == 2


def change_weights(folder, change):
    path = folder / "checkpoint" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    for name, tensor in saved["state_dict"].items():
        if tensor.is_floating_point():
            change(name, tensor)
    torch.save(saved, path)


def test_a_network_that_gives_no_numbers_is_told_with_the_picture(copy, capsys):
    change_weights(copy, lambda name, tensor: tensor.fill_(float("nan")))
    assert main(["evaluate", f"run={copy}", "crf=v1", "workers=1"]) == 2
    assert "NaN for the picture val/000000" in capsys.readouterr().err
    assert not list(copy.glob("probs/*/*.npy"))


def test_the_pictures_on_which_the_crf_was_chosen_can_be_left_out(copy, capsys):
    names = [open_trial(str(copy)).probs.name(index) for index in (1, 4, 5)]
    own = (CONF / "crf" / "v1.yaml").read_text() + f"chosen_on: {json.dumps([*names, 'elsewhere'])}\n"
    (copy / "crf.yaml").write_text(own)
    words = ["evaluate", f"run={copy}", f"crf={copy / 'crf.yaml'}", "workers=1"]
    assert main(words) == 0
    assert "chosen on 3 of these 10 pictures" in capsys.readouterr().out
    assert main([*words, "leave_out=true"]) == 0
    assert "chosen on" not in capsys.readouterr().out
    flattered, fair = (
        json.loads((copy / "evaluate" / f"val-crf-5-50-10-3-3{end}.json").read_text()) for end in ("", "-held_out")
    )
    assert (flattered["protocol"]["pictures"], flattered["protocol"]["crf_chosen_on"]) == (10, 3)
    assert (fair["protocol"]["pictures"], fair["protocol"]["left_out"], fair["protocol"]["crf_chosen_on"]) == (7, 3, 0)
    labelled = sum((open_trial(str(copy)).probs.split[i].label != 255).sum() for i in (0, 2, 3, 6, 7, 8, 9))
    assert sum(map(sum, fair["confusion_crf"])) == sum(map(sum, fair["confusion"])) == labelled


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "`run` must say"),
        (["run=nowhere"], "there is no nowhere"),
        (["run={run}", "crf=v3"], "crf is one of"),
        (["run={run}", "crf=v3.yaml"], "can't be read"),
        (["run={run}", "leave_out=true"], "no CRF tells"),
        (["run={run}", "crf=v1", "leave_out=true"], "no CRF tells"),
        (["run={run}", "split=test"], "train, val"),
        (["run={run}", "data=voc"], "8 classes, the dataset has 21"),
        (["run={run}", "out=/proc/none/x.json"], "`out=/proc/none`"),
    ],
)
def test_a_slip_is_told_in_a_line(trained, words, says, capsys):
    assert main(["evaluate", *(word.replace("{run}", str(trained)) for word in words)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") <= 3
