"""crossdraft: lossless faster answers from video-language models, by letting a second sensor draft.

Names are imported when they are asked for, so that ``import crossdraft`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from crossdraft._version import __version__

if TYPE_CHECKING:
    from crossdraft.build import generate, load_event_model, load_target, make_drafter

__all__ = ["__version__", "generate", "load_event_model", "load_target", "make_drafter"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'crossdraft' has no attribute '{name}'")
    from crossdraft import build

    return getattr(build, name)


def __dir__() -> list[str]:
    return sorted(__all__)
