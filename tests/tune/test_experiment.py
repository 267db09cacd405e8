"""What a search leaves when it cannot begin, and when it cannot end."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainable.errors import ClusterError
from trainable.records import MetricsRecord
from tune import experiment
from tune.config import Config


@pytest.fixture
def config(tmp_path: Path, corpus: Path) -> Config:
    data = {name: corpus / f"{name}.json" for name in ("train", "val", "test")}
    return Config.model_validate({"search": {"name": "x", "results_dir": tmp_path / "results"}, "data": data})


@pytest.mark.parametrize("has_searched", [False, True])
def test_only_an_experiment_of_which_nothing_has_run_is_removed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_searched: bool
) -> None:
    def search(one: Any, console: Console) -> None:
        if has_searched:
            one.store.trial("t").append(MetricsRecord({"step": 1}))
        raise ClusterError("three engines died")

    monkeypatch.setattr(experiment, "_search", search)
    with pytest.raises(ClusterError, match="three engines died"):
        experiment.run(config, Console(file=io.StringIO()))
    assert (tmp_path / "results" / "x" / "t").exists() == has_searched
    assert (tmp_path / "results").exists() == has_searched
