"""The experiments of a results folder, one line each."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from trainable.errors import UserError
from trainable.places import Place
from trainable.records import TIME
from tune.read.format import ABSENT, duration, parameters, score
from tune.read.tables import Column, FittingTable
from tune.store.experiment import ExperimentStore
from tune.store.reader import read


@dataclass(frozen=True)
class Listed:
    """One experiment of a list.

    Attributes:
        name: its folder's.
        state: `running`, `finished`, `not finished`, `empty` or `unreadable`.
        trials: that have ended, of those that there will be.
        metric: the objective's.
        best: its best value.
        params: of the best trial.
        changed: unix time of the last record; `None` without one.
        problem: why it cannot be read.
    """

    name: str
    state: str
    trials: str = ABSENT
    metric: str = ABSENT
    best: float | None = None
    params: str = ""
    changed: float | None = None
    problem: str | None = None


def list_experiments(results_dir: Place) -> list[Listed]:
    """Read every experiment of a folder; one that cannot be read is listed with the reason."""
    names = ExperimentStore.names_in(results_dir)
    return [_listed(ExperimentStore.find(name, results_dir)) for name in names]


def listing(experiments: Sequence[Listed], results_dir: Place, now: float) -> RenderableType:
    """Return the table of experiments."""
    if not experiments:
        return f"There is no experiment in '{results_dir}'. Begin one: loratune search --config quickstart"
    ages = [None if one.changed is None else max(now - one.changed, 0.0) for one in experiments]
    table = FittingTable(
        [
            Column("experiment", [one.name for one in experiments], right=False),
            Column("state", [one.state for one in experiments], right=False),
            Column("trials", [one.trials for one in experiments]),
            Column("metric", [one.metric for one in experiments], right=False, expendable=2),
            Column("best", [score(one.best) for one in experiments]),
            Column(
                "last record",
                [ABSENT if age is None else f"{duration(age)} ago" for age in ages],
                expendable=1,
            ),
            Column("setting", [one.params for one in experiments], right=False, expendable=3),
        ]
    )
    problems = [Text(f"  {one.name}: {one.problem}", "red") for one in experiments if one.problem]
    return Group(table, Text(), *problems) if problems else table


def _listed(store: ExperimentStore) -> Listed:
    try:
        data = read(store)
        status = data.status()
    except (UserError, ValueError, KeyError, OSError) as error:
        return Listed(store.name, "unreadable", problem=str(error).partition("\n")[0])
    running = store.is_locked()
    ended = sum(count for state, count in status.counts.items() if state.is_terminal)
    state = "running" if running else "finished" if status.finished else "not finished"
    times = [record[TIME] for log in data.logs.values() for record in log[-1:] if TIME in record]
    return Listed(
        store.name,
        state if data.trials or running else "empty",
        f"{ended}/{status.num_trials}",
        data.objective.metric,
        data.objective.value(status.best.best_metrics) if status.best else None,
        parameters(status.best.params) if status.best else "",
        max(times, default=None),
    )
