"""LLaVA-1.5 and LLaVA-NeXT (1.6): CLIP features of pictures, a two-layer projector, a Llama-family decoder.

Sources: Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744; LLaVA-NeXT (2024) for
any-resolution tiles. The layout of keys and the packing of tiles follow transformers' implementations.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError, DataError
from crossdraft.core.prompt import Prompt
from crossdraft.data.images import anyres_tiles, select_resolution
from crossdraft.data.templates import TEMPLATES
from crossdraft.models.llama import meta_decoder
from crossdraft.models.spliced import PLACEHOLDER, Encoded, Parts, SplicedVLM, read_parts, text_config
from crossdraft.models.vision import Preprocessing, clip_tower, module_dtype, strip_tower, tower_features
from crossdraft.nn.decoder import Decoder

# what transformers leaves unwritten
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_TOWER = re.compile(r"(vision_tower|image_tower|video_tower)\.(.*)")


def layers_of(config: dict[str, Any]) -> int | list[int]:
    """The tower's layer (or layers) that the decoder sees; LLaVA's default is the last but one."""
    found = config.get("vision_feature_layer", -2)
    return found if isinstance(found, int) else list(found)


class Projector(nn.Module):
    """Linear, GELU, linear: tower channels to the decoder's width."""

    def __init__(self, config: dict[str, Any], channels: int, width: int) -> None:
        super().__init__()
        if config.get("projector_hidden_act", "gelu") != "gelu":
            raise CheckpointError(f"projector activation '{config['projector_hidden_act']}' is not supported")
        bias = bool(config.get("multimodal_projector_bias", True))
        self.linear_1 = nn.Linear(channels, width, bias=bias)
        self.linear_2 = nn.Linear(width, width, bias=bias)

    def forward(self, features: Float[Tensor, "N T C"]) -> Float[Tensor, "N T D"]:
        """Tower features to decoder embeddings."""
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))


class LlavaParts(Parts):
    """Towers, projector and decoder of a LLaVA-like checkpoint. towers: names of its vision towers."""

    family = "llava"
    towers: tuple[str, ...] = ("vision_tower",)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        vision, text = dict(config.get("vision_config") or {}), text_config(config)
        for name in self.towers:
            setattr(self, name, clip_tower(vision))
        layers = layers_of(config)
        # hidden states: the embeddings, then one for each layer
        states = int(vision.get("num_hidden_layers", 12)) + 1
        for layer in [layers] if isinstance(layers, int) else layers:
            if not -states <= layer < states:
                raise CheckpointError(f"vision_feature_layer {layer} is none of the tower's {states} hidden states")
        channels = int(vision.get("hidden_size", 768)) * (1 if isinstance(layers, int) else len(layers))
        self.multi_modal_projector = Projector(config, channels, int(text["hidden_size"]))
        tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
        self.decoder = meta_decoder({**text, "tie_word_embeddings": tied})
        self.image_size = int(vision.get("image_size", 224))
        self.patch_size = int(vision.get("patch_size", 32))

    @staticmethod
    def rename(key: str) -> str | None:
        """Keys of transformers 4 and 5, as stored and as in memory."""
        if key.endswith(("rotary_emb.inv_freq", "embeddings.position_ids")):
            return None
        key = key.removeprefix("model.")
        if key.startswith(("language_model.", "lm_head.")):
            bare = key.removeprefix("language_model.").removeprefix("model.")
            return "decoder." + bare
        if found := _TOWER.fullmatch(key):
            return f"{found[1]}.{strip_tower(found[2])}"
        return key

    @staticmethod
    def publish(name: str) -> str:
        """The layout that transformers writes."""
        if not name.startswith("decoder."):
            return name
        bare = name.removeprefix("decoder.")
        return "language_model." + (bare if bare.startswith("lm_head.") else "model." + bare)


class LlavaNextParts(LlavaParts):
    """LLaVA-NeXT: with the vector that ends a row of patches."""

    family = "llava_next"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        pinpoints = config.get("image_grid_pinpoints") or _PINPOINTS
        if any(len(pair) != 2 or int(min(pair)) < self.image_size for pair in pinpoints):
            raise CheckpointError(f"image_grid_pinpoints {pinpoints} are not [height, width] of whole tiles")
        self.pinpoints = [[int(edge) for edge in pair] for pair in pinpoints]
        self.image_newline = nn.Parameter(torch.zeros(self.decoder.config.hidden_size))


class LlavaTarget(SplicedVLM):
    """LLaVA-1.5: every picture (or video frame) of the prompt becomes one block of patch embeddings."""

    parts_class: type[LlavaParts] = LlavaParts
    media_token = "<image>"

    def __init__(
        self, name: str, parts: LlavaParts, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(name, parts, folder, dtype, device)
        self.config = parts.config
        self.layers = layers_of(parts.config)
        self.keeps_cls = parts.config.get("vision_feature_select_strategy", "default") == "full"
        self.preprocess = Preprocessing.of(folder, parts.image_size)
        self.grid = parts.image_size // parts.patch_size
        dtype = module_dtype(dtype, device)
        self.projector = parts.multi_modal_projector.to(device, dtype)
        self.template = TEMPLATES[parts.family]
        self._towers = {t: getattr(parts, t).to(device, dtype) for t in parts.towers}

    @classmethod
    def load(
        cls,
        ref: str | Path,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        change: Callable[[Decoder], None] | None = None,
    ) -> "LlavaTarget":
        """Load a folder; ``change`` is given the decoder before it is packed. Raises CheckpointError."""
        parts, folder = read_parts(cls.parts_class, ref, dtype)
        assert isinstance(parts, LlavaParts)
        if change is not None:
            change(parts.decoder)
        return cls(folder.name, parts, folder, dtype, device)

    @torch.inference_mode()
    def encode(self, prompt: Prompt) -> Encoded:
        """Pictures through tower and projector, spliced in at the start of the first user turn."""
        if prompt.video is None or not len(prompt.video):
            raise DataError(f"{self.name} watches pictures; give a video with --video or a picture with --image")
        blocks, mark = self.look(list(prompt.video.frames))
        text = self.template.render(prompt.question, prompt.history, f"{mark * len(blocks)}\n")
        return self.splice(self.prompt_ids(text, mark), blocks)

    def look(self, frames: list[np.ndarray]) -> tuple[list[Tensor], str]:
        """One block of embeddings (M, D) for each picture, and the mark that stands for a block in the text."""
        blocks = self.project("vision_tower", self.preprocess(frames), self.keeps_cls)
        return list(blocks), self.media_token

    def project(self, tower: str, pixels: Float[Tensor, "N 3 S S"], keep_cls: bool) -> Float[Tensor, "N T D"]:
        """Tower and projector over prepared pixels."""
        features = tower_features(self._towers[tower], pixels, self.layers)
        return self.projector(features if keep_cls else features[:, 1:])

    def prompt_ids(self, text: str, mark: str) -> list[int]:
        """Ids of ``text`` behind BOS, every ``mark`` one placeholder."""
        mark_id = self.tokenizer.id_of(mark)
        if mark_id is not None:
            ids = self.tokenizer.encode(text)
        else:
            # a tokenizer that was never taught the mark: cut the text there
            mark_id = PLACEHOLDER
            first, *rest = text.split(mark)
            ids = self.tokenizer.encode(first)
            for piece in rest:
                ids += [PLACEHOLDER, *(self.tokenizer.encode(piece) if piece else [])]
        return self.tokenizer.bos + [PLACEHOLDER if i == mark_id else i for i in ids]


class LlavaNextTarget(LlavaTarget):
    """LLaVA-NeXT: a picture is cut into tiles of the best grid, beside the whole picture squeezed into one."""

    parts_class = LlavaNextParts

    def __init__(
        self, name: str, parts: LlavaParts, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(name, parts, folder, dtype, device)
        assert isinstance(parts, LlavaNextParts)
        self.newline = parts.image_newline.to(device, module_dtype(dtype, device))
        self.pinpoints = parts.pinpoints
        if dict(parts.config.get("text_config") or {}).get("model_type") == "mistral":
            self.template = TEMPLATES["llava_next_mistral"]

    def look(self, frames: list[np.ndarray]) -> tuple[list[Tensor], str]:
        """Tiles through the tower, packed row by row with an end mark for each row of patches."""
        blocks = []
        for frame in frames:
            tiles = anyres_tiles(frame, self.pinpoints, self.preprocess.size)
            features = self.project("vision_tower", self.preprocess(list(tiles)), self.keeps_cls)
            blocks.append(self._pack(features, frame.shape[:2]))
        return blocks, self.media_token

    def _pack(self, features: Float[Tensor, "N T D"], size: Sequence[int]) -> Float[Tensor, "M D"]:
        rows, columns = (
            edge // self.preprocess.size for edge in select_resolution((size[0], size[1]), self.pinpoints)
        )
        base, tiles = features[0], features[1:]
        # (rows, columns, grid, grid, D) -> (rows * grid, columns * grid, D)
        field = tiles.view(rows, columns, self.grid, self.grid, -1).transpose(1, 2).flatten(0, 1).flatten(1, 2)
        top, left = margins(field.shape[0], field.shape[1], size[0], size[1])
        field = field[top : field.shape[0] - top, left : field.shape[1] - left]
        ends = self.newline.expand(field.shape[0], 1, -1)
        return torch.cat((base, torch.cat((field, ends), dim=1).flatten(0, 1)))


def margins(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Patches (above = below, left = right) that hold only padding, for a picture laid into a grid of patches."""
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        return (rows - kept) // 2, 0
    kept = int(round(width * (rows / height), 7))
    return 0, (columns - kept) // 2
