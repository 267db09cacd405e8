"""Dropout whose mask depends on the trial alone, never on its place in the pack.

A mask element is a hash of (trial seed, step, row within the trial's batch, layer, position, feature). No
generator is advanced, so there is no state to save, and the same elements are dropped whichever trials share
the pass. All but the layer is hashed once a pass. A layer multiplies the hash by an odd number of its own
modulo 2^32 and compares the product, whose highest bits depend on all bits of the hash (multiplicative
hashing, Dietzfelbinger et al. 1997).

Shapes: rows of a span, K places of a row, D features.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Odd multipliers of the murmur3 finalizer, as signed 32-bit numbers; int32 products wrap.
_MIX_1 = 0x85EBCA6B - 2**32
_MIX_2 = 0xC2B2AE35 - 2**32
_STRIDE = 0x9E3779B1 - 2**32


def row_keys(seed: int, step: int, rows: range) -> list[int]:
    """Return one signed 32-bit key for each row of a trial's batch at one optimizer step."""
    return [int(np.random.SeedSequence((seed, step, row)).generate_state(1)[0]) - 2**31 for row in rows]


class DropoutMasks:
    """What is dropped of the rows of a span, at each row's own rate."""

    def __init__(self, keys: Sequence[int], rates: Sequence[float], device: torch.device) -> None:
        """Take the rows' keys.

        Args:
            keys: of each row, from `row_keys`.
            rates: of each row, in [0, 1).
            device: where the masks are made.
        """
        self._keys = torch.tensor(keys, dtype=torch.int32, device=device).view(-1, 1)
        # The smallest hash that is kept.
        limits = [min(round(rate * 2**32) - 2**31, 2**31 - 1) for rate in rates]
        self._limits = torch.tensor(limits, dtype=torch.int32, device=device).view(-1, 1, 1)
        self._hashes: dict[tuple[int, int], Tensor] = {}

    def dropped(self, layer: str, places: int, features: int) -> Tensor:
        """Return `[rows, K, D]` bool: which elements of a layer's input are dropped.

        Args:
            layer: the layer's name; each layer has masks of its own.
            places: K.
            features: D.
        """
        return self._hash(places, features) * _multiplier(layer) < self._limits

    def _hash(self, places: int, features: int) -> Tensor:
        """Return `[rows, K, D]` int32, the same for every layer; made once for each shape."""
        made = self._hashes.get((places, features))
        if made is None:
            numbers = torch.arange(places * features, dtype=torch.int32, device=self._keys.device)
            made = _mix(self._keys + numbers.mul_(_STRIDE)).view(-1, places, features)
            self._hashes[places, features] = made
        return made


@functools.cache
def _multiplier(layer: str) -> int:
    digest = hashlib.blake2b(layer.encode(), digest_size=4).digest()
    return (int.from_bytes(digest) | 1) - 2**31


def _mix(bits: Tensor) -> Tensor:
    """Murmur3's finalizer: every input bit flips every output bit with probability near one half."""
    bits ^= (bits >> 16) & 0xFFFF
    bits *= _MIX_1
    bits ^= (bits >> 13) & 0x7FFFF
    bits *= _MIX_2
    bits ^= (bits >> 16) & 0xFFFF
    return bits
