"""One trial as Ray Tune sees it: a thin tenant of the engine on its device.

No torch is imported here. A Ray result is the engine's metrics record; a Ray checkpoint is the folder that
`trainable.checkpoint` describes. The process is reused from trial to trial.

If the engine's host dies, the trial fails with it and Ray starts it again from its last checkpoint; it then
asks for a new host.
"""

import os
import platform
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.exceptions import RayActorError, RayTaskError

from trainable.checkpoint.manifest import read_state
from trainable.errors import LoratuneError, NodeError
from trainable.host import Identity
from trainable.hosts import hosts_name
from trainable.objective import Objective
from trainable.records import (
    ATTEMPT,
    JUDGED,
    NODE,
    NODE_ID,
    REASON,
    STATE,
    STEP,
    MetricsRecord,
    TrialState,
)
from trainable.stores import write_at
from trainable.suggestion import Suggestion


class LoraTrial(ray_tune.Trainable):
    """Trains one LoRA configuration. Its Ray configuration is a `Suggestion`."""

    def setup(
        self, config: dict[str, Any], experiment: str, identity: Identity, objective: Objective
    ) -> None:
        """Find the host of this trial's device.

        Args:
            config: see the class.
            experiment: whose hosts to use.
            identity: what the search's first engine loaded.
            objective: what the trial is judged by.
        """
        self._hosts = ray.get_actor(hosts_name(experiment))
        self._identity = identity
        self._objective = objective
        self._node_id = ray.get_runtime_context().get_node_id()
        self._host = self._find_host()
        self._joined = False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process."""
        self.cleanup()
        self._suggestion = Suggestion.from_ray(new_config)
        time.sleep(self._suggestion.wait_s)
        # The engine parses it; sending JSON keeps both sides independent of each other's classes.
        self._config = new_config["trial"]
        self._name = f"trial-{self._suggestion.number:04d}"
        self._record = MetricsRecord()
        self._attempt = self._suggestion.attempt
        self._steps = 0
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next evaluation and return its metrics record."""
        every = self._suggestion.config.evaluation.eval_every_steps
        try:
            if not self._joined:
                self._join(None)
            # Counted from the last record: a checkpoint that was taken on an interruption lies between two
            # evaluations, or at one that was not made any more.
            next_evaluation = (self._record.step // every + 1) * every
            steps = next_evaluation - self._steps
            record = MetricsRecord(ray.get(self._host.advance.remote(self._name, steps)))
        except RayTaskError as error:
            if not isinstance(error.cause, LoratuneError) or isinstance(error.cause, NodeError):
                self._store_error(error)
                raise
            # What the engine refuses on purpose it would refuse again: another attempt is of no use.
            record = MetricsRecord(self._record)
            record.update({STEP: self._steps, STATE: TrialState.FAILED.value, REASON: str(error.cause)})
        record |= {ATTEMPT: self._attempt, NODE: platform.node(), NODE_ID: self._node_id}
        self._steps = record.step
        self._record = record.without_bulk()
        record[JUDGED] = self._objective.judged(record)
        return record | ({"done": True} if record.state.is_terminal else {})

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Have the host write the checkpoint; both are on one node. A trial that never joined has none."""
        if self._joined:
            ray.get(self._host.save.remote(self._name, checkpoint_dir, self._record))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Resume from a checkpoint folder, as the attempt after the one that wrote it."""
        # Whoever writes or resumes checks every byte; the host does so again when it loads the tensors.
        state = read_state(Path(checkpoint), deep=False)
        self._record = MetricsRecord(state["record"])
        self._attempt = max(self._attempt, self._record.attempt + 1)
        self._steps = state["step"]
        self._join(checkpoint)

    def cleanup(self) -> None:
        """Free the slot."""
        if getattr(self, "_joined", False):
            # A host that is gone holds no slot.
            try:
                ray.get(self._host.leave.remote(self._name))
            except RayActorError:
                self._host = self._find_host(failed=self._host)
        self._joined = False

    def _join(self, checkpoint: str | None) -> None:
        path = str(Path(checkpoint).resolve()) if checkpoint else None
        files = self._suggestion.files
        interrupted = files.interrupted_checkpoint if files else None
        joining = self._name, self._config, path, interrupted, os.getpid()
        try:
            ray.get(self._host.join.remote(*joining))
        except RayActorError:
            self._host = self._find_host(failed=self._host)
            ray.get(self._host.join.remote(*joining))
        self._joined = True

    def _store_error(self, error: Exception) -> None:
        """Leave the error where a person, and the search, find it."""
        if self._suggestion.files is not None:
            write_at(self._suggestion.files.error, str(error))

    def _find_host(self, failed: Any = None) -> Any:
        gpus = ray.get_gpu_ids()
        gpu = str(gpus[0]) if gpus else ""
        host, wait_s = ray.get(self._hosts.host.remote(self._node_id, gpu, self._identity, failed))
        time.sleep(wait_s)
        return host
