"""Every command that reads an experiment, on every kind of experiment: an answer, never a traceback."""

import io
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.commands import run_here
from tests.support.experiments import ExperimentBuilder
from tests.support.many_trials import many_trials
from tune.config import StoredConfig
from tune.read import terminal
from tune.read.watch import watch

KINDS = ("finished", "interrupted", "few", "empty", "damaged", "unscored")
COMMANDS = (
    ("trials", "{}"),
    ("trials", "{}", "--where", "state == completed and value < 1", "--sort", "-steps", "--limit", "2"),
    ("trials", "{}", "--json"),
    ("trials", "{}", "--csv"),
    ("trials", "{}", "--columns", "number,state,value"),
    ("trials", "{}", "--parquet", "trials.parquet"),
    ("show", "{}", "0"),
    ("compare", "{}", "0", "1"),
    ("compare", "{}", "finished"),
    ("status", "{}"),
    ("status", "{}", "--watch"),
    ("report", "{}"),
    ("report", "{}", "--format", "md"),
    ("report", "{}", "--format", "json"),
    ("clean", "{}", "--keep-top", "1", "--dry-run"),
    ("ls",),
)


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One experiment of each kind."""
    folder = tmp_path_factory.mktemp("work")
    results = folder / "results"
    many_trials(results / "finished", 12)
    many_trials(results / "interrupted", 9, running=3)
    many_trials(results / "few", 1)
    many_trials(results / "empty", 0, num_trials=4)
    many_trials(results / "unscored", 2, running=2)
    for log in (results / "unscored").glob("*/results.jsonl"):
        log.unlink()
    many_trials(results / "damaged", 5)
    (results / "damaged" / "00000000" / "results.jsonl").write_text('{"step": 20, "eval/lo')
    (results / "damaged" / "00000001" / "predictions.jsonl").write_text("no json\n")
    checkpoint = results / "damaged" / "00000000" / "checkpoint_000000"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text("{")
    return folder


@pytest.fixture
def run(
    experiments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(experiments)
        code = run_here(*words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:1] + words[2:]))
def test_each_command_answers(
    run: Callable[..., tuple[int, str, str]], words: tuple[str, ...], kind: str
) -> None:
    code, out, error = run(*(word.format(kind) for word in words))
    assert code in (0, 2), (out, error)
    if code == 2:
        assert len(error.strip().splitlines()) == 1, error
        assert error.startswith("loratune: ")
    else:
        assert out.strip()
        assert error == ""
    assert not re.search(r"Traceback|\bray\b|TERMINATED|\x1b", out.replace("ray 2", "")), out


def test_trials_as_json_keep_the_order_in_which_they_were_tried(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    _, out, _ = run("trials", "finished", "--json")
    assert [one["number"] for one in json.loads(out)] == list(range(12))
    _, out, _ = run("trials", "finished", "--json", "--columns", "trial,lr", "--sort", "lr", "--limit", "3")
    rates = [one["training.learning_rate"] for one in json.loads(out)]
    assert len(rates) == 3
    assert rates == sorted(rates)


def test_the_rank_of_a_filtered_trial_is_its_rank_among_all(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    _, out, _ = run("trials", "finished")
    everything = {line.split()[1]: line.split()[0] for line in out.splitlines()[3:]}
    _, out, _ = run("trials", "finished", "--where", "state == pruned")
    some = [line.split()[:2] for line in out.splitlines()[3:-1]]
    assert some
    assert all(everything[number] == rank for rank, number in some)
    assert "other trials not shown" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "finished", "99"), "has no trial 99. Its trials: 0 to 11"),
        (("show", "empty", "0"), "has no trial 0. It has no trials yet"),
        (("show", "finished", "0", "--metric", "eval/los"), "Did you mean 'eval/loss'?"),
        (("compare", "finished", "0", "x"), "Give the numbers of two or more trials"),
        (("status", "finishd"), "Did you mean 'finished'?"),
        (("trials", "finished", "--json", "--csv"), "exclude each other"),
        (("report", "finished", "--to", "results"), "cannot be written"),
        (("export", "finished"), "has no adapter"),
        (("export", "finished", "--to", "results"), "exists already"),
        (("predict", "finished", "--input", "none.jsonl"), "'none.jsonl' does not exist"),
        (("predict", "finished", "--input", "x", "--device", "gpu"), "Allowed: auto, cpu, cuda"),
    ],
)
def test_mistakes(run: Callable[..., tuple[int, str, str]], words: tuple[str, ...], told: str) -> None:
    code, _, error = run(*words)
    assert code == 2
    assert told in error


def test_a_finished_search_on_eighty_columns(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(time, "time", lambda: 1_000_180.0)
    _, out, _ = run("status", "finished")
    lines = out.splitlines()
    assert lines[0] == "finished  ━━━━━━━━━━━━━━━━━━━━━━━━  12/12 trials  finished in 1m 20s"
    assert lines[1] == "  9 completed · 2 pruned · 1 diverged"
    assert lines[2].startswith("  best eval/loss ")
    assert lines[3] == "  the best for 2m 10s"
    assert sum(" ago  trial " in line for line in lines) == 5
    assert "diverged: the loss is not finite at step 100" in out


def test_an_interrupted_search_names_what_resumes_it(run: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = run("status", "interrupted")
    assert out.splitlines()[0].endswith("6/9 trials  not running")
    assert "  resume it: loratune resume interrupted" in out.splitlines()


def test_a_running_search_is_seen_and_not_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = many_trials(tmp_path / "results" / "live", 9, running=3)
    monkeypatch.chdir(tmp_path)
    with store.locked():
        for words, code in ((["status", "live"], 0), (["clean", "live"], 2)):
            assert run_here(*words) == code
    shown = capsys.readouterr()
    assert "running, " in shown.out.splitlines()[0]
    assert "left" in shown.out.splitlines()[0]
    assert "36.0k tokens/s, 4.0 trials per fused step; cuda:0 trains 3" in shown.out
    assert "is being worked on by" in shown.err


def test_watching_ends_with_the_search(tmp_path: Path) -> None:
    store = many_trials(tmp_path / "live", 9, running=3)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100, height=24)
    looks: list[float] = []
    holding = store.locked()
    holding.__enter__()

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            holding.__exit__(None, None, None)

    watch(store, console, 3.0, sleep=sleep, clock=lambda: 1_000_180.0)
    assert looks == [3.0, 3.0]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("6/9 trials  running, ") == 2
    assert shown.rindex("6/9 trials  not running") > shown.rindex("6/9 trials  running, ")


def test_cleaning_keeps_what_resuming_and_the_best_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = ExperimentBuilder(tmp_path / "results" / "mine", num_trials=3)
    for trial_id, steps in (("good", (5, 10, 20)), ("poor", (5, 10)), ("live", (5, 10))):
        built.begin(trial_id, *steps, state="running" if trial_id == "live" else "completed")
        if trial_id != "live":
            built.searcher.on_trial_complete(trial_id, built.store.trial(trial_id).log()[-1])
    config = built.config.model_copy(
        update={"wandb": built.config.wandb.model_copy(update={"mode": "disabled"})}
    )
    built.store.write_config(StoredConfig(config, {}, ()))
    monkeypatch.chdir(tmp_path)

    def clean(*words: str) -> str:
        run_here("clean", "mine", "--keep-top", "1", *words)
        return capsys.readouterr().out

    before = sorted(tmp_path.rglob("checkpoint_*"))
    assert "2 checkpoints would be removed" in clean("--dry-run")
    assert sorted(tmp_path.rglob("checkpoint_*")) == before
    assert "2 checkpoints removed" in clean()
    left = {path.parent.name for path in tmp_path.rglob("checkpoint_*")}
    assert left == {"good", "live"}
    assert len(built.store.trial("good").checkpoints()) == 3
    assert [decision.action.value for decision in built.plan().plan.decisions] == [
        "keep",
        "keep",
        "continue",
    ]


def test_no_color_without_a_terminal_or_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console: Console = terminal.console()
    console.print("word", style="bold red")
    assert sys.stdout.getvalue() == "word\n"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_thousand_trials_are_listed_in_two_seconds_and_reported_in_ten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many_trials(tmp_path / "results" / "many", 1000)
    monkeypatch.chdir(tmp_path)
    for words, seconds in ((["trials", "many"], 2), (["report", "many", "--to", "many.html"], 10)):
        began = time.process_time()
        assert run_here(*words) == 0
        assert time.process_time() - began < seconds
    assert capsys.readouterr().out.count("completed") > 500
    assert (tmp_path / "many.html").stat().st_size < 5_000_000
