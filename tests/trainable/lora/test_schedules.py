"""The schedules are those of transformers."""

import pytest
import torch
from transformers import get_scheduler

from trainable.config import TrainingConfig
from trainable.lora.schedules import learning_rate, total_steps


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "ratio"), [(1, 0.0), (10, 0.25), (37, 0.05), (5, 1.0)])
def test_schedules_equal_those_of_transformers(name: str, steps: int, ratio: float) -> None:
    training = TrainingConfig(lr_scheduler=name, learning_rate=3e-3, warmup_ratio=ratio)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    warmup = int(-(-ratio * steps // 1))
    reference = get_scheduler(
        "constant_with_warmup" if name == "constant" else name, optimiser, warmup, steps
    )
    for step in range(steps):
        assert learning_rate(training, step, steps) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        reference.step()


@pytest.mark.parametrize(
    ("settings", "rows", "steps"),
    [
        ({"max_steps": 7}, 100, 7),
        ({"epochs": 3, "batch_size": 4}, 100, 75),
        ({"epochs": 1, "batch_size": 4, "gradient_accumulation_steps": 8}, 100, 4),
        ({"epochs": 0.001}, 100, 1),
    ],
)
def test_epochs_become_steps(settings: dict, rows: int, steps: int) -> None:
    assert total_steps(TrainingConfig(**settings), rows) == steps
