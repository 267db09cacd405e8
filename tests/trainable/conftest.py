"""Fixtures of an engine over a random micro model and random rows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.engines import FakeData, FakeTokenizer, micro_model, random_table
from trainable.engine import Engine
from trainable.model import BaseModel


@pytest.fixture
def data() -> FakeData:
    return FakeData(random_table(13, seed=1), random_table(7, seed=2))


@pytest.fixture
def make_engine(data: FakeData) -> Callable[..., Engine]:
    """Return a maker of engines over the same weights and rows."""

    def make(**options: int) -> Engine:
        base = BaseModel(micro_model(), FakeTokenizer(), "micro")
        return Engine(base, options.pop("data", data), **options)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"
