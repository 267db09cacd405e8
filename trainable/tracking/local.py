"""What W&B's client keeps on this disk of each run: its folder, its file, artifacts that are not sent yet.

A run's folder is `wandb/run-TIME-ID` or, if the process that wrote it was offline,
`wandb/offline-run-TIME-ID`. A run that several processes continued has several. Artifacts wait in the
folder's `artifacts`, each with a note of what it is, until the server has committed them; so they survive
the process that logged them.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wandb.sdk.wandb_run import Run

from trainable.files import write_atomically
from trainable.tracking.server import logged_steps

SEND_TIMEOUT_S = 120
"""How long sending what a run wrote offline may take."""
OFFLINE_SUFFIX = "-offline"
"""What the id of a run ends in if W&B's service still held its id for a start that had failed."""
_ARTIFACTS = "artifacts"
_FILES = "files"
_NOTE = "artifact.json"


def run_folders(directory: Path, run_id: str) -> list[Path]:
    """Return every folder of a run under the `directory` given to `start_run`, oldest first."""
    own = run_id.removesuffix(OFFLINE_SUFFIX)
    found = [
        path
        for path in (directory / "wandb").glob(f"*run-*-{own}*")
        if path.is_dir() and path.name.endswith((f"-{own}", f"-{own}{OFFLINE_SUFFIX}"))
    ]
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def offline_files(directory: Path, run_id: str) -> list[Path]:
    """Return what processes have written offline of a run, oldest first.

    Args:
        directory: as given to `start_run`.
        run_id: as given to `start_run`; a run that was continued as `ID-offline` is found as well.
    """
    offline = [path for path in run_folders(directory, run_id) if path.name.startswith("offline-")]
    return [file for folder in offline for file in sorted(folder.glob("run-*.wandb"))]


def unsent_files(directory: Path, run_id: str) -> list[Path]:
    """Return those of `offline_files` that have not been sent to W&B."""
    return [path for path in offline_files(directory, run_id) if not Path(f"{path}.synced").exists()]


def is_unsent(directory: Path, run_id: str) -> bool:
    """Return whether no earlier process has sent W&B anything of a run; all it has are files here."""
    return all(
        folder.name.startswith("offline-") and not any(folder.glob("*.synced"))
        for folder in run_folders(directory, run_id)
    )


def continued_id(directory: Path, run_id: str) -> str:
    """Return the id that a run is continued under: an earlier process may have had to choose another."""
    begun = [path.stem.removeprefix("run-") for path in offline_files(directory, run_id)]
    return begun[0] if begun else run_id


def send_offline(directory: Path, run_id: str, arrived: Collection[int]) -> None:
    """Send W&B what was written offline of a run, so that it can be continued online in order.

    W&B appends what it is sent. So a file with rows that the server has, because sending it was interrupted
    or a person sent it, is not sent again: what it lacks is completed from the trial's result log.

    Args:
        directory: as given to `start_run`.
        run_id: as given to `start_run`.
        arrived: the steps that the server has of the run.

    Raises:
        OSError, subprocess.SubprocessError: W&B does not take it.
    """
    for path in unsent_files(directory, run_id):
        if not set(arrived).isdisjoint(steps_in(path)):
            Path(f"{path}.synced").touch()
    if unsent := unsent_files(directory, run_id):
        command = [sys.executable, "-m", "wandb", "sync", *(str(path.parent) for path in unsent)]
        subprocess.run(command, capture_output=True, check=True, timeout=SEND_TIMEOUT_S)


def steps_in(path: Path) -> Iterator[int]:
    """Yield the step of each row with plain values in a run's file, up to where a crash truncated it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    for line in output.splitlines():
        record = json.loads(line)
        if record.get("type") == "history":
            yield from logged_steps([record["history"]["item"]])


def sync_command(directory: Path, *, begun_online: bool = False) -> str:
    """Return the shell command that sends the runs under `directory` to W&B.

    Args:
        directory: as given to `start_run`.
        begun_online: send also what is left of runs that began online; W&B skips these by default.
    """
    folder = shlex.quote(str(directory / "wandb"))
    if begun_online:
        return f"wandb sync --include-online {folder}/*run-*"
    return f"wandb sync {folder}/offline-run-*"


def sync_command_for(folders: Sequence[Path]) -> str:
    """Return the shell command that sends exactly these runs' folders to W&B."""
    online = any(not folder.name.startswith("offline-") for folder in folders)
    options = "--include-online " if online else ""
    return f"wandb sync {options}{' '.join(shlex.quote(str(folder)) for folder in folders)}"


@dataclass(frozen=True)
class Waiting:
    """An artifact on this disk that the server may not have committed yet.

    Attributes:
        folder: where it lies.
        name, type: of the artifact.
        digest: of its content, as the server knows it.
        aliases: it was logged with.
        metadata: it was logged with.
        is_input: the run uses it and did not make it.
    """

    folder: Path
    name: str
    type: str
    digest: str
    aliases: Sequence[str]
    metadata: Mapping[str, Any]
    is_input: bool = False

    @property
    def files(self) -> Path:
        """The folder of the artifact's files."""
        return self.folder / _FILES

    def write(self) -> None:
        """Write the note, once the files are there."""
        note = asdict(self)
        del note["folder"]
        write_atomically(self.folder / _NOTE, json.dumps(note))

    def remove(self) -> None:
        """Remove the artifact from this disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


def artifact_folder(run: Run, kind: str, digest: str) -> Path:
    """Return the folder in which an artifact of a run waits for its upload."""
    return Path(run.settings.sync_dir) / _ARTIFACTS / f"{kind}-{digest[:32]}"


def waiting_artifacts(folder: Path) -> list[Waiting]:
    """Return the artifacts in a run's folder that wait for their upload."""
    found = []
    for note in sorted((folder / _ARTIFACTS).glob(f"*/{_NOTE}"), key=lambda path: path.stat().st_mtime_ns):
        found.append(Waiting(note.parent, **json.loads(note.read_text(encoding="utf-8"))))
    return found


def remove_incomplete(folder: Path) -> None:
    """Remove the artifacts in a run's folder that a process died before it had logged."""
    for path in (folder / _ARTIFACTS).glob("*"):
        if not (path / _NOTE).exists():
            shutil.rmtree(path, ignore_errors=True)


def hold_version(held: Path, files: Path, metadata: Mapping[str, Any]) -> None:
    """Keep the files of a version, and what it says of itself, until it is logged.

    Raises:
        OSError: the files are not there, or the disk is full.
    """
    shutil.rmtree(held, ignore_errors=True)
    held.mkdir(parents=True)
    link_folder(files, held / _FILES)
    write_atomically(held / _NOTE, json.dumps(dict(metadata)))


def held_version(held: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a held version's files, and its metadata.

    Raises:
        OSError: it was not held completely.
    """
    return held / _FILES, json.loads((held / _NOTE).read_text(encoding="utf-8"))


def link_folder(source: Path, target: Path) -> None:
    """Make `target` a second name of every file under `source`; a copy where there are no hard links."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link_file(path, link)


def link_file(path: Path, link: Path) -> None:
    """Make `link` a second name of a file; a copy where there are no hard links."""
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)
