"""A model's description counts what transformers and PEFT count."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.support.engines import FakeData, random_table
from trainable.config import LoraConfig, ModelConfig
from trainable.engine import Engine
from trainable.errors import ConfigError
from trainable.lora.description import ModelDescription
from trainable.model import load_base


def describe(folder: Path) -> ModelDescription:
    """Describe a model as an engine does that has it loaded."""
    data = FakeData(random_table(3, seed=1), random_table(3, seed=2))
    base = load_base(ModelConfig(name=str(folder)), torch.device("cpu"))
    return Engine(base, data).describe(str(folder))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_the_counts_are_pefts(micro_base: Path, targets: str | list[str]) -> None:
    told = describe(micro_base).with_adapter(LoraConfig(r=4, target_modules=targets))
    base = AutoModelForCausalLM.from_pretrained(micro_base)
    assert told["parameters"] == base.num_parameters()
    model = get_peft_model(base, PeftLoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    trainable, _ = model.get_nb_trainable_parameters()
    assert told["trainable_parameters"] == trainable
    assert told["adapted_layers"] == sum(hasattr(module, "lora_A") for module in model.modules())
    assert f"{trainable:,} trainable parameters" in told["text"]
    assert "q_proj" in told["adapted_kinds"]


def test_transposed_layers_are_counted_the_right_way_round(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    layers = describe(tmp_path).layers
    assert layers["transformer.h.0.attn.c_attn"] == (16, 48)


def test_a_target_that_is_not_there_is_told(micro_base: Path) -> None:
    described = describe(micro_base)
    with pytest.raises(ConfigError, match="'q_prj' is no linear layer"):
        described.with_adapter(LoraConfig(target_modules=["q_prj"]))
