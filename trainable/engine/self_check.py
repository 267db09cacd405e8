"""A check of packed training on the very model that is about to be trained, in about a second.

Two trials with random adapters share a pass over three short rows. Losses and gradients must be those that
each trial has alone, and those of the LoRA formula applied to the base model by plain hooks, one row at a
time and without padding: y = W x + scale * B A x, as PEFT computes it. Then the first trial's adapter is
filled with NaN, which must change nothing for the second; and dropout must give the second trial the same
masks as alone. Nothing of the engine is changed.

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
from trainable.lora.dropout import DropoutKeys, row_keys
from trainable.lora.group import AdapterGroup, GroupKey
from trainable.lora.packed_linear import AdapterSpan, PackedLinear
from trainable.model import BaseModel

_RANK, _SCALE, _LENGTHS = 2, 0.5, (6, 9, 7)
_OWNERS = (0, 1, 1)
"""Which of the two trials each row belongs to."""
_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class _Measured:
    """What a pass gave one trial: its summed loss, and the gradient `[P]` of its adapter."""

    loss: float
    gradient: Tensor


def check_packing(base: BaseModel, model: FusedModel) -> None:
    """Hold packed training on `model` to the formula.

    Args:
        base: the wrapped model and its tokenizer.
        model: of that base.

    Raises:
        ModelError: something differs by more than rounding.
    """
    check = _Check(base, model)
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

    def __init__(self, base: BaseModel, model: FusedModel) -> None:
        self._base, self._model = base, model
        self._group = AdapterGroup(GroupKey(_RANK, tuple(model.shapes)), model.shapes, model.device)
        generator = torch.Generator().manual_seed(0)
        vocabulary = base.module.get_input_embeddings().weight.shape[0]
        self._rows = [torch.randint(vocabulary, (length,), generator=generator) for length in _LENGTHS]
        self._weights = self._group.parameters.new_zeros(2, self._group.parameters.shape[1])
        for name, (d_in, d_out) in model.shapes.items():
            for trial in range(2):
                a = torch.randn(d_in, _RANK, generator=generator) / d_in**0.5
                b = torch.randn(_RANK, d_out, generator=generator) * _STANDARD_DEVIATION
                self._group.a(self._weights, name)[trial] = a
                self._group.b(self._weights, name)[trial] = b

    def packed(
        self, trials: list[int], *, spoiled: bool = False, dropout: float = 0.0
    ) -> Mapping[int, _Measured]:
        """Return what one pass over the rows of `trials` gives each of them."""
        rows = [(row, owner) for row, owner in zip(self._rows, _OWNERS, strict=True) if owner in trials]
        spans, first = [], 0
        for trial in trials:
            count = sum(owner == trial for _, owner in rows)
            weights = self._weights[trial : trial + 1].to(self._model.dtype)
            if spoiled and trial == 0:
                weights = torch.full_like(weights, torch.nan)
            span = AdapterSpan(self._group, first, count, weights, self._scales())
            span.gradients = torch.zeros_like(weights)
            if dropout:
                keys = torch.tensor([row_keys(trial, 0, range(count))], dtype=torch.int64)
                signed = keys.sub_(2**31).to(torch.int32).to(self._model.device)
                span.dropout = DropoutKeys(signed, torch.tensor([dropout], device=self._model.device))
            spans.append(span)
            first += count
        batch = self._batch([row for row, _ in rows], [trials.index(owner) for _, owner in rows])
        losses = self._model.losses(batch, spans)
        sums = torch.zeros(len(trials), device=losses.device).index_add(0, batch.portion, losses)
        sums.sum().backward()
        return {
            trial: _Measured(total.item(), span.gradients[0].float())
            for trial, total, span in zip(trials, sums, spans, strict=True)
            if span.gradients is not None
        }

    def by_formula(self, trial: int) -> _Measured:
        """Return the same for one trial, row by row, with nothing but the base model and hooks."""
        weights = self._weights[trial : trial + 1].to(self._model.dtype).requires_grad_()
        total = 0.0
        with self._hooks(weights):
            for row, owner in zip(self._rows, _OWNERS, strict=True):
                if owner == trial:
                    ids = row[None].to(self._model.device)
                    logits = self._base.module(input_ids=ids, use_cache=False).logits[0, :-1].float()
                    loss = functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
                    loss.backward()
                    total += loss.item()
        return _Measured(total, weights.grad[0].float())

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
    def _hooks(self, weights: Tensor) -> Iterator[None]:
        """Add scale * B A x to the output of every adapted layer, whatever the shape of x."""

        def add(layer: PackedLinear, args: tuple[Tensor], output: Tensor) -> Tensor:
            a, b = self._group.a(weights, layer.name)[0], self._group.b(weights, layer.name)[0]
            return output + ((_SCALE * (args[0].to(a.dtype) @ a)) @ b).to(output.dtype)

        layers = [part for part in self._base.module.modules() if isinstance(part, PackedLinear)]
        handles = [layer.register_forward_hook(add) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _scales(self) -> Tensor:
        shape = (len(self._group.shapes), 1, 1, 1)
        return torch.full(shape, _SCALE, dtype=self._model.dtype, device=self._model.device)

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
        )
