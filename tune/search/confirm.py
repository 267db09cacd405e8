"""Trains the best configurations of a search again with other seeds, to see whether the lead is luck.

The best of many trials looks better than it is: its seed was lucky too. The value that the search saw is
therefore left out of the comparison, which rests on the new seeds alone. The runs are an experiment of their
own, `NAME-confirm-3x3` for three configurations with three seeds each, and train packed together.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainable.errors import ConfigError, ExperimentError
from trainable.objective import Objective
from trainable.places import parent_of
from tune.config import Config
from tune.store.reader import ExperimentData, TrialView

SEED = "training.seed"
_CONFIDENCE = 1.959964
"""The normal quantile of a two-sided level of 95 %."""


@dataclass(frozen=True)
class Confirmed:
    """One configuration with its new runs.

    Attributes:
        trial: the search's trial with this configuration.
        values: the objective of each new run, in the order of the seeds; failed runs are left out.
        failed: runs without a finite objective.
    """

    trial: TrialView
    values: Sequence[float]
    failed: int

    @property
    def mean(self) -> float:
        """The mean of the new runs; NaN without any."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; `None` with fewer than two runs."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Verdict:
    """What the new runs say.

    Attributes:
        configurations: best mean first; those without a run last.
        noise: the standard deviation over seeds, pooled over the configurations.
        lead: by how much the best mean is better than the second.
        least_lead: a smaller lead would be noise, at a level of 95 %.
    """

    configurations: Sequence[Confirmed]
    noise: float
    lead: float
    least_lead: float

    @property
    def is_clear(self) -> bool:
        """Whether the winner's lead exceeds what seeds alone make."""
        return self.lead > self.least_lead


def confirmation(data: ExperimentData, top: int, seeds: int) -> Config:
    """Return the configuration of the experiment that confirms a search.

    Args:
        data: the search.
        top: how many of its best configurations are trained again.
        seeds: how many new seeds each is trained with.

    Raises:
        ConfigError: fewer than two seeds, which show no noise.
        ExperimentError: no trial of the search has a score.
    """
    if seeds < 2:
        raise ConfigError(f"--seeds {seeds}: at least 2 are needed to see how much a seed changes.")
    config = data.config
    points = [_whole(config, trial, data) for trial in best_trials(data, top)]
    first = config.training.seed + 1
    runs = [{**point, SEED: seed} for seed in range(first, first + seeds) for point in points]
    axes = {key: _axis([run[key] for run in runs]) for key in runs[0]}
    searched = [key for key, axis in axes.items() if axis["type"] == "choice"]
    search = {
        "name": f"{config.search.name}-confirm-{len(points)}x{seeds}",
        "space": axes,
        "enqueue": [{key: run[key] for key in searched} for run in runs],
        "num_trials": len(runs),
        "sampler": "random",
        "scheduler": "none",
        "target": None,
        "patience": None,
        "min_improvement": None,
        "results_dir": parent_of(data.store.place),
    }
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


def best_trials(data: ExperimentData, top: int) -> list[TrialView]:
    """Return a search's best trials, one for each configuration.

    Raises:
        ExperimentError: no trial has a score.
    """
    found: list[TrialView] = []
    for trial in data.leaderboard():
        same = any(_without_seed(trial.params) == _without_seed(other.params) for other in found)
        if trial.best_metrics and not same:
            found.append(trial)
    if not found:
        raise ExperimentError(f"no trial of '{data.store.name}' has scored {data.objective.metric}.")
    return found[:top]


def judge(searched: ExperimentData, confirmed: ExperimentData, top: int) -> Verdict:
    """Compare the configurations by their new runs.

    The noise is the pooled standard deviation s over n runs of each configuration; a lead is clear where it
    exceeds t * s * sqrt(2 / n) with Student's t of the pooled degrees of freedom.
    """
    objective = searched.objective
    configurations = []
    for trial in best_trials(searched, top):
        runs = [one for one in confirmed.trials if _is_run_of(searched, trial, one)]
        values = [value for one in runs if (value := objective.value(one.best_metrics)) is not None]
        configurations.append(Confirmed(trial, values, len(runs) - len(values)))
    configurations.sort(key=lambda one: (not one.values, objective.cost(one.mean) if one.values else 0.0))
    repeated = [one for one in configurations if one.spread is not None]
    freedom = sum(len(one.values) - 1 for one in repeated)
    squares = sum((one.spread or 0.0) ** 2 * (len(one.values) - 1) for one in repeated)
    noise = math.sqrt(squares / freedom) if freedom else math.nan
    if len(repeated) < 2:
        return Verdict(configurations, noise, math.nan, math.nan)
    best, second = repeated[:2]
    error = noise * math.sqrt(1 / len(best.values) + 1 / len(second.values))
    return Verdict(configurations, noise, _lead(objective, best, second), _student_t(freedom) * error)


def _lead(objective: Objective, best: Confirmed, second: Confirmed) -> float:
    return objective.cost(second.mean) - objective.cost(best.mean)


def _student_t(freedom: int) -> float:
    """Return Student's t for a two-sided level of 95 % (Abramowitz and Stegun 26.7.5; below 3 exact)."""
    if freedom < 3:
        return (12.7062, 4.3027)[freedom - 1]
    z = _CONFIDENCE
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _whole(config: Config, trial: TrialView, data: ExperimentData) -> dict[str, Any]:
    """Return a trial's values for every key that any trial of the search had as an axis."""
    keys = {key: None for one in data.trials for key in one.params}
    start = config.model_dump(mode="json")

    def value(key: str) -> Any:
        section, _, name = key.partition(".")
        return trial.params[key] if key in trial.params else start[section][name]

    return {key: value(key) for key in keys if key != SEED}


def _is_run_of(searched: ExperimentData, trial: TrialView, run: TrialView) -> bool:
    return _whole(searched.config, trial, searched) == _without_seed(run.params)


def _without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != SEED}


def _axis(values: Sequence[Any]) -> dict[str, Any]:
    different: list[Any] = []
    for value in values:
        if value not in different:
            different.append(value)
    if len(different) == 1:
        return {"type": "constant", "value": different[0]}
    return {"type": "choice", "values": different}
