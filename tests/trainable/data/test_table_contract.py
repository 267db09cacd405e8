"""What every table of tokens must do: the memory-mapped one, and the one that engine tests train on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.engines import FakeTable
from trainable.data.tokens import SCHEMA, TokenTable

Rows = tuple[tuple[tuple[int, ...], int], ...]
ROWS: Rows = (((5, 6, 7, 8), 2), ((9, 10), 1), ((11, 12, 13), 2), ((14, 15, 16, 17, 18), 4))
TRUNCATED = 2
Table = TokenTable | FakeTable


def _in_memory(rows: Rows, tmp_path: Path) -> Table:
    del tmp_path
    return FakeTable(rows, TRUNCATED)


def _on_disk(rows: Rows, tmp_path: Path, batch: int = 3) -> Table:
    path = tmp_path / "table.arrow"
    with pa.ipc.new_file(path, SCHEMA) as writer:
        for start in range(0, len(rows), batch):
            columns = [
                {
                    "ids": ids,
                    "labels": [-100] * begin + list(ids[begin:]),
                    "begin": begin,
                    "truncated": start + place < TRUNCATED,
                    "prompt": " ".join(map(str, ids[:begin])),
                    "target": " ".join(map(str, ids[begin:])),
                }
                for place, (ids, begin) in enumerate(rows[start : start + batch])
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(columns, schema=SCHEMA))
    return TokenTable(path)


@pytest.fixture(params=[_in_memory, _on_disk], ids=["in memory", "on disk"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    make: Callable[[Rows, Path], Table] = request.param
    return make(ROWS, tmp_path)


def test_sizes(table: Table) -> None:
    assert len(table) == len(ROWS)
    assert table.lengths.tolist() == [len(ids) for ids, _ in ROWS]
    assert table.target_tokens == sum(len(ids) - begin for ids, begin in ROWS)
    assert table.rows_truncated == TRUNCATED


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_rows(table: Table, row: int) -> None:
    ids, begin = ROWS[row]
    assert table.ids(row).tolist() == list(ids)
    assert table.labels(row).tolist() == [-100] * begin + list(ids[begin:])
    assert table.prompt_ids(row).tolist() == list(ids[:begin])
    assert table.prompt(row) == " ".join(map(str, ids[:begin]))
    assert table.target(row) == " ".join(map(str, ids[begin:]))
    assert {table.ids(row).dtype, table.labels(row).dtype, table.prompt_ids(row).dtype} == {np.dtype("int64")}


def test_arrays_belong_to_the_caller(table: Table) -> None:
    for read in (table.ids, table.labels, table.prompt_ids):
        read(0)[:] = 0
        assert read(0).any()


@pytest.mark.parametrize("read", ["ids", "labels", "prompt_ids", "prompt", "target"])
@pytest.mark.parametrize("row", [-1, len(ROWS)])
def test_rows_outside_the_table_are_refused(table: Table, read: str, row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of a table of {len(ROWS)}"):
        getattr(table, read)(row)


def test_a_record_batch_may_have_any_size(tmp_path: Path) -> None:
    for batch in (1, 2, 4):
        table = _on_disk(ROWS, tmp_path, batch)
        assert [table.ids(row).tolist() for row in range(len(table))] == [list(ids) for ids, _ in ROWS]
