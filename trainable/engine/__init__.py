"""Packed training on one device, without Ray and without W&B."""

from trainable.engine.engine import Engine

__all__ = ["Engine"]
