"""What the tests of several packages share: a cache of their own, a micro base model and a small corpus."""

import os
from pathlib import Path

import pytest

from trainable.data import write_weather


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache, and W&B's settings, out of the tests."""
    os.environ["LORATUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["WANDB_MODE"] = "offline"
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
