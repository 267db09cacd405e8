"""Packed training on a GPU, without Ray: speed, memory and bf16 equality beside Trainer + PEFT.

    python -m benchmarks.gpu [--shape qwen2.5-0.5b] [--trials 16] [--batch_size 4] [--length 256]
                             [--steps 20] [--arms trainer,processes,alone,packed,mixed,recomputed]

The base has random weights in a real model's shape; every row is exactly `length` tokens. The arms train the
same trials on the same rows in the same order, evaluated and saved as often:

    trainer     transformers' Trainer + PEFT, one trial after the other
    processes   the same, all trials at once, a process each (stock Ray Tune without Ray's own time)
    alone       loratune's engine, one trial after the other
    packed      loratune's engine, all trials at once
    mixed       the same with ranks 4 to 128 and a dropout of 0.05, which no peer's arm has
    recomputed  packed with gradient checkpointing

Printed, and written to `benchmarks/results/gpu_SHAPE_BATCHxLENGTH.json`: useful tokens a second while
training, peak memory, model FLOPs utilisation, ratios, and how far 50 steps of bf16 losses lie apart.
Loading is not counted. On a machine without a GPU it runs on the CPU, which is good for trying it out.
"""

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from benchmarks.peers import train_one
from benchmarks.record import write_result
from trainable.checkpoint.tensors import save_checkpoint
from trainable.config import ModelConfig, TrialConfig
from trainable.data import prepare
from trainable.engine import Engine
from trainable.engine.build import build_engine
from trainable.model import load_tokenizer, resolve
from trainable.weather.corpus import write_weather

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "micro": {
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""The real models' configurations, as their `config.json` says (Qwen2.5 technical report, table 1)."""

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 peaks from the vendors' data sheets, by a part of the device's name."""

RANK = 16
MIXED_RANKS = (4, 8, 16, 32, 64, 128)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    for name, default in (("trials", 16), ("batch_size", 4), ("length", 256), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--arms", default="trainer,processes,alone,packed,mixed,recomputed")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORATUNE_CACHE"] = folder
        config, spec = _workload(wanted, Path(folder))
        arms = {arm: _measure(arm, wanted, config, spec) for arm in wanted.arms.split(",")}
        found: dict[str, Any] = {"workload": vars(wanted), "arms": arms}
        if "packed" in arms:
            seconds = {arm: told["seconds"] for arm, told in arms.items()}
            found["packed_is_faster_by"] = {
                arm: round(value / seconds["packed"], 2) for arm, value in seconds.items()
            }
        found["largest_relative_difference_of_50_losses"] = _bf16_distance(config, wanted)
    write_result(f"gpu_{wanted.shape}_{wanted.batch_size}x{wanted.length}", found)
    _print(found)


def _workload(wanted: argparse.Namespace, folder: Path) -> tuple[TrialConfig, dict[str, Any]]:
    """Write rows and a base model; return a trial over them, and the same in the peers' words."""
    cuda = torch.cuda.is_available()
    tokenizer = load_tokenizer(ModelConfig())
    files = write_weather(folder / "short", train=400, val=40, test=8, seed=0)
    texts = [row["input"] + " " + row["target"] for row in json.loads(files[0].read_text())]
    chooser = random.Random(0)
    for name, rows in (("train", wanted.steps * wanted.batch_size), ("val", 16)):
        # Far longer than the limit, so that each is cut to exactly `length` tokens.
        long = [" ".join(chooser.choices(texts, k=wanted.length // 16)) for _ in range(rows)]
        half = [{"input": text, "target": text} for text in long]
        (folder / f"{name}.json").write_text(json.dumps(half))
    base = folder / "base"
    shape = Qwen2Config(**({"vocab_size": 151936} | SHAPES[wanted.shape]), max_position_embeddings=4096)
    torch.manual_seed(0)
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16 if cuda else torch.float32)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    every = max(1, wanted.steps // 2)
    config = TrialConfig.model_validate(
        {
            "model": {"name": str(base)},
            "data": {
                "train": folder / "train.json",
                "val": folder / "val.json",
                "test": None,
                "max_length": wanted.length,
            },
            "lora": {"r": RANK, "alpha": 2 * RANK},
            "training": {"batch_size": wanted.batch_size, "max_steps": wanted.steps, "learning_rate": 1e-4},
            "evaluation": {"eval_every_steps": every, "batch_size": 8, "text_metrics": "never"},
            "engine": {"slots_per_device": wanted.trials},
        }
    )
    prepare(config.data, load_tokenizer(config.model), tokenizer_id=resolve(config.model))
    spec = {
        "model": str(base),
        "tokens": str(next((folder / "tokens").iterdir())),
        "dtype": "bfloat16" if cuda else "float32",
        "eval_batch_size": 8,
        "eval_every_steps": every,
        "trials": [
            {
                "learning_rate": 1e-4,
                "r": RANK,
                "alpha": 2 * RANK,
                "seed": seed,
                "steps": wanted.steps,
                "batch_size": wanted.batch_size,
            }
            for seed in range(wanted.trials)
        ],
    }
    return config, spec


def _measure(
    arm: str, wanted: argparse.Namespace, config: TrialConfig, spec: dict[str, Any]
) -> dict[str, float | None]:
    """Run one arm in processes of its own, so that no arm sees another's memory."""
    context = multiprocessing.get_context("spawn")
    trials = spec["trials"]
    with context.Manager() as manager:
        start = manager.Barrier(len(trials))
        match arm:
            case "trainer":
                tasks = [(_peers, (spec, trials, None))]
            case "processes":
                tasks = [(_peers, (spec, [trial], start)) for trial in trials]
            case _:
                tasks = [(_ours, (config, len(trials), arm))]
        with context.Pool(len(tasks)) as pool:
            answers = [pool.apply_async(function, given) for function, given in tasks]
            told = [answer.get() for answer in answers]
    seconds = max(answer["seconds"] for answer in told)
    tokens = len(trials) * wanted.steps * wanted.batch_size * wanted.length
    print(f"{arm}: {seconds:.1f} s", flush=True)
    peak_flops = _peak_flops()
    used = tokens / seconds * _flops_per_token(spec["model"])
    return {
        "seconds": round(seconds, 2),
        "useful_tokens_per_second": round(tokens / seconds),
        "peak_memory_mib": round(sum(answer["peak"] for answer in told) / 2**20) or None,
        "mfu": round(used / peak_flops, 4) if peak_flops else None,
    }


def _peers(spec: dict[str, Any], trials: list[dict[str, Any]], start: Any) -> dict[str, float]:
    """Train trials one after the other; with a barrier, begin together with the other processes."""
    if start is not None:
        start.wait(timeout=600)
    seconds = sum(train_one(spec, trial)["seconds"] for trial in trials)
    return {"seconds": seconds, "peak": _peak_memory()}


def _ours(config: TrialConfig, trials: int, arm: str) -> dict[str, float]:
    if arm == "recomputed":
        config.engine.gradient_checkpointing = True
    engine, _ = build_engine(config, lambda _: None)
    names = [f"t{number}" for number in range(trials)]
    began = time.perf_counter()
    for together in [[name] for name in names] if arm == "alone" else [names]:
        _train(engine, config, together, mixed=arm == "mixed")
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - began, "peak": _peak_memory()}


def _train(
    engine: Engine, config: TrialConfig, names: list[str], *, mixed: bool = False
) -> dict[str, list[float]]:
    """Train to the end, evaluating and saving as configured; return every step's loss."""
    for name in names:
        number = int(name[1:])
        training = config.training.model_copy(update={"seed": number})
        changed = {"r": MIXED_RANKS[number % len(MIXED_RANKS)], "dropout": 0.05} if mixed else {}
        lora = config.lora.model_copy(update=changed)
        engine.join(name, config.model_copy(update={"training": training, "lora": lora}))
    losses: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for step in range(1, config.training.max_steps + 1):
            engine.step(names)
            for name in names:
                losses[name].append(engine.tenant(name).window.losses[-1])
            if step % config.evaluation.eval_every_steps == 0:
                for name, record in engine.evaluate(names).items():
                    save_checkpoint(Path(folder) / name, engine.snapshot(name, record))
    for name in names:
        engine.leave(name)
    return losses


def _bf16_distance(config: TrialConfig, wanted: argparse.Namespace) -> float:
    """Return how far losses of four packed trials lie from those of each alone, over 50 steps at lr 1e-3."""
    training = config.training.model_copy(update={"max_steps": 50, "learning_rate": 1e-3})
    evaluation = config.evaluation.model_copy(update={"eval_every_steps": 50})
    changed = config.model_copy(update={"training": training, "evaluation": evaluation})
    engine, _ = build_engine(changed, lambda _: None)
    names = [f"t{number}" for number in range(min(4, wanted.trials))]
    packed = _train(engine, changed, names)
    alone = {name: _train(engine, changed, [name])[name] for name in names}
    return max(abs(a - b) / b for name in names for a, b in zip(packed[name], alone[name], strict=True))


def _peak_memory() -> float:
    return float(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else 0.0


def _flops_per_token(model: str) -> float:
    """Return 4 FLOPs a frozen parameter (forward, gradients of inputs), 6 an adapter's (of weights too)."""
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    head = outline.get_output_embeddings()
    layers = [
        layer for layer in outline.modules() if isinstance(layer, torch.nn.Linear) and layer is not head
    ]
    frozen = sum(layer.weight.numel() for layer in [*layers, head])
    adapters = sum(RANK * (layer.in_features + layer.out_features) for layer in layers)
    return 4.0 * frozen + 6.0 * adapters


def _peak_flops() -> float | None:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def _print(found: dict[str, Any]) -> None:
    table = Table(title=" ".join(f"{key} {value}" for key, value in found["workload"].items()))
    for head in ("arm", "seconds", "useful tokens/s", "peak MiB", "MFU", "packed is faster by"):
        table.add_column(head, justify="right")
    for arm, told in found["arms"].items():
        ratio = found.get("packed_is_faster_by", {}).get(arm, float("nan"))
        cells = (told["seconds"], told["useful_tokens_per_second"], told["peak_memory_mib"], told["mfu"])
        table.add_row(arm, *map(str, cells), f"{ratio:.2f}x")
    console = Console()
    console.print(table)
    distance = found["largest_relative_difference_of_50_losses"]
    console.print(f"packed beside alone, 50 steps: losses differ by {distance:.1e} at the most")


if __name__ == "__main__":
    main()
