"""EventGPT: rendered event images through CLIP, a projector and an adaptor, pooled over space and time, a decoder.

Written from a description of the published checkpoint's layout and pre-processing (Liu et al., "EventGPT", CVPR
2025), not from its code. Left out on purpose: applying the adaptor a second time, as a fork's cached-feature path
does. Differences from LLaVA that matter: the *last* layer of the tower, CLS kept, no final norm.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError, DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.weights import read_headers, read_json
from crossdraft.data.events import render_event_images
from crossdraft.data.templates import MEDIA, TEMPLATES
from crossdraft.models.llama import meta_decoder
from crossdraft.models.loading import load_weights, resolve_checkpoint
from crossdraft.models.spliced import PLACEHOLDER, Encoded, Parts, SplicedVLM, build_parts, fill
from crossdraft.models.vision import (
    CLIP_L_336,
    Preprocessing,
    clip_tower,
    module_dtype,
    strip_tower,
    tower_features,
)
from crossdraft.nn.decoder import Decoder

NUM_IMAGES = 5
_TOWER = "visual_tower."


class EventGPTParts(Parts):
    """Tower, projector, adaptor, decoder.

    The tower's shape is config["vision_config"] where given (our own checkpoints), else that of
    CLIP ViT-L/14-336, which the published one hard-wires. Raises CheckpointError for a Q-Former variant.
    """

    family = "eventgpt"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        if config.get("use_event_qformer"):
            raise CheckpointError(
                "this EventGPT wants a Q-Former (use_event_qformer), which was never published; unsupported"
            )
        vision = {**CLIP_L_336, **dict(config.get("vision_config") or {})}
        channels, width = int(vision["hidden_size"]), int(config.get("hidden_size") or 4096)
        self.visual_tower = clip_tower(vision)
        self.visual_projector = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
        self.feature_adaptor = nn.Linear(width, width) if "event_feature_adaptor" in config else nn.Identity()
        self.decoder: Decoder = meta_decoder(config)
        self.image_size = int(vision["image_size"])

    @staticmethod
    def rename(key: str) -> str | None:
        """The tower is nested twice in the published keys."""
        if key.endswith(("rotary_emb.inv_freq", "embeddings.position_ids")):
            return None
        bare = key.removeprefix("model.")
        if bare.startswith(_TOWER):
            return _TOWER + strip_tower(bare.removeprefix(_TOWER).removeprefix(_TOWER))
        if bare.startswith(("visual_projector.", "feature_adaptor.")):
            return bare
        return "decoder." + bare

    @staticmethod
    def publish(name: str) -> str:
        """The published layout."""
        if name.startswith(_TOWER):
            return "model.visual_tower.visual_tower.vision_model." + name.removeprefix(_TOWER)
        if name.startswith(("visual_projector.", "feature_adaptor.")):
            return "model." + name
        bare = name.removeprefix("decoder.")
        return bare if bare.startswith("lm_head.") else "model." + bare

    def event_tokens(self, pixels: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "M D"]:
        """T images to T temporal and then P spatial embeddings (P patches + CLS): M = T + P + 1."""
        features = tower_features(self.visual_tower, pixels, -1)
        return self.pool(self.feature_adaptor(self.visual_projector(features)))

    @staticmethod
    def pool(features: Float[Tensor, "T P D"]) -> Float[Tensor, "M D"]:
        """Mean over each image's tokens, then mean over the images token by token."""
        return torch.cat((features.mean(dim=1), features.mean(dim=0)))


class EventGPT(SplicedVLM):
    """The event model: five images, each of a fifth of the events, pooled to T + P positions."""

    def __init__(
        self, name: str, parts: EventGPTParts, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(name, parts, folder, dtype, device)
        self.preprocess = Preprocessing.of(folder, parts.image_size)
        self.template = TEMPLATES["eventgpt"]
        self._parts = parts
        for module in (parts.visual_tower, parts.visual_projector, parts.feature_adaptor):
            module.to(device, module_dtype(dtype, device))
        del parts.decoder  # the engine has its own copy

    @classmethod
    def load(
        cls,
        ref: str | Path,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        change: Callable[[Decoder], None] | None = None,
    ) -> "EventGPT":
        """Load a folder; ``change`` alters the decoder's weights before they are packed. Raises CheckpointError."""
        parts, folder = read_event_parts(ref, dtype)
        if change is not None:
            change(parts.decoder)
        return cls(folder.name, parts, folder, dtype, device)

    @torch.inference_mode()
    def encode(self, prompt: Prompt) -> Encoded:
        """Split the events by count into five images, render, look, pool, splice.

        Raises DataError without events, or with fewer events than images.
        """
        if prompt.events is None:
            raise DataError(f"{self.name} watches events; give an event recording with --events")
        images = render_event_images(prompt.events, NUM_IMAGES)
        tokens = self._parts.event_tokens(self.preprocess(images))
        return self.splice(self.prompt_ids(prompt), [tokens])

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Each side of the events is tokenised alone; BOS only in front of the first."""
        text = self.template.render(prompt.question, prompt.history, f"<ev_start>{MEDIA}<ev_end>\n")
        before, after = text.split(MEDIA)
        return [*self.tokenizer.bos, *self.tokenizer.encode(before), PLACEHOLDER, *self.tokenizer.encode(after)]


def read_event_parts(ref: str | Path, dtype: torch.dtype) -> tuple[EventGPTParts, Path]:
    """The modules of a checkpoint and its folder; a tower that the folder lacks is read from the one that
    ``mm_visual_tower`` names.

    Raises CheckpointError.
    """
    folder = resolve_checkpoint(ref)
    config = read_json(folder / "config.json")
    if (beside := tower_beside(folder, config)) is not None:
        config["vision_config"] = tower_config(beside)
    parts = build_parts(EventGPTParts, config, folder)
    assert isinstance(parts, EventGPTParts)
    tower_names = tuple(n for n, _ in parts.named_parameters() if n.startswith(_TOWER))
    fill(parts, folder, dtype, elsewhere=tower_names if beside is not None else ())
    if beside is not None:
        load_weights(parts.visual_tower, beside, _clip_key, dtype)
    return parts, folder


def _clip_key(key: str) -> str | None:
    """A CLIP checkpoint's key as a vision tower's; its text half and projections are not used."""
    key = key.removeprefix("clip.")
    if key.startswith(("text_model.", "text_projection", "visual_projection", "logit_scale")):
        return None
    return None if key.endswith("embeddings.position_ids") else strip_tower(key)


def tower_beside(folder: Path, config: dict[str, Any]) -> Path | None:
    """The CLIP folder of a checkpoint that holds no tower itself; None if it holds one. Raises CheckpointError."""
    if any((EventGPTParts.rename(key) or "").startswith(_TOWER) for key in read_headers(folder)):
        return None
    return tower_folder(config, folder)


def tower_folder(config: dict[str, Any], folder: Path) -> Path:
    """Where the CLIP tower lies that a checkpoint leaves out: a local folder only, nothing is fetched unasked.

    Raises CheckpointError that says which model to fetch.
    """
    named = str(config.get("mm_visual_tower") or "openai/clip-vit-large-patch14-336")
    for place in (Path(named), folder / named, folder / "visual_tower"):
        if (place / "config.json").is_file():
            return place
    raise CheckpointError(
        f"{folder} holds no vision tower and '{named}' is no local folder; "
        f"put that CLIP model's config.json and safetensors into {folder / 'visual_tower'}"
    )


def tower_config(folder: Path) -> dict[str, Any]:
    """The vision part of a CLIP folder's config.json."""
    config = read_json(folder / "config.json")
    return {**CLIP_L_336, **dict(config.get("vision_config") or config), "model_type": "clip_vision_model"}
