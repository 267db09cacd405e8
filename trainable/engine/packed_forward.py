"""The base model with a pass's adapters routed through it: losses forward and backward, or texts.

Shapes: rows of a pass, T padded tokens, M tokens with a loss, V vocabulary.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig

from trainable.engine.batching import Batch
from trainable.engine.model_probe import probe_model
from trainable.engine.recompute import recompute_blocks
from trainable.errors import ModelError
from trainable.lora.packed_linear import Router, adapt, adaptable_layers
from trainable.lora.peft_support import refused_by_peft
from trainable.lora.span import AdapterSpan
from trainable.model import BaseModel

_MAX_LOGITS_BYTES = 2**28
"""Of one chunk of logits in fp32."""


class _Pass(threading.local):
    """What the present thread's pass asks of the head.

    Attributes:
        loss_positions: `[M]` flat indices of the tokens that have a loss; `None` outside a pass.
        keep_hidden: whether the head's input is kept instead of being multiplied.
        hidden: `[M, D]` what was kept.
    """

    loss_positions: Tensor | None = None
    keep_hidden: bool = False
    hidden: Tensor | None = None


class FusedModel:
    """A base model whose linear layers add to each row the adapter that the row belongs to.

    Attributes:
        shapes: `(d_in, d_out)` of every layer that an adapter can be added to, by its dotted name.
        left_out: the other linear layers, each with the reason.
        table_limit, batch_limit: see `ModelProbe`.
        dtype: what the adapters' products are computed in: bfloat16 over a bfloat16 base, else float32.
        device: the base model's.
    """

    def __init__(self, base: BaseModel, *, gradient_checkpointing: bool = False) -> None:
        """Take over the base model, which is wrapped in place.

        Args:
            base: frozen, on its device.
            gradient_checkpointing: whether backward computes each block again instead of keeping it.

        Raises:
            ModelError: the model does not keep the rows of a batch apart, or has no blocks to compute again.
        """
        self._base = base
        self._router = Router()
        self._pass = _Pass()
        module = base.module
        self.device: torch.device = module.device
        self.dtype = torch.bfloat16 if module.dtype == torch.bfloat16 else torch.float32
        probe = probe_model(base, adaptable_layers(module))
        refused = refused_by_peft(module, probe.per_token)
        self.left_out = {**probe.left_out, **refused}
        self.table_limit, self.batch_limit = probe.table_limit, probe.batch_limit
        used = {name: places for name, places in probe.per_token.items() if name not in refused}
        self.shapes = adapt(module, self._router, used)
        self._selects, self._head_is_last = probe.selects, probe.head_is_last
        if probe.selects:
            module.get_output_embeddings().register_forward_pre_hook(self._keep_loss_positions)
        if gradient_checkpointing:
            recompute_blocks(module, self._router)
        self._stop_ids = _stop_ids(base)
        # generate() fills every option that it is not given from here, such as a hub model's penalties.
        module.generation_config = GenerationConfig()

    @property
    def pad_id(self) -> int:
        """The token that rows are padded with."""
        return self._base.tokenizer.pad_token_id

    def check_length(self, tokens: int, what: str, setting: str) -> None:
        """Refuse rows that the model cannot take, or would compute differently beside shorter ones.

        Args:
            tokens: of the longest row.
            what: names that row in the message.
            setting: the configuration's key to lower.

        Raises:
            ModelError: the row is too long.
        """
        for limit, reason in (
            (self.table_limit, "the model has positions for"),
            (self.batch_limit, "what this model computes depends on the rest of the batch beyond"),
        ):
            if limit is not None and tokens > limit:
                raise ModelError(f"{what} has {tokens} tokens; {reason} {limit}. Lower {setting}.")

    def losses(self, batch: Batch, spans: list[AdapterSpan]) -> Tensor:
        """Return `[M]` per-token cross-entropies, fp32.

        Where the logits of all M tokens would be large, they are computed in chunks, and again in backward.
        """
        vocabulary = self._base.module.get_input_embeddings().weight.shape[0]
        at_once = max(1, _MAX_LOGITS_BYTES // (4 * vocabulary))
        chunked = self._head_is_last and len(batch.position) > at_once
        self._pass.loss_positions, self._pass.keep_hidden = batch.position, chunked
        try:
            with self._router.routed(spans):
                logits = self._base.module(input_ids=batch.input_ids, use_cache=False).logits
            hidden = self._pass.hidden
        finally:
            self._pass.loss_positions, self._pass.keep_hidden, self._pass.hidden = None, False, None
        if hidden is None:
            chosen = logits[0] if self._selects else logits.flatten(0, 1)[batch.position]
            return _cross_entropy(chosen, batch.target)
        head = self._base.module.get_output_embeddings()
        chunks = zip(hidden.split(at_once), batch.target.split(at_once), strict=True)
        return torch.cat(
            [
                checkpoint(lambda h, t: _cross_entropy(head(h), t), *chunk, use_reentrant=False)
                for chunk in chunks
            ]
        )

    @functools.cached_property
    def prompts_together(self) -> Literal["any", "one length", "none"]:
        """Which prompts can be continued in one batch without changing each other's continuation.

        Padding on the left changes the continuations of state-space models and of others that ignore the
        attention mask or count positions from the first column; their prompts need one length. Some models
        cannot generate for more than one prompt at all. Found out by continuing a short prompt alone, beside
        another of its length, and beside a longer one.

        Raises:
            ModelError: the model cannot generate.
        """
        generator = torch.Generator().manual_seed(1)
        vocabulary = self._base.module.get_input_embeddings().weight.shape[0]
        ids = torch.randint(vocabulary - 1, (3, 9), generator=generator)
        # A pad token within a prompt would not be what the tokenizer means by one.
        ids[ids >= self.pad_id] += 1
        prompt, other, longer = ids[0, :4].numpy(), ids[1, :4].numpy(), ids[2].numpy()
        try:
            alone = self._logits_of_last([prompt])
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .")
            raise ModelError(
                f"{type(self._base.module).__name__} cannot generate: {reason}. "
                "Set evaluation.text_metrics to never, or give another base model."
            ) from error
        if self._same(alone, [longer, prompt]):
            return "any"
        return "one length" if self._same(alone, [other, prompt]) else "none"

    def _same(self, alone: Sequence[Tensor], prompts: Sequence[np.ndarray]) -> bool:
        """Whether the last of `prompts` is continued as it is alone."""
        tolerance = 1e-4 if self._base.module.dtype == torch.float32 else 2e-2
        try:
            together = self._logits_of_last(prompts)
        except (RuntimeError, ValueError, IndexError):
            return False
        return all(
            (one - two).abs().max() <= tolerance * one.abs().max()
            for one, two in zip(alone, together, strict=True)
        )

    def _logits_of_last(self, prompts: Sequence[np.ndarray]) -> list[Tensor]:
        """Return the logits `[V]` of the next three tokens after the last of `prompts`, without adapters."""
        with torch.inference_mode():
            return [step[-1] for step in self._continue(prompts, 3, output_logits=True).logits]

    def generate(
        self, prompts: Sequence[np.ndarray], spans: list[AdapterSpan], max_new_tokens: int
    ) -> list[list[int]]:
        """Return greedy continuations of prompts that `prompts_together` allows in one batch.

        A continuation ends after any of the tokenizer's and the model's own end tokens.
        """
        width = max(len(prompt) for prompt in prompts)
        with self._router.routed(spans):
            written = self._continue(prompts, max_new_tokens, eos_token_id=self._stop_ids or None).sequences
        return [self._until_stop(tokens) for tokens in written[:, width:].tolist()]

    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens as text."""
        return self._base.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def _until_stop(self, tokens: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(tokens) if token in self._stop_ids]
        return tokens[: ends[0]] if ends else tokens

    def _continue(self, prompts: Sequence[np.ndarray], max_new_tokens: int, **options: Any) -> Any:
        """Call generate() with prompts padded on the left, and options that are all our own."""
        width = max(len(prompt) for prompt in prompts)
        input_ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for number, prompt in enumerate(prompts):
            input_ids[number, width - len(prompt) :] = torch.from_numpy(prompt)
            mask[number, width - len(prompt) :] = 1
        configured = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.pad_id,
            return_dict_in_generate=True,
            **options,
        )
        return self._base.module.generate(
            input_ids=input_ids.to(self.device),
            attention_mask=mask.to(self.device),
            generation_config=configured,
        )

    def _keep_loss_positions(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Compute logits `[1, M, V]` only where a loss needs them; M is a small part of all tokens."""
        if self._pass.loss_positions is None:
            return None
        hidden = inputs[0].reshape(-1, inputs[0].shape[-1])[self._pass.loss_positions]
        if self._pass.keep_hidden:
            self._pass.hidden = hidden
            return (hidden[None, :0],)
        return (hidden[None],)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return `[M]` for logits `[M, V]`, in fp32."""
    return functional.cross_entropy(logits.float(), target, reduction="none")


def _stop_ids(base: BaseModel) -> list[int]:
    """Return the tokens that end a text: the tokenizer's, and all that the model's own configuration names.

    Training ends a target with the tokenizer's; a chat model may have learned another one before.
    """
    configured = getattr(base.module.generation_config, "eos_token_id", None)
    own = configured if isinstance(configured, list) else [configured]
    ids = [getattr(base.tokenizer, "eos_token_id", None), *own]
    return list(dict.fromkeys(number for number in ids if number is not None))
