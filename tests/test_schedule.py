import pytest

from atrous.schedule import poly, step


@pytest.mark.parametrize("iteration", [0, 1, 5000, 10000, 19999])
def test_poly_is_the_papers_formula(iteration):
    assert poly(iteration, 20000) == (1 - iteration / 20000) ** 0.9


def test_poly_ends_at_zero():
    assert poly(20000, 20000) == 0


@pytest.mark.parametrize(
    ("iteration", "factor"), [(0, 1), (1999, 1), (2000, 0.1), (3999, 0.1), (4000, 0.01), (5999, 0.01)]
)
def test_step_is_a_tenth_after_every_2000(iteration, factor):
    assert step(iteration, 6000) == pytest.approx(factor)


def test_a_tenth_of_the_run_decays_as_often():
    assert [step(i, 600) for i in (199, 200, 399, 400, 599)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert min(step(i, 2000) for i in range(2000)) == pytest.approx(0.01)  # also where a third is no whole number


def test_a_step_of_ones_own_stays_as_it_is():
    assert [step(i, 600, every=500) for i in (499, 500, 599)] == pytest.approx([1, 0.1, 0.1])
    with pytest.raises(ValueError, match="`every` must be 1"):
        step(0, 600, every=0)


def test_warmup_rises_in_a_straight_line_and_then_has_no_effect():
    assert [step(i, 100, warmup=4) for i in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert poly(4, 100, warmup=4) == poly(4, 100)
