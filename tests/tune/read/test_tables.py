from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from trainable.objective import Objective
from trainable.records import TrialState
from tune.read import format, tables
from tune.store.reader import TrialView

LOSS = Objective("eval/loss", "min")


def lines(renderable: RenderableType, width: int = 100) -> list[str]:
    """Render without colour, as a pipe would get it."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def trial(number: int, loss: float | None = 0.84123, **changes: Any) -> TrialView:
    metrics = {} if loss is None else {"step": 300, "eval/loss": loss}
    values: dict[str, Any] = {
        "trial_id": f"{number:08x}",
        "number": number,
        "state": TrialState.COMPLETED,
        "params": {
            "training.learning_rate": 1.234e-3,
            "lora.r": 16,
            "lora.alpha": 32.0,
            "lora.dropout": 0.05,
        },
        "metrics": metrics,
        "best_metrics": metrics,
        "steps": 300,
        "duration_s": 185.0,
        "checkpoint": None,
        "wandb_run_id": None,
    }
    return TrialView(**(values | changes))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.84123, "0.8412"),
        (12.3456, "12.35"),
        (-3.5, "-3.5000"),
        (1234.5, "1234"),
        (0.00012, "1.2e-4"),
        (2e7, "2e7"),
        (0.0, "0.0000"),
        (None, "–"),
        ("running", "–"),
    ],
)
def test_score(value: Any, text: str) -> None:
    assert format.score(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234e-3, "1.2e-3"),
        (1e-4, "1e-4"),
        (0.05, "0.05"),
        (32.0, "32"),
        (16, "16"),
        (123456, "123456"),
        (0.0, "0"),
        (True, "True"),
        (["q_proj"], "['q_proj']"),
        (None, "–"),
    ],
)
def test_setting(value: Any, text: str) -> None:
    assert format.setting(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m 00s"), (185, "3m 05s"), (7620, "2h 07m"), (97_200, "1d 03h"), (None, "–")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert format.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(2.25, "2.2"), (870, "870"), (12_345, "12.3k"), (4.1e6, "4.1M"), (2e9, "2.0G"), (None, "–")],
)
def test_compact(count: float | None, text: str) -> None:
    assert format.compact(count) == text


def test_parameters_put_the_usual_three_first() -> None:
    params = {"data.max_length": 64, "lora.alpha": 32.0, "lora.r": 16, "training.learning_rate": 2e-3}
    assert format.parameters(params) == "lr 2e-3 · r 16 · alpha 32 · max_length 64"


def test_every_state_has_its_own_word_and_look() -> None:
    texts = [format.state_text(state) for state in TrialState]
    assert [text.plain for text in texts] == [state.value for state in TrialState]
    assert len({text.style for text in texts}) == len(TrialState)


def test_counts_leave_out_what_is_not_there() -> None:
    counts = {TrialState.PRUNED: 5, TrialState.RUNNING: 2, TrialState.OOM: 0}
    assert format.counts_text(counts).plain == "2 running · 5 pruned"


def test_leaderboard_at_full_width() -> None:
    trials = [
        trial(3),
        trial(
            0,
            1.5,
            state=TrialState.PRUNED,
            steps=75,
            duration_s=48,
            params=trial(0).params | {"lora.dropout": 0.1},
        ),
        trial(1, None, state=TrialState.OOM, steps=0, duration_s=None),
    ]
    assert lines(tables.leaderboard(trials, LOSS), 100) == [
        "Leaderboard  eval/loss, lower is better",
        "",
        "  rank  trial  state      eval/loss   final      lr   r  alpha  dropout  steps    time",
        "     1      3  completed     0.8412  0.8412  1.2e-3  16     32     0.05    300  3m 05s",
        "     2      0  pruned        1.5000  1.5000  1.2e-3  16     32      0.1     75     48s",
        "     3      1  oom                –       –  1.2e-3  16     32     0.05      0       –",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_width_breaks_or_cuts_a_cell(width: int) -> None:
    varied = [trial(n, params=trial(n).params | {f"training.key_{k}": n for k in range(4)}) for n in range(3)]
    shown = lines(tables.leaderboard(varied, LOSS), width)
    assert len(shown) == 6
    assert max(cell_len(line) for line in shown) <= width
    assert "…" not in "".join(shown)
    assert all(word in shown[2] for word in ("rank", "state", "eval/loss", "lr", "alpha"))


def test_the_least_important_columns_go_first() -> None:
    table = tables.FittingTable(
        [
            tables.Column("kept", ["1"]),
            tables.Column("second", ["2"], expendable=1),
            tables.Column("first", ["3"], expendable=2),
        ]
    )
    assert [lines(table, width)[0].split() for width in (30, 18, 8, 3)] == [
        ["kept", "second", "first"],
        ["kept", "second"],
        ["kept"],
        ["…"],
    ]


def test_a_parameter_that_is_the_same_everywhere_is_no_column() -> None:
    assert "dropout" not in lines(tables.leaderboard([trial(0), trial(1)], LOSS))[2]


def test_an_empty_leaderboard_says_so_and_higher_is_better_for_max() -> None:
    shown = lines(tables.leaderboard([], Objective("nlg/bleu_score", "max")))
    assert shown == ["Leaderboard  nlg/bleu_score, higher is better", "", "  no trials yet"]


def test_a_long_metric_is_headed_by_its_last_name() -> None:
    assert format.metric_title("weather/temperature_accuracy") == "temperature_accuracy"
    assert format.metric_title("eval/loss") == "eval/loss"


def test_predictions_stand_beneath_their_references() -> None:
    rows = [
        SimpleNamespace(prompt="Oslo,\n  3 °C " + "x" * 300, reference="Rain. [red]", prediction="Snow."),
        SimpleNamespace(prompt="Bergen", reference="Sun.", prediction="  "),
    ]
    shown = lines(tables.predictions(rows), 200)  # type: ignore[arg-type]
    assert shown[2].startswith("  input       Oslo, 3 °C xxx")
    assert shown[2].endswith("x…")
    assert shown[3:] == [
        "  reference   Rain. [red]",
        "  prediction  Snow.",
        "",
        "  input       Bergen",
        "  reference   Sun.",
        "  prediction  –",
    ]


def test_summary_says_where_the_best_lies_and_what_to_type() -> None:
    shown = lines(
        tables.summary(
            trial(3),
            LOSS,
            adapter=Path("results/a/best/adapter"),
            wandb_note="offline",
            commands=[("loratune trials a", "every trial again")],
        )
    )
    assert shown == [
        "  best     eval/loss 0.8412 by trial 3 at step 300: lr 1.2e-3 · r 16 · alpha 32 · dropout 0.05",
        "  adapter  results/a/best/adapter",
        "  W&B      offline",
        "",
        "Next",
        "",
        "  every trial again",
        "    loratune trials a",
    ]


def test_summary_without_a_best() -> None:
    shown = lines(tables.summary(None, LOSS, adapter=None, wandb_note=None, commands=[]))
    assert shown == ["  best  no trial has scored eval/loss"]
