"""AdamW over rows: each adapter has its own learning rate, decay, betas, epsilon and step count.

The order of operations is that of `torch.optim.AdamW` (decoupled decay, Loshchilov & Hutter 2019), so that
an adapter's update here rounds as it would there. Only the rows named are read or written: an adapter
whose gradient is not finite is simply not named, and no value of it can reach another row.

Shapes: n adapters that take a step, N held, P parameters of one adapter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.lora.group import AdapterGroup


@dataclass(frozen=True)
class AdamWRow:
    """One adapter's step.

    Attributes:
        slot: its row.
        step: 1 for its first step.
        b_rate_ratio: learning rate of B as a multiple of A's (LoRA+, Hayou et al. 2024).
    """

    slot: int
    step: int
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    b_rate_ratio: float = 1.0


def clip_gradients(group: AdapterGroup, slots: Sequence[int], max_norms: Sequence[float | None]) -> Tensor:
    """Scale each adapter's gradient down to its own maximal norm.

    Args:
        group: holds the gradients.
        slots: the n adapters to clip.
        max_norms: for each, its maximum, or `None` for no clipping.

    Returns:
        `[n]` the norms before clipping, as `torch.nn.utils.clip_grad_norm_` gives them.
    """
    index = torch.tensor(slots, device=group.gradients.device)
    gradients = group.gradients.index_select(0, index)
    norms = torch.linalg.vector_norm(gradients, dim=1)
    limits = norms.new_tensor([float("inf") if limit is None else limit for limit in max_norms])
    coefficients = (limits / (norms + 1e-6)).clamp_(max=1.0)
    group.gradients.index_copy_(0, index, gradients * coefficients[:, None])
    return norms


def adamw_step(group: AdapterGroup, rows: Sequence[AdamWRow]) -> None:
    """Take one AdamW step for each of `rows` and zero their gradients."""
    if not rows:
        return
    device = group.parameters.device
    index = torch.tensor([row.slot for row in rows], device=device)

    def column(values: Sequence[float]) -> Tensor:
        # Computed in double by the caller and rounded once, as torch does with its scalar arguments.
        return torch.tensor(values, dtype=torch.float64).float()[:, None].to(device)

    def by_rate(values: Callable[[AdamWRow, float], float]) -> Tensor:
        """Return `[n, 1]`, or `[n, P]` where A and B have different learning rates."""
        of_a = column([values(row, row.learning_rate) for row in rows])
        if all(row.b_rate_ratio == 1 for row in rows):
            return of_a
        of_b = column([values(row, row.learning_rate * row.b_rate_ratio) for row in rows])
        return torch.where(group.b_columns(), of_b, of_a)

    parameters = group.parameters.index_select(0, index)
    gradients = group.gradients.index_select(0, index)
    exp_avg = group.exp_avg.index_select(0, index)
    exp_avg_sq = group.exp_avg_sq.index_select(0, index)

    parameters.mul_(by_rate(lambda row, rate: 1 - rate * row.weight_decay))
    exp_avg.lerp_(gradients, column([1 - row.beta1 for row in rows]))
    exp_avg_sq.mul_(column([row.beta2 for row in rows]))
    exp_avg_sq.add_(gradients * column([1 - row.beta2 for row in rows]) * gradients)
    denominator = exp_avg_sq.sqrt().div_(column([(1 - row.beta2**row.step) ** 0.5 for row in rows]))
    denominator.add_(column([row.epsilon for row in rows]))
    step_size = by_rate(lambda row, rate: -rate / (1 - row.beta1**row.step))
    parameters.add_(exp_avg.mul(step_size).div_(denominator))

    group.parameters.index_copy_(0, index, parameters)
    group.exp_avg.index_copy_(0, index, exp_avg)
    group.exp_avg_sq.index_copy_(0, index, exp_avg_sq)
    group.gradients.index_fill_(0, index, 0)
