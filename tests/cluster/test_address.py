"""Every way to name a cluster works, or ends soon in one line."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import address as address_module
from cluster.address import Target, find, try_out
from trainable.errors import ClusterError


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(address_module, "_started_here", lambda: None)


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A port that accepts connections and never says a word, as a wrong service may."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_auto_is_a_ray_of_its_own_where_there_is_no_other() -> None:
    assert find("auto").is_own
    assert find("local").is_own


def test_auto_is_the_cluster_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    assert find("auto") == Target("10.1.2.3:6379", "RAY_ADDRESS")
    assert find("local").is_own
    assert find("head:6379") == Target("head:6379", "cluster.address")


def test_auto_is_the_machines_own_cluster_only_while_it_answers(
    monkeypatch: pytest.MonkeyPatch, silent_port: str
) -> None:
    monkeypatch.setattr(address_module, "_started_here", lambda: silent_port)
    assert find("auto").address == silent_port
    monkeypatch.setattr(address_module, "_started_here", closed_port)
    assert find("auto").is_own


def test_only_ones_own_note_of_a_cluster_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent_port: str
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    note = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(address_module, "get_ray_address_file", lambda folder: str(note))
    assert find("auto").is_own
    note.write_text(silent_port)
    assert find("auto").address == silent_port
    monkeypatch.setattr(address_module.os, "getuid", lambda: note.stat().st_uid + 1)
    assert find("auto").is_own


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head:8265", r"dashboard.*loratune submit --address http://head:8265"),
        ("ray://head:10001", r"Ray Client.*loratune submit"),
        ("head", r"not an address. Give auto, local or HOST:PORT"),
        ("", "not an address"),
    ],
)
def test_other_addresses_are_refused_with_what_to_do(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match=message):
        find(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    if address:
        with pytest.raises(ClusterError, match="RAY_ADDRESS"):
            find("auto")
    else:
        assert find("auto").is_own


def test_a_closed_port_is_an_error_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS '127.*Connection refused.*ray start --head"):
        try_out(Target(closed_port(), "RAY_ADDRESS"))
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_port_that_is_no_head_is_an_error_within_half_a_minute(silent_port: str) -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"something listens there|no Ray cluster answers"):
        try_out(Target(silent_port, "cluster.address"))
    assert time.monotonic() - began < 30
