"""report.json: what is written is read back, and so are the files of earlier versions."""

import json
import subprocess
import sys

import pytest
from swept import cells_of, end

from atrous.sweep.files import read_report, write_report
from atrous.sweep.plan import make_plan
from atrous.sweep.record import SweepReport
from atrous.sweep.render import markdown

# Written in schema 1, by the code of that time.
SCHEMA_1 = """
{"schema": 1, "sweep": "mine/experiment=v2_largefov", "title": "mine/experiment=v2_largefov", "measure": "mean IoU",
"command": "atrous sweep experiment=v2_largefov seed=0,1", "rows": [{"row": "LargeFOV", "name": "v2_largefov/default",
"columns": {}, "seeds": [0], "cells": [{"seed": 0, "path": "runs/v2_largefov/default/seed0", "state": "finished",
"told": null}, {"seed": 1, "path": "runs/v2_largefov/default/seed1", "state": "failed", "told": "ValueError: no
pictures at data/voc"}], "published": {"table": "v2 table 3", "miou": 65.76, "miou_crf": 69.84, "parameters":
20505429, "differs": "starts from torchvision's VGG-16; the CRF's values are not printed"}, "comparable": true,
"parameters": 37877652, "gflops": 101.797646, "device_hours": 2.0, "curve": [[250, 42.5], [500, 55.0], [750, 67.5]],
"above": {"": null, "_crf": null}, "miou": {"mean": 53.894196, "deviation": null, "values": [53.894196]}, "iou":
{"sky": 52.633969, "sea": 55.546323, "sand": 54.075372, "sun": 53.321118}, "trimap": null, "difference": -11.865804,
"miou_crf": null, "iou_crf": {}, "trimap_crf": null, "difference_crf": null, "protocol": ["a"]}], "others": [],
"protocols": {"a": {"dataset": "atrous.data.voc.VOC", "split": "val", "pictures": 12, "list": "0123456789ab", "size":
"native", "scales": [1.0], "flip": false, "fuse": "scores", "slide": null, "crf": {"_target_": "atrous.crf.DenseCRF",
"w1": 4, "sigma_alpha": 67, "sigma_beta": 3, "w2": 3, "sigma_gamma": 1, "iterations": 10, "normalization":
"symmetric", "backend": "native", "validate": false}, "ignore": 255}}}
"""


def test_a_report_of_schema_1_gives_the_table_that_it_gave():
    report = SweepReport.from_dict(json.loads(SCHEMA_1.replace("\n", " ")))
    text = markdown(report)
    assert "| LargeFOV | 53.89 | 65.76 | -11.87 | 69.84 | 37.88 M | 101.8 | 2.00 | 1/2 |" in text
    assert "- LargeFOV, seed 1: failed: ValueError: no pictures at data/voc." in text
    assert [cell.note for cell in report.rows[0].cells] == [None, "ValueError: no pictures at data/voc"]


def test_a_report_of_schema_1_is_written_in_schema_2():
    old = json.loads(SCHEMA_1.replace("\n", " "))
    new = SweepReport.from_dict(old).to_dict()
    assert new["schema"] == 2
    for cell in old["rows"][0]["cells"]:
        cell["note"] = cell.pop("told")
    assert json.loads(json.dumps(new)) == old | {"schema": 2}


def test_a_report_is_read_as_it_was_written(here):
    overrides = ("sweeps=v2_table6", "seed=0,1")
    first, second, third, *_ = cells_of(*overrides)
    end(first, 0.6, crf=0.7)
    end(second, 0.65, seed=1, crf=0.72)
    third.folder.note_failure("ValueError: no pictures")
    written = write_report(make_plan(overrides))
    assert read_report(make_plan(overrides).folder / "report.json") == written


def test_a_report_of_a_later_version_is_refused():
    with pytest.raises(ValueError, match="schema 3 can't be read: this version knows 1 and 2"):
        SweepReport.from_dict({"schema": 3})


def test_a_sweep_is_planned_and_its_empty_table_made_without_torch():
    code = """
import sys
sys.modules["torch"] = sys.modules["lightning"] = None
from atrous.command import report, sweep
from atrous.sweep.plan import make_plan
from atrous.sweep.render import markdown
from atrous.sweep.report import make_report
assert "not run yet" in markdown(make_report(make_plan(["sweeps=v2_table3", "seed=0"])))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
