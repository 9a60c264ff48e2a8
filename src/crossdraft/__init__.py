"""crossdraft: lossless faster answers from video-language models, by letting a second sensor draft."""

from crossdraft._version import __version__

__all__ = ["__version__"]
