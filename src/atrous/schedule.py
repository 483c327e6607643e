"""Learning-rate schedules: the factor at an iteration, of `steps` in all."""

from __future__ import annotations

from math import ceil


def poly(iteration: int, steps: int, power: float = 0.9, warmup: int = 0) -> float:
    """Return (1 - iteration / steps) ^ power."""
    # Paper: v2 equation 4.1, at every iteration.
    return _warm(iteration, warmup) * max(0.0, 1 - iteration / steps) ** power


def step(iteration: int, steps: int, every: int | None = None, factor: float = 0.1, warmup: int = 0) -> float:
    """Multiply by `factor` at every `every` iterations; None: twice in a run, at each third."""
    # Paper: v1 section 4.1, by 0.1 at every 2000 iterations, of 6000: a shorter run decays as often.
    every = ceil(steps / 3) if every is None else every
    if every < 1:
        raise ValueError(f"`every` must be 1 iteration or more (got {every})")
    return _warm(iteration, warmup) * factor ** (iteration // every)


def _warm(iteration: int, warmup: int) -> float:
    """Return a straight line from 1/warmup up to 1, reached at iteration warmup - 1."""
    return min(1.0, (iteration + 1) / warmup) if warmup else 1.0
