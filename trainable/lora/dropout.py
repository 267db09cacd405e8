"""Dropout whose mask depends on the trial alone, never on its place in the pack.

A mask element is a hash of (trial seed, step, row within the trial's batch, layer, position, feature). No
generator is advanced, so there is no state to save, and the same elements are dropped whichever trials share
the pass.

Shapes: n tenants, m rows each, T padded tokens, D features.
"""

import zlib
from dataclasses import dataclass

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
    """The keys of one run of rows, and the rate at which each row's elements are dropped.

    Attributes:
        keys: `[n, m]` int32, from `row_keys`.
        rate: `[n]` float32, each in [0, 1).
    """

    keys: Tensor
    rate: Tensor

    def multiplier(self, layer: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
        """Return what a layer's input is multiplied by: 0 where dropped, else 1 / (1 - rate).

        Args:
            layer: the layer's name; each layer has masks of its own.
            shape: `(n, m, T, D)`.
            dtype: of the result.
        """
        n, m, tokens, features = shape
        device = self.keys.device
        position = torch.arange(tokens * features, dtype=torch.int32, device=device).mul_(_STRIDE)
        layer_key = zlib.crc32(layer.encode()) - 2**31
        bits = (self.keys ^ layer_key).view(n, m, 1) + position
        bits = _mix(bits).view(shape)
        rate = self.rate.double()
        threshold = (rate * 2.0**32 - 2.0**31).round().to(torch.int64).clamp_(max=2**31 - 1)
        kept = bits >= threshold.to(torch.int32).view(n, 1, 1, 1)
        return kept.to(dtype) * (1 / (1 - rate)).to(dtype).view(n, 1, 1, 1)


def _mix(bits: Tensor) -> Tensor:
    """Murmur3's finalizer: every input bit flips every output bit with probability near one half."""
    bits ^= (bits >> 16) & 0xFFFF
    bits *= _MIX_1
    bits ^= (bits >> 13) & 0x7FFFF
    bits *= _MIX_2
    bits ^= (bits >> 16) & 0xFFFF
    return bits
