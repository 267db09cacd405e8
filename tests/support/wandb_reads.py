"""What the tests' W&B server answers to readers: a run, its history, versions, aliases."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tests.support.wandb_records import CREATED, HISTORY, Run, describe

if TYPE_CHECKING:
    from tests.support.wandb_store import Store

Variables = Mapping[str, Any]


class Reads:
    """Answers by operation, over what a store holds."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self.answers: dict[str, Callable[[Variables], Any]] = {
            "Run": self._run,
            "Runs": self._runs,
            "RunHistoryKeys": self._run,
            "RunParquetHistory": lambda _: {"project": {"run": {"parquetHistory": {"parquetUrls": []}}}},
            "HistoryPage": self._history,
            "ProjectArtifacts": self._versions,
            "AddAliases": self._add_aliases,
            "DeleteAliases": self._delete_aliases,
            "DeleteArtifact": self._delete,
        }

    def _run(self, told: Variables) -> dict[str, Any]:
        run = self._store.runs.get(told["name"])
        return {"project": {"run": run and _described(run)}}

    def _runs(self, told: Variables) -> dict[str, Any]:
        wanted = json.loads(told["filters"])
        found = [run for run in self._store.runs.values() if _matches(run, wanted)]
        page = {"endCursor": None, "hasNextPage": False}
        edges = [{"node": _described(run), "cursor": run.run_id} for run in found]
        listed = {"edges": edges, "pageInfo": page}
        shown = {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": listed}
        return {"project": shown}

    def _history(self, told: Variables) -> dict[str, Any]:
        lines = self._store.runs[told["run"]].lines(HISTORY)
        wanted = range(told["minStep"], told["maxStep"])
        # The service has no NaN: it writes it, and infinities, as texts.
        rows = [row for line in lines if (row := json.loads(line, parse_constant=str))["_step"] in wanted]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: told["pageSize"]]]}}}

    def _versions(self, told: Variables) -> dict[str, Any]:
        kind, name = told["type"], told["collection"]
        found = [one for one in self._store.artifacts if (one.type, one.name) == (kind, name)]
        found = [one for one in found if one.committed and not one.deleted]
        edges = [{"version": f"v{one.version}", "node": describe(one)} for one in found]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        listed = {"totalCount": len(edges), "pageInfo": page, "edges": edges}
        collection = {"__typename": "ArtifactSequence", "artifacts": listed} if edges else None
        return {"project": {"artifactType": {"artifactCollection": collection}}}

    def _add_aliases(self, told: Variables) -> dict[str, Any]:
        target = self._store.artifact(told["input"]["artifactID"])
        for alias in (entry["alias"] for entry in told["input"]["aliases"]):
            self._store.move_alias(target, alias)
        return {"result": {"success": True}, "addAliases": {"success": True}}

    def _delete_aliases(self, told: Variables) -> dict[str, Any]:
        target = self._store.artifact(told["input"]["artifactID"])
        gone = {entry["alias"] for entry in told["input"]["aliases"]}
        target.aliases = [alias for alias in target.aliases if alias not in gone]
        return {"result": {"success": True}}

    def _delete(self, told: Variables) -> dict[str, Any]:
        target = self._store.artifact(told["input"]["artifactID"])
        target.aliases, target.deleted = [], True
        return {"result": {"artifact": {"__typename": "Artifact", "id": target.artifact_id}}}


def _matches(run: Run, wanted: Mapping[str, Any]) -> bool:
    """Return whether a run has each wanted value of its group, id (which the service calls name) and tags."""
    has = {"group": [run.group], "name": [run.run_id], "tags": run.tags}
    return all(value in has[key] for key, value in wanted.items())


def _described(run: Run) -> dict[str, Any]:
    numbers = [json.loads(line)["_step"] for line in run.lines(HISTORY)]
    return {
        "projectId": "1",
        "id": run.run_id,
        "tags": run.tags,
        "name": run.run_id,
        "displayName": run.name,
        "sweepName": None,
        "state": {None: "running", 0: "finished"}.get(run.exit_code, "failed"),
        "config": json.dumps(run.stored_config),
        "group": run.group,
        "jobType": run.job_type,
        "commit": None,
        "readOnly": False,
        "createdAt": CREATED,
        "heartbeatAt": CREATED,
        "description": None,
        "notes": run.notes,
        "systemMetrics": "{}",
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(numbers),
        "user": {"name": "tester", "username": "tester"},
        "historyKeys": {"lastStep": max(numbers, default=-1), "keys": {}},
    }
