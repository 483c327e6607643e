import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in: runs lie in runs/ from where one is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
