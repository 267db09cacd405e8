"""Trials as runs of one group, with the real client offline, read back from what it wrote."""

import json
import pickle
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
from ray.tune import Checkpoint

from tests.support.offline_runs import OfflineRun, offline_runs
from tests.support.s3_server import S3Server
from tests.support.stores import s3
from trainable import records
from trainable.config import TrialConfig, WandbConfig
from trainable.lora.description import ModelDescription
from trainable.objective import Objective
from trainable.stores import open_store, written_folder
from trainable.tracking.local import held_version
from trainable.tracking.trials import RunGroup
from tune.callbacks.wandb import WandbLoggerCallback
from tune.store.experiment import ExperimentStore

__all__ = ["s3"]

METRIC = "eval/loss"
MODEL = ModelDescription("base", "LlamaForCausalLM", 1000, {"layers.0.q_proj": (10, 20)})


@dataclass
class FakeTrial:
    """As much of a Ray trial as the callback may ask for; anything else is an error."""

    trial_id: str
    config: dict[str, Any]
    last_result: dict[str, Any] | None = None


def trial(number: int, rank: int, **sections: Any) -> FakeTrial:
    lora, training = {"r": rank, "alpha": 32}, {"learning_rate": 1e-3}
    config = TrialConfig.model_validate({"lora": lora, "training": training} | sections).model_dump(
        mode="json"
    )
    return FakeTrial(f"id{number}", {"trial": config, "params": {"lora.r": rank}, "number": number})


def save(one: FakeTrial, record: dict[str, Any], folder: Path) -> Checkpoint:
    """Write as much of a checkpoint as a version is made of."""
    saved = folder / one.trial_id / f"checkpoint_{record['step']:06d}"
    (saved / "adapter").mkdir(parents=True)
    (saved / "adapter" / "adapter_config.json").write_text(f"{one.trial_id} {record['step']}")
    (saved / "optimizer.safetensors").write_text("moments")
    state = {"config": one.config["trial"], "step": record["step"], "record": record, "data_hash": "d" * 64}
    (saved / "state.json").write_text(json.dumps(state))
    return Checkpoint(str(saved))


def play(
    callback: WandbLoggerCallback, one: FakeTrial, losses: list[float], folder: Path, **end: Any
) -> None:
    """Let a trial run, save a checkpoint after each record, and end."""
    callback.log_trial_start(one)
    for step, loss in enumerate(losses, start=1):
        record = {"step": step, METRIC: loss, "trial_state": "running", "time_total_s": 3.0, "pid": 1}
        if step == len(losses):
            record |= end
        one.last_result = record
        callback.log_trial_result(step, one, record)
        checkpoint = save(one, record, folder)
        callback.on_checkpoint(step, [], one, checkpoint)
        # Ray keeps two of them; the callback must not need the files any longer.
        shutil.rmtree(checkpoint.path)
    callback.log_trial_end(one, failed=end.get("trial_state") == "failed")


def callback_of(folder: Path, say: Any = pytest.fail, **section: Any) -> WandbLoggerCallback:
    config = WandbConfig(
        **({"mode": "offline", "save_code": False, "tags": ["mine"], "notes": "a note"} | section)
    )
    tags = ["tpe", "asha", "x" * 100]
    group = group_of(folder, "group-1", tags=tags)
    details = {"search": {"sampler": "tpe", "seed": None}}
    return WandbLoggerCallback(config, group, folder / ".wandb-held", details=details, model=MODEL, say=say)


def group_of(folder: Path, name: str = "g", metric: str = METRIC, mode: Any = "min", **more: Any) -> RunGroup:
    settings = {"tags": [], "settled_marker": ExperimentStore(folder).settled_marker} | more
    return RunGroup(name, Objective(metric, mode), directory=folder, **settings)


def runs_of(folder: Path) -> dict[str, OfflineRun]:
    return {run.path.stem.removeprefix("run-"): run for run in offline_runs(folder)}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OfflineRun]:
    folder = tmp_path_factory.mktemp("experiment")
    callback = callback_of(folder)
    play(callback, trial(0, 8), [3.0, 2.0], folder, trial_state="completed")
    play(callback, trial(1, 16), [4.0], folder)
    play(callback, trial(2, 32), [1.0, 5.0], folder, trial_state="diverged", reason="loss is nan")
    callback.log_trial_start(trial(3, 4))
    callback.on_experiment_end([])
    assert not (folder / ".wandb-held").exists()
    return runs_of(folder)


def test_each_trial_is_a_run_with_its_name_group_tags_and_configuration(
    played: dict[str, OfflineRun],
) -> None:
    run = played["id0"]
    assert run.told["name"] == "trial-0000-r8-a32-lr1.0e-3"
    assert run.told["notes"] == "a note"
    assert (run.run["run_group"], run.run["job_type"]) == ("group-1", "trial")
    wanted = ["mine", "group-1", "tpe", "asha", "x" * 64, "r=8", "alpha=32", "completed"]
    assert run.told["tags"] == wanted
    config = run.told["config"]
    assert config["lora"]["r"] == 8
    assert config["searched"] == {
        "experiment": "group-1",
        "number": 0,
        "parameters": ["lora.r"],
        "attempt": 1,
    }
    assert config["search"] == {"sampler": "tpe"}
    assert "wandb" not in config
    assert config["model_summary"]["trainable_parameters"] == 8 * 30
    assert "1,000 parameters; LoRA r=8, alpha=32 on 1 layers (q_proj)" in config["model_summary"]["text"]


@pytest.mark.parametrize("on", [True, False])
def test_a_trial_has_its_devices_metrics_and_not_those_of_the_machine_that_drives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    callback = callback_of(tmp_path, log_system_metrics=on)
    one = trial(0, 8)
    callback.log_trial_start(one)
    one.last_result = {"step": 1, METRIC: 3.0, "trial_state": "completed", records.DEVICE_BUSY: 80.0}
    callback.log_trial_result(1, one, one.last_result)
    # W&B's service gives no sign of a sample: this is ten times the interval.
    time.sleep(1)
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    run = runs_of(tmp_path)["id0"]
    assert [row.get(records.DEVICE_BUSY) for row in run.rows] == [80.0 if on else None]
    assert "stats" not in {record["type"] for record in run.records}


def test_another_attempt_names_the_trial_that_it_follows(tmp_path: Path) -> None:
    callback, one = callback_of(tmp_path), trial(4, 8)
    one.config |= {"follows": 1, "attempt": 2}
    play(callback, one, [3.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    searched = runs_of(tmp_path)["id4"].told["config"]["searched"]
    assert (searched["number"], searched["attempt"], searched["follows"]) == (4, 2, 1)


def test_every_record_is_there_once_and_rays_own_keys_are_not(played: dict[str, OfflineRun]) -> None:
    rows = played["id0"].rows
    assert [(row["step"], row[METRIC]) for row in rows] == [(1, 3.0), (2, 2.0)]
    assert not {"time_total_s", "pid"} & {key for row in rows for key in row}


@pytest.mark.parametrize(
    ("run_id", "state", "code", "best"),
    [
        ("id0", "completed", 0, {"best/eval/loss": 2.0, "best/step": 2}),
        ("id1", "pruned", 0, {"best/eval/loss": 4.0, "best/step": 1}),
        ("id2", "diverged", 1, {"best/eval/loss": 1.0, "best/step": 1}),
        ("id3", "pending", 1, {}),
    ],
)
def test_the_end_is_told_as_it_was(
    played: dict[str, OfflineRun], run_id: str, state: str, code: int, best: dict[str, float]
) -> None:
    told = played[run_id].told
    assert told["exit_code"] == code
    assert told["tags"][-1] == told["summary"]["trial_state"] == state
    assert {key: value for key, value in told["summary"].items() if key.startswith("best/")} == best


def test_the_reason_is_told(played: dict[str, OfflineRun]) -> None:
    assert played["id2"].told["summary"]["reason"] == "loss is nan"
    assert (
        played["id3"].told["summary"]["reason"] == "the search ended before the trial did; it can be resumed"
    )


def versions(folder: Path) -> dict[tuple[str, int], str]:
    """Return the aliases of every version, by run and step."""
    return {
        (run_id, one["metadata"]["step"]): " ".join(
            name for name in ("latest", "best", "final") if name in one["aliases"]
        )
        for run_id, run in runs_of(folder).items()
        for one in run.artifacts_of("model")
    }


@pytest.mark.parametrize(
    ("log_model", "told"),
    [
        (
            "checkpoint",
            {
                ("id0", 1): "latest best",
                ("id0", 2): "latest best final",
                ("id1", 1): "latest",
                ("id2", 1): "latest best",
                ("id2", 2): "latest",
            },
        ),
        ("best", {("id0", 1): "latest best", ("id0", 2): "latest best final", ("id2", 1): "latest best"}),
        ("end", {("id0", 2): "latest best final", ("id1", 1): "latest", ("id2", 2): "latest"}),
        (False, {}),
    ],
)
def test_the_checkpoints_that_are_asked_for_become_versions(
    tmp_path: Path, log_model: str | bool, told: dict[tuple[str, int], str]
) -> None:
    callback = callback_of(tmp_path, log_model=log_model)
    play(callback, trial(0, 8), [3.0, 2.0], tmp_path, trial_state="completed")
    play(callback, trial(1, 16), [4.0], tmp_path)
    play(callback, trial(2, 32), [1.0, 5.0], tmp_path)
    callback.on_experiment_end([])
    assert versions(tmp_path) == told
    assert not (tmp_path / ".wandb-held").exists()


def test_a_version_says_what_it_is(played: dict[str, OfflineRun]) -> None:
    collections = {one["name"] for run in played.values() for one in run.artifacts_of("model")}
    assert collections == {"group-1-adapter"}
    version = played["id0"].artifacts_of("model")[-1]
    assert version["files"] == ["adapter_config.json"]
    assert version["metadata"] == {
        "step": 2,
        "state": "completed",
        "metrics": {METRIC: 2.0},
        "base_model": "builtin:tiny",
        "rank": 8,
        "alpha": 32,
        "data_hash": "d" * 64,
        "trial": 0,
        "params": {"lora.r": 8},
    }


def test_histograms_and_predictions_come_with_the_record(tmp_path: Path) -> None:
    callback = callback_of(tmp_path, num_predictions=1, custom_metrics=["bleu_score"])
    one = trial(0, 8)
    callback.log_trial_start(one)
    histogram = {"counts": [1, 2, 3], "low": -1.0, "high": 2.0}
    seen = [{"step": step, "gradients": {"q_proj.lora_A": histogram}} for step in (2, 4)]
    row = {"prompt": "p", "prediction": "a", "reference": "b", "scores": {"nlg/bleu_score": 0.5}}
    record = {"step": 5, METRIC: 1.0, "nlg/bleu_score": 0.5}
    callback.log_trial_result(
        1, one, record | {records.HISTOGRAMS: seen, records.PREDICTIONS: [row, row | {"prompt": "other"}]}
    )
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    run = runs_of(tmp_path)["id0"]
    assert [row["step"] for row in run.rows] == [2, 4, 5, 5]
    assert (run.rows[2][METRIC], "predictions" in run.rows[2]) == (1.0, False)
    assert run.told["summary"]["gradients/q_proj.lora_A"] == {
        "_type": "histogram",
        "values": [1, 2, 3],
        "bins": [-1, 0, 1, 2],
    }
    assert run.told["summary"]["predictions"]["nrows"] == 1
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/predictions_*.json")
    assert json.loads(table.read_text())["data"] == [["p", "a", "b", 0.5]]
    assert run.columns == {"nlg/bleu_score": ["max"]}


def test_data_and_code_are_logged_once_and_used_by_each(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "search.py").write_text("print()")
    monkeypatch.chdir(tmp_path / "project")
    data = {name: corpus / f"{name}.json" for name in ("train", "val", "test")}
    for folder, section, kinds in (
        ("on", {"save_code": True}, [["code", "dataset"], ["dataset"]]),
        ("off", {"save_code": True, "log_artifacts": False}, [[], []]),
    ):
        config = WandbConfig(mode="offline", **section)
        group = group_of(tmp_path / folder, data_hash="d" * 64)
        callback = WandbLoggerCallback(config, group, tmp_path / folder / "held", say=pytest.fail)
        for number in range(2):
            play(callback, trial(number, 8, data=data), [], tmp_path)
        callback.on_experiment_end([])
        runs = runs_of(tmp_path / folder)
        found = [sorted(one["type"] for one in runs[f"id{n}"].artifacts) for n in range(2)]
        assert found == kinds
        digests = {one["digest"] for run in runs.values() for one in run.artifacts_of("dataset")}
        assert len(digests) == (folder == "on")
        assert all(one["use_after_commit"] for run in runs.values() for one in run.artifacts_of("dataset"))


def test_an_attempt_that_begins_again_repeats_nothing(tmp_path: Path) -> None:
    callback, one = callback_of(tmp_path), trial(0, 8)
    for steps in ((1, 2, 3), (2, 3, 4)):
        callback.log_trial_start(one)
        for step in steps:
            callback.log_trial_result(step, one, {"step": step, METRIC: 1.0 / step})
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    (run,) = runs_of(tmp_path).values()
    assert [row["step"] for row in run.rows] == [1, 2, 3, 4]


def test_a_metric_that_is_more_when_better(tmp_path: Path) -> None:
    group = group_of(tmp_path, metric="eval/overall_score", mode="max")
    config = WandbConfig(mode="offline", save_code=False)
    callback = WandbLoggerCallback(config, group, tmp_path / "held", say=pytest.fail)
    one = trial(0, 8)
    callback.log_trial_start(one)
    for step, score in enumerate((0.1, 0.3, 0.2)):
        callback.log_trial_result(step, one, {"step": step, "eval/overall_score": score})
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert runs_of(tmp_path)["id0"].told["summary"]["best/eval/overall_score"] == 0.3


def test_disabled_means_nothing_is_written(tmp_path: Path) -> None:
    callback = callback_of(tmp_path / "experiment", mode="disabled")
    play(callback, trial(0, 8), [1.0], tmp_path)
    callback.on_experiment_end([])
    assert not (tmp_path / "experiment").exists()


def test_each_kind_of_failure_is_reported_once_and_stops_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "experiment").write_text("a file where the folder should be")
    callback = callback_of(tmp_path / "experiment", say=said.append)
    for number in range(3):
        play(callback, trial(number, 8), [1.0], tmp_path)
    callback.on_experiment_end([])
    # Each kind of failure once, and at the end the runs that are missing.
    failed, version, missing = said
    assert "experiment" in failed
    assert failed.endswith("The search continues.")
    assert "as a version" in version
    assert "of 3 run(s)" in missing


def test_a_server_that_is_not_there_is_reported_and_all_runs_are_kept_under_their_own_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A port that nobody listens at.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "b" * 40)
    monkeypatch.setattr("trainable.tracking.server.ASK_TIMEOUT_S", 1)
    wandb.teardown()
    said: list[str] = []
    callback = callback_of(tmp_path, say=said.append, mode="online")
    for number in range(3):
        play(callback, trial(number, 8), [1.0], tmp_path)
    callback.on_experiment_end([])
    monkeypatch.undo()
    wandb.teardown()
    unreachable, missing = said
    assert unreachable.startswith("W&B cannot be reached (")
    assert missing.startswith("W&B does not have everything of 3 run(s) after ")
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert missing.endswith("Send what is on this disk: wandb sync " + " ".join(map(str, folders)))
    runs = runs_of(tmp_path)
    assert {run_id: [row[METRIC] for row in run.rows] for run_id, run in runs.items()} == {
        "id0": [1.0],
        "id1": [1.0],
        "id2": [1.0],
    }


def test_a_custom_metric_that_nothing_gives_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    callback = callback_of(tmp_path, say=said.append, custom_metrics=["rouge_1"])
    for number in range(2):
        play(callback, trial(number, 8), [], tmp_path)
    callback.on_experiment_end([])
    assert [line.partition(" It")[0] for line in said] == [
        "wandb.custom_metrics: no configured metric is called 'rouge_1'. Did you mean 'rouge_1_f'?"
    ]


def test_it_is_pickled_without_threads_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret" * 7)
    callback = callback_of(tmp_path, say=print)
    callback.log_trial_start(trial(0, 8))
    content = pickle.dumps(callback)
    assert b"s3cret" not in content
    pickle.loads(content).on_experiment_end([])
    callback.on_experiment_end([])
    assert set(runs_of(tmp_path)) == {"id0"}


def test_a_checkpoint_in_a_store_is_held_for_its_version(s3: S3Server, tmp_path: Path) -> None:
    callback, one = callback_of(tmp_path, log_model="best"), trial(0, 8)
    callback.log_trial_start(one)
    record = {"step": 1, METRIC: 1.0, "trial_state": "running"}
    one.last_result = record
    callback.log_trial_result(1, one, record)
    with written_folder(s3.uri("e/id0/checkpoint_000001"), last="state.json") as folder:
        shutil.copytree(save(one, record, tmp_path).path, folder, dirs_exist_ok=True)
    files, path = open_store(s3.uri("e/id0/checkpoint_000001"))
    callback.on_checkpoint(1, [], one, Checkpoint(path, files))
    (held,) = (tmp_path / ".wandb-held").iterdir()
    kept, metadata = held_version(held)
    assert (kept / "adapter_config.json").read_text() == "id0 1"
    assert metadata["step"] == 1
    callback.log_trial_end(one)
    callback.on_experiment_end([])
