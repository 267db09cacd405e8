"""A base model is known by what it is, not by where it lies."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.engines import FakeData, FakeTokenizer, micro_model, trial_config
from trainable.config import ModelConfig
from trainable.engine import Engine
from trainable.errors import CheckpointError, ModelError
from trainable.model import BaseModel, base, load_base
from trainable.model.builtin import Recipe
from trainable.model.identity import fingerprint

CPU = torch.device("cpu")


def identity(folder: Path, **options: str) -> str:
    return load_base(ModelConfig(name=str(folder), **options), CPU).identity


def test_a_copy_elsewhere_is_the_same_model_in_any_precision(micro_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(micro_folder, tmp_path / "another name")
    found = identity(micro_folder)
    assert identity(copy) == found
    assert identity(copy, dtype="bfloat16") == found
    assert identity(copy, attn_implementation="eager") == found


@pytest.mark.parametrize("change", ["weights", "configuration"])
def test_other_content_under_the_same_path_is_another_model(
    micro_folder: Path, tmp_path: Path, change: str
) -> None:
    folder = shutil.copytree(micro_folder, tmp_path / "model")
    before = identity(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if change == "weights":
        model.model.layers[0].mlp.up_proj.weight.data.mul_(1.1)
    else:
        model.config.rms_norm_eps = 1e-3
    model.save_pretrained(folder)
    assert identity(folder) != before


def test_quantized_weights_have_an_identity_too() -> None:
    def quantized(value: int) -> torch.nn.Module:
        model = micro_model()
        packed = torch.full((32, 16), value, dtype=torch.uint8)
        model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
        return model

    assert fingerprint(quantized(3)) == fingerprint(quantized(3)) != fingerprint(quantized(4))


def test_the_builtin_model_is_known_by_its_version(
    monkeypatch: pytest.MonkeyPatch, micro: Recipe, cache: Path
) -> None:
    del cache
    for version in (1, 2):
        monkeypatch.setitem(base.BUILTIN, "builtin:tiny", replace(micro, version=version))
        loaded = load_base(ModelConfig(name="builtin:tiny"), CPU)
        assert loaded.identity == f"builtin:tiny@{version}"


def test_a_checkpoint_of_another_base_model_is_refused(
    make_engine: Callable[..., Engine], data: FakeData
) -> None:
    engine = make_engine()
    engine.join("t", trial_config())
    checkpoint = engine.snapshot("t", {})
    model = micro_model()
    model.lm_head.weight.data.mul_(2)
    other = Engine(BaseModel(model, FakeTokenizer(), "elsewhere"), data)
    with pytest.raises(
        CheckpointError, match=r"the base model 'micro' \(\w+\), not over 'elsewhere' \(\w+\)"
    ):
        other.join("t", trial_config(), checkpoint)
    moved = Engine(BaseModel(micro_model(), FakeTokenizer(), "elsewhere"), data)
    assert moved.join("t", trial_config(), checkpoint).step == 0


def test_an_older_checkpoint_is_accepted_by_its_models_name(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    config = trial_config(model={"name": "/first/folder/of/llama"})
    engine.join("t", config)
    older = replace(engine.snapshot("t", {}), base_id=None)
    engine.leave("t")
    engine.join("t", trial_config(model={"name": "/moved/to/llama"}), older)
    engine.leave("t")
    with pytest.raises(CheckpointError, match="its checkpoint was trained over the base model"):
        engine.join("t", trial_config(model={"name": "/moved/to/gpt2"}), older)


def test_a_tokenizer_larger_than_the_embedding_is_refused(micro_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(micro_folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<one>", "<two>"]})
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"has 2 tokens \('<one>', '<two>'\) beyond the model's \d+ embeddings"
    ):
        load_base(ModelConfig(name=str(folder)), CPU)


def test_a_padding_token_without_an_embedding_is_replaced(micro_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(micro_folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(folder)
    loaded = load_base(ModelConfig(name=str(folder)), CPU)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token


def test_attention_is_transformers_own_choice_by_default(micro_folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(micro_folder).config._attn_implementation
    assert load_base(ModelConfig(name=str(micro_folder)), CPU).module.config._attn_implementation == plain
