"""What becomes an artifact, under which aliases, and what must never be in one."""

import json
import subprocess
from pathlib import Path

import pytest

from trainable.config import DataConfig, WandbConfig
from trainable.tracking.artifacts import (
    MAX_NAME_LENGTH,
    artifact_name,
    checkpoint_aliases,
    code_files,
    data_manifest,
)

CODE = ["README.md", "config/base.yaml", "pkg/data/rows.py", "run.py"]
NEVER = [
    ".env",
    ".env.local.py",
    "prod.env",
    "api_key.py",
    "Secrets/notes.md",
    "server.pem",
    "netrc.md",
    "my_credentials.yaml",
    "rows.jsonl",
    "adapter_model.safetensors",
    "weights.bin",
]


def write(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1")


def names_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in code_files(root))


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def test_a_folder_without_git_gives_its_texts_alone(tmp_path: Path) -> None:
    write(tmp_path, [*CODE, *NEVER])
    write(tmp_path, ["venv/lib/a.py", "node_modules/b.py", ".hidden/c.py", "results/x/config.yaml"])
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "big.py").write_text("#" * (2**20 + 1))
    (tmp_path / "link.py").symlink_to(tmp_path / "api_key.py")
    assert names_in(tmp_path) == CODE


def test_of_a_repository_it_is_what_git_tracks(tmp_path: Path) -> None:
    write(tmp_path, [*CODE, *NEVER])
    git(tmp_path, "init")
    git(tmp_path, "add", "--all")
    write(tmp_path, ["scratch.py"])
    assert names_in(tmp_path) == CODE
    assert names_in(tmp_path / "pkg") == ["data/rows.py"]
    (tmp_path / "run.py").unlink()
    assert names_in(tmp_path) == [name for name in CODE if name != "run.py"]


def test_a_file_with_a_password_in_a_url_stays_here(tmp_path: Path) -> None:
    """What `verify` would call a secret on the disk is not copied there."""
    write(tmp_path, CODE)
    (tmp_path / "run.py").write_text('connect("postgresql://ada:' + 'rain@host/studies")')
    assert names_in(tmp_path) == CODE[:-1]


def test_a_file_that_repeats_a_secret_of_the_environment_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    write(tmp_path, CODE)
    (tmp_path / "run.py").write_text('login("hf_abcdefghijkl")')
    assert names_in(tmp_path) == CODE[:-1]


def test_a_folder_of_everything_is_not_searched_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainable.tracking.artifacts.MAX_ENTRIES_SEEN", 20)
    monkeypatch.setattr("trainable.tracking.artifacts.MAX_CODE_FILES", 5)
    write(tmp_path, [f"many/{folder}/{n}.py" for folder in range(9) for n in range(9)])
    assert len(names_in(tmp_path)) == 5


def test_the_datas_manifest_has_checksums_and_no_rows(corpus: Path, tmp_path: Path) -> None:
    data = DataConfig(train=corpus / "train.json", val=corpus / "val.json", test=None)
    manifest = data_manifest(data, "abc")
    assert sorted(manifest) == ["data_hash", "max_length", "prompt_template", "train", "val"]
    digest = subprocess.run(["sha256sum", data.train], capture_output=True, text=True, check=True).stdout
    assert manifest["train"] == {
        "file": "train.json",
        "bytes": data.train.stat().st_size,
        "sha256": digest.split()[0],
    }
    assert json.loads(data.train.read_text())[0]["target"] not in json.dumps(manifest)
    copy = tmp_path / "train.json"
    copy.write_bytes(data.train.read_bytes())
    assert data_manifest(data.model_copy(update={"train": copy}), "abc") == manifest


@pytest.mark.parametrize(
    ("log_model", "told"),
    [
        ("checkpoint", {"": "latest", "b": "latest best", "l": "latest final", "bl": "latest best final"}),
        ("best", {"": "", "b": "latest best", "l": "", "bl": "latest best final"}),
        ("end", {"": "", "b": "", "l": "latest final", "bl": "latest best final"}),
        (False, {"": "", "b": "", "l": "", "bl": ""}),
    ],
)
def test_which_checkpoints_are_logged_under_which_aliases(
    log_model: str | bool, told: dict[str, str]
) -> None:
    for case, aliases in told.items():
        asked = {"is_best": "b" in case, "is_last": "l" in case}
        assert checkpoint_aliases(WandbConfig(log_model=log_model), **asked) == aliases.split()
        assert checkpoint_aliases(WandbConfig(log_model=log_model, log_artifacts=False), **asked) == []


def test_names_are_made_such_as_wandb_takes_them() -> None:
    assert artifact_name("my run/7 ü-adapter") == "my-run-7---adapter"
    assert len(artifact_name("x" * 300)) == MAX_NAME_LENGTH
