"""Leaves a process as it was: what Ray, Ray Tune, W&B and loratune set in it is undone afterwards."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextlib.contextmanager
def restored_process() -> Iterator[None]:
    """Restore environment variables and signal handlers when the `with` block ends.

    Signal handlers belong to the main thread; elsewhere nobody can have changed them.
    """
    variables = dict(os.environ)
    handlers = _handlers()
    try:
        yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        for name, value in variables.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


def _handlers() -> dict[signal.Signals, Any]:
    """Return the handlers that Python knows; one that native code installed cannot be put back."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler is not None}
