"""A search whose results lie in an object store, through the command line and a server of S3's protocol."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import loratune as lt
from tests.support.commands import COMMAND, loratune
from tests.support.s3_server import KEYS, S3Server
from tune.read.verify import verify
from tune.store.experiment import ExperimentStore

pytestmark = pytest.mark.ray
RESULTS = "s3://bucket/results"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with S3Server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        yield server


def words(micro_base: Path, corpus: Path, name: str, *, trials: int, steps: int) -> list[str]:
    return [
        *("search", "--name", name, "--results_dir", RESULTS, "--seed", "3"),
        *("--trials", str(trials), "--search.max_concurrent", "2", "--search.scheduler", "none"),
        *("--model.name", str(micro_base), "--data.train", str(corpus / "train.json")),
        *("--data.val", str(corpus / "val.json"), "--data.test", "null"),
        *("--training.max_steps", str(steps), "--evaluation.eval_every_steps", "2"),
        *("--evaluation.text_metrics", "never", "--search.sampler", "random"),
        *("--search.space", "weather_quick", "--no_wandb", "--cluster.num_cpus", "2"),
        # Not the cluster that another program has started on this machine.
        *("--cluster.address", "local"),
    ]


def another_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have nothing of what a search left on this disk, and work in another folder."""
    monkeypatch.setenv("LORATUNE_CACHE", str(folder / "another-cache"))
    there = folder / "there"
    there.mkdir()
    return there


def losses(name: str, folder: Path) -> list[Any]:
    """Return each trial's parameters, end, steps and best loss, once `verify` has found nothing."""
    verified = loratune("verify", f"{RESULTS}/{name}", folder=folder)
    assert verified.stdout.strip().endswith("all sound"), verified.stdout + verified.stderr
    listed = loratune("trials", name, "--results_dir", RESULTS, "--json", folder=folder)
    return [
        (trial["params"], trial["state"], trial["steps"], pytest.approx(trial["best_metrics"]["eval/loss"]))
        for trial in json.loads(listed.stdout)
    ]


def test_a_search_in_a_store_is_read_from_another_machine_and_leaves_nothing_here(
    store: S3Server, micro_base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = loratune(*words(micro_base, corpus, "first", trials=2, steps=4), folder=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(here.iterdir()) == []
    assert f"adapter {RESULTS}/first/best/adapter" in " ".join(done.stdout.split())
    there = another_machine(tmp_path, monkeypatch)
    monkeypatch.chdir(there)
    experiment = lt.load("first", results_dir=RESULTS)
    assert experiment.status.finished
    assert [(trial.state.value, trial.steps) for trial in experiment.trials] == [("completed", 4)] * 2
    assert verify(ExperimentStore(experiment.path)).problems == []
    best = lt.load(f"{RESULTS}/first").best
    model, _ = best.load("cpu")
    assert model.peft_config["default"].r == best.params["lora.r"]
    assert list(there.iterdir()) == []
    assert store.keys("results/first/lock/") == []


@pytest.mark.slow
@pytest.mark.slow
def test_a_search_in_a_store_is_confirmed_beside_it_and_only_once(
    store: S3Server, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    searched = loratune(*words(micro_base, corpus, "confirmed", trials=2, steps=4), folder=tmp_path)
    assert searched.returncode == 0, searched.stdout + searched.stderr
    confirm = ("confirm", "confirmed", "--results_dir", RESULTS, "--top", "1", "--seeds", "2", "--no_wandb")
    first = loratune(*confirm, folder=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 runs, in the experiment 'confirmed-confirm-1x2'" in first.stdout
    assert sorted(ExperimentStore.names_in(RESULTS)) == ["confirmed", "confirmed-confirm-1x2"]
    again = loratune(*confirm, folder=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 runs" not in again.stdout
    report = loratune("report", "confirmed", "--results_dir", RESULTS, "--format", "md", folder=tmp_path)
    assert "seed" in report.stdout


def test_a_search_whose_driver_is_killed_is_resumed_from_another_machine(
    store: S3Server, micro_base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = loratune(*words(micro_base, corpus, "left-alone", trials=3, steps=16), folder=tmp_path)
    assert reference.returncode == 0, reference.stdout + reference.stderr
    for moment in (2, 6):
        name = f"killed-{moment}"
        process = start(words(micro_base, corpus, name, trials=3, steps=16), tmp_path)
        wait_for(lambda name=name, moment=moment: len(records(store, name)) >= moment, process)
        kill(process)
        known = records(store, name)
        (tmp_path / name).mkdir()
        there = another_machine(tmp_path / name, monkeypatch)
        resumed = loratune("resume", f"{RESULTS}/{name}", folder=there)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert known <= records(store, name)
        assert losses(name, there) == losses("left-alone", there)


@pytest.mark.slow
def test_a_store_that_is_gone_for_half_a_minute_does_not_end_the_search(
    store: S3Server, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    process = start(words(micro_base, corpus, "cut-off", trials=3, steps=16), tmp_path)
    wait_for(lambda: len(records(store, "cut-off")) >= 2, process)
    with store.outage(503):
        time.sleep(30)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert [trial[1:3] for trial in losses("cut-off", tmp_path)] == [("completed", 16)] * 3
    assert "Traceback" not in out


@pytest.mark.slow
def test_a_store_that_refuses_in_mid_search_ends_it_in_one_line_and_it_can_be_resumed(
    store: S3Server, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    process = start(words(micro_base, corpus, "refused", trials=3, steps=16), tmp_path)
    wait_for(lambda: len(records(store, "refused")) >= 2, process)
    with store.outage(403):
        out, _ = process.communicate(timeout=200)
    last = out.strip().splitlines()[-1]
    assert process.returncode == 2, out
    assert last.startswith("loratune: 's3://bucket' cannot be used: AWS Error ACCESS_DENIED"), out
    assert "Traceback" not in out
    known = records(store, "refused")
    resumed = loratune("resume", f"{RESULTS}/refused", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert known <= records(store, "refused")
    assert [trial[1:3] for trial in losses("refused", tmp_path)] == [("completed", 16)] * 3


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def records(store: S3Server, name: str) -> set[tuple[str, int]]:
    """Return trial and step of every record in the store; a doubled one is an error."""
    found = [
        (key.split("/")[2], json.loads(line)["step"])
        for key in store.keys(f"results/{name}/")
        if key.endswith("/results.jsonl")
        for line in store.objects[key].content.splitlines()
    ]
    assert len(found) == len(set(found))
    return set(found)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the driver and everything it started, as a machine that loses its power does."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()
