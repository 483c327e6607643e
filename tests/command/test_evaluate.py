import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from running import atrous as atrous_

import atrous
from atrous.__main__ import main
from atrous.command.evaluate import evaluate
from atrous.config.place import CONF
from atrous.evaluation.evaluator import open_evaluator
from atrous.model.network import Network


def trial_of(folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return open_evaluator(compose("evaluate", [f"run='{folder}'", *overrides]))


def evaluated(folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        result = evaluate(compose("evaluate", [f"run='{folder}'", "workers=1", "charts=false", *overrides]))
    assert result is not None
    return result


def kept(folder, name="val"):
    return json.loads((folder / "evaluate" / name / "result.json").read_text())


def test_the_scores_are_those_of_the_runs_own_test(copy):
    own = json.loads((copy / "result.json").read_text())
    assert evaluated(copy)["confusion"] == own["confusion"]
    assert not (copy / "probs").exists()
    result = evaluated(copy, "crf=shapes", "charts=true")
    assert result["confusion"] == own["confusion"]
    assert result["scores_crf"]["mean_iou"] == pytest.approx(own["scores_crf"]["mean_iou"], abs=1e-3)
    assert result["protocol"]["crf"] == own["protocol"]["crf"]
    assert kept(copy, "val-crf-10-20-10-3-1") == result
    names = [path.name for path in (copy / "evaluate" / "val-crf-10-20-10-3-1").iterdir()]
    assert set(names) == {"result.json", "pictures.npz", "confusion.png", "confusion_crf.png", "trimap.png"}
    assert kept(copy)["confusion"] == own["confusion"]


def test_another_crf_needs_no_network(copy):
    evaluated(copy, "crf=shapes")
    files = {path: path.stat().st_mtime_ns for path in copy.glob("probs/*/*.npy")}
    assert len(files) == 10
    first, second = evaluated(copy, "crf=v1"), evaluated(copy, "crf=shapes", "crf.iterations=2")
    assert kept(copy, "val-crf-10-20-10-3-1-2_iterations") == second
    assert first["confusion_crf"] != second["confusion_crf"]
    assert {path: path.stat().st_mtime_ns for path in copy.glob("probs/*/*.npy")} == files


@pytest.mark.parametrize(
    ("choice", "folder", "heading"),
    [("grid", "val-grid-5-10-1", "with GridCRF"), ("superpixels", "val-superpixels-500-10", "with Superpixels")],
)
def test_another_refiner_is_scored_as_a_crf_is(copy, choice, folder, heading, caplog):
    caplog.set_level("INFO", "atrous")
    dense, other = evaluated(copy, "crf=shapes"), evaluated(copy, f"crf={choice}")
    assert heading in caplog.text
    assert kept(copy, folder) == other
    assert other["confusion"] == dense["confusion"]
    trial = trial_of(copy, f"crf={choice}")
    expected = np.zeros((8, 8), int)
    for index, sample in enumerate(trial.probs.split):
        refined = trial.predictor.refine(sample.image, trial.probs[index][1].float()).argmax(0).numpy()
        known = sample.label != 255
        np.add.at(expected, (sample.label[known], refined[known]), 1)
    assert other["confusion_crf"] == expected.tolist() not in (dense["confusion_crf"], other["confusion"])
    assert main(["compare", f"a={copy}", f"crf={choice}", "resamples=100", "workers=1"]) == 0
    compared = json.loads(next(copy.glob(f"compare/*/{folder}/compare.json")).read_text())
    assert compared["b"]["name"] == heading
    assert compared["mean_iou"]["b"] == pytest.approx(other["scores_crf"]["mean_iou"])


def test_all_cores_give_what_one_gives(copy):
    one = evaluated(copy, "crf=v2")
    next(copy.glob("trial/*/counts.jsonl")).unlink()
    assert evaluated(copy, "crf=v2", "workers=2") == one


def test_every_score_follows_from_the_predictions_of_the_network(copy):
    """By another path: the pictures one by one, counted with NumPy alone."""
    results, segmenter = evaluated(copy), atrous.load(copy)
    samples = trial_of(copy).probs.split
    labels = [sample.label for sample in samples]
    predictions = [segmenter.segment(sample.image) for sample in samples]
    bands = [cv2.dilate((label == 255).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0 for label in labels]
    ious: list[float] = []
    banded: list[float] = []
    for c in range(8):
        for result, where in ((ious, [np.ones(y.shape, bool) for y in labels]), (banded, bands)):
            both = sum(((p == c) & (y == c) & w).sum() for p, y, w in zip(predictions, labels, where))
            any_ = sum((((p == c) | (y == c)) & (y != 255) & w).sum() for p, y, w in zip(predictions, labels, where))
            result.append(both / any_ if any_ else np.nan)
    assert results["scores"]["mean_iou"] == pytest.approx(np.nanmean(ious))
    assert results["trimap"]["mean_iou"][2] == pytest.approx(np.nanmean(banded))
    assert results["trimap"]["mean_iou"][2] != results["scores"]["mean_iou"]


def test_what_was_finished_is_not_done_again(copy, monkeypatch):
    unbroken, seen = evaluated(copy), []
    path = next(copy.glob("trial/*/counts.jsonl"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7])[:-20])  # killed in the seventh
    forward = Network.forward

    def watched(self, image):
        seen.append(image.shape)
        return forward(self, image)

    monkeypatch.setattr(Network, "forward", watched)
    assert evaluated(copy) == unbroken
    assert len(seen) == 10 - 6


def test_three_processes_give_what_one_gives(copy):
    """Ten pictures do not divide by three; none is counted twice."""
    whole = shutil.copytree(copy, copy.parent / "whole")
    for folder, devices in ((whole, 1), (copy, 3)):
        done = atrous_("evaluate", f"run={folder}", "crf=v1", f"devices={devices}", env={"CUDA_VISIBLE_DEVICES": ""})
        assert done.returncode == 0, done.stderr
    one, three = (kept(folder, "val-crf-5-50-10-3-3-after") for folder in (whole, copy))
    assert three["protocol"].pop("weights") != one["protocol"].pop("weights")
    assert three == one
    counts = [path.read_text().count("\n") for path in sorted(copy.glob("trial/*/counts*.jsonl"))]
    assert counts == [8, 6, 6]  # before and after the CRF


def test_what_one_of_several_processes_can_not_do_is_reported_once(copy, tmp_path):
    folder = mine(tmp_path, copy, count=4)
    (folder / "images" / "3.png").write_bytes(b"nothing")
    overrides = ["evaluate", f"run={copy}", "data=folder", f"root={folder}"]
    done = atrous_(*overrides, "devices=2", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert done.stderr.count("3.png can't be read") == 1
    assert "Traceback" not in done.stderr
    done = atrous_("evaluate", "run=nowhere", "devices=2")
    assert (done.returncode, done.stderr.count("there is no nowhere")) == (2, 1)


def mine(tmp_path, run, count=1, value=1, order=1):
    """A folder of pictures and labels with the classes of a run."""
    folder = tmp_path / "mine"
    for kind, grey in (("images", 90), ("labels", value)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(np.full((33, 41), grey, np.uint8)).save(folder / kind / f"{number}.png")
    names = list(trial_of(run).labels.names)[::order]
    (folder / "val.txt").write_text("\n".join(map(str, range(count))))
    (folder / "none.txt").touch()
    settings = {"names": names, "splits": {"train": "val.txt", "val": "val.txt", "none": "none.txt"}}
    (folder / "dataset.yaml").write_text(json.dumps(settings))
    return folder


def test_pictures_that_have_changed_are_counted_anew(copy, tmp_path):
    overrides = ["data=folder", f"root={mine(tmp_path, copy)}"]
    before = evaluated(copy, *overrides)
    assert sum(before["confusion"][1]) == 33 * 41
    mine(tmp_path, copy, value=2)
    after = evaluated(copy, *overrides)
    assert sum(after["confusion"][2]) == 33 * 41
    (folder,) = copy.glob("evaluate/folder-*-val")  # beside that of the run's own dataset
    assert json.loads((folder / "result.json").read_text()) == after


# ---- other looks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("look", ["tta.fuse=max", "slide.crop=64", "slide.crop=[33,41]"])
def test_a_look_that_is_the_plain_one_gives_the_plain_scores(copy, look):
    assert evaluated(copy, look)["confusion"] == evaluated(copy)["confusion"]


@pytest.mark.parametrize(
    ("look", "folder"),
    [
        (["tta.scales=[0.5,1]", "tta.flip=true"], "val-tta-0.5,1-flip-mean"),
        (["slide.crop=24"], "val-slide-24x24-16x16"),
        (["tta.scales=[0.5,1]", "slide.crop=24", "tta.fuse=max"], "val-tta-0.5,1-max-slide-24x24-16x16"),
    ],
)
def test_another_look_is_another_score_and_another_folder(copy, look, folder):
    plain, result = evaluated(copy), evaluated(copy, *look)
    assert result["confusion"] != plain["confusion"]
    assert kept(copy, folder) == result
    assert kept(copy)["confusion"] == plain["confusion"]
    message = result["protocol"]
    assert (message["scales"], message["flip"], message["slide"]) != ([1.0], False, None)
    assert len(list(copy.glob("trial/*"))) == 2


# ---- what can be scored ---------------------------------------------------------------------------------------------
def test_a_checkpoint_and_an_exported_file_have_the_scores_of_their_run(copy):
    run = evaluated(copy)
    assert evaluated(copy / "checkpoint" / "last.ckpt")["confusion"] == run["confusion"]
    assert main(["export", f"run={copy}", "format=safetensors", f"out={copy / 'net.safetensors'}"]) == 0
    assert evaluated(copy / "net.safetensors")["confusion"] == run["confusion"]
    assert (copy / "net" / "evaluate" / "val" / "result.json").exists()


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


def test_a_network_that_gives_no_numbers_is_reported_with_the_picture(copy, capsys):
    change_weights(copy, lambda name, tensor: tensor.fill_(float("nan")))
    assert main(["evaluate", f"run={copy}", "crf=v1", "workers=1"]) == 2
    assert "NaN for the picture val/000000" in capsys.readouterr().err
    assert not list(copy.glob("probs/*/*.npy"))


def test_the_pictures_on_which_the_crf_was_chosen_can_be_left_out(copy, capsys):
    names = [trial_of(copy).name(index) for index in (1, 4, 5)]
    own = (CONF / "crf" / "v1.yaml").read_text() + f"chosen_on: {json.dumps([*names, 'elsewhere'])}\n"
    (copy / "crf.yaml").write_text(own)
    overrides = ["evaluate", f"run={copy}", f"crf={copy / 'crf.yaml'}", "workers=1"]
    assert main(overrides) == 0
    assert "chosen on 3 of these 10 pictures" in capsys.readouterr().out
    assert main([*overrides, "leave_out=true"]) == 0
    assert "chosen on" not in capsys.readouterr().out
    flattered, fair = (
        json.loads((copy / "evaluate" / f"val-crf-5-50-10-3-3-after{end}" / "result.json").read_text())
        for end in ("", "-held_out")
    )
    assert (flattered["protocol"]["pictures"], flattered["protocol"]["crf_chosen_on"]) == (10, 3)
    assert (fair["protocol"]["pictures"], fair["protocol"]["left_out"], fair["protocol"]["crf_chosen_on"]) == (7, 3, 0)
    labelled = sum((trial_of(copy).probs.split[i].label != 255).sum() for i in (0, 2, 3, 6, 7, 8, 9))
    assert sum(map(sum, fair["confusion_crf"])) == sum(map(sum, fair["confusion"])) == labelled


def test_data_that_do_not_fit_are_refused(copy, tmp_path, capsys):
    overrides = ["evaluate", f"run={copy}", "data=folder", f"root={mine(tmp_path, copy)}"]
    assert main([*overrides, "split=none"]) == 2
    assert "the split 'none' is empty: there is nothing to score" in capsys.readouterr().err
    mine(tmp_path, copy, value=9)
    assert main(overrides) == 2
    assert "labels/0.png holds the label 9" in capsys.readouterr().err
    mine(tmp_path, copy, order=-1)
    assert main(overrides) == 2
    assert "class 0 of" in capsys.readouterr().err


def test_a_class_that_is_absent_is_left_out_of_the_mean(copy):
    change_weights(copy, lambda name, tensor: tensor[1:7].fill_(-1e3) if name.endswith("fc8.bias") else None)
    result = evaluated(copy, "data=shapes", "data.size=[33,41]", "data.val_pictures=1")
    absent = [name for name, iou in result["scores"]["iou"].items() if iou is None]
    assert result["scores"]["counted"] == 8 - len(absent) < 8
    known = [iou for iou in result["scores"]["iou"].values() if iou is not None]
    assert result["scores"]["mean_iou"] == pytest.approx(np.mean(known))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "`run` must say"),
        (["run=nowhere"], "there is no nowhere"),
        (["run={run}", "crf=v3"], "crf is one of"),
        (["run={run}", "crf=v3.yaml"], "can't be read"),
        (["run={run}", "leave_out=true"], "the CRF does not say on which pictures it was chosen"),
        (["run={run}", "crf=v1", "leave_out=true"], "the CRF does not say on which pictures it was chosen"),
        (["run={run}", "split=test"], "train, val"),
        (["run={run}", "data=voc"], "8 classes, the dataset has 21"),
        (["run={run}", "out=/proc/none/x"], "`out=/proc/none/x"),
        (["run={run}", "devices=0"], "`devices`"),
        (["run={run}", "devices=some"], "`devices`"),
        (["run={run}", "tta.scales=[a]"], "`tta.scales`"),
        (["run={run}", "tta.scales=[]"], "`tta.scales`"),
        (["run={run}", "slide.stride=9"], "`slide.crop`"),
        (["run={run}", "like=voc"], "leave it out"),
    ],
)
def test_a_slip_is_one_message(trained, overrides, says, capsys):
    assert main(["evaluate", *(word.replace("{run}", str(trained)) for word in overrides)]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") <= 3
    assert not (trained / "trial").exists()  # an impossible setting is refused before any work
