"""What a search has taught, in words with numbers: pure functions of the study, the logs and the space.

Completed trials alone are compared: others were not judged at full length. A trial counts with its best
record, as in the leaderboard.
"""

import math
import random
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from trainable.records import TrialState
from tune.read.confirmed import sentence
from tune.read.format import counted, score, setting
from tune.read.report.completed import Done, axes, cells_of, key_of, natural, place_in
from tune.read.report.edges import BY_CHANCE, wider_ranges
from tune.search.confirm import Verdict
from tune.sections import SearchConfig
from tune.store.reader import ExperimentData

_TOP_SHARE = 0.1
_LEAST_TOP = 3
_LEAST_FOR_IMPORTANCE = 8
_LEAST_FOR_MORE = 9
_FEW = 30
_MANY = 300
_RESAMPLES = 20
_AGREE = 0.8
_LITTLE = 0.02
"""A gain below this share of the lead over the middle trial is little."""


@dataclass(frozen=True)
class Region:
    """The values of one searched parameter among the best trials.

    Attributes:
        name: its dotted key.
        low: the lowest value.
        median: the middle one.
        high: the highest.
        space: the lowest and the highest that can be drawn.
        share: the part of the range that the best trials span, from 0 to 1; of a logarithmic axis, of its
            logarithm.
        narrowed: whether as many trials drawn at random would seldom lie so close together.
        trials: how many trials this rests on.
    """

    name: str
    low: float
    median: float
    high: float
    space: tuple[float, float]
    share: float
    narrowed: bool
    trials: int


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
    regions: Sequence[Region]
    wider: Mapping[str, str]


def learn(data: ExperimentData, verdict: Verdict | None = None) -> Learnt:
    """Return what an experiment has taught so far.

    Args:
        data: the experiment.
        verdict: what training its best configurations with other seeds has shown.
    """
    done = _completed(data)
    scored = [one for one in done if one.value is not None]
    values = [one.value for one in scored if one.value is not None]
    importance, caution = _importance(done)
    top = scored[: max(_LEAST_TOP, math.ceil(len(scored) * _TOP_SHARE))]
    regions = _regions(top) if len(scored) >= 2 * _LEAST_TOP else []
    wider = wider_ranges(scored, top) if regions else {}
    sentences = [_sure(values, data, verdict)]
    sentences += [] if verdict is None else [sentence(verdict)]
    sentences += [*_narrowed(regions), *_would_more_pay(scored, verdict)]
    if importance:
        first = next(iter(importance))
        share = f"{importance[first]:.0%} of what separates good trials from bad ones"
        sentences.append(
            f"{first} seems to matter most, with {share}. {caution}"
            if caution
            else f"{first} mattered most, with {share}."
        )
    sentences += [f"The best trials lie at the edge of {axis}: {hint}." for axis, hint in wider.items()]
    if len(scored) < len(done):
        bounds = " and ".join(map(str, data.objective.constraints))
        sentences.append(
            f"{len(done) - len(scored)} of {len(done)} completed trials never kept {bounds}: they are not "
            "among the best, whatever their score."
        )
    sentences += _failures(data)
    return Learnt(sentences, importance, caution, regions, wider)


def _completed(data: ExperimentData) -> list[Done]:
    """Return the trials that trained to their end, best first; one beyond a bound comes after the others."""
    study = {trial.number: trial for trial in data.study_trials}
    done = []
    for trial in data.trials:
        stored, objective = study[trial.number], data.objective
        judged = [cost for record in trial.records if not math.isnan(cost := objective.judged(record))]
        if trial.state is TrialState.COMPLETED and judged and stored.has_params:
            value = objective.value(trial.best_metrics)
            done.append(Done(stored.frozen, trial.number, stored.ended or 0.0, value, min(judged)))
    return sorted(done, key=lambda one: one.judged)


def _importance(done: Sequence[Done]) -> tuple[dict[str, float], str | None]:
    """Return each parameter's share by PED-ANOVA (Watanabe et al., 2023), and how sure the order is."""
    names = {name for one in done for name in one.frozen.params}
    if len(done) < _LEAST_FOR_IMPORTANCE or not names or len({one.judged for one in done}) < 2:
        are = "is" if len(done) == 1 else "are"
        return {}, f"{counted(len(done), 'completed trial')} {are} too few to rank the parameters."
    trials = [
        create_trial(
            value=one.judged,
            params=one.frozen.params,
            distributions=one.frozen.distributions,
        )
        for one in done
    ]
    shares = _shares(trials)
    if not shares:
        return {}, "The trials have no parameter in common, so parameters cannot be ranked."
    first, caution = next(iter(shares)), None
    # The estimate looks at the best tenth of the trials, which are few: would others have said the same?
    chance = random.Random(0)
    drawn = [chance.choices(trials, k=len(trials)) for _ in range(_RESAMPLES if len(trials) <= _MANY else 0)]
    led = [next(iter(found)) for sample in drawn if (found := _shares(sample))]
    if led and led.count(first) < _AGREE * len(led):
        caution = (
            f"That is not sure: in {len(led) - led.count(first)} of {len(led)} random redraws of the trials "
            "another parameter led."
        )
    elif len(trials) < _FEW:
        caution = f"It rests on {len(trials)} completed trials only; take it as a hint."
    return shares, caution


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the shares by the parameters' own names, largest first; empty where they cannot be computed."""
    study = optuna.create_study(direction="minimize")
    study.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError):
            return {}
    finite = {key_of(name): share for name, share in shares.items() if math.isfinite(share)}
    return dict(sorted(finite.items(), key=lambda item: -item[1]))


def _regions(top: Sequence[Done]) -> list[Region]:
    regions = []
    for name, distribution in axes(top).items():
        drawn = sorted(one.frozen.params[name] for one in top if name in one.frozen.params)
        cells = cells_of(distribution)
        # On a grid a value stands for its cell.
        wide = 1 / cells if cells else 0.0
        span = place_in(distribution, drawn[-1]) - place_in(distribution, drawn[0])
        share = span * (1 - wide) + wide
        low, middle, high = (natural(name, v) for v in (drawn[0], statistics.median(drawn), drawn[-1]))
        space = natural(name, distribution.low), natural(name, distribution.high)
        narrowed = _chance_of_span(share, len(drawn)) < BY_CHANCE
        regions.append(Region(key_of(name), low, middle, high, space, share, narrowed, len(drawn)))
    return regions


def _narrowed(regions: Sequence[Region]) -> list[str]:
    """Return what the best trials agree on, and what they leave open."""
    sentences = []
    for one in regions:
        if one.narrowed:
            values = f"{setting(one.low)} to {setting(one.high)}, with {setting(one.median)} in the middle"
            sentences.append(
                f"The best {one.trials} completed trials agree on {one.name}: "
                f"{values if one.low < one.high else setting(one.low)}, {one.share:.0%} of its range."
            )
    if left := [one.name for one in regions if not one.narrowed]:
        sentences.append(
            f"{', '.join(left)}: the best trials are spread as widely as trials drawn at random, so the "
            "best values are not known yet, or do not matter."
        )
    return sentences


def _chance_of_span(share: float, count: int) -> float:
    """Return how often `count` uniform draws span no more than a share of their range (order statistics)."""
    return count * share ** (count - 1) - (count - 1) * share**count


def _sure(values: Sequence[float], data: ExperimentData, verdict: Verdict | None) -> str:
    """Return by how much the best value leads; `values` come best first."""
    if len(values) < 2:
        return "With fewer than two completed trials there is nothing to compare the best one with."
    gap, spread = abs(values[0] - values[1]), abs(values[len(values) // 2] - values[0])
    text = (
        f"The best completed trial leads the second by {score(gap)} in {data.objective.metric}, "
        f"and the middle of {len(values)} completed trials by {score(spread)}."
    )
    noise = None if verdict is None or math.isnan(verdict.noise) else verdict.noise
    within = 0.01 * abs(values[0]) if noise is None else noise
    near = sum(abs(value - values[0]) <= within for value in values[1:])
    if near and noise is None:
        name = data.store.typed(SearchConfig().results_dir)
        text += (
            f" {counted(near, 'other trial')} came within 1 %: each setting was tried with one seed, "
            f"so take these as equally good, or compare them with other seeds: loratune confirm {name}"
        )
    elif near:
        text += f" {counted(near, 'other trial')} came as close as another seed brings one setting."
    return text


def _would_more_pay(scored: Sequence[Done], verdict: Verdict | None) -> list[str]:
    """Return what half as many trials again would bring.

    What the last third in fact brought says little: a lucky find makes a further one less likely.
    """
    count = len(scored)
    if count < _LEAST_FOR_MORE:
        return [f"Only {counted(count, 'completed trial')}: more trials are likely to find better."]
    costs = [one.judged for one in scored]
    early = 2 * count // 3
    in_order = sorted(scored, key=lambda one: (one.ended, one.number))
    gained = min(one.judged for one in in_order[:early]) - costs[0]
    late = f"The last {count - early} completed trials "
    late += f"improved the best by {score(gained)}" if gained > 0 else "brought nothing better"
    gain, spread = expected_gain(costs), costs[count // 2] - costs[0]
    outlook = f"{late}. {count - early} more would improve it by about {score(gain)}"
    if verdict is not None and gain < verdict.noise:
        return [f"{outlook}, less than another seed changes: more of the same will hardly pay."]
    if gain <= _LITTLE * spread:
        return [f"{outlook}: more of the same will hardly pay."]
    return [
        f"{outlook}, {gain / spread:.0%} of its lead over the middle trial; by more if the sampler has "
        "learnt where to look."
    ]


def expected_gain(costs: Sequence[float]) -> float:
    """Return the gain that half as many trials again can be expected to bring, if they are drawn alike.

    The mean best of a subset is known exactly for every size. What growing the subset by half brought last is
    carried forward, shrunk by the ratio of the last two gains.

    Args:
        costs: of the trials, in ascending order.
    """
    sizes = [len(costs) * 4 // 9, len(costs) * 2 // 3, len(costs)]
    first, second, all_of_them = (_mean_best(costs, size) for size in sizes)
    before, last = first - second, second - all_of_them
    return last * min(last / before, 1.0) if before > 0 else 0.0


def _mean_best(costs: Sequence[float], size: int) -> float:
    """Return the lowest cost of a random subset, on average over all subsets of a size."""
    count, mean = len(costs), 0.0
    # That the subset has this cost and none of the lower ones.
    chance = size / count
    for place, cost in enumerate(costs[: count - size + 1]):
        mean += cost * chance
        chance *= (count - place - size) / max(count - place - 1, 1)
    return mean


def _failures(data: ExperimentData) -> list[str]:
    ended = [trial for trial in data.trials if trial.state.is_terminal]
    bad = [t for t in ended if t.state in (TrialState.FAILED, TrialState.OOM, TrialState.DIVERGED)]
    if not bad or len(bad) < 0.2 * len(ended):
        return []
    return [f"{len(bad)} of {len(ended)} trials failed, diverged or ran out of memory: narrow the space."]
