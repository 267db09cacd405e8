"""The benchmark on WeatherGov's records, from its source to its figures."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record, weathergov


def _scenario(number: int) -> dict[str, Any]:
    records = [{"type": "temperature", "time": "6-21", "min": number, "mean": number + 2, "max": number + 5}]
    text = f"Mostly sunny, with a high near {number + 5}."
    return {"id": str(number), "period": "day", "records": records, "text_natural": text}


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_ends_in_figures_of_the_sampled_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, first in {"train": 20, "val": 40, "test": 50}.items():
        lines = [json.dumps(_scenario(first + number)) for number in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(record, "FOLDER", tmp_path / "results")
    options = ["--trials", "1", "--max_steps", "2", "--evaluations", "1", "--rows", "3"]
    monkeypatch.setattr(sys, "argv", ["weathergov", str(tmp_path), *options])
    weathergov.main()
    found = json.loads((tmp_path / "results" / "weathergov.json").read_text())
    assert found["search"]["validation_rows"] == 8
    for name in ("untuned", "best adapter"):
        assert found[name]["loss_rows"] == 3
    for name in ("copy_the_nearest", "untuned", "best adapter"):
        low, high = found[name]["eval/overall_score"]["interval_95"]
        assert low <= found[name]["eval/overall_score"]["value"] <= high
        assert found[name]["eval/overall_score"]["rows"] == 3
