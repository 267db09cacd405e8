"""Objects of the user's own, named `package.module:name` in a configuration."""

import importlib
import sys
from pathlib import Path
from typing import Any

from trainable.errors import ConfigError


def load_object(name: str, key: str) -> Any:
    """Import the object `package.module:name`; the current folder is searched as well.

    Args:
        name: where it is.
        key: the configuration key that names it, for the error message.

    Raises:
        ConfigError: there is no such module or object.
    """
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise ConfigError(f"{key}: '{name}' must be written as `package.module:name`.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}: '{name}' cannot be imported: {error}. Install its package, or run from its folder."
        ) from None
