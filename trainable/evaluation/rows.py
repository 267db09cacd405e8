"""Which rows are evaluated, and how many tokens are generated for each.

A limited number of rows is a random sample with a fixed seed, never the beginning of a file: files are often
sorted. It depends on the number of rows alone, so every trial, device and later command uses the same rows.
"""

import numpy as np

from trainable.config import EvaluationConfig

_SEED = 20_240_229


def sample_rows(rows: int, limit: int | None) -> list[int]:
    """Return the row numbers of a sample, in random order; a smaller sample is the beginning of a larger one.

    Args:
        rows: rows of the table.
        limit: rows of the sample; `None` or more than there are: all.
    """
    # NumPy promises the raw output of a bit generator for all versions; it does not promise permutation()'s.
    keys = np.random.PCG64(_SEED).random_raw(rows)
    return np.argsort(keys, kind="stable")[:limit].tolist()


def new_tokens(evaluation: EvaluationConfig, target_lengths: np.ndarray) -> int:
    """Return the most tokens that are generated for a row.

    Args:
        evaluation: its `max_new_tokens` is used if it is set.
        target_lengths: `[rows]` tokens of each validation target, which `data.max_length` limits.
    """
    return evaluation.max_new_tokens or int(target_lengths.max())


def limit_note(evaluation: EvaluationConfig, target_lengths: np.ndarray) -> str | None:
    """Return what a user should know about a limit that truncates generated texts; `None` if nothing.

    Args:
        evaluation: has the limit.
        target_lengths: `[rows]` tokens of each validation target.
    """
    limit = evaluation.max_new_tokens
    if limit is None or evaluation.text_metrics == "never":
        return None
    longer = int(np.count_nonzero(target_lengths > limit))
    if not longer:
        return None
    return (
        f"{longer} of {len(target_lengths)} validation targets have more tokens than "
        f"evaluation.max_new_tokens = {limit} (the longest has {target_lengths.max()}): generated texts are "
        "truncated before they are scored. Set it to null to generate as many as the longest target has."
    )
