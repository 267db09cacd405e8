"""A recipe that takes under a second, cooked once, and a cache of each test's own."""

from pathlib import Path

import pytest

from trainable.model.builtin import Recipe, build

MICRO = Recipe(
    vocabulary=400,
    hidden_size=16,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate_size=24,
    positions=128,
    sentences=80,
    steps=3,
    batch_size=2,
    sequence_length=16,
)


@pytest.fixture
def micro() -> Recipe:
    return MICRO


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORATUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro model as plain transformers loads it; tests copy it before they alter it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORATUNE_CACHE", str(tmp_path_factory.mktemp("models")))
        return build(MICRO, lambda text: None)
