import hashlib
import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from running import SCRAMBLED, Interrupted, equal, refusal, run, weights

from atrous.digest import digest, flat
from atrous.disk import read_metrics
from atrous.run.folder import identity

DRAWN = (
    "callback.pictures={_target_:atrous.callback.pictures.Pictures,count:2}",
    "callback.charts={_target_:atrous.callback.charts.Charts}",
)


def test_a_run_leaves_a_folder_that_explains_itself(tmp_path):
    result = run(tmp_path, *DRAWN, "crf=v2")
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "environment.json",
        "run.log",
        "metrics.csv",
        "result.json",
        "curves.png",
        "confusion.png",
        "checkpoint/last.ckpt",
        "checkpoint/best.ckpt",
        "pictures/000006.png",
        "pictures/000012.png",
        "pictures/last.npz",
    } <= there
    about = json.loads((tmp_path / "environment.json").read_text())
    assert about["packages"]["lightning"]
    assert {"commit", "uncommitted_changes", "python", "machine", "command"} <= about.keys()
    assert result["protocol"] | {"precision": "", "dataset": ""} == {
        "dataset": "",
        "split": "val",
        "pictures": 10,
        "list": hashlib.sha256("\n".join(f"val/{k:06d}" for k in range(10)).encode()).hexdigest()[:12],
        "size": "native",
        "scales": [1.0],
        "flip": False,
        "fuse": "mean",
        "slide": None,
        "crf": result["protocol"]["crf"],
        "crf_chosen_on": 0,
        "ignore": 255,
        "checkpoint": "last",
        "iteration": 12,
        "precision": "",
    }
    assert result["protocol"]["crf"]["w1"] == 4
    assert result["scores_crf"]["iou"].keys() == result["scores"]["iou"].keys()


@pytest.mark.parametrize("refiner", ["grid", "superpixels"])
def test_a_run_validates_and_is_tested_with_another_refiner(tmp_path, refiner, caplog):
    with caplog.at_level("INFO", "atrous"):
        result = run(tmp_path, f"crf={refiner}", "crf.validate=true", SCRAMBLED)
    assert f"with {result['protocol']['crf']['_target_'].split('.')[-1]}" in caplog.text
    assert result["confusion_crf"] != result["confusion"]
    validated = [row["val/miou_crf"] for row in read_metrics(tmp_path / "metrics.csv") if "val/miou_crf" in row]
    assert float(validated[-1]) == pytest.approx(result["scores_crf"]["mean_iou"], abs=1e-6)


def test_scores_are_taken_over_every_labelled_pixel_at_the_labels_own_size(tmp_path):
    from atrous.data.shapes import Shapes

    result = run(tmp_path)
    labelled = sum((sample.label != 255).sum() for sample in Shapes([33, 41], 24, 10).split("val"))
    assert np.sum(result["confusion"]) == labelled


def test_a_complete_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    before = (tmp_path / "checkpoint/last.ckpt").stat().st_mtime_ns
    assert run(tmp_path) == first
    assert (tmp_path / "checkpoint/last.ckpt").stat().st_mtime_ns == before


def test_resume_never_trains_again(tmp_path):
    run(tmp_path, "seed=1")
    restarted = run(tmp_path, "resume=never")
    assert restarted["seed"] == 0
    assert equal(weights(tmp_path), weights_of_fresh(tmp_path.parent / "fresh"))


def weights_of_fresh(folder, *overrides):
    run(folder, *overrides)
    return weights(folder)


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    run(tmp_path)
    message = refusal(tmp_path, "optim.lr=0.5")
    assert re.search(r"optim\.lr: .* there, 0\.5 here", message)
    assert "resume=never" in message


def test_what_is_beside_the_point_may_change():
    one = {"seed": 0, "trainer": {"devices": 1, "max_steps": 5}, "logger": None, "workers": 1, "device_batch": 2}
    other = {"seed": 0, "trainer": {"devices": 4, "max_steps": 5}, "logger": {}, "workers": 8, "device_batch": None}
    assert digest(identity(one)) == digest(identity(other))
    one["data"], other["data"] = {"root": "a", "cache": None, "max_bad": 0}, {"root": "a", "cache": "b", "max_bad": 3}
    assert digest(identity(one)) == digest(identity(other))
    other["data"] = {"root": "b", "cache": None, "max_bad": 0}
    assert digest(identity(one)) != digest(identity(other))
    assert digest(identity(one)) != digest(identity(one | {"seed": 1}))
    assert flat({"a": {"b": [1, 2]}, "c": None}) == {"a.b": "[1, 2]", "c": "null"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_weights(tmp_path, unbroken, workers):
    run(tmp_path, f"workers={workers}")
    assert equal(weights(tmp_path), weights(unbroken))


@pytest.mark.parametrize(
    ("at", "saved"),
    [
        (4, 4),  # just after a save
        (6, 4),  # a validation has been since, and a save after it
        (7, 6),
        (11, 8),
    ],
)
def test_a_run_that_died_ends_with_the_weights_and_scores_of_the_unbroken_one(tmp_path, unbroken, at, saved):
    with pytest.raises(Interrupted):
        run(tmp_path, f"+callback.die={{_target_:running.Die,at:{at}}}")
    state = torch.load(tmp_path / "checkpoint/last.ckpt", weights_only=True)
    assert state["global_step"] == (6 if at == 6 else saved)
    result = run(tmp_path)
    assert equal(weights(tmp_path), weights(unbroken))
    assert result["confusion"] == json.loads((unbroken / "result.json").read_text())["confusion"]
    assert result["best_validation"] == json.loads((unbroken / "result.json").read_text())["best_validation"]
    for ours, expected in zip(
        read_metrics(tmp_path / "metrics.csv"), read_metrics(unbroken / "metrics.csv"), strict=True
    ):
        assert {key: ours[key] for key in ours if key.startswith(("lr/", "val/", "step"))} == {
            key: expected[key] for key in expected if key.startswith(("lr/", "val/", "step"))
        }


def test_accumulation_resumes_to_the_bit_too(tmp_path):
    over = ("device_batch=2", "trainer.val_check_interval=5")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *over)
    with pytest.raises(Interrupted):
        run(broken, *over, "+callback.die={_target_:running.Die,at:15}")  # in the middle of iteration 7
    assert run(broken, *over)["protocol"]["iteration"] == 12
    assert equal(weights(broken), weights(whole))
    assert [row["step"] for row in read_metrics(broken / "metrics.csv") if "val/miou" in row] == [5, 10]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_a_signal_saves_and_ends_with_its_code(tmp_path, unbroken, name, code, capsys):
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, f"+callback.signal={{_target_:running.Signal,at:6,name:{name}}}", "checkpoint_every=1000")
    assert caught.value.code == code
    assert torch.load(tmp_path / "checkpoint/last.ckpt", weights_only=True)["global_step"] == 7
    assert not (tmp_path / "result.json").exists()
    assert f"stopped by {name}" in capsys.readouterr().out
    run(tmp_path, "checkpoint_every=1000")
    assert equal(weights(tmp_path), weights(unbroken))
    signal.signal(signal.SIGUSR1, before)


def test_a_loss_that_is_no_number_names_its_pictures_and_is_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match=r"iteration 8; its pictures: train/\d+, train/\d+"):
        run(tmp_path, "+callback.poison={_target_:running.Poison,at:7}")
    for name in ("last", "best"):
        assert all(torch.isfinite(w).all() for w in weights(tmp_path, name).values() if w.is_floating_point())


def test_the_learning_rate_is_poly_in_the_iteration_for_each_group(tmp_path):
    run(
        tmp_path,
        "schedule=poly",
        "schedule.warmup=0",
        "optim.lr=0.01",
        "optim.bias=2",
        "optim.classifier=10",
        "callback.progress.every=1",
    )
    factors = {"lr/weight": 1, "lr/bias": 2, "lr/classifier_weight": 10, "lr/classifier_bias": 20}
    for row in read_metrics(tmp_path / "metrics.csv"):
        for name, factor in factors.items():
            assert row[name] == pytest.approx(0.01 * factor * (1 - row["step"] / 12) ** 0.9, rel=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["total_batch=5", "device_batch=2"], "no multiple of 1 devices x `device_batch=2`"),
        (["total_batch=4", "device_batch=1"], "batch-norm layers are trained"),
        (["augment=v1", "augment.crop=32"], r"must be 8k\+1.*: 25 or 33"),
        (["trainer.accelerator=gpu"], "sees no GPU"),
        (["trainer=ddp", "trainer.accelerator=auto"], "needs a number of processes"),
        (["data.size=0"], "`size` must be"),
        (["loss.class_weights=[1,2]"], "one a class"),
    ],
)
def test_what_cannot_fit_is_told_before_any_work(tmp_path, override, message):
    if torch.cuda.is_available() and any("trainer" in text for text in override):
        pytest.skip("there is a GPU")
    assert re.search(message, refusal(tmp_path, *override))
    assert not (tmp_path / "checkpoint").exists()


def test_a_run_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert "run_dir=… takes another" in refusal(tmp_path / "file" / "run")


def test_a_full_disk_keeps_the_last_good_file(tmp_path, monkeypatch):
    import resource

    from atrous.disk import write_whole

    path = tmp_path / "last.ckpt"
    write_whole(path, b"good")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(ValueError, match="run the same command again"):
            write_whole(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == b"good"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_untouched_copy_of_a_finished_folder_is_complete_elsewhere(tmp_path, unbroken):
    shutil.copytree(unbroken, tmp_path / "moved")
    before = (tmp_path / "moved/result.json").read_text()
    run(tmp_path / "moved")
    assert (tmp_path / "moved/result.json").read_text() == before


def test_train_only_msc_trains_the_side_branches_and_nothing_else(tmp_path):
    overrides = ("model/backbone=vgg16", "model.backbone.width=4", "model/multiscale=features", "trainer.max_steps=2")
    run(tmp_path / "msc", *overrides, "train_only=msc")
    run(tmp_path / "none", *overrides, "train_only=msc", "optim.lr=0.0")
    before, after = weights(tmp_path / "none"), weights(tmp_path / "msc")
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert all(name.startswith("network.branches.") for name in moved)
    assert "multiscale=features" in refusal(tmp_path / "plain", "train_only=msc")


def test_every_checkpoint_tells_what_it_holds(tmp_path, unbroken):
    for name in ("last", "best"):
        about = torch.load(unbroken / "checkpoint" / f"{name}.ckpt", weights_only=True)["atrous"]
        assert about["names"][0] == "ground"
        assert len(about["palette"]) == len(about["names"])
        assert about["config"]["model"]["backbone"]["width"] == 8


def test_a_run_starts_from_the_weights_of_another(tmp_path, unbroken, caplog):
    with caplog.at_level("INFO", logger="atrous"):
        run(tmp_path, f"weights='{unbroken}/checkpoint/last.ckpt'", "optim.lr=0.0", "trainer.max_steps=1")
    there, here = weights(unbroken), weights(tmp_path)
    learnt = {key for key in there if "running" not in key and "tracked" not in key}
    assert learnt
    assert all(torch.equal(there[key], here[key]) for key in learnt)
    assert "loaded" in caplog.text
    assert "no file of weights at /nowhere.pth" in refusal(tmp_path / "none", "weights=/nowhere.pth")
