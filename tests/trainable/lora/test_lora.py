"""Layout, dropout, the packed optimizer and PEFT's format, each against an independent computation."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from tests.support.engines import micro_model
from trainable.config import LoraConfig
from trainable.errors import CheckpointError
from trainable.lora.adamw import AdamWStep, adamw_step, clip_gradients, gradient_norms
from trainable.lora.adapter import Adapter
from trainable.lora.dropout import DropoutMasks, row_keys
from trainable.lora.packed_linear import adaptable_layers
from trainable.lora.peft_format import export_rows, import_rows, read_adapter, write_adapter
from trainable.lora.targets import adapter_scale, plan_adapter

SHAPES = {"q": (6, 4), "v": (6, 10)}
CPU = torch.device("cpu")


def make(rank: int = 5, targets: tuple[str, ...] = ("q", "v")) -> Adapter:
    return Adapter(SHAPES, dict.fromkeys(targets, rank), dict.fromkeys(targets, 2.0), CPU)


def test_scales() -> None:
    assert adapter_scale(16, 32, False) == 2
    assert adapter_scale(16, 32, True) == 8


def test_layers_are_views_that_share_no_element() -> None:
    adapter = make(8)
    row = torch.arange(len(adapter.parameters), dtype=torch.float32)
    layers = adapter.layers(row)
    seen = torch.cat([matrix.flatten() for pair in layers.values() for matrix in pair])
    assert sorted(seen.tolist()) == row.tolist()
    assert [matrix.shape for matrix in layers["v"]] == [(8, 6), (8, 10)]
    assert adapter.size == len(row)


def test_initial_adapters_depend_on_seed_and_layer_alone() -> None:
    first, second = make(5), make(5, ("v",))
    first.initialize(seed=3)
    second.initialize(seed=3)
    drawn = first.layers(first.parameters)["v"][0].clone()
    assert torch.equal(drawn, second.layers(second.parameters)["v"][0])
    assert drawn.abs().max() <= 1 / math.sqrt(6)
    assert drawn.std() == pytest.approx(1 / math.sqrt(18), rel=0.35)
    first.initialize(seed=4)
    assert not torch.equal(first.layers(first.parameters)["v"][0], drawn)


@settings(max_examples=20, deadline=None)
@given(
    rates=st.lists(st.floats(1e-6, 1e-1), min_size=2, max_size=4),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.9999),
    decay=st.floats(0, 0.5),
    seed=st.integers(0, 100),
)
def test_packed_adamw_equals_torchs(
    rates: list[float], beta1: float, beta2: float, decay: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    adapters = [make(rank) for rank in range(3, 3 + len(rates))]
    parameters = []
    for adapter in adapters:
        adapter.parameters.copy_(torch.randn(adapter.size, generator=generator))
        parameters.append(torch.nn.Parameter(adapter.parameters.clone()))
    optimizers = [
        torch.optim.AdamW([p], lr=rate, betas=(beta1, beta2), eps=1e-8, weight_decay=decay)
        for p, rate in zip(parameters, rates, strict=True)
    ]
    numbers = range(len(rates))
    for step in range(1, 4):
        # Every second step leaves the first adapter out.
        due = numbers if step % 2 else numbers[1:]
        for n in due:
            gradient = torch.randn(adapters[n].size, generator=generator)
            adapters[n].gradient.copy_(gradient)
            parameters[n].grad = gradient.clone()
            optimizers[n].step()
        counts = [int(optimizers[n].state[parameters[n]]["step"]) for n in due]
        adamw_step(
            [adapters[n] for n in due],
            [
                AdamWStep(count, rates[n], beta1, beta2, 1e-8, decay)
                for n, count in zip(due, counts, strict=True)
            ],
        )
        for adapter, parameter in zip(adapters, parameters, strict=True):
            torch.testing.assert_close(adapter.parameters, parameter.data, rtol=1e-6, atol=1e-7)
            assert not adapter.gradient.any()


def test_each_adapter_is_clipped_by_its_own_norm() -> None:
    adapters = [make(rank) for rank in (4, 5, 6, 7)]
    for adapter in adapters:
        adapter.gradient.copy_(torch.randn(adapter.size))
    adapters[2].gradient.fill_(math.nan)
    before = [adapter.gradient.clone() for adapter in adapters]
    norms = gradient_norms(adapters).tolist()
    assert norms[0] == pytest.approx(before[0].norm().item())
    assert math.isnan(norms[2])
    clip_gradients([adapters[0], adapters[1], adapters[3]], [*norms[:2], norms[3]], [0.5, None, 1e9])
    expected = torch.nn.Parameter(torch.zeros(adapters[0].size))
    expected.grad = before[0].clone()
    torch.nn.utils.clip_grad_norm_([expected], 0.5)
    torch.testing.assert_close(adapters[0].gradient, expected.grad)
    for n in (1, 3):
        assert torch.equal(adapters[n].gradient, before[n])


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_dropout_drops_the_right_share_everywhere(rate: float) -> None:
    masks = DropoutMasks(row_keys(1, 2, range(8)), [rate] * 8, CPU)
    dropped = masks.dropped("layer", 50, 64).float()
    assert dropped.mean().item() == pytest.approx(rate, abs=deviations(4, rate, dropped.numel()))
    for axis, elements in ((0, 8 * 50), (1, 50 * 64), (2, 8 * 64)):
        others = tuple(other for other in range(3) if other != (2, 0, 1)[axis])
        shares = dropped.mean(dim=others)
        assert (shares - rate).abs().max() < deviations(5, rate, elements)


def test_masks_of_layers_rows_steps_and_neighboring_elements_are_independent() -> None:
    """Every pair drops the same element as often as two independent masks would."""
    rate = 0.1
    layers = [f"model.layers.{n}.self_attn.{kind}_proj" for n in range(5) for kind in "qkvo"]
    masks = DropoutMasks(row_keys(1, 2, range(8)), [rate] * 8, CPU)
    drawn = [masks.dropped(layer, 64, 128) for layer in layers]
    later = DropoutMasks(row_keys(1, 3, range(8)), [rate] * 8, CPU).dropped(layers[0], 64, 128)
    first = drawn[0]
    pairs = [(one, two) for n, one in enumerate(drawn) for two in drawn[:n]]
    pairs += [(first, later), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])]
    pairs += [(first[..., 1:], first[..., :-1])]
    for one, two in pairs:
        both = (one & two).float().mean().item()
        # Nearly two hundred pairs: the largest of as many normal deviations is about three.
        assert both == pytest.approx(rate**2, abs=deviations(5, rate**2, one.numel()))


def deviations(number: float, share: float, elements: int) -> float:
    """Return standard deviations of a binomial share."""
    return number * math.sqrt(share * (1 - share) / elements)


def test_a_dropout_mask_depends_on_the_trial_alone() -> None:
    alone = DropoutMasks(row_keys(1, 2, range(2)), [0.5] * 2, CPU)
    expected = alone.dropped("q", 7, 6)
    packed = DropoutMasks([*row_keys(9, 2, range(2)), *row_keys(1, 2, range(2))], [0, 0, 0.5, 0.5], CPU)
    found = packed.dropped("q", 11, 6)
    assert torch.equal(found[2:, :7], expected)
    assert not found[:2].any()
    assert not torch.equal(alone.dropped("v", 7, 6), expected)
    later = DropoutMasks(row_keys(1, 3, range(2)), [0.5] * 2, CPU)
    assert not torch.equal(later.dropped("q", 7, 6), expected)
    split = DropoutMasks(row_keys(1, 2, range(1, 2)), [0.5], CPU)
    assert torch.equal(split.dropped("q", 7, 6)[0], expected[1])


def test_peft_loads_what_is_exported_and_gives_the_same_logits(tmp_path: Path) -> None:
    from trainable.engine import Engine  # noqa: F401  (importable without Ray)

    model = micro_model()
    layers = adaptable_layers(model)
    shapes = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
    targets = plan_adapter(layers, LoraConfig()).targets
    adapter = Adapter(shapes, dict.fromkeys(targets, 3), dict.fromkeys(targets, 2.0), CPU)
    adapter.initialize(seed=1)
    tensors = {k: v + 0.1 for k, v in export_rows(adapter, adapter.parameters).items()}
    write_adapter(tmp_path / "adapter", tensors, LoraConfig(r=3, alpha=6), targets, "micro")
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = model(ids).logits
    loaded = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    by_peft = loaded(ids).logits
    by_hand = micro_model()
    for name in targets:
        layer = by_hand.get_submodule(name)
        a, b = (tensors[f"base_model.model.{name}.lora_{kind}.weight"] for kind in "AB")
        layer.weight.data += 2 * b @ a
    torch.testing.assert_close(by_peft, by_hand(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(by_peft, plain, atol=1e-2)
    assert all(torch.equal(v, tensors[k]) for k, v in read_adapter(tmp_path / "adapter").items())


def test_import_is_the_inverse_of_export_and_refuses_other_shapes() -> None:
    adapter = make(5)
    adapter.parameters.copy_(torch.randn(adapter.size))
    tensors = export_rows(adapter, adapter.parameters)
    assert tensors["base_model.model.v.lora_B.weight"].shape == (10, 5)
    assert torch.equal(import_rows(adapter, tensors), adapter.parameters)
    with pytest.raises(CheckpointError, match=r"lora_A.weight' has shape \(5, 6\); expected shape \(4, 6\)"):
        import_rows(make(4), tensors)
    with pytest.raises(CheckpointError, match=r"q\.lora_A\.weight' is missing"):
        import_rows(adapter, {})
    with pytest.raises(CheckpointError, match="unexpected tensor 'other'"):
        import_rows(adapter, tensors | {"other": torch.zeros(1)})


def test_export_is_a_copy() -> None:
    adapter = make(1)
    adapter.initialize(seed=1)
    tensors = export_rows(adapter, adapter.parameters)
    before = {key: value.clone() for key, value in tensors.items()}
    adapter.parameters.fill_(7)
    assert all(torch.equal(value, before[key]) for key, value in tensors.items())


def test_targets_are_matched_as_peft_matches_them() -> None:
    layers = adaptable_layers(micro_model())
    assert "lm_head" not in layers
    assert plan_adapter(layers, LoraConfig()).targets == tuple(layers)
    chosen = plan_adapter(layers, LoraConfig(target_modules=["v_proj", "layers.0.mlp.up_proj"]))
    assert chosen.targets == (
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.v_proj",
    )


def test_gpt2s_transposed_layers_train_and_export_too(tmp_path: Path) -> None:
    """GPT-2 keeps its weights transposed; PEFT knows, and so does the packed layer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.support.engines import FakeData, FakeTokenizer, random_table, trial_config
    from trainable.engine import Engine
    from trainable.model import BaseModel

    def model() -> GPT2LMHeadModel:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=64)
        return GPT2LMHeadModel(config).eval().requires_grad_(False)

    engine = Engine(
        BaseModel(model(), FakeTokenizer(), "gpt"), FakeData(random_table(8, 1), random_table(4, 2))
    )
    config = trial_config(lora={"target_modules": ["c_attn", "c_fc"]}, training={"learning_rate": 0.05})
    tenant = engine.join("t", config)
    while tenant.step < 6:
        engine.step(["t"])
    snapshot = engine.snapshot("t", {})
    write_adapter(tmp_path, snapshot.adapter, config.lora, snapshot.targets, "gpt")
    loaded = PeftModel.from_pretrained(model(), tmp_path).eval()
    table = engine.data.val
    total = count = 0.0
    for row in range(len(table)):
        labels = torch.from_numpy(table.labels(row))[1:]
        logits = loaded(torch.from_numpy(table.ids(row))[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += (labels != -100).sum().item()
    assert engine.evaluate(["t"])["t"]["eval/loss"] == pytest.approx(total / count, rel=1e-4)
