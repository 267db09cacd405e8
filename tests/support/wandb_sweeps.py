"""The sweep side of the tests' W&B server: it proposes what a test wants, one run after the other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.support.wandb_records import ENTITY

Variables = Mapping[str, Any]


@dataclass
class Sweep:
    """A sweep that a client has made.

    Attributes:
        config: as the client sent it.
        proposals: parameters of the runs that an agent will be told to start.
    """

    sweep_id: str
    project: str
    config: Mapping[str, Any]
    proposals: list[Mapping[str, Any]] = field(default_factory=list)

    def commands(self, running: bool) -> list[dict[str, Any]]:
        """Return what the agent has to do next: wait, start a run, or exit."""
        if running:
            return []
        if not self.proposals:
            return [{"type": "exit"}]
        args = {key: {"value": value} for key, value in self.proposals.pop(0).items()}
        run_id = f"{self.sweep_id}-{len(self.proposals)}"
        return [{"type": "run", "run_id": run_id, "program": self.config["program"], "args": args}]


class Sweeps:
    """All sweeps, and the answers to their operations."""

    def __init__(self) -> None:
        self.made: dict[str, Sweep] = {}

    def upsert(self, told: Variables) -> dict[str, Any]:
        sweep_id = f"sweep{len(self.made)}"
        sweep = Sweep(sweep_id, told["projectName"], yaml.safe_load(told["config"]))
        self.made[sweep_id] = sweep
        project = {"id": "project", "name": sweep.project, "entity": {"id": "entity", "name": ENTITY}}
        shown = {"name": sweep_id, "project": project}
        return {"upsertSweep": {"sweep": shown, "configValidationWarnings": []}}

    def with_runs(self, told: Variables) -> dict[str, Any]:
        sweep = self.made[told["sweep"]]
        shown = {"id": sweep.sweep_id, "name": sweep.sweep_id, "config": yaml.safe_dump(dict(sweep.config))}
        return {"project": {"sweep": shown | {"state": "RUNNING", "runs": {"edges": []}}}}

    def create_agent(self, told: Variables) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": told["sweep"]}}}

    def heartbeat(self, told: Variables) -> dict[str, Any]:
        running = bool(json.loads(told["runState"]))
        commands = self.made[told["id"]].commands(running)
        return {"agentHeartbeat": {"agent": {"id": told["id"]}, "commands": json.dumps(commands)}}
