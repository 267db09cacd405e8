"""Kills searches at random moments, in several ways, resumes them, and checks that nothing was lost.

    python -m benchmarks.kills [--rounds 30] [--seed 0]

A reference search runs undisturbed, one trial at a time. Each round runs the same search, kills it once or
twice (the driver, the engine, a trial, Ray's node manager, everything at once, SIGTERM, Ctrl-C), resumes it
until it is over, and compares: every trial's parameters, end, steps and losses with the reference's, and
`loratune verify` with its invariants. Written to `benchmarks/results/kills.json`.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import write_result
from trainable.model.builtin import Recipe, build
from trainable.weather.corpus import write_weather
from tune.read.verify import verify
from tune.store.experiment import ExperimentStore
from tune.store.reader import read

KINDS = ("driver", "engine", "trial", "node manager", "everything", "SIGTERM", "Ctrl-C")
COMMAND = [sys.executable, "-c", "from tune.cli import main; main()"]
_LONGEST_S = 120.0
_RESUMED_AT_MOST = 4


@dataclass
class Round:
    """One search that was killed.

    Attributes:
        seed: what the kills were drawn from.
        kills: each kind with the second after the process's start at which it came; none for a search that
            was over before its moment.
        resumed: how often the search was taken up.
        problems: what does not hold; empty if all is well.
    """

    seed: int
    kills: list[tuple[str, float]] = field(default_factory=list)
    resumed: int = 0
    problems: list[str] = field(default_factory=list)


def reference(words: Sequence[str], folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Run the search undisturbed; return what its trials came to, and the seconds it took."""
    began = time.monotonic()
    done = _start(["search", "--name", "reference", *words], folder)
    out, _ = done.communicate(timeout=_LONGEST_S)
    if done.returncode:
        raise RuntimeError(out)
    return _outcome(folder / "results" / "reference"), time.monotonic() - began


def disturbed(
    words: Sequence[str], folder: Path, expected: Sequence[dict[str, Any]], seconds: float, seed: int
) -> Round:
    """Run the search, kill it, resume it, and compare.

    Args:
        words: of the search.
        folder: to run in.
        expected: what its trials come to.
        seconds: how long it takes undisturbed; kills come within.
        seed: of kinds and moments.
    """
    found, chooser, name = Round(seed), random.Random(seed), f"killed-{seed}"
    experiment = folder / "results" / name
    process = _start(["search", "--name", name, *words], folder)
    for _ in range(chooser.choice((1, 1, 2))):
        if process.returncode == 0:
            break
        kind = chooser.choice(KINDS)
        moment = chooser.uniform(0.2, 0.8) * seconds
        if _kill(process, kind, moment):
            found.kills.append((kind, round(moment, 1)))
        if not (experiment / "config.yaml").exists():
            process = _start(["search", "--name", name, *words], folder)
        elif process.returncode != 0:
            found.resumed += 1
            process = _start(["resume", name], folder)
    while _end(process) != 0 and found.resumed < _RESUMED_AT_MOST:
        found.resumed += 1
        process = _start(["resume", name], folder)
    if process.returncode != 0:
        found.problems.append(f"exit code {process.returncode}: {process.stdout.read()[-2000:]}")
        return found
    found.problems += verify(ExperimentStore(experiment)).problems
    found.problems += _differences(expected, _outcome(experiment))
    return found


def _start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _kill(process: subprocess.Popen[str], kind: str, moment: float) -> bool:
    """Wait for the moment, kill, and wait for the end; returns whether there was something to kill."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
        return False
    driver = psutil.Process(process.pid)
    family = driver.children(recursive=True)
    parts = {"engine": "ray::EngineHost", "trial": "ray::LoraTrial", "node manager": "raylet/raylet "}
    match kind:
        case "SIGTERM":
            process.send_signal(signal.SIGTERM)
        case "Ctrl-C":
            process.send_signal(signal.SIGINT)
        case "driver":
            process.kill()
        case "everything":
            for member in [*family, driver]:
                _kill_one(member)
        case _:
            for member in [member for member in family if _is(member, parts[kind])][:1]:
                _kill_one(member)
    _end(process)
    return True


def _is(process: psutil.Process, part: str) -> bool:
    try:
        return part in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _kill_one(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def _end(process: subprocess.Popen[str]) -> int:
    """Wait for the end; a search that does not come to one is killed."""
    try:
        return process.wait(_LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _outcome(experiment: Path) -> list[dict[str, Any]]:
    found = []
    data = read(ExperimentStore(experiment))
    for trial in data.trials:
        losses = {record.step: record["eval/loss"] for record in data.logs[trial.trial_id]}
        found.append({"params": dict(trial.params), "state": trial.state.value, "losses": losses})
    return found


def _differences(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> list[str]:
    if len(expected) != len(found):
        return [f"{len(found)} trials, {len(expected)} without a kill"]
    problems = []
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        for key in ("params", "state"):
            if one[key] != other[key]:
                problems.append(f"trial {number}: {key} {other[key]}, {one[key]} without a kill")
        if one["losses"].keys() != other["losses"].keys():
            problems.append(f"trial {number}: steps {list(other['losses'])}, not {list(one['losses'])}")
            continue
        for step, loss in one["losses"].items():
            if abs(other["losses"][step] - loss) > 1e-6 * abs(loss):
                problems.append(f"trial {number}: loss {other['losses'][step]} at step {step}, not {loss}")
    return problems


def workload(base: Path, corpus: Path) -> list[str]:
    """Return the words of a search that takes seconds, one trial at a time, with ASHA at work."""
    return [
        *("--seed", "3", "--trials", "5", "--model.name", str(base), "--wandb.num_predictions", "0"),
        *("--data.train", str(corpus / "train.json"), "--data.val", str(corpus / "val.json")),
        *("--data.test", "null", "--training.max_steps", "64", "--evaluation.eval_every_steps", "8"),
        *("--evaluation.text_metrics", "never", "--search.space", "weather_quick"),
        *("--search.reduction_factor", "2", "--search.startup_trials", "3"),
        *("--engine.slots_per_device", "1", "--search.max_concurrent", "1"),
    ]


def main() -> None:
    """Kill, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
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
        expected, seconds = reference(words, folder)
        rounds = []
        for seed in range(wanted.seed, wanted.seed + wanted.rounds):
            rounds.append(disturbed(words, folder, expected, seconds, seed))
            print(json.dumps(asdict(rounds[-1])), flush=True)
    kinds = Counter(kind for one in rounds for kind, _ in one.kills)
    write_result(
        "kills",
        {
            "rounds": len(rounds),
            "kills": dict(kinds),
            "searches_resumed": sum(one.resumed for one in rounds),
            "rounds_with_a_problem": sum(bool(one.problems) for one in rounds),
            "undisturbed_s": round(seconds, 1),
            "of_each_round": [asdict(one) for one in rounds],
        },
    )


if __name__ == "__main__":
    main()
