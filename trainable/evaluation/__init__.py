"""How good generated texts are: metric families, one overall score, and predictions row by row."""

from trainable.evaluation.families import load_families, score
from trainable.evaluation.predictions import (
    Prediction,
    judge,
    read_predictions,
    score_rows,
    write_predictions,
)

__all__ = [
    "Prediction",
    "judge",
    "load_families",
    "read_predictions",
    "score",
    "score_rows",
    "write_predictions",
]
