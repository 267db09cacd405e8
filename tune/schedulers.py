"""Ray Tune's schedulers by the word that names them in `search.scheduler`."""

import math
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from trainable import records
from tune.config import SearchConfig


def grace_steps(search: SearchConfig, max_steps: int) -> int:
    """Return the optimiser steps that every trial gets before it can be stopped."""
    return max(1, math.ceil(search.grace_ratio * max_steps))


def rungs(search: SearchConfig, max_steps: int) -> list[int]:
    """Return the steps at which ASHA decides, in order; none for another scheduler."""
    if search.scheduler != "asha":
        return []
    found, step = [], float(grace_steps(search, max_steps))
    while step < max_steps:
        found.append(math.ceil(step))
        step *= search.reduction_factor
    return found


class _MedianStoppingRule(MedianStoppingRule):
    """Ray's, which would look for a score in the last record of a trial that diverged."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remember the last record if it is scored."""
        if self.metric in result:
            super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(search: SearchConfig, max_steps: int) -> TrialScheduler:
    """Return the configured scheduler.

    Args:
        search: names it, its objective and its patience.
        max_steps: optimiser steps of a whole trial.
    """
    judged = {"time_attr": records.STEP, "metric": search.metric, "mode": search.mode}
    grace = grace_steps(search, max_steps)
    match search.scheduler:
        case "asha":
            # A trial says itself that it is done: the scheduler stops only the weak ones.
            return AsyncHyperBandScheduler(
                **judged,
                max_t=max_steps,
                grace_period=grace,
                reduction_factor=search.reduction_factor,
                stop_last_trials=False,
            )
        case "median":
            return _MedianStoppingRule(**judged, grace_period=grace)
        case "none":
            return FIFOScheduler()
