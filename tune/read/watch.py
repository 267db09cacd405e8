"""A view that refreshes itself until the search has ended."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from tune.read.live import render
from tune.read.status import search_view
from tune.store.experiment import ExperimentStore
from tune.store.reader import read


def watch(
    store: ExperimentStore,
    console: Console,
    every_s: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Show an experiment until its search has ended, or a person stops looking.

    Args:
        store: the experiment.
        console: a terminal.
        every_s: seconds between two looks.
        sleep: waits.
        clock: unix time in seconds.
    """
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(render(search_view(read(store), clock()), console.height), refresh=True)
            if not store.is_locked():
                return
            try:
                sleep(every_s)
            except KeyboardInterrupt:
                return
