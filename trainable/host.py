"""The engine as a Ray actor: one per device, shared by the trials that Ray packs onto that device.

Trials ask the experiment's `Hosts` for the host of their node and device; the first to ask has it created.
`Hosts` belongs to the driver and the hosts belong to it, so that all of them end with the driver, however it
ends, and a device is never held by an engine that nobody uses.

A host that dies (killed, out of memory) takes no trial with it: its trials come back with their last
checkpoint, name the host that failed them, and get a new one.
"""

import os
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.config import TrialConfig

_MAX_TRIALS = 256
"""Trials that may wait in one host at a time; each holds a thread, which only waits."""


class EngineHost:
    """What trials call: every method may be called by many trials at once."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Load the base model and the data.

        Args:
            config: the experiment's `TrialConfig`, as JSON; its model, data and engine sections count.
        """
        # Imported here alone: the trials' own processes import this module and stay without torch.
        import torch

        from trainable.data import prepare
        from trainable.engine import Engine
        from trainable.loop import EngineLoop
        from trainable.model import load_base, pick_device

        parsed = TrialConfig.model_validate(config)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        base = load_base(parsed.model, pick_device(parsed.engine.device))
        data = prepare(parsed.data, base.tokenizer, tokenizer_id=base.name_or_path)
        budget = parsed.engine.max_tokens_per_pass
        self._engine = Engine(base, data, max_tokens_per_pass=None if budget == "auto" else budget)
        self._loop = EngineLoop(self._engine)

    def join(self, name: str, config: dict[str, Any], checkpoint: str | None) -> None:
        """Give a trial a slot; a trial of that name that is still there leaves first."""
        from trainable.checkpoint import load_checkpoint

        parsed = TrialConfig.model_validate(config)
        loaded = load_checkpoint(Path(checkpoint)) if checkpoint else None
        self._loop.leave(name)
        self._loop.call(lambda engine: engine.join(name, parsed, loaded))

    def advance(self, name: str, steps: int) -> dict[str, Any]:
        """Train for up to `steps` optimiser steps and return the metrics record of then."""
        from trainable.evaluation import judge

        answer = self._loop.advance(name, steps)
        if answer.texts:
            table = self._engine.data.val
            rows = [(table.prompt(row), text, table.target(row)) for row, text in enumerate(answer.texts)]
            config = self._loop.call(lambda engine: engine.tenant(name).config)
            answer.record |= judge(rows, config)
        return answer.record

    def save(self, name: str, directory: str, record: dict[str, Any]) -> None:
        """Write a trial's checkpoint; others train on while the files are written."""
        from trainable.checkpoint import save_checkpoint

        snapshot = self._loop.call(lambda engine: engine.snapshot(name, record))
        save_checkpoint(Path(directory), snapshot)

    def leave(self, name: str) -> None:
        """Free a trial's slot."""
        self._loop.leave(name)

    def predict(self, config: dict[str, Any], checkpoint: str, rows: int) -> list[tuple[str, str, str]]:
        """Return prompt, prediction and reference of the first validation rows, by a checkpoint's adapter."""
        name = f"prediction of {checkpoint}"
        self.join(name, config, checkpoint)
        table = self._engine.data.val
        numbers = range(min(rows, len(table)))
        texts = self._loop.call(lambda engine: engine.generate({name: numbers}, table)[name])
        self.leave(name)
        return [(table.prompt(row), texts[row], table.target(row)) for row in numbers]


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
