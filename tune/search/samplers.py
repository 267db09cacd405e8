"""Optuna's samplers by the word that names them in `search.sampler`."""

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from trainable.errors import ConfigError
from tune.config import SearchConfig

PACKAGES = {"gp": "scipy", "qmc": "scipy", "cmaes": "cmaes"}
"""What a sampler needs that Optuna does not bring."""


def make_sampler(search: SearchConfig, number: int, grid: Sequence[Mapping[str, Any]] = ()) -> BaseSampler:
    """Return the configured sampler for the trial of a given number.

    It is seeded by the search's seed and the number: no random state has to outlive a process. QMC is one
    sequence for the whole search, of which Optuna keeps the place in the study.

    TPE is multivariate with a constant liar (Optuna's defaults for one objective), so that it neither treats
    rank and rate apart nor suggests again what is still running.

    Args:
        search: names it, its seed and its start-up trials.
        number: how many trials were asked for before, second attempts left out.
        grid: every combination of the space, of which trial `number` takes its own; for `grid` alone.

    Raises:
        ConfigError: the sampler needs a package that is not installed.
    """
    needed = PACKAGES.get(search.sampler)
    if needed and importlib.util.find_spec(needed) is None:
        raise ConfigError(
            f"search.sampler '{search.sampler}' needs the package '{needed}': "
            "pip install 'loratune[samplers]', or choose tpe or random."
        )
    startup = search.startup_trials
    seed = int(np.random.SeedSequence((search.seed, number)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(
                    n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "grid":
                return fixed(grid[number % len(grid)], optuna.samplers.RandomSampler(seed=seed))
            case "gp":
                return optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(scramble=True, seed=search.seed)


def fixed(params: Mapping[str, Any], sampler: BaseSampler) -> BaseSampler:
    """Return a sampler that takes `params`, in Optuna's names, as they are, and draws others by `sampler`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.PartialFixedSampler(dict(params), sampler)
