"""What every family of models is held to: packed training against PEFT on the same model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from tests.models.families import LONGEST, Family
from tests.support.engines import FakeData, FakeTable, FakeTokenizer, random_table, row_loss, trial_config
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.lora.peft_format import import_rows, write_adapter
from trainable.model import BaseModel

_NEW_TOKENS = 4
_DATA = FakeData(random_table(6, seed=1, longest=LONGEST), random_table(4, seed=2, longest=LONGEST))


@dataclass(frozen=True)
class Trial:
    """A tenant of the engine under test: its configuration and its random adapter, B included."""

    name: str
    config: TrialConfig
    adapter: dict[str, Tensor]


def engine_of(family: Family) -> Engine:
    return Engine(BaseModel(family.build(), FakeTokenizer(), family.kind), _DATA)


def check_family(family: Family) -> Engine:
    """Hold a family to all of it; returns the engine, to be described."""
    engine = engine_of(family)
    engine.check(trial_config())
    trials = [_join(engine, "a", r=3, alpha=6.0, seed=1), _join(engine, "b", r=5, alpha=5.0, seed=2)]
    written = engine.generate({trial.name: [0, 1, 2] for trial in trials}, _DATA.val)
    evaluated = engine.evaluate(["a", "b"])
    engine.step(["a", "b"])
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials:
            peft = _load(family.build(), engine, trial, Path(folder) / trial.name)
            _check_gradients(engine, trial, peft)
            total = sum(row_loss(peft, _DATA.val, row).item() for row in range(len(_DATA.val)))
            loss = total / _targets(_DATA.val, range(len(_DATA.val)))
            assert evaluated[trial.name]["eval/loss"] == pytest.approx(loss, rel=1e-4)
            texts = [_continue(peft, _DATA.val.prompt_ids(row)) for row in (0, 1, 2)]
            assert [one.text for one in written[trial.name]] == texts
    _check_nan_neighbor(family, trials[1])
    return engine


def _join(engine: Engine, name: str, r: int, alpha: float, seed: int) -> Trial:
    config = trial_config(
        lora={"r": r, "alpha": alpha},
        training={"max_steps": 1, "warmup_ratio": 0, "max_grad_norm": None, "seed": seed},
        evaluation={"max_new_tokens": _NEW_TOKENS},
    )
    tenant = engine.join(name, config)
    generator = torch.Generator().manual_seed(seed)
    adapter = {
        key: value + 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in engine.snapshot(name, {}).adapter.items()
    }
    _set(engine, name, adapter)
    return Trial(tenant.name, config, adapter)


def _set(engine: Engine, name: str, adapter: dict[str, Tensor]) -> None:
    held = engine.tenant(name).adapter
    held.parameters.copy_(import_rows(held, adapter))


def _load(model: PreTrainedModel, engine: Engine, trial: Trial, folder: Path) -> PeftModel:
    """Load the exported adapter with PEFT; every tensor must be used, and no other be there."""
    # Some families are configured to force an end at the last token; generation here has no such options.
    model.generation_config = GenerationConfig()
    write_adapter(folder, trial.adapter, trial.config.lora, engine.tenant(trial.name).plan.targets, "base")
    peft = PeftModel.from_pretrained(model, folder, is_trainable=True).eval()
    found = {key.replace(".default.", "."): p for key, p in peft.named_parameters() if ".lora_" in key}
    assert found.keys() == trial.adapter.keys()
    assert all(torch.equal(found[key], value) for key, value in trial.adapter.items())
    return peft


def _check_gradients(engine: Engine, trial: Trial, peft: PeftModel) -> None:
    """Loss and gradient of one step; AdamW's first moment is a tenth of the gradient then."""
    tenant = engine.tenant(trial.name)
    rows = tenant.order.slice(0, tenant.rows_per_step)
    count = _targets(_DATA.train, rows)
    loss = sum(row_loss(peft, _DATA.train, row) / count for row in rows)
    loss.backward()
    assert tenant.window.losses == pytest.approx([loss.item()], rel=1e-4)
    found = engine.snapshot(trial.name, {}).exp_avg
    expected = {
        key.replace(".default.", "."): torch.zeros_like(p) if p.grad is None else p.grad
        for key, p in peft.named_parameters()
        if ".lora_" in key
    }
    largest = max(gradient.norm() for gradient in expected.values())
    for key, gradient in expected.items():
        assert (found[key] * 10 - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5 * largest, key


def _check_nan_neighbor(family: Family, trial: Trial) -> None:
    """A neighbor without a finite weight leaves loss, gradient and texts as they are beside a sound one."""
    losses, moments, texts = [], [], []
    for spoiled in (False, True):
        engine = engine_of(family)
        _join(engine, "a", r=3, alpha=6.0, seed=1)
        _join(engine, "b", r=5, alpha=5.0, seed=2)
        if spoiled:
            engine.tenant("a").adapter.parameters.fill_(torch.nan)
        texts.append(engine.generate({"a": [0], "b": [0, 1]}, _DATA.val)["b"])
        engine.step(["a", "b"])
        losses.append(list(engine.tenant("b").window.losses))
        moments.append(engine.snapshot("b", {}).exp_avg)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert texts[0] == texts[1]
    for key, value in moments[0].items():
        torch.testing.assert_close(moments[1][key], value, rtol=1e-3, atol=1e-6)


def _targets(table: FakeTable, rows: range | list[int]) -> int:
    return int(sum((table.labels(row)[1:] != -100).sum() for row in rows))


def _continue(peft: PeftModel, prompt: np.ndarray) -> str:
    ids = torch.from_numpy(prompt)[None]
    options = GenerationConfig(max_new_tokens=_NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=2)
    with torch.inference_mode():
        written = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=options)
    return FakeTokenizer().decode(written[0, len(prompt) :].tolist(), True)
