"""One trial's adapter: its parameters, their gradient and AdamW's moments, at the trial's own rank.

The A's of all layers stand side by side in one matrix `[R, S_A]`, the B's, transposed, in one `[R, S_B]`; a
layer is a range of columns. All four tensors are laid out so, each as one contiguous vector, so the
optimizer, clipping and checkpointing see an adapter as a vector, and a pass lays adapters of unlike ranks
beside each other by copying the R lines of each.

Shapes: R rank (the largest, where layers have ranks of their own), S_A and S_B the layers' inputs and outputs
summed up, P = R * (S_A + S_B) parameters.
"""

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor


class Layout:
    """Which columns of an adapter's matrices each layer has.

    Attributes:
        shapes: `(d_in, d_out)` of each layer.
        a_width, b_width: S_A and S_B.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Lay the layers side by side, in their order."""
        self.shapes = dict(shapes)
        self._a: dict[str, slice] = {}
        self._b: dict[str, slice] = {}
        self.a_width = self.b_width = 0
        for name, (d_in, d_out) in shapes.items():
            self._a[name] = slice(self.a_width, self.a_width + d_in)
            self._b[name] = slice(self.b_width, self.b_width + d_out)
            self.a_width += d_in
            self.b_width += d_out

    def a(self, stack: Tensor, name: str) -> Tensor:
        """View the A of layer `name` in `[..., R, S_A]` as `[..., R, d_in]`."""
        return stack[..., self._a[name]]

    def b(self, stack: Tensor, name: str) -> Tensor:
        """View the B of layer `name`, transposed, in `[..., R, S_B]` as `[..., R, d_out]`."""
        return stack[..., self._b[name]]

    def matrices(self, row: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """View an adapter's `[P]` as its A's `[R, S_A]` and its B's `[R, S_B]`."""
        middle = rank * self.a_width
        return row[:middle].view(rank, self.a_width), row[middle:].view(rank, self.b_width)

    def columns_in(self, wider: "Layout", kind: Literal["a", "b"]) -> Tensor:
        """Return `[S]` the columns that this layout's A's, or B's, have in one with more layers."""
        of = wider._a if kind == "a" else wider._b
        return torch.cat([torch.arange(of[name].start, of[name].stop) for name in self.shapes])


@functools.lru_cache(maxsize=64)
def layout_of(shapes: tuple[tuple[str, tuple[int, int]], ...]) -> Layout:
    """Return the layout of layers `(name, (d_in, d_out))`: one object for all adapters that have the same."""
    return Layout(dict(shapes))


class Adapter:
    """Parameters, gradient and moments of one adapter, fp32.

    Attributes:
        layout: its layers.
        ranks: of each layer; lines of a layer beyond its rank are zero and stay zero, because their gradient
            is zero and AdamW leaves a zero alone.
        rank: the largest of them.
        parameters, gradient, exp_avg, exp_avg_sq: `[P]` each.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        ranks: Mapping[str, int],
        scales: Mapping[str, float],
        device: torch.device,
    ) -> None:
        """Make an adapter that is zero.

        Args:
            shapes: `(d_in, d_out)` of the model's layers; those in `ranks` are used.
            ranks: of the adapter's layers.
            scales: of the adapter's layers, what B A x is multiplied by.
            device: where its tensors live.
        """
        self.layout = layout_of(tuple((name, shapes[name]) for name in ranks))
        self.ranks = dict(ranks)
        self.rank = max(ranks.values())
        self._scales = dict(scales)
        size = self.rank * (self.layout.a_width + self.layout.b_width)
        self.parameters, self.gradient, self.exp_avg, self.exp_avg_sq = (
            torch.zeros(size, device=device) for _ in range(4)
        )

    @property
    def size(self) -> int:
        """Trainable parameters, at the true rank of each layer."""
        return sum(sum(self.layout.shapes[name]) * rank for name, rank in self.ranks.items())

    @functools.cached_property
    def scale(self) -> float | Tensor:
        """What B A x is multiplied by: a number, or `[S_B]` where layers have scales of their own."""
        first, *others = set(self._scales.values())
        if not others:
            return first
        by_column = [
            self._scales[name] for name, (_, d_out) in self.layout.shapes.items() for _ in range(d_out)
        ]
        return torch.tensor(by_column, device=self.parameters.device)

    def matrices(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """View a tensor laid out like `parameters` as its A's `[R, S_A]` and its B's `[R, S_B]`."""
        return self.layout.matrices(row, self.rank)

    def layers(self, row: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """View a tensor laid out like `parameters` by layer: A `[r, d_in]` and B transposed `[r, d_out]`."""
        a, b = self.matrices(row)
        return {
            name: (self.layout.a(a, name)[:rank], self.layout.b(b, name)[:rank])
            for name, rank in self.ranks.items()
        }

    def initialize(self, seed: int, kind: str = "kaiming") -> None:
        """Draw the parameters from the trial's own seed, in the distributions that PEFT draws from.

        Each layer has a generator of its own, so the draw depends neither on neighbors nor on the other
        targets.

        Args:
            seed: the trial's.
            kind: `kaiming`: A Kaiming-uniform with a = sqrt(5), that is uniform in +-1/sqrt(d_in), B zero;
                `gaussian`: A normal with deviation 1/r, B zero; `orthogonal`: A and B over complementary
                halves of a random orthonormal basis of the rank's space, so that B A is zero.
        """
        for name, (a, b) in self.layers(self.parameters).items():
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest))
            drawn_a, drawn_b = _draw(kind, len(a), a.shape[1], b.shape[1], generator)
            a.copy_(drawn_a)
            b.copy_(drawn_b.T)


def _draw(kind: str, rank: int, d_in: int, d_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a layer's initial A `[r, d_in]` and B `[d_out, r]`."""
    match kind:
        case "kaiming":
            bound = 1 / math.sqrt(d_in)
            a = torch.empty(rank, d_in).uniform_(-bound, bound, generator=generator)
            return a, torch.zeros(d_out, rank)
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
