"""The user's cache: what can be made again, kept between experiments."""

import os
from pathlib import Path


def loratune_cache() -> Path:
    """Return the cache's folder: `LORATUNE_CACHE`, else `loratune` in `XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("LORATUNE_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "loratune"
