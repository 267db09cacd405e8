"""What a simulated search is run on: a space, and for each of its points a learning curve.

Real curves: `quickstart`, recorded by `benchmarks.record_curves` and kept in the repository; and, from a
folder of tables that is named on the command line, `deberta` (1,024 fine-tunings on MNLI with accuracy
curves; a point gets the curve of the nearest run) and `lr_rank` (LoRA runs over learning rate and rank of one
base model a seed; only final losses are real, the curves towards them are invented). Invented surfaces:
`smooth`, `crossing` (what learns fast ends worse) and `failing` (large ranks do not fit, high rates diverge,
and the best points are beside them).

A lower value is better everywhere. The unit of time is one evaluation interval of one trial.
"""

import csv
import functools
import gzip
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record_curves import FILE as QUICKSTART

LR, RANK, ALPHA = "training.learning_rate", "lora.r", "lora.alpha"
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A trial's training: a loss at each evaluation, and how it ends after the last one.

    Attributes:
        losses: fewer than the workload's evaluations if the trial ends early.
        state: `completed`, `diverged` or `oom`.
    """

    losses: Sequence[float]
    state: str = "completed"


@dataclass(frozen=True)
class Workload:
    """A problem to search.

    Attributes:
        space: axes by configuration key, as a space file has them.
        evaluations: of a full trial.
        curve: of a point.
        best: the lowest loss that any point reaches at any evaluation.
    """

    name: str
    space: Mapping[str, Any]
    evaluations: int
    curve: Callable[[Params], Curve]
    best: float


def quickstart(seed: int) -> Workload:
    """Return the recorded curves, interpolated linearly between the logarithms of the grid's values."""
    table = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    axes = [np.log2(table["axes"][name]) for name in ("learning_rate", "r", "ratio")]
    evaluations = table["settings"]["max_steps"] // table["settings"]["every"]
    runs = [[np.nan if loss is None else loss for loss in run["losses"]] for run in table["runs"]]
    grid = np.array(runs).reshape(*map(len, axes), evaluations)

    def curve(params: Params) -> Curve:
        values = [params[LR], params[RANK], params[ALPHA] / params[RANK]]
        losses = _interpolated(grid, axes, [math.log2(value) for value in values])
        ended = np.flatnonzero(np.isnan(losses))
        if len(ended):
            return Curve(losses[: ended[0]].tolist(), "diverged")
        return Curve(losses.tolist())

    space = {
        LR: {"type": "log_uniform", "low": table["axes"]["learning_rate"][0], "high": 3e-2},
        RANK: {"type": "power_of_two", "low": 2, "high": 32},
        ALPHA: {"type": "ratio", "of": RANK, "low": 0.5, "high": 4, "powers_of_two": True},
    }
    return Workload("quickstart", space, evaluations, curve, float(np.nanmin(grid)))


def _interpolated(grid: np.ndarray, axes: Sequence[np.ndarray], point: Sequence[float]) -> np.ndarray:
    """Return the multilinear interpolation of `grid`'s curves at `point`."""
    corners: list[list[tuple[int, float]]] = []
    for axis, value in zip(axes, point, strict=True):
        right = int(np.clip(np.searchsorted(axis, value), 1, len(axis) - 1))
        share = float(np.clip((value - axis[right - 1]) / (axis[right] - axis[right - 1]), 0, 1))
        corners.append([(right - 1, 1 - share), (right, share)])
    found = np.zeros(grid.shape[-1])
    for corner in itertools.product(*corners):
        weight = math.prod(share for _, share in corner)
        if weight > 0:
            found = found + weight * grid[tuple(place for place, _ in corner)]
    return found


def deberta(tables: Path, seed: int) -> Workload:
    """Return the 1,024 fine-tunings; a trial's time is the share of its own steps, in sixteenths."""
    points, table = _deberta_runs(tables / "deberta_mnli" / "deberta-base_tuning.results.jsonl.gz")
    scale = np.ptp(points, axis=0)
    known = points / scale

    def curve(params: Params) -> Curve:
        asked = {
            "num_train_epochs": params["training.epochs"],
            "train_batch_size": params["training.batch_size"],
            "learning_rate": params[LR],
            "warmup": params["training.warmup_ratio"],
            "cls_drop_out": params["lora.dropout"],
        }
        gaps = ((known - np.array(_deberta_point(asked)) / scale) ** 2).sum(axis=1)
        return Curve(table[int(gaps.argmin())].tolist())

    low, high = np.min(points, axis=0), np.max(points, axis=0)
    space = {
        "training.epochs": {"type": "integer", "low": int(low[0]), "high": int(high[0])},
        "training.batch_size": {"type": "integer", "low": int(low[1]), "high": int(high[1])},
        LR: {"type": "log_uniform", "low": float(10 ** low[2]), "high": float(10 ** high[2])},
        "training.warmup_ratio": {"type": "uniform", "low": float(low[3]), "high": float(high[3])},
        "lora.dropout": {"type": "uniform", "low": float(low[4]), "high": float(high[4])},
    }
    return Workload("deberta", space, table.shape[1], curve, float(table.min()))


@functools.cache
def _deberta_runs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs' places in the space, and the error rate of each at every sixteenth of its steps."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        runs = [json.loads(line) for line in lines]
    at = np.arange(1, 17) / 16
    points, curves = [], []
    for run in runs:
        steps, accuracy = np.array(run["learning_curves"]["matched"]).T
        total = run["total_model_steps"]
        curves.append(1 - np.interp(at, [0, *(steps / total)], [1 / 3, *accuracy]))
        points.append(_deberta_point(run | {"warmup": run["warmup_steps"] / total}))
    return np.array(points), np.array(curves)


def _deberta_point(run: Mapping[str, float]) -> list[float]:
    return [
        run["num_train_epochs"],
        run["train_batch_size"],
        math.log10(run["learning_rate"]),
        run["warmup"],
        run["cls_drop_out"],
    ]


def lr_rank(tables: Path, seed: int) -> Workload:
    """Return one base model's grid of learning rates and ranks; another model for each seed."""
    found: dict[str, dict[tuple[int, float], float]] = defaultdict(dict)
    with (tables / "lora_lr_rank" / "runs.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            found[row["model"]][int(row["lora_rank"]), float(row["learning_rate"])] = float(row["test_nll"])
    models = sorted(name for name, cells in found.items() if len({rank for rank, _ in cells}) > 2)
    cells = found[models[seed % len(models)]]
    ranks = sorted({rank for rank, _ in cells})
    rates = sorted({rate for _, rate in cells})
    fastest = min(cells, key=cells.__getitem__)[1]

    def curve(params: Params) -> Curve:
        rate, rank = params[LR], params[RANK]
        known = sorted(one for other, one in cells if other == rank)
        if rate > known[-1] * 1.01:
            return Curve([], "diverged")
        final = float(np.interp(math.log(rate), np.log(known), [cells[rank, one] for one in known]))
        time = np.arange(1, 17) / 16
        speed = 4 * (rate / fastest) ** 0.25
        return Curve((final + 0.4 * np.exp(-speed * np.sqrt(time)) + _noise(params, seed)).tolist())

    space = {
        LR: {"type": "log_uniform", "low": rates[0], "high": rates[-1]},
        RANK: {"type": "choice", "values": ranks},
    }
    best = min(cells.values()) + 0.4 * math.exp(-4) - 0.002
    return Workload("lr_rank", space, 16, curve, best)


_LORA_SPACE = {
    LR: {"type": "log_uniform", "low": 1e-5, "high": 1e-2},
    RANK: {"type": "power_of_two", "low": 4, "high": 256},
    ALPHA: {"type": "ratio", "of": RANK, "low": 0.25, "high": 4, "powers_of_two": True},
}


def _surface(params: Params, seed: int) -> tuple[float, float]:
    """Return the floor of a point's loss, and by how many tenfolds its updates exceed the best ones."""
    shift = np.random.default_rng((seed, 1)).uniform(-0.5, 0.5)
    excess = math.log10(params[LR] * params[ALPHA] / 32) + 3.3 + shift
    rank = math.log2(params[RANK]) / 8
    return 1.0 + 0.15 * excess**2 + 0.1 * (1 - rank) ** 2, excess


def _noise(params: Params, seed: int) -> np.ndarray:
    key = [seed, *(int(abs(value) * 1e9) % 2**32 for value in params.values())]
    return 0.002 * np.random.default_rng(key).standard_normal(16)


def smooth(seed: int) -> Workload:
    """Return a bowl over rate x alpha and rank, and curves that keep their order but for noise."""

    def curve(params: Params) -> Curve:
        floor, excess = _surface(params, seed)
        speed = 12 * 10 ** min(excess, 0.3)
        time = np.arange(1, 17) / 16
        return Curve((floor + 0.8 / (1 + speed * time) + _noise(params, seed)).tolist())

    return Workload("smooth", _LORA_SPACE, 16, curve, 1.0 + 0.8 / (1 + 12 * 10**0.12) - 0.004)


def crossing(seed: int) -> Workload:
    """Return curves that cross late: twice the best rate leads for the first two thirds."""

    def curve(params: Params) -> Curve:
        floor, excess = _surface(params, seed)
        time = np.arange(1, 17) / 16
        return Curve((floor + np.exp(-6 * 10 ** (0.7 * excess) * time) + _noise(params, seed)).tolist())

    return Workload("crossing", _LORA_SPACE, 16, curve, 1.0)


def failing(seed: int) -> Workload:
    """Return the smooth surface with ranks above 64 that do not fit, and high rates that diverge."""
    whole = smooth(seed)

    def curve(params: Params) -> Curve:
        _, excess = _surface(params, seed)
        if params[RANK] > 64:
            return Curve([], "oom")
        if excess > 0.15:
            return Curve(whole.curve(params).losses[: max(1, int(6 - 6 * excess))], "diverged")
        return whole.curve(params)

    return Workload("failing", _LORA_SPACE, 16, curve, whole.best + 0.1 * (1 - 6 / 8) ** 2)


def workloads(tables: Path | None) -> dict[str, Callable[[int], Workload]]:
    """Return the workloads by name, each made for a seed.

    Args:
        tables: the folder of `deberta_mnli` and `lora_lr_rank`; `None` leaves them out.
    """
    made: dict[str, Callable[[int], Workload]] = {"quickstart": quickstart}
    if tables is not None:
        made |= {
            "deberta": lambda seed: deberta(tables, seed),
            "lr_rank": lambda seed: lr_rank(tables, seed),
        }
    return made | {"smooth": smooth, "crossing": crossing, "failing": failing}
