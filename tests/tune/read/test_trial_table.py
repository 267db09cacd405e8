import csv
import io
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tests.support.many_trials import many_trials
from trainable.errors import ConfigError, ExperimentError
from trainable.objective import Objective
from trainable.records import TrialState
from tune.read.trial_table import TrialTable, table_of
from tune.store.reader import TrialView, read

LOSS = Objective("eval/loss", "min")


def trial(number: int, loss: float | None, **params: Any) -> TrialView:
    metrics = {} if loss is None else {"step": 10, "eval/loss": loss}
    return TrialView(
        f"t{number}", number, TrialState.COMPLETED, params, metrics, metrics, 10, 2.5, None, None
    )


@pytest.fixture
def table() -> TrialTable:
    rows = [trial(0, 0.9, **{"lora.r": 8}), trial(1, None, **{"lora.r": 4}), trial(2, 0.7, **{"lora.r": 16})]
    return TrialTable.of(rows, LOSS)


def numbers(table: TrialTable) -> list[int]:
    return [trial.number for trial in table.trials]


def test_rows_without_a_value_come_last_in_both_orders(table: TrialTable) -> None:
    assert numbers(table.sorted_by("value", descending=False)) == [2, 0, 1]
    assert numbers(table.sorted_by("value", descending=True)) == [0, 2, 1]
    assert numbers(table.sorted_by("r", descending=True)) == [2, 0, 1]


def test_a_condition_and_a_limit(table: TrialTable) -> None:
    assert numbers(table.where("r >= 8").sorted_by("number", descending=True).first(1)) == [2]
    assert numbers(table.where("r > 99").sorted_by("r", descending=False)) == []
    with pytest.raises(ExperimentError, match=r"no column 'lorar'\. Did you mean 'lora\.r'"):
        table.with_columns(["number", "lorar"])


def test_csv_has_empty_cells_for_absent_values(table: TrialTable) -> None:
    text = table.with_columns(["trial", "value", "r", "reason"]).to_csv()
    assert list(csv.reader(io.StringIO(text))) == [
        ["number", "value", "lora.r", "reason"],
        ["0", "0.9", "8", ""],
        ["1", "", "4", ""],
        ["2", "0.7", "16", ""],
    ]


def test_parquet_has_types_and_units(table: TrialTable, tmp_path: Path) -> None:
    table.write_parquet(tmp_path / "trials.parquet")
    written = parquet.read_table(tmp_path / "trials.parquet")
    schema = written.schema
    assert written.num_rows == 3
    assert [str(schema.field(name).type) for name in ("number", "value", "lora.r", "reason", "follows")] == [
        "int64",
        "double",
        "int64",
        "string",
        "int64",
    ]
    assert schema.field("value").metadata == {b"unit": b"nats per target token"}
    assert schema.field("duration_s").metadata == {b"unit": b"seconds"}
    assert schema.field("state").metadata is None
    assert written["value"].to_pylist() == [0.9, None, 0.7]


def test_a_file_that_cannot_be_written_is_one_error(table: TrialTable, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        table.write_parquet(tmp_path)


def test_values_of_several_types_are_json() -> None:
    rows = [trial(0, 1.0, **{"lora.target_modules": ["q"]}), trial(1, 1.0, **{"lora.target_modules": "all"})]
    arrow = TrialTable.of(rows, LOSS).to_arrow()
    assert arrow["lora.target_modules"].to_pylist() == ['["q"]', '"all"']
    assert arrow.schema.field("lora.target_modules").metadata == {b"encoding": b"json"}


def test_a_stored_experiment(tmp_path: Path) -> None:
    data = read(many_trials(tmp_path / "some", 30))
    table = table_of(data, data.leaderboard()).where("lora.r >= 16 and state == completed")
    assert table.rows
    assert all(row["lora.r"] >= 16 and row["state"] == "completed" for row in table.rows)
    values = [row["value"] for row in table.rows]
    assert values == sorted(values)
