"""Reads what the real W&B client wrote offline, with the client's own reader."""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OfflineRun:
    """A run's file, as `wandb leet inspect` tells it."""

    path: Path

    def _inspect(self, *flags: str) -> str:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(self.path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._inspect().splitlines()]

    @cached_property
    def told(self) -> dict[str, Any]:
        """Name, project, entity, notes, tags, config, summary, console, exit code."""
        return json.loads(self._inspect("--summary"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [record["history"]["item"] for record in self.records if record["type"] == "history"]

    @property
    def artifacts(self) -> list[dict[str, Any]]:
        """Each with its name, type, aliases, metadata and the names of its files."""
        found = []
        for record in self.records:
            if record["type"] == "artifact":
                one = record["artifact"]
                files = [entry["path"] for entry in one["manifest"]["contents"]]
                found.append(one | {"files": files, "metadata": json.loads(one.get("metadata") or "{}")})
        return found

    def artifacts_of(self, kind: str) -> list[dict[str, Any]]:
        return [artifact for artifact in self.artifacts if artifact["type"] == kind]

    @property
    def run(self) -> dict[str, Any]:
        """The last record of the run itself: id, group, job type, sweep."""
        return [record["run"] for record in self.records if record["type"] == "run"][-1]

    @property
    def columns(self) -> dict[str, list[str]]:
        """What is summarised of each metric that was defined by name."""
        defined = [record["metric"] for record in self.records if record["type"] == "metric"]
        return {one["name"]: sorted(one["summary"]) for one in defined if one.get("summary")}


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Return the runs under `folder/wandb`, in the order they began."""
    return [OfflineRun(path) for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))]


def only_run(folder: Path) -> OfflineRun:
    """Return the one run under `folder/wandb`."""
    (run,) = offline_runs(folder)
    return run
