"""A discrete-event simulation of a search: the real searcher and scheduler, and trials that replay curves.

`workers` trials run at once on one device. The queue holds each trial's next evaluation; a trial's speed
varies by some percent from interval to interval, so that trials do not stay in step. What is counted:

- training: evaluation intervals of all trials, in units of a full trial;
- packed time: a step of a pack of w trials takes `1 + SATURATION * (w - 1)` times that of one; in units of
  what a full trial takes alone.
"""

import heapq
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from benchmarks.workloads import Curve, Params, Workload

SATURATION = 0.15
"""What each further trial of a pack adds to the time of a step: the device is far from saturated."""
_JITTER = 0.05


class Search(ABC):
    """A searcher and a scheduler, driven by a simulation."""

    @abstractmethod
    def ask(self) -> tuple[str, Params] | None:
        """Return a new trial and its configuration; `None` if there is nothing more to try."""

    @abstractmethod
    def report(self, trial_id: str, evaluation: int, loss: float) -> bool:
        """Report an evaluation that is not the last; returns whether the trial continues.

        Args:
            trial_id: a running trial.
            evaluation: its number, from 1.
            loss: its value.
        """

    @abstractmethod
    def end(self, trial_id: str, evaluation: int, loss: float | None, state: str) -> None:
        """Report a trial's end.

        Args:
            trial_id: a running trial.
            evaluation: evaluations that it has had.
            loss: the last one's value; `None` where there was none or it was not finite.
            state: `completed`, `diverged` or `oom`.
        """


@dataclass
class Trace:
    """The best loss so far, as training and packed time were spent.

    Attributes:
        training: of each evaluation, in full trials.
        packed: the same in packed time.
        best: the best loss of any evaluation up to then.
        trials: trials begun.
        full: trials that trained to their ends.
    """

    training: list[float] = field(default_factory=list)
    packed: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    trials: int = 0
    full: int = 0

    def regret(self, axis: str, budget: float, optimum: float) -> float:
        """Return the best loss that a budget buys, less the optimum; infinite if it buys none."""
        place = np.searchsorted(getattr(self, axis), budget + 1e-9, side="right") - 1
        return max(0.0, self.best[place] - optimum) if place >= 0 else math.inf


@dataclass
class _Running:
    trial_id: str
    curve: Curve
    evaluation: int = 0


def simulate(search: Search, workload: Workload, *, workers: int, budget: float, seed: int) -> Trace:
    """Run a search until its trials have trained for as long as `budget` full trials."""
    random = np.random.default_rng((seed, 77))
    trace = Trace()
    queue: list[tuple[float, int, _Running]] = []
    now, serial, training, packed, best = 0.0, 0, 0.0, 0.0, math.inf
    asking = True
    while True:
        while asking and len(queue) < workers:
            asked = search.ask()
            if asked is None:
                asking = False
                break
            trace.trials += 1
            running = _Running(asked[0], workload.curve(asked[1]))
            if running.curve.state == "oom":
                search.end(running.trial_id, 0, None, "oom")
                continue
            serial += 1
            heapq.heappush(queue, (now + _interval(random), serial, running))
        if not queue or training >= budget:
            return trace
        then, _, running = heapq.heappop(queue)
        width = len(queue) + 1
        # All trials of the pack have trained through this stretch; the one that reports has done an interval.
        packed += (then - now) * (1 + SATURATION * (width - 1)) / workload.evaluations
        now = then
        training += 1 / workload.evaluations
        running.evaluation += 1
        losses = running.curve.losses
        if running.evaluation > len(losses):
            search.end(running.trial_id, running.evaluation - 1, None, "diverged")
            continue
        loss = losses[running.evaluation - 1]
        best = min(best, loss)
        trace.training.append(training)
        trace.packed.append(packed)
        trace.best.append(best)
        if running.evaluation == len(losses) and running.curve.state == "completed":
            trace.full += 1
            search.end(running.trial_id, running.evaluation, loss, "completed")
        elif search.report(running.trial_id, running.evaluation, loss):
            serial += 1
            heapq.heappush(queue, (now + _interval(random), serial, running))


def _interval(random: np.random.Generator) -> float:
    return float(np.exp(_JITTER * random.standard_normal()))
