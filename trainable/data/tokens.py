"""Rows become tokens once per experiment and node, in memory-mapped Arrow files that all trials share.

The files' folder is named by a hash of everything they depend on: the data files' bytes, the tokenizer, the
template, the length. They are written under another name and renamed, so two processes that prepare the
same data both succeed; a file that does not open is written again.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from trainable.cache import loratune_cache
from trainable.config import DataConfig
from trainable.data.examples import Example, read_examples
from trainable.errors import DataError

IGNORED = -100
"""The label of a token that no loss is computed on."""

_FORMAT = 1
_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("last_target", pa.int32()),
        ("prompt", pa.string()),
        ("target", pa.string()),
    ]
)


class TokenTable:
    """The rows of one data file as tokens, memory-mapped.

    Attributes:
        lengths: `[rows]` tokens of each row.
        target_tokens: tokens that a loss is computed on, in all rows.
        rows_cut: rows that were longer than `data.max_length`.
    """

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            OSError, pyarrow.ArrowInvalid: it is missing or damaged.
        """
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        facts = json.loads(table.schema.metadata[b"loratune"])
        self.target_tokens: int = facts["target_tokens"]
        self.rows_cut: int = facts["rows_cut"]
        self._ids, self._labels = (_ragged(table[name]) for name in ("ids", "labels"))
        self._last_target = table["last_target"].to_numpy()
        self._texts = table.select(["prompt", "target"])
        self.lengths: np.ndarray = np.diff(self._ids[1])

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, row: int) -> np.ndarray:
        """Return the row's tokens, int64."""
        return _slice(self._ids, row)

    def labels(self, row: int) -> np.ndarray:
        """Return the row's labels, int64: the token where it is part of a target, else `IGNORED`."""
        return _slice(self._labels, row)

    def prompt_ids(self, row: int) -> np.ndarray:
        """Return the tokens before the row's last target, int64."""
        return self.ids(row)[: self._last_target[row]]

    def prompt(self, row: int) -> str:
        """Return the text before the row's last target."""
        return self._texts["prompt"][row].as_py()

    def target(self, row: int) -> str:
        """Return the row's last target."""
        return self._texts["target"][row].as_py()


@dataclass(frozen=True)
class PreparedData:
    """The tokenised rows of an experiment.

    Attributes:
        train, val, test: `test` is `None` where the configuration names no file.
        data_hash: of everything the tokens depend on.
    """

    train: TokenTable
    val: TokenTable
    test: TokenTable | None
    data_hash: str


def prepare(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    tokenizer_id: str,
    cache_dir: Path | None = None,
) -> PreparedData:
    """Tokenise the data files, or open what an earlier call has written.

    A row is BOS (where the tokenizer has one), prompt, target, EOS. A row longer than `data.max_length` loses
    the beginning of its prompt, because the target is what is learned; a target that is longer, its end.

    Args:
        data: files, template and length.
        tokenizer: a fast tokenizer.
        tokenizer_id: names the tokenizer in the hash.
        cache_dir: where the files go; the user's cache by default.

    Raises:
        DataError: a file or row cannot be trained on.
    """
    paths = {"train": data.train, "val": data.val, "test": data.test}
    data_hash = _hash(data, tokenizer_id)
    folder = (cache_dir or loratune_cache()) / "tokens" / data_hash[:24]
    tables = {
        name: _table(folder / f"{name}.arrow", path, data, tokenizer) if path else None
        for name, path in paths.items()
    }
    return PreparedData(tables["train"], tables["val"], tables["test"], data_hash)


def _table(path: Path, source: Path, data: DataConfig, tokenizer: PreTrainedTokenizerFast) -> TokenTable:
    try:
        return TokenTable(path)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError):
        examples = read_examples(source, data.prompt_template)
        _write(path, _rows(source, examples, data, tokenizer))
        return TokenTable(path)


def _hash(data: DataConfig, tokenizer_id: str) -> str:
    digest = hashlib.sha256(
        json.dumps([_FORMAT, tokenizer_id, data.max_length, data.prompt_template]).encode()
    )
    for path in (data.train, data.val, data.test):
        digest.update(f"\n{path.suffixes if path else None}\n".encode())
        if path:
            digest.update(_bytes(path))
    return digest.hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        # Missing or unreadable: reading the rows says so, and how to mend it.
        read_examples(path, "{input}")
        raise


def _rows(
    source: Path, examples: Sequence[Example], data: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield each row as written, and whether it was cut."""
    for number, example in enumerate(examples, start=1):
        pieces = list(_pieces(example, tokenizer))
        ids = list(itertools.chain.from_iterable(tokens for tokens, _ in pieces))
        labels = list(
            itertools.chain.from_iterable(
                tokens if learned else [IGNORED] * len(tokens) for tokens, learned in pieces
            )
        )
        last_target = len(ids) - len(pieces[-1][0])
        cut = len(ids) - data.max_length
        if cut > 0:
            # What is kept of the front is BOS alone; a target longer than the rest loses its end.
            start = 1 if pieces[0][0][:1] == [tokenizer.bos_token_id] else 0
            drop = min(cut, last_target - start)
            ids, labels = ids[:start] + ids[start + drop :], labels[:start] + labels[start + drop :]
            ids, labels = ids[: data.max_length], labels[: data.max_length]
            last_target -= drop
        if all(label == IGNORED for label in labels[1:]):
            raise DataError(
                f"{source}, row {number}: no target token is left in {data.max_length} tokens. "
                "Raise data.max_length, or shorten the row."
            )
        row = {
            "ids": ids,
            "labels": labels,
            "last_target": last_target,
            "prompt": example.prompt,
            "target": example.target,
        }
        yield row, cut > 0


def _pieces(example: Example, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[list[int], bool]]:
    """Yield stretches of tokens and whether a loss is computed on them; the last is the last target.

    Prompt and target are tokenised apart, so that the border between them is exact.
    """

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    end = [tokenizer.eos_token_id]
    if not example.messages:
        yield begin + encode(example.prompt), False
        yield encode(example.target) + end, True
        return
    if tokenizer.chat_template is None:
        # A plain form for base models: `role: text` lines, the assistant's ended by EOS.
        yield begin, False
        for turn in example.messages:
            learned = turn["role"] == "assistant"
            yield encode(f"{turn['role']}:" if learned else f"{turn['role']}: {turn['content']}\n"), False
            if learned:
                yield encode(f" {turn['content']}") + end, True
        return
    done = 0
    for number, turn in enumerate(example.messages):
        if turn["role"] != "assistant":
            continue
        before = _chat(tokenizer, example.messages[:number], prompt=True)
        after = _chat(tokenizer, example.messages[: number + 1], prompt=False)
        yield before[done:], False
        yield after[len(before) :], True
        done = len(after)


def _chat(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Any], *, prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _write(path: Path, rows: Iterator[tuple[dict[str, Any], bool]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = list(rows)
    facts = {
        "rows_cut": sum(cut for _, cut in written),
        "target_tokens": sum(label != IGNORED for row, _ in written for label in row["labels"][1:]),
    }
    table = pa.Table.from_pylist([row for row, _ in written], schema=_SCHEMA)
    table = table.replace_schema_metadata({"loratune": json.dumps(facts)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        temporary.rename(path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def _ragged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column of lists as its values and the `[rows + 1]` offsets of the rows."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.values.to_numpy(), array.offsets.to_numpy()


def _slice(ragged: tuple[np.ndarray, np.ndarray], row: int) -> np.ndarray:
    values, offsets = ragged
    return values[offsets[row] : offsets[row + 1]].astype(np.int64)
