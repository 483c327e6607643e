import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from atrous.config.place import CONF
from atrous.crf.search import Grid, Point


def shipped(name):
    return instantiate(OmegaConf.load(CONF / "search" / f"{name}.yaml"), _convert_="all")


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    # the ranges as the papers print them: 5..10, 50:10:100, 3:1:10; 3:6, 30:10:100, 3:6
    [("v1", 6 * 6 * 8, (5, 50, 3), (10, 100, 10)), ("v2", 4 * 8 * 4, (3, 30, 3), (6, 100, 6))],
)
def test_the_papers_coarse_grids(name, count, first, last):
    points = shipped(name).coarse()
    assert len(points) == len(set(points)) == count
    assert points[0] == (*first, 3, 3)
    assert points[-1] == (*last, 3, 3)


def test_a_finer_round_is_the_best_and_its_neighbours_at_half_the_step():
    grid = Grid(w1=[3, 4, 5], sigma_alpha=[30, 40], sigma_beta=[3, 5])
    around = grid.finer(Point(4, 40, 3, 3, 3), 1)
    assert len(around) == 27
    assert {p.w1 for p in around} == {3.5, 4, 4.5}
    assert {p.sigma_alpha for p in around} == {35, 40, 45}
    assert {p.sigma_beta for p in around} == {2, 3, 4}
    assert {(p.w2, p.sigma_gamma) for p in around} == {(3, 3)}
    assert {p.w1 for p in grid.finer(Point(4, 40, 3, 3, 3), 2)} == {3.75, 4, 4.25}


def test_a_fixed_parameter_is_searched_when_asked():
    grid = Grid(w1=[3], sigma_alpha=[30], sigma_beta=[3], w2=[1, 3], sigma_gamma=[1, 2, 3])
    assert len(grid.coarse()) == 6
    assert {p.w2 for p in grid.finer(grid.coarse()[0], 1)} == {0, 1, 2}


def test_a_finer_round_never_leaves_what_a_crf_can_be():
    grid = Grid(w1=[0, 8], sigma_alpha=[1, 3], sigma_beta=[1, 9], rounds=2)
    around = grid.finer(grid.coarse()[0], 1)
    assert min(p.w1 for p in around) == 0
    assert min(p.sigma_alpha for p in around) > 0
    assert min(p.sigma_beta for p in around) > 0


def test_an_optimum_at_the_edge_is_reported():
    grid = Grid(w1=[3, 4, 5], sigma_alpha=[30, 40], sigma_beta=[3])
    assert grid.edges(Point(5, 35, 3, 3, 3)) == ["w1"]
    assert grid.edges(Point(4, 45, 3, 3, 3)) == ["sigma_alpha"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"w1": []}, "`search.w1`"),
        ({"w1": [2, 1]}, "rising"),
        ({"w1": [-1, 1]}, "0 or more"),
        ({"sigma_beta": [0, 3]}, "positive"),
        ({"rounds": 0}, "`search.rounds`"),
    ],
)
def test_an_impossible_grid_is_refused_by_the_parameters_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Grid(**{"w1": [1], "sigma_alpha": [1], "sigma_beta": [1]} | wrong)
