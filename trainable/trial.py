"""One trial as Ray Tune sees it: a thin tenant of the engine on its device.

No torch is imported here. A Ray result is the engine's metrics record; a Ray checkpoint is the folder that
`trainable.checkpoint.tensors` describes. The process is reused from trial to trial.

If the engine's host dies, the trial fails with it and Ray starts it again from its last checkpoint; it then
asks for a new host.
"""

import json
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.exceptions import RayActorError, RayTaskError

from trainable import records
from trainable.checkpoint.manifest import STATE
from trainable.errors import LoratuneError
from trainable.host import hosts_name
from trainable.records import ERROR_NAME, TrialState


class LoraTrial(ray_tune.Trainable):
    """Trains one LoRA configuration.

    Its Ray config is what the searcher suggests: `trial`, a whole `TrialConfig` as JSON; `params`, the
    values that were searched; `number`, the trial's number in the study; `attempt`, 1 unless an earlier
    process began it.
    """

    def setup(self, config: dict[str, Any], experiment: str, directory: str) -> None:
        """Find the host of this trial's device.

        Args:
            config: see the class.
            experiment: whose hosts to use.
            directory: the experiment's folder; the trial's own in it is named by its id.
        """
        self._directory = Path(directory)
        self._hosts = ray.get_actor(hosts_name(experiment))
        self._host = self._find_host()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process."""
        self.cleanup()
        self._config = new_config["trial"]
        self._name = f"trial-{new_config['number']:04d}"
        self._record: dict[str, Any] = {}
        self._attempt = new_config.get("attempt", 1)
        self._steps = 0
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next evaluation and return its metrics record."""
        every = self._config["evaluation"]["eval_every_steps"]
        try:
            if not self._joined:
                self._join(None)
            # A checkpoint that was taken in a hurry lies between two evaluations.
            steps = every - self._steps % every
            record = ray.get(self._host.advance.remote(self._name, steps))
        except RayTaskError as error:
            if not isinstance(error.cause, LoratuneError):
                self._write_down(error)
                raise
            # What the engine refuses on purpose it would refuse again: there is no use in another attempt.
            record = {
                **self._record,
                records.STEP: self._steps,
                records.STATE: TrialState.FAILED.value,
                records.REASON: str(error.cause),
            }
        record[records.ATTEMPT] = self._attempt
        self._steps = record[records.STEP]
        self._record = {key: value for key, value in record.items() if key not in records.BULKY}
        ended = TrialState(record[records.STATE]).is_end
        return record | ({"done": True} if ended else {})

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Have the host write the checkpoint; both are on one node. A trial that never joined has none."""
        if self._joined:
            ray.get(self._host.save.remote(self._name, checkpoint_dir, self._record))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Go on from a checkpoint folder, as the attempt after the one that wrote it."""
        state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
        self._attempt = max(self._attempt, state["record"].get(records.ATTEMPT, 1) + 1)
        self._steps, self._record = state["step"], state["record"]
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
        home = str(self._directory / self.trial_id)
        try:
            ray.get(self._host.join.remote(self._name, self._config, path, home))
        except RayActorError:
            self._host = self._find_host(failed=self._host)
            ray.get(self._host.join.remote(self._name, self._config, path, home))
        self._joined = True

    def _write_down(self, error: Exception) -> None:
        """Leave the error where a person, and the search, find it."""
        home = self._directory / self.trial_id
        home.mkdir(exist_ok=True)
        (home / ERROR_NAME).write_text(str(error), encoding="utf-8")

    def _find_host(self, failed: Any = None) -> Any:
        gpus = ray.get_gpu_ids()
        node = ray.get_runtime_context().get_node_id()
        return ray.get(self._hosts.host.remote(node, str(gpus[0]) if gpus else "", failed))
