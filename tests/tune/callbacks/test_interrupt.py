"""Every announced end of a search saves its trials once and says why it ended."""

import os
import signal
import threading
from typing import Any

import pytest

from tune.callbacks.interrupt import InterruptHandler, SearchInterrupted


class FakeHosts:
    """Counts how often it is asked to save, as an actor's handle would be."""

    def __init__(self) -> None:
        self.saved = 0
        self.save_all = self

    def remote(self) -> str:
        self.saved += 1
        return "saving"


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> FakeHosts:
    def get(reference: str, timeout: float) -> None:
        assert reference == "saving"
        assert timeout > 0

    monkeypatch.setattr("tune.callbacks.interrupt.ray.get", get)
    return FakeHosts()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_ends_and_a_second_one_ends_the_process(
    hosts: Any, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with InterruptHandler(hosts, None) as handler:
        handler.on_step_end(1, [])
        assert hosts.saved == 0
        os.kill(os.getpid(), number)
        with pytest.raises(SearchInterrupted, match=number.name):
            handler.on_step_end(2, [])
        assert hosts.saved == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert handler.interruption is not None
    assert handler.interruption.by_user
    assert signal.getsignal(number) is before


def test_the_time_limit_takes_the_same_path(hosts: Any) -> None:
    now = [0.0]
    with InterruptHandler(hosts, 10.0, clock=lambda: now[0]) as handler:
        now[0] = 9.9
        handler.on_step_end(1, [])
        now[0] = 10.0
        with pytest.raises(SearchInterrupted, match=r"search.timeout_s \(10 s\) is up"):
            handler.on_step_end(2, [])
    assert hosts.saved == 1
    assert handler.interruption is not None
    assert not handler.interruption.by_user


def test_in_another_thread_no_handler_is_installed(hosts: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    environment = dict(os.environ)
    during: list[Any] = []

    def enter() -> None:
        with InterruptHandler(hosts, None):
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert during == [before]
    assert dict(os.environ) == environment
