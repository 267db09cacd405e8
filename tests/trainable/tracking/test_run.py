"""How a run begins and ends: the mode without asking anybody, and a server that is not there."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from tests.support.offline_runs import only_run
from trainable.config import WandbConfig
from trainable.tracking.local import sync_command
from trainable.tracking.run import clean_tags, finish_run, resolve_mode, start_run


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A user without credentials; W&B reads the environment once, so it begins anew."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.delenv("WANDB_MODE")
    # A port that nobody listens at: whoever asks this server fails.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    yield monkeypatch
    monkeypatch.undo()
    wandb.teardown()


def test_the_mode_is_as_configured_else_as_the_key_says(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    assert resolve_mode(WandbConfig()) == "offline"
    assert resolve_mode(WandbConfig(mode="disabled")) == "disabled"
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {'a' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert resolve_mode(WandbConfig()) == "online"
    (tmp_path / "netrc").unlink()
    environment.setenv("WANDB_API_KEY", "b" * 40)
    wandb.teardown()
    assert resolve_mode(WandbConfig()) == "online"
    assert resolve_mode(WandbConfig(mode="offline")) == "offline"


@pytest.mark.parametrize("whose", ["nobody's", "the caller's", "the agent's"])
def test_an_unreachable_server_is_said_and_the_run_goes_on_offline(
    tmp_path: Path, environment: pytest.MonkeyPatch, whose: str
) -> None:
    options = {"id": "mine"} if whose == "the caller's" else {}
    if whose == "the agent's":
        environment.setenv("WANDB_RUN_ID", "mine")
    environment.setenv("WANDB_API_KEY", "b" * 40)
    environment.setattr("trainable.tracking.server.ASK_TIMEOUT_S", 1)
    wandb.teardown()
    said: list[str] = []
    run = start_run(WandbConfig(mode="online"), tmp_path, said.append, name="n", **options)
    assert run.offline
    assert (run.id == "mine") is (whose != "nobody's")
    run.log({"a": 1})
    assert finish_run(run)
    assert len(said) == 1
    assert said[0].startswith("W&B cannot be reached (")
    assert said[0].endswith(f"Send it later: wandb sync {tmp_path}/wandb/offline-run-*")
    assert [row["a"] for row in only_run(tmp_path).rows] == [1]


def test_ending_a_run_is_bounded(tmp_path: Path) -> None:
    run = start_run(WandbConfig(mode="offline"), tmp_path, pytest.fail)
    assert 0 < run.settings.finish_timeout <= 60
    assert run.settings.finish_timeout_raises

    def wait_for_ever(**_: int) -> None:
        raise TimeoutError("finish timed out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "finish", wait_for_ever)
        assert not finish_run(run)
    began = time.monotonic()
    assert finish_run(run)
    assert time.monotonic() - began < 30


def test_the_proxy_of_the_environment_is_used(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WANDB_HTTP_PROXY", "http://proxy:8080")
    wandb.teardown()
    run = start_run(WandbConfig(mode="offline"), tmp_path, pytest.fail)
    assert run.settings.http_proxy == "http://proxy:8080"
    finish_run(run)


def test_runs_live_side_by_side(tmp_path: Path) -> None:
    one, two = (start_run(WandbConfig(mode="offline"), tmp_path, pytest.fail, id=name) for name in "ab")
    one.log({"x": 1})
    two.log({"x": 2})
    assert (one.summary["x"], two.summary["x"]) == (1, 2)
    assert wandb.run is None
    assert all(finish_run(run) for run in (one, two))


def test_tags_are_such_as_wandb_takes_them() -> None:
    assert clean_tags(["a", "", " ", "a", 7, "x" * 70]) == ["a", "7", "x" * 64]


def test_the_command_to_send_runs_can_be_typed() -> None:
    assert sync_command(Path("my results")) == "wandb sync 'my results/wandb'/offline-run-*"
    assert sync_command(Path("r"), begun_online=True) == "wandb sync --include-online r/wandb/*run-*"
