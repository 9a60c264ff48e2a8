"""crossdraft: lossless faster answers from video-language models, by letting a second sensor draft.

Names are imported when they are asked for, so that ``import crossdraft`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crossdraft._version import __version__

if TYPE_CHECKING:
    from crossdraft.build import generate, load_event_model, load_target, make_drafter, open_memory
    from crossdraft.core.errors import CheckpointError, CrossdraftError, DataError, SettingError
    from crossdraft.core.prompt import EventStream, VideoFrames
    from crossdraft.core.types import Generation
    from crossdraft.data.events import load_events
    from crossdraft.data.video import read_video
    from crossdraft.drafters.memory import StreamMemory

_HOMES = {
    "crossdraft.build": ("generate", "load_event_model", "load_target", "make_drafter", "open_memory"),
    "crossdraft.core.errors": ("CheckpointError", "CrossdraftError", "DataError", "SettingError"),
    "crossdraft.core.prompt": ("EventStream", "VideoFrames"),
    "crossdraft.core.types": ("Generation",),
    "crossdraft.data.events": ("load_events",),
    "crossdraft.data.video": ("read_video",),
    "crossdraft.drafters.memory": ("StreamMemory",),
}

__all__ = [
    "CheckpointError",
    "CrossdraftError",
    "DataError",
    "EventStream",
    "Generation",
    "SettingError",
    "StreamMemory",
    "VideoFrames",
    "__version__",
    "generate",
    "load_event_model",
    "load_events",
    "load_target",
    "make_drafter",
    "open_memory",
    "read_video",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'crossdraft' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
