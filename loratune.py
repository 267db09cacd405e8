"""Hyperparameter search for LoRA fine-tuning from Python: search, resume, train, and read experiments.

import loratune as lt

experiment = lt.search("quickstart", trials=8, name="first")
model, tokenizer = experiment.best.load()
"""

from trainable.errors import LoratuneError, UserError
from tune import __version__
from tune.api import export, load, report, resume, search, train
from tune.read.experiment import BestAdapter, Experiment, Trials

__all__ = [
    "BestAdapter",
    "Experiment",
    "LoratuneError",
    "Trials",
    "UserError",
    "__version__",
    "export",
    "load",
    "report",
    "resume",
    "search",
    "train",
]
