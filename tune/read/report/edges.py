"""Whether the best values lie at the edge of an axis, so that a wider range is worth trying."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution

from tune.read.format import setting
from tune.read.report.completed import Done, axes, cells_of, key_of, natural, place_in

BY_CHANCE = 0.05
"""What chance alone brings about less often than this is said to mean something."""
_EDGE = 0.05
"""The outer share of a range that counts as its edge."""
_DRAWS = 2000
_AGE = 8
"""Trials of like age: as many that were begun one after the other."""


def wider_ranges(done: Sequence[Done], top: Sequence[Done]) -> dict[str, str]:
    """Return the axes whose best values lie at an edge, with the range to try.

    Three things must hold: the best trial lies at the edge; the best ones lie nearer to it than trials drawn
    at random would; and among trials of like age, those nearer to the edge are better. Without the last, a
    sampler that keeps drawing what the first good trials had would put parameters that do not matter there.

    Args:
        done: all trials that are compared.
        top: the best of them, best first.
    """
    hints = {}
    for name, distribution in axes(top).items():
        if name not in top[0].frozen.params:
            continue
        best = place_in(distribution, top[0].frozen.params[name])
        low, high = natural(name, distribution.low), natural(name, distribution.high)
        is_power = name.startswith("log2(")
        is_log = is_power or distribution.log
        if best >= 1 - _EDGE and _is_edge(name, distribution, done, top, upper=True):
            further = high * (2 if is_power else 4) if is_log else high + (high - low) / 2
            hints[key_of(name)] = f"the range ends at {setting(high)}; try up to {setting(further)}"
        elif best <= _EDGE and _is_edge(name, distribution, done, top, upper=False):
            further = low / (2 if is_power else 4) if is_log else low - (high - low) / 2
            if (low > 0 and further <= 0) or (is_power and further < 1):
                continue
            hints[key_of(name)] = f"the range begins at {setting(low)}; try from {setting(further)}"
    return hints


def _is_edge(
    name: str,
    distribution: FloatDistribution | IntDistribution,
    done: Sequence[Done],
    top: Sequence[Done],
    *,
    upper: bool,
) -> bool:
    def nearness(trials: Sequence[Done]) -> list[float]:
        """Return how near each trial that has the axis lies to the edge, from 0 to 1."""
        places = [place_in(distribution, one.frozen.params[name]) for one in trials]
        return places if upper else [1 - place for place in places]

    having = [[one for one in trials if name in one.frozen.params] for trials in (done, top)]
    by_age = sorted(having[0], key=lambda one: one.number)
    return (
        _chance_of_mean(nearness(having[1]), distribution) < BY_CHANCE
        and _chance_of_order(nearness(by_age), [one.judged for one in by_age]) < BY_CHANCE
    )


def _chance_of_mean(places: Sequence[float], distribution: FloatDistribution | IntDistribution) -> float:
    """Return how often as many uniform draws have a mean as high as these places, by drawing them."""
    chance, cells, count = random.Random(0), cells_of(distribution), len(places)

    def draw() -> float:
        return chance.randrange(cells) / (cells - 1) if cells else chance.random()

    reached = sum(sum(draw() for _ in range(count)) >= sum(places) - 1e-9 for _ in range(_DRAWS))
    return reached / _DRAWS


def _chance_of_order(places: Sequence[float], costs: Sequence[float]) -> float:
    """Return how often places that are shuffled among trials of like age go as well with low costs.

    Rank correlation within each group of age, summed up; a permutation test.

    Args:
        places: of the trials in the order of their age, from 0 to 1.
        costs: of the same trials, lower is better.
    """
    chance, count = np.random.default_rng(0), max(1, len(places) // _AGE)
    bounds = [len(places) * group // count for group in range(count + 1)]
    found, shuffled = 0.0, np.zeros(_DRAWS)
    for begin, end in pairwise(bounds):
        near, good = _ranks(places[begin:end]), _ranks([-cost for cost in costs[begin:end]])
        found += float(near @ good)
        shuffled += chance.permuted(np.tile(near, (_DRAWS, 1)), axis=1) @ good
    return float((shuffled >= found - 1e-9).mean())


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of each value, the mean one for equal ones."""
    column = np.asarray(values)[:, None]
    return (column > column.T).sum(axis=1) + (column == column.T).sum(axis=1) / 2
