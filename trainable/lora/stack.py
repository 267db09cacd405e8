"""Adapters of unlike ranks and layers, laid beside each other in two tensors for the products of a pass.

Ranks are padded with zeros up to the largest, and a layer that an adapter lacks is zero in it: the product
of a zero is zero, and so is its gradient. What is laid out is a copy, in the dtype of the products, with the
factors that the layer's output would otherwise be multiplied by: the B's times the scale, the A's times what
dropout multiplies the kept elements by. Gradients are brought back the same way. Each operation takes all
adapters, so a mix launches as many as a single adapter.

Shapes: n adapters, r the rank of one, R the padded rank, S_A and S_B as in `trainable.lora.adapter`.
"""

import functools
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from trainable.lora.adapter import Adapter, Layout, layout_of

_ALIGNMENT = 8
"""Ranks are padded to a multiple of it: 16 bytes of bfloat16, as grouped products need."""

Kind = Literal["a", "b"]


def padded_rank(rank: int) -> int:
    """Return the rank that an adapter is computed at if no other is larger."""
    return -(-rank // _ALIGNMENT) * _ALIGNMENT


class AdapterStack:
    """The adapters of some rows.

    Attributes:
        layout: the layers that any of the adapters has.
        a, b: `[n, R, S_A]` and `[n, R, S_B]`.
    """

    def __init__(self, adapters: Sequence[Adapter], rates: Sequence[float], dtype: torch.dtype) -> None:
        """Lay the adapters out.

        Args:
            adapters: those with the same layers stand together.
            rates: of each adapter's dropout; zeros when evaluating.
            dtype: of the products.
        """
        self._adapters = list(adapters)
        self._stretches = [(layout, list(held)) for layout, held in groupby(adapters, lambda one: one.layout)]
        self.layout = _union(tuple(layout for layout, _ in self._stretches))
        self._factors = {
            "a": [1 / (1 - rate) for rate in rates],
            "b": _alike([adapter.scale for adapter in adapters]),
        }
        matrices = [adapter.matrices(adapter.parameters) for adapter in adapters]
        self.a = self._lay_out([a for a, _ in matrices], "a", dtype)
        self.b = self._lay_out([b for _, b in matrices], "b", dtype)

    def add_gradients(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add the gradients of a pass to those of the adapters.

        Args:
            found: of each layer that was reached, `[n, R, d_in]` and `[n, R, d_out]`.
        """
        parts_a, parts_b = [], []
        for name, (d_in, d_out) in self.layout.shapes.items():
            a, b = found.get(name) or (self.a.new_zeros(*self.a.shape[:2], size) for size in (d_in, d_out))
            parts_a.append(a)
            parts_b.append(b)
        held = [adapter.matrices(adapter.gradient) for adapter in self._adapters]
        self._bring_back(torch.cat(parts_a, dim=2), [a for a, _ in held], "a")
        self._bring_back(torch.cat(parts_b, dim=2), [b for _, b in held], "b")

    def _lay_out(self, matrices: list[Tensor], kind: Kind, dtype: torch.dtype) -> Tensor:
        """Return `[n, R, S]` of the adapters' A's or B's `[r, S]`, times their factors."""
        rank = padded_rank(max(len(matrix) for matrix in matrices))
        width = self.layout.a_width if kind == "a" else self.layout.b_width
        stack = matrices[0].new_zeros(len(matrices), rank, width, dtype=dtype)
        scaled = torch._foreach_mul(matrices, self._factors[kind])
        if len(self._stretches) == 1:
            torch._foreach_copy_(_lines(stack, scaled), scaled)
            return stack
        begin = 0
        for layout, adapters in self._stretches:
            part = slice(begin, begin + len(adapters))
            narrow = stack.new_zeros(len(adapters), rank, scaled[begin].shape[1])
            torch._foreach_copy_(_lines(narrow, scaled[part]), scaled[part])
            stack[part].index_copy_(2, _columns(layout, self.layout, kind, stack.device), narrow)
            begin = part.stop
        return stack

    def _bring_back(self, gradients: Tensor, held: list[Tensor], kind: Kind) -> None:
        """Add gradients `[n, R, S]` of what was laid out to `held`, `[r, S]` of each adapter."""
        found, begin = [], 0
        for layout, adapters in self._stretches:
            part = slice(begin, begin + len(adapters))
            narrow = gradients[part]
            if len(self._stretches) > 1:
                narrow = narrow.index_select(2, _columns(layout, self.layout, kind, gradients.device))
            found += _lines(narrow.to(held[0].dtype), held[part])
            begin = part.stop
        torch._foreach_add_(held, torch._foreach_mul(found, self._factors[kind]))


def _alike(factors: Sequence[float | Tensor]) -> list[float] | list[Tensor]:
    """Make tensors of all factors, if any is one."""
    tensors = [factor for factor in factors if isinstance(factor, Tensor)]
    if not tensors:
        return [factor for factor in factors if not isinstance(factor, Tensor)]
    return [torch.as_tensor(factor, dtype=torch.float32, device=tensors[0].device) for factor in factors]


def _lines(stack: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """View the first lines of each matrix of `stack[n, R, S]`, as many as the matrix of `like` has."""
    return [matrix[: len(other)] for matrix, other in zip(stack.unbind(0), like, strict=True)]


@functools.lru_cache(maxsize=64)
def _union(layouts: tuple[Layout, ...]) -> Layout:
    """Return the layout of all layers that any of `layouts` has."""
    return layout_of(tuple({name: shape for one in layouts for name, shape in one.shapes.items()}.items()))


@functools.lru_cache(maxsize=64)
def _columns(layout: Layout, wider: Layout, kind: Kind, device: torch.device) -> Tensor:
    """Return `[S]` where the columns of `layout` lie in those of `wider`."""
    return layout.columns_in(wider, kind).to(device)
