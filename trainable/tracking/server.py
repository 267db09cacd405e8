"""What a W&B server has, asked through W&B's public API: rows and tags of runs, versions of an artifact.

The client's own word for "sent" is not enough: it forgets rows that the server refused, and the server's
summary of a run is up to 15 s ahead of the run's history. Each question is bounded in time.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import wandb
from wandb.sdk import wandb_setup
from wandb.sdk.lib import wbauth

from trainable import records

T = TypeVar("T")

ASK_TIMEOUT_S = 10
"""How long a server may take to answer one question."""


class ServerUnavailableError(Exception):
    """The server did not answer, or refused to."""


def has_key() -> bool:
    """Return whether W&B has credentials: environment, netrc or its settings.

    `wandb.login(prompt=False)` would tell it too, but it asks the server and fails without one.
    """
    host = wandb_setup.singleton().settings.base_url
    try:
        found = wbauth.authenticate_session(host=host, source="loratune", prompt=False, update_session=False)
    except wandb.Error:
        # There is a key and W&B cannot use it: starting the run will say what is wrong with it.
        return True
    return found is not None


def logged_steps(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the steps of which the history `rows` hold the plain values.

    A row that holds nothing but histograms or a table beside its step does not count. The server returns
    these as objects; an offline file has them flattened, as `predictions._type` and `predictions.nrows`.
    """
    return {
        int(row[records.STEP]) for row in rows if row.get(records.STEP) is not None and _has_plain_values(row)
    }


def _has_plain_values(row: Mapping[str, Any]) -> bool:
    flattened = tuple(f"{key.removesuffix('._type')}." for key in row if key.endswith("._type"))
    return any(
        key != records.STEP and not key.startswith(("_", *flattened)) and not isinstance(value, Mapping)
        for key, value in row.items()
    )


@dataclass(frozen=True)
class Version:
    """One committed version of an artifact, as the server describes it."""

    artifact: wandb.Artifact
    digest: str
    number: int
    aliases: Sequence[str]
    metadata: Mapping[str, Any]

    def move_here(self, *aliases: str) -> None:
        """Give aliases to this version; the one that had them loses them."""
        self.artifact.aliases = [*self.artifact.aliases, *aliases]
        ask(self.artifact.save)

    def delete(self) -> None:
        """Delete the version and its files on the server."""
        ask(lambda: self.artifact.delete(delete_aliases=True))


class Server:
    """The W&B server that the environment names."""

    def __init__(self) -> None:
        self._api: wandb.Api | None = None

    def ping(self) -> None:
        """Check that the server answers and takes the key.

        Raises:
            ServerUnavailableError: it does not, or there is no key.
        """
        if not has_key():
            raise ServerUnavailableError("there is no API key")
        # Making the interface to the API asks the server for the key's owner.
        self._api = ask(lambda: wandb.Api(timeout=ASK_TIMEOUT_S))

    def logged_steps(self, entity: str | None, project: str, run_id: str) -> set[int]:
        """Return the steps of which the server has the plain values of a run; `None`: the key's own entity.

        Raises:
            ServerUnavailableError: the server does not say.
        """

        def history(api: wandb.Api) -> set[int]:
            # What was read of a run before may have changed.
            api.flush()
            try:
                run = api.run(f"{entity or api.default_entity}/{project}/{run_id}")
            except (wandb.Error, ValueError) as error:
                if "Could not find run" in str(error):
                    return set()
                raise
            # A run without a row has no history to ask for.
            return logged_steps(run.scan_history(use_cache=False)) if run.lastHistoryStep >= 0 else set()

        return self._ask(history)

    def versions(self, entity: str | None, project: str, kind: str, name: str) -> list[Version]:
        """Return the committed versions of an artifact, oldest first; `None` is the key's own entity.

        Raises:
            ServerUnavailableError: the server does not say.
        """

        def listed(api: wandb.Api) -> list[Version]:
            try:
                owner = entity or api.default_entity
                artifacts = list(api.artifacts(kind, f"{owner}/{project}/{name}"))
            except ValueError:
                # What the client raises for a collection that does not exist.
                return []
            found = [
                Version(one, one.digest, int(one.version[1:]), tuple(one.aliases), dict(one.metadata))
                for one in artifacts
                if one.state == "COMMITTED"
            ]
            return sorted(found, key=lambda version: version.number)

        return self._ask(listed)

    def move_tag(self, entity: str, project: str, group: str, tag: str, run_id: str) -> bool:
        """Give a tag to one run of a group alone; returns whether the server has that run.

        Raises:
            ServerUnavailableError: the server does not take it.
        """

        def move(api: wandb.Api) -> bool:
            api.flush()
            path, options = f"{entity}/{project}", {"lazy": False, "include_sweeps": False}
            found = list(api.runs(path, filters={"group": group, "name": run_id}, **options))
            tagged = api.runs(path, filters={"group": group, "tags": tag}, **options) if found else ()
            for run in tagged:
                if run.id != run_id:
                    run.tags = [own for own in run.tags if own != tag]
                    run.update()
            for run in found:
                if tag not in run.tags:
                    run.tags = [*run.tags, tag]
                    run.update()
            return bool(found)

        return self._ask(move)

    def _ask(self, question: Callable[[wandb.Api], T]) -> T:
        if self._api is None:
            self.ping()
        api = self._api
        assert api is not None
        return ask(lambda: question(api))


def ask(question: Callable[[], T]) -> T:
    """Return the answer to a question.

    Raises:
        ServerUnavailableError: there is none within `ASK_TIMEOUT_S`.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def answer() -> None:
        try:
            answers.append(question())
        except Exception as error:
            errors.append(error)

    # Some requests of W&B's API have no time limit of their own.
    asking = threading.Thread(target=answer, name="wandb-ask", daemon=True)
    asking.start()
    asking.join(ASK_TIMEOUT_S)
    if errors:
        raise ServerUnavailableError(first_line(errors[0])) from errors[0]
    if not answers:
        raise ServerUnavailableError(f"no answer in {ASK_TIMEOUT_S} s")
    return answers[0]


def first_line(error: Exception) -> str:
    """Return an error's message on one line, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
