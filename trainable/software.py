"""What a process computes with: the versions of its libraries, and loratune's own code by its content.

Two processes that differ here can give different losses for the same trial, so the engines of one search must
not. Read from the installed packages' metadata: nothing is imported.
"""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")


@functools.cache
def software() -> dict[str, str]:
    """Return the version of each part by its name.

    `loratune` is a hash of the code that trains, because two copies of one version can differ. Python counts
    without its patch version, and torch without the accelerator that it was built for.
    """
    versions = {name: _version(name) for name in _LIBRARIES}
    return {"loratune": _code_hash(), "python": ".".join(platform.python_version_tuple()[:2]), **versions}


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Return how `found` differs from `wanted`, as in "torch 2.9.0, not 2.13.0"; empty if it does not."""
    return "; ".join(
        f"{name} {found.get(name, 'missing')}, not {version}"
        for name, version in wanted.items()
        if found.get(name) != version
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _code_hash() -> str:
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
