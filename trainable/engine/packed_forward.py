"""The base model with a pass's adapters routed through it: losses forward and backward, or texts.

Shapes: rows of a pass, T padded tokens, M tokens with a loss, V vocabulary.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainable.engine.batching import Batch
from trainable.lora.packed_linear import Router, Run, adapt
from trainable.model import BaseModel


class _Pass(threading.local):
    """What the present thread's pass asks of the head."""

    loss_positions: Tensor | None = None


class FusedModel:
    """A base model whose linear layers add to each row the adapter that the row belongs to.

    Attributes:
        shapes: `(d_in, d_out)` of every layer that an adapter can be added to, by its dotted name.
        dtype: what the adapters' products are computed in: bfloat16 over a bfloat16 base, else float32.
        device: the base model's.
    """

    def __init__(self, base: BaseModel) -> None:
        """Take over the base model, which is wrapped in place."""
        self._base = base
        self._router = Router()
        self._pass = _Pass()
        self.device: torch.device = base.module.device
        self.dtype = torch.bfloat16 if base.module.dtype == torch.bfloat16 else torch.float32
        self.shapes = adapt(base.module, self._router)
        base.module.get_output_embeddings().register_forward_pre_hook(self._keep_loss_positions)
        self._stop_ids = _stop_ids(base)

    @property
    def pad_id(self) -> int:
        """The token that rows are padded with."""
        return self._base.tokenizer.pad_token_id

    def losses(self, batch: Batch, runs: list[Run]) -> Tensor:
        """Return `[M]` per-token cross-entropies, fp32."""
        self._pass.loss_positions = batch.position
        try:
            with self._routed(runs):
                logits = self._base.module(input_ids=batch.input_ids, use_cache=False).logits
        finally:
            self._pass.loss_positions = None
        return functional.cross_entropy(logits[0].float(), batch.target, reduction="none")

    def generate(
        self, prompts: Sequence[np.ndarray], runs: list[Run], max_new_tokens: int
    ) -> list[list[int]]:
        """Return greedy continuations of prompts, each up to, and without, its end token."""
        width = max(len(prompt) for prompt in prompts)
        input_ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for number, prompt in enumerate(prompts):
            input_ids[number, width - len(prompt) :] = torch.from_numpy(prompt)
            mask[number, width - len(prompt) :] = 1
        with self._routed(runs):
            written = self._base.module.generate(
                input_ids=input_ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.pad_id,
            )
        return [self._until_stop(tokens) for tokens in written[:, width:].tolist()]

    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens as text."""
        return self._base.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def _until_stop(self, tokens: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(tokens) if token in self._stop_ids]
        return tokens[: ends[0]] if ends else tokens

    def _keep_loss_positions(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Compute logits `[1, M, V]` only where a loss needs them; M is a small part of all tokens."""
        if self._pass.loss_positions is None:
            return None
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[self._pass.loss_positions][None],)

    @contextmanager
    def _routed(self, runs: list[Run]) -> Iterator[None]:
        self._router.runs = runs
        try:
            yield
        finally:
            self._router.runs = []


def _stop_ids(base: BaseModel) -> list[int]:
    """Return the tokens that end a text: the tokenizer's, and all that the model's own configuration names.

    Training ends a target with the tokenizer's; a chat model may have learned another one before.
    """
    configured = getattr(base.module.generation_config, "eos_token_id", None)
    own = configured if isinstance(configured, list) else [configured]
    ids = [getattr(base.tokenizer, "eos_token_id", None), *own]
    return list(dict.fromkeys(number for number in ids if number is not None))
