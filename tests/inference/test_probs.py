import numpy as np
import pytest
import torch

from atrous.batch import Sample
from atrous.inference.probs import Probabilities, half


def split(count=3):
    rng = np.random.default_rng(0)
    return [
        Sample(rng.integers(0, 256, (4 + i, 6, 3), np.uint8), np.zeros((4 + i, 6), np.uint8), f"a/{i}")
        for i in range(count)
    ]


def network(image):
    scores = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) / 50
    return torch.cat([scores, scores[:1].flip(1)]).softmax(0)


def test_what_is_read_is_what_was_given_to_half_precision(tmp_path):
    samples = split()
    probs = Probabilities(samples, tmp_path, 4)
    probs.fill(range(3), network, lambda done, total: None)
    for index, sample in enumerate(samples):
        there, read = probs[index]
        assert there is sample
        assert read.dtype == torch.float32
        torch.testing.assert_close(read, network(sample.image), rtol=2**-10, atol=1e-7)


def test_each_is_made_once(tmp_path):
    asked = []

    def watched(image):
        asked.append(len(image))
        return network(image)

    probs = Probabilities(split(), tmp_path / "new", 4)
    probs.fill([0, 2], watched, lambda done, total: None)
    probs.fill([0, 1, 2], watched, lambda done, total: None)
    probs.path(2).unlink()
    probs.fill([0, 1, 2], watched, lambda done, total: None)
    assert asked == [4, 6, 5, 6]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a%2F0.npy", "a%2F1.npy", "a%2F2.npy"]


def test_the_likeliest_class_stays_the_only_likeliest():
    rng = torch.Generator().manual_seed(0)
    probs = torch.rand(5, 200, 200, generator=rng).softmax(0)  # all near 0.2: some hundred of them tie in float16
    rounded = half(probs)
    assert rounded.dtype == torch.half
    assert ((rounded == rounded.amax(0)).sum(0) == 1).all()
    assert torch.equal(rounded.max(0).indices, probs.max(0).indices)
    plain = probs.half()
    assert 0 < (rounded != plain).sum() < 2000
    assert ((rounded.float() - plain.float()).abs() <= 2**-12).all()  # one step of a float16 below 1/2


def test_certain_pixels_stay_certain():
    certain = torch.zeros(3, 1, 2)
    certain[1] = 1
    assert torch.equal(half(certain).float(), certain)


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_broken_file_is_named(tmp_path, content):
    probs = Probabilities(split(), tmp_path, 4)
    probs.fill([0], network, lambda done, total: None)
    if content is None:
        np.save(probs.path(0), np.zeros((4, 9, 9), np.float16))
    else:
        probs.path(0).write_bytes(content)
    with pytest.raises(ValueError, match=r"a%2F0\.npy.*delete it"):
        probs[0]


def test_a_disk_without_room_is_told_before_the_work(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(ValueError, match="free some space"):
        Probabilities(split(), tmp_path, 4).fill([0], network, lambda done, total: None)
    assert not list(tmp_path.iterdir())
