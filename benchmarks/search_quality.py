"""How good a setting a search finds, and for how much training: the real searcher and schedulers, simulated.

    python -m benchmarks.search_quality [--tables FOLDER] [--seeds 40] [--workers 4 16] [--budget 24]
        [--workloads quickstart deberta] [--arms ours stock] [--try NAME='{"sampler": "gp"}'] [--save NAME]

Each search runs on each workload (`benchmarks.workloads`) with each seed until its trials have trained for
as long as `--budget` full trials; `benchmarks.simulator` says what time is. Regret is the best loss so far
minus the best one of the workload. Printed, and with `--save` written to `benchmarks/results/NAME.json`:
median and quartiles of the regret at a third, two thirds and all of the budget, in training and in packed
time; the ratio of the mean regret to that of Ray's stock pair, over the same seeds, with a bootstrap interval
of 90 %; and the share of stock's budget that reaches stock's final median regret. `--try` adds searches of
our own with other settings of the `search` section.
"""

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.arms import arms
from benchmarks.simulator import Trace, simulate
from benchmarks.workloads import workloads

BASELINE = "stock"
_BOOTSTRAPS = 2000
_SHARES = (1 / 3, 2 / 3, 1.0)
_CURVE = 96
"""Budgets at which the median regret is compared with the baseline's final one."""


def main() -> None:
    """Simulate, print, and write."""
    wanted = _arguments()
    tried = {name: json.loads(settings) for name, settings in (one.split("=", 1) for one in wanted.tried)}
    chosen = [name for name in arms(tried) if not wanted.arms or name in wanted.arms or name in tried]
    problems = [name for name in workloads(wanted.tables) if not wanted.workloads or name in wanted.workloads]
    run = functools.partial(_run, tables=wanted.tables, tried=tried, budget=wanted.budget)
    results: dict[str, Any] = {}
    with multiprocessing.get_context("spawn").Pool(wanted.processes) as pool:
        for problem, workers in itertools.product(problems, wanted.workers):
            jobs = [(problem, workers, arm, seed) for arm in chosen for seed in range(wanted.seeds)]
            found = dict(zip(jobs, pool.imap(run, jobs, chunksize=4), strict=True))
            regrets = {
                arm: [found[problem, workers, arm, seed] for seed in range(wanted.seeds)] for arm in chosen
            }
            results[f"{problem}, k = {workers}"] = summary = _summary(regrets)
            _print(f"{problem}, {workers} at once", summary)
    if wanted.save:
        from benchmarks.record import write_result

        settings = {"seeds": wanted.seeds, "budget_full_trials": wanted.budget, "tried": tried}
        write_result(wanted.save, settings | {"workloads": results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, help="folder of deberta_mnli and lora_lr_rank")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16], help="trials at once")
    parser.add_argument("--budget", type=float, default=24, help="in full trials")
    parser.add_argument("--workloads", nargs="+", default=[])
    parser.add_argument("--arms", nargs="+", default=[])
    parser.add_argument("--try", dest="tried", nargs="+", default=[], metavar="NAME=JSON")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--save", metavar="NAME")
    return parser.parse_args()


def _run(
    job: tuple[str, int, str, int], *, tables: Path | None, tried: dict[str, Any], budget: float
) -> dict[str, Any]:
    """Simulate one search; returns its regrets on a grid of budgets, and what became of its trials."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem, workers, arm, seed = job
    # Ray's ASHA chooses a bracket by numpy's global state, where there are several.
    np.random.seed(seed)
    workload = workloads(tables)[problem](seed)
    trace = simulate(arms(tried)[arm](workload, seed), workload, workers=workers, budget=budget, seed=seed)
    return {
        "training": _regrets(trace, "training", budget, workload.best),
        "packed": _regrets(trace, "packed", _packed_budget(budget, workers), workload.best),
        "trials": trace.trials,
        "full": trace.full,
    }


def _packed_budget(budget: float, workers: int) -> float:
    """Return the packed time that `budget` full trials take in a pack that is always full."""
    from benchmarks.simulator import SATURATION

    return budget / workers * (1 + SATURATION * (workers - 1))


def _regrets(trace: Trace, axis: str, budget: float, optimum: float) -> list[float]:
    return [trace.regret(axis, budget * (place + 1) / _CURVE, optimum) for place in range(_CURVE)]


def _summary(regrets: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for arm, runs in regrets.items():
        figures: dict[str, Any] = {
            "trials": float(np.median([run["trials"] for run in runs])),
            "ran_to_the_end": round(float(np.mean([run["full"] / run["trials"] for run in runs])), 3),
        }
        for axis in ("training", "packed"):
            curves = np.array([run[axis] for run in runs])
            figures[axis] = {
                "regret": {
                    f"{share:.2f}": [
                        _rounded(value)
                        for value in np.quantile(curves[:, round(share * _CURVE) - 1], (0.25, 0.5, 0.75))
                    ]
                    for share in _SHARES
                }
            }
            if BASELINE in regrets and arm != BASELINE:
                stock = np.array([run[axis] for run in regrets[BASELINE]])
                figures[axis]["ratio_to_stock"] = _ratio(curves[:, -1], stock[:, -1])
                figures[axis]["share_of_stocks_budget"] = _share_of_budget(curves, stock)
        summary[arm] = figures
    return summary


def _ratio(ours: np.ndarray, stock: np.ndarray) -> list[float]:
    """Return the ratio of mean regrets over the same seeds, and its bootstrap interval of 90 %."""
    random = np.random.default_rng(0)
    places = random.integers(0, len(ours), (_BOOTSTRAPS, len(ours)))
    floor = 1e-12
    ratios = ours[places].mean(axis=1) / np.maximum(stock[places].mean(axis=1), floor)
    low, high = np.quantile(ratios, (0.05, 0.95))
    return [_rounded(value) for value in (ours.mean() / max(stock.mean(), floor), low, high)]


def _share_of_budget(ours: np.ndarray, stock: np.ndarray) -> float | None:
    """Return the share of the budget that reaches stock's final median regret; `None`: all does not."""
    reached = np.flatnonzero(np.median(ours, axis=0) <= np.median(stock[:, -1]))
    return round((int(reached[0]) + 1) / _CURVE, 2) if len(reached) else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else value


def _print(title: str, summary: dict[str, Any]) -> None:
    table = Table(title=title)
    heads = [f"regret x 1000 at {share:.0%}" for share in _SHARES]
    for head in (
        "search",
        *heads,
        "quartiles",
        "/ stock, training",
        "/ stock, packed",
        "budget",
        "trials",
        "to end",
    ):
        table.add_column(head, justify="left" if head == "search" else "right")
    for arm, figures in summary.items():
        training, packed = figures["training"], figures["packed"]
        medians = [training["regret"][f"{share:.2f}"][1] for share in _SHARES]
        low, _, high = training["regret"]["1.00"]
        share = training.get("share_of_stocks_budget")
        table.add_row(
            arm,
            *(f"{1000 * value:.2f}" for value in medians),
            f"{1000 * low:.2f}-{1000 * high:.2f}",
            _interval(training.get("ratio_to_stock")),
            _interval(packed.get("ratio_to_stock")),
            "" if share is None else f"{share:.2f}",
            f"{figures['trials']:g}",
            f"{figures['ran_to_the_end']:.0%}",
        )
    Console(width=170).print(table)


def _interval(ratio: Sequence[float] | None) -> str:
    return "" if ratio is None else f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]"


if __name__ == "__main__":
    main()
