"""Which code reads which checkpoint, by the ``model_type`` of its config.json."""

from collections.abc import Mapping
from typing import Any

FAMILIES: dict[str, str] = {
    "video_llava": "crossdraft.models.video_llava:VideoLlavaTarget",
    "llava": "crossdraft.models.llava:LlavaTarget",
    "llava_next": "crossdraft.models.llava:LlavaNextTarget",
    "llama": "crossdraft.models.llama:LlamaTarget",
    "eventgpt": "crossdraft.models.eventgpt:EventGPT",
    "transformers": "crossdraft.models.hf:TransformersTarget",
}

PARTS: dict[str, str] = {
    "video_llava": "crossdraft.models.video_llava:VideoLlavaParts",
    "llava": "crossdraft.models.llava:LlavaParts",
    "llava_next": "crossdraft.models.llava:LlavaNextParts",
    "llama": "crossdraft.models.llama:LlamaParts",
    "eventgpt": "crossdraft.models.eventgpt:EventGPTParts",
}

_TYPES = {
    "video_llava": "video_llava",
    "llava": "llava",
    "llava_next": "llava_next",
    "llama": "llama",
    "mistral": "llama",
    "EventChat_llama": "eventgpt",
}


WATCHING = ("video_llava", "llava", "llava_next", "eventgpt")
"""Families that answer about pictures or events; a model on transformers' own code reads text alone."""


def family_of(config: Mapping[str, Any]) -> str:
    """The family of a config.json; "transformers" for architectures that our decoder does not know."""
    kind = str(config.get("model_type", ""))
    if kind == "mistral" and config.get("sliding_window"):
        return "transformers"
    return _TYPES.get(kind, "transformers")
