"""Models in their published checkpoint formats, on our one decoder.

    model = load_vlm("DIR", dtype=torch.bfloat16)         # core.protocols.VLM, chosen by config.json's model_type
    report = check_checkpoint("DIR")                      # what it is, from config and headers alone

Training builds the un-prepared modules and writes them back in the same layout:

    parts = own_memory(VideoLlavaParts(config))           # config: the config.json mapping
    parts.video_tower, parts.image_tower, parts.multi_modal_projector, parts.decoder
    parts = own_memory(EventGPTParts(config))
    parts.visual_tower, parts.visual_projector, parts.feature_adaptor, parts.decoder; parts.event_tokens(pixels)
    save_parts(parts, folder)                             # model.safetensors + config.json; add tokenizer files
"""

from collections.abc import Callable
from pathlib import Path

import torch

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.protocols import VLM
from crossdraft.core.registry import find
from crossdraft.core.weights import read_json
from crossdraft.models.catalogue import FAMILIES, PARTS, family_of
from crossdraft.models.check import CheckReport, check_checkpoint
from crossdraft.models.ends import Ends, read_ends
from crossdraft.models.fingerprint import fingerprint
from crossdraft.models.llama import own_memory
from crossdraft.models.loading import resolve_checkpoint
from crossdraft.models.spliced import build_parts, read_parts, save_like, save_parts
from crossdraft.nn.decoder import Decoder, DecoderConfig

__all__ = [
    "FAMILIES",
    "CheckReport",
    "Ends",
    "check_checkpoint",
    "decoder_config",
    "fingerprint",
    "load_vlm",
    "own_memory",
    "read_ends",
    "read_parts",
    "resolve_checkpoint",
    "save_like",
    "save_parts",
]


def load_vlm(
    ref: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    family: str | None = None,
    change: Callable[[Decoder], None] | None = None,
) -> VLM:
    """Load a checkpoint folder (or a hub id that the user named) for inference.

    family: a name of ``FAMILIES``; None reads it from config.json. change: is given the decoder before it is
    packed, to alter its weights or to keep them for training (models on our own decoder only).
    Raises CheckpointError with one line when it cannot be loaded, SettingError for a dtype or device that is not
    offered, before anything is read.
    """
    if dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise SettingError(f"dtype {dtype} is not supported; use bfloat16 or float32")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"device '{device}' is not there: no CUDA device was found; use cpu")
    folder = resolve_checkpoint(ref)
    chosen = family or family_of(read_json(folder / "config.json"))
    kind = find("model family", FAMILIES, chosen)
    if change is not None and chosen == "transformers":
        raise SettingError(f"{folder} runs on transformers' own code; its decoder cannot be changed or trained on")
    model: VLM = kind.load(folder, dtype, device) if change is None else kind.load(folder, dtype, device, change)
    return model


def decoder_config(ref: str | Path) -> DecoderConfig:
    """The shape of a checkpoint's decoder, from its config.json alone.

    Raises CheckpointError when there is none, or the checkpoint runs on transformers' own code.
    """
    folder = resolve_checkpoint(ref)
    config = read_json(folder / "config.json")
    family = family_of(config)
    if family not in PARTS:
        raise CheckpointError(f"{folder} runs on transformers' own code; drafting heads need a Llama-like decoder")
    with torch.device("meta"):
        return build_parts(find("model family", PARTS, family), config, folder).decoder.config
