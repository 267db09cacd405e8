"""Storage, dropout, the packed optimiser and PEFT's format, each against an independent computation."""

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
from trainable.lora.adamw import AdamWRow, adamw_step, clip_gradients
from trainable.lora.dropout import DropoutKeys, row_keys
from trainable.lora.group import AdapterGroup, GroupKey, rank_bucket
from trainable.lora.packed_linear import adaptable_layers
from trainable.lora.peft_format import export_rows, import_rows, read_adapter, write_adapter
from trainable.lora.targets import adapter_scale, plan_adapter

SHAPES = {"q": (6, 4), "v": (6, 10)}
CPU = torch.device("cpu")


def group(rank: int = 8, targets: tuple[str, ...] = ("q", "v")) -> AdapterGroup:
    return AdapterGroup(GroupKey(rank, targets), SHAPES, CPU)


def ranks(held: AdapterGroup, rank: int) -> dict[str, int]:
    return dict.fromkeys(held.shapes, rank)


@pytest.mark.parametrize(("rank", "padded"), [(1, 8), (8, 8), (9, 16), (16, 16), (33, 64), (100, 128)])
def test_ranks_are_padded_to_powers_of_two(rank: int, padded: int) -> None:
    assert rank_bucket(rank) == padded


def test_scales() -> None:
    assert adapter_scale(16, 32, False) == 2
    assert adapter_scale(16, 32, True) == 8


def test_slots_grow_keep_their_content_and_come_back_empty() -> None:
    held = group()
    slots = [held.claim() for _ in range(5)]
    assert len(set(slots)) == 5
    for slot in slots:
        held.parameters[slot] = slot + 1
    more = held.claim()
    assert [int(held.parameters[slot, 0]) for slot in slots] == [slot + 1 for slot in slots]
    held.exp_avg[more] = 3
    held.release(more)
    again = held.claim()
    assert again == more
    assert not held.exp_avg[again].any()


def test_stacks_are_views_that_share_no_element() -> None:
    held = group()
    row = torch.arange(held.parameters.shape[1], dtype=torch.float32)[None]
    seen = torch.cat([held.a(row, n).flatten() for n in SHAPES] + [held.b(row, n).flatten() for n in SHAPES])
    assert sorted(seen.tolist()) == row[0].tolist()
    assert held.a(row, "v").shape == (1, 6, 8)
    assert held.b(row, "v").shape == (1, 8, 10)


def test_initial_adapters_depend_on_seed_and_layer_alone() -> None:
    first, second = group(), group(16, ("v",))
    first.claim()
    a, b = first.claim(), second.claim()
    first.initialize(a, ranks(first, 5), seed=3)
    second.initialize(b, ranks(second, 5), seed=3)
    drawn = first.a(first.parameters[a : a + 1], "v")[0]
    assert torch.equal(drawn[:, :5], second.a(second.parameters[b : b + 1], "v")[0, :, :5])
    assert not drawn[:, 5:].any()
    assert drawn.abs().max() <= 1 / math.sqrt(6)
    assert drawn[:, :5].std() == pytest.approx(1 / math.sqrt(18), rel=0.35)
    first.initialize(a, ranks(first, 5), seed=4)
    assert not torch.equal(first.a(first.parameters[a : a + 1], "v")[0], drawn.clone() * 0)


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
    held = group()
    slots = [held.claim() for _ in rates]
    parameters = []
    for slot in slots:
        held.parameters[slot] = torch.randn(held.parameters.shape[1], generator=generator)
        parameters.append(torch.nn.Parameter(held.parameters[slot].clone()))
    optimisers = [
        torch.optim.AdamW([p], lr=rate, betas=(beta1, beta2), eps=1e-8, weight_decay=decay)
        for p, rate in zip(parameters, rates, strict=True)
    ]
    for step in range(1, 4):
        # Every second step leaves the first adapter out.
        due = slots if step % 2 else slots[1:]
        for slot in due:
            gradient = torch.randn(held.parameters.shape[1], generator=generator)
            held.gradients[slot] = gradient
            parameters[slot].grad = gradient.clone()
            optimisers[slot].step()
        counts = {slot: int(optimisers[slot].state[parameters[slot]]["step"]) for slot in due}
        adamw_step(held, [AdamWRow(s, counts[s], rates[s], beta1, beta2, 1e-8, decay) for s in due])
        for slot in slots:
            torch.testing.assert_close(held.parameters[slot], parameters[slot].data, rtol=1e-6, atol=1e-7)
        assert not held.gradients.any()


def test_each_adapter_is_clipped_by_its_own_norm() -> None:
    held = group()
    slots = [held.claim() for _ in range(4)]
    for slot in slots:
        held.gradients[slot] = torch.randn(held.parameters.shape[1])
    held.gradients[slots[2]] = math.nan
    before = held.gradients.clone()
    norms = clip_gradients(held, slots, [0.5, None, 1.0, 1e9])
    expected = torch.nn.Parameter(torch.zeros(held.parameters.shape[1]))
    expected.grad = before[0].clone()
    torch.nn.utils.clip_grad_norm_([expected], 0.5)
    torch.testing.assert_close(held.gradients[slots[0]], expected.grad)
    assert torch.equal(held.gradients[slots[1]], before[1])
    assert torch.equal(held.gradients[slots[3]], before[3])
    assert norms[0] == pytest.approx(before[0].norm().item())
    assert math.isnan(norms[2])


def keys_of(seed: int, step: int, rows: range) -> torch.Tensor:
    return torch.tensor([row_keys(seed, step, rows)], dtype=torch.int64).sub_(2**31).to(torch.int32)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_the_mean(rate: float) -> None:
    keys = DropoutKeys(keys_of(1, 2, range(4)), torch.tensor([rate]))
    multiplier = keys.multiplier("layer", (1, 4, 50, 64), torch.float32)
    kept = (multiplier > 0).float()
    # Four standard deviations of a binomial share.
    tolerance = 4 * math.sqrt(rate * (1 - rate) / multiplier.numel())
    assert kept.mean().item() == pytest.approx(1 - rate, abs=tolerance)
    assert multiplier[multiplier > 0].unique().tolist() == pytest.approx([1 / (1 - rate)])
    by_feature = kept.mean(dim=(0, 1, 2))
    assert by_feature.min() > 0
    # Neighbouring elements know nothing of each other.
    flat = kept.flatten() - kept.mean()
    correlation = (flat[1:] * flat[:-1]).mean() / flat.var()
    assert abs(correlation) < 0.05


def test_a_dropout_mask_depends_on_the_trial_alone() -> None:
    alone = DropoutKeys(keys_of(1, 2, range(2)), torch.tensor([0.5]))
    expected = alone.multiplier("q", (1, 2, 7, 6), torch.float32)
    packed = DropoutKeys(
        torch.cat([keys_of(9, 2, range(2)), keys_of(1, 2, range(2))]), torch.tensor([0.0, 0.5])
    )
    found = packed.multiplier("q", (2, 2, 11, 6), torch.float32)
    assert torch.equal(found[1, :, :7], expected[0])
    assert torch.equal(found[0], torch.ones(2, 11, 6))
    assert not torch.equal(alone.multiplier("v", (1, 2, 7, 6), torch.float32), expected)
    later = DropoutKeys(keys_of(1, 3, range(2)), torch.tensor([0.5]))
    assert not torch.equal(later.multiplier("q", (1, 2, 7, 6), torch.float32), expected)
    split = DropoutKeys(keys_of(1, 2, range(1, 2)), torch.tensor([0.5]))
    assert torch.equal(split.multiplier("q", (1, 1, 7, 6), torch.float32)[0, 0], expected[0, 1])


def test_peft_loads_what_is_exported_and_gives_the_same_logits(tmp_path: Path) -> None:
    from trainable.engine import Engine  # noqa: F401  (importable without Ray)

    model = micro_model()
    layers = adaptable_layers(model)
    shapes = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
    targets = plan_adapter(layers, LoraConfig()).targets
    held = AdapterGroup(GroupKey(8, targets), shapes, CPU)
    slot = held.claim()
    held.initialize(slot, ranks(held, 3), seed=1)
    tensors = {k: v + 0.1 for k, v in export_rows(held, held.parameters[slot], ranks(held, 3)).items()}
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
    held = group()
    slot = held.claim()
    held.initialize(slot, ranks(held, 5), seed=1)
    held.b(held.parameters[slot : slot + 1], "q")[0, :5] = 0.5
    tensors = export_rows(held, held.parameters[slot], ranks(held, 5))
    assert torch.equal(import_rows(held, tensors, ranks(held, 5)), held.parameters[slot])
    with pytest.raises(CheckpointError, match=r"lora_A.weight' has shape \(5, 6\); expected shape \(4, 6\)"):
        import_rows(held, tensors, ranks(held, 4))
    with pytest.raises(CheckpointError, match=r"q\.lora_A\.weight' is missing"):
        import_rows(held, {}, ranks(held, 5))
    with pytest.raises(CheckpointError, match="unexpected tensor 'other'"):
        import_rows(held, tensors | {"other": torch.zeros(1)}, ranks(held, 5))


def test_export_is_a_copy() -> None:
    held = group()
    slot = held.claim()
    held.initialize(slot, ranks(held, 1), seed=1)
    tensors = export_rows(held, held.parameters[slot], ranks(held, 1))
    before = {key: value.clone() for key, value in tensors.items()}
    held.parameters[slot] = 7
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
