"""What loratune is measured against: the same trials by transformers' Trainer and PEFT.

    python -m benchmarks.peers trainer SPEC.json     one trial after the other, in one process
    python -m benchmarks.peers ray     SPEC.json     stock Ray Tune: a process a trial, a share of the device

SPEC.json is written by `benchmarks/packing.py`: the base model, the tokenised rows, and the trials with their
learning rate, rank, alpha, seed, steps and batch size. Rows come in the order that loratune reads them in.
The last line printed is JSON: the seconds spent in training and each trial's last validation loss.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def train_one(spec: dict[str, Any], trial: dict[str, Any]) -> dict[str, float]:
    """Train one trial with Trainer and PEFT; return its validation loss and the seconds of training."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
    from transformers.utils import logging

    from trainable.data import TokenTable
    from trainable.engine.batching import DataOrder

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    train, val = (TokenTable(Path(spec["tokens"]) / f"{name}.arrow") for name in ("train", "val"))
    order = DataOrder(len(train), trial["seed"]).slice(0, trial["steps"] * trial["batch_size"])

    def collate(rows: list[tuple[Any, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(ids) for ids, _ in rows)
        batch = {
            "input_ids": torch.zeros(len(rows), width, dtype=torch.int64),
            "attention_mask": torch.zeros(len(rows), width, dtype=torch.int64),
            "labels": torch.full((len(rows), width), -100),
        }
        for number, (ids, labels) in enumerate(rows):
            batch["input_ids"][number, : len(ids)] = torch.as_tensor(ids)
            batch["attention_mask"][number, : len(ids)] = 1
            batch["labels"][number, : len(ids)] = torch.as_tensor(labels)
        return batch

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    dtype = getattr(torch, spec["dtype"])
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype),
        LoraConfig(
            r=trial["r"], lora_alpha=trial["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=trial["steps"],
            per_device_train_batch_size=trial["batch_size"],
            per_device_eval_batch_size=spec["eval_batch_size"],
            learning_rate=trial["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.01,
            bf16=spec["dtype"] == "bfloat16",
            eval_strategy="steps",
            eval_steps=spec["eval_every_steps"],
            save_strategy="steps",
            save_steps=spec["eval_every_steps"],
            save_total_limit=2,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=trial["seed"],
        )
        trainer = InOrder(
            model,
            arguments,
            data_collator=collate,
            train_dataset=[(train.ids(row), train.labels(row)) for row in order],
            eval_dataset=[(val.ids(row), val.labels(row)) for row in range(len(val))],
        )
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    return {"eval_loss": losses[-1], "seconds": seconds}


def one_after_the_other(spec: dict[str, Any]) -> list[dict[str, float]]:
    """Arm (a)."""
    return [train_one(spec, trial) for trial in spec["trials"]]


def stock_ray_tune(spec: dict[str, Any]) -> list[dict[str, float]]:
    """Arm (b): Ray Tune's function trainable, as its documentation shows it."""
    import ray
    from ray import tune as ray_tune

    ray.init(address="local", num_cpus=spec["cpus"], include_dashboard=False, log_to_driver=False)

    def trainable(config: dict[str, Any]) -> None:
        ray_tune.report(train_one(spec, config["trial"]))

    share = {"gpu": 1 / spec["slots"]} if spec["gpu"] else {"cpu": spec["cpus"] / spec["slots"]}
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, share),
        param_space={"trial": ray_tune.grid_search(spec["trials"])},
        run_config=ray_tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
    )
    return [
        {"eval_loss": result.metrics["eval_loss"], "seconds": result.metrics["seconds"]}
        for result in tuner.fit()
    ]


ARMS = {"trainer": one_after_the_other, "ray": stock_ray_tune}

if __name__ == "__main__":
    told = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    print(json.dumps(ARMS[sys.argv[1]](told)))
