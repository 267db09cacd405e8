"""A stretch of rows of one pass, and the products of its adapters.

Each layer takes one product for A and one for B, whatever the mix: adapters with equally many rows go through
a batched product, others through a grouped one. A row's result depends on no other row.

Shapes: n adapters, R padded rank, K places of a row in a layer's input, M = rows of the span * K.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from trainable.lora.adapter import Adapter
from trainable.lora.dropout import DropoutMasks
from trainable.lora.stack import AdapterStack


class AdapterSpan:
    """Consecutive rows of one pass and their adapters.

    Attributes:
        adapters: in the order of their rows.
        rows: the span's rows in the pass.
        dtype: of the products.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        rows_each: Sequence[int],
        first_row: int,
        dtype: torch.dtype,
        *,
        rates: Sequence[float] = (),
        keys: Sequence[int] = (),
    ) -> None:
        """Lay the adapters out.

        Args:
            adapters: in the order of their rows; those with the same layers stand together.
            rows_each: rows of each.
            first_row: where the span begins in the pass.
            dtype: of the products.
            rates: of each adapter's dropout; none when evaluating.
            keys: of each row, for its masks; needed if any rate is above zero.
        """
        self.adapters = list(adapters)
        self.rows = slice(first_row, first_row + sum(rows_each))
        self.dtype = dtype
        self._rows_each = tuple(rows_each)
        self._equal = len(set(rows_each)) == 1
        self._device = adapters[0].parameters.device
        self._stack = AdapterStack(adapters, rates or [0.0] * len(adapters), dtype)
        self._masks: DropoutMasks | None = None
        if any(rates):
            by_row = [rate for rate, count in zip(rates, rows_each, strict=True) for _ in range(count)]
            self._masks = DropoutMasks(keys, by_row, self._device)
        self._ends: dict[int, Tensor] = {}
        self._gradients: dict[str, tuple[Tensor, Tensor]] = {}

    def adapts(self, layer: str) -> bool:
        """Whether any of the adapters has the layer."""
        return layer in self._stack.layout.shapes

    def take(self, batch: Tensor) -> Tensor:
        """View the span's rows of `batch[rows, K, D]` as `[M, D]`."""
        return batch[self.rows].flatten(0, 1)

    def dropped(self, batch: Tensor, layer: str) -> Tensor | None:
        """Return `[M, D]` bool: what dropout drops of the layer's input `batch[rows, K, D]`, if anything."""
        if self._masks is None:
            return None
        return self._masks.dropped(layer, *batch.shape[1:]).flatten(0, 1)

    def down(self, inputs: Tensor, layer: str) -> Tensor:
        """Return A x `[M, R]` for the layer's inputs `[M, d_in]`, after dropout."""
        return self._times(inputs, self._a(layer).transpose(1, 2))

    def add_up(self, outputs: Tensor, low: Tensor, layer: str) -> None:
        """Add scale * B A x to the layer's outputs `[M, d_out]`, in place."""
        b = self._b(layer)
        if self._equal and outputs.dtype == b.dtype:
            self._apart(outputs).baddbmm_(self._apart(low), b)
        else:
            outputs.add_(self._times(low, b))

    def backward(
        self, inputs: Tensor, low: Tensor, grad_outputs: Tensor, layer: str, *, through: bool
    ) -> Tensor | None:
        """Keep the gradients of A and B; return that of the inputs.

        Args:
            inputs: `[M, d_in]`, after dropout.
            low: `[M, R]`, from `down`.
            grad_outputs: `[M, d_out]`.
            layer: the layer's name.
            through: whether the gradient of the inputs is wanted.

        Returns:
            `[M, d_in]` the gradient of what dropout leaves of the inputs, or `None`.
        """
        grad_low = self._times(grad_outputs, self._b(layer).transpose(1, 2))
        found = self._outer(grad_low, inputs), self._outer(low, grad_outputs)
        if (before := self._gradients.get(layer)) is not None:
            # A model may call one layer several times in a pass.
            found = before[0] + found[0], before[1] + found[1]
        self._gradients[layer] = found
        return self._times(grad_low, self._a(layer)) if through else None

    def add_gradients(self) -> None:
        """Add the gradients of the pass to those of the adapters."""
        self._stack.add_gradients(self._gradients)
        self._gradients = {}

    def _a(self, layer: str) -> Tensor:
        return self._stack.layout.a(self._stack.a, layer)

    def _b(self, layer: str) -> Tensor:
        return self._stack.layout.b(self._stack.b, layer)

    def _apart(self, values: Tensor) -> Tensor:
        """View `[M, C]` by adapter, as `[n, M / n, C]`, if they have equally many rows."""
        return values.view(len(self._rows_each), -1, values.shape[1])

    def _times(self, values: Tensor, stack: Tensor) -> Tensor:
        """Multiply each adapter's part of `values[M, C]` by its matrix of `stack[n, C, D]`."""
        if self._equal:
            return torch.bmm(self._apart(values), stack).flatten(0, 1)
        return functional.grouped_mm(values, stack, offs=self._offsets(len(values)))

    def _outer(self, left: Tensor, right: Tensor) -> Tensor:
        """Return `[n, C, D]`: left^T right over each adapter's part of `[M, C]` and `[M, D]`."""
        if self._equal:
            return torch.bmm(self._apart(left).transpose(1, 2), self._apart(right))
        return functional.grouped_mm(left.t(), right, offs=self._offsets(len(left)))

    def _offsets(self, length: int) -> Tensor:
        """Return `[n]` int32: where each adapter's part of `[M, ...]` ends."""
        if length not in self._ends:
            places = length // sum(self._rows_each)
            ends = [end * places for end in accumulate(self._rows_each)]
            self._ends[length] = torch.tensor(ends, dtype=torch.int32, device=self._device)
        return self._ends[length]
