"""optuna-dashboard on an experiment's study: served to this machine alone, and never written to."""

import importlib.util
import socketserver
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import BaseStorage

from trainable.errors import ExperimentError, UserError
from tune.store.study import StudyStore

if TYPE_CHECKING:
    from optuna._typing import JSONSerializable
    from optuna.distributions import BaseDistribution
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial

HOST = "127.0.0.1"


def serve(study: StudyStore | None, port: int, say: Callable[[str], None]) -> None:
    """Serve the dashboard until it is interrupted; a page that is loaded again shows what came since.

    Args:
        study: the experiment's; `None` if the search has not created one.
        port: of this machine; 0: any that is free.
        say: takes the page's address.

    Raises:
        UserError: optuna-dashboard is not installed, or the port is taken.
        ExperimentError: there is no study yet.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError(
            "the dashboard needs optuna-dashboard: pip install 'loratune[dashboard]'. "
            "`loratune report` needs nothing."
        )
    if study is None:
        raise ExperimentError("the search has not created its study yet: nothing was tried.")
    from optuna_dashboard import wsgi

    storage = ReadOnlyStudy(study.study)
    try:
        server = make_server(HOST, port, wsgi(storage), _Server, _QuietHandler)
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used ({error.strerror}); --port 0 takes any free one."
        ) from None
    with server:
        say(f"http://{HOST}:{server.server_port}/dashboard/studies/{storage.study_id}")
        server.serve_forever()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Keep the requests out of the terminal."""


class ReadOnlyStudy(BaseStorage):
    """One study of a storage, which nobody can change through this object.

    Attributes:
        study_id: the study's.
    """

    def __init__(self, study: optuna.Study) -> None:
        """Show a study; others that share its storage are not seen."""
        self._storage = study._storage
        self._name = study.study_name
        self.study_id = study._study_id

    def get_all_studies(self) -> "list[FrozenStudy]":
        """Return the study."""
        return [one for one in self._storage.get_all_studies() if one.study_name == self._name]

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the study's id."""
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the study's name."""
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[optuna.study.StudyDirection]:
        """Return the study's directions."""
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the study's own attributes."""
        return self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return Optuna's attributes of the study."""
        return self._storage.get_study_system_attrs(study_id)

    def get_trial(self, trial_id: int) -> "FrozenTrial":
        """Return a trial."""
        return self._storage.get_trial(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[optuna.trial.TrialState] | None = None,
    ) -> "list[FrozenTrial]":
        """Return the study's trials."""
        return self._storage.get_all_trials(study_id, deepcopy, states)

    def create_new_study(
        self, directions: Sequence[optuna.study.StudyDirection], study_name: str | None = None
    ) -> NoReturn:
        """Refuse."""
        self._refuse()

    def delete_study(self, study_id: int) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: "JSONSerializable") -> NoReturn:
        """Refuse."""
        self._refuse()

    def create_new_trial(self, study_id: int, template_trial: "FrozenTrial | None" = None) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: "BaseDistribution",
    ) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_trial_state_values(
        self, trial_id: int, state: optuna.trial.TrialState, values: Sequence[float] | None = None
    ) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        """Refuse."""
        self._refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: "JSONSerializable") -> NoReturn:
        """Refuse."""
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise RuntimeError("the study of an experiment can only be looked at here")
