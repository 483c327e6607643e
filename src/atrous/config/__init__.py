"""Hydra: the schema of a configuration, what a command line means, and the objects it is built into."""
