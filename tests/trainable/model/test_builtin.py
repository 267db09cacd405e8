import dataclasses
import fcntl
import functools
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from trainable.errors import ModelError
from trainable.model import builtin
from trainable.model.builtin import Recipe, build


def ignore(text: str) -> None:
    del text


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_files(*_: object) -> None:
        raise AssertionError("built a second time")

    monkeypatch.setattr(builtin, "_build_files", build_files)


def test_plain_transformers_load_the_folder(micro_folder: Path, micro: Recipe) -> None:
    model = AutoModelForCausalLM.from_pretrained(micro_folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(micro_folder, local_files_only=True)
    assert type(model) is LlamaForCausalLM
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), micro.hidden_size)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(model.config, name) == getattr(tokenizer, name)


def test_the_shipped_recipe_has_1_to_3_million_parameters() -> None:
    recipe = Recipe()
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=recipe.vocabulary,
                hidden_size=recipe.hidden_size,
                intermediate_size=recipe.intermediate_size,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.kv_heads,
                tie_word_embeddings=True,
            )
        )
    assert 1e6 <= model.num_parameters() <= 3e6


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_survives_the_tokenizer(micro_folder: Path, text: str) -> None:
    tokenizer = _tokenizer(micro_folder)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize(
    "text", ["−3 °C to 12 °C\nwind: NW 15–20 km/h", "1013.5 hPa", "Tromsø\t雪", "  two  "]
)
def test_signs_and_units_survive_the_tokenizer(micro_folder: Path, text: str) -> None:
    tokenizer = _tokenizer(micro_folder)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@given(number=st.integers(0, 10**8), unit=st.sampled_from(["", "%", "mm", "°C", " km/h"]))
def test_a_token_holds_at_most_two_digits_and_nothing_beside_them(
    micro_folder: Path, number: int, unit: str
) -> None:
    tokenizer = _tokenizer(micro_folder)
    pieces = [
        tokenizer.decode([token])
        for token in tokenizer(f"wind {number}{unit}", add_special_tokens=False)["input_ids"]
    ]
    numeric = [piece for piece in pieces if any(character.isdigit() for character in piece)]
    assert all(piece.strip().isdigit() and len(piece.strip()) <= 2 for piece in numeric)
    assert "".join(numeric).strip() == str(number)


def test_no_sentence_holds_a_special_token(micro_folder: Path) -> None:
    tokenizer = _tokenizer(micro_folder)
    ids = tokenizer("A cold wind. </s> is written out", add_special_tokens=False)["input_ids"]
    assert tokenizer.bos_token_id not in tokenizer("A cold wind.", add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1


def test_a_text_begins_with_bos_as_in_pretraining(micro_folder: Path) -> None:
    tokenizer = _tokenizer(micro_folder)
    bare = tokenizer("A cold wind.", add_special_tokens=False)["input_ids"]
    assert tokenizer("A cold wind.")["input_ids"] == [tokenizer.bos_token_id, *bare]


def test_training_lowers_the_loss(micro_folder: Path, micro: Recipe) -> None:
    said: list[str] = []
    recipe = dataclasses.replace(micro, steps=41, batch_size=8, learning_rate=1e-2)
    texts = recipe.write_prose()
    builtin._train_model(recipe, _tokenizer(micro_folder), texts, said.append)
    losses = [float(text.partition("loss ")[2].rstrip(")")) for text in said]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.5


def test_rows_are_the_texts_between_their_ends(micro_folder: Path, micro: Recipe) -> None:
    tokenizer = _tokenizer(micro_folder)
    texts = ["The wind fell.", "Snow came at dawn.", "It was 12 °C."] * 9
    rows = builtin._pack(micro, tokenizer, texts)
    text = tokenizer.decode(rows.flatten())
    assert rows.shape[1] == micro.sequence_length + 1
    assert "".join(f"<s>{line}</s>" for line in texts).startswith(text)


def test_the_same_recipe_makes_the_same_weights_and_leaves_the_generator_alone(
    cache: Path, micro_folder: Path, micro: Recipe
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = build(micro, ignore)
    assert torch.equal(torch.rand(3), expected)
    assert again.name == micro_folder.name
    assert again.is_relative_to(cache)
    first, second = (load_file(folder / "model.safetensors") for folder in (micro_folder, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 4}, {"vocabulary": 401}])
def test_the_key_follows_every_setting(micro: Recipe, change: dict[str, int]) -> None:
    assert dataclasses.replace(micro, **change).key != micro.key
    assert dataclasses.replace(micro).key == micro.key


# What version 1 of the recipe is. Whoever changes the recipe, the prose or the training raises
# `Recipe.version` and puts the new values here.
GOLDEN_VERSION = 1
GOLDEN_CONTENT = "812d840f3db8ac735520fd6314ad5de80c8106d74e5ccf3c7be8ee7a698c6572"
GOLDEN_LOSSES = [6.01, 5.01, 4.94]


def test_the_version_stands_for_the_recipe_the_prose_and_the_tokenizer(micro: Recipe) -> None:
    """A checkpoint names the built-in model by its version, so nothing of it may change under one version."""
    shipped = Recipe()
    sample = dataclasses.replace(shipped, sentences=200).write_prose()
    tokenizer = builtin._train_tokenizer(micro, sample)
    rows = builtin._pack(micro, tokenizer, sample)
    content = [dataclasses.asdict(shipped), sample, tokenizer.get_vocab(), rows.tolist()]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert (shipped.version, digest) == (GOLDEN_VERSION, GOLDEN_CONTENT)


def test_the_version_stands_for_the_training(micro_folder: Path, micro: Recipe) -> None:
    said: list[str] = []
    recipe = dataclasses.replace(micro, steps=41, batch_size=8, learning_rate=1e-2)
    builtin._train_model(recipe, _tokenizer(micro_folder), recipe.write_prose(), said.append)
    losses = [float(text.partition("loss ")[2].rstrip(")")) for text in said]
    assert Recipe().version == GOLDEN_VERSION
    assert losses == pytest.approx(GOLDEN_LOSSES, abs=0.02)


def test_the_prose_is_reached_by_name_alone(micro: Recipe) -> None:
    recipe = dataclasses.replace(micro, prose="tests.trainable.model.test_builtin:two_lines")
    assert recipe.write_prose() == ["80 sentences", "seed 0"]


def two_lines(sentences: int, seed: int) -> list[str]:
    return [f"{sentences} sentences", f"seed {seed}"]


def test_a_whole_folder_is_used_again(cache: Path, micro: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(micro, ignore)
    forbid_building(monkeypatch)
    assert build(micro, ignore) == folder
    assert [path.suffix for path in sorted(folder.parent.iterdir())] == ["", ".lock"]


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte flipped": flip_a_byte,
    "cut short": lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
    "a file gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text("{}"),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "a torn manifest": lambda folder: (folder / "manifest.json").write_text('{"config.json": "'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_built_again(
    cache: Path, micro: Recipe, damage: Callable[[Path], object]
) -> None:
    folder = build(micro, ignore)
    weights = (folder / "model.safetensors").read_bytes()
    damage(folder)
    assert build(micro, ignore) == folder
    assert (folder / "model.safetensors").read_bytes() == weights
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() >= {
        "model.safetensors",
        "tokenizer.json",
    }


def test_what_a_killed_builder_left_is_cleared(cache: Path, micro: Recipe) -> None:
    left = cache / "models" / f"builtin-tiny-{micro.key}.tmp"
    left.mkdir(parents=True)
    (left / "stray").write_text("half")
    folder = build(micro, ignore)
    assert not left.exists()
    assert not (folder / "stray").exists()


def test_who_comes_second_waits_and_builds_nothing(
    cache: Path, micro: Recipe, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_building(monkeypatch)
    folder = cache / "models" / micro_folder.name
    folder.parent.mkdir(parents=True)
    waits = threading.Event()
    found: list[Path] = []
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: found.append(build(micro, lambda text: waits.set())))
        second.start()
        assert waits.wait(timeout=10)
        assert not found
        folder.symlink_to(micro_folder)
    second.join(timeout=10)
    assert found == [folder]


def test_of_several_who_race_one_builds(cache: Path, micro: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads stand for processes: a lock belongs to the opened file, so it keeps threads apart as well.
    build_files, start = builtin._build_files, threading.Barrier(3)
    built: list[Path] = []

    def counted(recipe: Recipe, folder: Path, report: Callable[[str], None]) -> None:
        built.append(folder)
        build_files(recipe, folder, report)

    def race() -> None:
        start.wait(timeout=10)
        build(micro, ignore)

    monkeypatch.setattr(builtin, "_build_files", counted)
    racers = [threading.Thread(target=race) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=30)
    assert len(built) == 1


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, micro: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORATUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be built in '.*file/models'.*set LORATUNE_CACHE"):
        build(micro, ignore)


@functools.cache
def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
