"""What the reading commands show, exactly, and at every width without a broken line or an escape code."""

import io
import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.support.commands import run_here
from tests.support.many_trials import many_trials
from tests.support.snapshots import assert_shown, snapshot
from tune.read import terminal
from tune.read.live import render
from tune.read.status import search_view
from tune.store.reader import read

NOW = 1_000_180.0
VIEWS = {
    "trials": ("trials", "finished"),
    "trials-filtered": ("trials", "finished", "--where", "lora.r >= 16", "--sort", "-lr", "--limit", "3"),
    "trials-two-objectives": ("trials", "two-objectives"),
    "show": ("show", "finished", "3"),
    "show-diverged": ("show", "finished", "8"),
    "compare": ("compare", "finished", "0", "1", "4"),
    "compare-experiments": ("compare", "finished", "two-objectives"),
    "status": ("status", "finished"),
    "status-interrupted": ("status", "interrupted"),
    "status-empty": ("status", "empty"),
    "ls": ("ls",),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    results = folder / "results"
    many_trials(results / "finished", 12)
    many_trials(results / "interrupted", 9, running=3)
    many_trials(results / "empty", 0, num_trials=4)
    many_trials(results / "two-objectives", 6, other_objectives={"train/tokens_per_second": "max"})
    return folder


@pytest.fixture
def fixed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder, moment and time zone each time."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("view", VIEWS)
def test_what_a_command_shows(
    view: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run_here(*VIEWS[view]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert_shown(f"{view}-{width}", shown.out)


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize("width", [60, 200])
@pytest.mark.parametrize("view", VIEWS)
def test_no_line_is_broken_or_colored_at_other_widths(
    view: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    run_here(*VIEWS[view])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert max(cell_len(line.rstrip()) for line in shown.splitlines()) <= width
    assert len(shown.splitlines()) == len(snapshot(f"{view}-140").splitlines())


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize("width", [80, 140])
def test_what_watching_a_running_search_shows(tmp_path: Path, width: int) -> None:
    store = many_trials(tmp_path / "results" / "running", 9, running=3)
    with store.locked():
        view = search_view(read(store), NOW)
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(render(view, height=24))
    assert isinstance(console.file, io.StringIO)
    assert_shown(f"status-running-{width}", console.file.getvalue())


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize("wanted", [True, False])
def test_colors_are_for_terminals_that_want_them(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    if not wanted:
        monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        run_here("trials", "finished", "--limit", "3")
        stream.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "completed" in shown
    assert bool(re.search(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d", shown)) is wanted


def test_control_characters_of_texts_never_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    terminal.console().print("a\x1b]0;title\x07b\x1b[2Jc\x9bd\tend")
    assert isinstance(sys.stdout, io.StringIO)
    shown = sys.stdout.getvalue()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert shown.startswith("a\N{REPLACEMENT CHARACTER}]0;title")
