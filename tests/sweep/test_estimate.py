"""What dry_run=true tells, beside what then happens."""

import re
import shutil

import pytest
from running import MINIATURE

from atrous.__main__ import main
from atrous.config.override import absences
from atrous.sweep import estimate
from atrous.sweep.cell import plan


def words(*more: str) -> list[str]:
    asked = {word.split("=")[0] for word in more}
    usual = [word for word in MINIATURE if word.split("=")[0] not in asked]
    return [*usual, "model/head=largefov,aspp_s", "seed=0,1", *more]


def test_it_tells_runs_iterations_time_and_disk_and_starts_nothing(here, capsys):
    assert main(["sweep", *words("dry_run=true")]) == 0
    told = capsys.readouterr().out
    for row in ("largefov", "aspp_s"):
        assert re.search(rf"model/head={row} .*2 not run yet .* 24 .* \d\.\d\d\d s .* 0:0\d", told), told
    assert "4 runs to go: about 0:0" in told
    assert "dry_run=true: nothing was started" in told
    assert not list(here.iterdir())


def test_what_is_complete_costs_nothing_and_what_is_interrupted_only_its_rest(here, capsys):
    asked = words("evaluate=false")
    first, second = plan(absences([*asked], "sweep")).cells[:2]
    assert main(["train", *first.words]) == 0
    assert main(["train", *second.words]) == 0
    (second.path / "result.json").unlink()  # as if it had ended before it was scored
    lines = (second.path / "metrics.csv").read_text().splitlines()
    (second.path / "metrics.csv").write_text(
        "\n".join(line for line in lines if not line.startswith(("10", "11", "12")))
    )
    capsys.readouterr()
    assert main(["sweep", *asked, "dry_run=true"]) == 0
    told = capsys.readouterr().out
    done = max(int(line.split(",")[0]) for line in lines[1:] if not line.startswith(("10", "11", "12")))
    assert re.search(rf"largefov .*1 complete, 1 interrupted .* {12 - done} ", told), told
    assert "3 runs to go" in told


def test_the_disk_that_it_tells_is_what_checkpoints_take(here):
    asked = words("evaluate=false", "model.backbone.width=64")
    cell = plan(absences(asked, "sweep")).cells[0]
    assert main(["train", *cell.words]) == 0
    taken = sum(path.stat().st_size for path in (cell.path / "checkpoint").iterdir())
    parameters = estimate.network_of(cell, 8, "cpu").network.parameters()
    told = estimate.checkpoints(sum(each.numel() for each in parameters))
    assert taken <= told <= 2 * taken  # one of them is twice there while it is written


def test_rows_that_differ_in_nothing_that_takes_time_are_timed_once(here, capsys):
    assert main(["sweep", *words("dry_run=true", "optim.lr=0.01,0.02")]) == 0
    assert capsys.readouterr().out.count("timing ") == 2
    assert main(["sweep", *words("dry_run=true", "model/head=largefov", "seed=0,1,2")]) == 0
    assert capsys.readouterr().out.count("timing ") == 1


def test_a_disk_that_is_too_small_is_told(here, capsys, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert main(["sweep", *words("dry_run=true")]) == 0
    assert "THIS DISK IS TOO SMALL" in capsys.readouterr().out


def test_a_search_is_estimated_by_the_number_of_its_trials(here, capsys):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    asked = [
        word for word in words("optim.lr=interval(0.01, 0.1)") if word not in ("seed=0,1", "model/head=largefov,aspp_s")
    ]
    assert main(["sweep", *asked, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=7", "dry_run=true"]) == 0
    assert "7 runs to go" in capsys.readouterr().out
