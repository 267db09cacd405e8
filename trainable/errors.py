"""The errors loratune raises on purpose.

Every message holds three things: the offending value, what is allowed, and what to do next. A `UserError`
is the user's to mend: the command line prints it as one line and exits with code 2. Everything here can be
pickled, so that an error raised in a Ray actor reaches the terminal as it was.
"""

import difflib
from collections.abc import Iterable


class LoratuneError(Exception):
    """Base of every error that loratune raises on purpose."""


class UserError(LoratuneError):
    """A mistake the user can mend; ends the command with exit code 2."""


class ConfigError(UserError, ValueError):
    """A configuration key or value that is not allowed."""


class SpaceError(UserError, ValueError):
    """A search space that cannot be searched."""


class DataError(UserError, ValueError):
    """A data file or row that cannot be trained on."""


class ModelError(UserError, ValueError):
    """A base model that cannot be found or loaded."""


class ExperimentError(UserError, ValueError):
    """An experiment that exists already, or does not exist."""


class ClusterError(UserError, RuntimeError):
    """A Ray cluster that cannot be started or reached."""


class CheckpointError(UserError, ValueError):
    """A checkpoint that is corrupt, or of another model or data set."""


class NodeError(LoratuneError, RuntimeError):
    """A machine of the cluster that cannot compute what the search's other machines compute."""


class OutOfMemoryError(LoratuneError, MemoryError):
    """One trial alone does not fit the device."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the allowed name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
