"""An impatient callback of one experiment, for the tests against a W&B server."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.wandb_search import CONFIG, Make
from tests.support.wandb_server import WandbServer
from tests.tune.callbacks.test_wandb import group_of
from trainable.tracking import completion, server
from trainable.tracking import run as wandb_run
from tune.callbacks.wandb import WandbLoggerCallback


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every wait of the tracking."""
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT_S", 2)
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT_S", 2)
    monkeypatch.setattr(server, "ASK_TIMEOUT_S", 3)
    monkeypatch.setattr(completion, "RETRY_S", 2.0)
    monkeypatch.setattr(completion, "_PATIENCE_S", (0.1,))


@pytest.fixture
def said() -> list[str]:
    """What the callback reports."""
    return []


@pytest.fixture
def make(wandb_server: WandbServer, tmp_path: Path, said: list[str]) -> Make:
    """Return a maker of callbacks of one experiment."""

    def make(
        drain_timeout_s: float = 60.0, section: dict[str, Any] | None = None, **options: Any
    ) -> WandbLoggerCallback:
        config = CONFIG.model_copy(update=section or {})
        tags = ["tpe", "asha", "x" * 100]
        group = group_of(options.pop("directory", tmp_path), "search", **{"tags": tags} | options)
        held = tmp_path / ".wandb-held"
        return WandbLoggerCallback(config, group, held, say=said.append, drain_timeout_s=drain_timeout_s)

    return make
