"""Trials as runs of one group, with the real client offline, read back from what it wrote."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint

from trainable.config import TrialConfig, WandbConfig
from tune.callbacks.wandb import WandbLoggerCallback

METRIC = "eval/loss"


@dataclass
class FakeTrial:
    """As much of a Ray trial as the callback may ask for; anything else is an error."""

    trial_id: str
    config: dict[str, Any]
    last_result: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    run_metadata: Any = field(default_factory=lambda: SimpleNamespace(checkpoint_manager=_manager(None, {})))


def _manager(checkpoint: Checkpoint | None, metrics: dict[str, Any]) -> Any:
    best = SimpleNamespace(checkpoint=checkpoint, metrics=metrics) if checkpoint else None
    return SimpleNamespace(best_checkpoint_result=best)


def trial(number: int, rank: int) -> FakeTrial:
    config = TrialConfig.model_validate(
        {"lora": {"r": rank, "alpha": 32}, "training": {"learning_rate": 1e-3}}
    )
    params = {"lora.r": rank}
    return FakeTrial(
        f"id{number}", {"trial": config.model_dump(mode="json"), "params": params, "number": number}
    )


def play(
    callback: WandbLoggerCallback, one: FakeTrial, losses: list[float], folder: Path, **end: Any
) -> None:
    """Let a trial run, save a checkpoint and end."""
    callback.log_trial_start(one)
    for step, loss in enumerate(losses, start=1):
        record = {"step": step, METRIC: loss, "trial_state": "running", "time_total_s": 3.0, "pid": 1}
        one.last_result = record
        callback.log_trial_result(step, one, record)
    if losses:
        one.last_result |= end
        saved = folder / f"checkpoint-{one.trial_id}"
        (saved / "adapter").mkdir(parents=True)
        (saved / "adapter" / "adapter_config.json").write_text(one.trial_id)
        one.run_metadata.checkpoint_manager = _manager(Checkpoint(str(saved)), dict(one.last_result))
    callback.log_trial_end(one, failed=end.get("trial_state") == "failed")


def inspect(folder: Path, run_id: str, *flags: str) -> str:
    path = next((folder / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    return subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    said: list[str] = []
    callback = WandbLoggerCallback(
        WandbConfig(mode="offline", tags=["mine"], notes="a note"),
        group="group-1",
        metric=METRIC,
        mode="min",
        tags=["tpe", "asha", "x" * 100],
        directory=folder,
        say=said.append,
    )
    play(callback, trial(0, 8), [3.0, 2.0], folder, trial_state="completed")
    play(callback, trial(1, 16), [4.0], folder)
    play(callback, trial(2, 32), [1.0], folder, trial_state="diverged", reason="loss is nan")
    callback.on_experiment_end([])
    assert said == []
    return folder


def test_each_trial_is_a_run_with_its_name_group_tags_and_configuration(played: Path) -> None:
    text = inspect(played, "id0")
    for expected in (
        "group-1",
        "trial-0000-r8-a32-lr1.0e-3",
        "r=8",
        "alpha=32",
        "tpe",
        "asha",
        "mine",
        "a note",
    ):
        assert expected in text, expected
    assert "x" * 64 in text
    assert "x" * 65 not in text
    assert json.loads(inspect(played, "id0", "--summary"))["config"]["lora"]["r"] == 8


def test_every_record_is_there_once_and_rays_own_keys_are_not(played: Path) -> None:
    text = inspect(played, "id0")
    assert text.count('"eval/loss"') >= 2
    assert "time_total_s" not in text
    told = json.loads(inspect(played, "id0", "--summary"))
    assert "completed" in json.dumps(told)


def test_only_a_new_best_becomes_an_artifact(played: Path) -> None:
    assert "group-1-adapter" in inspect(played, "id0")
    assert '"best"' in inspect(played, "id0")
    assert "group-1-adapter" not in inspect(played, "id1")
    assert "group-1-adapter" in inspect(played, "id2")


def test_the_end_is_told_as_it_was(played: Path) -> None:
    assert "pruned" in inspect(played, "id1", "--summary")
    text = inspect(played, "id2", "--summary")
    assert "diverged" in text
    assert "loss is nan" in text


def test_disabled_means_nothing_is_written(tmp_path: Path) -> None:
    callback = WandbLoggerCallback(
        WandbConfig(mode="disabled"), group="g", metric=METRIC, mode="min", tags=[], directory=tmp_path
    )
    callback.log_trial_start(trial(0, 8))
    callback.on_experiment_end([])
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("tune.callbacks.wandb.start_run", refuse)
    callback = WandbLoggerCallback(
        WandbConfig(mode="offline"),
        group="g",
        metric=METRIC,
        mode="min",
        tags=[],
        directory=tmp_path,
        say=said.append,
    )
    for number in range(3):
        play(callback, trial(number, 8), [1.0], tmp_path)
    callback.on_experiment_end([])
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "The search goes on" in said[0]


def test_it_is_pickled_without_threads_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret" * 7)
    callback = WandbLoggerCallback(
        WandbConfig(mode="offline"), group="g", metric=METRIC, mode="max", tags=[], directory=tmp_path
    )
    content = pickle.dumps(callback)
    assert b"s3cret" not in content
    pickle.loads(content).on_experiment_end([])
    callback.on_experiment_end([])
