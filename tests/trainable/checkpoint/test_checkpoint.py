"""A checkpoint is whole or not there, and says which file is wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.engines import trial_config
from trainable.checkpoint.manifest import read_state
from trainable.checkpoint.tensors import Checkpoint, load_checkpoint, save_checkpoint
from trainable.engine import Engine
from trainable.errors import CheckpointError
from trainable.files import write_manifest


@pytest.fixture
def checkpoint(make_engine: Callable[..., Engine]) -> Checkpoint:
    engine = make_engine()
    engine.join("t", trial_config())
    engine.step(["t"])
    engine.step(["t"])
    return engine.snapshot("t", {"step": 2, "eval/loss": 1.5})


def test_what_is_saved_is_loaded(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder, checkpoint)
    loaded = load_checkpoint(folder)
    for name in ("config", "step", "record", "base_name", "data_hash", "targets"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    for name in ("adapter", "exp_avg", "exp_avg_sq"):
        saved, found = getattr(checkpoint, name), getattr(loaded, name)
        assert saved.keys() == found.keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in saved.items())
    assert any(tensor.any() for tensor in loaded.exp_avg_sq.values())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_saving_again_replaces_the_folder_whole(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder, checkpoint)
    (folder / "left-over").touch()
    save_checkpoint(folder, replace(checkpoint, step=3))
    assert load_checkpoint(folder).step == 3
    assert not (folder / "left-over").exists()


@pytest.mark.parametrize(
    "name",
    [
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "optimizer.safetensors",
        "state.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_told_by_file(checkpoint: Checkpoint, folder: Path, name: str, damage: str) -> None:
    save_checkpoint(folder, checkpoint)
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(CheckpointError, match=f"'{name}' is (corrupt|missing)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [None, "", "{", '{"files": 3}', "[]"])
def test_without_a_manifest_it_is_no_checkpoint(
    checkpoint: Checkpoint, folder: Path, content: str | None
) -> None:
    save_checkpoint(folder, checkpoint)
    manifest = folder / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(CheckpointError, match=r"no readable manifest\.json"):
        read_state(folder)


def test_a_full_disk_leaves_the_earlier_checkpoint(
    checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(folder, checkpoint)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainable.checkpoint.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, replace(checkpoint, step=9))
    assert load_checkpoint(folder).step == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_newer_format_is_refused(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder, checkpoint)
    state = json.loads((folder / "state.json").read_text())
    state["format"] = 99
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(CheckpointError, match="has format 99; this version reads 1"):
        load_checkpoint(folder)
