"""Which artifacts the server has committed, and which version of a search's adapters is the best.

Aliases follow what is committed: `best` is given to a version once it is there, never with its upload,
because uploads end in any order and some not at all. The search's best version is determined from the
metadata of the committed versions, so whoever reconciles (the search while it runs and when it ends,
`loratune resume`, `loratune verify`) comes to the same result.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from trainable.objective import Objective
from trainable.records import TrialState
from trainable.tracking.local import Waiting, waiting_artifacts
from trainable.tracking.server import Server, Version

BEST, FINAL = "best", "final"
_OWN = frozenset({"latest", BEST, FINAL})
"""Aliases that a search gives; a version with any other has been marked by a person and is never deleted."""


def remove_committed(
    server: Server, entity: str | None, project: str, folders: Sequence[Path]
) -> list[Waiting]:
    """Remove the artifacts in runs' folders that the server has committed; returns those that it has not.

    Raises:
        ServerUnavailableError: the server does not say.
    """
    waiting = [one for folder in folders for one in waiting_artifacts(folder)]
    committed: dict[tuple[str, str], set[str]] = {}
    for kind, name in {(one.type, one.name) for one in waiting}:
        committed[kind, name] = {one.digest for one in server.versions(entity, project, kind, name)}
    missing = []
    for one in waiting:
        if one.digest in committed[one.type, one.name]:
            one.remove()
        else:
            missing.append(one)
    return missing


def best_version(versions: Sequence[Version], objective: Objective) -> Version | None:
    """Return the version with the best objective by its metadata; the earliest one of equals."""
    best: Version | None = None
    for version in versions:
        if objective.is_better(_value(version, objective), _value(best, objective) if best else None):
            best = version
    return best


def best_value(versions: Sequence[Version], objective: Objective) -> float | None:
    """Return the best objective of the versions; `None` if none has one."""
    best = best_version(versions, objective)
    return _value(best, objective) if best is not None else None


def alias_problem(versions: Sequence[Version], objective: Objective, best: float | None) -> str | None:
    """Return what is wrong with the alias `best`; `None` if it is on the search's best.

    Args:
        versions: all committed ones.
        objective: decides which one is the best.
        best: the best objective of the search's own logs.
    """
    version, value = best_version(versions, objective), best_value(versions, objective)
    if objective.is_better(best, value):
        return f"the best version in W&B has {objective.metric} {value}, the search's best has {best}"
    if version is not None and BEST not in version.aliases:
        return f"the alias `best` in W&B is not on the best version, v{version.number}"
    return None


def reconcile(versions: Sequence[Version], objective: Objective) -> None:
    """Give `best` to the best of the committed versions, and `final` if its trial was complete with it.

    Raises:
        ServerUnavailableError: the server does not take an alias.
    """
    best = best_version(versions, objective)
    if best is None:
        return
    wanted = [BEST, FINAL] if best.metadata.get("state") == TrialState.COMPLETED else [BEST]
    if missing := [alias for alias in wanted if alias not in best.aliases]:
        best.move_here(*missing)


def prune(
    versions: Sequence[Version],
    objective: Objective,
    keep: int,
    *,
    live: Collection[Any],
    diverged: Collection[Any],
) -> None:
    """Delete the versions that a search does not keep.

    The best `keep` stay, the last one of each live trial, and whatever has an alias that a person gave. Of a
    trial that diverged only the search's best version stays.

    Args:
        versions: all committed ones, oldest first.
        objective: decides which ones are the best.
        keep: how many of the best stay.
        live: numbers of the trials that have not ended.
        diverged: numbers of the trials that diverged.

    Raises:
        ServerUnavailableError: the server does not delete one.
    """
    best = best_version(versions, objective)
    candidates = [one for one in versions if one.metadata.get("trial") not in diverged or one is best]
    scored = [(value, one) for one in candidates if (value := _value(one, objective)) is not None]
    top = sorted(scored, key=lambda pair: objective.cost(pair[0]))[:keep]
    kept = {one.digest for _, one in top} | {versions[-1].digest} if versions else set()
    last = {one.metadata.get("trial"): one.digest for one in versions}
    kept |= {digest for trial, digest in last.items() if trial in live}
    for version in versions:
        if version.digest not in kept and not set(version.aliases) - _OWN:
            version.delete()


def _value(version: Version, objective: Objective) -> float | None:
    return objective.value(version.metadata.get("metrics") or {})
