"""Memory and processes of W&B tracking for live trials, beside Ray's own callback.

    python -m benchmarks.wandb_memory [--trials 16 32]

Each case runs in its own process: it starts Ray, has a callback track the given number of trials, each of
which reports five times, and measures while all of them are live. Trials are not trained, so what is measured
is the tracking alone: the proportional set size (Linux' PSS, in which shared pages count once) and the number
of the driver with all its children, less what they were before the first trial. Runs are kept offline.
Written to `benchmarks/results/wandb_memory.json`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.air.integrations.wandb import WandbLoggerCallback as RaysCallback

from benchmarks.record import write_result
from tune.callbacks.wandb import WandbLoggerCallback

ARMS = ("loratune", "ray")
_REPORTS = 5
_LONGEST_S = 240.0
_SETTLED_S = 5.0
_MEASURED = "measured.json"


@dataclass(eq=False)
class LiveTrial:
    """As much of a Ray trial as both callbacks read."""

    trial_id: str
    local_path: str
    experiment_dir_name: str = "memory"
    config: dict[str, Any] = field(default_factory=lambda: {"lr": 1e-4, "rank": 16})
    last_result: dict[str, Any] = field(default_factory=dict)


def used() -> tuple[int, int]:
    """Return the bytes (PSS) and the number of this process and all its children."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sizes = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            sizes.append(process.memory_full_info().pss)
    return sum(sizes), len(sizes)


def measure(arm: str, number: int, folder: Path) -> dict[str, float]:
    """Track live trials with one callback; return memory and processes, less those without a trial."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    trials = [LiveTrial(f"id{index}", str(folder)) for index in range(number)]
    before = used()
    begin = time.monotonic()
    callback = _callback(arm, folder)
    for trial in trials:
        callback.log_trial_start(trial)
    for step in range(1, _REPORTS + 1):
        for trial in trials:
            trial.last_result = {"training_iteration": step, "loss": 1 / step, "config": trial.config}
            callback.log_trial_result(step, trial, trial.last_result)
    _wait_until(lambda: len(list(folder.glob("wandb/offline-run-*/run-*.wandb"))) == number)
    took_s = time.monotonic() - begin
    time.sleep(_SETTLED_S)
    after = used()
    return {
        "mib": (after[0] - before[0]) / 2**20,
        "mib_per_trial": (after[0] - before[0]) / 2**20 / number,
        "processes": after[1] - before[1],
        "all_live_after_s": took_s,
    }


def _callback(arm: str, folder: Path) -> Any:
    if arm == "ray":
        return RaysCallback(project="memory", group="memory")
    return WandbLoggerCallback.for_any_search("memory", metric="loss", mode="min", directory=folder)


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LONGEST_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all runs were live after {_LONGEST_S:g} s")
        time.sleep(0.2)


def _in_own_process(arm: str, number: int) -> dict[str, float]:
    """Return what `measure` finds in a process of its own, which ends without waiting for its runs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.wandb_memory", "--one", arm, str(number), folder]
        subprocess.run(command, capture_output=True, check=True)
        return json.loads((Path(folder) / _MEASURED).read_text(encoding="utf-8"))


def main() -> None:
    """Measure each callback with each number of trials, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--one", nargs=3, metavar=("ARM", "TRIALS", "FOLDER"), help="one case alone")
    wanted = parser.parse_args()
    if wanted.one:
        arm, number, folder = wanted.one
        measured = measure(arm, int(number), Path(folder))
        (Path(folder) / _MEASURED).write_text(json.dumps(measured), encoding="utf-8")
        ray.shutdown()
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(0)
    found: dict[str, Any] = {}
    for number in wanted.trials:
        cases = {arm: _in_own_process(arm, number) for arm in ARMS}
        found[f"{number} trials"] = cases | {"ratio": cases["ray"]["mib"] / cases["loratune"]["mib"]}
        print(number, json.dumps(found[f"{number} trials"]), flush=True)
        write_result("wandb_memory", {"of": found})


if __name__ == "__main__":
    main()
