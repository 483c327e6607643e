"""A run to try things on, trained once."""

import shutil

import pytest
from running import SCRAMBLED, run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """For reading only. It predicts all classes, and was scored with and without a CRF, one picture at a time."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, "crf=shapes", "val_batch=1", SCRAMBLED)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")
