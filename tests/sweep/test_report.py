"""The table of a sweep: the papers' rows with ours beside them, whichever of the runs there are."""

import csv
import json
import os
import shutil
import subprocess
from statistics import mean, stdev

import numpy as np
import pytest
from browser import chromium, page
from swept import PALETTE, cells_of, confusions, end, evaluate

from atrous.__main__ import main
from atrous.metric import bootstrap
from atrous.metric.bootstrap import parts
from atrous.sweep import files
from atrous.sweep.files import kept_name, renew_tables, write_report
from atrous.sweep.page import in_colours
from atrous.sweep.plan import make_plan, note_begun
from atrous.sweep.record import ReportRow, Spread
from atrous.sweep.render import comma_separated, latex, markdown
from atrous.sweep.report import make_report
from atrous.sweep.table import protocol_text

TABLE3 = ("sweeps=v2_table3", "seed=0,1")


def sweep_table3(*more: str) -> list[list[float]]:
    """LargeFOV, ASPP-S and ASPP-L, each with two seeds; returns the mean IoUs of each, in %."""
    scores: dict[str, list[float]] = {}
    for k, cell in enumerate(cells_of(*TABLE3, *more)):
        result = end(cell, 0.6 + 0.03 * (k // 2), seed=k, crf=0.7 + 0.03 * (k // 2))
        scores.setdefault(cell.row, []).append(100 * result["scores"]["mean_iou"])
    return list(scores.values())


def miou_of(row: ReportRow, end: str = "") -> Spread:
    spread = row.scores[end].miou
    assert spread is not None
    return spread


def test_rows_are_the_papers_with_their_seeds_put_together(here):
    ours = sweep_table3()
    rows = make_report(make_plan(TABLE3)).rows
    assert [row.row for row in rows] == ["LargeFOV", "ASPP-S", "ASPP-L"]
    for row, values, published in zip(rows, ours, (65.76, 66.98, 68.96)):
        assert miou_of(row).mean == pytest.approx(mean(values), abs=1e-6)
        assert miou_of(row).deviation == pytest.approx(stdev(values), abs=1e-6)
        assert row.scores[""].difference == pytest.approx(mean(values) - published, abs=1e-6)
        assert row.seeds == [0, 1]
        assert row.device_hours == 2  # 3000 s + 600 s, on two devices
    text = markdown(make_report(make_plan(TABLE3)))
    assert f"| ASPP-L | {mean(ours[2]):.2f} ± {stdev(ours[2]):.2f} | 68.96 | {mean(ours[2]) - 68.96:+.2f} |" in text
    assert "| 37.88 M |" in text


def test_flops_are_those_of_a_network_that_is_counted_by_hand(here):
    """LargeFOV's classifier: 3x3 from 512 to 1024, 1x1 to 1024, 1x1 to 21, on 41x41 places; ASPP-L has four of them."""
    sweep_table3()
    rows = make_report(make_plan(TABLE3)).rows
    classes = 4  # of these miniature results
    branch = 2 * 41 * 41 * (9 * 512 * 1024 + 1024 * 1024 + 1024 * classes) / 1e9
    [largefov, _, aspp_l] = [row.gflops for row in rows]
    assert largefov is not None
    assert aspp_l is not None
    assert aspp_l - largefov == pytest.approx(3 * branch, rel=1e-3)


def test_on_other_data_the_published_number_is_in_brackets_and_no_measure(here):
    sweep_table3("small=shapes")
    data = make_report(make_plan((*TABLE3, "small=shapes")))
    assert all(row.scores[""].difference is None and row.scores["_crf"].difference is None for row in data.rows)
    text = markdown(data)
    assert "| (68.96) |" in text
    assert "| difference" not in text
    assert "In brackets: published for other data" in text


def test_a_row_that_is_trained_on_other_pictures_than_its_papers_is_not_compared_with_it(here):
    (row,) = make_report(make_plan(("experiment=v2_largefov", "data=shapes", "seed=0"))).rows
    assert not row.comparable
    (row,) = make_report(make_plan(("experiment=v2_largefov", "seed=0"))).rows
    assert row.comparable


def test_rows_without_a_result_say_so(here):
    cells = cells_of("sweeps=v2_table3", "seed=0")
    cells[0].folder.note_failure("ValueError: no pictures at data/voc")
    end(cells[1], 0.6)
    text = markdown(make_report(make_plan(("sweeps=v2_table3", "seed=0"))))
    assert "| LargeFOV | failed: ValueError: no pictures at data/voc |" in text
    assert "| ASPP-L | not run yet |" in text
    assert "- LargeFOV, seed 0: failed: ValueError: no pictures at data/voc." in text
    assert "± " not in text  # one seed has no deviation


def test_a_run_of_another_configuration_is_no_result(here):
    cells = cells_of("sweeps=v2_table3", "seed=0")
    end(cells[0], 0.6)
    path = cells[0].path / "config.yaml"
    path.write_text(path.read_text().replace("total_batch: 10", "total_batch: 20"))
    result = json.loads((cells[0].path / "result.json").read_text())
    (cells[0].path / "result.json").write_text(json.dumps(result | {"config_hash": "another"}))
    text = markdown(make_report(make_plan(("sweeps=v2_table3", "seed=0"))))
    assert "| LargeFOV | changed: total_batch" in text


def test_the_interval_to_the_row_above_is_over_pictures_and_the_mean_over_seeds(here):
    sweep_table3()
    above = make_report(make_plan(TABLE3)).rows[1].scores[""].above
    assert above is not None
    a, b = ([parts(confusions(share, seed)) for seed in seeds] for share, seeds in ((0.6, (0, 1)), (0.63, (2, 3))))
    expected = bootstrap.difference(a, b)
    assert above["difference"] == pytest.approx(100 * expected.value, abs=1e-6)
    assert (above["low"], above["high"]) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-6)
    assert all(scores.above is None for scores in make_report(make_plan(TABLE3)).rows[0].scores.values())


def test_a_score_with_another_crf_is_not_in_the_table(here):
    """A user's own `atrous evaluate crf=…` leaves another folder."""
    (cell,) = cells_of("sweeps=v2_table3", "seed=0", "experiment=v2_largefov")
    result = end(cell, 0.6, evaluated=False)
    other = result | {"protocol": result["protocol"] | {"crf": {"_target_": "another"}}}
    evaluate(cell, other, [confusions(0.6, 0), None], name="val-another")
    assert cell.evaluation() is None
    evaluate(cell, result, [confusions(0.6, 0), None])
    assert cell.evaluation() == cell.path / "evaluate" / "val"


def test_the_protocol_names_a_refiner_that_is_no_dense_crf():
    how = {"dataset": "atrous.data.shapes.Shapes", "split": "val", "pictures": 10, "list": "ab", "scales": [1]}
    how |= {"flip": False, "slide": None}
    dense = {"_target_": "atrous.crf.DenseCRF", "w1": 4, "validate": False}
    other = {"_target_": "atrous.crf.Superpixels", "segments": 500, "validate": False}
    assert protocol_text(how | {"crf": dense}).endswith("; CRF w1=4")
    assert protocol_text(how | {"crf": other}).endswith("; Superpixels segments=500")


def test_rows_that_the_papers_do_not_name_are_named_by_their_overrides(here):
    assert names_of("experiment=shapes", "model/head=largefov,aspp_s", "~crf", "seed=0") == [
        "model/head=largefov",
        "model/head=aspp_s",
    ]
    assert names_of("experiment=v2_largefov", "optim.lr=0.001,0.01", "seed=0") == [
        "LargeFOV optim.lr=0.001",
        "LargeFOV optim.lr=0.01",
    ]
    two = names_of("experiment=v1_largefov,v2_largefov", "seed=0")
    assert len(set(two)) == 2, two


def names_of(*overrides: str) -> list[str]:
    return [row.row for row in make_report(make_plan(overrides)).rows]


def test_systems_that_have_no_run_here_stand_below(here):
    text = markdown(make_report(make_plan(("sweeps=baselines", "seed=0"))))
    assert "| FCN-8s |" in text
    assert "62.20" in text
    assert "- FCN-8s: VOC 2012 test, v1 table 3." in text


def test_the_files_of_the_same_runs_are_the_same_to_the_last_byte(here):
    sweep_table3()
    write_report(make_plan(TABLE3))
    folder = make_plan(TABLE3).folder
    names = ["index.html", "report.json", "table.csv", "table.md", "table.tex"]
    assert sorted(path.name for path in folder.iterdir()) == names
    before = {name: (folder / name).read_bytes() for name in names}
    for path in (here / "runs").rglob("*"):  # copied to another machine
        os.utime(path, (2_000_000_000, 2_000_000_000))
    write_report(make_plan(TABLE3))
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_the_csv_reads_back_as_the_numbers_of_the_report(here):
    sweep_table3()
    data = make_report(make_plan(TABLE3))
    lines = list(csv.DictReader(comma_separated(data).splitlines()))
    assert [line["row"] for line in lines] == ["LargeFOV", "ASPP-S", "ASPP-L"]
    for line, row in zip(lines, data.rows):
        assert float(line["miou"]) == miou_of(row).mean
        assert float(line["deviation_crf"]) == miou_of(row, "_crf").deviation
        assert float(line["published_crf"]) == row.published.miou_crf
        assert (line["seeds"], line["finished"], line["failed"]) == ("2", "2", "0")


def test_the_latex_has_as_many_cells_in_each_line_and_nothing_unescaped(here):
    cells = cells_of("sweeps=v2_table4", "seed=0")
    end(cells[0], 0.6)
    cells[1].folder.note_failure("OSError: 50 % of C:\\{data}_#1 & ~more^")
    text = latex(make_report(make_plan(("sweeps=v2_table4", "seed=0"))))
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 7
    counts = {line.replace(r"\&", "").count("&") for line in lines}
    assert len(counts) == 1
    assert r"50 \% of C:\textbackslash{}\{data\}\_\#1 \& \textasciitilde{}more\textasciicircum{}" in body


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_compiles(here):
    sweep_table3()
    write_report(make_plan(TABLE3))
    shutil.copy(make_plan(TABLE3).folder / "table.tex", here)
    head = r"\documentclass{article}\usepackage{booktabs}"
    (here / "paper.tex").write_text(rf"{head}\begin{{document}}\input{{table}}\end{{document}}")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "paper.tex"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_page_draws_all_of_it_without_an_error_and_asks_nobody(here):
    sweep_table3()
    write_report(make_plan(TABLE3))
    with page((make_plan(TABLE3).folder / "index.html").resolve().as_uri()) as tab:
        tab.wait_for("document.body.dataset.ready")
        count = "document.querySelectorAll({}).length".format
        assert tab.evaluate(count("'#table tbody tr'")) == 3
        assert tab.evaluate(count("'#charts svg'")) == 4
        assert tab.evaluate(count("'#charts figure:first-child polyline'")) == 3
        assert tab.evaluate(count("'.strip'")) == 2
        assert tab.evaluate(count("'.strip:first-child img'")) == 5  # picture, truth, three networks
        links = tab.evaluate(
            "[...document.querySelectorAll('#runs a')].map(a => decodeURIComponent(new URL(a.href).pathname))"
        )
        assert len(links) == 6
        assert all(os.path.isdir(link) for link in links)
        tab.evaluate("document.querySelector('#key button').click()")  # LargeFOV is left out
        assert tab.evaluate(count("'#charts figure:first-child polyline'")) == 2
        assert tab.evaluate(count("'.strip:first-child img'")) == 4
        tab.evaluate("document.querySelector('#key .after').click()")
        assert "after the CRF" not in tab.evaluate("document.querySelector('#charts').textContent")
        assert not tab.console_errors
        assert not [url for url in tab.requests if not url.startswith(("data:", "file:"))]


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_page_of_a_sweep_that_has_no_result_yet_opens_too(here):
    write_report(make_plan(TABLE3))
    with page((make_plan(TABLE3).folder / "index.html").resolve().as_uri()) as tab:
        tab.wait_for("document.body.dataset.ready")
        assert "not run yet" in tab.evaluate("document.querySelector('#table').textContent")
        assert not tab.console_errors


def test_the_verb_writes_it_all_and_shows_the_table(here, capsys):
    sweep_table3()
    assert main(["report", *TABLE3]) == 0
    output = capsys.readouterr().out
    assert "ASPP-L" in output
    assert "index.html" in output
    assert (make_plan(TABLE3).folder / "index.html").exists()


def test_the_report_of_an_unknown_sweep_is_refused_in_one_message(here, capsys):
    assert main(["report", "sweeps=v2_table33"]) == 2
    assert "v2_table3" in capsys.readouterr().err


# ---- the README -----------------------------------------------------------------------------------------------------
def test_kept_numbers_go_into_the_readmes_block_of_their_command_and_nowhere_else(here, monkeypatch, capsys):
    sweep_table3()
    monkeypatch.setattr(files, "KEPT", here / "kept")
    monkeypatch.setattr(files, "README", here / "README.md")
    text = "before\n<!-- results: v2_table3,seed=0,1 -->\nold\n<!-- /results -->\nafter\n"
    (here / "README.md").write_text(text)
    assert main(["report", *TABLE3, "keep=true"]) == 0
    written = (here / "README.md").read_text()
    assert written.startswith("before\n")
    assert written.endswith("<!-- /results -->\nafter\n")
    assert "| ASPP-L |" in written
    assert "old" not in written
    assert renew_tables(written) == written
    assert (here / "kept" / "v2_table3,seed=0,1.json").exists()
    assert kept_name("atrous sweep sweeps=v2_table3 seed=0,1") == "v2_table3,seed=0,1"


def test_a_sweep_without_numbers_is_not_kept(here, monkeypatch, capsys):
    monkeypatch.setattr(files, "KEPT", here / "kept")
    assert main(["report", *TABLE3, "keep=true"]) == 2
    assert "no run of this sweep has ended" in capsys.readouterr().err
    assert not (here / "kept").exists()


@pytest.mark.parametrize("verb", ["report", "sweep"])
def test_outside_a_clone_numbers_are_not_kept(verb, here, monkeypatch, capsys):
    monkeypatch.setattr(files, "README", here / "README.md")
    assert main([verb, *TABLE3, "keep=true"]) == 2
    assert "`keep=true` needs a clone of the repository" in capsys.readouterr().err
    assert not (here / "runs").exists() or verb == "report"


def test_the_readmes_results_are_the_kept_ones():
    text = files.README.read_text()
    assert renew_tables(text) == text


def test_a_difference_of_means_is_that_of_a_loop_over_the_draws():
    a, b = ([parts(confusions(share, seed)) for seed in (0, 1)] for share in (0.6, 0.7))
    found = bootstrap.difference(a, b, resamples=200, seed=3, chunk=50)
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(200):
        some = rng.integers(0, 12, 12)
        scores = [[bootstrap.mean_iou(bootstrap.iou(each[some].sum(0))) for each in trained] for trained in (a, b)]
        drawn.append(np.mean(scores[1]) - np.mean(scores[0]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
    one = bootstrap.compare(a[0], b[0], 200, 3).mean
    assert bootstrap.difference(a[:1], b[:1], 200, 3).value == pytest.approx(one.value, abs=1e-15)


def test_the_best_run_of_a_search_comes_first_with_its_own_pictures(here):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    overrides = ("experiment=shapes", "hydra/sweeper=optuna", "optim.lr=interval(0.1, 0.2)")
    chosen = [["experiment=shapes", f"optim.lr={rate}"] for rate in (0.125, 0.1875)]
    note_begun(make_plan(overrides).folder, chosen)
    worse, better = make_plan(overrides).cells
    end(worse, 0.6)
    end(better, 0.8, seed=1)
    path = better.path / "pictures" / "last.npz"
    with np.load(path) as kept:
        np.savez(path, **({key: kept[key] for key in kept.files} | {"prediction_0": np.full((24, 32), 3, np.uint8)}))
    data = write_report(make_plan(overrides))
    assert [row.row for row in data.rows] == ["optim.lr=0.1875", "optim.lr=0.125"]
    text = (make_plan(overrides).folder / "index.html").read_text()
    content = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    assert [row["row"] for row in content["rows"]] == ["optim.lr=0.1875", "optim.lr=0.125"]
    assert content["pictures"][0]["predictions"][0] == in_colours(np.full((24, 32), 3, np.uint8), PALETTE)
    assert content["pictures"][0]["predictions"][1] != content["pictures"][0]["predictions"][0]
    assert "hydra/sweeper=optuna" in data.command
