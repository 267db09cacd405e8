"""A check of packed training on the very model that is about to be trained, in about a second.

Two trials with random adapters of unlike ranks share a pass over three short rows, one and two of them.
Losses and gradients must be those that each trial has alone, and those of the LoRA formula applied to the
base model by plain hooks, one row at a time and without padding: y = W x + scale * B A x, as PEFT computes
it. Then the first trial's adapter is filled with NaN, which must change nothing for the second; and dropout
must give the second trial the same masks as alone. Nothing of the engine is changed.

Shapes: P parameters of an adapter.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainable.engine.batching import Batch
from trainable.engine.packed_forward import FusedModel
from trainable.errors import ModelError
from trainable.lora.adapter import Adapter
from trainable.lora.dropout import row_keys
from trainable.lora.packed_linear import PackedLinear
from trainable.lora.span import AdapterSpan
from trainable.model import BaseModel

_RANKS, _SCALE, _LENGTHS = (2, 3), 0.5, (6, 9, 7)
_OWNERS = (0, 1, 1)
"""Which of the two trials each row belongs to."""
_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class _Measured:
    """What a pass gave one trial: its summed loss, and the gradient `[P]` of its adapter."""

    loss: float
    gradient: Tensor


def check_packing(base: BaseModel, model: FusedModel, *, ragged: bool) -> None:
    """Hold packed training on `model` to the formula.

    Args:
        base: the wrapped model and its tokenizer.
        model: of that base.
        ragged: whether trials with unequal numbers of rows share a span on this device.

    Raises:
        ModelError: something differs by more than rounding.
    """
    check = _Check(base, model, ragged)
    reference = [check.by_formula(trial) for trial in (0, 1)]
    packed = check.packed([0, 1])
    for trial in (0, 1):
        check.compare(packed[trial], reference[trial], "a trial in a pack and the LoRA formula alone")
        check.compare(check.packed([trial])[trial], packed[trial], "a trial alone and in a pack")
    beside_nan = check.packed([0, 1], spoiled=True)
    check.compare(beside_nan[1], packed[1], "a trial beside a diverged one and beside a sound one")
    dropped = check.packed([0, 1], dropout=0.5)
    check.compare(check.packed([1], dropout=0.5)[1], dropped[1], "dropout of a trial alone and in a pack")


class _Check:
    """Two random adapters, three random rows, and ways to compute losses and gradients of them."""

    def __init__(self, base: BaseModel, model: FusedModel, ragged: bool) -> None:
        self._base, self._model, self._ragged = base, model, ragged
        generator = torch.Generator().manual_seed(0)
        vocabulary = base.module.get_input_embeddings().weight.shape[0]
        self._rows = [torch.randint(vocabulary, (length,), generator=generator) for length in _LENGTHS]
        self._adapters = [self._random_adapter(rank, generator) for rank in _RANKS]

    def packed(
        self, trials: list[int], *, spoiled: bool = False, dropout: float = 0.0
    ) -> Mapping[int, _Measured]:
        """Return what one pass over the rows of `trials` gives each of them."""
        rows = [(row, owner) for row, owner in zip(self._rows, _OWNERS, strict=True) if owner in trials]
        adapters = [self._copy(trial, spoiled=spoiled and trial == 0) for trial in trials]
        counts = [_OWNERS.count(trial) for trial in trials]
        keys = [row_keys(trial, 0, range(count)) for trial, count in zip(trials, counts, strict=True)]
        together = [range(len(trials))] if self._ragged else [range(n, n + 1) for n in range(len(trials))]
        spans = [
            AdapterSpan(
                [adapters[n] for n in part],
                [counts[n] for n in part],
                sum(counts[: part.start]),
                self._model.dtype,
                rates=[dropout] * len(part),
                keys=[key for n in part for key in keys[n]],
            )
            for part in together
        ]
        batch = self._batch([row for row, _ in rows], [trials.index(owner) for _, owner in rows])
        losses = self._model.losses(batch, spans)
        sums = torch.zeros(len(trials), device=losses.device).index_add(0, batch.portion, losses)
        sums.sum().backward()
        for span in spans:
            span.add_gradients()
        return {
            trial: _Measured(total.item(), adapter.gradient)
            for trial, total, adapter in zip(trials, sums, adapters, strict=True)
        }

    def by_formula(self, trial: int) -> _Measured:
        """Return the same for one trial, row by row, with nothing but the base model and hooks."""
        weights = self._adapters[trial].parameters.clone().to(self._model.dtype).requires_grad_()
        total = 0.0
        with self._hooks(self._adapters[trial].layers(weights)):
            for row, owner in zip(self._rows, _OWNERS, strict=True):
                if owner == trial:
                    ids = row[None].to(self._model.device)
                    logits = self._base.module(input_ids=ids, use_cache=False).logits[0, :-1].float()
                    loss = functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
                    loss.backward()
                    total += loss.item()
        return _Measured(total, weights.grad.float())

    def compare(self, found: _Measured, expected: _Measured, what: str) -> None:
        """Raise if loss or gradient differ by more than rounding."""
        # In half precision a token on the edge between two experts may go to either.
        exact = self._base.module.dtype == torch.float32
        loss_limit, gradient_limit = (1e-4, 1e-3) if exact else (5e-2, 0.5)
        loss = abs(found.loss - expected.loss) / max(1.0, abs(expected.loss))
        gradient = ((found.gradient - expected.gradient).norm() / expected.gradient.norm()).item()
        # Negated, so that NaN is a difference as well.
        if not (loss <= loss_limit and gradient <= gradient_limit):
            raise ModelError(
                f"{type(self._base.module).__name__}: {what} differ (loss by {loss:.1e}, gradient by "
                f"{gradient:.1e}, relative), so this model cannot be trained in packs. Narrow "
                "lora.target_modules, or give another base model."
            )

    @contextmanager
    def _hooks(self, weights: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
        """Add scale * B A x to the output of every adapted layer, whatever the shape of x."""

        def add(layer: PackedLinear, args: tuple[Tensor], output: Tensor) -> Tensor:
            a, b = weights[layer.name]
            return output + ((_SCALE * (args[0].to(a.dtype) @ a.T)) @ b).to(output.dtype)

        layers = [part for part in self._base.module.modules() if isinstance(part, PackedLinear)]
        handles = [layer.register_forward_hook(add) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _zero_adapter(self, rank: int) -> Adapter:
        shapes = self._model.shapes
        return Adapter(shapes, dict.fromkeys(shapes, rank), dict.fromkeys(shapes, _SCALE), self._model.device)

    def _random_adapter(self, rank: int, generator: torch.Generator) -> Adapter:
        adapter = self._zero_adapter(rank)
        for a, b in adapter.layers(adapter.parameters).values():
            a.copy_(torch.randn(a.shape, generator=generator) / a.shape[1] ** 0.5)
            b.copy_(torch.randn(b.shape, generator=generator) * _STANDARD_DEVIATION)
        return adapter

    def _copy(self, trial: int, *, spoiled: bool) -> Adapter:
        """Return an adapter with the parameters of a trial's, or with none but NaN, and no gradient."""
        adapter = self._zero_adapter(_RANKS[trial])
        adapter.parameters.copy_(self._adapters[trial].parameters)
        if spoiled:
            adapter.parameters.fill_(torch.nan)
        return adapter

    def _batch(self, rows: list[Tensor], owners: list[int]) -> Batch:
        """Pad the rows and ask for a loss on every token but each row's first."""
        width = max(len(row) for row in rows)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._model.pad_id)
        places = [
            (number * width + place, row[place + 1].item(), owners[number])
            for number, row in enumerate(rows)
            for place in range(len(row) - 1)
        ]
        position, target, portion = (
            torch.from_numpy(np.array(column)) for column in zip(*places, strict=True)
        )
        device = self._model.device
        return Batch(
            padded.to(device),
            position.to(device),
            target.to(device),
            portion.to(device),
            [len(row) for row in rows],
            [len(row) - 1 for row in rows],
        )
