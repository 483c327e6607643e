import numpy as np
import pytest
import torch

from atrous.batch import Sample
from atrous.crf import DenseCRF, GridCRF, Superpixels
from atrous.evaluation.counts import CountStore, pack, unpack
from atrous.inference.probs import Probabilities
from atrous.metric.confusion import confusion

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
    given = Probabilities(samples, tmp_path / "probs", 3)
    noise = lambda image: torch.from_numpy(rng.random((3, *image.shape[:2]), np.float32) * 3).softmax(0)  # noqa: E731
    given.fill(range(6), noise, quiet)
    return given


def by_hand(probs, crf, index):
    sample, plain = probs[index]
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None]
    refined = plain[None] if crf is None else crf(image, plain[None])
    return confusion(refined[0].argmax(0), torch.from_numpy(sample.label), 3).numpy()


@pytest.fixture
def tally(probs, tmp_path):
    return CountStore(probs, tmp_path / "trial")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_counts_are_those_of_the_crf_picture_by_picture(probs, tally, workers):
    crfs = [None, V1, GridCRF(5, 10, 1), OTHER, Superpixels(20), WIDE, GridCRF(5, 10, 1, neighbours=8)]
    tally.refine(crfs, range(6), quiet, workers)
    for crf in crfs:
        expected = sum(by_hand(probs, crf, index) for index in (1, 2, 4))
        assert np.array_equal(tally.total(crf, [1, 2, 4]).confusion, expected)
        assert np.array_equal(tally.confusion(crf, 3), by_hand(probs, crf, 3))
    assert not np.array_equal(tally.total(None, range(6)).confusion, tally.total(V1, range(6)).confusion)


def test_the_network_alone_is_counted_as_its_kept_probabilities_are(probs, tally, tmp_path):
    tally.refine([None], range(6), quiet, 1)
    alone = CountStore(probs, tmp_path / "alone")
    by_image = {probs[index][0].image.tobytes(): probs[index][1] for index in range(6)}
    alone.count(lambda image: by_image[image.tobytes()], range(6), quiet)
    for one, other in zip(tally.total(None, range(6)).arrays(), alone.total(None, range(6)).arrays()):
        assert np.array_equal(one, other)


def test_what_is_known_is_not_counted_again(probs, tally):
    tally.refine([V1], [0, 1], quiet, 1)
    probs.path(0).unlink()  # so that counting it again would fail
    again, reports = CountStore(probs, tally.folder), []
    again.refine([OTHER, V1], [1, 2], lambda done, total: reports.append((done, total)), 1)
    assert reports == [(1, 3), (3, 3)]
    again.total(V1, [0, 1, 2])


def test_what_another_process_counted_is_known(probs, tally):
    tally.refine([V1], [0, 2], quiet, 1)
    CountStore(probs, tally.folder, rank=1).refine([V1], [1], quiet, 1)
    assert {path.name for path in tally.folder.iterdir()} == {"counts.jsonl", "counts1.jsonl"}
    both = CountStore(probs, tally.folder)
    assert not any(both.lacks(V1, index) for index in (0, 1, 2))
    assert both.lacks(V1, 3)


def test_counts_without_detail_do_for_a_search_and_are_made_again_for_more(probs, tally):
    tally.refine([V1], [0], quiet, 1, detail=False)
    plain = tally.confusion(V1, 0)
    assert not tally.lacks(V1, 0, detail=False)
    assert tally.lacks(V1, 0)
    tally.refine([V1], [0], quiet, 1)
    assert not CountStore(probs, tally.folder).lacks(V1, 0)
    assert np.array_equal(tally.total(V1, [0]).confusion, plain)


def test_packed_counts_come_back():
    draw = np.random.default_rng(0)
    for shape in ((4, 4), (40, 5, 5), (3, 7)):
        counts = draw.integers(0, 2**40, shape) * (draw.random(shape) < 0.2)
        assert np.array_equal(unpack(pack(counts), shape), counts)
    assert np.array_equal(unpack(pack(np.zeros((2, 2), np.int64)), (2, 2)), np.zeros((2, 2)))


def test_a_torn_line_is_counted_again(probs, tally):
    tally.refine([V1], [0, 1], quiet, 1)
    expected = tally.total(V1, [0, 1]).confusion
    tally.path.write_bytes(tally.path.read_bytes()[:-9])
    again = CountStore(probs, tally.folder)
    assert len(again.known) == 1
    again.refine([V1], [0, 1], quiet, 1)
    assert np.array_equal(CountStore(probs, tally.folder).total(V1, [0, 1]).confusion, expected)


def test_equal_numbers_are_one_crf_and_another_backend_is_another(probs, tally):
    tally.refine([V1], [0], quiet, 1)
    assert not CountStore(probs, tally.folder).lacks(DenseCRF(5.0, 50.0, 10.0, 3.0, 3.0), 0)
    for other in (
        DenseCRF(5, 50, 10, 3, 3, iterations=9),
        DenseCRF(5, 50, 10, 3, 3, normalization="after"),
        DenseCRF(5, 50, 10, 3, 3.5),
        DenseCRF(5, 50, 10, 3, 3, compatibility=torch.eye(3)),
    ):
        assert tally.lacks(other, 0)
