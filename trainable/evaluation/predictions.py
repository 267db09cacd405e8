"""Generated texts, scored together and one by one, and kept as JSON lines beside their references."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from trainable import records
from trainable.config import EvaluationConfig
from trainable.evaluation.catalogue import load_family
from trainable.evaluation.families import score
from trainable.files import write_atomically


@dataclass(frozen=True)
class Generated:
    """A text that was generated for a row of a table.

    Attributes:
        row: the row's number in the table.
        text: what was generated.
        finished: whether it ended by itself, before the limit of tokens.
    """

    row: int
    text: str
    finished: bool


@dataclass(frozen=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        prompt: the model's input.
        prediction: what it wrote.
        reference: what it should have written.
        scores: the row's own metrics by key, in the units and ranges of their families; the row's
            `eval/unfinished_share` is 0 or 1.
        step: optimizer steps taken, where one file has the predictions of several evaluations.
    """

    prompt: str
    prediction: str
    reference: str
    scores: dict[str, float] = field(default_factory=dict)
    step: int | None = None


_KINDS: Mapping[str, type] = {
    "prompt": str,
    "prediction": str,
    "reference": str,
    "scores": dict,
    "step": int,
}


class Rows(Protocol):
    """A table of prompts and references, such as a `TokenTable`."""

    def prompt(self, row: int) -> str:
        """Return a row's prompt."""
        ...

    def target(self, row: int) -> str:
        """Return a row's reference."""
        ...


@dataclass(frozen=True)
class Scored:
    """The metrics of an evaluation, and the rows that those of texts rest on.

    Attributes:
        metrics: by key, in the units and ranges of their families.
        predictions: a row each.
    """

    metrics: dict[str, float]
    predictions: Sequence[Prediction] = ()

    def for_record(self) -> dict[str, Any]:
        """Return what a metrics record has of it."""
        return {**self.metrics, records.PREDICTIONS: [asdict(row) for row in self.predictions]}


def score_texts(texts: Sequence[Generated], table: Rows, evaluation: EvaluationConfig) -> Scored:
    """Score generated texts.

    Args:
        texts: of rows of `table`.
        table: has their prompts and references.
        evaluation: names the families and the weights.

    Returns:
        The metrics of `score`, `eval/text_rows` and `eval/unfinished_share`, and the scored rows.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is not a function.
    """
    rows = [
        Prediction(
            table.prompt(text.row),
            text.text,
            table.target(text.row),
            {records.EVAL_UNFINISHED: float(not text.finished)},
        )
        for text in texts
    ]
    return Scored(metrics_of(rows, evaluation), score_rows(rows, evaluation))


def metrics_of(rows: Sequence[Prediction], evaluation: EvaluationConfig) -> dict[str, float]:
    """Return the metrics that rest on `rows`, of which only the texts and unfinished shares are read.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is not a function.
    """
    if not rows:
        return {}
    metrics = score([row.prediction for row in rows], [row.reference for row in rows], evaluation)
    metrics[records.EVAL_TEXT_ROWS] = len(rows)
    unfinished = [
        row.scores[records.EVAL_UNFINISHED] for row in rows if records.EVAL_UNFINISHED in row.scores
    ]
    if len(unfinished) == len(rows):
        metrics[records.EVAL_UNFINISHED] = sum(unfinished) / len(rows)
    return metrics


def score_rows(rows: Sequence[Prediction], evaluation: EvaluationConfig) -> list[Prediction]:
    """Add to each row its own metrics by the configured families.

    A metric of a row is its family's metric of that row alone. It is missing where the row has nothing to
    compare, and the mean over rows need not be the metric of all.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is not a function.
    """
    families = [load_family(name) for name in evaluation.metrics]
    scored = []
    for row in rows:
        scores = dict(row.scores)
        for family in families:
            scores |= family([row.prediction], [row.reference])
        scored.append(replace(row, scores=scores))
    return scored


def count_rows(scored: Scored) -> dict[str, int]:
    """Return the number of rows that each metric rests on.

    A text metric rests on the rows that have a value of their own; one that only all rows together have, such
    as the overall score, on all. A loss without `eval/rows`, from an earlier version, has no number.
    """
    counts: dict[str, int] = {}
    for key in scored.metrics.keys() - {records.EVAL_ROWS, records.EVAL_TEXT_ROWS}:
        if key == records.EVAL_LOSS:
            if records.EVAL_ROWS in scored.metrics:
                counts[key] = int(scored.metrics[records.EVAL_ROWS])
        else:
            having = sum(key in row.scores for row in scored.predictions)
            counts[key] = having or len(scored.predictions)
    return dict(sorted(counts.items()))


def held_out_key(key: str) -> str:
    """Return the key of a metric on the test rows, such as `test/loss` or `test/nlg/bleu_score`."""
    return f"test/{'loss' if key == records.EVAL_LOSS else key}"


def encode_predictions(rows: Iterable[Prediction]) -> bytes:
    """Return one JSON object per line; a step that is not known is left out."""
    objects = ({key: value for key, value in asdict(row).items() if value is not None} for row in rows)
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    return "".join(lines).encode("utf-8", "surrogatepass")


def decode_predictions(content: bytes) -> list[Prediction]:
    """Read what `encode_predictions` returned; a last line that a crash truncated is left out.

    Raises:
        ValueError: another line is not a prediction.
    """
    lines = content.decode("utf-8", "surrogatepass").split("\n")
    return [_prediction(json.loads(line)) for line in lines[:-1] if line]


def _prediction(row: Any) -> Prediction:
    if (
        not isinstance(row, dict)
        or not row.keys() <= _KINDS.keys()
        or not all(isinstance(row.get(name, kind()), kind) for name, kind in _KINDS.items())
        or not {"prompt", "prediction", "reference"} <= row.keys()
    ):
        raise ValueError(f"not a prediction: {str(row)[:80]}")
    return Prediction(**row)


def write_predictions(path: Path, rows: Sequence[Prediction]) -> None:
    """Replace a file of predictions atomically."""
    write_atomically(path, encode_predictions(rows))


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote.

    Raises:
        OSError: the file cannot be read.
    """
    return decode_predictions(path.read_bytes())
