"""What a machine of the cluster has of what a search needs; each is asked before anything is trained."""

import math
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from trainable.config import DataConfig, ModelConfig
from trainable.config.sections import is_gguf
from trainable.data import content_hash
from trainable.errors import UserError
from trainable.places import Place, place_of
from trainable.software import software
from trainable.stores import read_at

SHARED_MEMORY = Path("/dev/shm")
_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it, with its memory in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Node:
    """What a machine answers.

    Attributes:
        name: the machine's.
        software: see `trainable.software`.
        clock: Unix time in seconds when it answered.
        data: a hash of the data files; an error's text begins with "!".
        model: why the base model cannot be loaded from where it is said to be; empty if it may be.
        storage: what the file on the shared storage says; empty if it is not there; an error's text begins
            with "!".
        disk_free: free bytes where results are written; `None` if the folder is not there.
        memory_free: free bytes of shared memory; `None` if the machine has none.
        gpus: those that torch sees; empty without asking torch.
        parameters: the base model's number of weights; `None` if they are not in local files.
    """

    name: str
    software: Mapping[str, str]
    clock: float
    data: str
    model: str
    storage: str
    disk_free: int | None
    memory_free: int | None
    gpus: tuple[Gpu, ...] = field(default=())
    parameters: int | None = None


def describe(data: DataConfig, model: ModelConfig, results: Place, probe: Place, *, ask_torch: bool) -> Node:
    """Return what this machine has.

    Args:
        data: the data to look for.
        model: the base model to look for.
        results: the folder of the results, or its URI.
        probe: a file on storage that every node should share.
        ask_torch: whether to look for GPUs, which takes seconds.
    """
    return Node(
        name=socket.gethostname(),
        software=software(),
        clock=time.time(),
        data=_data(data),
        model=_model(model),
        storage=_read(probe),
        disk_free=_free(folder) if isinstance(folder := place_of(results), Path) else None,
        memory_free=_free(SHARED_MEMORY),
        gpus=_gpus() if ask_torch else (),
        parameters=_parameters(model),
    )


def _data(data: DataConfig) -> str:
    try:
        return content_hash(data)
    except (UserError, OSError) as error:
        return f"!{error}"


def _model(model: ModelConfig) -> str:
    """Return why a local base model is not there; a hub's and a built-in one are found when it is loaded."""
    try:
        path = model.path()
        if path is not None and is_gguf(path):
            from trainable.model.gguf import check_gguf

            check_gguf(path)
    except UserError as error:
        return str(error)
    named = Path(model.name).expanduser()
    if not named.is_absolute() or (path is not None and path.is_file()):
        return ""
    missing = named if is_gguf(named) else named / "config.json"
    return "" if missing.is_file() else f"there is no {missing}"


def _parameters(model: ModelConfig) -> int | None:
    """Count a local model's weights from the headers of its files."""
    try:
        path = model.path()
        if path is not None and path.is_file():
            from trainable.model.gguf import count_weights

            return count_weights(path)
        files = sorted(Path(model.name).expanduser().glob("*.safetensors"))
        return sum(_weights_in(file) for file in files) if files else None
    except (OSError, SafetensorError, UserError, ImportError, ValueError, IndexError):
        # Loading the model says what is wrong with the file.
        return None


def _weights_in(file: Path) -> int:
    with safe_open(file, framework="numpy") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def _read(place: Place) -> str:
    try:
        return read_at(place, patience_s=_PATIENCE_S)
    except FileNotFoundError:
        return ""
    except (OSError, UserError) as error:
        return f"!{error}"


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _gpus() -> tuple[Gpu, ...]:
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(Gpu(torch.cuda.get_device_name(number), free, total))
    return tuple(found)
