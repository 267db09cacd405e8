"""Data files are read into examples: what the model sees, and what it shall say.

A file is a JSON array (`.json`), one JSON object a line (`.jsonl`, `.ndjson`), either of them gzipped
(`.json.gz`, ...), or Parquet (`.parquet`). Its rows are `{input, target}`, `{prompt, response}`,
`{prompt, completion}` or `{messages}`; where a row holds several of these the first one counts.

Any file or row that cannot be trained on ends in a `DataError` naming the file, the row, what is wrong and
what is allowed. Nothing is skipped silently.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainable.config import DataConfig
from trainable.data.corpora import local_files
from trainable.errors import DataError, nearest

PAIRS = (("input", "target"), ("prompt", "response"), ("prompt", "completion"))
"""Columns that hold a row's prompt and target, in the order they are looked for."""
ROW_FORMS = "{input, target}, {prompt, response}, {prompt, completion} or {messages: [{role, content}, ...]}"
FILE_FORMS = ".json (an array), .jsonl or .ndjson (one object a line), these with .gz, or .parquet"


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    content: str

    def __str__(self) -> str:
        return f"{self.role}: {self.content}"


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        prompt: what the model sees; of a chat, all that comes before the last assistant turn, for reading.
        target: what it shall say; of a chat, the last assistant turn.
        fields: the row's other columns, such as location and datetime.
        turns: a chat's turns, up to the last assistant turn; empty for a row that is no chat.
        row: the row's number in its file, from 1; in JSON lines, the line's.
    """

    prompt: str
    target: str
    fields: Mapping[str, Any]
    turns: tuple[Turn, ...] = ()
    row: int = 1


def read_examples(path: Path, prompt_template: str) -> list[Example]:
    """Read every row of a data file.

    Args:
        path: the file; its suffix says the format.
        prompt_template: the prompt of a row that has an `input`, which stands for `{input}` in it.

    Raises:
        DataError: the file is missing, unreadable, empty or of an unknown suffix, or a row is not usable.
    """
    examples = [_example(row, prompt_template, path, number) for number, row in read_rows(path)]
    if not examples:
        raise DataError(f"{path} holds no rows. It must have at least one: {ROW_FORMS}.")
    return examples


def check_files(data: DataConfig, say: Callable[[str], None] | None = None) -> None:
    """Read every data file, so that a mistake is reported before a model is loaded or built.

    Args:
        data: names the files.
        say: receives one line when a corpus is made.

    Raises:
        DataError: as in `read_examples` and `local_files`.
    """
    for path in local_files(data, say).values():
        read_examples(path, data.prompt_template)


def read_rows(path: Path) -> Iterable[tuple[int, Any]]:
    """Return the rows of a data file as they are, each with its number from 1.

    Raises:
        DataError: the file is missing, unreadable or of an unknown suffix.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    suffix = "".join(suffixes[-2:-1] if gzipped else suffixes[-1:])
    readers = {".json": _json_rows, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if suffix not in readers and (suffix != ".parquet" or gzipped):
        raise DataError(f"{path}: '{path.suffix}' is no known suffix of a data file. Allowed: {FILE_FORMS}.")
    try:
        if suffix == ".parquet":
            return enumerate(pq.read_table(path).to_pylist(), start=1)
        content = path.read_bytes()
        text = (gzip.decompress(content) if gzipped else content).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"data file '{path}' does not exist. Name your own as data.train, data.val and data.test, "
            f"or make the built-in corpus: loratune data weather {path.parent}"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}. Compress it again.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}.") from None
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error}. Allowed: {FILE_FORMS}.") from None
    return readers[suffix](text, path)


def _json_rows(text: str, path: Path) -> list[tuple[int, Any]]:
    if not text.strip():
        return []
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " A file of one object a line is named .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{path} is not JSON: {error}.{hint}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds {_kind(rows)}; it must be an array of rows: {ROW_FORMS}.")
    return list(enumerate(rows, start=1))


def _json_lines(text: str, path: Path) -> list[tuple[int, Any]]:
    rows = []
    # Not splitlines(): JSON strings may hold U+2028 and its like, which end no row.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                hint = " A JSON array is named .json." if number == 1 and line.startswith("[") else ""
                raise DataError(f"{path}, row {number} is not JSON: {error}.{hint}") from None
    return rows


def _example(row: Any, template: str, path: Path, number: int) -> Example:
    where = f"{path}, row {number}"
    if not isinstance(row, dict):
        raise DataError(f"{where} is {_kind(row)}, not an object. Allowed: {ROW_FORMS}.")
    for prompt_key, target_key in PAIRS:
        if prompt_key in row and target_key in row:
            prompt = _text(row, prompt_key, where)
            return Example(
                # Not str.format: inputs and templates may hold braces of their own.
                prompt=template.replace("{input}", prompt) if prompt_key == "input" else prompt,
                target=_text(row, target_key, where),
                fields={key: row[key] for key in row if key not in (prompt_key, target_key)},
                row=number,
            )
    if "messages" in row:
        return _chat(row, where, number)
    for prompt_key, target_key in PAIRS:
        if prompt_key in row:
            hint = nearest(target_key, row.keys() - {prompt_key})
            raise DataError(
                f"{where} has '{prompt_key}' but no target: its keys are {_keys(row)}.{hint} "
                f"Allowed: {ROW_FORMS}."
            )
    raise DataError(f"{where} has no prompt and target: its keys are {_keys(row)}. Allowed: {ROW_FORMS}.")


def _chat(row: Mapping[str, Any], where: str, number: int) -> Example:
    messages = row["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"{where}: 'messages' is {messages!r}; it must be a list of {{role, content}}.")
    turns = []
    for place, message in enumerate(messages, start=1):
        inside = f"{where}, message {place}"
        if not isinstance(message, dict):
            raise DataError(f"{inside} is {_kind(message)}; it must be an object {{role, content}}.")
        turns.append(Turn(_text(message, "role", inside), _text(message, "content", inside)))
    spoken = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not spoken:
        roles = ", ".join(turn.role for turn in turns)
        raise DataError(f"{where} has no target: no message has the role 'assistant' (roles: {roles}).")
    if spoken[-1] == 0:
        raise DataError(f"{where} has no prompt: nothing is said before the assistant's only message.")
    return Example(
        prompt="\n".join(map(str, turns[: spoken[-1]])),
        target=turns[spoken[-1]].content,
        fields={key: row[key] for key in row if key != "messages"},
        turns=tuple(turns[: spoken[-1] + 1]),
        row=number,
    )


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    """Return a text that is there and not blank."""
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: '{key}' is {_kind(value)}; it must be text.")
    if not value.strip():
        raise DataError(f"{where}: '{key}' is blank; it must be text. Fill it in or drop the row.")
    return value


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "none"


def _kind(value: Any) -> str:
    """Name a value's type in the words of JSON, with its article."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
