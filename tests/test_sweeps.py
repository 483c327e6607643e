"""Every table of the papers: its rows have the printed numbers and numbers of weights, and train when small."""

from functools import cache
from itertools import product

import pytest
import torch
from omegaconf import OmegaConf
from running import run_plain, take_a_step

from atrous.config.build import build_network
from atrous.config.folders import shipped_sweeps
from atrous.config.place import CONF, SWEEPS
from atrous.sweep.cell import key_of
from atrous.sweep.plan import make_plan

# As printed: mean IoU before and after the CRF, in the order of the paper's table (None: not printed).
PRINTED = {
    "v1_table1": [(59.80, 63.74), (61.30, 65.21), (64.38, 67.64), (62.25, 67.64), (64.21, 68.70)],
    "v1_table2": [(64.38, 67.64), (59.80, 63.74), (63.41, 67.14), (62.25, 67.64)],
    "v2_table2": [(62.25, None), (63.42, None), (64.90, None), (64.71, None), (65.88, None)],
    "v2_table3": [(65.76, 69.84), (66.98, 69.73), (68.96, 71.57)],
    "v2_table4": [(68.72, None), (71.27, None), (73.28, None), (74.87, None), (75.54, None), (76.35, 77.69)],
    "v2_table6": [(37.6, 39.6), (39.6, None), (41.4, None), (42.9, None), (43.5, None), (44.7, 45.7)],
    "v2_table7": [(58.90, None), (63.10, None), (64.40, 64.94), (62.18, None), (62.76, None)],
    "v2_table9": [(62.97, 64.18), (64.89, 65.94), (66.6, None), (69.2, None), (70.4, None), (71.0, 71.4)],
}
# Weights in millions, as v1's table 2 prints them for 21 classes; of ResNet-101's by arithmetic, trunk + head.
MILLIONS = {"v1_7x7": 134.3, "v1_deeplab": 65.1, "v1_4x4": 65.1, "v1_largefov": 20.5}
TRUNK = 42_500_160
RESNET = {
    "v2_resnet101": TRUNK + 21 * (2048 + 1),
    "v2_resnet101_largefov": TRUNK + 21 * (9 * 2048 + 1),
    "v2_resnet101_aspp": TRUNK + 4 * 21 * (9 * 2048 + 1),
}
POLICIES = {  # v2, table 2: batch, iterations
    "v2_step_30x6k": (30, 6000),
    "v2_poly_30x6k": (30, 6000),
    "v2_poly_30x10k": (30, 10000),
    "v2_poly_10x10k": (10, 10000),
    "v2_poly_10x20k": (10, 20000),
}
CLASSES = {"VOC": 21, "Context": 60, "PersonPart": 7, "Cityscapes": 19}

SEARCHES = {"optim"}
SWEEP_NAMES = [path.stem for path in shipped_sweeps() if path.stem not in SEARCHES]
ROWS = sorted(path.stem for path in (CONF / "experiment").glob("v[12]_*.yaml"))


def rows_of(sweep):
    params = OmegaConf.load(SWEEPS / f"{sweep}.yaml").hydra.sweeper.params
    return [name.strip() for name in params.experiment.split(",")]


@cache
def planned_sweep(sweep, small=None):
    return make_plan([f"sweeps={sweep}", "seed=0", *([f"small={small}"] if small else [])])


def rows_by_name(small=None):
    """The rows as their experiments define them: a sweep may have more than these."""
    cells = [cell for sweep in SWEEP_NAMES for cell in planned_sweep(sweep, small).cells]
    plain = [
        cell for cell in cells if {key_of(override) for override in cell.overrides} <= {"experiment", "seed", "small"}
    ]
    return {cell.experiment: OmegaConf.create(cell.config) for cell in plain}


@pytest.fixture(scope="module")
def rows():
    return rows_by_name()


@pytest.fixture(scope="module")
def small_rows():
    return rows_by_name("shapes")


# ---- the files ------------------------------------------------------------------------------------------------------
def test_every_row_is_in_a_sweep_and_every_sweep_has_rows_that_exist():
    assert {name for sweep in SWEEP_NAMES for name in rows_of(sweep)} == set(ROWS)


def test_each_table_of_the_papers_and_each_question_has_a_sweep():
    assert set(SWEEP_NAMES) == {*PRINTED, "crf", "trimap", "baselines"}


@pytest.mark.parametrize(
    ("sweep", "small"), [*product(SWEEP_NAMES, [None, "shapes"]), ("v2_table3", "camvid"), ("v1_table1", "camvid")]
)
def test_a_sweep_has_its_rows_in_the_papers_order_even_when_small(sweep, small):
    made = planned_sweep(sweep, small)
    assert made.cfg.table.title
    assert [name.partition("/")[0] for name in made.rows()] == rows_of(sweep)
    assert made.cells[0].config["paper"]["comparable"] is (small is None)


def test_a_row_is_run_with_three_seeds():
    assert {OmegaConf.load(SWEEPS / f"{name}.yaml").hydra.sweeper.params.seed for name in SWEEP_NAMES} == {"0,1,2"}
    [cells] = make_plan(["sweeps=v2_table3", "experiment=v2_aspp_l"]).rows().values()
    assert [cell.seed for cell in cells] == [0, 1, 2]


@pytest.mark.parametrize("sweep", SWEEP_NAMES)
def test_what_others_report_has_a_source(sweep):
    for other in OmegaConf.load(SWEEPS / f"{sweep}.yaml").table.get("others", []):
        assert other.source
        assert other.keys() - {"row", "source"} <= {"miou", "miou_crf"}
        assert 18 < (other.get("miou") or other.miou_crf) < 80


# ---- as published ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sweep", PRINTED)
def test_the_numbers_of_a_table_are_the_printed_ones(sweep, rows):
    assert [(rows[name].paper.miou, rows[name].paper.miou_crf) for name in rows_of(sweep)] == PRINTED[sweep]


@cache
def weights_of(model, classes):
    """Cached: many rows share a network."""
    with torch.device("meta"):
        network = build_network(OmegaConf.create(model), classes)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", ROWS)
def test_a_rows_network_has_the_weights_that_it_says(name, rows):
    cfg = rows[name]
    count = weights_of(OmegaConf.to_yaml(cfg.model), CLASSES[cfg.data._target_.rpartition(".")[2]])
    assert count == cfg.paper.parameters
    assert round(count / 1e6, 1) == MILLIONS.get(name, round(count / 1e6, 1))
    assert count == RESNET.get(name, count)


def test_msc_adds_five_branches_and_starts_from_the_network_without(rows):
    for name, base in (("v1_msc", "v1_deeplab"), ("v1_msc_largefov", "v1_largefov")):
        assert rows[name].paper.parameters - rows[base].paper.parameters == 1_206_121
        assert rows[name].train_only == "msc"
    made = make_plan(["sweeps=v1_table1", "optim.lr=0.002", "seed=1"])
    cells = {name.partition("/")[0]: cell for name, [cell] in made.rows().items()}
    assert cells["v1_msc"].config["weights"] == str(cells["v1_deeplab"].path)
    assert cells["v1_msc_largefov"].config["weights"] == str(cells["v1_largefov"].path)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_as_published(name, rows):
    cfg = rows[name]
    paper, lr = cfg.paper, 2.5e-4 if "ResNet" in cfg.model.backbone._target_ else 1e-3
    batch, iterations = POLICIES.get(name, (None, None))
    assert (batch or paper.batch, iterations or paper.iterations) == (paper.batch, paper.iterations)
    assert cfg.total_batch == (paper.batch or 10)
    assert cfg.trainer.max_steps == paper.iterations or paper.iterations is None
    assert cfg.optim.lr == lr
    step = name.startswith("v1") or "step" in name
    assert cfg.schedule._target_ == f"atrous.schedule.{'step' if step else 'poly'}"
    plain_net = name in ("v1_deeplab", "v1_msc", "v1_4x4", "v1_7x7")
    assert cfg.augment.crop == (306 if plain_net else 713 if cfg.data.get("size") == "full" else 321)
    assert cfg.model.backbone.get("pool") == (2 if plain_net else 3 if "VGG" in cfg.model.backbone._target_ else None)
    marks = cfg.paper.columns
    assert (cfg.augment.scales is not None) == ("Aug" in marks)
    assert (cfg.weights != "imagenet") == ("COCO" in marks or cfg.train_only is not None)
    if "ResNet" in cfg.model.backbone._target_:
        assert (cfg.model.multiscale is not None) == ("MSC" in marks)


# ---- small ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ROWS)
def test_a_small_row_has_the_batch_of_the_paper_and_a_tenth_of_its_iterations(name, rows, small_rows):
    small, whole = small_rows[name], rows[name]
    assert small.total_batch == whole.total_batch
    assert small.trainer.max_steps == (whole.paper.iterations or 20_000) / 10
    assert (small.weights, small.train_only, small.paper.comparable) == (None, None, False)
    assert small.model.head.rates == whole.model.head.rates
    assert small.paper.miou == whole.paper.miou


@pytest.mark.parametrize("name", ROWS)
def test_a_small_row_takes_a_step(name, small_rows):
    cfg = OmegaConf.masked_copy(small_rows[name], ["model", "data", "augment", "loss", "optim"])
    cfg.model.backbone.width, cfg.data.size = 8, 33
    assert 0 < loss_of_a_step(OmegaConf.to_yaml(cfg)) < 20


@cache
def loss_of_a_step(config):
    """Rows that differ, say, in the length of their runs take the same step."""
    return take_a_step(OmegaConf.create(config), pictures=2)


# One of each kind; tests/test_experiments.py does the same with rows in their own size, on their own data.
@pytest.mark.parametrize("name", ["v1_msc_largefov", "v2_step_30x6k", "v2_resnet101_msc", "v2_cityscapes_aspp"])
def test_a_small_row_trains_and_scores(name, tmp_path):
    overrides = ["small=shapes", "model.backbone.width=8", "data.size=33", "data.val_pictures=2", "total_batch=2"]
    overrides += ["trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.accelerator=cpu", "crf=null"]
    overrides += ["trainer.precision=32-true", "logger=null", "callback=null", "workers=0"]
    result = run_plain(f"experiment={name}", *overrides, folder=tmp_path)
    assert result["protocol"]["iteration"] == 1
