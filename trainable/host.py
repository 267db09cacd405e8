"""The engine as a Ray actor: one per device, shared by the trials that Ray packs onto that device.

Trials ask the experiment's `Hosts` for the host of their node and device; the first to ask has it created.
`Hosts` belongs to the driver and the hosts belong to it, so that all of them end with the driver, however it
ends, and a device is never held by an engine that nobody uses.

A host that dies (killed, out of memory) takes no trial with it: its trials come back with their last
checkpoint, name the host that failed them, and get a new one.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.config import TrialConfig

if TYPE_CHECKING:
    from trainable.evaluation import Prediction

_MAX_TRIALS = 256
"""Trials that may wait in one host at a time; each holds a thread, which only waits."""


class EngineHost:
    """What trials call: every method may be called by many trials at once.

    The base model and the data are loaded when they are first needed.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Remember what to load.

        Args:
            config: of a trial with the largest rank there will be, as JSON; its model, data and engine
                sections count.
        """
        self._config = TrialConfig.model_validate(config)
        self._saying = "base model and tokens"
        self._loading = threading.Lock()
        self._loaded: _Loaded | None = None

    def saying(self) -> str:
        """Return what is being done at the moment, for the terminal."""
        return self._saying

    def prepare(self, target_modules: Sequence[Any]) -> dict[str, Any]:
        """Load everything, and say what there is.

        Args:
            target_modules: every value of `lora.target_modules` that a trial may come with.

        Returns:
            `slots`: how many trials should share the device; `data_hash`; `tables`: of each data file, by
            its key, its `rows`, `target_tokens` and `rows_cut`.

        Raises:
            UserError: the data, the model or the target modules have to be mended first.
        """
        loaded = self._load()
        for modules in target_modules:
            loaded.engine.targets(modules)
        data = loaded.engine.data
        tables = {"train": data.train, "val": data.val, "test": data.test}
        return {
            "slots": loaded.slots,
            "data_hash": data.data_hash,
            "tables": {
                name: {"rows": len(t), "target_tokens": t.target_tokens, "rows_cut": t.rows_cut}
                for name, t in tables.items()
                if t is not None
            },
        }

    def join(self, name: str, config: dict[str, Any], checkpoint: str | None) -> None:
        """Give a trial a slot; a trial of that name that is still there leaves first."""
        from trainable.checkpoint import load_checkpoint

        parsed = TrialConfig.model_validate(config)
        loaded = load_checkpoint(Path(checkpoint)) if checkpoint else None
        loop = self._load().loop
        loop.leave(name)
        loop.call(lambda engine: engine.join(name, parsed, loaded))

    def advance(self, name: str, steps: int) -> dict[str, Any]:
        """Train for up to `steps` optimiser steps and return the metrics record of then."""
        from trainable.evaluation import score

        loaded = self._load()
        answer = loaded.loop.advance(name, steps)
        if answer.texts:
            table = loaded.engine.data.val
            references = [table.target(row) for row in range(len(answer.texts))]
            config = loaded.loop.call(lambda engine: engine.tenant(name).config)
            answer.record |= score(answer.texts, references, config.evaluation)
        return answer.record

    def save(self, name: str, directory: str, record: dict[str, Any]) -> None:
        """Write a trial's checkpoint; others train on while the files are written."""
        from trainable.checkpoint import save_checkpoint

        snapshot = self._load().loop.call(lambda engine: engine.snapshot(name, record))
        save_checkpoint(Path(directory), snapshot)

    def leave(self, name: str) -> None:
        """Free a trial's slot."""
        self._load().loop.leave(name)

    def predict(self, config: dict[str, Any], checkpoint: str, rows: int) -> "list[Prediction]":
        """Return the scored texts of the first validation rows, by a checkpoint's adapter."""
        from trainable.evaluation import score_rows

        name = f"prediction of {checkpoint}"
        self.join(name, config, checkpoint)
        loaded = self._load()
        table = loaded.engine.data.val
        numbers = range(min(rows, len(table)))
        texts = loaded.loop.call(lambda engine: engine.generate({name: numbers}, table)[name])
        self.leave(name)
        told = [(table.prompt(row), texts[row], table.target(row)) for row in numbers]
        return score_rows(told, TrialConfig.model_validate(config).evaluation)

    def _load(self) -> "_Loaded":
        with self._loading:
            if self._loaded is None:
                self._loaded = _Loaded(self._config, self._say)
            return self._loaded

    def _say(self, text: str) -> None:
        self._saying = text


class _Loaded:
    """A host's engine and its loop."""

    def __init__(self, config: TrialConfig, say: Callable[[str], None]) -> None:
        # Imported here alone: the trials' own processes import this module and stay without torch.
        from trainable.build import build_engine
        from trainable.loop import EngineLoop

        self.engine, self.slots = build_engine(config, say)
        self.loop = EngineLoop(self.engine)


class Hosts:
    """The hosts of one experiment, by node and device."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Remember what hosts are made from: the experiment's `TrialConfig`, as JSON."""
        self._config = config
        self._hosts: dict[tuple[str, str], ActorHandle] = {}

    def host(self, node: str, gpu: str, failed: ActorHandle | None = None) -> ActorHandle:
        """Return the host of a device, creating it if there is none or it is the one that `failed`.

        Args:
            node: Ray's node id.
            gpu: the GPU's id on that node; empty for the CPU.
            failed: the host that the caller found dead.
        """
        present = self._hosts.get((node, gpu))
        if present is None or (failed is not None and present == failed):
            present = self._hosts[node, gpu] = self._create(node, gpu)
        return present

    def any_host(self) -> ActorHandle:
        """Return some host, for work that needs an engine and no device of its own.

        Raises:
            LookupError: no trial has asked for a host yet.
        """
        for host in self._hosts.values():
            return host
        raise LookupError("no engine has been started in this experiment")

    def _create(self, node: str, gpu: str) -> ActorHandle:
        # Ray accounts the device to the trials, not to the host, so the host is told which one it is.
        visible = {"CUDA_VISIBLE_DEVICES": gpu, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        return (
            ray.remote(EngineHost)
            .options(
                num_cpus=0,
                max_concurrency=_MAX_TRIALS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": visible} if gpu else None,
            )
            .remote(self._config)
        )


def hosts_name(experiment: str) -> str:
    """Return the name under which an experiment's `Hosts` actor is found."""
    return f"loratune:{experiment}"


def create_hosts(experiment: str, config: TrialConfig) -> ActorHandle:
    """Create the experiment's `Hosts`; it and all its hosts end with this process."""
    return (
        ray.remote(Hosts)
        .options(name=hosts_name(experiment), num_cpus=0)
        .remote(config.model_dump(mode="json"))
    )
