"""A search whose W&B server misbehaves at random, and whose processes are killed at random, loses nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.wandb_server import API_KEY, WandbServer
from tests.support.wandb_storm import RECORDS, TRIALS, end_of, log_of, losses_of
from tests.tune.callbacks.test_wandb import METRIC
from tests.tune.callbacks.test_wandb_faults import plain_rows, settled, waiting_files

KINDS = ("500", "404", "409", "429", "hang", "refuse", "slow", "lose", "kill", "kill wandb-core")
PLACES = ("", "file_stream", "/storage/", "UpsertBucket", "CreateArtifact", "CommitArtifact", "HistoryPage")


class Search:
    """The process that plays the search, started again until it is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self.starts += 1
        with (self._folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.wandb_storm", str(self._folder)],
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
                start_new_session=True,
            )

    @property
    def is_over(self) -> bool:
        assert self._process is not None
        return self._process.poll() == 0

    def continue_if_dead(self) -> None:
        assert self._process is not None
        if self._process.poll() not in (None, 0):
            self.start()

    def kill(self, name: str | None = None) -> None:
        """Kill the process, or those of its children that are called so."""
        assert self._process is not None
        if name is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return
        for child in psutil.Process(self._process.pid).children(recursive=True):
            if name in child.name():
                child.kill()

    def wait(self, timeout_s: float) -> None:
        assert self._process is not None
        assert self._process.wait(timeout_s) == 0, (self._folder / "output.txt").read_text()


def misbehave(server: WandbServer, search: Search, drawn: random.Random) -> str:
    """Begin one fault; returns what it is."""
    kind, where = drawn.choice(KINDS), drawn.choice(PLACES)
    match kind:
        case "kill":
            search.kill()
        case "kill wandb-core":
            search.kill("wandb-core")
        case "hang":
            server.hang()
        case "refuse":
            server.stop()
        case "slow":
            server.slow(drawn.uniform(0.1, 0.5))
        case "lose":
            server.lose(where, times=drawn.choice([1, 3, None]))
        case _:
            server.fail(int(kind), where, times=drawn.choice([1, 3, None]))
    return f"{kind} {where}"


def storm(server: WandbServer, folder: Path, seed: int, faults: int) -> dict[str, Any]:
    """Play a search through the given number of faults, then let it finish undisturbed."""
    drawn, happened = random.Random(seed), []
    search = Search(folder)
    for _ in range(faults):
        time.sleep(drawn.uniform(0.3, 2.0))
        search.continue_if_dead()
        if search.is_over:
            break
        assert API_KEY not in command_lines()
        happened.append(misbehave(server, search, drawn))
        time.sleep(drawn.uniform(0.3, 3.0))
        server.heal()
    server.heal()
    search.continue_if_dead()
    search.wait(180)
    # What was sent late, or not at all, is completed as `loratune resume` does.
    search.start()
    search.wait(120)
    return {"faults": happened, "starts": search.starts}


def command_lines() -> str:
    """Return the command lines of all processes."""
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def check_secrets(server: WandbServer, folder: Path) -> None:
    """Check that the API key is nowhere but in the environment."""
    key = API_KEY.encode()
    holding = [path for path in folder.rglob("*") if path.is_file() and key in path.read_bytes()]
    assert holding == []
    for run in server.runs.values():
        assert API_KEY not in json.dumps([run.stored_config, run.summary, run.history, run.tags, run.notes])
        assert not any(key in content for content in run.files.values())
    for artifact in server.artifacts:
        assert API_KEY not in json.dumps([artifact.metadata, artifact.manifest])
        assert not any(key in content for content in artifact.uploads.values())


def check(server: WandbServer, folder: Path, found: dict[str, Any]) -> None:
    context = f"{found}\n{(folder / 'output.txt').read_text()[-3000:]}"
    runs = {run_id: run for run_id, run in server.runs.items() if run.job_type == "trial"}
    assert sorted(runs) == [f"id{number}" for number in range(TRIALS)], context
    for number in range(TRIALS):
        run = runs[f"id{number}"]
        log = log_of(folder, f"id{number}")
        assert [record[METRIC] for record in log] == losses_of(number)
        rows = [(row["step"], row[METRIC]) for row in plain_rows(run.history)]
        assert sorted(rows) == [(record.step, record[METRIC]) for record in log], (number, context)
        state = end_of(number).value
        assert run.summary["trial_state"] == state, (number, context)
        assert (run.exit_code == 0) == (state != "diverged"), (number, context)
        assert state in run.tags, (number, context)
    best = min((loss, number) for number in range(TRIALS) for loss in losses_of(number))
    holders = [one for one in server.artifacts if "best" in one.aliases and one.type == "model"]
    assert [one.metadata["metrics"][METRIC] for one in holders] == [best[0]], context
    assert all(one.committed for one in holders), context
    assert [run_id for run_id, run in runs.items() if "best" in run.tags] == [f"id{best[1]}"], context
    assert settled(folder) == sorted(runs), context
    assert waiting_files(folder) == [], context
    assert server.errors == [], context
    check_secrets(server, folder)


def test_a_search_loses_nothing_in_a_storm(wandb_server: WandbServer, tmp_path: Path) -> None:
    check(wandb_server, tmp_path, storm(wandb_server, tmp_path, seed=3, faults=3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_search_loses_nothing_in_any_storm(wandb_server: WandbServer, tmp_path: Path, seed: int) -> None:
    check(wandb_server, tmp_path, storm(wandb_server, tmp_path, seed=seed, faults=8))


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_loses_nothing(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    search = Search(tmp_path)
    for after_s in (4.0, 5.0, 4.5):
        time.sleep(after_s)
        search.kill()
        search.continue_if_dead()
    search.wait(180)
    search.start()
    search.wait(120)
    check(wandb_server, tmp_path, {"faults": ["kill"] * 3, "starts": search.starts})
    assert len(log_of(tmp_path, "id0")) == RECORDS
