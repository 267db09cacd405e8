"""Storage for the adapters that share a shape: one row of a few matrices per adapter.

Adapters are grouped by padded rank and target modules. All parameters of an adapter lie side by side in one
row of `parameters`, so the optimizer, clipping, checkpointing and the freeing of a slot are operations on
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
        self.order = {name: number for number, name in enumerate(key.targets)}
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

    def initialize(self, slot: int, ranks: Mapping[str, int], seed: int, kind: str = "kaiming") -> None:
        """Draw an adapter at its true ranks from its own seed, in the distributions that PEFT draws from.

        Each layer has a generator of its own, so the draw depends neither on neighbors nor on the other
        targets.

        Args:
            slot: the adapter's.
            ranks: of each layer.
            seed: the trial's.
            kind: `kaiming`: A Kaiming-uniform with a = sqrt(5), that is uniform in +-1/sqrt(d_in), B zero;
                `gaussian`: A normal with deviation 1/r, B zero; `orthogonal`: A and B over complementary
                halves of a random orthonormal basis of the rank's space, so that B A is zero.
        """
        row = self.parameters[slot : slot + 1]
        for name, (d_in, d_out) in self.shapes.items():
            rank = ranks[name]
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest))
            a, b = _draw(kind, rank, d_in, d_out, generator)
            self.a(row, name)[0, :, :rank] = a.T.to(row.device)
            self.b(row, name)[0, :rank] = b.T.to(row.device)

    def b_columns(self) -> Tensor:
        """Return `[P]` bool: which parameters belong to a B."""
        marks = torch.zeros(1, self.parameters.shape[1], dtype=torch.bool, device=self.parameters.device)
        for name in self.shapes:
            self.b(marks, name).fill_(True)
        return marks[0]


def _draw(kind: str, rank: int, d_in: int, d_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a layer's initial A `[r, d_in]` and B `[d_out, r]`."""
    match kind:
        case "kaiming":
            bound = 1 / math.sqrt(d_in)
            return torch.empty(rank, d_in).uniform_(-bound, bound, generator=generator), torch.zeros(
                d_out, rank
            )
        case "gaussian":
            return torch.randn(rank, d_in, generator=generator) / rank, torch.zeros(d_out, rank)
        case "orthogonal":
            basis, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
            half = rank // 2
            # The factor is PEFT's, which follows https://datta0.github.io/posts/rethink-lora-init/.
            a = basis[0::2].T @ torch.randn(half, d_in, generator=generator) / 10
            b = torch.randn(d_out, half, generator=generator) @ basis[1::2] / 10
            return a, b
        case _:
            raise ValueError(f"no initialization is called '{kind}'")
