"""What a model does with rows is found out on the model, and what cannot be packed is left out or refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from tests.support.engines import FakeData, FakeTable, FakeTokenizer, micro_model, random_table, trial_config
from trainable.engine import Engine
from trainable.engine.model_probe import ModelProbe, probe_model
from trainable.errors import ConfigError, ModelError
from trainable.lora.packed_linear import adaptable_layers, places_per_token
from trainable.model import BaseModel


def probe(model: nn.Module) -> ModelProbe:
    return probe_model(BaseModel(model, FakeTokenizer(), "micro"), adaptable_layers(model))


class Selecting(nn.Module):
    """An MLP that hands its layers only some of the tokens, as separate experts do."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        chosen = flat[:, 0] > 0
        out = torch.zeros_like(flat)
        out[chosen] = self.mlp(flat[chosen])
        return out.view_as(x)


class Permuting(Selecting):
    """An MLP that hands its layers all tokens, position by position instead of row by row."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.transpose(0, 1).reshape(-1, x.shape[-1])
        return self.mlp(flat).view(x.shape[1], x.shape[0], -1).transpose(0, 1)


class Flattening(Selecting):
    """An MLP that flattens rows and tokens into one axis."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x.reshape(-1, x.shape[-1])).view_as(x)


class Tuple(nn.Linear):
    """A router that is a linear layer and returns two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = super().forward(x)
        return y, y.softmax(-1)


class Routed(nn.Module):
    """An MLP beside such a router."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp, self.router, self.unused = mlp, Tuple(32, 2), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) * self.router(x)[1][..., :1]


class Mixing(Selecting):
    """An MLP whose rows see the other rows of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + x.cumsum(1).mean(0, keepdim=True)


class Backwards(Selecting):
    """An MLP whose tokens see those that follow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + x.mean(1, keepdim=True)


def model_with(wrap: Callable[[nn.Module], nn.Module]) -> LlamaForCausalLM:
    model = micro_model()
    model.model.layers[1].mlp = wrap(model.model.layers[1].mlp)
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [(Selecting, "selection of tokens"), (Permuting, "does not hold the tokens of one row")],
)
def test_layers_with_other_inputs_are_left_out(wrap: type[nn.Module], reason: str) -> None:
    found = probe(model_with(wrap))
    assert set(found.left_out) == {f"model.layers.1.mlp.mlp.{n}_proj" for n in ("gate", "up", "down")}
    assert all(reason in why for why in found.left_out.values())
    assert "model.layers.0.mlp.gate_proj" in found.per_token


def test_a_flattened_input_is_understood() -> None:
    found = probe(model_with(Flattening))
    assert not found.left_out
    assert found.per_token["model.layers.1.mlp.mlp.up_proj"] == 1


def test_routers_and_layers_that_text_does_not_reach_are_left_out() -> None:
    found = probe(model_with(Routed))
    reasons = {name.rpartition(".")[2]: reason for name, reason in found.left_out.items()}
    assert reasons.keys() == {"router", "unused"}
    assert "as a plain linear layer does" in reasons["router"]
    assert reasons["unused"] == "a pass over text does not call it"


def test_models_that_mix_rows_or_see_the_future_are_refused() -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM: the rows of a batch change each other's logits"):
        probe(model_with(Mixing))
    with pytest.raises(ModelError, match=r"tokens see the tokens that follow them.*give a decoder"):
        probe(model_with(Backwards))


def test_probing_leaves_the_model_as_it_was() -> None:
    model = micro_model()
    ids = torch.arange(3, 15)[None]
    before = model(ids).logits
    probe(model)
    assert torch.equal(model(ids).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_left_out_layer_cannot_be_targeted(data: FakeData) -> None:
    engine = Engine(BaseModel(model_with(Selecting), FakeTokenizer(), "micro"), data)
    with pytest.raises(
        ConfigError, match=r"'mlp.mlp.up_proj' cannot be adapted in this model \('model.layers.1"
    ):
        engine.join("t", trial_config(lora={"target_modules": ["mlp.mlp.up_proj"]}))
    described = engine.describe("micro").with_adapter(trial_config().lora)
    assert (
        "not adapted: mlp.mlp.gate_proj, mlp.mlp.up_proj, mlp.mlp.down_proj (its input" in described["text"]
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 7, 5), 1),
        ((21, 5), 1),
        ((42, 5), 2),
        ((3, 1, 7, 5), 1),
        ((3, 7, 4, 5), 4),
        ((20, 5), None),
        ((7, 3, 5), None),
        ((3, 5), None),
        ((0, 5), None),
        ((5,), None),
    ],
)
def test_places_follow_from_the_shape(shape: tuple[int, ...], expected: int | None) -> None:
    assert places_per_token(shape, rows=3, tokens=7) == expected


def gpt2(positions: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=positions)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def opt(positions: int) -> OPTForCausalLM:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=61,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        word_embed_proj_dim=16,
        max_position_embeddings=positions,
    )
    return OPTForCausalLM(config).eval().requires_grad_(False)


@pytest.mark.parametrize("build", [gpt2, opt])
def test_tables_of_positions_are_found_with_their_offset(build: Callable[[int], nn.Module]) -> None:
    model = build(24)
    assert probe(model).table_limit == 24
    model(torch.ones(1, 24, dtype=torch.int64))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.ones(1, 25, dtype=torch.int64))
    assert probe(micro_model()).table_limit is None


def test_rows_and_prompts_beyond_the_positions_are_refused_at_the_start() -> None:
    table = random_table(8, seed=1, longest=20)
    longest = max(table.lengths)
    with pytest.raises(
        ModelError, match=rf"has {longest} tokens; .* positions for 16. Lower data.max_length"
    ):
        Engine(BaseModel(gpt2(16), FakeTokenizer(), "gpt2"), FakeData(table, table))
    engine = Engine(BaseModel(gpt2(24), FakeTokenizer(), "gpt2"), FakeData(table, table))
    engine.check(trial_config())
    many = trial_config(evaluation={"max_new_tokens": 40})
    with pytest.raises(ModelError, match=r"positions for 24. Lower evaluation.max_new_tokens"):
        engine.check(many)
    engine.check(trial_config(evaluation={"max_new_tokens": 40, "text_metrics": "never"}))


def test_test_rows_beyond_the_positions_are_refused_before_a_search_has_trained_for_them() -> None:
    short = random_table(8, seed=1, longest=10)
    test = FakeTable(tuple((tuple(range(1, 21)), begin) for begin in (2, 19)))
    base = BaseModel(gpt2(16), FakeTokenizer(), "gpt2")
    with pytest.raises(ModelError, match=r"has 20 tokens; .* positions for 16. Lower data.max_length"):
        Engine(base, FakeData(short, short, test=test))
    engine = Engine(BaseModel(gpt2(24), FakeTokenizer(), "gpt2"), FakeData(short, short, test=test))
    prompts = trial_config(evaluation={"max_new_tokens": 6})
    with pytest.raises(ModelError, match=r"has 25 tokens; .* Lower evaluation.max_new_tokens"):
        engine.check(prompts)
