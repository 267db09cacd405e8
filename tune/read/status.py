"""How far a search is, read from the experiment: one that runs elsewhere, has ended, or has crashed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from trainable.records import (
    ATTEMPT,
    DEVICE,
    FUSED_WIDTH,
    TIME,
    TRAIN_TOKENS_PER_SECOND,
    MetricsRecord,
    TrialState,
)
from trainable.tracking.run import resolve_mode
from tune.read.format import compact, duration, score, shown_state
from tune.read.live import SearchView, TrialRow
from tune.search.schedulers import rungs
from tune.sections import SearchConfig
from tune.store.reader import ExperimentData, TrialView
from tune.store.study_trial import StudyTrial

_EVENTS = 5


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial.

    Attributes:
        time: unix time in seconds.
        text: what, for a person.
    """

    time: float
    text: str


def search_view(data: ExperimentData, now: float) -> SearchView:
    """Return what there is to see of an experiment.

    Args:
        data: the experiment.
        now: unix time in seconds.
    """
    study = {trial.number: trial for trial in data.study_trials}
    live = data.store.is_locked()
    rows = [_row(data, trial, study[trial.number], live) for trial in data.trials]
    leader = data.status().best
    best = next((row for row in rows if leader is not None and row.number == leader.number), None)
    max_steps = max((row.max_steps or 0 for row in rows), default=0)
    return SearchView(
        experiment=data.store.name,
        objective=data.objective,
        num_trials=data.num_trials,
        rows=rows,
        best=best,
        rungs=rungs(data.config.search, max_steps) if max_steps else (),
        elapsed=_standing(data, live, now),
        left_s=_time_left(data, rows) if live else None,
        notes=list(_notes(data, rows, leader, live=live, now=now)),
    )


def events(data: ExperimentData) -> list[Event]:
    """Return what happened to the trials, in the order in which it happened."""
    happened: list[Event] = []
    best: float | None = None
    scored = sorted(
        (
            (record[TIME], trial.number, record)
            for trial in data.trials
            for record in trial.records
            if TIME in record
        ),
        key=lambda one: one[:2],
    )
    for time, number, record in scored:
        value = data.objective.value(record)
        if data.objective.is_better(value, best):
            best = value
            text = f"trial {number} new best: {data.objective.metric} {score(value)} at step {record.step}"
            happened.append(Event(time, text))
    for trial in data.trials:
        happened += _moves(trial)
    for one in data.study_trials:
        if one.state.is_terminal and one.ended is not None:
            why = f": {one.reason}" if one.reason else ""
            happened.append(Event(one.ended, f"trial {one.number} {one.state.value}{why}"))
    return sorted(happened, key=lambda event: event.time)


def _moves(trial: TrialView) -> Iterator[Event]:
    """Yield the attempts at a trial after its first, and its changes of device."""
    for before, after in pairwise(trial.records):
        if TIME not in after:
            continue
        if after.get(ATTEMPT, 1) > before.get(ATTEMPT, 1):
            yield Event(after[TIME], f"trial {trial.number} resumed, attempt {after.attempt}")
        elif DEVICE in before and DEVICE in after and before[DEVICE] != after[DEVICE]:
            yield Event(after[TIME], f"trial {trial.number} moved from {before[DEVICE]} to {after[DEVICE]}")


def _row(data: ExperimentData, trial: TrialView, study: StudyTrial, live: bool) -> TrialRow:
    state = shown_state(trial.state, live=live)
    record = trial.records[-1] if trial.records else MetricsRecord()
    best = MetricsRecord(trial.best_metrics)
    value = data.objective.value(best)
    return TrialRow(trial.number, trial.params, None, state, record, value, best.step, study.ended or 0.0)


def _standing(data: ExperimentData, live: bool, now: float) -> str:
    started = [trial.started for trial in data.study_trials if trial.started is not None]
    ends = [trial.ended for trial in data.study_trials if trial.ended is not None]
    if live:
        return f"running, {duration(now - min(started))}" if started else "starting"
    if not started:
        return "nothing has run yet"
    took = duration(max(ends, default=min(started)) - min(started))
    if data.status().finished:
        return f"finished in {took}"
    return "not running"


def _time_left(data: ExperimentData, rows: Sequence[TrialRow]) -> float | None:
    """Return the seconds to the end: the work left at the pace of the work done, as many at once as now.

    Wall time would count the hours in which an interrupted search stood still.
    """
    done = sum(row.share for row in rows)
    spent = sum(trial.duration_s or 0.0 for trial in data.trials)
    left = data.num_trials - done
    at_once = sum(row.state is TrialState.RUNNING for row in rows)
    if done <= 0 or spent <= 0 or at_once == 0 or left <= 0:
        return None
    return left * spent / done / at_once


def _notes(
    data: ExperimentData, rows: Sequence[TrialRow], leader: TrialView | None, *, live: bool, now: float
) -> Iterator[Text]:
    if not live and not data.status().finished:
        yield _line(f"  resume it: loratune resume {data.store.typed(SearchConfig().results_dir)}")
    found = data.objective.best(leader.records) if leader else None
    if found is not None and TIME in found:
        yield _line(f"  the best for {duration(max(now - found[TIME], 0.0))}")
    running = [row for row in rows if row.state is TrialState.RUNNING and row.record]
    if live and running:
        speed = sum(row.record.get(TRAIN_TOKENS_PER_SECOND) or 0.0 for row in running)
        widths = [row.record[FUSED_WIDTH] for row in running if row.record.get(FUSED_WIDTH)]
        width = f", {sum(widths) / len(widths):.1f} trials per fused step" if widths else ""
        devices = Counter(str(row.record.get(DEVICE, "?")) for row in running)
        use = ", ".join(f"{device} trains {count}" for device, count in sorted(devices.items()))
        yield _line(f"  {compact(speed)} tokens/s{width}; {use}")
    wandb = data.config.wandb
    mode = resolve_mode(wandb)
    if mode != "disabled":
        where = f"project '{wandb.project}', group '{data.config.search.name}'"
        yield _line(f"  W&B: {mode}, {where}")
    for event in events(data)[-_EVENTS:]:
        yield _line(f"  {duration(max(now - event.time, 0.0)):>7} ago  {event.text}")


def _line(text: str) -> Text:
    return Text(text, "dim", no_wrap=True, overflow="ellipsis")
