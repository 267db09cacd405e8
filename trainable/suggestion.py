"""What a search hands to a trial: its configuration, and where its files go."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainable.config import TrialConfig


@dataclass(frozen=True)
class TrialFiles:
    """Places, paths or URIs, that a trial's process and its engine write to.

    Attributes:
        error: a file for the last error that ended an attempt at the trial.
        interrupted_checkpoint: the folder of a checkpoint taken between two evaluations, because the search
            was stopped.
    """

    error: str
    interrupted_checkpoint: str


@dataclass(frozen=True)
class Suggestion:
    """One trial as the searcher suggests it.

    Attributes:
        config: everything the trial is configured by.
        params: the searched values by dotted key.
        number: the trial's number in the study.
        attempt: 1, plus one for each time the trial was resumed.
        files: where the trial writes; `None` in a test or tool that has no experiment.
        follows: the number of the trial that this one is another attempt at; `None` for a trial of its own.
        wait_s: how long the trial waits before it begins, after a fault of the infrastructure.
    """

    config: TrialConfig
    params: Mapping[str, Any]
    number: int
    attempt: int = 1
    files: TrialFiles | None = None
    wait_s: float = 0.0
    follows: int | None = None

    def to_ray(self) -> dict[str, Any]:
        """Return the trial's Ray configuration, in types that JSON has."""
        return {
            "trial": self.config.model_dump(mode="json"),
            "params": dict(self.params),
            "number": self.number,
            "attempt": self.attempt,
            "wait_s": self.wait_s,
            "follows": self.follows,
            "files": asdict(self.files) if self.files else None,
        }

    @classmethod
    def from_ray(cls, config: Mapping[str, Any]) -> "Suggestion":
        """Read what `to_ray` returned."""
        files = config.get("files")
        return cls(
            config=TrialConfig.model_validate(config["trial"]),
            params=config["params"],
            number=config["number"],
            attempt=config.get("attempt", 1),
            wait_s=config.get("wait_s", 0.0),
            follows=config.get("follows"),
            files=TrialFiles(**files) if files else None,
        )
