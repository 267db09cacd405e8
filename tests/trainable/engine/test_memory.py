"""What a pass keeps: chunked logits and recomputed blocks change the memory and nothing else."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM

from benchmarks.launches import OnePassAtATime
from tests.support.engines import FakeData, FakeTokenizer, micro_model, trial_config
from trainable.engine import Engine, packed_forward
from trainable.engine.recompute import recompute_blocks
from trainable.errors import ModelError
from trainable.lora.packed_linear import Router
from trainable.model import BaseModel
from trainable.records import TrialState

VOCABULARY = 61
TRIALS = {
    "a": {"lora": {"r": 3, "dropout": 0.2}, "training": {"batch_size": 4, "max_steps": 4}},
    "b": {"lora": {"r": 12}, "training": {"seed": 1, "max_steps": 4}},
}


class LargestLogits(TorchDispatchMode):
    """Records the largest tensor whose last axis is the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() > 1 and result.shape[-1] == VOCABULARY:
            self.rows = max(self.rows, result.numel() // VOCABULARY)
        return result


def engine_of(data: FakeData, model: Any = None, **options: Any) -> Engine:
    engine = Engine(BaseModel(model or micro_model(), FakeTokenizer(), "micro"), data, **options)
    # In the calling thread, which is the one that is watched.
    engine.passes = OnePassAtATime(engine.device, 10**6)
    return engine


def train(engine: Engine) -> dict[str, list[float]]:
    for name, options in TRIALS.items():
        engine.join(name, trial_config(**options))
    while running := [name for name in TRIALS if engine.tenant(name).state is TrialState.RUNNING]:
        engine.step(running)
    evaluated = engine.evaluate(TRIALS)
    return {
        name: [*engine.tenant(name).window.losses, *_last(evaluated[name]), engine.tenant(name).grad_norm]
        for name in TRIALS
    }


def _last(record: dict[str, Any]) -> list[float]:
    return [record["eval/loss"], record["train/loss"]]


def test_chunks_of_logits_change_nothing_but_the_memory(
    data: FakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(data)
    with LargestLogits() as at_once:
        expected = train(engine)
    monkeypatch.setattr(packed_forward, "_MAX_LOGITS_BYTES", 5 * 4 * VOCABULARY)
    engine = engine_of(data)
    with LargestLogits() as in_chunks:
        found = train(engine)
    for name in TRIALS:
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    assert at_once.rows > 40
    # The transposed weight of the head has as many rows as the model is wide.
    assert in_chunks.rows <= 32


def test_logits_with_a_cap_after_the_head_are_not_chunked(
    data: FakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gemma() -> Gemma2ForCausalLM:
        torch.manual_seed(0)
        config = Gemma2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            final_logit_softcapping=0.5,
            attn_implementation="eager",
        )
        return Gemma2ForCausalLM(config).eval().requires_grad_(False)

    expected = train(engine_of(data, gemma()))
    monkeypatch.setattr(packed_forward, "_MAX_LOGITS_BYTES", 5 * 4 * VOCABULARY)
    assert train(engine_of(data, gemma())) == expected


def kept_bytes(action: Callable[[], Any]) -> int:
    """Return the bytes of the distinct tensors that autograd keeps for backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        action()
    return sum(kept.values())


def test_recomputed_blocks_change_nothing_but_the_memory(data: FakeData) -> None:
    plain, recomputing = engine_of(data), engine_of(data, gradient_checkpointing=True)
    expected, found = train(plain), train(recomputing)
    for name in TRIALS:
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    recomputing.check(trial_config())

    def forward(engine: Engine) -> None:
        engine.join("c", trial_config(training={"batch_size": 8}))
        engine.step(["c"])

    assert kept_bytes(lambda: forward(recomputing)) < 0.5 * kept_bytes(lambda: forward(plain))


_BACKWARD = torch.Tensor.backward


def _backward_in_thread(self: Tensor, *args: Any) -> None:
    thread = threading.Thread(target=_BACKWARD, args=(self, *args))
    thread.start()
    thread.join()


def test_a_block_is_recomputed_with_its_adapters_in_another_thread(data: FakeData) -> None:
    """A GPU's backward runs in a thread of its own, where the router names no adapters."""
    gradients = []
    for in_thread in (False, True):
        engine = engine_of(data, gradient_checkpointing=True)
        adapter = engine.join("a", trial_config(lora={"r": 3}, training={"max_grad_norm": None})).adapter
        with pytest.MonkeyPatch.context() as patch:
            if in_thread:
                patch.setattr(torch.Tensor, "backward", _backward_in_thread)
            engine.step(["a"])
        gradients.append(adapter.exp_avg.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_a_model_without_blocks_cannot_recompute_them() -> None:
    with pytest.raises(
        ModelError, match=r"engine.gradient_checkpointing: Linear has no blocks.*Set it to false"
    ):
        recompute_blocks(torch.nn.Linear(2, 2), Router())
