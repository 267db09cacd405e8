"""What a search has taught, in words with numbers: pure functions of the study and the space."""

import math
import random
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial

from trainable.objective import Objective
from trainable.records import TrialState
from tune.read.format import counted, score, setting
from tune.store.reader import ExperimentData
from tune.store.study_trial import StudyTrial

_TOP_SHARE = 0.1
_LEAST_TOP = 3
_LEAST_FOR_IMPORTANCE = 8
_FEW = 30
_MANY = 300
_RESAMPLES = 20
_AGREE = 0.8
_EDGE = 0.05
"""The outer share of a range that counts as its edge."""


@dataclass(frozen=True)
class Learnt:
    """What a search has taught.

    Attributes:
        sentences: in the order in which they matter.
        importance: the share of each searched parameter; empty where there are too few trials.
        caution: how far the importance can be trusted.
        regions: of each searched parameter, the range of the best trials.
        wider: axes whose best values lie at an edge, and the range to try.
    """

    sentences: Sequence[str]
    importance: Mapping[str, float]
    caution: str | None
    regions: Sequence["Region"]
    wider: Mapping[str, str]


@dataclass(frozen=True)
class Region:
    """The values of one searched parameter among the best trials.

    Attributes:
        name: Optuna's.
        low: the lowest value.
        median: the middle one.
        high: the highest.
        space: the lowest and the highest that can be drawn.
        trials: how many trials this rests on.
    """

    name: str
    low: float
    median: float
    high: float
    space: tuple[float, float]
    trials: int


def learn(data: ExperimentData) -> Learnt:
    """Return what an experiment has taught so far."""
    completed = _completed(data)
    importance, caution = _importance(completed, data.objective)
    top = completed[: max(_LEAST_TOP, math.ceil(len(completed) * _TOP_SHARE))]
    regions = _regions([trial.frozen for trial in top]) if len(completed) >= 2 * _LEAST_TOP else []
    wider = _wider(top[0].frozen, regions) if top and regions else {}
    sentences = [*_sure(completed, data.objective), *_would_more_pay(completed, data.objective)]
    if importance:
        first = next(iter(importance))
        share = f"{importance[first]:.0%} of what separates good trials from bad ones"
        sentences.append(
            f"{first} seems to matter most, with {share}. {caution}"
            if caution
            else f"{first} mattered most, with {share}."
        )
    sentences += [f"The best trials lie at the edge of {axis}: {hint}." for axis, hint in wider.items()]
    sentences += _failures(data)
    return Learnt(sentences, importance, caution, regions, wider)


def _completed(data: ExperimentData) -> list[StudyTrial]:
    """Return the trials that trained to their end, best first; others were not judged at full length."""
    done = [
        trial
        for trial in data.study_trials
        if trial.state is TrialState.COMPLETED and trial.frozen.value is not None and trial.has_params
    ]
    return sorted(done, key=lambda trial: data.objective.cost(_value(trial)))


def _value(trial: StudyTrial) -> float:
    value = trial.frozen.value
    assert value is not None
    return value


def _importance(completed: Sequence[StudyTrial], objective: Objective) -> tuple[dict[str, float], str | None]:
    """Return each parameter's share by PED-ANOVA (Watanabe et al., 2023), and how sure the order is."""
    trials = [trial.frozen for trial in completed]
    names = {name for trial in trials for name in trial.params}
    if len(trials) < _LEAST_FOR_IMPORTANCE or not names or len({trial.value for trial in trials}) < 2:
        return {}, f"{counted(len(trials), 'completed trial')} are too few to rank the parameters."
    shares = _shares(trials, objective)
    if not shares:
        return {}, "The trials have no parameter in common, so parameters cannot be ranked."
    first, caution = next(iter(shares)), None
    # The estimate looks at the best tenth of the trials, which are few: would others have said the same?
    chance = random.Random(0)
    drawn = [chance.choices(trials, k=len(trials)) for _ in range(_RESAMPLES if len(trials) <= _MANY else 0)]
    led = [next(iter(found)) for sample in drawn if (found := _shares(sample, objective))]
    if led and led.count(first) < _AGREE * len(led):
        caution = (
            f"That is not sure: in {len(led) - led.count(first)} of {len(led)} random redraws of the trials "
            "another parameter led."
        )
    elif len(trials) < _FEW:
        caution = f"It rests on {len(trials)} completed trials only; take it as a hint."
    return shares, caution


def _shares(trials: Sequence[FrozenTrial], objective: Objective) -> dict[str, float]:
    """Return the shares by the parameters' own names, largest first; empty where they cannot be computed."""
    study = optuna.create_study(direction=objective.optuna_direction)
    study.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError):
            return {}
    finite = {_key(name): share for name, share in shares.items() if math.isfinite(share)}
    return dict(sorted(finite.items(), key=lambda item: -item[1]))


def _regions(top: Sequence[FrozenTrial]) -> list[Region]:
    regions = []
    for name in dict.fromkeys(name for trial in top for name in trial.params):
        distribution = next(trial.distributions[name] for trial in top if name in trial.distributions)
        drawn = [trial.params[name] for trial in top if name in trial.params]
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        values = sorted(_natural(name, value) for value in drawn)
        space = _natural(name, distribution.low), _natural(name, distribution.high)
        regions.append(
            Region(_key(name), values[0], statistics.median(values), values[-1], space, len(values))
        )
    return regions


def _wider(best: FrozenTrial, regions: Sequence[Region]) -> dict[str, str]:
    """Return the axes where both the best trial and the middle of the best ones lie at the same edge."""
    hints = {}
    by_name = {region.name: region for region in regions}
    for name, distribution in best.distributions.items():
        region = by_name.get(_key(name))
        if region is None or not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        if region.space[0] == region.space[1]:
            continue
        is_power = name.startswith("log2(")
        log = distribution.log or is_power
        place = _place(_natural(name, best.params[name]), region.space, log)
        middle = _place(region.median, region.space, log)
        low, high = region.space
        if place >= 1 - _EDGE and middle >= 1 - 4 * _EDGE:
            further = high * (2 if is_power else 4) if log else high + (high - low) / 2
            hints[region.name] = f"the range ends at {setting(high)}; try up to {setting(further)}"
        elif place <= _EDGE and middle <= 4 * _EDGE:
            further = low / (2 if is_power else 4) if log else low - (high - low) / 2
            if (low > 0 and further <= 0) or (is_power and further < 1):
                continue
            hints[region.name] = f"the range begins at {setting(low)}; try from {setting(further)}"
    return hints


def _sure(completed: Sequence[StudyTrial], objective: Objective) -> list[str]:
    if len(completed) < 2:
        return ["With fewer than two completed trials there is nothing to compare the best one with."]
    first, second = _value(completed[0]), _value(completed[1])
    gap = abs(first - second)
    spread = abs(_value(completed[len(completed) // 2]) - first)
    near = sum(abs(_value(trial) - first) <= 0.01 * abs(first) for trial in completed[1:])
    text = (
        f"The best completed trial leads the second by {score(gap)} in {objective.metric}, "
        f"and the middle of {len(completed)} completed trials by {score(spread)}."
    )
    if near:
        text += (
            f" {counted(near, 'other trial')} came within 1 %: each setting was tried with one seed, "
            "so take these as equally good."
        )
    return [text]


def _would_more_pay(completed: Sequence[StudyTrial], objective: Objective) -> list[str]:
    """Compare the best of the first two thirds of the trials with that of all."""
    if len(completed) < 9:
        return [f"Only {counted(len(completed), 'completed trial')}: more trials are likely to find better."]
    in_order = sorted(completed, key=lambda trial: (trial.ended or 0.0, trial.number))
    early = in_order[: 2 * len(in_order) // 3]
    before = min((_value(trial) for trial in early), key=objective.cost)
    now, middle = _value(completed[0]), _value(completed[len(completed) // 2])
    gained, spread = abs(now - before), abs(middle - now)
    late = len(in_order) - len(early)
    if not objective.is_better(now, before):
        return [f"The last {late} completed trials brought nothing better: more of the same will hardly pay."]
    share = gained / spread if spread else 0.0
    verdict = "more trials will probably pay" if share > 0.1 else "more trials would pay little"
    return [f"The last {late} completed trials improved the best by {score(gained)}: {verdict}."]


def _failures(data: ExperimentData) -> list[str]:
    ended = [trial for trial in data.trials if trial.state.is_terminal]
    bad = [t for t in ended if t.state in (TrialState.FAILED, TrialState.OOM, TrialState.DIVERGED)]
    if not bad or len(bad) < 0.2 * len(ended):
        return []
    return [f"{len(bad)} of {len(ended)} trials failed, diverged or ran out of memory: narrow the space."]


def _natural(name: str, drawn: Any) -> float:
    """Return the value that a person knows: a rank, not its exponent."""
    return float(2**drawn) if name.startswith("log2(") else float(drawn)


def _key(name: str) -> str:
    return name.removeprefix("log2(").removesuffix(")") if name.startswith("log2(") else name


def _place(value: float, space: tuple[float, float], log: bool) -> float:
    """Return where a value lies in its range, from 0 to 1."""
    low, high = (math.log(end) for end in space) if log else space
    return ((math.log(value) if log else value) - low) / (high - low)
