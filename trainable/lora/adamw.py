"""AdamW over adapters: each has its own learning rate, decay, betas, epsilon and step count.

The order of operations is that of `torch.optim.AdamW` (decoupled decay, Loshchilov & Hutter 2019), so that
an adapter's update here rounds as it would there. An operation takes the list of all adapters, so a step
launches as many for one as for many. Only the adapters named are read or written: one whose gradient is not
finite is simply not named, and no value of it can reach another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainable.lora.adapter import Adapter


@dataclass(frozen=True)
class AdamWStep:
    """One adapter's step.

    Attributes:
        step: 1 for its first step.
        b_rate_ratio: learning rate of B as a multiple of A's (LoRA+, Hayou et al. 2024).
    """

    step: int
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    b_rate_ratio: float = 1.0


def gradient_norms(adapters: Sequence[Adapter]) -> Tensor:
    """Return `[n]` each adapter's gradient norm, as `torch.nn.utils.clip_grad_norm_` gives it."""
    return torch.stack(torch._foreach_norm([adapter.gradient for adapter in adapters]))


def clip_gradients(
    adapters: Sequence[Adapter], norms: Sequence[float], max_norms: Sequence[float | None]
) -> None:
    """Scale each adapter's gradient down to its own maximal norm, as `clip_grad_norm_` does.

    Args:
        adapters: whose gradients are finite.
        norms: of their gradients.
        max_norms: for each, its maximum, or `None` for no clipping.
    """
    clipped, coefficients = [], []
    for adapter, norm, limit in zip(adapters, norms, max_norms, strict=True):
        # In float32, as torch computes it on the device.
        if limit is not None and (ratio := np.float32(limit) / (np.float32(norm) + np.float32(1e-6))) < 1:
            clipped.append(adapter.gradient)
            coefficients.append(float(ratio))
    if clipped:
        torch._foreach_mul_(clipped, coefficients)


def adamw_step(adapters: Sequence[Adapter], steps: Sequence[AdamWStep]) -> None:
    """Take one AdamW step for each adapter and zero its gradient."""
    if not adapters:
        return
    parameters, gradients, exp_avg, exp_avg_sq = (
        _in_parts(adapters, steps, name) for name in ("parameters", "gradient", "exp_avg", "exp_avg_sq")
    )
    rated = [(step, rate) for step in steps for rate in _rates(step)]

    def each(value: Callable[[AdamWStep, float], float]) -> list[float]:
        """Return one number for each part, in double: torch rounds it once, as it does its own."""
        return [value(step, rate) for step, rate in rated]

    torch._foreach_mul_(parameters, each(lambda step, rate: 1 - rate * step.weight_decay))
    torch._foreach_lerp_(exp_avg, gradients, each(lambda step, _: 1 - step.beta1))
    torch._foreach_mul_(exp_avg_sq, each(lambda step, _: step.beta2))
    torch._foreach_addcmul_(exp_avg_sq, gradients, gradients, each(lambda step, _: 1 - step.beta2))
    denominators = torch._foreach_sqrt(exp_avg_sq)
    torch._foreach_div_(denominators, each(lambda step, _: (1 - step.beta2**step.step) ** 0.5))
    torch._foreach_add_(denominators, each(lambda step, _: step.epsilon))
    torch._foreach_addcdiv_(
        parameters, exp_avg, denominators, each(lambda step, rate: -rate / (1 - step.beta1**step.step))
    )
    torch._foreach_zero_(gradients)


def _rates(step: AdamWStep) -> list[float]:
    """Return the learning rates of an adapter's parts: of the whole, or of its A's and its B's."""
    if step.b_rate_ratio == 1:
        return [step.learning_rate]
    return [step.learning_rate, step.learning_rate * step.b_rate_ratio]


def _in_parts(adapters: Sequence[Adapter], steps: Sequence[AdamWStep], name: str) -> list[Tensor]:
    """Return a tensor of each adapter: whole, or as its A's and its B's where these differ in rate."""
    parts: list[Tensor] = []
    for adapter, step in zip(adapters, steps, strict=True):
        row = getattr(adapter, name)
        parts += [row] if step.b_rate_ratio == 1 else adapter.matrices(row)
    return parts
