"""What the runs of `loratune confirm` say, as a person reads it."""

import math

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from trainable.objective import Objective
from tune.read.format import ABSENT, metric_title, parameters, score
from tune.read.tables import Column, FittingTable
from tune.search.confirm import Confirmed, Verdict


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
    return Group(title, "", FittingTable(columns), "", Padding(_sentence(verdict), (0, 0, 0, 2)))


def _runs(one: Confirmed) -> str:
    return f"{len(one.values)}" + (f", {one.failed} failed" if one.failed else "")


def _sentence(verdict: Verdict) -> str:
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
