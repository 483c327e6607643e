import numpy as np
import pytest
import torch

from atrous.batch import Sample
from atrous.crf import DenseCRF
from atrous.metric import confusion
from atrous.probs import Probabilities
from atrous.trial import Refined

V1, OTHER, WIDE = DenseCRF(5, 50, 10, 3, 3), DenseCRF(2, 50, 10, 1, 3), DenseCRF(5, 20, 10, 3, 3, normalization="after")


def quiet(done, total):
    pass


@pytest.fixture
def probs(tmp_path):
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((6, 5, 1), np.uint8)),
            rng.integers(0, 3, (18, 20), np.uint8),
            str(i),
        )
        for i in range(6)
    ]
    given = Probabilities(samples, tmp_path, 3)
    noise = lambda image: torch.from_numpy(rng.random((3, *image.shape[:2]), np.float32) * 3).softmax(0)  # noqa: E731
    given.fill(range(6), noise, quiet)
    return given


def by_hand(probs, crf, index):
    sample, plain = probs[index]
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None]
    refined = plain[None] if crf is None else crf(image, plain[None])
    return confusion(refined[0].argmax(0), torch.from_numpy(sample.label), 3).numpy()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_counts_are_those_of_the_crf_picture_by_picture(probs, workers):
    refined = Refined(probs)
    crfs = [None, V1, OTHER, WIDE]
    refined.count(crfs, range(6), quiet, workers)
    for crf in crfs:
        expected = sum(by_hand(probs, crf, index) for index in (1, 2, 4))
        assert np.array_equal(refined.total(crf, [1, 2, 4]), expected)
    assert not np.array_equal(refined.total(None, range(6)), refined.total(V1, range(6)))


def test_what_is_known_is_not_counted_again(probs):
    Refined(probs).count([V1], [0, 1], quiet, 1)
    probs.path(0).unlink()  # so that counting it again would fail
    refined, told = Refined(probs), []
    refined.count([OTHER, V1], [1, 2], lambda done, total: told.append((done, total)), 1)
    assert told == [(1, 3), (3, 3)]
    refined.total(V1, [0, 1, 2])


def test_a_torn_line_is_counted_again(probs):
    refined = Refined(probs)
    refined.count([V1], [0, 1], quiet, 1)
    expected = refined.total(V1, [0, 1])
    refined.path.write_bytes(refined.path.read_bytes()[:-9])
    again = Refined(probs)
    assert len(again.known) == 1
    again.count([V1], [0, 1], quiet, 1)
    assert np.array_equal(Refined(probs).total(V1, [0, 1]), expected)


def test_equal_numbers_are_one_crf_and_another_backend_is_another(probs):
    refined = Refined(probs)
    refined.count([V1], [0], quiet, 1)
    assert Refined(probs)._lacking([DenseCRF(5.0, 50.0, 10.0, 3.0, 3.0)], [0]) == []
    for other in (
        DenseCRF(5, 50, 10, 3, 3, iterations=9),
        DenseCRF(5, 50, 10, 3, 3, normalization="after"),
        DenseCRF(5, 50, 10, 3, 3.5),
        DenseCRF(5, 50, 10, 3, 3, compatibility=torch.eye(3)),
    ):
        assert len(refined._lacking([other], [0])) == 1
