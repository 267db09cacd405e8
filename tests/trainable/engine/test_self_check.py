"""The check that an engine starts with passes a sound model, fails an unsound one, and disturbs neither."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.engines import trial_config
from trainable.engine import Engine
from trainable.errors import ModelError
from trainable.lora.adapter import Adapter
from trainable.lora.dropout import DropoutMasks
from trainable.lora.span import AdapterSpan

MakeEngine = Callable[..., Engine]


def test_a_sound_model_passes_and_is_left_as_it_was(make_engine: MakeEngine) -> None:
    engine, other = make_engine(), make_engine()
    engine.check(trial_config())
    for each in (engine, other):
        each.join("t", trial_config())
        each.step(["t"])
    assert engine.tenant("t").window.losses == other.tenant("t").window.losses
    assert all(parameter.grad is None for parameter in engine.base.module.parameters())


def test_rows_of_another_trial_are_noticed(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = AdapterSpan.take

    def shifted(self: AdapterSpan, batch: Tensor) -> Tensor:
        if batch.shape[-1] == 48 and len(batch) > 1:
            batch = batch.roll(1, 0)
        return genuine(self, batch)

    engine = make_engine()
    monkeypatch.setattr(AdapterSpan, "take", shifted)
    with pytest.raises(
        ModelError, match=r"a trial in a pack and the LoRA formula alone differ.*target_modules"
    ):
        engine.check(trial_config())


def test_a_scale_that_is_off_is_noticed(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    genuine = Adapter.scale.func
    monkeypatch.setattr(Adapter, "scale", property(lambda self: 1.01 * genuine(self)))
    with pytest.raises(ModelError, match="the LoRA formula alone differ"):
        engine.check(trial_config())


def test_dropout_that_depends_on_the_pack_is_noticed(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    count = [0]

    def random(self: DropoutMasks, layer: str, places: int, features: int) -> Tensor:
        count[0] += 1
        generator = torch.Generator().manual_seed(count[0])
        return torch.rand(len(self._keys), places, features, generator=generator) > 0.5

    monkeypatch.setattr(DropoutMasks, "dropped", random)
    with pytest.raises(ModelError, match="dropout of a trial alone and in a pack differ"):
        engine.check(trial_config())


def test_nan_that_reaches_a_neighbor_is_noticed(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    module = engine.base.module
    genuine = module.model.norm.forward

    def mixing(x: Tensor) -> Tensor:
        # Zero for finite rows, so that only a NaN passes from one row to another.
        return genuine(x) + 0 * x.sum()

    monkeypatch.setattr(module.model.norm, "forward", mixing)
    with pytest.raises(ModelError, match="beside a diverged one and beside a sound one differ"):
        engine.check(trial_config())
