"""Predictions beside their references, row by row, scored and kept as JSON lines."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainable.config import EvaluationConfig
from trainable.evaluation.families import load_families
from trainable.evaluation.nlg import nlg_row


@dataclass(frozen=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        scores: the row's own metrics by key.
    """

    prompt: str
    prediction: str
    reference: str
    scores: dict[str, float] = field(default_factory=dict)


def score_rows(rows: Sequence[tuple[str, str, str]], evaluation: EvaluationConfig) -> list[Prediction]:
    """Score (prompt, prediction, reference) rows one by one, by the configured families.

    BLEU of a row is sentence BLEU with effective order; the others are the family's metric of that row alone.
    """
    families = load_families(evaluation.metrics)
    scored = []
    for prompt, prediction, reference in rows:
        scores: dict[str, float] = {}
        for family in families:
            scores |= family([prediction], [reference])
        scored.append(Prediction(prompt, prediction, reference, scores | nlg_row(prediction, reference)))
    return scored


def write_predictions(path: Path, rows: Sequence[Prediction]) -> None:
    """Write one JSON object a line, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.rename(path)


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Prediction(**json.loads(line)) for line in lines]
