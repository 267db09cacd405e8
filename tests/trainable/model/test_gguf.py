"""A GGUF file is a base model like any other."""

import importlib.machinery
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.engines import FakeData, random_table, trial_config
from tests.support.gguf_files import write_gguf
from trainable.config import DataConfig, ModelConfig
from trainable.engine import Engine
from trainable.errors import ConfigError, ModelError
from trainable.files import sha256_of
from trainable.model import gguf, load_base, load_tokenizer, resolve
from trainable.node import describe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(micro_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_it_computes_what_the_original_folder_computes(micro_folder: Path, file: Path) -> None:
    ids = torch.arange(3, 40)[None]
    logits = [
        load_base(ModelConfig(name=str(name)), CPU).module(input_ids=ids).logits
        for name in (micro_folder, file)
    ]
    assert torch.allclose(*logits, atol=1e-5)
    assert logits[0].std() > 0.01


def test_its_tokenizer_is_the_files(micro_folder: Path, file: Path) -> None:
    tokenizer = load_base(ModelConfig(name=str(file)), CPU).tokenizer
    text = "A cold wind blew. Élan"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.get_vocab() == load_tokenizer(ModelConfig(name=str(micro_folder))).get_vocab()
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")


def test_a_trial_trained_in_a_pack_is_the_trial_trained_alone(file: Path) -> None:
    base = load_base(ModelConfig(name=str(file)), CPU)
    data = FakeData(random_table(12, 1), random_table(4, 2))
    configs = {
        "one": trial_config(training={"max_steps": 3}),
        "other": trial_config(lora={"r": 9}, training={"max_steps": 3, "learning_rate": 3e-3, "seed": 1}),
    }

    engine = Engine(base, data)
    engine.check(configs["one"])
    start = engine.evaluate([engine.join("untrained", configs["one"]).name])["untrained"]["eval/loss"]
    engine.leave("untrained")

    def train(*names: str) -> dict[str, dict[str, torch.Tensor]]:
        for name in names:
            engine.join(name, configs[name])
        for _ in range(3):
            engine.step(names)
        assert all(engine.evaluate(names)[name]["eval/loss"] != start for name in names)
        adapters = {name: engine.snapshot(name, {}).adapter for name in names}
        for name in names:
            engine.leave(name)
        return adapters

    packed = train("one", "other")
    for name, adapter in packed.items():
        (alone,) = train(name).values()
        assert len(adapter) == 14
        assert all(torch.allclose(adapter[key], alone[key], atol=1e-5) for key in adapter)


def test_it_is_known_by_the_files_content(file: Path, tmp_path: Path) -> None:
    copy = shutil.copy(file, tmp_path / "other.gguf")
    identities = {load_base(ModelConfig(name=str(path)), CPU).identity for path in (file, copy)}
    assert identities == {f"gguf:{sha256_of(file)}"}


def test_a_folder_with_one_file_means_that_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    for name in (".", "tiny.gguf", str(file.parent)):
        assert resolve(ModelConfig(name=name)) == ModelConfig(name=name).absolute().name == str(file)


def test_a_folder_with_several_files_is_refused(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(file, tmp_path / name)
    with pytest.raises(ConfigError, match=r"several GGUF files: a\.gguf, b\.gguf\. Name one"):
        resolve(ModelConfig(name=str(tmp_path)))


def test_nothing_is_printed_while_it_loads(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_base(ModelConfig(name=str(file)), CPU)
    assert capfd.readouterr() == ("", "")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda content: b"{}",
    "empty": lambda content: b"",
    "cut in its header": lambda content: content[:2000],
    "cut in its tensors": lambda content: content[:-3000],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_ends_in_one_line(
    file: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    spoiled = tmp_path / "spoiled.gguf"
    spoiled.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=rf"model\.name '{spoiled}' (is not a GGUF|cannot be loaded).*: .+"):
        load_base(ModelConfig(name=str(spoiled)), CPU)


def test_a_missing_file_is_an_error_that_asks_no_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.gguf' cannot be read: No such file"):
        resolve(ModelConfig(name=str(tmp_path / "no.gguf")))


def test_four_bits_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match=r"load_in_4bit does not apply to a GGUF file"):
        load_base(ModelConfig(name=str(file), load_in_4bit=True), CPU)


def test_without_the_package_the_error_names_the_command(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> importlib.machinery.ModuleSpec | None:
        return None

    monkeypatch.setattr(gguf, "find_spec", find)
    with pytest.raises(ModelError, match=r"pip install 'loratune\[gguf\]'"):
        load_base(ModelConfig(name=str(file)), CPU)


def test_a_node_counts_its_weights_and_says_what_is_missing(file: Path, tmp_path: Path) -> None:
    def ask(name: Path) -> tuple[str, int | None]:
        node = describe(
            DataConfig(), ModelConfig(name=str(name)), tmp_path, tmp_path / "probe", ask_torch=False
        )
        return node.model, node.parameters

    weights = load_base(ModelConfig(name=str(file)), CPU).module.num_parameters()
    assert ask(file) == ask(file.parent) == ("", weights)
    assert ask(tmp_path / "no.gguf") == (f"there is no {tmp_path / 'no.gguf'}", None)
    assert ask(tmp_path) == (f"there is no {tmp_path / 'config.json'}", None)
