"""How good generated texts are: metric families, one overall score, and predictions row by row."""

from trainable.evaluation.families import score
from trainable.evaluation.predictions import (
    Prediction,
    encode_predictions,
    judge,
    read_predictions,
    score_rows,
    write_predictions,
)

__all__ = [
    "Prediction",
    "encode_predictions",
    "judge",
    "read_predictions",
    "score",
    "score_rows",
    "write_predictions",
]
