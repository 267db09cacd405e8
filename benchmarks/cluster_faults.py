"""Searches on a cluster of three nodes whose parts die or join, compared with the same search on one machine.

    python -m benchmarks.cluster_faults [--rounds 15] [--seed 0]

The nodes are raylets of this machine, for root each with a network of its own; the driver is on a head node
without CPUs. A reference search runs undisturbed in a local Ray. Each round runs the same search on the
cluster, and at two random moments something happens: a node dies (the one with most trials), it is cut off
from the network and comes back later, an engine or a trial's process is killed, the driver is killed and the
search resumed, or a node joins. In every third round the results lie in an object store, which may fail for
twenty seconds. Compared are every trial's parameters, end, steps and losses. Written to
`benchmarks/results/cluster_faults.json`.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from benchmarks.cluster_nodes import LocalNodes, can_isolate, local_nodes
from benchmarks.record import write_result
from tests.support.s3_server import KEYS, S3Server
from trainable.model.builtin import Recipe, build
from trainable.places import Place, inside, shown
from trainable.records import MetricsRecord
from trainable.weather.corpus import write_weather
from tune.read.verify import verify
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData, read

KINDS = ("node", "engine", "trial", "driver", "join")
"""What can happen; a node with a network of its own can also be cut off, and an object store can fail."""
OUTAGE_S = 20.0
COMMAND = [sys.executable, "-c", "from tune.cli import main; main()"]
TRIAL = "_Inner"
"""Ray's name of the class of a trial's process: a trainable with parameters."""
REPEATS = "BENCHMARK_REPEATS"
"""The environment variable with the file that repeated steps are written to."""
TOLERANCE = 1e-4
"""Relative; packs of other trials round differently."""
_SPACE = {
    "training.learning_rate": {"type": "log_uniform", "low": 1e-4, "high": 3e-3},
    "lora.r": {"type": "power_of_two", "low": 2, "high": 32},
}
"""Larger rates let trainings that round differently drift apart, with or without a fault."""
_EVERY = 8
_ROOT = Path(__file__).parent.parent
_LONGEST_S = 240.0


class Repeats(ray_tune.Callback):
    """Writes each record of a step that its trial has reported before."""

    def __init__(self) -> None:
        """Begin with nothing reported."""
        self._reached: dict[str, int] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Compare the record's step with the last one."""
        step = MetricsRecord(result).step
        if step <= self._reached.get(trial.trial_id, 0):
            with open(os.environ[REPEATS], "a", encoding="utf-8") as file:
                file.write(f"{trial.trial_id} {step}\n")
        self._reached[trial.trial_id] = max(step, self._reached.get(trial.trial_id, 0))


class RunningSearch:
    """A search as a process of its own.

    Attributes:
        store: the experiment.
        process: of the search.
    """

    def __init__(
        self,
        words: Sequence[str],
        name: str,
        folder: Path,
        address: str | None,
        results: Place | None = None,
    ) -> None:
        """Start the search.

        Args:
            words: of its command line.
            name: of the experiment.
            folder: to run in, which takes its output.
            address: of the cluster; `None`: in a Ray of its own.
            results: where the experiment lies; `None`: in `folder`.
        """
        self._results = folder / "results" if results is None else results
        self.store = ExperimentStore(inside(self._results, name))
        self._folder, self._address, self._name = folder, address, name
        self._output = folder / f"{name}.txt"
        self.process = self._start("search", "--name", name, "--results_dir", shown(self._results), *words)

    def resume(self) -> None:
        """Start it again after it ended."""
        self.process = self._start("resume", shown(self.store.place))

    def end(self, timeout_s: float = _LONGEST_S) -> int:
        """Wait for the end and return the exit code; a search that hangs is killed."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @property
    def output(self) -> str:
        """What the search has printed."""
        return self._output.read_text(encoding="utf-8")

    def read(self) -> ExperimentData | None:
        """Return the experiment as it is, once it has a study."""
        with contextlib.suppress(Exception):
            return read(self.store)
        return None

    def wait_for_records(self, count: int) -> bool:
        """Wait until the trials that run have `count` records; returns whether the search still runs."""
        while self.process.poll() is None:
            data = self.read()
            if data and sum(len(log) for log in data.logs.values()) >= count:
                return True
            time.sleep(0.5)
        return False

    def _start(self, *words: str) -> subprocess.Popen[str]:
        address = {"RAY_ADDRESS": self._address} if self._address else {}
        variables = {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        variables[REPEATS] = str(self._folder / f"{self._name}.repeats")
        return subprocess.Popen(
            [*COMMAND, *words, "--cluster.address", "auto" if self._address else "local"],
            cwd=self._folder,
            env={**os.environ, **variables, **address},
            stdout=self._output.open("a", encoding="utf-8"),
            stderr=subprocess.STDOUT,
            text=True,
        )


@dataclass
class Round:
    """One search that was disturbed.

    Attributes:
        seed: what the faults were drawn from.
        in_a_store: whether the results lay in an object store.
        faults: each kind, with the seconds until each trial that it interrupted reported again.
        resumed: how often the driver was started again.
        steps_again: steps of records that were reported a second time.
        doubled: steps that a result log holds twice.
        lost: trials that did not complete.
        seconds: from start to end.
        problems: what does not hold; empty if all is well.
    """

    seed: int
    in_a_store: bool = False
    faults: list[tuple[str, list[float]]] = field(default_factory=list)
    resumed: int = 0
    steps_again: int = 0
    doubled: int = 0
    lost: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def workload(base: Path, corpus: Path) -> list[str]:
    """Return the words of a search whose trials do not depend on the order in which others report."""
    return [
        *("--seed", "3", "--trials", "6", "--model.name", str(base), "--wandb.num_predictions", "0"),
        *("--data.train", str(corpus / "train.json"), "--data.val", str(corpus / "val.json")),
        *("--data.test", "null", "--training.max_steps", "96", "--evaluation.eval_every_steps", str(_EVERY)),
        *("--evaluation.text_metrics", "never", "--search.space", json.dumps(_SPACE)),
        *("--search.sampler", "random", "--search.scheduler", "none", "--search.max_concurrent", "4"),
        *("--search.callbacks", "benchmarks.cluster_faults:Repeats", "--engine.slots_per_device", "2"),
    ]


def outcome(data: ExperimentData) -> list[dict[str, Any]]:
    """Return what each trial came to."""
    return [
        {
            "params": dict(trial.params),
            "state": trial.state.value,
            "losses": {record.step: record["eval/loss"] for record in data.logs[trial.trial_id]},
        }
        for trial in sorted(data.trials, key=lambda trial: trial.number)
    ]


def differences(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the trials of two searches differ, a sentence each."""
    if len(expected) != len(found):
        return [f"{len(found)} trials, not {len(expected)}"]
    problems = []
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        for key in ("params", "state"):
            if one[key] != other[key]:
                problems.append(f"trial {number}: {key} {other[key]}, not {one[key]}")
        if one["losses"].keys() != other["losses"].keys():
            problems.append(f"trial {number}: steps {list(other['losses'])}, not {list(one['losses'])}")
            continue
        for step, loss in one["losses"].items():
            if abs(other["losses"][step] - loss) > TOLERANCE * abs(loss):
                problems.append(f"trial {number}: loss {other['losses'][step]} at step {step}, not {loss}")
    return problems


def reference(words: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Run the search undisturbed on one machine."""
    search = RunningSearch(words, "reference", folder, None)
    if search.end():
        raise RuntimeError(search.output)
    return outcome(read(search.store))


def disturbed(words: Sequence[str], folder: Path, expected: Sequence[dict[str, Any]], seed: int) -> Round:
    """Run the search on three nodes, disturb it twice, and compare.

    Args:
        words: of the search.
        folder: to run in.
        expected: what its trials come to.
        seed: of kinds and moments.
    """
    chooser, began = random.Random(seed), time.monotonic()
    found = Round(seed, in_a_store=seed % 3 == 2)
    with contextlib.ExitStack() as stack:
        os.environ.update(KEYS)
        cluster = stack.enter_context(local_nodes(1, 1, 2, own_networks=can_isolate()))
        objects = stack.enter_context(S3Server(cluster.host)) if found.in_a_store else None
        results = objects.uri("results") if objects else None
        search = RunningSearch(words, f"round-{seed}", folder, cluster.address, results)
        kinds = [*KINDS, *(["cut"] if can_isolate() else []), *(["store"] if objects else [])]
        records = 0
        for _ in range(2):
            records += chooser.randint(8, 28)
            if not search.wait_for_records(records):
                break
            kind = chooser.choice(kinds)
            seconds = _disturb(kind, cluster, search, found, objects)
            if seconds is not None:
                found.faults.append((kind, seconds))
        while search.end() and found.resumed < 4:
            found.resumed += 1
            search.resume()
        found.seconds = round(time.monotonic() - began, 1)
        data = read(search.store)
        found.problems += verify(search.store).problems + differences(expected, outcome(data))
        if search.process.returncode or "Traceback" in search.output:
            found.problems.append(f"exit code {search.process.returncode}: {search.output[-2000:]}")
        steps = {trial_id: [record.step for record in log] for trial_id, log in data.logs.items()}
        found.doubled = sum(len(log) - len(set(log)) for log in steps.values())
        found.lost = len(expected) - sum(trial.state.value == "completed" for trial in data.trials)
        repeats = folder / f"round-{seed}.repeats"
        found.steps_again = _EVERY * len(repeats.read_text().splitlines()) if repeats.exists() else 0
    return found


def _disturb(
    kind: str, cluster: LocalNodes, search: RunningSearch, found: Round, objects: S3Server | None
) -> list[float] | None:
    """Let something happen.

    Returns:
        The seconds until each interrupted trial reported again; `None` if there was nothing to kill.
    """
    data = read(search.store)
    last = {trial.trial_id: trial.records[-1] for trial in data.trials if trial.records}
    running = {key: record for key, record in last.items() if not record.state.is_terminal}
    at = time.time()
    if kind == "join":
        cluster.add(2)
        return []
    if kind == "driver":
        search.process.kill()
        search.process.wait()
        found.resumed += 1
        search.resume()
        return _continued(search, running, at, every=True)
    if kind == "store":
        assert objects is not None
        with objects.outage():
            time.sleep(OUTAGE_S)
        return []
    fullest = cluster.fullest(search.store)
    running = {key: one for key, one in running.items() if one["node_id"] == fullest.node_id}
    if kind == "node":
        cluster.kill(fullest)
    elif kind == "cut":
        cluster.cut_off(fullest)
    else:
        victims = cluster.workers("EngineHost" if kind == "engine" else TRIAL, fullest)
        if not victims:
            return None
        victims[0].kill()
    seconds = _continued(search, running, at, every=kind != "trial")
    if kind == "cut":
        cluster.reconnect(fullest)
    return seconds


def _continued(
    search: RunningSearch, running: dict[str, MetricsRecord], at: float, *, every: bool
) -> list[float]:
    """Wait until the interrupted trials report as a later attempt; returns the seconds since `at`.

    Args:
        search: the search.
        running: the last records of the trials that may have been interrupted.
        at: when it happened, in Unix time.
        every: whether all of them were; else one of them was at least.
    """
    seconds: dict[str, float] = {}
    while search.process.poll() is None and time.time() - at < _LONGEST_S:
        if (data := search.read()) is not None:
            for key, before in running.items():
                later = [one for one in data.logs.get(key, ()) if one.attempt > before.attempt]
                if later:
                    seconds[key] = round(later[0]["time"] - at, 1)
        if len(seconds) >= (len(running) if every else min(1, len(running))):
            break
        time.sleep(0.5)
    return sorted(seconds.values())


def main() -> None:
    """Disturb, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder that is kept, to look at what went wrong")
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = wanted.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        recipe = Recipe(
            vocabulary=500, hidden_size=32, layers=2, intermediate_size=64, sentences=400, steps=20
        )
        base = build(recipe, lambda _: None)
        write_weather(folder, train=60, val=10, test=10, seed=0)
        words = workload(base, folder)
        expected = reference(words, folder)
        rounds = []
        for seed in range(wanted.seed, wanted.seed + wanted.rounds):
            rounds.append(disturbed(words, folder, expected, seed))
            print(json.dumps(asdict(rounds[-1])), flush=True)
            _write(rounds, len(expected))


def _write(rounds: Sequence[Round], trials: int) -> None:
    """Write the figures of all rounds so far: a benchmark that is stopped keeps those it has."""
    seconds = [value for one in rounds for _, values in one.faults for value in values]
    write_result(
        "cluster_faults",
        {
            "nodes": "a head without CPUs and three nodes with 1, 1 and 2 CPUs, raylets of one machine",
            "rounds": len(rounds),
            "faults": dict(Counter(kind for one in rounds for kind, _ in one.faults)),
            "trials": trials * len(rounds),
            "trials_lost": sum(one.lost for one in rounds),
            "records_doubled": sum(one.doubled for one in rounds),
            "steps_reported_again": sum(one.steps_again for one in rounds),
            "unreported_steps_again_at_most": (_EVERY - 1) * len(seconds),
            "seconds_to_continue_median": round(statistics.median(seconds), 1) if seconds else None,
            "seconds_to_continue_max": max(seconds, default=None),
            "tolerance": TOLERANCE,
            "rounds_with_a_problem": sum(bool(one.problems) for one in rounds),
            "of_each_round": [asdict(one) for one in rounds],
        },
    )


if __name__ == "__main__":
    main()
