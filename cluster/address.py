"""Which Ray a search runs on: the cluster that it is started in, one that is named, or a Ray of its own.

An address is tried before Ray gets it: Ray waits minutes for a wrong one, or ends the process without a word.
The trial connection runs in a process of its own, and within `_PATIENCE_S` it has succeeded or is an error.
"""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private.utils import get_ray_address_file
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]

from trainable.errors import ClusterError

OWN = "local"
"""The address that stands for a Ray of the search's own."""

_KNOCK_S = 5.0
_PATIENCE_S = 25.0
_HOST_PORT = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")
_CONNECT = """
import json, sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    print(json.dumps(None))
except Exception as error:
    print(json.dumps([type(error).__name__, " ".join(str(error).split())]))
"""
TOKEN_ADVICE = (
    "Put the cluster's token in the variable RAY_AUTH_TOKEN or in the file ~/.ray/auth_token "
    "(RAY_AUTH_TOKEN_PATH names another); `ray get-auth-token` on the head node prints it."
)
_START_ADVICE = (
    "Start a cluster with `ray start --head`, or let the search start a Ray of its own with "
    "--cluster.address local."
)


@dataclass(frozen=True)
class Target:
    """Where a search runs.

    Attributes:
        address: `host:port` of a cluster, or `OWN`.
        named_by: what named the cluster, such as `RAY_ADDRESS`.
    """

    address: str
    named_by: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it is a Ray of the search's own."""
        return self.address == OWN


def send_token() -> bool:
    """Have Ray send the token that this user has, unless RAY_AUTH_MODE says what to do.

    Only for a cluster that asks for one: at another, Ray destroys every actor of a process that sends it.

    Returns:
        Whether a token will be sent that was not before.
    """
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_MODE" in os.environ or not (os.environ.get("RAY_AUTH_TOKEN") or place.is_file()):
        return False
    os.environ["RAY_AUTH_MODE"] = "token"
    # Ray's native code has read the variable already.
    RayConfig.initialize("")
    return True


def in_job() -> bool:
    """Return whether this process is the entry point of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def find(address: str) -> Target:
    """Return what an address stands for, without trying it.

    Args:
        address: `local`, `host:port`, or `auto`: the cluster that `RAY_ADDRESS` names, as it does in a Ray
            job; else the one that this user has started here with `ray start` and that still answers; else
            a Ray of the search's own.

    Raises:
        ClusterError: it is none of these.
    """
    if ray.is_initialized():
        return Target(ray.get_runtime_context().gcs_address, "this process's own connection")
    if address != "auto":
        return Target(_checked(address, "cluster.address"), "cluster.address")
    named = os.environ.get("RAY_ADDRESS") or "auto"
    if named != "auto":
        return Target(_checked(named, "RAY_ADDRESS"), "RAY_ADDRESS")
    started = _started_here()
    if started and _knock(started) is None:
        return Target(started, "`ray start` on this machine")
    return Target(OWN)


def try_out(target: Target) -> None:
    """Connect to a cluster once, in a process of its own.

    Raises:
        ClusterError: nothing answers there, it is no Ray cluster or one of another version, or it refuses the
            token.
    """
    named = f"{target.named_by} '{target.address}'"
    if reason := _knock(target.address):
        raise ClusterError(f"{named}: no Ray cluster answers there: {reason}. {_START_ADVICE}")
    command = [sys.executable, "-c", _CONNECT, target.address]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{named}: something listens there, but it does not answer as a Ray cluster's head does within "
            f"{_PATIENCE_S:g} s. The port is that of `ray start --head`, 6379 by default; a dashboard's "
            "address (http://HOST:8265) is for `loratune submit`."
        ) from None
    answer = done.stdout.strip().splitlines()
    if done.returncode == 0 and answer and answer[-1] == "null":
        return
    kind, text = _error(answer[-1] if answer else "")
    # A refused token reaches Python as a plain lost connection; only the native log tells them apart.
    if kind == "AuthenticationError" or "InvalidAuthToken" in done.stderr:
        if send_token():
            return try_out(target)
        raise ClusterError(f"{named}: the cluster's token is missing or wrong. {TOKEN_ADVICE}")
    if "ersion mismatch" in text:
        raise ClusterError(f"{named}: {text} Use the same versions of Ray and Python on both sides.")
    raise ClusterError(f"{named}: no Ray cluster answers there: {text or 'no reason given'}. {_START_ADVICE}")


def _started_here() -> str | None:
    """Return the address that this user's `ray start` has noted on this machine, if it has."""
    note = Path(get_ray_address_file(None))
    try:
        # Another user's cluster would refuse the token.
        address = note.read_text().strip() if note.stat().st_uid == os.getuid() else ""
    except OSError:
        return None
    return address if _HOST_PORT.fullmatch(address) else None


def _error(line: str) -> tuple[str, str]:
    """Return the type and the text of the error that the trial connection printed."""
    try:
        kind, text = json.loads(line)
    except (ValueError, TypeError):
        return "", ""
    return kind, text if "ersion mismatch" in text else text.split(". ")[0].rstrip(".")


def _checked(address: str, named_by: str) -> str:
    if address == OWN or _HOST_PORT.fullmatch(address):
        return address
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{named_by} '{address}' is the address of a cluster's dashboard, to which a search is sent: "
            f"loratune submit --address {address} …. To run the search in this process, give the head's "
            "HOST:6379; RAY_ADDRESS can be overruled by --cluster.address."
        )
    if address.startswith("ray://"):
        raise ClusterError(
            f"{named_by} '{address}': a search cannot run through Ray Client, which would lose it with this "
            "process. Send it to the cluster: loratune submit --address http://HOST:8265 …"
        )
    raise ClusterError(
        f"{named_by} '{address}' is not an address. Give auto, local or HOST:PORT, such as 10.0.0.1:6379."
    )


def _knock(address: str) -> str | None:
    """Return why a connection to the port fails; `None` if it does not."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
