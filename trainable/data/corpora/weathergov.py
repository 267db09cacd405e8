"""WeatherGov's records (Liang, Jordan & Klein 2009) as rows: what was seen, and what was written."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainable.data.corpora.weather import write_rows
from trainable.errors import DataError

_SPLITS = ("train", "val", "test")


def write_weathergov(source: Path, directory: Path) -> list[Path]:
    """Write `train.json`, `val.json` and `test.json` from `{train,val,test}.jsonl[.gz]`.

    Args:
        source: holds one record a line: `records`, `period`, `text_natural` (or `text`).
        directory: is made.

    Raises:
        DataError: a file is missing, or a line is no such record.
    """
    rows = {split: [_row(*line) for line in _lines(source, split)] for split in _SPLITS}
    directory.mkdir(parents=True, exist_ok=True)
    return [write_rows(directory / f"{split}.json", rows[split]) for split in _SPLITS]


def _lines(source: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in (source / f"{split}.jsonl", source / f"{split}.jsonl.gz"):
        if not path.is_file():
            continue
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield f"{path}, row {number}", json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, row {number}: not JSON ({error}).") from None
        return
    raise DataError(
        f"'{source}' has no {split}.jsonl or {split}.jsonl.gz. Give the folder with WeatherGov's splits."
    )


def _row(where: str, record: dict[str, Any]) -> dict[str, Any]:
    try:
        target = record.get("text_natural") or record["text"]
        text = linearise(record["period"], record["records"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: no WeatherGov record, {error!r} is missing or wrong.") from None
    return {"input": text, "target": target, "location": record.get("id", ""), "datetime": record["period"]}


def linearise(period: str | None, records: list[dict[str, Any]]) -> str:
    """Return the informative records, a line each: chances that are not `--`, gusts that are not zero."""
    lines = [f"period {period or 'unknown'}"]
    for record in records:
        kind, time = record["type"], record["time"]
        if "mode" in record:
            if record["mode"] != "--":
                lines.append(f"{kind} {time} {record['mode']}")
        elif "mean" not in record:
            lines.append(f"{kind} {time} {record['mode_bucket']}")
        elif record["max"] or kind in ("temperature", "precipPotential", "windSpeed"):
            lines.append(f"{kind} {record['min']} {record['mean']} {record['max']}")
    return "\n".join(lines)
