"""Data files become examples, and examples become memory-mapped tokens; corpora to start from."""

from trainable.data.examples import Example, read_examples
from trainable.data.sources import Files, open_source
from trainable.data.tokens import PreparedData, TokenTable, check_files, content_hash, prepare, table_lines

__all__ = [
    "Example",
    "Files",
    "PreparedData",
    "TokenTable",
    "check_files",
    "content_hash",
    "open_source",
    "prepare",
    "read_examples",
    "table_lines",
]
