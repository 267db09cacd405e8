"""Dropout whose mask depends on the trial alone, never on its place in the pack.

A mask element is a hash of (trial seed, step, row within the trial's batch, layer, position, feature). No
generator is advanced, so there is no state to save, and the same elements are dropped whichever trials share
the pass.

Shapes: n tenants, m rows each, T padded tokens, D features.
"""

import functools
import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# Odd multipliers of the murmur3 finalizer, as signed 32-bit numbers; int32 products wrap.
_MIX_1 = 0x85EBCA6B - 2**32
_MIX_2 = 0xC2B2AE35 - 2**32
_STRIDE = 0x9E3779B1 - 2**32


def row_keys(seed: int, step: int, rows: range) -> list[int]:
    """Return one 32-bit key for each row of a trial's batch at one optimizer step."""
    return [int(np.random.SeedSequence((seed, step, row)).generate_state(1)[0]) for row in rows]


@dataclass(frozen=True)
class DropoutKeys:
    """The keys of rows, and the rate at which each tenant's elements are dropped.

    Spans with the same layers share one object, so that a layer's masks are drawn once for all of them. The
    last multiplier is kept for that: the spans of a layer ask for theirs one after the other.

    Attributes:
        keys: `[n, m]` int32, from `row_keys`.
        rate: `[n]` float32, each in [0, 1).
    """

    keys: Tensor
    rate: Tensor
    _last: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def multiplier(self, layer: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
        """Return what a layer's input is multiplied by: 0 where dropped, else 1 / (1 - rate).

        Args:
            layer: the layer's name; each layer has masks of its own.
            shape: `(n, m, T, D)`.
            dtype: of the result, which is not to be changed in place.
        """
        key = (layer, shape, dtype)
        if key not in self._last:
            self._last.clear()
            self._last[key] = self._draw(layer, shape, dtype)
        return self._last[key]

    def _draw(self, layer: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
        n, m, tokens, features = shape
        layer_key = zlib.crc32(layer.encode()) - 2**31
        positions = self._positions(tokens * features)
        bits = _mix((self.keys ^ layer_key).view(n, m, 1) + positions).view(shape)
        threshold, kept = self._limits
        return (bits >= threshold).to(dtype) * kept.to(dtype)

    def _positions(self, elements: int) -> Tensor:
        """Return `[elements]` what each place of a row adds to its key, computed once for each length."""
        held = self._places.get(elements)
        if held is None:
            held = torch.arange(elements, dtype=torch.int32, device=self.keys.device).mul_(_STRIDE)
            self._places[elements] = held
        return held

    @functools.cached_property
    def _places(self) -> dict[int, Tensor]:
        return {}

    @functools.cached_property
    def _limits(self) -> tuple[Tensor, Tensor]:
        """Return `[n, 1, 1, 1]` each: the smallest hash that is kept, and the factor of what is kept."""
        rate = self.rate.double()
        threshold = (rate * 2.0**32 - 2.0**31).round().to(torch.int64).clamp_(max=2**31 - 1)
        return threshold.to(torch.int32).view(-1, 1, 1, 1), (1 / (1 - rate)).view(-1, 1, 1, 1)


def _mix(bits: Tensor) -> Tensor:
    """Murmur3's finalizer: every input bit flips every output bit with probability near one half."""
    bits ^= (bits >> 16) & 0xFFFF
    bits *= _MIX_1
    bits ^= (bits >> 13) & 0x7FFFF
    bits *= _MIX_2
    bits ^= (bits >> 16) & 0xFFFF
    return bits
