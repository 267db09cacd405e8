"""Options of LoRA that are searched over mean what they mean in PEFT, and share a pass with one another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from pydantic import ValidationError

from tests.support.engines import FakeData, micro_model, peft_config, train_with_peft, trial_config
from trainable import records
from trainable.config import LoraConfig
from trainable.engine import Engine
from trainable.errors import ConfigError
from trainable.lora.adapter import Adapter
from trainable.lora.packed_linear import adaptable_layers
from trainable.lora.peft_format import write_adapter
from trainable.lora.targets import plan_adapter
from trainable.records import TrialState

OPTIONS: dict[str, dict[str, Any]] = {
    "exclude by name": {"target_modules": ["q_proj", "v_proj", "up_proj"], "exclude_modules": ["v_proj"]},
    "exclude by whole name": {
        "target_modules": ["q_proj", "v_proj"],
        "exclude_modules": ["model.layers.1.self_attn.q_proj"],
    },
    "exclude by pattern": {"target_modules": ["q_proj", "up_proj"], "exclude_modules": [r"regex:.*\.0\..*"]},
    "exclude from all-linear": {"exclude_modules": ["down_proj"]},
    "pattern": {"target_modules": [r"regex:.*\.self_attn\.(q|v)_proj"]},
    "pattern with a comma": {"target_modules": [r"regex:model\.layers\.\d{1,2}\.mlp\.up_proj"]},
    "layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "ranks": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 9}},
    "ranks by pattern": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {r"layers\.0\..*": 2}},
    "the first pattern counts": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {r".*1\.self_attn\.v_proj": 3, "v_proj": 5},
    },
    "alphas": {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"v_proj": 32}},
    "ranks, alphas and rslora": {
        "rank_pattern": {"up_proj": 6, "q_proj": 2},
        "alpha_pattern": {"q_proj": 3},
        "use_rslora": True,
    },
    "LoRA+": {"target_modules": ["q_proj", "up_proj"], "lr_ratio": 8.0},
    "LoRA+ of B slower": {"target_modules": ["q_proj"], "lr_ratio": 0.25},
    "orthogonal": {"target_modules": ["q_proj", "v_proj"], "init": "orthogonal"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_layers_ranks_and_scales_are_pefts(options: dict[str, Any]) -> None:
    lora = LoraConfig(r=4, alpha=8, **options)
    plan = plan_adapter(adaptable_layers(micro_model()), lora)
    peft = get_peft_model(micro_model(), peft_config(lora))
    adapted = {
        name.removeprefix("base_model.model."): module
        for name, module in peft.named_modules()
        if hasattr(module, "lora_A")
    }
    assert list(plan.targets) == list(adapted)
    assert plan.ranks == {name: module.r["default"] for name, module in adapted.items()}
    assert plan.scales == pytest.approx({name: m.scaling["default"] for name, m in adapted.items()})


def test_trials_that_differ_in_options_share_a_pass_and_train_as_peft_does(
    make_engine: Callable[..., Engine], data: FakeData, tmp_path: Path
) -> None:
    engine = make_engine()
    configs = {name: trial_config(lora=options) for name, options in OPTIONS.items()}
    initial = {}
    for name, config in configs.items():
        engine.join(name, config)
        initial[name] = engine.snapshot(name, {}).adapter
    while running := [name for name in configs if engine.tenant(name).state is TrialState.RUNNING]:
        engine.step(running)
    losses = {name: list(engine.tenant(name).window.losses) for name in configs}
    evaluated = engine.evaluate(configs)
    for name, config in configs.items():
        expected = train_with_peft(config, initial[name], data)
        assert losses[name] == pytest.approx(expected.losses, rel=1e-4), name
        assert evaluated[name][records.EVAL_LOSS] == pytest.approx(expected.eval_loss, rel=1e-4), name
        snapshot = engine.snapshot(name, {})
        for key, value in expected.adapter.items():
            torch.testing.assert_close(snapshot.adapter[key], value, rtol=1e-3, atol=1e-5)
        folder = tmp_path / name
        write_adapter(folder, snapshot.adapter, config.lora, snapshot.targets, "micro")
        loaded = PeftModel.from_pretrained(micro_model(), folder)
        found = {k.replace(".default.", "."): p for k, p in loaded.named_parameters() if ".lora_" in k}
        assert found.keys() == snapshot.adapter.keys()
        scales = {n: m.scaling["default"] for n, m in loaded.named_modules() if hasattr(m, "lora_A")}
        expected_scales = {f"base_model.model.{n}": s for n, s in engine.tenant(name).plan.scales.items()}
        assert scales == pytest.approx(expected_scales)


def test_a_checkpoint_with_several_ranks_is_continued(make_engine: Callable[..., Engine]) -> None:
    config = trial_config(lora=OPTIONS["ranks, alphas and rslora"] | {"lr_ratio": 4.0})
    engine, resumed = make_engine(), make_engine()
    engine.join("t", config)
    for _ in range(3):
        engine.step(["t"])
    resumed.join("t", config, engine.snapshot("t", {}))
    for each in (engine, resumed):
        while each.tenant("t").state is TrialState.RUNNING:
            each.step(["t"])
    assert engine.tenant("t").window.losses == resumed.tenant("t").window.losses


def drawn(kind: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    adapter = Adapter({"q": (300, 200)}, {"q": rank}, {"q": 1.0}, torch.device("cpu"))
    adapter.initialize(5, kind)
    return adapter.layers(adapter.parameters)["q"]


@pytest.mark.parametrize("kind", ["kaiming", "gaussian", "orthogonal"])
def test_initial_adapters_are_drawn_as_peft_draws_them(kind: str) -> None:
    a, b = drawn(kind, 6)
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(300, 200))
    config = peft_config(LoraConfig(r=6, init=kind, target_modules=["0"]))
    config.task_type = None
    peft = dict(get_peft_model(layer, config).named_parameters())
    for ours, key in ((a, "lora_A"), (b, "lora_B")):
        theirs = next(p for name, p in peft.items() if key in name)
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1, abs=1e-9)
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.35, abs=1e-9)
    assert (a.T @ b).abs().max() < 1e-5


def test_orthogonal_needs_even_ranks() -> None:
    with pytest.raises(ValidationError, match="orthogonal needs even ranks; 3 is odd"):
        LoraConfig(r=4, rank_pattern={"q_proj": 3}, init="orthogonal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"exclude_modules": ["q_prj"]},
            r"exclude_modules: 'q_prj' is no linear layer.*Did you mean 'q_proj'",
        ),
        ({"target_modules": ["regex:.*("]}, r"target_modules: '\.\*\(' is not a regular expression"),
        ({"target_modules": ["regex:nothing"]}, "target_modules: 'regex:nothing' is no linear layer"),
        ({"layers_to_transform": [0, 7]}, "layers_to_transform: the model has no layer number 7"),
        (
            {"rank_pattern": {"w_proj": 4}},
            "rank_pattern: 'w_proj' matches no adapted layer. Adapted: down_proj",
        ),
        (
            {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
            "together leave no layer to adapt",
        ),
    ],
)
def test_options_that_match_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_adapter(adaptable_layers(micro_model()), LoraConfig(**options))
