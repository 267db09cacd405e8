"""Samplers by the name in `search.sampler`: the shipped ones, and a user's own as `package.module:name`.

A sampler is made anew for every trial, seeded by the search's seed and the trial's number, and reads a
sampling view of the study (`tune.search.sampling_view`). No random state has to outlive a process, so an
interrupted search draws what it would have drawn without the interruption.
"""

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from search_spaces import Space
from search_spaces.space import Point
from trainable.errors import ConfigError
from trainable.extension import load_object
from tune.search.gaussian import RankGaussianProcessSampler
from tune.sections import SearchConfig


@dataclass(frozen=True)
class SamplerRequest:
    """What a sampler is made from.

    Attributes:
        seed: for this trial alone.
        number: trials asked for before this one, further attempts at a trial left out.
        search: the search's settings, with `startup_trials` and the seed of the whole search.
        space: what is searched.
        combinations: every point of the space, for a sampler that says `needs_combinations`.
    """

    seed: int
    number: int
    search: SearchConfig
    space: Space
    combinations: tuple[Point, ...] = ()


@dataclass(frozen=True)
class SamplerKind:
    """A sampler, and what it can read.

    Attributes:
        make: returns Optuna's sampler for one trial.
        package: a package that it needs and Optuna does not install.
        reads_constraints: it avoids trials that violate Optuna's constraints; for any other sampler they have
            the worst value.
        takes_several: it can optimize several objectives.
        takes_conditions: it models axes that are not in every trial.
        needs_combinations: it needs a finite space.
        remembers: the prefix of Optuna's system attributes in which it keeps its state from trial to trial.
    """

    make: Callable[[SamplerRequest], BaseSampler]
    package: str | None = None
    reads_constraints: bool = False
    takes_several: bool = False
    takes_conditions: bool = False
    needs_combinations: bool = False
    remembers: str | None = None


def sampler_kind(name: str) -> SamplerKind:
    """Return the sampler of this name.

    Args:
        name: a shipped one's, or `package.module:name` of a `SamplerKind` or of a function from a
            `SamplerRequest` to an Optuna sampler.

    Raises:
        ConfigError: the object cannot be imported, or a package that it needs is not installed.
    """
    if ":" in name:
        found = load_object(name, "search.sampler")
        if not isinstance(found, SamplerKind) and not callable(found):
            raise ConfigError(
                f"search.sampler '{name}' is {found!r}; it must be a function from a SamplerRequest to an "
                "Optuna sampler, or a SamplerKind."
            )
        kind = found if isinstance(found, SamplerKind) else SamplerKind(found)
    else:
        kind = SAMPLERS[name]
    if kind.package and importlib.util.find_spec(kind.package) is None:
        raise ConfigError(
            f"search.sampler '{name}' needs the package '{kind.package}': "
            "pip install 'loratune[samplers]', or choose tpe or random."
        )
    return kind


def check_sampler(search: SearchConfig, space: Space) -> None:
    """Check that the configured sampler can search the space.

    Raises:
        ConfigError: it cannot be imported, or cannot search conditional axes or several objectives.
        SpaceError: it needs a finite space, and the space is infinite or too large.
    """
    kind = sampler_kind(search.sampler)
    if space.is_conditional and not kind.takes_conditions:
        able = ", ".join(name for name, one in SAMPLERS.items() if one.takes_conditions)
        raise ConfigError(
            f"search.sampler '{search.sampler}' models one fixed set of axes and would draw axes with `when` "
            f"at random. Take one of {able}, or remove the conditions."
        )
    if len(search.objectives) > 1 and not kind.takes_several:
        able = ", ".join(name for name, one in SAMPLERS.items() if one.takes_several)
        raise ConfigError(
            f"search.sampler '{search.sampler}' optimizes one objective, and search.other_objectives adds "
            f"{', '.join(search.other_objectives)}. Take one of {able}, or leave one objective."
        )
    if kind.needs_combinations:
        space.combinations()


def fixed(params: Mapping[str, Any], sampler: BaseSampler) -> BaseSampler:
    """Return a sampler that takes `params`, in Optuna's names, as they are, and draws others by `sampler`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.PartialFixedSampler(dict(params), sampler)


class _NumberedQMCSampler(optuna.samplers.QMCSampler):
    """Optuna's, with a trial's place in the sequence given by its number instead of a count in the study."""

    def __init__(self, request: SamplerRequest) -> None:
        super().__init__(scramble=True, seed=request.search.seed, warn_independent_sampling=False)
        # The first trial defines the axes and is drawn independently.
        self._place = max(0, request.number - 1)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self._place


def _tpe(request: SamplerRequest) -> BaseSampler:
    """Multivariate, so that rank and rate are modeled together, and aware of trials that still run."""
    return optuna.samplers.TPESampler(
        n_startup_trials=request.search.startup_trials,
        multivariate=True,
        group=request.space.is_conditional,
        constant_liar=True,
        seed=request.seed,
    )


def _random(request: SamplerRequest) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=request.seed)


def _grid(request: SamplerRequest) -> BaseSampler:
    point = request.combinations[request.number % len(request.combinations)]
    return fixed(point.drawn, _random(request))


def _gp(request: SamplerRequest) -> BaseSampler:
    return RankGaussianProcessSampler(request.search.startup_trials, request.seed)


def _cmaes(request: SamplerRequest) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        n_startup_trials=request.search.startup_trials, seed=request.seed, warn_independent_sampling=False
    )


def _nsga2(request: SamplerRequest) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=_population(request), seed=request.seed)


def _nsga3(request: SamplerRequest) -> BaseSampler:
    return optuna.samplers.NSGAIIISampler(population_size=_population(request), seed=request.seed)


def _population(request: SamplerRequest) -> int:
    """The first population is drawn at random; Optuna's 50 would be most of a search."""
    return max(2, request.search.startup_trials)


SAMPLERS: Mapping[str, SamplerKind] = {
    "tpe": SamplerKind(_tpe, reads_constraints=True, takes_several=True, takes_conditions=True),
    "random": SamplerKind(_random, takes_several=True, takes_conditions=True),
    "grid": SamplerKind(_grid, takes_several=True, takes_conditions=True, needs_combinations=True),
    "gp": SamplerKind(_gp, package="scipy", reads_constraints=True),
    "cmaes": SamplerKind(_cmaes, package="cmaes", remembers="cma:"),
    "qmc": SamplerKind(_NumberedQMCSampler, package="scipy", takes_several=True),
    "nsga2": SamplerKind(_nsga2, reads_constraints=True, takes_several=True, remembers="NSGAIISampler:"),
    "nsga3": SamplerKind(_nsga3, reads_constraints=True, takes_several=True, remembers="NSGAIIISampler:"),
}
"""The shipped samplers by name. `tune.sections.SAMPLERS` lists the same names."""
