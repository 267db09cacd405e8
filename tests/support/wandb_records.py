"""Runs and artifacts as a W&B server knows them, and as it describes them to the client."""

import json
from dataclasses import dataclass, field
from typing import Any

ENTITY = "tester"
"""The entity of whoever the key belongs to."""
CREATED = "2026-01-01T00:00:00Z"
HISTORY, SUMMARY, EVENTS, OUTPUT = (
    "wandb-history.jsonl",
    "wandb-summary.json",
    "wandb-events.jsonl",
    "output.log",
)


@dataclass
class Run:
    """A run as it arrived; `streams` has the lines of each streamed file by their numbers."""

    run_id: str
    entity: str
    project: str
    name: str = ""
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    job_type: str | None = None
    stored_config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """What the user configured, without the client's own `_wandb`."""
        return {key: entry["value"] for key, entry in self.stored_config.items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows in order, as they were given: without the client's own keys."""
        rows = map(json.loads, self.lines(HISTORY))
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]

    @property
    def output(self) -> list[str]:
        """The console's lines."""
        return self.lines(OUTPUT)

    def lines(self, name: str) -> list[str]:
        """Return a streamed file's lines; a line that never came before a later one is an error."""
        lines = self.streams.get(name, {})
        missing = set(range(len(lines))) - lines.keys()
        if missing:
            raise AssertionError(f"{name} of run {self.run_id} has no lines {sorted(missing)}")
        return [lines[number] for number in range(len(lines))]

    @property
    def path(self) -> str:
        """Where its files are uploaded to."""
        return f"/storage/runs/{self.entity}/{self.project}/{self.run_id}"


@dataclass
class Artifact:
    """A version of a collection."""

    artifact_id: str
    entity: str
    project: str
    name: str
    type: str
    version: int
    digest: str
    metadata: dict[str, Any]
    description: str | None
    logged_by: str | None
    aliases: list[str] = field(default_factory=list)
    used_by: list[str] = field(default_factory=list)
    committed: bool = False
    deleted: bool = False
    manifest: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    """File contents by their base64 MD5, which is how a manifest names them."""

    @property
    def files(self) -> dict[str, bytes]:
        """The manifest's entries with their contents; a promised file that never came is an error."""
        return {name: self.uploads[entry["digest"]] for name, entry in self.manifest["contents"].items()}


def describe(artifact: Artifact) -> dict[str, Any]:
    """Return a version as the client sees it."""
    contents = artifact.manifest.get("contents", {})
    collection = collection_of(artifact)
    return {
        "__typename": "Artifact",
        "id": artifact.artifact_id,
        "artifactSequence": collection,
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED" if artifact.committed else "PENDING",
        "size": sum(entry["size"] for entry in contents.values()),
        "digest": artifact.digest,
        "commitHash": None,
        "fileCount": len(contents),
        "createdAt": CREATED,
        "updatedAt": None,
        "aliases": [alias_of(alias) | {"artifactCollection": collection} for alias in artifact.aliases],
    }


def alias_of(alias: str) -> dict[str, str]:
    """Return an alias as the client sees it."""
    return {"__typename": "ArtifactAlias", "id": alias, "alias": alias}


def collection_of(artifact: Artifact) -> dict[str, Any]:
    """Return its collection as the client sees it."""
    project = project_of(artifact.project, artifact.entity)
    return {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}


def project_of(project: str, entity: str | None) -> dict[str, Any]:
    """Return a project as the client sees it; `None` is the entity of the key."""
    owner = {"id": entity or ENTITY, "name": entity or ENTITY}
    return {"id": project, "internalId": project, "name": project, "entity": owner}
