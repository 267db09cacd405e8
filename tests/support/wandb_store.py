"""What a W&B server knows: runs, artifacts and uploaded files, and its answers to the client's GraphQL.

Only the operations that logging needs are answered in full. Any other gets `null` for each of its fields and
is noted in `Store.unknown`, so that a test can tell that the client asked for something new.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from tests.support.wandb_reads import Reads
from tests.support.wandb_records import (
    CREATED,
    ENTITY,
    EVENTS,
    HISTORY,
    SUMMARY,
    Artifact,
    Run,
    alias_of,
    collection_of,
    describe,
    project_of,
)
from tests.support.wandb_sweeps import Sweeps, Variables


class Store:
    """All that arrived. Not locked: whoever serves it calls one method at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.unknown: list[str] = []
        self.stopped: set[str] = set()
        """Ids of the runs whose Stop button was pressed."""
        self.sweeps = Sweeps()
        self._answers: dict[str, Callable[[Variables], Any]] = {
            "Viewer": lambda _: {"viewer": _viewer()},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": None},
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_run,
            "RunState": self._run_info,
            "QueryRunInfo": self._run_info,
            "CreateRunFiles": self._create_run_files,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._artifact_manifest,
            "UpdateArtifactManifest": self._artifact_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UpdateArtifact": self._update_artifact,
            "UseArtifact": self._use_artifact,
            "ArtifactType": self._artifact_type,
            "ArtifactMembershipByName": self._artifact_by_name,
            "UpsertSweep": self.sweeps.upsert,
            "SweepWithRuns": self.sweeps.with_runs,
            "CreateAgent": self.sweeps.create_agent,
            "Heartbeat": self.sweeps.heartbeat,
            "ArtifactByID": lambda told: {"artifact": describe(self.artifact(told["id"]))},
            "GetDefaultEntity": lambda _: {"viewer": _viewer()},
        } | Reads(self).answers

    def graphql(self, query: str, variables: Variables) -> dict[str, Any]:
        """Return the `data` of the answer to an operation."""
        named = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        answer = self._answers.get(named[1] if named else "")
        if answer is None:
            self.unknown.append(query)
            return dict.fromkeys(top_level_fields(query))
        return answer(variables)

    def stream(self, run_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take a file_stream request: lines at their offsets, or a run's end."""
        run = self.runs[run_id]
        for name, chunk in body.get("files", {}).items():
            if name == SUMMARY:
                run.summary = json.loads(chunk["content"][-1])
                continue
            lines = run.streams.setdefault(name, {})
            lines.update(enumerate(chunk["content"], start=chunk["offset"]))
        if body.get("complete"):
            run.exit_code = body["exitcode"]
        return {"exitcode": None, "limits": {}, "stopped": run_id in self.stopped}

    def upload(self, path: str, content: bytes) -> None:
        """Take a file put to a URL that was given out before.

        Raises:
            KeyError: no such URL was given out.
        """
        _, _, kind, *rest = path.split("/")
        if kind == "runs":
            _, _, run_id, *name = rest
            self.runs[run_id].files["/".join(name)] = content
        elif kind == "manifests":
            self.artifact(rest[0]).manifest = json.loads(content)
        elif kind == "artifacts":
            digest = base64.b64encode(hashlib.md5(content).digest()).decode()
            self.artifact(rest[0]).uploads[digest] = content
        else:
            raise KeyError(path)

    def _resume_status(self, told: Variables) -> dict[str, Any]:
        run = self.runs.get(told["name"])
        bucket = None
        if run is not None:
            history, events = run.lines(HISTORY), run.lines(EVENTS)
            bucket = {
                "id": run.run_id,
                "name": run.run_id,
                "displayName": run.name,
                "tags": run.tags,
                "notes": run.notes,
                "config": json.dumps(run.stored_config),
                "wandbConfig": json.dumps({"t": 1}),
                "summaryMetrics": json.dumps(run.summary),
                "historyLineCount": len(history),
                "eventsLineCount": len(events),
                "logLineCount": len(run.output),
                "historyTail": json.dumps(history[-1:]),
                "eventsTail": json.dumps(events[-1:]),
            }
        return {"model": project_of(told["project"], told["entity"]) | {"bucket": bucket}}

    def _upsert_run(self, told: Variables) -> dict[str, Any]:
        run_id = told.get("name") or told["id"]
        new = run_id not in self.runs
        run = self.runs.setdefault(
            run_id, Run(run_id, told.get("entity") or ENTITY, told.get("project") or "")
        )
        names = {
            "displayName": "name",
            "groupName": "group",
            "notes": "notes",
            "jobType": "job_type",
            "tags": "tags",
        }
        for key, name in names.items():
            if told.get(key) is not None:
                setattr(run, name, told[key])
        run.name = run.name or run_id
        if told.get("config") is not None:
            run.stored_config = json.loads(told["config"])
        if told.get("summaryMetrics") is not None:
            run.summary = json.loads(told["summaryMetrics"])
        bucket = {
            "id": run_id,
            "name": run_id,
            "displayName": run.name,
            "description": None,
            "config": json.dumps(run.stored_config),
            "sweepName": None,
            "project": project_of(run.project, run.entity),
            "historyLineCount": len(run.lines(HISTORY)),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _run_info(self, told: Variables) -> dict[str, Any]:
        run = self.runs[told["run"]]
        state = {None: "running", 0: "finished"}.get(run.exit_code, "failed")
        shown = {"id": run.run_id, "state": state, "displayName": run.name}
        return {"project": {"run": shown | {"summaryMetrics": json.dumps(run.summary)}}}

    def _create_run_files(self, told: Variables) -> dict[str, Any]:
        run = self.runs[told["run"]]
        files = [{"name": name, "uploadUrl": f"{self.url}{run.path}/{quote(name)}"} for name in told["files"]]
        return {"createRunFiles": {"runID": run.run_id, "uploadHeaders": [], "files": files}}

    def _create_artifact(self, told: Variables) -> dict[str, Any]:
        told = told["input"]
        aliases = told.get("aliases") or []
        collection = (told.get("artifactCollectionNames") or [told.get("artifactCollectionName")])[0]
        versions = [one for one in self.artifacts if one.name == collection]
        latest = versions[-1] if versions else None
        made = next(
            (one for one in versions if one.digest == told["digest"] and one.committed and not one.deleted),
            None,
        )
        if made is None:
            made = Artifact(
                artifact_id=f"artifact-{len(self.artifacts)}",
                entity=told["entityName"],
                project=told["projectName"],
                name=collection,
                type=told["artifactTypeName"],
                version=len(versions),
                digest=told["digest"],
                metadata=json.loads(told.get("metadata") or "{}"),
                description=told.get("description"),
                logged_by=told.get("runName"),
            )
            self.artifacts.append(made)
        for alias in (entry["alias"] for entry in aliases):
            self.move_alias(made, alias)
        sequence = {"id": f"sequence-{collection}", "latestArtifact": latest and {"id": latest.artifact_id}}
        state = "COMMITTED" if made.committed else "PENDING"
        shown = {"id": made.artifact_id, "state": state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": shown}}

    def move_alias(self, target: Artifact, alias: str) -> None:
        """Give an alias to one version of a collection."""
        for other in self.artifacts:
            if other.name == target.name:
                other.aliases = [name for name in other.aliases if name != alias]
        target.aliases = sorted({*target.aliases, alias})

    def _artifact_manifest(self, told: Variables) -> dict[str, Any]:
        manifest_id = told.get("artifactManifestID") or f"manifest-of-{told['artifactID']}"
        artifact_id = manifest_id.removeprefix("manifest-of-")
        file = {
            "id": manifest_id,
            "uploadHeaders": [],
            "uploadUrl": f"{self.url}/storage/manifests/{artifact_id}",
        }
        answer = {"artifactManifest": {"id": manifest_id, "file": file}}
        return {"createArtifactManifest": answer, "updateArtifactManifest": answer}

    def _create_artifact_files(self, told: Variables) -> dict[str, Any]:
        edges = []
        for file in told["input"]["artifactFiles"]:
            path = f"/storage/artifacts/{file['artifactID']}/{quote(file['name'])}"
            node = {"storagePath": path, "uploadUrl": self.url + path, "uploadHeaders": []}
            edges.append(
                {"node": node | {"uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}}
            )
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, told: Variables) -> dict[str, Any]:
        artifact = self.artifact(told["artifactID"])
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.artifact_id, "digest": artifact.digest}}}

    def _update_artifact(self, told: Variables) -> dict[str, Any]:
        told = {"artifactID": (told.get("input") or {}).get("artifactId")} | dict(told.get("input") or told)
        artifact = self.artifact(told["artifactID"])
        artifact.metadata = json.loads(told.get("metadata") or "{}")
        return {
            "updateArtifact": {"artifact": {"id": artifact.artifact_id}},
            "result": {"artifact": describe(artifact)},
        }

    def _use_artifact(self, told: Variables) -> dict[str, Any]:
        told = told.get("input", told)
        artifact = self.artifact(told["artifactID"])
        artifact.used_by = [*dict.fromkeys([*artifact.used_by, told["runName"]])]
        return {"useArtifact": {"artifact": describe(artifact)}}

    def _artifact_type(self, told: Variables) -> dict[str, Any]:
        found = self._named(told["name"])
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    def _artifact_by_name(self, told: Variables) -> dict[str, Any]:
        found = self._named(told["name"])
        membership = found and {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{found.artifact_id}",
            "versionIndex": found.version,
            "createdAt": CREATED,
            "aliases": [alias_of(alias) for alias in found.aliases],
            "artifactCollection": collection_of(found),
            "artifact": describe(found),
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def _named(self, name: str) -> Artifact | None:
        name, _, alias = name.partition(":")
        fits = (
            one for one in self.artifacts if one.name == name and alias in [*one.aliases, f"v{one.version}"]
        )
        return next(fits, None)

    def artifact(self, artifact_id: str) -> Artifact:
        """Return a version by its id."""
        return next(one for one in self.artifacts if one.artifact_id == artifact_id)


def _viewer() -> dict[str, Any]:
    """Return whoever the key belongs to."""
    return {
        "id": "viewer",
        "entity": ENTITY,
        "username": ENTITY,
        "email": "tester@example.com",
        "flags": "{}",
        "teams": {"edges": []},
    }


def top_level_fields(query: str) -> list[str]:
    """Return the names of an operation's own fields, for an answer that is empty but valid."""
    names, braces, brackets = [], 0, 0
    for token in re.findall(r'"[^"]*"|@\w+|(?:\w+\s*:\s*)?\w+|[(){}]', query):
        braces += (token == "{") - (token == "}")
        brackets += (token == "(") - (token == ")")
        if braces == 1 and brackets == 0 and token[0].isalpha():
            names.append(token.split(":")[0].strip())
        if braces == 0 and token == "}":
            break
    return names
