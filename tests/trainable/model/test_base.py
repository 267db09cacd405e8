import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainable.config import ModelConfig
from trainable.errors import ModelError
from trainable.model import base, load_base, load_tokenizer, pick_device, resolve
from trainable.model.builtin import Recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Refuse every connection, and list what was tried; whether the hub answers is asked anew."""
    tried: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        assert timeout <= 5
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(base, "getproxies", dict)
    monkeypatch.setattr(base.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    base._hub_answers.cache_clear()
    return tried


@pytest.fixture
def folder(micro_folder: Path, tmp_path: Path) -> Path:
    """A copy of the micro model that a test may spoil."""
    return shutil.copytree(micro_folder, tmp_path / "model")


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_builtin_model_is_built_once_and_told_of(
    cache: Path, micro: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(base.BUILTIN, "builtin:tiny", micro)
    said: list[str] = []
    path = resolve(ModelConfig(), said.append)
    assert Path(path).is_relative_to(cache)
    assert any("tokenizer" in text for text in said)
    assert any("%" in text for text in said)
    said.clear()
    assert resolve(ModelConfig(), said.append) == path
    assert said == []


def test_an_unknown_builtin_name_names_the_known_one() -> None:
    with pytest.raises(
        ModelError, match=r"'builtin:tny' is no .*Did you mean 'builtin:tiny'.*Allowed: builtin:tiny,"
    ):
        resolve(ModelConfig(name="builtin:tny"))


def test_a_folder_is_found_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert [resolve(ModelConfig(name=name)) for name in ("model", "~/model", str(folder))] == [
        str(folder)
    ] * 3


def test_a_folder_asks_no_hub(folder: Path, no_hub: list[tuple[str, int]]) -> None:
    load_base(ModelConfig(name=str(folder)), CPU)
    assert no_hub == []


def test_the_hub_is_asked_once(no_hub: list[tuple[str, int]]) -> None:
    for name in ("no/such-model", "no/other-model"):
        with pytest.raises(
            ModelError, match=rf"'{name}' cannot be loaded: .*Allowed: builtin:tiny, the name"
        ):
            resolve(ModelConfig(name=name))
    assert no_hub == [("huggingface.co", 443)]


def test_the_hub_is_not_asked_where_the_user_says_offline(
    no_hub: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'no/such-model' cannot be loaded"):
        resolve(ModelConfig(name="no/such-model"))
    assert no_hub == []


def test_a_proxy_is_left_to_the_hubs_client(
    no_hub: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert base._hub_answers()
    assert no_hub == []


SPOILED: dict[str, tuple[str, str]] = {
    "no JSON": ("{nope", "not a valid JSON file"),
    "no model type": ("{}", "model_type"),
    "unknown type": ('{"model_type": "zork"}', "zork"),
    "of another kind": ('{"model_type": "t5"}', "is a T5, which is no causal language model"),
    "code of its own": ('{"model_type": "zork", "auto_map": {"AutoConfig": "x.Y"}}', "custom code"),
}


@pytest.mark.parametrize(("config", "told"), SPOILED.values(), ids=SPOILED.keys())
def test_a_config_that_cannot_be_used_is_told(folder: Path, config: str, told: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match=rf"model.name '{folder}' .*{told}"):
        resolve(ModelConfig(name=str(folder)))


def test_a_missing_folder_is_told() -> None:
    with pytest.raises(
        ModelError, match=r"'/nowhere/model' cannot be loaded: .* or a folder with config.json"
    ):
        resolve(ModelConfig(name="/nowhere/model"))


@pytest.mark.parametrize("content", [b"", b"\xff" * 4000], ids=["empty", "garbage"])
def test_damaged_weights_are_told(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=rf"'{folder}' cannot be loaded: \S+.*Allowed"):
        load_base(ModelConfig(name=str(folder)), CPU)


def test_weights_of_another_shape_are_told(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(hidden_size=32))
    with pytest.raises(ModelError, match=rf"'{folder}' cannot be loaded"):
        load_base(ModelConfig(name=str(folder)), CPU)


def test_a_base_is_frozen_and_as_plain_transformers_load_it(folder: Path) -> None:
    loaded = load_base(ModelConfig(name=str(folder)), CPU)
    plain = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    ids = torch.tensor([loaded.tokenizer("A cold wind from the north.")["input_ids"]])
    assert torch.equal(loaded.module(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.module.config.use_cache == plain.config.use_cache
    assert loaded.name_or_path == str(folder)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_dtypes_on_a_cpu(folder: Path, dtype: str, expected: torch.dtype) -> None:
    module = load_base(ModelConfig(name=str(folder), dtype=dtype), CPU).module
    assert {parameter.dtype for parameter in module.parameters()} == {expected}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_asked_for_is_used(folder: Path, attention: str) -> None:
    module = load_base(ModelConfig(name=str(folder), attn_implementation=attention), CPU).module
    assert module.config._attn_implementation == attention


def test_a_missing_padding_token_is_the_end_token(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.update(pad_token=None, padding_side="left"))
    tokenizer = load_tokenizer(ModelConfig(name=str(folder)))
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert tokenizer.padding_side == "right"


def test_an_own_padding_token_is_kept(folder: Path) -> None:
    assert load_tokenizer(ModelConfig(name=str(folder))).pad_token == "<pad>"


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.update(eos_token=None))
    with pytest.raises(ModelError, match=rf"'{folder}' has a tokenizer without an end token.*Set eos_token"):
        load_tokenizer(ModelConfig(name=str(folder)))


def test_four_bits_need_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes: pip install 'loratune\[quant\]'"):
        load_base(ModelConfig(name=str(folder), load_in_4bit=True), CPU)


def test_four_bits_need_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    with pytest.raises(ModelError, match="needs a GPU; the device is 'cpu'"):
        load_base(ModelConfig(name=str(folder), load_in_4bit=True), CPU)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_picked(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device(wanted) == torch.device(expected)


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"engine.device 'cuda'.*Set engine.device to auto or cpu"):
        pick_device("cuda")
