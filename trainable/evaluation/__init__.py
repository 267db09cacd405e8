"""How good generated texts are: metric families, one overall score, and predictions row by row."""

from trainable.evaluation.families import score
from trainable.evaluation.predictions import (
    Generated,
    Prediction,
    Scored,
    count_rows,
    decode_predictions,
    encode_predictions,
    held_out_key,
    metrics_of,
    read_predictions,
    score_rows,
    score_texts,
    write_predictions,
)
from trainable.evaluation.rows import limit_note, new_tokens, sample_rows

__all__ = [
    "Generated",
    "Prediction",
    "Scored",
    "count_rows",
    "decode_predictions",
    "encode_predictions",
    "held_out_key",
    "limit_note",
    "metrics_of",
    "new_tokens",
    "read_predictions",
    "sample_rows",
    "score",
    "score_rows",
    "score_texts",
    "write_predictions",
]
