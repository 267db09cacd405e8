"""Draws the next trial of a search: a known point, or what the sampler suggests; never the same one twice."""

import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler

from search_spaces import Space
from search_spaces.space import Point
from trainable.objective import Objective
from tune.search.samplers import SamplerRequest, sampler_kind
from tune.search.sampling_view import sampling_view
from tune.sections import SearchConfig
from tune.store.study_trial import StudyTrial

MAX_ENUMERATED = 10_000
"""A space with at most this many points is enumerated to find those that are still untried."""
_ATTEMPTS = 4
"""A sampler whose suggestion was tried before is asked this many times in all, each with another seed."""
_DRAWS = 100
"""Random draws for an untried point of a larger space before it counts as exhausted."""


@dataclass(frozen=True)
class Draw:
    """A trial as it was drawn.

    Attributes:
        point: its parameters.
        distributions: what they were drawn from, by Optuna's names.
        sampler_attrs: what the sampler has to find again at a later trial.
        enqueued: the known point that it was made from; `None` for a suggestion.
    """

    point: Point
    distributions: Mapping[str, BaseDistribution]
    sampler_attrs: Mapping[str, Any] = field(default_factory=dict)
    enqueued: Mapping[str, Any] | None = None


class Sampling:
    """Draws trials. What it draws is a function of the seed, the trial's number and the trials before it."""

    def __init__(
        self,
        search: SearchConfig,
        space: Space,
        objectives: Sequence[Objective],
        first: Mapping[str, Any] | None = None,
        earlier: Sequence[StudyTrial] = (),
    ) -> None:
        """Draw from a space as `search` says.

        Args:
            search: how trials are drawn.
            space: what they are drawn from.
            objectives: what the search optimizes; trials are compared by the first.
            first: the space's first point, as `Space.first_point` returns it.
            earlier: trials of other experiments that the sampler learns from.
        """
        self._search = search
        self._space = space
        self._objectives = objectives
        self._kind = sampler_kind(search.sampler)
        self._first = first
        self._earlier = tuple(earlier)
        self._identities: dict[int, str] = {}

    def draw(self, trials: Sequence[StudyTrial], enqueued: Sequence[Mapping[str, Any]] = ()) -> Draw | None:
        """Return the next trial; `None` if every configuration of the space has been tried.

        Args:
            trials: all trials before it.
            enqueued: known points by dotted key that come before those of the configuration.
        """
        tried = {self._identity_of(trial) for trial in trials if trial.tells_about_its_configuration}
        if self._points and tried.issuperset(self._points):
            return None
        for point in self._known(trials, enqueued):
            draw = self._suggest(trials, point)
            if _identity(draw.point.params) not in tried:
                return draw
        for attempt in range(_ATTEMPTS):
            draw = self._suggest(trials, attempt=attempt)
            if _identity(draw.point.params) not in tried:
                return draw
        untried = self._untried(draw.point, tried, _number(trials))
        return None if untried is None else self._draw_of(untried)

    def _identity_of(self, trial: StudyTrial) -> str:
        """Return what no other trial may share; a trial's parameters never change."""
        if trial.number not in self._identities:
            self._identities[trial.number] = _identity(trial.params)
        return self._identities[trial.number]

    def complete(self, before: Sequence[StudyTrial], drawn: Mapping[str, Any]) -> Draw:
        """Draw a trial of which some parameters, by Optuna's names, are drawn already.

        Args:
            before: the trials before it.
            drawn: the parameters that it has.
        """
        suggested = self._suggest(before)
        values = {**suggested.point.drawn, **drawn}
        return self._draw_of(self._space.resolve(lambda name, _: values[name]), suggested.sampler_attrs)

    def _suggest(
        self, trials: Sequence[StudyTrial], enqueued: Mapping[str, Any] | None = None, attempt: int = 0
    ) -> Draw:
        number = _number(trials)
        seed = _seed(self._search.seed, number, *([attempt] if attempt else []))
        request = SamplerRequest(seed, number, self._search, self._space, self._combinations)
        sampler = _quietly_made(self._kind.make, request)
        view = sampling_view(
            [*self._earlier, *trials],
            self._space.distributions,
            self._objectives,
            sampler,
            reads_constraints=self._kind.reads_constraints,
        )
        point = self._space.suggest(view.ask(), enqueued)
        return self._draw_of(point, self._remembered(view), enqueued)

    def _draw_of(
        self,
        point: Point,
        sampler_attrs: Mapping[str, Any] | None = None,
        enqueued: Mapping[str, Any] | None = None,
    ) -> Draw:
        distributions = {name: self._space.distributions[name] for name in point.drawn}
        return Draw(point, distributions, sampler_attrs or {}, enqueued)

    def _remembered(self, view: optuna.Study) -> dict[str, Any]:
        if self._kind.remembers is None:
            return {}
        attrs = view.get_trials(deepcopy=False)[-1].system_attrs
        return {key: value for key, value in attrs.items() if key.startswith(self._kind.remembers)}

    def _known(
        self, trials: Sequence[StudyTrial], enqueued: Sequence[Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        """Return the known points that no trial was made from yet."""
        used = [_identity(trial.enqueued) for trial in trials if trial.enqueued is not None]
        points = [*enqueued]
        points += [
            self._space.known_point(point, f"search.enqueue[{place}]")
            for place, point in enumerate(self._search.enqueue)
        ]
        points += [self._first] if self._first is not None else []
        return [point for point in points if _identity(point) not in used]

    @functools.cached_property
    def _combinations(self) -> tuple[Point, ...]:
        """Every point, for a sampler that needs them."""
        return tuple(self._space.combinations()) if self._kind.needs_combinations else ()

    @functools.cached_property
    def _points(self) -> Mapping[str, Point]:
        """Every point of a small finite space by its identity; empty for any other."""
        size = self._space.size()
        small = size is not None and size <= MAX_ENUMERATED
        points = self._space.combinations() if small else self._combinations
        return {_identity(point.params): point for point in points}

    def _untried(self, suggested: Point, tried: set[str], number: int) -> Point | None:
        """Return an untried point: the nearest to the suggestion if all can be listed, else a random one."""
        if self._points:
            untried = [point for identity, point in self._points.items() if identity not in tried]
            order = np.random.default_rng(_seed(self._search.seed, number)).permutation(len(untried))
            return min((untried[place] for place in order), key=lambda point: self._gap(point, suggested))
        for point in random_points(self._space, _DRAWS, self._search.seed, number):
            if _identity(point.params) not in tried:
                return point
        return None

    def _gap(self, one: Point, other: Point) -> float:
        """Return the distance between two points; each axis adds at most 1."""
        names = {*one.drawn, *other.drawn}
        return sum(
            self._axis_gap(name, one.drawn[name], other.drawn[name])
            if name in one.drawn and name in other.drawn
            else 1.0
            for name in names
        )

    def _axis_gap(self, name: str, one: Any, other: Any) -> float:
        distribution = self._space.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            return float(one != other)
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return abs(one - other) / ((distribution.high - distribution.low) or 1)


def random_points(space: Space, count: int, *seed: int) -> list[Point]:
    """Return independent random points of a space, the same ones for the same seed."""
    # Optuna's own log lines would stand between a command's.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=RandomSampler(seed=_seed(*seed)))
    return [space.suggest(study.ask()) for _ in range(count)]


def _quietly_made(make: Callable[[SamplerRequest], BaseSampler], request: SamplerRequest) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make(request)


def _number(trials: Sequence[StudyTrial]) -> int:
    """Return how many trials were asked for; further attempts at one do not count."""
    return sum(trial.follows is None for trial in trials)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _identity(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True, default=str)
