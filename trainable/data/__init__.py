"""Rows on disk become prompts and targets, and these become memory-mapped tokens; corpora to start from."""

from trainable.data.corpora import local_files
from trainable.data.examples import Example, check_files, read_examples
from trainable.data.tokens import PreparedData, TokenTable, prepare

__all__ = [
    "Example",
    "PreparedData",
    "TokenTable",
    "check_files",
    "local_files",
    "prepare",
    "read_examples",
]
