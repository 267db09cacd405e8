"""What the tests of several packages share: a cache of their own, a micro base model and a small corpus."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from tests.support.wandb_server import API_KEY, WandbServer
from trainable.weather.corpus import write_weather


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the modules that start Ray first, so that two workers end at about the same time."""
    starts_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in starts_ray)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache, and W&B's settings, out of the tests."""
    os.environ["LORATUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_X_SAVE_REQUIREMENTS"] = "false"
    os.environ["WANDB_DATA_DIR"] = str(tmp_path_factory.mktemp("wandb"))


@pytest.fixture(scope="session")
def micro_base(_own_cache: None) -> Path:
    """A base model that plain transformers loads: the built-in recipe, a fraction of its size."""
    from trainable.model.builtin import Recipe, build

    recipe = Recipe(
        vocabulary=500, hidden_size=32, layers=2, intermediate_size=64, sentences=400, steps=20, batch_size=4
    )
    return build(recipe, lambda _: None)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small train.json, val.json and test.json."""
    folder = tmp_path_factory.mktemp("corpus")
    write_weather(folder, train=60, val=10, test=10, seed=0)
    return folder


@pytest.fixture
def wandb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server of this test's own, and a client that knows no other and is impatient."""
    wandb.teardown()
    with WandbServer() as server:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
            monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "client" / name.lower()))
        for client in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL"):
            monkeypatch.setenv(f"WANDB_X_{client}_RETRY_WAIT_MIN_SECONDS", "1")
            monkeypatch.setenv(f"WANDB_X_{client}_RETRY_WAIT_MAX_SECONDS", "1")
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
        # Listing this environment's packages, once a run, takes longer than most tests' runs.
        monkeypatch.setenv("WANDB_X_SAVE_REQUIREMENTS", "false")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
        yield server
        # A client that is left with a run waits for the server, so it must find one.
        server.heal()
        ending = threading.Thread(target=wandb.teardown, daemon=True)
        ending.start()
        ending.join(30)
        assert not ending.is_alive(), f"the client did not end; the last requests: {server.asked[-10:]}"
        assert server.errors == []
