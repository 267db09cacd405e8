"""What a long search costs besides training: the time of a suggestion, the study's journal, and memory.

    python -m benchmarks.scale [--trials 1000 10000] [--samplers tpe gp] [--repeats 10] [--fleet 1600]

A study is filled with trials that ended without training: a tenth completed, the others pruned after two
evaluations, which is about what ASHA leaves. Then the searcher itself suggests `--repeats` trials. Printed,
and with `--save` written to `benchmarks/results/scale.json`: the median time of a suggestion by the number of
trials, the journal's size, and the time and memory that opening it takes.

With `--fleet`, as many trials run at once in a simulation, as on 200 devices of 8 slots, until the largest
number of `--trials` has ended: the real searcher, scheduler and journal, and learning curves in place of
training. Ray's own event loop is not part of it. Measured are the time to the first suggestion, decisions
(suggestions, reports and ends) a second, and the process's memory.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.arms import Own
from benchmarks.record import write_result
from benchmarks.simulator import simulate
from benchmarks.workloads import Params, smooth
from search_spaces import Space
from trainable.config import TrialConfig
from trainable.objective import Objective
from trainable.records import Outcome, TrialState
from tune.search.sampling import random_points
from tune.search.searcher import OptunaSearcher
from tune.sections import SearchConfig
from tune.store.study import StudyStore

_OBJECTIVE = Objective("eval/loss", "min")
_STEPS = (10, 20)


def main() -> None:
    """Fill, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random", "gp"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--fleet", type=int, help="trials at once in the simulation")
    parser.add_argument("--save", action="store_true")
    wanted = parser.parse_args()
    found: dict[str, Any] = {}
    table = Table()
    for head in ("trials", "journal MiB", "open s", "open MiB", *(f"{one} ms" for one in wanted.samplers)):
        table.add_column(head, justify="right")
    space = Space.load("weather_quick", TrialConfig())
    for trials in wanted.trials:
        with tempfile.TemporaryDirectory() as folder:
            figures = _measure(Path(folder) / "study.journal", space, trials, wanted)
        found[str(trials)] = figures
        times = [f"{figures['suggestion_ms'][one]:.0f}" for one in wanted.samplers]
        table.add_row(
            f"{trials:,}",
            f"{figures['journal_mib']:.1f}",
            f"{figures['open_s']:.2f}",
            f"{figures['memory_mib']:.0f}",
            *times,
        )
    Console().print(table)
    result = {"repeats": wanted.repeats, "trials": found}
    if wanted.fleet:
        result["fleet"] = fleet = _fleet(wanted.fleet, max(wanted.trials))
        Console().print(fleet)
    if wanted.save:
        write_result("scale", result)


def _measure(journal: Path, space: Space, trials: int, wanted: argparse.Namespace) -> dict[str, Any]:
    _fill(StudyStore.create(journal, "scale", _OBJECTIVE), space, trials)
    before, began = _memory_mib(), time.perf_counter()
    study = StudyStore.create(journal, "scale", _OBJECTIVE)
    study.trials()
    opened, memory = time.perf_counter() - began, _memory_mib() - before
    times = {}
    for sampler in wanted.samplers:
        search = SearchConfig(sampler=sampler)
        searcher = OptunaSearcher(space, TrialConfig(), study, search, new_trials=wanted.repeats)
        times[sampler] = 1000 * statistics.median(
            _suggestion_s(searcher, f"{sampler}-{number}") for number in range(wanted.repeats)
        )
    return {
        "journal_mib": journal.stat().st_size / 2**20,
        "open_s": opened,
        "memory_mib": memory,
        "suggestion_ms": times,
    }


class _Counted(Own):
    """A search that counts what it decides."""

    decisions = 0

    def ask(self) -> tuple[str, Params] | None:
        self.decisions += 1
        return super().ask()

    def report(self, trial_id: str, evaluation: int, loss: float) -> bool:
        self.decisions += 1
        return super().report(trial_id, evaluation, loss)

    def end(self, trial_id: str, evaluation: int, loss: float | None, state: str) -> None:
        self.decisions += 1
        super().end(trial_id, evaluation, loss, state)


def _fleet(workers: int, trials: int) -> dict[str, Any]:
    workload, before = smooth(0), _memory_mib()
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "study.journal"
        began = time.perf_counter()
        study = StudyStore.create(journal, "fleet", _OBJECTIVE)
        search = _Counted(workload, 0, {}, study, trials)
        ready = time.perf_counter() - began
        trace = simulate(search, workload, workers=workers, budget=math.inf, seed=0)
        seconds = time.perf_counter() - began
        return {
            "at_once": workers,
            "trials": trace.trials,
            "full_trials_of_training": round(trace.training[-1]),
            "seconds_to_first_suggestion": round(ready, 3),
            "seconds": round(seconds, 1),
            "decisions": search.decisions,
            "decisions_a_second": round(search.decisions / seconds, 1),
            "memory_mib": round(_memory_mib() - before),
            "journal_mib": round(journal.stat().st_size / 2**20, 1),
        }


def _suggestion_s(searcher: OptunaSearcher, trial_id: str) -> float:
    began = time.perf_counter()
    searcher.suggest(trial_id)
    return time.perf_counter() - began


def _fill(study: StudyStore, space: Space, trials: int) -> None:
    random = np.random.default_rng(0)
    for number, point in enumerate(random_points(space, trials, 0)):
        distributions = {name: space.distributions[name] for name in point.drawn}
        study.begin(f"{number:08d}", point.drawn, distributions, point.params, float(number))
        loss = 1 + abs(np.log10(point.params["training.learning_rate"]) + 2.5) + 0.01 * random.normal()
        for step in _STEPS:
            study.report(number, step, 1, float(loss + 1 / step))
        state = TrialState.COMPLETED if number % 10 == 0 else TrialState.PRUNED
        value = float(loss) if state is TrialState.COMPLETED else None
        study.record_end(number, Outcome(state), value, float(number))


def _memory_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()
