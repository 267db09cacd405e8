"""Histograms of adapters and gradients: right by NumPy and PEFT, the same in a pack, absent when off."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from tests.support.engines import FakeData, micro_model, row_loss, trial_config
from trainable import records
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.engine.histograms import BINS

KINDS = {
    f"{module}.lora_{side}"
    for module in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for side in "AB"
}
Watched = list[dict[str, Any]]


def watching(freq: int = 1, **wandb: Any) -> dict[str, Any]:
    return {"watch_freq": freq, **wandb}


def train(engine: Engine, configs: dict[str, TrialConfig], steps: int) -> dict[str, Watched]:
    for name, config in configs.items():
        engine.join(name, config)
    for _ in range(steps):
        engine.step(list(configs))
    found = engine.evaluate(list(configs))
    return {name: found[name].get(records.HISTOGRAMS, []) for name in configs}


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same but for values that rounding moves across the edge of a bin."""
    edges = [one["low"], one["high"]]
    apart = np.abs(np.cumsum(one["counts"]) - np.cumsum(other["counts"])).max()
    return np.allclose(edges, [other["low"], other["high"]], rtol=1e-3, atol=1e-7) and apart <= 0.01 * sum(
        one["counts"]
    )


def test_what_is_seen_first_is_the_fresh_adapter_and_pefts_gradient(
    make_engine: Callable[..., Engine], data: FakeData
) -> None:
    config = trial_config(wandb=watching(), training={"max_grad_norm": 1e-3})
    engine = make_engine()
    tenant = engine.join("t", config)
    adapter = engine.snapshot("t", {}).adapter
    rows = tenant.step_rows()
    engine.step(["t"])
    seen = engine.evaluate(["t"])["t"][records.HISTOGRAMS]
    assert [one["step"] for one in seen] == [1]
    assert set(seen[0]["parameters"]) == set(seen[0]["gradients"]) == KINDS

    model = get_peft_model(
        micro_model(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    set_peft_model_state_dict(model, adapter)
    count = sum((data.train.labels(row)[1:] != -100).sum() for row in rows)
    sum(row_loss(model, data.train, row) for row in rows).div(int(count)).backward()
    for kind in KINDS:
        module, side = kind.split(".")
        pieces = {key: tensor for key, tensor in adapter.items() if f".{module}.{side}." in key}
        values = torch.cat([tensor.flatten() for tensor in pieces.values()]).numpy()
        told = seen[0]["parameters"][kind]
        assert (told["low"], told["high"]) == (
            (values.min(), values.max()) if values.any() else (-0.5, 0.5)
        ), kind
        counts, edges = np.histogram(values, BINS, (told["low"], told["high"]))
        assert close(told, {"counts": counts, "low": edges[0], "high": edges[-1]}), kind
        gradients = [p.grad.flatten() for name, p in model.named_parameters() if f".{module}.{side}." in name]
        flat = torch.cat(gradients).numpy()
        if flat.any():
            # Not clipped: `max_grad_norm` is far below the gradient's norm.
            counts, edges = np.histogram(flat, BINS)
            assert close(seen[0]["gradients"][kind], {"counts": counts, "low": edges[0], "high": edges[-1]})


def test_two_in_a_pack_see_what_each_sees_alone(make_engine: Callable[..., Engine]) -> None:
    configs = {
        "one": trial_config(wandb=watching(2), training={"seed": 1}),
        "two": trial_config(wandb=watching(3), lora={"r": 7}, training={"seed": 2, "learning_rate": 3e-3}),
    }
    packed = train(make_engine(), configs, steps=6)
    assert [one["step"] for one in packed["one"]] == [2, 4, 6]
    assert [one["step"] for one in packed["two"]] == [3, 6]
    for name, config in configs.items():
        alone = train(make_engine(), {name: config}, steps=6)[name]
        for here, there in zip(packed[name], alone, strict=True):
            for what in ("gradients", "parameters"):
                for kind in KINDS:
                    assert close(here[what][kind], there[what][kind]), (name, here["step"], what, kind)
                    assert sum(here[what][kind]["counts"]) == sum(there[what][kind]["counts"])
    assert json.loads(json.dumps(packed)) == packed


@pytest.mark.parametrize(
    ("wandb", "kept"),
    [
        ({"watch_model": False}, None),
        ({"mode": "disabled"}, None),
        ({"log_gradients": False, "log_parameters": False}, None),
        ({"log_gradients": False}, {"step", "parameters"}),
        ({"log_parameters": False}, {"step", "gradients"}),
    ],
)
def test_what_is_off_is_not_there(
    make_engine: Callable[..., Engine], wandb: dict[str, Any], kept: set[str] | None
) -> None:
    seen = train(make_engine(), {"t": trial_config(wandb=watching(**wandb))}, steps=1)["t"]
    assert [set(one) for one in seen] == ([kept] if kept else [])


def test_each_record_has_what_was_seen_since_the_last(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.join("t", trial_config(wandb=watching(2)))
    told = []
    for _ in range(5):
        engine.step(["t"])
        told.append([one["step"] for one in engine.evaluate(["t"])["t"].get(records.HISTOGRAMS, [])])
    assert told == [[], [2], [], [4], []]


def test_a_gradient_that_is_not_finite_ends_the_trial_and_not_the_watching(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    rate = {"learning_rate": 1e30, "max_grad_norm": None, "warmup_ratio": 0.0}
    engine.join("t", trial_config(wandb=watching(), training=rate))
    for _ in range(3):
        if engine.tenant("t").state is records.TrialState.RUNNING:
            engine.step(["t"])
    record = engine.evaluate(["t"])["t"]
    assert record[records.STATE] == "diverged"
    json.dumps(record[records.HISTOGRAMS], allow_nan=False)
