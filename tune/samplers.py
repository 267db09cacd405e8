"""Optuna's samplers by the word that names them in `search.sampler`."""

import optuna
from optuna.samplers import BaseSampler

from trainable.errors import ConfigError
from tune.config import SearchConfig


def make_sampler(search: SearchConfig) -> BaseSampler:
    """Return the configured sampler, seeded.

    TPE is multivariate with a constant liar (Optuna's defaults for one objective), so that it neither treats
    rank and rate apart nor suggests again what is still running.

    Raises:
        ConfigError: the sampler needs a package that is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = search.seed
    try:
        match search.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(
                    n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True, seed=seed
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(n_startup_trials=search.startup_trials, seed=seed)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(n_startup_trials=search.startup_trials, seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(scramble=True, seed=seed)
    except ImportError as error:
        raise ConfigError(
            f"search.sampler '{search.sampler}' needs the package '{error.name}': pip install {error.name}, "
            "or choose another sampler."
        ) from None
