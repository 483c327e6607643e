"""Train a run in its folder: what is checked first, the state on disk, the training itself."""
