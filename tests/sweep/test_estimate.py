"""The estimate of dry_run=true, beside what the runs then take."""

import re
import shutil

import pytest
from running import MINIATURE

from atrous.__main__ import main
from atrous.config.override import absences
from atrous.sweep import estimate
from atrous.sweep.plan import make_plan
from atrous.sweep.timing import make_module


def overrides(*more: str) -> list[str]:
    given = {override.split("=")[0] for override in more}
    usual = [override for override in MINIATURE if override.split("=")[0] not in given]
    return [*usual, "model/head=largefov,aspp_s", "seed=0,1", *more]


def test_it_shows_runs_iterations_time_and_disk_and_starts_nothing(here, capsys):
    assert main(["sweep", *overrides("dry_run=true")]) == 0
    output = capsys.readouterr().out
    for row in ("largefov", "aspp_s"):
        assert re.search(rf"model/head={row} .*2 not run yet .* 24 .* \d\.\d\d\d s .* 0:0\d", output), output
    assert "4 runs to go: about 0:0" in output
    assert "dry_run=true: nothing was started" in output
    assert not list(here.iterdir())


def test_a_complete_run_costs_nothing_and_an_interrupted_one_only_its_rest(here, capsys):
    options = overrides("evaluate=false")
    first, second = make_plan(absences(options, "sweep")).cells[:2]
    assert main(["train", *first.overrides]) == 0
    assert main(["train", *second.overrides]) == 0
    (second.path / "result.json").unlink()  # as if it had ended before it was scored
    lines = (second.path / "metrics.csv").read_text().splitlines()
    (second.path / "metrics.csv").write_text(
        "\n".join(line for line in lines if not line.startswith(("10", "11", "12")))
    )
    capsys.readouterr()
    assert main(["sweep", *options, "dry_run=true"]) == 0
    output = capsys.readouterr().out
    done = max(int(line.split(",")[0]) for line in lines[1:] if not line.startswith(("10", "11", "12")))
    assert re.search(rf"largefov .*1 complete, 1 interrupted .* {12 - done} ", output), output
    assert "3 runs to go" in output


def test_the_estimated_disk_is_what_checkpoints_take(here):
    options = overrides("evaluate=false", "model.backbone.width=64")
    cell = make_plan(absences(options, "sweep")).cells[0]
    assert main(["train", *cell.overrides]) == 0
    taken = sum(path.stat().st_size for path in (cell.path / "checkpoint").iterdir())
    parameters = make_module(cell, 8, "cpu").network.parameters()
    estimated = estimate.checkpoint_bytes(sum(each.numel() for each in parameters))
    assert taken <= estimated <= 2 * taken  # one of them is there twice while it is written


def test_rows_that_take_the_same_time_are_timed_once(here, capsys):
    assert main(["sweep", *overrides("dry_run=true", "optim.lr=0.01,0.02")]) == 0
    assert capsys.readouterr().out.count("timing ") == 2
    assert main(["sweep", *overrides("dry_run=true", "model/head=largefov", "seed=0,1,2")]) == 0
    assert capsys.readouterr().out.count("timing ") == 1


def test_a_disk_that_is_too_small_is_reported(here, capsys, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert main(["sweep", *overrides("dry_run=true")]) == 0
    assert "THIS DISK IS TOO SMALL" in capsys.readouterr().out


def test_a_search_is_estimated_by_the_number_of_its_trials(here, capsys):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    grid = ("seed=0,1", "model/head=largefov,aspp_s")
    options = [override for override in overrides("optim.lr=interval(0.01, 0.1)") if override not in grid]
    assert main(["sweep", *options, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=7", "dry_run=true"]) == 0
    assert "7 runs to go" in capsys.readouterr().out
