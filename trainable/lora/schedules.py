"""Learning-rate schedules: a linear warm-up, then linear, cosine or constant, as in transformers."""

import math

from trainable.config import TrainingConfig


def total_steps(training: TrainingConfig, rows: int) -> int:
    """Return the optimizer steps of a run over `rows` training rows: as set, or as `epochs` make them."""
    rows_per_step = training.batch_size * training.gradient_accumulation_steps
    return training.max_steps or math.ceil(training.epochs * rows / rows_per_step)


def learning_rate(training: TrainingConfig, step: int, total_steps: int) -> float:
    """Return the rate of optimizer step number `step`, counted from 0.

    The warm-up takes ceil(warmup_ratio * total_steps) steps and starts from 0; linear and cosine reach 0 at
    `total_steps` (Loshchilov & Hutter 2017, half a cosine).
    """
    warmup = math.ceil(training.warmup_ratio * total_steps)
    if step < warmup:
        return training.learning_rate * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    match training.lr_scheduler:
        case "linear":
            return training.learning_rate * max(0.0, 1 - progress)
        case "cosine":
            return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "constant":
            return training.learning_rate
