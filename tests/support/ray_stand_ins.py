"""As much of Ray's trials and controller as schedulers look at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FakeTrial:
    """As much of a Ray trial as a scheduler asks for."""

    trial_id: str
    status: str = "RUNNING"


class FakeController:
    """As much of Ray's controller as a scheduler asks for."""

    def get_live_trials(self) -> list[FakeTrial]:
        return []

    def get_trials(self) -> list[FakeTrial]:
        return []
