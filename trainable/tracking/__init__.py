"""Everything that knows Weights & Biases: one run, its artifacts, a search's group, the single-run logger."""

from trainable.tracking.logger import WandBLogger

__all__ = ["WandBLogger"]
