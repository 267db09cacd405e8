"""A host without Ray: it loads once, answers many, and saves everybody when it has to be quick."""

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from trainable import records
from trainable.checkpoint.manifest import read_state
from trainable.checkpoint.tensors import load_checkpoint
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.engine.loop import EngineLoop
from trainable.errors import ConfigError, ModelError
from trainable.host import EngineHost


@pytest.fixture
def config(micro_base: Path, corpus: Path) -> dict[str, Any]:
    told = {
        "model": {"name": str(micro_base)},
        "data": {name: corpus / f"{name}.json" for name in ("train", "val", "test")},
        "lora": {"r": 4, "alpha": 8},
        "training": {"max_steps": 8, "batch_size": 2},
        "evaluation": {"eval_every_steps": 4, "text_rows": 2, "max_new_tokens": 4},
    }
    return TrialConfig.model_validate(told).model_dump(mode="json")


@pytest.fixture
def host(config: dict[str, Any]) -> EngineHost:
    return EngineHost(config)


def test_what_there_is_is_told(host: EngineHost, corpus: Path) -> None:
    found = host.prepare(["all-linear", ["q_proj"]])
    rows = {name: len(json.loads((corpus / f"{name}.json").read_text())) for name in ("train", "val", "test")}
    assert {name: table.rows for name, table in found.tables.items()} == rows
    assert found.slots >= 1
    assert len(found.identity.data_hash) == 64
    assert found.model.parameters > 0


def test_every_choice_of_targets_is_looked_up(host: EngineHost) -> None:
    with pytest.raises(ConfigError, match="'q_prj' is no linear layer"):
        host.prepare(["all-linear", ["q_prj"]])


def test_slots_are_as_configured_where_they_are(config: dict[str, Any]) -> None:
    config["engine"]["slots_per_device"] = 3
    assert EngineHost(config).prepare([]).slots == 3


def test_a_trial_is_scored_saved_and_goes_on(
    host: EngineHost, config: dict[str, Any], tmp_path: Path
) -> None:
    host.join("t", config, None)
    host.advance("t", 4)
    host.save("t", str(tmp_path / "half"), {"step": 4})
    whole = host.advance("t", 4)
    assert whole[records.STATE] == "completed"
    assert whole[records.DEVICE_SHARE] == 1
    assert whole[records.DEVICE_CPU] > 0
    assert 0 <= whole["nlg/bleu_score"] <= 1
    host.leave("t")
    host.join("t", config, str(tmp_path / "half"))
    again = host.advance("t", 4)
    assert again[records.EVAL_LOSS] == whole[records.EVAL_LOSS]
    scored = host.assess(config, str(tmp_path / "half"), test=True)
    assert scored["test"].metrics[records.EVAL_LOSS] > 0
    for split in ("val", "test"):
        assert scored[split].metrics[records.EVAL_TEXT_ROWS] == len(scored[split].predictions) == 2
        assert all(one.reference and "nlg/bleu_score" in one.scores for one in scored[split].predictions)


def test_all_are_saved_as_they_are_and_go_on_as_if_nothing_had_been(
    host: EngineHost, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.save_all()
    host.join("whole", config, None)
    expected = host.advance("whole", 4)
    host.join("t", config, None, str(tmp_path / "interrupted"))
    genuine = Engine.step

    def stop_in_the_middle(self: Engine, names: Any) -> None:
        genuine(self, names)
        if self.tenant("t").step == 3:
            raise RuntimeError("the machine is taken away")

    monkeypatch.setattr(Engine, "step", stop_in_the_middle)
    with pytest.raises(RuntimeError, match="taken away"):
        host.advance("t", 4)
    monkeypatch.setattr(Engine, "step", genuine)
    host.save_all()
    saved = load_checkpoint(tmp_path / "interrupted")
    assert (saved.step, saved.record, len(saved.window["losses"])) == (3, {}, 3)
    host.join("t", config, str(tmp_path / "interrupted"))
    record = host.advance("t", 1)
    for key in (records.STEP, records.EVAL_LOSS, records.TRAIN_LOSS):
        assert record[key] == expected[key]


def test_who_is_being_answered_is_not_saved_without_its_record(
    host: EngineHost, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.join("t", config, None, str(tmp_path / "interrupted"))
    genuine = EngineLoop.advance

    def saved_meanwhile(self: EngineLoop, name: str, steps: int) -> Any:
        answer = genuine(self, name, steps)
        host.save_all()
        return answer

    monkeypatch.setattr(EngineLoop, "advance", saved_meanwhile)
    host.advance("t", 4)
    assert not (tmp_path / "interrupted").exists()
    host.save_all()
    assert read_state(tmp_path / "interrupted")["record"][records.STEP] == 4


def test_a_trial_waits_for_a_slot_until_one_is_free_or_its_holder_is_dead(config: dict[str, Any]) -> None:
    config["engine"]["slots_per_device"] = 2
    host = EngineHost(config)
    dead = subprocess.Popen(["true"])
    dead.wait()
    host.join("first", config, None, None, os.getpid())
    host.join("orphan", config, None, None, dead.pid)
    host.join("third", config, None, None, os.getpid())
    waiting = threading.Thread(target=host.join, args=("fourth", config, None, None, os.getpid()))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    host.join("third", config, None, None, os.getpid())
    host.leave("first")
    waiting.join(10)
    assert not waiting.is_alive()
    for name in ("third", "fourth"):
        assert host.advance(name, 1)[records.STEP] == 1


def test_an_engine_gets_the_drivers_variables_where_the_node_has_none(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/the/nodes/own")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.delenv("HF_TOKEN")
    EngineHost(config, environment={"HF_HOME": "/the/drivers", "HF_TOKEN": "hf_driver"})
    assert (os.environ["HF_HOME"], os.environ["HF_TOKEN"]) == ("/the/nodes/own", "hf_driver")
    monkeypatch.setenv("HF_TOKEN", "")


def test_a_model_larger_than_a_gpu_is_said_before_any_trial(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("trainable.engine.build.load_base", too_large)
    with pytest.raises(ModelError, match=r"does not fit one GPU.*model\.load_in_4bit"):
        EngineHost(config).prepare([])
