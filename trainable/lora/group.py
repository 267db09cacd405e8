"""Storage for the adapters that share a shape: one row of a few matrices per adapter.

Adapters are grouped by padded rank and target modules. All parameters of an adapter lie side by side in one
row of `parameters`, so the optimiser, clipping, checkpointing and the freeing of a slot are operations on
rows, and a layer's stacks `A[N, d_in, R]` and `B[N, R, d_out]` are views into it. Columns of a stack beyond
an adapter's true rank are zero and stay zero: their gradient is zero and AdamW leaves a zero alone.

Shapes: N adapters, P parameters of one adapter at the padded rank R.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALLEST_BUCKET = 8


def rank_bucket(rank: int) -> int:
    """Return the padded rank: the next power of two, at least 8."""
    return max(_SMALLEST_BUCKET, 1 << (rank - 1).bit_length())


def adapter_scale(rank: int, alpha: float, use_rslora: bool) -> float:
    """Return what B A x is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski, 2023)."""
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


@dataclass(frozen=True, order=True)
class GroupKey:
    """What adapters must share to be stacked."""

    rank: int
    targets: tuple[str, ...]


class AdapterGroup:
    """The adapters of one `GroupKey`: parameters, gradients and AdamW's moments, all fp32.

    Attributes:
        parameters, gradients, exp_avg, exp_avg_sq: `[N, P]`, N grows as adapters come.
    """

    def __init__(self, key: GroupKey, shapes: Mapping[str, tuple[int, int]], device: torch.device) -> None:
        """Lay out the rows.

        Args:
            key: padded rank and targets.
            shapes: `(d_in, d_out)` of each target.
            device: where the matrices live.
        """
        self.key = key
        self.shapes = {name: shapes[name] for name in key.targets}
        self._offsets: dict[str, tuple[int, int]] = {}
        width = 0
        for name, (d_in, d_out) in self.shapes.items():
            self._offsets[name] = (width, width + d_in * key.rank)
            width += (d_in + d_out) * key.rank
        self._free: list[int] = []
        self.parameters, self.gradients, self.exp_avg, self.exp_avg_sq = (
            torch.zeros(0, width, device=device) for _ in range(4)
        )

    def claim(self) -> int:
        """Return a slot whose parameters, gradients and moments are all zero."""
        if not self._free:
            held = len(self.parameters)
            self._free = list(range(held, max(1, 2 * held)))[::-1]
            for name in ("parameters", "gradients", "exp_avg", "exp_avg_sq"):
                old = getattr(self, name)
                new = old.new_zeros(held + len(self._free), old.shape[1])
                new[:held] = old
                setattr(self, name, new)
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Take a slot back, leaving nothing of its adapter behind."""
        for matrix in (self.parameters, self.gradients, self.exp_avg, self.exp_avg_sq):
            matrix[slot] = 0
        self._free.append(slot)

    def a(self, rows: Tensor, name: str) -> Tensor:
        """View the A of layer `name` in `rows[n, P]` as `[n, d_in, R]`."""
        start, middle = self._offsets[name]
        return rows[:, start:middle].unflatten(1, (self.shapes[name][0], self.key.rank))

    def b(self, rows: Tensor, name: str) -> Tensor:
        """View the B of layer `name` in `rows[n, P]` as `[n, R, d_out]`."""
        middle = self._offsets[name][1]
        d_out = self.shapes[name][1]
        return rows[:, middle : middle + d_out * self.key.rank].unflatten(1, (self.key.rank, d_out))

    def initialise(self, slot: int, rank: int, seed: int) -> None:
        """Draw A at the adapter's true rank from its own seed; B stays zero.

        A is Kaiming-uniform with a = sqrt(5), that is uniform in +-1/sqrt(d_in), as in PEFT. Each layer has
        a generator of its own, so the draw depends neither on neighbours nor on the other targets.
        """
        row = self.parameters[slot : slot + 1]
        for name, (d_in, _) in self.shapes.items():
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest))
            bound = 1 / math.sqrt(d_in)
            drawn = torch.empty(rank, d_in).uniform_(-bound, bound, generator=generator)
            self.a(row, name)[0, :, :rank] = drawn.T.to(row.device)
