"""Faults of the infrastructure while a search runs: what they cost a trial, and when a node is given up.

A node, an engine or a trial's process may die at any moment. The trial starts again from its last checkpoint
and keeps its own retries, which are for errors of its configuration. Three bounds keep a broken cluster from
retrying forever: a trial ends after `MAX_FAULTS` faults without a step gained between them, a node on
which `NODE_FAULTS` things died without one is not used any more as long as there is another, and
`tune.search.ending` ends a search in which nothing but faults happens.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

# Ray has no public way to ask where a dead actor was.
from ray._private.state import actors  # isort: skip

from trainable.errors import NodeError
from tune.search.ending import is_infrastructure_fault

MAX_FAULTS = 8
"""A trial's faults in a row, without a step gained between them, after which it is given up."""
NODE_FAULTS = 3
"""Deaths in a row on one node, without a record from it between them, after which it is not used any more."""
_LONGEST_WAIT_S = 16.0
_TURNS = 4


@dataclass(frozen=True)
class Fault:
    """One fault as it was seen by one trial.

    Attributes:
        error: one line.
        actor_id: Ray's id of the actor that died or raised; faults of one actor are one event.
        node_id: Ray's id of the node that it was on; `None` if Ray does not know.
        is_unfit: whether the node cannot compute what the others compute, however often it is tried.
    """

    error: str
    actor_id: str | None = None
    node_id: str | None = None
    is_unfit: bool = False


def fault_of(error: BaseException | None, trial_actor_id: str | None) -> Fault | None:
    """Return the fault that an error of a trial comes from; `None` if the trial itself is at fault.

    Args:
        error: as Ray Tune hands it on.
        trial_actor_id: Ray's id of the trial's own actor, if it was started.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    text = str(error).strip().splitlines() if error else []
    name = type(error).__name__
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        # Ray's own errors: the gist is the cause, or else the first line; a worker's log may follow.
        gist = next((one for one in text if " because " in one), text[0] if text else "")
        line = f"ray.exceptions.{name}: {gist.strip().split('. ')[0]}"
    else:
        line = text[-1].strip() if isinstance(error, RayTaskError) and text else f"{name}: {' '.join(text)}"
        if not is_infrastructure_fault(line):
            return None
    actor_id = (error.actor_id if isinstance(error, RayActorError) else None) or trial_actor_id
    node_id = node_of(actor_id) if actor_id else None
    return Fault(line, actor_id, node_id, isinstance(error, NodeError))


def node_of(actor_id: str) -> str | None:
    """Return Ray's id of the node that an actor is or was on."""
    address = actors(actor_id).get("Address", {}) if ray.is_initialized() else {}
    return address.get("NodeID") or None


@dataclass
class Faults:
    """Counts faults, and says which nodes are not used any more.

    Attributes:
        nodes: returns the ids of the nodes that the search can use at the moment.
        say: takes a line for the terminal.
        excluded: the ids of the nodes that are not used any more.
    """

    nodes: Callable[[], frozenset[str]]
    say: Callable[[str], None]
    excluded: frozenset[str] = frozenset()
    _of_trial: Counter[str] = field(default_factory=Counter)
    _of_node: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _last: dict[str, str] = field(default_factory=dict)
    _furthest: dict[str, int] = field(default_factory=dict)

    def add(self, trial_id: str, fault: Fault) -> bool:
        """Take note of a fault; returns whether the trial is started again."""
        self._of_trial[trial_id] += 1
        count = self._of_trial[trial_id]
        is_forgiven = count <= MAX_FAULTS
        self._last[trial_id] = fault.error
        if not is_forgiven:
            self._last[trial_id] += f" ({count} faults in a row, and no step gained)"
        if fault.node_id is not None and fault.actor_id is not None:
            self._of_node[fault.node_id].add(fault.actor_id)
            self._maybe_exclude(fault.node_id, fault)
        return is_forgiven

    def on_own_error(self, trial_id: str) -> None:
        """Take note that a trial's newest error is its own."""
        self._last.pop(trial_id, None)

    def on_record(self, trial_id: str, node_id: str | None, step: int) -> None:
        """Take note that a trial reported from a node: both work, if it has got further than ever before.

        A trial whose checkpoints cannot be written reports the same step again and again.
        """
        if step <= self._furthest.get(trial_id, 0):
            return
        self._furthest[trial_id] = step
        self._of_trial.pop(trial_id, None)
        self._last.pop(trial_id, None)
        if node_id is not None:
            self._of_node.pop(node_id, None)

    def wait_s(self, trial_id: str) -> float:
        """Return how long a trial should wait before it tries again: what failed may need time to recover.

        The trials of one engine return at different times, so that one that kills its engine ends up alone
        and the others report before it is back.
        """
        count = self._of_trial[trial_id]
        turn = 1 + zlib.crc32(trial_id.encode()) % _TURNS
        return 0.0 if count < 2 else turn * min(2.0 ** (count - 2), _LONGEST_WAIT_S)

    def last(self, trial_id: str) -> str | None:
        """Return a trial's newest error since its last record, in one line, if it was a fault."""
        return self._last.get(trial_id)

    def _maybe_exclude(self, node_id: str, fault: Fault) -> None:
        usable = self.nodes() - self.excluded
        if node_id not in usable or len(usable) == 1:
            return
        if fault.is_unfit:
            self.excluded |= {node_id}
            self.say(f"node {node_id[:8]} is not used: {fault.error}")
        elif len(self._of_node[node_id]) >= NODE_FAULTS:
            self.excluded |= {node_id}
            self.say(
                f"node {node_id[:8]} is not used any more: {NODE_FAULTS} processes in a row died there and "
                f"none of its trials reported ({fault.error})."
            )
