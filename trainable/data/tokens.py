"""Data files become tokens once, in memory-mapped Arrow files that every trial on a node shares.

The files lie in `<cache>/tokens/<key>/`, where the key is a hash of everything they are made from. They are
written under a temporary name, and the whole folder is renamed: a reader sees all of it or nothing, and of
two processes that write the same folder either may win. A manifest holds each file's hash; a folder that
does not match its manifest is thrown away and made again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainable.config import DataConfig
from trainable.data.encoding import IGNORED, encode
from trainable.data.examples import Example, read_examples
from trainable.files import loratune_cache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
"""Raised whenever the same data would be tokenised differently, or laid out differently on disk."""

BATCH_ROWS = 1024
"""Rows in one Arrow record batch, and in one call to the tokenizer."""

SCHEMA = pa.schema(
    {
        "ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "begin": pa.int32(),
        "cut": pa.bool_(),
        "prompt": pa.string(),
        "target": pa.string(),
    }
)
MANIFEST = "manifest.json"


class TokenTable:
    """The tokenised rows of one file, read from a memory map.

    Attributes:
        lengths: `[rows]` tokens of each row.
        target_lengths: `[rows]` tokens of each row's last target, and what follows it.
        target_tokens: tokens that a loss falls on, in all rows.
        rows_cut: rows that were longer than `data.max_length`.
    """

    def __init__(self, path: Path) -> None:
        """Open the Arrow file that `prepare` has written.

        Raises:
            OSError, pyarrow.ArrowInvalid: the file is missing, or not such a file.
        """
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        offsets = [batch.column("ids").offsets.to_numpy() for batch in self._batches]
        labels = [batch.column("labels").values.to_numpy() for batch in self._batches]
        self.lengths: np.ndarray = np.concatenate([np.diff(starts) for starts in offsets]).astype(np.int64)
        begins = [batch.column("begin").to_numpy() for batch in self._batches]
        self.target_lengths: np.ndarray = self.lengths - np.concatenate(begins)
        self.target_tokens = int(sum(np.count_nonzero(values != IGNORED) for values in labels))
        self.rows_cut = sum(batch.column("cut").true_count for batch in self._batches)

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, row: int) -> np.ndarray:
        """Return `[T]` int64 token ids of a row."""
        return self._cell("ids", row).values.to_numpy().astype(np.int64)

    def labels(self, row: int) -> np.ndarray:
        """Return `[T]` int64 labels of a row: its ids where a loss falls, -100 elsewhere."""
        return self._cell("labels", row).values.to_numpy().astype(np.int64)

    def prompt_ids(self, row: int) -> np.ndarray:
        """Return the int64 token ids that stand before the row's last target."""
        return self.ids(row)[: self._cell("begin", row).as_py()]

    def prompt(self, row: int) -> str:
        """Return the row's prompt, uncut."""
        return self._cell("prompt", row).as_py()

    def target(self, row: int) -> str:
        """Return the row's last target, uncut."""
        return self._cell("target", row).as_py()

    def _cell(self, column: str, row: int) -> pa.Scalar:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table of {len(self)}")
        batch, place = divmod(row, BATCH_ROWS)
        return self._batches[batch].column(column)[place]


@dataclass(frozen=True)
class PreparedData:
    """The tokens of an experiment.

    Attributes:
        train: what is trained on.
        val: what eval/loss is computed on.
        test: what is kept for the end, if anything.
        data_hash: of the files' content, the prompt template and the longest row allowed; the same on
            every node, whatever the files' paths are.
    """

    train: TokenTable
    val: TokenTable
    test: TokenTable | None
    data_hash: str


def prepare(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    tokenizer_id: str,
    cache_dir: Path | None = None,
) -> PreparedData:
    """Open the tokens of the data files, tokenising them if no earlier call has done so.

    How a row becomes tokens, and what is cut from one that is too long, says `trainable.data.encoding`.

    Args:
        data: the files, the prompt template and the longest row allowed.
        tokenizer: a fast tokenizer.
        tokenizer_id: the tokenizer's name.
        cache_dir: where the tokens are kept; by default the user's cache.

    Raises:
        DataError: a file or a row of it cannot be trained on.
    """
    named = {"train": data.train, "val": data.val, "test": data.test}
    sources = {name: path for name, path in named.items() if path is not None}
    data_hash = _digest(FORMAT, data.max_length, data.prompt_template, _content_hashes(sources))
    # A name alone does not tell two revisions of a tokenizer apart, or a local folder's before and after.
    vocabulary = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map]
    key = _digest(data_hash, tokenizer_id, vocabulary)
    folder = (cache_dir or loratune_cache()) / "tokens" / key[:32]
    if not _is_whole(folder, sources):
        _build(folder, sources, data, tokenizer)
    tables = {name: TokenTable(folder / f"{name}.arrow") for name in sources}
    return PreparedData(tables["train"], tables["val"], tables.get("test"), data_hash)


def _content_hashes(sources: Mapping[str, Path]) -> dict[str, list[str]]:
    """Hash each file; its suffix counts as well, because it says how the content is read."""
    hashes = {}
    for name, path in sources.items():
        if not path.is_file():
            # This raises the error that says what is wrong with the path.
            read_examples(path, "{input}")
        hashes[name] = [path.name.partition(".")[2], _file_hash(path)]
    return hashes


def _build(
    folder: Path, sources: Mapping[str, Path], data: DataConfig, tokenizer: "PreTrainedTokenizerFast"
) -> None:
    """Write the folder beside its place, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        for name, source in sources.items():
            examples = read_examples(source, data.prompt_template)
            _write_table(fresh / f"{name}.arrow", examples, tokenizer, data.max_length, str(source))
        hashes = {f"{name}.arrow": _file_hash(fresh / f"{name}.arrow") for name in sources}
        (fresh / MANIFEST).write_text(json.dumps(hashes), encoding="utf-8")
        _put(fresh, folder, sources)


def _put(fresh: Path, folder: Path, sources: Mapping[str, Path]) -> None:
    """Rename `fresh` to `folder`, unless another process has put a whole one there meanwhile."""
    while not _is_whole(folder, sources):
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            # Whoever has the damaged files mapped keeps them; their name is free.
            shutil.rmtree(folder, ignore_errors=True)


def _write_table(
    path: Path,
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
    source: str,
) -> None:
    with path.open("wb") as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for start in range(0, len(examples), BATCH_ROWS):
                some = examples[start : start + BATCH_ROWS]
                encoded = list(encode(some, tokenizer, max_length, source))
                columns = {
                    "ids": [row.ids for row in encoded],
                    "labels": [row.labels for row in encoded],
                    "begin": [row.begin for row in encoded],
                    "cut": [row.cut for row in encoded],
                    "prompt": [example.prompt for example in some],
                    "target": [example.target for example in some],
                }
                writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=SCHEMA))
        file.flush()
        os.fsync(file.fileno())


def _is_whole(folder: Path, names: Mapping[str, Path]) -> bool:
    """Whether the folder holds these tables, each as it was written."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(hashes[f"{name}.arrow"] == _file_hash(folder / f"{name}.arrow") for name in names)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
