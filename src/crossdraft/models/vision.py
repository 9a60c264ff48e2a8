"""CLIP vision towers through transformers, and the preprocessing that a checkpoint asks for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError
from crossdraft.core.provenance import bf16_unit
from crossdraft.core.weights import read_json
from crossdraft.data.images import CLIP_MEAN, CLIP_STD, clip_preprocess, pad_to_square
from crossdraft.nn.decoder import MAX_LAYERS

# openai/clip-vit-large-patch14-336, what EventGPT and LLaVA-1.5 are built on
CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "model_type": "clip_vision_model",
}


def clip_tower(config: Mapping[str, Any]) -> nn.Module:
    """An uninitialised CLIP vision model of ``config`` (a vision_config). CheckpointError for another kind."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    kind = config.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        raise CheckpointError(f"vision tower '{kind}' is not supported; only CLIP towers (clip_vision_model) are")
    if (layers := int(config.get("num_hidden_layers", 24))) > MAX_LAYERS:
        raise CheckpointError(f"vision_config: num_hidden_layers is {layers}, must be at most {MAX_LAYERS}")
    known = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version", "dtype")}
    tower: nn.Module = CLIPVisionModel(CLIPVisionConfig(**known))
    return tower.eval()


def module_dtype(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """What a module on torch's own kernels is kept in beside an engine of ``dtype``: float32 where a CPU
    has no bfloat16 that is faster; emulated, it is slower several times."""
    slower = torch.device(device).type == "cpu" and not bf16_unit()
    return torch.float32 if dtype == torch.bfloat16 and slower else dtype


def tower_features(
    tower: nn.Module, pixels: Float[Tensor, "N 3 S S"], layer: int | Sequence[int]
) -> Float[Tensor, "N T C"]:
    """Hidden states of ``layer`` (index into embeddings + layers, -1 = last, no final norm), CLS first.

    Several layers are concatenated along the channels, as LLaVA does.
    """
    weight = next(tower.parameters())
    out = tower(pixels.to(weight.device, weight.dtype), output_hidden_states=True)
    if isinstance(layer, int):
        return out.hidden_states[layer]
    return torch.cat([out.hidden_states[i] for i in layer], dim=-1)


def strip_tower(name: str) -> str:
    """Tower keys of transformers 4 ("vision_model.encoder...") and 5 ("encoder...") under one name."""
    return name.removeprefix("vision_model.")


@dataclass(frozen=True)
class Preprocessing:
    """What a checkpoint's preprocessor_config.json says: edge in pixels, mean, std, padding to a square."""

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    pad: bool = False

    @classmethod
    def of(cls, folder: Path, size: int) -> "Preprocessing":
        """Read ``folder``; ``size`` is the tower's own edge, which a file may repeat but not contradict.

        Raises CheckpointError when it does.
        """
        found = read_json(folder / "preprocessor_config.json", needed=False)
        crop = found.get("crop_size", size)
        edge = crop.get("height", size) if isinstance(crop, Mapping) else crop
        if edge != size:
            raise CheckpointError(
                f"{folder}: preprocessor_config.json crops to {edge} pixels, but the vision tower takes {size}"
            )
        scale = found.get("size", size)
        short = scale.get("shortest_edge", scale.get("height", size)) if isinstance(scale, Mapping) else scale
        # tiles of LLaVA-NeXT are cut to the tower's edge, whatever the file says beside
        if short != size and "image_grid_pinpoints" not in found:
            raise CheckpointError(
                f"{folder}: preprocessor_config.json scales to {short} pixels and crops to {size}, which is not "
                "supported; both must be the vision tower's edge"
            )
        try:
            mean = tuple(float(v) for v in found.get("image_mean", CLIP_MEAN))
            std = tuple(float(v) for v in found.get("image_std", CLIP_STD))
            good = (
                len(mean) == len(std) == 3 and all(map(math.isfinite, mean)) and all(0 < v < math.inf for v in std)
            )
        except (TypeError, ValueError):
            good = False
        if not good:
            raise CheckpointError(
                f"{folder}: image_mean and image_std in preprocessor_config.json must be three numbers each"
            )
        return cls(size, mean, std, bool(found.get("do_pad", False)) and "image_grid_pinpoints" not in found)

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> Float[Tensor, "N 3 S S"]:
        """uint8 RGB pictures to the tower's input, float32."""
        if self.pad:
            red, green, blue = (int(m * 255) for m in self.mean)
            pictures = [pad_to_square(p, (red, green, blue)) for p in pictures]
        return clip_preprocess(list(pictures), self.size, self.mean, self.std)
