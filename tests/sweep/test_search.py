"""A search: Optuna learns the score of every run, and the same command again goes on with the same runs."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from running import MINIATURE, atrous

from atrous.__main__ import main
from atrous.config.override import absences
from atrous.sweep.plan import make_plan

TESTS = str(Path(__file__).resolve().parents[1])


def overrides(folder: Path, trials: int) -> list[str]:
    usual = [override for override in MINIATURE if override.split("=")[0] not in ("trainer.max_steps", "optim.lr")]
    mishap = f"+callback.mishap={{_target_:running.Mishap,at:1,raises:0,killed:-1,unless:'{folder / 'mended'}'}}"
    search = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={trials}", "optim.lr=tag(log, interval(0.01, 0.5))"]
    return [*usual, "trainer.max_steps=6", "evaluate=false", mishap, *search]


def test_optuna_gets_the_scores_and_the_second_time_the_same_runs(here):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    env = {"PYTHONPATH": TESTS}
    failed = atrous("sweep", *overrides(here, trials=1), cwd=here, env=env)
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "failed: Interrupted: seed 0 would not" in failed.stdout

    (here / "mended").touch()
    done = atrous("sweep", *overrides(here, trials=2), cwd=here, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    plan = make_plan(absences(overrides(here, trials=2), "sweep"))
    results = {cell.path: json.loads((cell.path / "result.json").read_text()) for cell in plan.cells}
    assert len(results) == 2
    rates = [cell.config["optim"]["lr"] for cell in plan.cells]
    assert len(set(rates)) == 2
    assert all(0.01 <= rate <= 0.5 for rate in rates)
    study = OmegaConf.load(plan.folder / "optimization_results.yaml")
    best = max(plan.cells, key=lambda cell: results[cell.path]["scores"]["mean_iou"])
    assert study.best_value == max(result["scores"]["mean_iou"] for result in results.values())
    assert study.best_params["optim.lr"] == best.config["optim"]["lr"]
    table = json.loads((plan.folder / "report.json").read_text())["rows"]
    assert table[0]["name"] == best.row  # the best first

    again = atrous("sweep", *overrides(here, trials=2), cwd=here, env=env)
    assert again.returncode == 0, again.stderr
    assert "FAILED" not in again.stdout + done.stdout
    assert len(list(here.glob("runs/**/result.json"))) == 2


def test_without_optuna_the_message_says_how_to_install_it(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_optuna_sweeper", None)
    monkeypatch.setattr("atrous.config.suggest.find_spec", lambda name: None)
    for options in (["sweeps=optim"], ["experiment=shapes", "hydra/sweeper=optuna"]):
        assert main(["sweep", *options]) == 2
        assert "pip install 'atrous[search]'" in capsys.readouterr().err
