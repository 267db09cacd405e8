"""Pushing an adapter: what the repository then holds, and what is left where it cannot be pushed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.commands import run_here
from tests.support.hub_server import TOKEN, HubServer
from tests.support.trained_experiment import trained_experiment


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, micro_base: Path, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    trained_experiment(folder / "mine", micro_base, corpus)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        # A server without the hub's own storage protocol takes tensors through git LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(results: Path, to: str) -> int:
    return run_here("export", "mine", "--results_dir", str(results), "--to", to, "--no-check")


def test_the_repository_holds_the_folder(
    results: Path, here: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, "hub:ada/rain") == 0
    out = capsys.readouterr().out
    assert "wrote mine-adapter" in out
    assert f"pushed to {hub.url}/ada/rain" in out
    repo = hub.repos["ada/rain"]
    assert repo.private
    assert len(repo.commits) == 1
    written = {path.name: path.read_bytes() for path in (here / "mine-adapter").iterdir()}
    assert repo.files == written
    assert len(hub.objects) == 1
    card = repo.files["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "ada/rain")' in card
    assert "\nbase_model:" not in card


def test_a_repository_that_exists_gets_another_commit(results: Path, here: Path, hub: HubServer) -> None:
    assert export(results, "hub:ada/rain") == 0
    (here / "mine-adapter").rename(here / "first")
    assert export(results, "hub:ada/rain") == 0
    assert len(hub.repos["ada/rain"].commits) == 2


@pytest.mark.parametrize("step", ["/api/repos/create", "/preupload/", "/commit/", "/objects/batch"])
def test_what_cannot_be_pushed_is_kept(
    results: Path, here: Path, hub: HubServer, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refusing = (step,)
    assert export(results, "hub:ada/rain") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 or "\r" in error
    assert "You don't have the rights" in error
    assert "hf upload ada/rain mine-adapter . --private" in error
    assert (here / "mine-adapter" / "adapter_model.safetensors").exists()


def test_a_token_that_is_not_accepted(
    results: Path,
    here: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert export(results, "hub:ada/rain") == 2
    assert "Invalid username or password" in capsys.readouterr().err
    assert (here / "mine-adapter").is_dir()


def test_a_server_that_cannot_be_reached(
    results: Path,
    here: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert export(results, "hub:ada/rain") == 2
    assert "could not be pushed to hub:ada/rain: " in capsys.readouterr().err
    assert (here / "mine-adapter").is_dir()


@pytest.mark.parametrize("to", ["hub:", "hub:rain", "hub:a/b/c", "hub:ada/ra in"])
def test_a_name_that_is_none(
    results: Path, here: Path, hub: HubServer, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, to) == 2
    assert "Write hub:OWNER/NAME" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_nothing_is_done_before_a_login(
    results: Path,
    here: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(here / "none"))
    assert export(results, "hub:ada/rain") == 2
    assert "hf auth login" in capsys.readouterr().err
    assert list(here.iterdir()) == []
