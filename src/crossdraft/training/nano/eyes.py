"""Stage 1: the picture encoders alone, supervised patch by patch.

Taught jointly with the language part from scratch, a small model hardly learns to look; taught first, in minutes,
the eyes leave the decoder little more to do than to read. Video-LLaVA reads the output of the layer before the last
one, EventGPT that of the last, so this is where the heads hang.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call
from transformers import CLIPVisionConfig, CLIPVisionModel

from crossdraft.core.seeds import seed_for
from crossdraft.data.images import CLIP_MEAN, CLIP_STD
from crossdraft.data.scenes import COLOURS, DAYLIGHTS, HEADINGS, KINDS, PLACES, SIGNALS, SIZE, SPEEDS
from crossdraft.training.nano import clips
from crossdraft.training.nano.clips import GRID, ClipSet


@dataclass(frozen=True, kw_only=True)
class EyesConfig:
    """Shape of a tower. read_layer: hidden state that the language part reads, as ``vision_feature_layer``."""

    width: int
    layers: int
    heads: int
    read_layer: int
    sees_colour: bool

    def vision_config(self) -> CLIPVisionConfig:
        """The same in Hugging Face's terms: 96 x 96 px, patches of 16, CLIP's quick GELU."""
        return CLIPVisionConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            image_size=SIZE,
            patch_size=SIZE // GRID,
            projection_dim=self.width,
            hidden_act="quick_gelu",
        )


PATCH_CLASSES = {"kind": (clips.KIND, len(KINDS) + 1), "colour": (clips.COLOUR, len(COLOURS) + 1),
                 "heading": (clips.HEADING, len(HEADINGS) + 1), "speed": (clips.SPEED, len(SPEEDS) + 1),
                 "rank": (clips.RANK, clips.MAX_COUNT + 1)}  # fmt: skip
WHOLE_CLASSES = {"count": (clips.COUNT, clips.MAX_COUNT + 1), "daylight": (clips.DAYLIGHT, len(DAYLIGHTS)),
                 "place": (clips.PLACE, len(PLACES)), "signal": (clips.SIGNAL, len(SIGNALS)),
                 "near_kind": (clips.NEAR_KIND, len(KINDS) + 1),
                 "near_colour": (clips.NEAR_COLOUR, len(COLOURS) + 1),
                 "near_heading": (clips.NEAR_HEADING, len(HEADINGS) + 1),
                 "near_speed": (clips.NEAR_SPEED, len(SPEEDS) + 1)}  # fmt: skip
COLOUR_ONLY = {"colour", "near_colour", "daylight", "place", "signal"}
MOTION_ONLY = {"speed", "near_speed"}


QUICK = 1.702  # quick GELU is x * sigmoid(1.702 x)


def _attend(attention: Any, x: Tensor, heads: int) -> Tensor:
    batch, steps, width = x.shape
    q, k, v = (
        layer(x).view(batch, steps, heads, -1).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    # 37 tokens: two plain products are twice as fast as the fused kernel, whose backward pass is slow in bfloat16
    out = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
    return attention.out_proj(out.transpose(1, 2).reshape(batch, steps, width))


class Eyes(nn.Module):
    """A CLIP vision tower and the throw-away heads that teach it."""

    def __init__(self, config: EyesConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = CLIPVisionModel(config.vision_config())
        hidden = COLOUR_ONLY if not config.sees_colour else MOTION_ONLY
        self.patch_classes = {k: v for k, v in PATCH_CLASSES.items() if k not in hidden}
        self.whole_classes = {k: v for k, v in WHOLE_CLASSES.items() if k not in hidden}
        self.norm = nn.LayerNorm(config.width)
        self.patch_head = nn.Linear(config.width, sum(n for _, n in self.patch_classes.values()) + 4)
        self.whole_head = nn.Linear(config.width, sum(n for _, n in self.whole_classes.values()))

    def look(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 37 W"]:
        """Features as the language part gets them, CLS first.

        The same numbers as ``CLIPVisionModel``'s hidden states up to rounding, in half the time: no layer behind
        the one that is read, patches by a matrix product, quick GELU as one scaled SiLU.
        """
        model: Any = getattr(self.tower, "vision_model", self.tower)  # transformers 4 nests it once more
        batch, width = len(pixels), self.config.width
        patch = SIZE // GRID
        cells = (
            pixels.view(batch, 3, GRID, patch, GRID, patch)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(batch, GRID * GRID, -1)
        )
        x = F.linear(cells, model.embeddings.patch_embedding.weight.flatten(1))
        x = torch.cat((model.embeddings.class_embedding.to(x.dtype).expand(batch, 1, width), x), 1)
        x = model.pre_layrnorm(x + model.embeddings.position_embedding.weight.to(x.dtype))
        used = self.config.layers + 1 + self.config.read_layer
        for layer in model.encoder.layers[:used]:
            x = x + _attend(layer.self_attn, layer.layer_norm1(x), self.config.heads)
            y = layer.layer_norm2(x)
            y = F.linear(y, layer.mlp.fc1.weight * QUICK, layer.mlp.fc1.bias * QUICK)
            x = x + F.linear(F.silu(y), layer.mlp.fc2.weight * (1 / QUICK), layer.mlp.fc2.bias)
        return x

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> tuple[dict[str, Tensor], Tensor]:
        """Logits by name ((B, 36, C) for patches, (B, C) for whole pictures) and boxes (B, 36, 4)."""
        return self.judge(self.look(pixels))

    def judge(self, states: Float[Tensor, "B 37 W"]) -> tuple[dict[str, Tensor], Tensor]:
        """What the heads make of features that ``look`` gave."""
        states = self.norm(states)
        parts = self.patch_head(states[:, 1:]).split([n for _, n in self.patch_classes.values()] + [4], -1)
        wholes = self.whole_head(states[:, 0]).split([n for _, n in self.whole_classes.values()], -1)
        logits = dict(zip(self.patch_classes, parts[:-1], strict=True))
        return logits | dict(zip(self.whole_classes, wholes, strict=True)), parts[-1]

    def loss(self, states: Float[Tensor, "B 37 W"], patches: Tensor, wholes: Tensor) -> Tensor:
        """Loss of features that ``look`` gave.

        patches: (B, 36, 9) and wholes: (B, 8) labels as ``clips.label_picture`` gives them.
        """
        logits, boxes = self.judge(states)
        logits = {k: v.float() for k, v in logits.items()}
        there = patches[..., clips.KIND] > 0
        total = torch.zeros((), device=states.device)
        for name, (column, _) in self.patch_classes.items():
            labels = patches[..., column].long()
            if name == "kind":  # every patch, the empty ones at a fifth of the weight (they are 15 times as many)
                each = F.cross_entropy(logits[name].flatten(0, 1), labels.flatten(), reduction="none")
                weight = torch.where(labels.flatten() > 0, 1.0, 0.2)
                total = total + 2.0 * (each * weight).sum() / weight.sum()
            else:
                total = total + F.cross_entropy(logits[name][there], labels[there])
        total = total + 2.0 * F.smooth_l1_loss(
            boxes.float()[there], patches[there][:, clips.DX : clips.HEIGHT + 1], beta=0.1
        )
        for name, (column, _) in self.whole_classes.items():
            total = total + 0.5 * F.cross_entropy(logits[name], wholes[:, column])
        return total

    def accuracy(self, pixels: Tensor, patches: Tensor, wholes: Tensor) -> Mapping[str, float]:
        """Share of right answers by head, at patches that hold an object; mean error of their centres in px."""
        logits, boxes = self(pixels)
        there = patches[..., clips.KIND] > 0
        out = {}
        for name, (column, _) in self.patch_classes.items():
            out[name] = (logits[name].argmax(-1) == patches[..., column].long())[there].float().mean().item()
        for name, (column, _) in self.whole_classes.items():
            out[name] = (logits[name].argmax(-1) == wholes[:, column]).float().mean().item()
        error = (boxes.float() - patches[..., clips.DX : clips.HEIGHT + 1])[there][:, :2].abs().mean()
        out["centre_px"] = error.item() * SIZE / GRID
        return out


def half_lesson(eyes: Eyes, pixels: Tensor, patches: Tensor, wholes: Tensor) -> tuple[Tensor, Tensor]:
    """Features and their loss, computed in bfloat16 throughout; gradients reach the float32 weights."""
    narrow = {f"eyes.{k}": v.to(torch.bfloat16) for k, v in eyes.named_parameters()}
    return functional_call(_Lesson(eyes), narrow, (pixels.to(torch.bfloat16), patches, wholes))


class _Lesson(nn.Module):
    def __init__(self, eyes: Eyes) -> None:
        super().__init__()
        self.eyes = eyes

    def forward(self, pixels: Tensor, patches: Tensor, wholes: Tensor) -> tuple[Tensor, Tensor]:
        states = self.eyes.look(pixels)
        return states, self.eyes.loss(states, patches, wholes)


def normalise(pictures: UInt8[np.ndarray, "B S S 3"] | Tensor, device: str = "cpu") -> Float[Tensor, "B 3 S S"]:
    """CLIP's mean and deviation for pictures that already have the right size."""
    pixels = torch.as_tensor(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(CLIP_MEAN, device=device).view(3, 1, 1)
    return (pixels - mean) / torch.tensor(CLIP_STD, device=device).view(3, 1, 1)


def other_light(pixels: Float[Tensor, "B 3 S S"], rng: np.random.Generator) -> Float[Tensor, "B 3 S S"]:
    """Pictures under light of another strength, each its own, and with a sensor's noise."""
    size, device = len(pixels), pixels.device
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (size, 1, 1, 1)).astype(np.float32)).to(device)
    shift = torch.from_numpy(rng.uniform(-0.15, 0.15, (size, 1, 1, 1)).astype(np.float32)).to(device)
    noise = torch.randn(pixels[:8].shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62)))) * 0.06
    return pixels * gain + shift + noise.to(device).repeat(-(-size // 8), 1, 1, 1)[:size]


def batch_of(
    data: ClipSet, step: int, size: int, seed: int, vary_light: bool, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Random pictures with their labels, a function of (seed, step); light and noise varied on request."""
    rng = np.random.default_rng(seed_for(seed, f"eyes/{step}"))
    index = np.sort(rng.integers(0, len(data) * data.pictures.shape[1], size))
    clip, frame = np.divmod(index, data.pictures.shape[1])
    pixels = normalise(data.pictures[clip, frame], device)
    if vary_light:
        pixels = other_light(pixels, rng)
    patches = torch.from_numpy(np.ascontiguousarray(data.patches[clip, frame])).to(device)
    return pixels, patches, torch.from_numpy(np.ascontiguousarray(data.wholes[clip, frame])).to(device)
