"""Places that the tests of storage run against: a local folder, and a bucket of a server of S3's protocol."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3_server import BUCKET, KEYS, S3Server
from trainable.places import Place


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in KEYS.items():
        if name not in os.environ:
            monkeypatch.setenv(name, value)
    with S3Server() as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A results folder of this test's own, which does not exist yet."""
    if request.param == "local":
        return tmp_path / "results"
    if server := os.environ.get("LORATUNE_TEST_S3"):
        return f"s3://{BUCKET}/{tmp_path.name}?endpoint_override={server}&scheme=http"
    return request.getfixturevalue("s3").uri("results")
