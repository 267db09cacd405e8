"""Rows of a data file, in any of the forms people keep them in, as prompts and targets.

A bad file or row ends in a `DataError` that names the file, the row, what is wrong and what is allowed.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainable.errors import DataError

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
_FORMS = "{input, target}, {prompt, response}, {prompt, completion} or {messages: [...]}"


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        prompt: what the model is given, up to the last target.
        target: what it is to write.
        fields: the row's other columns.
        messages: the chat's turns; empty for a row that is no chat.
    """

    prompt: str
    target: str
    fields: Mapping[str, Any]
    messages: tuple[Mapping[str, str], ...] = ()


def read_examples(path: Path, prompt_template: str) -> list[Example]:
    """Read a data file.

    A row with `input` and `target` becomes the template's prompt, also where it has `prompt` and `response`
    as well, as the Weather Forecasting LoRA project writes them.

    Args:
        path: JSON (one array), JSONL or Parquet; the first two may be gzipped.
        prompt_template: holds `{input}`.

    Raises:
        DataError: the file is missing, unreadable or empty, or a row cannot be trained on.
    """
    examples = []
    for number, row in enumerate(_rows(path), start=1):
        try:
            examples.append(_example(row, prompt_template))
        except ValueError as error:
            raise DataError(f"{path}, row {number}: {error}") from None
    if not examples:
        raise DataError(f"data file '{path}' has no rows. Allowed: rows of {_FORMS}.")
    return examples


def _rows(path: Path) -> Iterator[Any]:
    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise DataError(f"data file '{path}' has an unknown suffix. Allowed: {', '.join(_SUFFIXES)}.")
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet

            yield from pyarrow.parquet.read_table(path).to_pylist()
            return
        opener = gzip.open if name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        raise DataError(
            f"data file '{path}' does not exist. Set data.train, data.val and data.test, "
            f"or make the built-in corpus: loratune data weather {path.parent}"
        ) from None
    except (OSError, UnicodeDecodeError, EOFError, ValueError) as error:
        raise DataError(f"data file '{path}' cannot be read: {error}.") from None
    yield from _lines(path, text) if ".jsonl" in name else _array(path, text)


def _lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}). Each line is one row.") from None


def _array(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text) if text.strip() else []
    except ValueError as error:
        raise DataError(
            f"data file '{path}' is not JSON: {error}. For a row a line, name it .jsonl."
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"data file '{path}' holds a {type(rows).__name__}, not an array of rows.")
    return rows


def _example(row: Any, template: str) -> Example:
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, not an object. Allowed: {_FORMS}.")
    if "messages" in row:
        return _chat(row)
    if "input" in row:
        source, target = "input", "target"
    else:
        source, target = "prompt", "completion" if "completion" in row else "response"
    for key in (source, target):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            what = f"has no '{key}'" if value is None else f"'{key}' is {value!r}"
            raise ValueError(f"{what}; it must be a text that is not blank. Allowed: {_FORMS}.")
    prompt = template.replace("{input}", row["input"]) if source == "input" else row["prompt"]
    used = {"input", "target", "prompt", "response", "completion"}
    return Example(prompt, row[target], {key: value for key, value in row.items() if key not in used})


def _chat(row: Mapping[str, Any]) -> Example:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' must be a list of turns that is not empty.")
    for turn in messages:
        sound = isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn.get("role")
        if not sound:
            raise ValueError(f"turn {turn!r} must be {{role, content}} with texts.")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise ValueError("the last of 'messages' must be a turn of the assistant's that is not blank.")
    turns = tuple({"role": turn["role"], "content": turn["content"]} for turn in messages)
    prompt = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns[:-1])
    return Example(prompt, turns[-1]["content"], {k: v for k, v in row.items() if k != "messages"}, turns)
