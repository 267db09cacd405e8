"""What W&B versions: the adapter, the data it was trained on, and the code that trained it.

The data's own rows are never sent: a data artifact holds a manifest with the name, size and SHA-256 of each
file, so runs on the same rows share one version. A code artifact holds the project's text files, and
nothing that looks like a secret, data, a checkpoint or a virtual environment.

W&B's API blocks on the server where it logs artifacts and tables; here they are handed to W&B's service
process instead, so nothing waits for the server.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.artifacts._internal_artifact import InternalArtifact
from wandb.sdk.artifacts.staging import get_staging_dir
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import DataConfig, DataFiles, WandbConfig
from trainable.data import open_source
from trainable.tracking.local import Waiting, artifact_folder, link_file, link_folder

MAX_NAME_LENGTH = 128
"""W&B refuses an artifact that has a longer name."""
MAX_CODE_BYTES = 1 << 20
"""Larger files are not code."""
MAX_CODE_FILES = 1000
MAX_ENTRIES_SEEN = 20_000
"""A folder that is no Git repository, such as a home folder, is searched no further than this."""

CODE_SUFFIXES = frozenset({".py", ".pyi", ".sh", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".md"})
SECRET_NAMES = ("*.env", ".env*", "*key*", "*secret*", "*.pem", "*netrc*", "*credential*", "*password*")
"""Patterns, in lower case, of file and folder names that no code artifact has."""
URL_WITH_PASSWORD = re.compile(rb"://[^/\s:@'\"]+:([^/\s@'\"$]+)@")
_OTHER_FOLDERS = frozenset({"node_modules", "site-packages", "wandb", "results", "models", "__pycache__"})


def artifact_name(text: str) -> str:
    """Return `text` as W&B takes an artifact's name: what it refuses becomes a dash."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[-MAX_NAME_LENGTH:]


def log_model(
    run: Run,
    directory: Path,
    name: str,
    aliases: Sequence[str],
    metadata: Mapping[str, Any],
    *,
    immutable: bool = False,
) -> None:
    """Log a folder as a version of the model artifact `name`.

    W&B itself numbers the versions `v0`, `v1`, ... and moves `latest`; an alias moves to the version that is
    logged with it last, and content that is there already makes no new version.

    Args:
        run: logs it.
        directory: the folder.
        name: the artifact's.
        aliases: of the version.
        metadata: of the version.
        immutable: nobody will change the files in place, so no copy of them is needed.
    """
    artifact = wandb.Artifact(artifact_name(name), type="model", metadata=dict(metadata))
    # File by file: `add_dir` writes to the terminal, whatever the settings say.
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        policy: Any = "immutable" if immutable else "mutable"
        artifact.add_file(str(path), name=str(path.relative_to(directory)), policy=policy, skip_cache=True)
    # `v1` and its like are W&B's own: asking for one as an alias is refused.
    _publish(run, artifact, ["latest", *(name for name in aliases if not re.fullmatch(r"v\d+", name))])


def log_again(run: Run, waiting: Waiting) -> None:
    """Log an artifact that an earlier process logged and the server never committed."""
    artifact = InternalArtifact(waiting.name, waiting.type, metadata=dict(waiting.metadata))
    link_folder(waiting.files, artifact_folder(run, waiting.type, waiting.digest) / waiting.files.name)
    files = artifact_folder(run, waiting.type, waiting.digest) / waiting.files.name
    for path in sorted(path for path in files.rglob("*") if path.is_file()):
        artifact.add_file(str(path), name=str(path.relative_to(files)), policy="immutable", skip_cache=True)
    _publish(run, artifact, waiting.aliases, use_after_commit=waiting.is_input)


def log_table(run: Run, table: wandb.Table, key: str, step: int | None) -> None:
    """Log a table in a row of its own, without asking the server.

    `Run.log` of a table first asks the server about the table's artifact, in an outage for 20 s, and loses
    the row if it gets no answer.
    """
    artifact = InternalArtifact(f"run-{run.id}-{key}", "run_table")
    # `Artifact.add` would leave a copy in W&B's staging folder forever.
    name = table.with_suffix(key)
    with artifact.new_file(name, policy="immutable") as file:
        json.dump(table.to_json(artifact), file, sort_keys=True)
    table._set_artifact_target(artifact, name)
    _publish(run, artifact, ["latest"])
    table.bind_to_run(run, key, run.step)
    run.log({key: table} | ({} if step is None else {records.STEP: step}))


def checkpoint_aliases(
    config: WandbConfig, *, is_best: bool, is_last: bool, is_final: bool | None = None
) -> list[str]:
    """Return the aliases that a checkpoint is logged with; none if `log_model` does not ask for it.

    Args:
        config: `log_model` and `log_artifacts` decide.
        is_best: whether it is the best so far.
        is_last: whether its run ends with it.
        is_final: whether it is the result of the full training; `None`: as `is_last`.
    """
    asked = {"checkpoint": True, "best": is_best, "end": is_last, False: False}[config.log_model]
    if not asked or not config.log_artifacts:
        return []
    final = is_last if is_final is None else is_final
    return ["latest", *(["best"] if is_best else []), *(["final"] if final else [])]


def checkpoint_metadata(directory: Path) -> dict[str, Any]:
    """Return what a version says about the checkpoint in `directory`.

    Raises:
        OSError: it is not there.
    """
    state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    config = state["config"]
    return {
        "step": state["step"],
        "state": state["record"].get(records.STATE),
        "metrics": records.MetricsRecord(state["record"]).metrics,
        "base_model": config["model"]["name"],
        "rank": config["lora"]["r"],
        "alpha": config["lora"]["alpha"],
        "data_hash": state["data_hash"],
    }


def use_data(run: Run, manifest: Mapping[str, Any], name: str) -> None:
    """Mark the data that `manifest` describes as an input of `run`; the same data is one version."""
    artifact = wandb.Artifact(artifact_name(name), type="dataset", metadata=dict(manifest))
    with artifact.new_file("manifest.json") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
    # What `use_artifact` does with a new artifact, but offline too and without waiting for the upload.
    _publish(run, artifact, ["latest"], use_after_commit=True)


def _publish(
    run: Run,
    artifact: wandb.Artifact,
    aliases: Sequence[str],
    *,
    use_after_commit: bool = False,
) -> None:
    """Hand an artifact to W&B's service, which keeps it in the run's file until the server has it.

    The files wait in the run's own folder, once, and W&B keeps no copy of them in its cache: whoever learns
    that the server has committed the artifact removes them.
    """
    # `Run.log_artifact` first asks the server about the collection, in an outage for 20 s, and then keeps
    # nothing of it on disk for `wandb sync`.
    artifact.finalize()
    waiting = Waiting(
        folder=artifact_folder(run, artifact.type, artifact.digest),
        name=artifact.name.partition(":")[0],
        type=artifact.type,
        digest=artifact.digest,
        aliases=list(dict.fromkeys(aliases)),
        metadata=artifact.metadata,
        is_input=use_after_commit,
    )
    staging = Path(get_staging_dir())
    for entry in artifact.manifest.entries.values():
        if entry.local_path is None:
            continue
        source, target = Path(entry.local_path), waiting.files / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_relative_to(staging):
            shutil.move(source, target)
        elif source != target:
            link_file(source, target)
        entry.local_path, entry.skip_cache = str(target), True
    waiting.write()
    run._interface.publish_artifact(
        run, artifact, waiting.aliases, is_user_created=use_after_commit, use_after_commit=use_after_commit
    )


def data_manifest(data: DataConfig, data_hash: str | None = None) -> dict[str, Any]:
    """Describe the data files by name, size and SHA-256; the same rows at another place are the same data.

    Args:
        data: names the files.
        data_hash: of `PreparedData`; files and template as one value.

    Raises:
        OSError, DataError: a file cannot be read.
    """
    manifest: dict[str, Any] = {"prompt_template": data.prompt_template, "max_length": data.max_length}
    if data_hash is not None:
        manifest["data_hash"] = data_hash
    for split in ("train", "val", "test"):
        files: DataFiles | None = getattr(data, split)
        if files is not None:
            manifest[split] = open_source(files, split).describe()
    return manifest


def log_code(run: Run, root: Path, name: str) -> None:
    """Log the project's text files under `root` as a code artifact, if there are any."""
    artifact = InternalArtifact(artifact_name(name), "code")
    # `Run.log_code` walks the whole folder it is given; from the project itself that could be minutes.
    for path in code_files(root):
        artifact.add_file(str(path), name=str(path.relative_to(root)))
    if artifact.manifest.entries:
        _publish(run, artifact, ["latest"])
        run.config.update({"_wandb": {"code_path": artifact.name}}, allow_val_change=True)


def code_files(root: Path) -> Iterator[Path]:
    """Yield the project's text files under `root`: those that Git tracks, or all where Git tracks none."""
    count = 0
    secrets = _secrets()
    for path in _tracked(root) or _walk(root):
        relative = path.relative_to(root)
        if count == MAX_CODE_FILES:
            return
        if path.suffix not in CODE_SUFFIXES or _is_left_out(relative) or not _is_small_file(path):
            continue
        content = path.read_bytes()
        if not URL_WITH_PASSWORD.search(content) and not any(secret in content for secret in secrets):
            count += 1
            yield path


def _tracked(root: Path) -> list[Path]:
    command = ["git", "-C", str(root), "ls-files", "-z", "."]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [root / name for name in done.stdout.decode(errors="surrogateescape").split("\0") if name]


def _walk(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not _is_foreign(Path(folder) / name))
        for name in sorted(files):
            yield Path(folder) / name
        seen += len(folders) + len(files)
        if seen > MAX_ENTRIES_SEEN:
            return


def _is_foreign(folder: Path) -> bool:
    hidden = folder.name.startswith(".")
    return hidden or folder.name in _OTHER_FOLDERS or (folder / "pyvenv.cfg").exists()


def _is_left_out(relative: Path) -> bool:
    names = [part.lower() for part in relative.parts]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in SECRET_NAMES)


def _secrets() -> list[bytes]:
    """The environment's own secrets, which a file may repeat."""
    named = re.compile("KEY|TOKEN|SECRET|PASSWORD")
    return [os.fsencode(text) for name, text in os.environ.items() if named.search(name) and len(text) >= 12]


def _is_small_file(path: Path) -> bool:
    # A link could lead out of the project, to whatever lies there.
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_CODE_BYTES
