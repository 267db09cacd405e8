"""The dashboard shows an experiment's study, and cannot change it."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.experiments import ExperimentBuilder
from trainable.errors import ExperimentError, UserError
from tune.read.dashboard import ReadOnlyStudy, serve

pytest.importorskip("optuna_dashboard", reason="needs the extra `dashboard`")


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentBuilder:
    builder = ExperimentBuilder(tmp_path / "results" / "seen")
    builder.begin("a", 5, 10, state="running")
    return builder


@pytest.fixture
def page(experiment: ExperimentBuilder) -> str:
    said: list[str] = []
    ready = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        ready.set()

    study = experiment.store.open_study(experiment.config)
    threading.Thread(target=serve, args=(study, 0, say), daemon=True).start()
    assert ready.wait(30)
    return said[0]


def asked(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def test_it_shows_the_study_to_this_machine_alone(page: str, experiment: ExperimentBuilder) -> None:
    assert page.startswith("http://127.0.0.1:")
    assert b"<html" in asked(page).lower()
    root = page.partition("/dashboard")[0]
    (study,) = json.loads(asked(f"{root}/api/studies"))["study_summaries"]
    assert study["study_name"] == "seen"
    detail = json.loads(asked(f"{root}/api/studies/{study['study_id']}"))
    assert [trial["intermediate_values"] for trial in detail["trials"]] == [
        [{"step": 5, "value": 0.2}, {"step": 10, "value": 0.1}]
    ]


def test_what_the_search_adds_meanwhile_is_there(experiment: ExperimentBuilder) -> None:
    study = experiment.store.open_study(experiment.config)
    assert study is not None
    seen = ReadOnlyStudy(study.study)
    assert len(seen.get_all_trials(seen.study_id)) == 1
    experiment.begin("b", 5)
    assert len(seen.get_all_trials(seen.study_id)) == 2


def test_nothing_can_be_changed(page: str, experiment: ExperimentBuilder) -> None:
    before = (experiment.folder / "study.journal").read_bytes()
    root = page.partition("/dashboard")[0]
    (study,) = json.loads(asked(f"{root}/api/studies"))["study_summaries"]
    changes = [
        ("DELETE", f"studies/{study['study_id']}", None),
        ("POST", "studies", {"study_name": "mine", "directions": ["minimize"]}),
        ("PUT", f"studies/{study['study_id']}/note", {"body": "x", "version": 1}),
    ]
    for method, path, body in changes:
        with pytest.raises(urllib.error.HTTPError):
            asked(f"{root}/api/{path}", method, body)
    assert (experiment.folder / "study.journal").read_bytes() == before


def test_a_taken_port_and_a_search_without_a_study_are_said(page: str, experiment: ExperimentBuilder) -> None:
    port = int(page.split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=f"port {port} cannot be used .*--port 0 takes any free one"):
        serve(experiment.store.open_study(experiment.config), port, print)
    with pytest.raises(ExperimentError, match="has not created its study yet"):
        serve(None, 0, print)
