"""Gradient checkpointing: backward computes each block of the base model again and keeps no activations.

transformers' own switch works only in training mode, which would also turn on the dropout that the base model
was configured with, so the blocks are wrapped here. A block is computed again in backward, when the router no
longer names the adapters of the pass, and on a GPU in another thread, where it never did. So each block
carries the spans of its pass with it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from trainable.errors import ModelError
from trainable.lora.packed_linear import Router


def recompute_blocks(model: nn.Module, router: Router) -> None:
    """Wrap the blocks of `model` in place.

    Raises:
        ModelError: it has none that transformers marks as such.
    """
    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not blocks:
        raise ModelError(
            f"engine.gradient_checkpointing: {type(model).__name__} has no blocks that can be computed "
            "again. Set it to false."
        )
    for block in blocks:
        block.forward = _recomputed(block.forward, router)


def _recomputed(forward: Callable[..., Any], router: Router) -> Callable[..., Any]:
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        spans, rows, tokens = router.spans, router.rows, router.tokens

        def in_pass(*inputs: Any, **options: Any) -> Any:
            with router.routed(spans, rows, tokens):
                return forward(*inputs, **options)

        # Nothing here draws from a generator: dropout is a function of the trial.
        return checkpoint(in_pass, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputed
