"""A search over several objectives, as a person, a program and a page read it."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import loratune as lt
from tests.support.experiments import ExperimentBuilder, save
from trainable.errors import UserError
from trainable.records import MetricsRecord
from tune.read.report.gather import gather
from tune.read.report.write import as_html, as_markdown
from tune.read.tables import leaderboard
from tune.read.trial_table import table_of
from tune.search.cleaning import plan_cleaning
from tune.store.reader import ExperimentData, read

SIZE = "train/adapter_parameters"
ENDS = [(1.0, 900.0), (2.0, 300.0), (2.5, 400.0), (3.0, 100.0)]
"""Loss and size of each trial; the third is beaten by the second."""


def experiment(folder: Path, **search: object) -> ExperimentData:
    search = {"num_trials": 4, "other_objectives": {SIZE: "min"}, "scheduler": "none", **search}
    builder = ExperimentBuilder(folder / "two", **search)
    builder.searcher = builder.open(4)
    for number, (loss, size) in enumerate(ENDS):
        trial_id = f"t{number}"
        builder.searcher.suggest(trial_id)
        record = MetricsRecord(
            {
                "time": 100.0,
                "step": 20,
                "max_steps": 20,
                "trial_state": "completed",
                "eval/loss": loss,
                SIZE: size,
            }
        )
        builder.store.trial(trial_id).append(record)
        builder.searcher.on_trial_complete(trial_id, record)
        save(folder / "two" / trial_id / "checkpoint_000000", 20, record)
    return read(builder.store)


def shown(data: ExperimentData) -> str:
    objective, *others = data.config.search.objectives
    printing = Console(width=140)
    with printing.capture() as captured:
        printing.print(leaderboard(data.leaderboard(), objective, others=others))
    return captured.get()


def test_the_leaderboard_has_every_objective_and_marks_the_front(tmp_path: Path) -> None:
    lines = shown(experiment(tmp_path)).splitlines()
    head = next(line for line in lines if "rank" in line)
    assert "adapter_parameters" in head
    assert "front" in head
    rows = {line.split()[1]: line for line in lines if line.strip()[:1].isdigit()}
    assert {number for number, line in rows.items() if "●" in line} == {"0", "1", "3"}


def test_a_program_gets_the_front(tmp_path: Path) -> None:
    data = experiment(tmp_path)
    loaded = lt.load(tmp_path / "two")
    assert [trial.number for trial in loaded.pareto_front] == [0, 1, 3]
    assert loaded.trials.to_arrow()["pareto_front"].to_pylist() == [True, True, False, True]
    table = table_of(data, data.trials)
    assert [row["number"] for row in table.where("pareto_front == true").rows] == [0, 1, 3]
    figure = loaded.figure("pareto")
    drawn = sorted((x, y) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True))
    assert drawn == ENDS


def test_one_objective_has_no_front_to_draw(tmp_path: Path) -> None:
    experiment(tmp_path, other_objectives={})
    loaded = lt.load(tmp_path / "two")
    assert "pareto_front" not in loaded.trials.to_arrow().column_names
    with pytest.raises(UserError, match="shows two or three objectives, and the search has 1"):
        loaded.figure("pareto")


def test_the_report_shows_the_front(tmp_path: Path) -> None:
    report = gather(experiment(tmp_path), now=1000.0)
    assert report["front"] == [0, 1, 3]
    assert f"No trial beats trials 0, 1, 3 in eval/loss and {SIZE} at once." in report["verdict"]
    page = as_html(json.loads(json.dumps(report)))
    assert f"trial 3: eval/loss 3.0000, {SIZE} 100.00, on the Pareto front" in page
    assert f"| eval/loss | {SIZE} | front |" in as_markdown(report)


def test_a_bound_decides_who_is_best_and_who_is_on_the_front(tmp_path: Path) -> None:
    data = experiment(tmp_path, constraints=[f"{SIZE} <= 400"])
    assert [trial.number for trial in data.leaderboard()][:3] == [1, 2, 3]
    assert [trial.number for trial in data.pareto_front()] == [1, 3]
    best = data.best_checkpoint()
    assert best is not None
    assert best[0].number == 1


def test_cleaning_keeps_the_checkpoints_of_the_front(tmp_path: Path) -> None:
    data = experiment(tmp_path, other_objectives={SIZE: "min"})
    for trial in data.trials:
        data.store.settled_marker(trial.trial_id).parent.mkdir(parents=True, exist_ok=True)
        data.store.settled_marker(trial.trial_id).touch()
    assert {removal.trial for removal in plan_cleaning(data, keep_top=1).removals} == {2}
