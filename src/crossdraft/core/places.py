"""Where this package keeps what it has measured, fetched or compiled. Standard library only."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$CROSSDRAFT_CACHE, else the user's cache folder."""
    if own := os.environ.get("CROSSDRAFT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossdraft"
