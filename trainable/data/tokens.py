"""Data files become tokens once, in memory-mapped Arrow files that every trial on a node shares.

The files lie in `<cache>/tokens/<key>/`, where the key is a hash of everything they are made from. They are
written under a temporary name, and the whole folder is renamed: a reader sees all of it or nothing, and of
two processes that write the same folder either may win. A manifest holds each file's hash; a folder that
does not match its manifest is deleted and made again.

Rows are read and rendered in one thread and tokenized in another, a batch at a time, so that memory does not
grow with the files.
"""

import functools
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainable.config import DataConfig
from trainable.data.encoding import IGNORED, Encoded, RowEncoder
from trainable.data.examples import Example, Survey, in_rows, read_examples
from trainable.data.sources import Source, open_source
from trainable.files import loratune_cache, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IDENTITY = 1
"""Raised only when `data_hash` is computed differently: experiments are resumed by it."""

FORMAT = 2
"""Raised whenever the same data would be tokenized differently, or laid out differently on disk."""

BATCH_ROWS = 1024
"""The most rows in one Arrow record batch, and in one call to the tokenizer."""
_IDENTIFYING_ROWS = 64
_BATCH_CHARACTERS = 4_000_000
"""The most characters in a batch of several rows."""
_CHECKED_ROWS = 1000
"""Rows at the beginning of each file that `check_files` reads."""
_REPORT_EVERY = 10
"""Batches between two reports of progress."""

SCHEMA = pa.schema(
    {
        "ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "begin": pa.int32(),
        "truncated": pa.bool_(),
        "prompt": pa.string(),
        "target": pa.string(),
    }
)
MANIFEST = "manifest.json"

Say = Callable[[str], None]


class TokenTable:
    """The tokenized rows of one source, read from a memory map.

    Attributes:
        lengths: `[rows]` tokens of each row.
        target_lengths: `[rows]` tokens of each row's last target, and what follows it.
        target_tokens: tokens that a loss falls on, in all rows.
        rows_truncated: rows that were longer than `data.max_length`.
    """

    def __init__(self, path: Path) -> None:
        """Open the Arrow file that `prepare` has written.

        Raises:
            OSError, pyarrow.ArrowInvalid: the file is missing, or not such a file.
        """
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])
        offsets = [batch.column("ids").offsets.to_numpy() for batch in self._batches]
        labels = [batch.column("labels").values.to_numpy() for batch in self._batches]
        self.lengths: np.ndarray = np.concatenate([np.diff(starts) for starts in offsets]).astype(np.int64)
        begins = [batch.column("begin").to_numpy() for batch in self._batches]
        self.target_lengths: np.ndarray = self.lengths - np.concatenate(begins)
        self.target_tokens = int(sum(np.count_nonzero(values != IGNORED) for values in labels))
        self.rows_truncated = sum(batch.column("truncated").true_count for batch in self._batches)

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
        """Return the row's prompt, not truncated."""
        return self._cell("prompt", row).as_py()

    def target(self, row: int) -> str:
        """Return the row's last target, not truncated, as a perfect generation would be decoded."""
        return self._cell("target", row).as_py()

    def _cell(self, column: str, row: int) -> pa.Scalar:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table of {len(self)}")
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._batches[batch].column(column)[row - int(self._starts[batch])]


@dataclass(frozen=True)
class PreparedData:
    """The tokens of an experiment.

    Attributes:
        train: what is trained on.
        val: what eval/loss is computed on.
        test: what is kept for the end, if anything.
        data_hash: of the files' content, the prompt template, the columns and the longest row allowed; the
            same on every node, whatever the files' paths are. It identifies the data, not their tokens.
        notes: for each table by its name, what a user should know about how it was read.
    """

    train: TokenTable
    val: TokenTable
    test: TokenTable | None
    data_hash: str
    notes: Mapping[str, list[str]]

    @property
    def tokens_id(self) -> str:
        """A hash of the tokens and labels of some rows of each table.

        It changes with the tokenizer and its chat template, which `data_hash` does not know.
        """
        digest = hashlib.sha256()
        for table in (self.train, self.val, self.test):
            for row in _spread(len(table)) if table is not None else ():
                digest.update(table.ids(row).tobytes())
                digest.update(table.labels(row).tobytes())
        return digest.hexdigest()[:32]

    def lines(self) -> list[str]:
        """Return what a user should know about each table, a line each."""
        tables = {"train": self.train, "val": self.val, "test": self.test}
        return [
            line
            for name, table in tables.items()
            if table is not None
            for line in table_lines(
                name, len(table), table.target_tokens, table.rows_truncated, self.notes[name]
            )
        ]


def table_lines(
    name: str, rows: int, target_tokens: int, rows_truncated: int, notes: Sequence[str]
) -> list[str]:
    """Return a table's size, its truncated rows, and the notes on how it was read, a line each."""
    truncated = f", {in_rows(rows_truncated)} truncated to data.max_length" if rows_truncated else ""
    size = f"{name}: {in_rows(rows)}, {target_tokens:,} target tokens{truncated}"
    return [size, *(f"{name}: {note}" for note in notes)]


def _spread(rows: int) -> range:
    """Return the numbers of at most `_IDENTIFYING_ROWS` or so rows, evenly spread over a table."""
    return range(0, rows, max(1, rows // _IDENTIFYING_ROWS))


def _silent(text: str) -> None:
    del text


def check_files(data: DataConfig) -> None:
    """Read the beginning of every source, so that a mistake is reported before a model is loaded.

    Raises:
        DataError: a source is missing, or one of its first rows cannot be trained on.
    """
    for source in _sources(data).values():
        examples = read_examples(source, data.prompt_template, data.columns)
        for _ in itertools.islice(examples, _CHECKED_ROWS):
            pass


def prepare(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    tokenizer_id: str,
    cache_dir: Path | None = None,
    say: Say = _silent,
) -> PreparedData:
    """Open the tokens of the data files, tokenizing them if no earlier call has done so.

    `trainable.data.encoding` describes how a row becomes tokens, and what a row that is too long loses.

    Args:
        data: the sources, the prompt template and the longest row allowed.
        tokenizer: a fast tokenizer, or a slow one, which takes several times longer.
        tokenizer_id: the tokenizer's name.
        cache_dir: where the tokens are kept; by default the user's cache.
        say: receives the progress of tokenizing.

    Raises:
        DataError: a file or a row of it cannot be trained on.
    """
    sources = _sources(data)
    digests = {name: _content(source) for name, source in sources.items()}
    mapped = [sorted(data.columns.items())] if data.columns else []
    data_hash = _digest(IDENTITY, data.max_length, data.prompt_template, digests, *mapped)
    # A name alone does not tell two revisions of a tokenizer apart, or a local folder before and after.
    key = _digest(FORMAT, data_hash, tokenizer_id, _description(tokenizer))
    folder = (cache_dir or loratune_cache()) / "tokens" / key[:32]
    if not _is_complete(folder, sources):
        _build(folder, sources, data, tokenizer, say)
    tables = {name: TokenTable(folder / f"{name}.arrow") for name in sources}
    notes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["notes"]
    return PreparedData(tables["train"], tables["val"], tables.get("test"), data_hash, notes)


def _sources(data: DataConfig) -> dict[str, Source]:
    named = {"train": data.train, "val": data.val, "test": data.test}
    return {name: open_source(files, name) for name, files in named.items() if files is not None}


def _content(source: Source) -> list[object]:
    try:
        return source.digest()
    except OSError:
        # Reading it raises the error that says what is wrong with the path.
        next(source.rows(), None)
        raise


def _description(tokenizer: "PreTrainedTokenizerBase") -> list[object]:
    """Return everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = (
        backend.to_str() if backend is not None else [type(tokenizer).__name__, tokenizer.get_vocab()]
    )
    return [vocabulary, tokenizer.chat_template, tokenizer.special_tokens_map]


def _build(
    folder: Path,
    sources: Mapping[str, Source],
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    say: Say,
) -> None:
    """Write the folder beside its place, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        notes: dict[str, list[str]] = {}
        for name, source in sources.items():
            survey, encoder = Survey(), RowEncoder(tokenizer, data.max_length)
            examples = read_examples(source, data.prompt_template, data.columns, survey)
            batches = _encoded(_batches(examples), encoder, source.name)
            report = functools.partial(_report_rows, say, name)
            _write_table(fresh / f"{name}.arrow", batches, report)
            notes[name] = [source.note] if source.note else []
            notes[name] += survey.notes()
            notes[name] += [f"{note} ({in_rows(count)})" for note, count in encoder.notes.items()]
        hashes = {f"{name}.arrow": sha256_of(fresh / f"{name}.arrow") for name in sources}
        (fresh / MANIFEST).write_text(json.dumps({"files": hashes, "notes": notes}), encoding="utf-8")
        _put(fresh, folder, sources)


def _put(fresh: Path, folder: Path, sources: Mapping[str, Source]) -> None:
    """Rename `fresh` to `folder`, unless another process has put a complete one there meanwhile."""
    while not _is_complete(folder, sources):
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            # Processes that have the damaged files mapped keep them; their name is free.
            shutil.rmtree(folder, ignore_errors=True)


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Group rows by the tokenizer's appetite: many rows, but not many characters."""
    batch: list[Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += len(example.prompt) + len(example.target)
        if len(batch) == BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encoded(
    batches: Iterable[list[Example]], encoder: RowEncoder, source: str
) -> Iterator[tuple[list[Example], list[Encoded]]]:
    """Tokenize each batch while the next one is read and rendered."""
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
        pending: tuple[list[Example], Future[list[Encoded]]] | None = None
        for batch in batches:
            rendered = encoder.render(batch, source)
            following = batch, pool.submit(encoder.encode, batch, rendered, source)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = following
        if pending is not None:
            yield pending[0], pending[1].result()


def _report_rows(say: Say, name: str, rows: int) -> None:
    say(f"tokenizing {name}: {in_rows(rows)}")


def _write_table(
    path: Path, batches: Iterable[tuple[list[Example], list[Encoded]]], report: Callable[[int], None]
) -> None:
    rows = 0
    with path.open("wb") as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for number, (examples, encoded) in enumerate(batches):
                columns = {
                    "ids": _lists([row.ids for row in encoded]),
                    "labels": _lists([row.labels for row in encoded]),
                    "begin": [row.begin for row in encoded],
                    "truncated": [row.truncated for row in encoded],
                    "prompt": [example.prompt for example in examples],
                    "target": [row.reference for row in encoded],
                }
                writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=SCHEMA))
                rows += len(encoded)
                if number % _REPORT_EVERY == 0:
                    report(rows)
        file.flush()
        os.fsync(file.fileno())


def _lists(rows: list[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))


def _is_complete(folder: Path, names: Iterable[str]) -> bool:
    """Whether the folder holds these tables, each as it was written."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(hashes[f"{name}.arrow"] == sha256_of(folder / f"{name}.arrow") for name in names)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
