import csv
import itertools
import os
import shutil
import signal
import subprocess
import time
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from running import MINIATURE, atrous, started

from atrous.__main__ import main
from atrous.command.tune import tune
from atrous.config.build import build_crf
from atrous.config.place import CONF
from atrous.crf import DenseCRF
from atrous.evaluation.evaluator import open_evaluator
from atrous.metric.confusion import Scores, confusion

GRID = ["search.w1=[2,6]", "search.sigma_alpha=[5,15]", "search.sigma_beta=[5,15]", "search.sigma_gamma=[1]"]


def tuned(folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return tune(compose("tune", [f"run='{folder}'", "workers=1", *GRID, *overrides]))


def table(folder):
    with open(folder / "search.csv") as file:
        return {tuple(float(row[name]) for name in list(row)[:5]): float(row["miou"]) for row in csv.DictReader(file)}


def test_every_setting_has_the_score_that_the_crf_gives_it(copy):
    result = table(tuned(copy, "pictures=4", "search.rounds=1"))
    assert set(result) == {(*point, 3, 1) for point in itertools.product((2, 6), (5, 15), (5, 15))}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        probs = open_evaluator(compose("tune", [f"run='{copy}'"])).probs
    used = [index for index in range(10) if probs.path(index).exists()]
    assert len(used) == 4
    for (w1, alpha, beta, w2, gamma), miou in result.items():
        crf, total = DenseCRF(w1, alpha, beta, w2, gamma, normalization="after"), np.zeros((8, 8))
        for index in used:
            sample, plain = probs[index]
            refined = crf(torch.from_numpy(np.array(sample.image)).permute(2, 0, 1)[None], plain[None])
            total += confusion(refined[0].argmax(0), torch.from_numpy(np.array(sample.label)), 8).numpy()
        assert miou == pytest.approx(Scores.of(total).mean_iou, abs=1e-6)


def test_it_leaves_a_crf_that_a_run_takes_and_says_on_what_it_was_chosen(copy, capsys):
    folder = tuned(copy, "pictures=6")
    assert folder == copy / "tune" / "run"
    assert (folder / "search.png").stat().st_size > 10_000
    node = yaml.safe_load((folder / "crf.yaml").read_text())
    best = max(table(folder).items(), key=lambda item: item[1])
    assert best[0] == (node["w1"], node["sigma_alpha"], node["sigma_beta"], node["w2"], node["sigma_gamma"])
    crf: Any = build_crf(node)
    assert crf.normalization == "after"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        probs = open_evaluator(compose("tune", [f"run='{copy}'"])).probs
    assert node["chosen_on"] == [probs.name(index) for index in range(10) if probs.path(index).exists()]

    again = copy.parent / "again"
    usual = [word for word in MINIATURE if word.split("=")[0] not in ("crf", "trainer.max_steps")]
    overrides = ["trainer.max_steps=6", f"crf={folder / 'crf.yaml'}", f"run_dir='{again}'"]
    assert main(["train", *usual, *overrides]) == 0
    assert "chosen on 6 of these 10 pictures" in capsys.readouterr().out


def test_finer_rounds_only_add(copy):
    coarse = table(tuned(copy, "pictures=4", "search.rounds=1"))
    finer = table(tuned(copy, "pictures=4", "search.rounds=2"))
    assert coarse.items() < finer.items()
    best = max(coarse.items(), key=lambda item: item[1])[0]
    assert {abs(point[0] - best[0]) for point in finer.keys() - coarse.keys()} == {0, 2}
    assert max(finer.values()) >= max(coarse.values())


def test_the_sample_is_the_seeds(copy):
    def names(seed):
        folder = tuned(copy, "pictures=4", "search.rounds=1", f"seed={seed}", f"out='{copy}/{seed}'")
        return yaml.safe_load((folder / "crf.yaml").read_text())["chosen_on"]

    assert names(0) == names(0) != names(1)


def test_killed_at_any_moment_it_goes_on_and_ends_as_if_it_had_not_been(copy):
    whole = shutil.copytree(copy, copy.parent / "whole")
    overrides = [*GRID, "pictures=10", "search.rounds=2", "workers=2"]
    assert atrous("tune", f"run={whole}", *overrides).returncode == 0

    with started("tune", f"run={copy}", *overrides, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        lines = 0
        while lines < 25:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
            lines = sum(path.read_text().count("\n") for path in copy.glob("trial/*/counts.jsonl"))
        os.killpg(process.pid, signal.SIGKILL)
    assert not (copy / "tune").joinpath("v2", "crf.yaml").exists()
    done = next(copy.glob("trial/*/counts.jsonl")).read_text().splitlines()

    assert atrous("tune", f"run={copy}", *overrides).returncode == 0
    journal = next(copy.glob("trial/*/counts.jsonl")).read_text().splitlines()
    assert journal[: len(done) - 1] == done[:-1]
    assert table(copy / "tune" / "v2") == table(whole / "tune" / "v2")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tune"], "`run` must say"),
        (["tune", "run=nowhere"], "there is no nowhere"),
        (["tune", "run={run}", "pictures=0"], "`pictures`"),
        (["tune", "run={run}", "pictures=null"], "`pictures`"),
        (["tune", "run={run}", "seed=-1"], "`seed`"),
        (["tune", "run={run}", "workers=two"], "`workers`"),
        (["tune", "run={run}", "search.w1=[3,1]"], "`search.w1`"),
        (["tune", "run={run}", "search=v3"], "did you mean search=v"),
        (["tune", "run={run}", "normalization=before"], "`normalization`"),
        (["tune", "run={run}", "split=tset"], "train, val"),
        (["tune", "run={run}", "crf=grid"], "`crf` is what is looked for, values of a DenseCRF: "),
        (["tune", "run={run}", "root=/data"], "has no files"),
        (["tune", "run={run}", "data=voc"], "8 classes, the dataset has 21"),
    ],
)
def test_a_slip_is_one_message(trained, overrides, says, capsys):
    assert main([word.replace("{run}", str(trained)) for word in overrides]) == 2
    assert says in capsys.readouterr().err
