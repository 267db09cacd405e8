"""The whole way, as a user goes it: the command line, a real Ray, real training, what is left on the disk."""

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.commands import COMMAND, flags, loratune, study_of, trials_of
from tests.support.offline_runs import offline_runs
from tune.config import Config
from tune.dry_run import dry_run
from tune.read.recompute import recompute
from tune.store.experiment import ExperimentStore

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def searched(micro_base: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One search, looked at by many tests."""
    results = tmp_path_factory.mktemp("results")
    done = loratune(*flags(micro_base, corpus, results, "first"), folder=results)
    assert done.returncode == 0, done.stdout + done.stderr
    return results, done


def test_the_terminal_tells_the_story(searched: Any) -> None:
    results, done = searched
    assert "Leaderboard" in done.stdout
    assert "Predictions beside their references" in done.stdout
    assert str(results / "first" / "best" / "adapter") in done.stdout.replace("\n", "").replace(" ", "")
    assert "wandb sync" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_the_search_begins_with_the_trials_of_its_dry_run(
    searched: Any, micro_base: Path, corpus: Path
) -> None:
    results, _ = searched
    words = flags(micro_base, corpus, results, "first")
    keys = [*words[words.index("--model.name") :], "--search.seed", "3", "--engine.slots_per_device", "6"]
    planned = dry_run(Config.assemble(None, keys), print)
    assert [trial["params"] for trial in trials_of(results, "first")] == list(planned.first)


def test_every_trial_is_told_with_its_end(searched: Any) -> None:
    results, _ = searched
    trials = trials_of(results, "first")
    assert [trial["number"] for trial in trials] == list(range(6))
    assert {trial["state"] for trial in trials} <= {"completed", "pruned"}
    assert {trial["state"] for trial in trials} >= {"completed"}
    keys = "trial_id number state params metrics best_metrics steps duration_s".split()
    keys += "checkpoint wandb_run_id node device attempt reason follows".split()
    for trial in trials:
        assert sorted(trial) == sorted(keys)
        assert set(trial["params"]) == {"training.learning_rate", "lora.r", "lora.alpha"}
        assert trial["steps"] == 8 if trial["state"] == "completed" else trial["steps"] < 8
        assert trial["metrics"]["eval/loss"] > 0
        assert (trial["node"], trial["device"], trial["attempt"]) == (platform.node(), "cpu", 1)
        assert (Path(trial["checkpoint"]) / "manifest.json").is_file()
        assert trial["duration_s"] > 0
        if trial["state"] == "completed":
            assert "nlg/bleu_score" in trial["metrics"]


def test_the_study_and_the_logs_agree(searched: Any) -> None:
    results, _ = searched
    study = study_of(results / "first")
    told = {trial["trial_id"]: trial for trial in trials_of(results, "first")}
    assert len(study.trials) == 6
    for trial in study.trials:
        assert trial.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        folder = results / "first" / trial.user_attrs["ray_trial_id"]
        log = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        assert {record["step"]: record["eval/loss"] for record in log} == trial.intermediate_values
        assert told[trial.user_attrs["ray_trial_id"]]["metrics"]["eval/loss"] == trial.value


def test_the_best_adapter_gives_the_reported_loss_under_plain_peft(searched: Any, corpus: Path) -> None:
    results, _ = searched
    best = results / "first" / "best"
    told = json.loads((best / "metrics.json").read_text())
    trials = trials_of(results, "first")
    assert told["eval/loss"] == min(trial["best_metrics"]["eval/loss"] for trial in trials)
    base = json.loads((best / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), best / "adapter").eval()
    total, count = 0.0, 0
    for row in json.loads((corpus / "val.json").read_text()):
        prompt = tokenizer(row["prompt"]).input_ids
        target = [*tokenizer(row["target"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum").item()
        count += len(target)
    assert told["eval/loss"] == pytest.approx(total / count, rel=1e-4)
    rows = [json.loads(line) for line in (best / "predictions.jsonl").read_text().splitlines()]
    assert [sorted(row) for row in rows] == [["prediction", "prompt", "reference", "scores"]] * 2


def test_the_winner_has_scores_of_the_test_rows_and_their_evidence(searched: Any, corpus: Path) -> None:
    results, done = searched
    best = results / "first" / "best"
    metrics = json.loads((best / "metrics.json").read_text())
    test_rows = json.loads((corpus / "test.json").read_text())
    prompts = {row["prompt"] for row in test_rows}
    texts = [json.loads(line) for line in (best / "test_predictions.jsonl").read_text().splitlines()]
    assert len(texts) == 2
    assert {row["prompt"] for row in texts} <= prompts
    assert metrics["n"]["test/loss"] == len(test_rows)
    assert metrics["n"]["test/eval/overall_score"] == metrics["n"]["eval/overall_score"] == 2
    assert metrics["n"]["eval/loss"] == metrics["eval/rows"] == 10
    # No trial has seen them.
    for log in (results / "first").glob("*/results.jsonl"):
        assert "test/" not in log.read_text()
    for path in (results / "first").glob("*/predictions.jsonl"):
        assert not any(json.loads(line)["prompt"] in prompts for line in path.read_text().splitlines())
    assert f"{metrics['test/loss']:.4f} on {len(test_rows)} rows" in " ".join(done.stdout.split())


def test_every_figure_of_the_best_adapter_is_recomputed_from_the_folder(
    searched: Any, tmp_path: Path
) -> None:
    results, _ = searched
    store = ExperimentStore.find("first", results)
    reported = json.loads((store.best / "metrics.json").read_text())
    done = recompute(store, lambda _: None)
    assert done.problems == []
    assert {figure.key: figure.rows for figure in done.figures} == reported["n"]
    assert {"eval/loss", "test/loss", "nlg/bleu_score", "test/nlg/bleu_score"} <= reported["n"].keys()
    told = loratune("verify", "first", "--results_dir", str(results), "--recompute", folder=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"test/loss: {reported['test/loss']:.6f} on {reported['n']['test/loss']} rows" in told.stdout


@pytest.mark.parametrize("split", ["eval", "test"])
def test_a_figure_that_its_evidence_does_not_give_is_named(searched: Any, tmp_path: Path, split: str) -> None:
    results, _ = searched
    folder = tmp_path / "copied"
    shutil.copytree(results / "first" / "best", folder / "best")
    shutil.copy(results / "first" / "config.yaml", folder / "config.yaml")
    store = ExperimentStore(folder)
    path = folder / "best" / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {f"{split}/loss": metrics[f"{split}/loss"] * 0.99}))
    assert [line.partition(":")[0] for line in recompute(store, lambda _: None).problems] == [f"{split}/loss"]
    path.write_text(json.dumps(metrics | {"data_hash": "other"}))
    assert recompute(store, lambda _: None).problems[0].startswith("data: the files have changed")
    path.write_text(json.dumps(metrics))
    texts = folder / "best" / ("predictions.jsonl" if split == "eval" else "test_predictions.jsonl")
    row, *others = texts.read_text().splitlines()
    other = json.loads(row) | {"prompt": "another", "prediction": "The answer is 42, without any doubt."}
    texts.write_text("".join(line + "\n" for line in [json.dumps(other), *others]))
    problems = recompute(store, lambda _: None).problems
    assert any(f"best/{texts.name}: line 1 is not row" in line for line in problems)
    figure = "eval/length_similarity" if split == "eval" else "test/eval/length_similarity"
    assert any(line.startswith(f"{figure}: ") for line in problems)


def test_every_trial_is_a_run_of_the_group(searched: Any) -> None:
    results, _ = searched
    runs = sorted((results / "first" / "wandb").glob("offline-run-*/run-*.wandb"))
    trials = {trial["wandb_run_id"]: trial for trial in trials_of(results, "first")}
    ids = {path.stem.removeprefix("run-") for path in runs}
    (own,) = ids - set(trials)
    assert own.startswith("search-")
    assert ids - {own} == set(trials)


def test_each_run_has_what_the_wandb_section_asks_for(searched: Any) -> None:
    results, _ = searched
    runs = {run.run["run_id"]: run for run in offline_runs(results / "first")}
    runs = {run_id: run for run_id, run in runs.items() if run.run["job_type"] == "trial"}
    trials = {trial["wandb_run_id"]: trial for trial in trials_of(results, "first")}
    versions = {run_id: run.artifacts_of("model") for run_id, run in runs.items()}
    assert {one["name"] for found in versions.values() for one in found} == {"first-adapter"}
    for run_id, trial in trials.items():
        run, summary = runs[run_id], runs[run_id].told["summary"]
        steps = list(range(2, trial["steps"] + 1, 2))
        assert [row["step"] for row in run.rows if "eval/loss" in row] == steps
        assert [row["step"] for row in run.rows if "gradients/q_proj.lora_A._type" in row] == steps
        assert [one["metadata"]["step"] for one in versions[run_id]] == steps
        assert summary["best/eval/loss"] == trial["best_metrics"]["eval/loss"]
        assert run.told["tags"][-1] == trial["state"]
        assert len(run.artifacts_of("dataset")) == 1
        completed = trial["state"] == "completed"
        assert ("predictions" in summary) is completed
        assert (results / "first" / run_id / "predictions.jsonl").exists() is completed
        log = (results / "first" / run_id / "results.jsonl").read_text()
        assert "watched" not in log
        assert "predictions" not in log
        assert "watched" not in (Path(trial["checkpoint"]) / "state.json").read_text()
    tables = [
        [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
        for path in (results / "first").glob("*/predictions.jsonl")
        if path.parent.name != "best"
    ]
    # Two rows have texts here; every trial answers the same prompts.
    assert len(tables[0]) == 2
    assert all(prompts == tables[0] for prompts in tables)


def test_a_name_is_used_once(searched: Any, micro_base: Path, corpus: Path) -> None:
    results, _ = searched
    again = loratune(*flags(micro_base, corpus, results, "first"), folder=results)
    assert again.returncode == 2
    assert again.stderr.startswith("loratune: experiment 'first' exists already")
    assert f"loratune resume {results / 'first'}; or choose another --name" in again.stderr


def test_one_at_a_time_the_same_seed_gives_the_same_search(
    searched: Any, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    alone = [*("--engine.slots_per_device", "1", "--wandb.mode", "disabled"), *("--trials", "3")]
    found = []
    for name in ("one", "two"):
        done = loratune(*flags(micro_base, corpus, tmp_path, name), *alone, folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(
            [(t["params"], t["state"], t["metrics"]["eval/loss"]) for t in trials_of(tmp_path, name)]
        )
    assert found[0] == found[1]
    # The first suggestion is the same in a pack, and so is the loss it leads to.
    packed = trials_of(searched[0], "first")[0]
    assert packed["params"] == found[0][0][0]
    log = json.loads(
        (searched[0] / "first" / packed["trial_id"] / "results.jsonl").read_text().splitlines()[0]
    )
    first = trials_of(tmp_path, "one")[0]
    line = json.loads((tmp_path / "one" / first["trial_id"] / "results.jsonl").read_text().splitlines()[0])
    assert log["eval/loss"] == pytest.approx(line["eval/loss"], rel=1e-4)


def test_an_engine_that_is_killed_takes_no_trial_with_it(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    more = [*("--training.max_steps", "200", "--evaluation.eval_every_steps", "20"), *("--trials", "3")]
    more += ["--search.scheduler", "none", "--wandb.mode", "disabled"]
    words = [*flags(micro_base, corpus, tmp_path, "killed"), *more]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_a_checkpoint(process, tmp_path / "killed")
    family = psutil.Process(process.pid).children(recursive=True)
    engines = [member for member in family if "EngineHost" in " ".join(member.cmdline())]
    assert len(engines) == 1
    engines[0].kill()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert "will be started again" in out
    for trial in trials_of(tmp_path, "killed"):
        assert (trial["state"], trial["steps"]) == ("completed", 200)
        log = (tmp_path / "killed" / trial["trial_id"] / "results.jsonl").read_text().splitlines()
        told: dict[int, float] = {}
        attempts = []
        for line in log:
            record = json.loads(line)
            attempts.append(record["attempt"])
            # A record whose checkpoint was not written yet is told again, and tells the same.
            loss = told.setdefault(record["step"], record["eval/loss"])
            assert record["eval/loss"] == pytest.approx(loss, rel=1e-4)
        assert list(told) == list(range(20, 201, 20))
        assert attempts == sorted(attempts)
        assert set(attempts) <= {1, 2}


def wait_for_a_checkpoint(process: subprocess.Popen[str], experiment: Path) -> None:
    deadline = time.monotonic() + 400
    while not list(experiment.glob("*/checkpoint_*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_ends_the_search_cleanly(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    words = [*flags(micro_base, corpus, tmp_path, "stopped"), "--training.max_steps", "100000"]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_a_checkpoint(process, tmp_path / "stopped")
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    states = {trial.state for trial in study_of(tmp_path / "stopped").trials}
    assert optuna.trial.TrialState.RUNNING not in states
    assert (tmp_path / "stopped" / "best" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_a_time_limit_saves_every_trial_and_says_how_to_resume(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    words = [*flags(micro_base, corpus, tmp_path, "timed"), "--training.max_steps", "100000"]
    done = loratune(*words, "--search.timeout_s", "30", "--wandb.mode", "disabled", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "search.timeout_s (30 s) is up" in done.stdout
    assert "loratune resume timed" in done.stdout
    trials = trials_of(tmp_path, "timed")
    assert {trial["state"] for trial in trials} <= {"pending", "pruned"}
    saved = [trial for trial in trials if trial["state"] == "pending" and trial["checkpoint"]]
    assert saved
    for trial in saved:
        state = json.loads((Path(trial["checkpoint"]) / "state.json").read_text())
        assert state["step"] >= trial["steps"]
