"""Another node of a search loads exactly what the first one loaded, or its engine gives no number at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainable.config import TrialConfig
from trainable.errors import NodeError
from trainable.host import EngineHost, Identity
from trainable.software import differences, software


@pytest.fixture
def config(micro_base: Path, corpus: Path, tmp_path: Path) -> dict[str, Any]:
    shutil.copytree(corpus, tmp_path / "data")
    shutil.copytree(micro_base, tmp_path / "base")
    values = {
        "model": {"name": str(tmp_path / "base")},
        "data": {name: tmp_path / "data" / f"{name}.json" for name in ("train", "val")},
        "training": {"max_steps": 4, "batch_size": 2},
    }
    return TrialConfig.model_validate(values).model_dump(mode="json")


@pytest.fixture
def first(config: dict[str, Any]) -> Identity:
    return EngineHost(config).prepare([]).identity


def join_elsewhere(config: dict[str, Any], identity: Identity) -> None:
    EngineHost(config, identity).join("t", config, None)


def test_a_node_with_the_same_files_and_software_joins(config: dict[str, Any], first: Identity) -> None:
    join_elsewhere(config, first)


def test_other_rows_under_the_same_path_are_refused(
    config: dict[str, Any], first: Identity, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    with pytest.raises(NodeError, match="has another data under the same path.*storage that all nodes share"):
        join_elsewhere(config, first)


def test_missing_data_is_the_nodes_fault(config: dict[str, Any], first: Identity, tmp_path: Path) -> None:
    (tmp_path / "data" / "val.json").unlink()
    with pytest.raises(NodeError, match="cannot load what the search's first engine loaded.*val.json"):
        join_elsewhere(config, first)


def test_another_tokenizer_is_refused_though_rows_and_weights_are_the_same(
    config: dict[str, Any], first: Identity, tmp_path: Path
) -> None:
    path = tmp_path / "base" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[: len(merges) // 2]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(NodeError, match="has another tokenizer under the same path"):
        join_elsewhere(config, first)


def test_other_weights_are_refused(config: dict[str, Any], first: Identity) -> None:
    with pytest.raises(NodeError, match="has another base model under the same path"):
        join_elsewhere(config, replace(first, base_id="0" * 32))


@pytest.mark.parametrize("name", ["loratune", "torch", "transformers", "peft", "python"])
def test_other_software_is_refused_before_anything_is_loaded(
    config: dict[str, Any], first: Identity, name: str, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "base")
    other = replace(first, software={**first.software, name: "0.0.1"})
    with pytest.raises(NodeError, match=rf"other software.*{name} .*, not 0\.0\.1"):
        join_elsewhere(config, other)


def test_software_is_known_by_version_and_code() -> None:
    assert len(software()["loratune"]) == 12
    assert software()["torch"].count("+") == 0
    assert differences(software(), software()) == ""
    assert differences({}, {"peft": "1"}) == "peft missing, not 1"
