"""Packed trials beside the stock tools: whole processes, from start to result, side by side in one run.

    python -m benchmarks.packing [--batch_size 4] [--trials 8] [--steps 40] [--repeats 3]

The arms train the same trials over the built-in base, on the same rows in the same order, with as many steps
and evaluations:

    trainer   transformers' Trainer + PEFT, one trial after the other in one process
    ray       stock Ray Tune, a process a trial, a share of the machine each
    alone     loratune, one slot a device
    packed    loratune, one slot a trial

Each repeat runs every arm once, in turn, so that a drift of the machine's speed meets all of them. Printed,
and written to `benchmarks/results/packing_batch_N.json`: seconds of the whole process, peak memory of all its
processes (PSS), steps of all trials per second, and ratios; medians over the repeats.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.record import write_result
from trainable.config import DataConfig, ModelConfig
from trainable.data import prepare
from trainable.model import load_tokenizer, resolve
from trainable.weather.corpus import write_weather

ARMS = ("trainer", "ray", "alone", "packed")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batch_size", 4), ("trials", 8), ("steps", 40), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as folder:
        runs = _run(wanted, Path(folder))
    found = {"workload": vars(wanted), "arms": {arm: _summary(runs[arm], wanted) for arm in ARMS}}
    packed = found["arms"]["packed"]["seconds"]
    found["packed_is_faster_by"] = {arm: round(found["arms"][arm]["seconds"] / packed, 2) for arm in ARMS}
    write_result(f"packing_batch_{wanted.batch_size}", found)
    _print(found)


def _run(wanted: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    files = write_weather(folder, train=wanted.steps * wanted.batch_size, val=40, test=8, seed=0)
    base = resolve(ModelConfig())
    data = DataConfig(train=files[0], val=files[1], test=None)
    prepare(data, load_tokenizer(ModelConfig()), tokenizer_id=base, cache_dir=folder)
    tokens = next((folder / "tokens").iterdir())
    rates = [1e-4 * 2**number for number in range(wanted.trials)]
    spec = {
        "model": base,
        "tokens": str(tokens),
        "dtype": "float32",
        "eval_batch_size": 20,
        "eval_every_steps": wanted.steps // 2,
        "cpus": os.cpu_count(),
        "slots": wanted.trials,
        "gpu": False,
        "trials": [
            {"learning_rate": rate, "r": 16, "alpha": 32, "seed": 42, "steps": wanted.steps}
            | {"batch_size": wanted.batch_size}
            for rate in rates
        ],
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for repeat in range(wanted.repeats):
        for arm in ARMS:
            runs[arm].append(_measure(_command(arm, wanted, folder, rates, repeat)))
            print(f"repeat {repeat} {arm}: {runs[arm][-1]['seconds']:.1f} s", flush=True)
    return runs


def _command(
    arm: str, wanted: argparse.Namespace, folder: Path, rates: list[float], repeat: int
) -> list[str]:
    if arm in ("trainer", "ray"):
        return [sys.executable, "-m", "benchmarks.peers", arm, str(folder / "spec.json")]
    space = {"learning_rate": {"type": "choice", "values": rates}}
    flags = {
        "name": f"{arm}-{repeat}",
        "results_dir": folder / "results",
        "trials": wanted.trials,
        "data.train": folder / "train.json",
        "data.val": folder / "val.json",
        "data.test": "null",
        "training.max_steps": wanted.steps,
        "training.batch_size": wanted.batch_size,
        "evaluation.eval_every_steps": wanted.steps // 2,
        "evaluation.batch_size": 20,
        "evaluation.text_metrics": "never",
        "search.space": json.dumps(space),
        "search.sampler": "random",
        "search.scheduler": "none",
        "engine.slots_per_device": 1 if arm == "alone" else wanted.trials,
        "wandb.mode": "disabled",
        "wandb.num_predictions": 0,
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-c", "from tune.cli import main; main()", "search", *words]


def _measure(command: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{out}")
    return {"seconds": time.perf_counter() - began, "peak_memory_mib": peak[0] / 2**20}


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(_pss(member) for member in family))
        except psutil.Error:
            continue
        time.sleep(0.5)


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def _summary(runs: list[dict[str, Any]], wanted: argparse.Namespace) -> dict[str, float]:
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "seconds": round(seconds, 2),
        "seconds_of_each_run": [round(run["seconds"], 2) for run in runs],
        "peak_memory_mib": round(statistics.median(run["peak_memory_mib"] for run in runs)),
        "trial_steps_per_second": round(wanted.trials * wanted.steps / seconds, 2),
    }


def _print(found: dict[str, Any]) -> None:
    workload = found["workload"]
    table = Table(title=" ".join(f"{key} {value}" for key, value in workload.items()))
    for head in ("arm", "seconds", "peak MiB", "trial-steps/s", "packed is faster by"):
        table.add_column(head, justify="right")
    for arm, told in found["arms"].items():
        ratio = found["packed_is_faster_by"][arm]
        table.add_row(
            arm,
            f"{told['seconds']:.1f}",
            str(told["peak_memory_mib"]),
            f"{told['trial_steps_per_second']:.1f}",
            f"{ratio:.2f}x",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
