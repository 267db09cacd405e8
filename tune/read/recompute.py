"""Recomputes the figures of `best/` from the experiment's folder, without the engine that reported them.

Losses are computed by transformers and PEFT, one row at a time. Text metrics are computed from the texts in
the folder, after their prompts and references are compared with the data's own sample of rows. The data files
and the base model are those that the stored configuration names.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from trainable import records
from trainable.checkpoint.manifest import ADAPTER
from trainable.config import EvaluationConfig
from trainable.data import TokenTable, prepare
from trainable.data.tokens import PreparedData
from trainable.errors import ExperimentError
from trainable.evaluation import (
    Scored,
    count_rows,
    held_out_key,
    metrics_of,
    read_predictions,
    sample_rows,
    score_rows,
)
from trainable.model import load_base, pick_device
from trainable.model.base import BaseModel
from trainable.places import inside
from trainable.stores import local_copy
from tune.config import Config
from tune.read.loading import with_adapter
from tune.store.experiment import METRICS, PREDICTIONS, TEST_PREDICTIONS, ExperimentStore

_EXACT = 1e-9
_FP32 = 1e-4
_BF16 = 1e-2  # What rows in one batch change of each other's loss in bfloat16.


@dataclass(frozen=True)
class Figure:
    """A reported figure and what was computed for it now.

    Attributes:
        key: in `best/metrics.json`.
        reported: the value there.
        reported_rows: the number of rows there.
        value: the value now; `None` if the rows have none.
        rows: the number of rows now.
        tolerance: the relative difference that rounding explains.
    """

    key: str
    reported: float
    reported_rows: int
    value: float | None
    rows: int | None
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether value and number of rows are the reported ones."""
        return (
            self.value is not None
            and self.rows == self.reported_rows
            and math.isclose(self.value, self.reported, rel_tol=self.tolerance, abs_tol=_EXACT)
        )

    def __str__(self) -> str:
        """Return `test/loss: 1.312034 on 120 rows, recomputed 1.312033`."""
        value = "no value" if self.value is None else f"{self.value:.6f}"
        rows = "" if self.rows == self.reported_rows else f" on {self.rows or 0} rows"
        return f"{self.key}: {self.reported:.6f} on {self.reported_rows} rows, recomputed {value}{rows}"


@dataclass(frozen=True)
class Recomputed:
    """Every figure that has its number of rows beside it, and what does not agree."""

    figures: list[Figure]
    problems: list[str]


@dataclass(frozen=True)
class _Split:
    """The rows that figures rest on.

    Attributes:
        name: of the split in messages.
        table: its tokens.
        limit: rows of the sample that the loss is computed on; `None`: all.
        texts: the file of generated texts in `best/`.
        key: names a metric of this split.
    """

    name: str
    table: TokenTable
    limit: int | None
    texts: str
    key: Callable[[str], str]


def recompute(store: ExperimentStore, say: Callable[[str], None]) -> Recomputed:
    """Recompute every figure of `best/metrics.json` that has its number of rows there.

    Args:
        store: the experiment's.
        say: takes lines on the loading of the model and the data.

    Raises:
        ExperimentError: there is no best adapter yet, or an earlier version stored it without its rows.
        UserError: the model or the data cannot be read.
    """
    reported = _reported(store)
    config = store.read_config().config
    base = load_base(config.model, pick_device(config.engine.device), say)
    data = prepare(config.data, base.tokenizer, tokenizer_id=base.name_or_path, say=say)
    if data.data_hash != reported["data_hash"]:
        return Recomputed([], ["data: the files have changed since the search; the scores are of other rows"])
    with local_copy(store.best) as best:
        return _recomputed(config, base, data, reported, best)


def _recomputed(
    config: Config, base: BaseModel, data: PreparedData, reported: Mapping[str, Any], best: Path
) -> Recomputed:
    splits = [_Split("val", data.val, config.evaluation.max_rows, PREDICTIONS, str)]
    if data.test is not None:
        splits.append(_Split("test", data.test, None, TEST_PREDICTIONS, held_out_key))
    model = with_adapter(base, best / ADAPTER)
    rounding = rounding_of(base.module.dtype)
    found: dict[str, tuple[float, int, float]] = {}
    problems: list[str] = []
    for split in splits:
        if (loss := split.key(records.EVAL_LOSS)) in reported["n"]:
            rows = sample_rows(len(split.table), split.limit)
            found[loss] = mean_loss(model, split.table, rows), len(rows), rounding
        path = best / split.texts
        if path.exists():
            scored = _scored(path, config.evaluation)
            counts = count_rows(scored)
            found |= {split.key(key): (scored.metrics[key], counts[key], _EXACT) for key in counts}
            problems += _strange_rows(scored, split)
    figures = [
        Figure(key, reported[key], rows, *found.get(key, (None, None, _EXACT)))
        for key, rows in reported["n"].items()
    ]
    return Recomputed(figures, problems + [str(figure) for figure in figures if not figure.agrees])


def rounding_of(dtype: torch.dtype) -> float:
    """Return the relative difference between two losses of one adapter that rounding explains."""
    return _FP32 if dtype == torch.float32 else _BF16


def _reported(store: ExperimentStore) -> Mapping[str, Any]:
    reported = store.best_metrics()
    if not reported:
        raise ExperimentError(
            f"experiment '{store.name}' has no readable '{inside(store.best, METRICS)}'. Let its search end, "
            f"or resume it: loratune resume {store.name}"
        )
    if "n" not in reported or "data_hash" not in reported:
        raise ExperimentError(
            f"'{inside(store.best, METRICS)}' is of an earlier version, which did not store the rows that "
            f"its figures rest on. Write it again: loratune resume {store.name}"
        )
    return reported


def _scored(path: Path, evaluation: EvaluationConfig) -> Scored:
    try:
        texts = read_predictions(path)
    except ValueError:
        raise ExperimentError(
            f"'{path}' is corrupt, so its texts cannot be scored again. Restore it from a copy."
        ) from None
    return Scored(metrics_of(texts, evaluation), score_rows(texts, evaluation))


def _strange_rows(scored: Scored, split: _Split) -> Iterator[str]:
    """Compare the texts' prompts and references with the sample; the first difference tells enough."""
    rows = sample_rows(len(split.table), len(scored.predictions))
    for line, (row, text) in enumerate(zip(rows, scored.predictions, strict=False), 1):
        if (text.prompt, text.reference) != (split.table.prompt(row), split.table.target(row)):
            yield f"best/{split.texts}: line {line} is not row {row} of the sample of data.{split.name}"
            return


def mean_loss(model: Any, table: TokenTable, rows: list[int]) -> float:
    """Return the mean cross-entropy, in nats, over the target tokens of all rows."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.from_numpy(table.ids(row)).to(model.device)
        labels = torch.from_numpy(table.labels(row)).to(model.device)[1:]
        with torch.inference_mode():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        total += functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    return total / count
