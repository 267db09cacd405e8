"""Records the learning curves that `benchmarks.search_quality` replays: a grid of real quickstart trainings.

    python -m benchmarks.record_curves [--width 12]

Every combination of learning rate, rank and alpha/rank is trained over the built-in base on the rows of
`config/quickstart.yaml`, with the engine that a search uses, `--width` trials packed together. The losses go
to `benchmarks/curves/quickstart.json`: one list a run, an evaluation every `EVERY` steps.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.engine.build import build_engine
from trainable.records import EVAL_LOSS, TrialState
from tune.config import Config

FILE = Path(__file__).parent / "curves" / "quickstart.json"
RATES = [round(1e-4 * 300 ** (place / 7), 8) for place in range(8)]
RANKS = [2, 8, 32]
RATIOS = [0.5, 1.0, 2.0, 4.0]
STEPS, EVERY, BATCH, VAL_ROWS = 60, 5, 4, 24


def main() -> None:
    """Train, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=12, help="trials that are packed together")
    width = parser.parse_args().width
    grid = list(itertools.product(RATES, RANKS, RATIOS))
    engine, _ = build_engine(_config(RATES[0], max(RANKS), 1.0, slots=width), print)
    runs: list[dict[str, Any]] = []
    for begin in range(0, len(grid), width):
        runs += _train(engine, grid[begin : begin + width], width)
        _write(runs)
        print(f"{len(runs)}/{len(grid)}", flush=True)


def _write(runs: list[dict[str, Any]]) -> None:
    settings = {"max_steps": STEPS, "every": EVERY, "batch_size": BATCH, "val_rows": VAL_ROWS}
    axes = {"learning_rate": RATES, "r": RANKS, "ratio": RATIOS}
    rows = ",\n".join(json.dumps(run) for run in runs)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(
        f'{{"settings": {json.dumps(settings)},\n"axes": {json.dumps(axes)},\n"runs": [\n{rows}\n]}}\n',
        encoding="utf-8",
    )


def _config(rate: float, r: int, ratio: float, slots: int) -> TrialConfig:
    flags = {
        "data.val": f"corpus:weather@{VAL_ROWS}",
        "data.test": "null",
        "lora.r": r,
        "lora.alpha": r * ratio,
        "training.learning_rate": rate,
        "training.max_steps": STEPS,
        "training.batch_size": BATCH,
        "evaluation.eval_every_steps": EVERY,
        "evaluation.text_metrics": "never",
        "engine.slots_per_device": slots,
        "wandb.mode": "disabled",
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return Config.assemble(Path("quickstart"), words).trial()


def _train(engine: Engine, grid: list[tuple[float, int, float]], width: int) -> list[dict[str, Any]]:
    """Train combinations of rate, rank and ratio together; returns one row each."""
    tenants = [engine.join(str(place), _config(*point, slots=width)) for place, point in enumerate(grid)]
    curves: list[list[float | None]] = [[] for _ in grid]
    for step in range(STEPS):
        running = [one.name for one in tenants if one.state is TrialState.RUNNING]
        if running:
            engine.step(running)
        if (step + 1) % EVERY:
            continue
        trained = [one.name for one in tenants if one.state in (TrialState.RUNNING, TrialState.COMPLETED)]
        records = engine.evaluate(trained) if trained else {}
        for one, curve in zip(tenants, curves, strict=True):
            loss = records.get(one.name, {}).get(EVAL_LOSS)
            curve.append(None if loss is None else round(loss, 5))
    for one in tenants:
        engine.leave(one.name)
    return [
        {"learning_rate": rate, "r": r, "ratio": ratio, "losses": curve}
        for (rate, r, ratio), curve in zip(grid, curves, strict=True)
    ]


if __name__ == "__main__":
    main()
