"""What the runs of `loratune confirm` say, as a person reads it."""

import math
import re

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from trainable.errors import UserError
from trainable.objective import Objective
from trainable.places import parent_of
from tune.read.format import ABSENT, metric_title, parameters, score
from tune.read.tables import Column, FittingTable
from tune.search.confirm import Confirmed, Verdict, judge
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData, read


def confirmed(verdict: Verdict, objective: Objective) -> RenderableType:
    """Return the configurations with their new runs, and whether the winner's lead is more than noise."""
    found = verdict.configurations
    columns = [
        Column("trial", [str(one.trial.number) for one in found]),
        Column(
            "in the search", [score(objective.value(one.trial.best_metrics)) for one in found], expendable=1
        ),
        Column("mean", [score(one.mean) if one.values else ABSENT for one in found]),
        Column("± over seeds", [ABSENT if one.spread is None else score(one.spread) for one in found]),
        Column("runs", [_runs(one) for one in found], expendable=2),
        Column("configuration", [parameters(one.trial.params) for one in found], right=False),
    ]
    title = Text.assemble(
        ("Confirmation", "bold"), (f"  {metric_title(objective.metric)}, other seeds", "dim")
    )
    return Group(title, "", FittingTable(columns), "", Padding(sentence(verdict), (0, 0, 0, 2)))


def _runs(one: Confirmed) -> str:
    return f"{len(one.values)}" + (f", {one.failed} failed" if one.failed else "")


def find_verdict(data: ExperimentData) -> Verdict | None:
    """Return what the largest experiment that `loratune confirm` made of a search says, if there is one."""
    results = parent_of(data.store.place)
    pattern = re.compile(rf"{re.escape(str(data.config.search.name))}-confirm-(\d+)x(\d+)")
    found = [match for name in ExperimentStore.names_in(results) if (match := pattern.fullmatch(name))]
    if not found:
        return None
    largest = max(found, key=lambda match: int(match[1]) * int(match[2]))
    try:
        confirming = read(ExperimentStore.find(largest[0], results))
        verdict = judge(data, confirming, int(largest[1]))
    except UserError:
        return None
    return verdict if any(one.values for one in verdict.configurations) else None


def sentence(verdict: Verdict) -> str:
    """Return how much a seed changes, and whether the winner's lead is more than that."""
    if math.isnan(verdict.lead):
        return "Fewer than two configurations have two runs or more: there is nothing to compare."
    noise = f"A seed changes the result by ±{score(verdict.noise)}."
    best, second = (one.trial.number for one in verdict.configurations[:2])
    if verdict.is_clear:
        return (
            f"{noise} Trial {best} leads trial {second} by {score(verdict.lead)}, more than the "
            f"{score(verdict.least_lead)} that seeds alone make (95 %): its lead is real."
        )
    return (
        f"{noise} Trial {best} leads trial {second} by {score(verdict.lead)}, less than the "
        f"{score(verdict.least_lead)} that seeds alone can make (95 %): the two are level. Take the smaller "
        "one, or run more --seeds."
    )
