"""Predictions beside their references, row by row, scored and kept as JSON lines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainable import records
from trainable.config import EvaluationConfig, TrialConfig
from trainable.evaluation.catalogue import load_family
from trainable.evaluation.families import score
from trainable.evaluation.nlg import nlg_row
from trainable.files import write_atomically


@dataclass(frozen=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        prompt: what it was given.
        prediction: what it wrote.
        reference: what it should have written.
        scores: the row's own metrics by key, in the units and ranges of their families.
    """

    prompt: str
    prediction: str
    reference: str
    scores: dict[str, float] = field(default_factory=dict)


def score_rows(rows: Sequence[tuple[str, str, str]], evaluation: EvaluationConfig) -> list[Prediction]:
    """Score (prompt, prediction, reference) rows one by one, by the configured families.

    A metric of a row is its family's metric of that row alone, so it is missing where the row has nothing to
    compare, and the mean over rows need not be the metric of all. BLEU of a row is `nlg_row`'s.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is not a function.
    """
    families = [load_family(name) for name in evaluation.metrics]
    scored = []
    for prompt, prediction, reference in rows:
        scores: dict[str, float] = {}
        for family in families:
            scores |= family([prediction], [reference])
        scored.append(Prediction(prompt, prediction, reference, scores | nlg_row(prediction, reference)))
    return scored


def judge(rows: Sequence[tuple[str, str, str]], config: TrialConfig) -> dict[str, Any]:
    """Return what a metrics record tells of generated texts.

    Args:
        rows: prompt, prediction and reference of each.
        config: how they are scored, and how many of them are kept beside the scores.
    """
    told: dict[str, Any] = score([row[1] for row in rows], [row[2] for row in rows], config.evaluation)
    kept = config.wandb.num_predictions if config.wandb.log_predictions else 0
    if kept:
        told[records.PREDICTIONS] = [asdict(row) for row in score_rows(rows[:kept], config.evaluation)]
    return told


def encode_predictions(rows: Sequence[Prediction]) -> bytes:
    """Return one JSON object per line."""
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "surrogatepass")


def write_predictions(path: Path, rows: Sequence[Prediction]) -> None:
    """Replace a file of predictions atomically."""
    write_atomically(path, encode_predictions(rows))


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote.

    Raises:
        OSError: the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Prediction(**json.loads(line)) for line in lines]
