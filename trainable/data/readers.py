"""Read data files as streams of rows, whatever their format and compression.

JSON files are read in chunks, Arrow and Parquet files in record batches, so a file of any size needs memory
for a few thousand rows. Whether a JSON file is an array of rows or has one row per line is decided by its
content, not by its suffix.

Why not the `datasets` library: it converts every file to one Arrow schema before the first row can be read,
which fails on rows whose tools or arguments differ in type; it takes 1.5 s to import, and with pandas it
adds 90 MB to an installation. It is used for data sets on a hub, where it has no replacement, and it is an
optional extra (`trainable.data.sources`).
"""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from trainable.errors import DataError

FILE_FORMS = (
    ".json, .jsonl or .ndjson (an array of rows, or one row per line), .csv, .tsv, .parquet, .arrow or "
    ".feather; JSON, CSV and TSV files may end in .gz or .zst"
)
BATCH_ROWS = 1024
"""Rows of an Arrow or Parquet file that are held in memory at a time."""

_JSON = ("json", "jsonl", "ndjson")
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_TABLES = ("parquet", "arrow", "feather")
_COMPRESSIONS = ("gz", "zst")
_CHUNK = 1 << 20
"""Characters of a JSON file that are read at a time."""


def file_format(path: Path) -> str | None:
    """Return a data file's format by its suffixes, such as `jsonl` or `csv.gz`; `None` if it is unknown."""
    suffixes = [suffix.lower().removeprefix(".") for suffix in path.suffixes]
    if suffixes[-1:] and suffixes[-1] in (*_JSON, *_DELIMITERS, *_TABLES):
        return suffixes[-1]
    if len(suffixes) > 1 and suffixes[-1] in _COMPRESSIONS and suffixes[-2] in (*_JSON, *_DELIMITERS):
        return f"{suffixes[-2]}.{suffixes[-1]}"
    return None


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a data file as they are, each with its number.

    Rows are numbered from 1; in a file with one row per line the number is the line's.

    Raises:
        DataError: the file is missing, unreadable, damaged, or of an unknown format.
    """
    known = file_format(path)
    if known is None:
        raise DataError(
            f"{path}: '{path.suffix}' is not a known suffix of a data file. Allowed: {FILE_FORMS}."
        )
    kind, _, compression = known.partition(".")
    try:
        if kind in _TABLES:
            yield from enumerate(_table_rows(path, kind), start=1)
        else:
            with _open(path, compression, newline="" if kind in _DELIMITERS else "\n") as stream:
                if kind in _DELIMITERS:
                    yield from _csv_rows(stream, path, _DELIMITERS[kind])
                else:
                    yield from _json_rows(stream, path, may_be_object=kind != "json")
    except FileNotFoundError:
        raise DataError(
            f"data file '{path}' does not exist. Name your own as data.train, data.val and data.test, "
            f"or make the built-in corpus: loratune data weather {path.parent}"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}. Compress it again.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    except pa.ArrowException as error:
        name = "Parquet" if kind == "parquet" else "Arrow"
        raise DataError(f"{path} is not a readable {name} file: {error}.") from None
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error}. Allowed: {FILE_FORMS}.") from None


def kind_of(value: Any) -> str:
    """Name a value's type in the words of JSON, with its article."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _open(path: Path, compression: str, newline: str) -> TextIO:
    raw: Any = path.open("rb")
    if compression == "gz":
        raw = gzip.GzipFile(fileobj=raw)
    elif compression == "zst":
        raw = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline)


def _json_rows(stream: TextIO, path: Path, *, may_be_object: bool) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array, or one row per line, as the first character says."""
    chunks = iter(lambda: stream.read(_CHUNK), "")
    first = ""
    for chunk in chunks:
        first += chunk
        if first.strip():
            break
    if first.lstrip().startswith("["):
        yield from _json_array(first, chunks, path)
        return
    lines = _lines(itertools.chain([first], chunks))
    for number, line in enumerate(lines if may_be_object else _refuse_object(lines, path), start=1):
        if line.strip():
            yield number, _parse(line, f"{path}, row {number}")


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    # Not splitlines(): JSON strings may hold U+2028 and the like, which do not end a row.
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from lines
    if rest:
        yield rest


def _refuse_object(lines: Iterator[str], path: Path) -> Iterator[str]:
    """Pass lines on unless together they are one object, such as `{"data": [...]}`."""
    head: list[str] = []
    for line in lines:
        head.append(line)
        if sum(1 for text in head if text.strip()) == 2:
            break
    filled = [line for line in head if line.strip()]
    try:
        is_one = len(filled) == 1
        json.loads(filled[0] if filled else "0")
    except (ValueError, RecursionError):
        is_one = True
    if is_one:
        value = _parse("\n".join([*head, *lines]), str(path))
        raise DataError(f"{path} holds {kind_of(value)}; it must be an array of rows, or one row per line.")
    return itertools.chain(head, lines)


def _json_array(text: str, chunks: Iterator[str], path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array, holding one chunk or one element of it at a time."""
    decoder = json.JSONDecoder()
    position, number, at_end = text.index("[") + 1, 0, False
    while True:
        start = _skip_blanks(text, position)
        has_comma = text[start : start + 1] == ","
        if has_comma and number:
            start = _skip_blanks(text, start + 1)
        if text[start : start + 1] == "]" and not has_comma:
            break
        error: Exception | None = None
        value, end = None, len(text)
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as raised:
            error = raised
        if not at_end and (end == len(text) or isinstance(error, json.JSONDecodeError)):
            # The element may continue in the next chunk. Reading as much again keeps the work linear.
            more = "".join(itertools.islice(chunks, 1 + len(text) // _CHUNK))
            text, position, at_end = text[position:] + more, 0, not more
            continue
        where = f"{path}, row {number + 1}"
        if error is not None:
            raise _not_json(error, where if isinstance(error, RecursionError) else str(path))
        if number and not has_comma:
            raise DataError(f"{path} is not JSON: there is no comma before row {number + 1}. Add it.")
        if "\\u" in text[start:end]:
            _check_surrogates(value, where)
        number += 1
        position = end
        yield number, value
    if text[start + 1 :].strip() or any(chunk.strip() for chunk in chunks):
        raise DataError(f"{path} is not JSON: text follows the end of the array. Remove it.")


def _skip_blanks(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    return position


def _parse(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(error, where) from None
    if "\\u" in text:
        _check_surrogates(value, where)
    return value


def _not_json(error: Exception, where: str) -> DataError:
    if isinstance(error, RecursionError):
        return DataError(f"{where}: JSON is nested too deep to be read. Flatten or drop the row.")
    return DataError(f"{where} is not JSON: {error}.")


def _check_surrogates(value: Any, where: str) -> None:
    """Refuse half of a surrogate pair, which JSON can express and UTF-8, and so no tokenizer, can."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(
            f"{where} holds a lone surrogate ({code}), which is not a character. Remove it, or write the "
            "character as a complete pair."
        ) from None


def _csv_rows(stream: TextIO, path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)
    number = 0
    try:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path}: two columns have the same name: {', '.join(header)}. Rename one.")
        for cells in reader:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, row {number} has {len(cells)} cells, and the header has {len(header)}. "
                    "Put quotes around cells that contain the delimiter or a line break."
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, row {number + 1} is not readable: {error}.") from None


def _table_rows(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise (IsADirectoryError(f"'{path}' is a folder") if path.is_dir() else FileNotFoundError(path))
    for batch in _parquet_batches(path) if kind == "parquet" else _arrow_batches(path):
        for start in range(0, len(batch), BATCH_ROWS):
            yield from table_rows(batch.slice(start, BATCH_ROWS))


def table_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a batch; nulls inside nested values are left out.

    A struct column has the union of all rows' keys, so a null there says only that other rows have the key.
    """
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    rows = batch.to_pylist()
    for row in rows:
        for name in nested:
            row[name] = _without_nulls(row[name])
    return rows


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, memory_map=True) as file:
        yield from file.iter_batches(BATCH_ROWS)


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)
        else:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
