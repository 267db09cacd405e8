"""On a GPU, in bfloat16: packed equals alone and transformers with PEFT within bf16's tolerance."""

import pytest
import torch

from tests.support.engines import FakeData, FakeTokenizer, micro_model, train_with_peft, trial_config
from trainable.engine import Engine
from trainable.engine import memory_fit as memory
from trainable.model import BaseModel
from trainable.records import TrialState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
STEPS = 50


def engine_on_gpu(data: FakeData) -> Engine:
    model = micro_model().to("cuda", torch.bfloat16)
    return Engine(BaseModel(model, FakeTokenizer(), "micro"), data)


def trial(number: int) -> dict:
    return {
        "lora": {"r": 4 + 5 * number},
        "training": {"max_steps": STEPS, "seed": number, "learning_rate": 1e-3, "batch_size": 1 + number},
    }


def train(engine: Engine, numbers: range) -> dict[int, list[float]]:
    names = {number: f"t{number}" for number in numbers}
    for number, name in names.items():
        engine.join(name, trial_config(**trial(number)))
    while running := [n for n in names.values() if engine.tenant(n).state is TrialState.RUNNING]:
        engine.step(running)
    return {number: list(engine.tenant(name).window.losses) for number, name in names.items()}


def test_packed_equals_alone_and_peft(data: FakeData) -> None:
    packed = train(engine_on_gpu(data), range(4))
    for number in range(4):
        engine = engine_on_gpu(data)
        alone = train(engine, range(number, number + 1))[number]
        assert packed[number] == pytest.approx(alone, rel=1e-2)
        fresh = engine_on_gpu(data)
        fresh.join("t", trial_config(**trial(number)))
        initial = fresh.snapshot("t", {}).adapter
        expected = train_with_peft(trial_config(**trial(number)), initial, data)
        # The reference computes in fp32: the base's own rounding to bf16 is part of the difference.
        assert packed[number] == pytest.approx(expected.losses, rel=5e-2)


def test_memory_is_measured(data: FakeData) -> None:
    engine = engine_on_gpu(data)
    found = memory.fit(engine, trial_config())
    assert found is not None
    assert found.linear > 0
    assert found.max_tokens(0) > 1000
