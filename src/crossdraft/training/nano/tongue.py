"""Stage 2: projector and decoder, with the eyes, which go on learning slowly.

The eyes keep their own lesson beside the spoken one, so what they learnt stays and what the answers need is added;
they are a tenth of the work of a step.

Several questions about one clip share its visual prefix: each sees the prefix and itself only, with positions that
restart behind the prefix, so every question is trained exactly as if it stood alone, at a fraction of the cost.
An auxiliary loss in the middle of the decoder (throw-away linear heads on the states of the visual tokens) makes
the layers below it find out what lies *between* pictures, so that the layers above can read it off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdraft.core.seeds import seed_for
from crossdraft.nn.decoder import Decoder, DecoderConfig, DecoderLayer, _rotate
from crossdraft.nn.rope import rope_table
from crossdraft.training.nano import clips
from crossdraft.training.nano.eyes import PATCH_CLASSES, WHOLE_CLASSES, Eyes, half_lesson, normalise, other_light
from crossdraft.training.nano.words import Role, Segment, Words

AUX_PATCH = ("kind", "colour", "heading", "speed", "rank")
AUX_WHOLE = ("count", "near_kind", "near_colour", "near_heading", "near_speed", "daylight", "signal")
AUX_EVENT_PATCH = ("kind", "heading", "speed", "rank")
AUX_EVENT_WHOLE = ("count", "near_kind", "near_heading", "near_speed")


@dataclass(frozen=True, kw_only=True)
class TongueConfig:
    """Shape of projector and decoder. aux_layer: decoder layer behind which the auxiliary heads hang."""

    role: Role
    eyes_width: int
    decoder: DecoderConfig
    aux_layer: int
    aux_weight: float = 0.3


class Tongue(nn.Module):
    """Projector (and EventGPT's feature adaptor), decoder, auxiliary heads."""

    def __init__(self, config: TongueConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.hidden_size
        self.projector = nn.Sequential(nn.Linear(config.eyes_width, width), nn.GELU(), nn.Linear(width, width))
        self.adaptor = nn.Linear(width, width) if config.role == "event" else None
        self.decoder = Decoder(config.decoder)
        for name, weight in self.decoder.named_parameters():
            if weight.ndim == 2:
                scale = (
                    (2 * config.decoder.num_layers) ** -0.5
                    if name.endswith(("o_proj.weight", "down_proj.weight"))
                    else 1.0
                )
                nn.init.normal_(weight, std=0.02 if "embed" in name or "lm_head" in name else scale * width**-0.5)
        patch, whole = (AUX_PATCH, AUX_WHOLE) if config.role == "target" else (AUX_EVENT_PATCH, AUX_EVENT_WHOLE)
        self.aux_norm = nn.LayerNorm(width)
        self.patch_heads = nn.ModuleDict({k: nn.Linear(width, PATCH_CLASSES[k][1]) for k in patch})
        self.whole_heads = nn.ModuleDict({k: nn.Linear(width, WHOLE_CLASSES[k][1]) for k in whole})

    def visual(self, features: Tensor) -> Tensor:
        """(B, F, 37, W) features -> (B, T, D): all of Video-LLaVA's tokens, or EventGPT's pooled F + 37."""
        x = self.projector(features.to(next(self.projector.parameters()).dtype))
        if self.adaptor is None:
            return x.flatten(1, 2)
        x = self.adaptor(x)
        return torch.cat((x.mean(2), x.mean(1)), 1)

    def forward(self, batch: "Batch") -> tuple[Tensor, Mapping[str, Tensor]]:
        """Logits (M, V) where a weighted token is predicted, and the auxiliary states of the visual tokens."""
        seen = self.visual(batch.seen)
        embeds = self.decoder.embed_tokens(batch.ids)
        left = batch.left
        embeds = torch.cat((embeds[:, :left], seen.to(embeds.dtype), embeds[:, left:]), 1)
        states, tap = packed_states(self.decoder, embeds, batch, self.config.aux_layer)
        logits = self.decoder.unembed(states[batch.rows, batch.columns])
        tapped = self.aux_norm(tap[:, left : left + seen.shape[1]])
        return logits, {"visual": tapped}

    def loss(self, batch: "Batch") -> Tensor:
        """Weighted cross-entropy of the answers plus the auxiliary one."""
        logits, taps = self(batch)
        each = F.cross_entropy(logits.float(), batch.labels, reduction="none")
        speech = (each * batch.weights).sum() / batch.weights.sum()
        return speech + self.config.aux_weight * self._auxiliary(taps["visual"], batch)

    def _auxiliary(self, states: Tensor, batch: "Batch") -> Tensor:
        """What the visual tokens must know: patches of their objects, whole pictures of counts and the nearest."""
        total = states.new_zeros(())
        if self.config.role == "target":
            grid = states.unflatten(1, (clips.NUM_FRAMES, -1))  # (B, F, 37, D), CLS first
            cells, wholes = grid[:, :, 1:], grid[:, :, 0]
            patches, labels = batch.patches, batch.wholes
        else:
            middle = clips.NUM_EVENT_IMAGES // 2
            wholes, cells = states[:, : clips.NUM_EVENT_IMAGES], states[:, clips.NUM_EVENT_IMAGES + 1 :][:, None]
            patches, labels = batch.patches[:, middle : middle + 1], batch.wholes
        there = patches[..., clips.KIND] > 0
        at = cells[there]
        for name, head in self.patch_heads.items():
            total = total + F.cross_entropy(head(at).float(), patches[..., PATCH_CLASSES[name][0]][there].long())
        for name, head in self.whole_heads.items():
            column = WHOLE_CLASSES[name][0]
            total = total + 0.5 * F.cross_entropy(head(wholes).float().flatten(0, 1), labels[..., column].flatten())
        return total


SIGHT_WEIGHT = 0.5


class Pair(nn.Module):
    """Eyes and tongue, taught together."""

    def __init__(self, eyes: Eyes, tongue: Tongue) -> None:
        super().__init__()
        self.eyes, self.tongue = eyes, tongue

    def forward(self, batch: "Batch") -> Tensor:
        """Logits (M, V) where a weighted token is predicted, from a batch of pixels."""
        states = self.eyes.look(batch.seen.flatten(0, 1)).unflatten(0, batch.seen.shape[:2])
        return self.tongue(replace(batch, seen=states))[0]

    def loss(self, batch: "Batch") -> Tensor:
        """The answers' loss and, at ``SIGHT_WEIGHT``, the eyes' own."""
        states, sight = half_lesson(
            self.eyes, batch.seen.flatten(0, 1), batch.patches.flatten(0, 1), batch.wholes.flatten(0, 1)
        )
        spoken = self.tongue.loss(replace(batch, seen=states.unflatten(0, batch.seen.shape[:2])))
        return spoken + SIGHT_WEIGHT * sight


@dataclass(frozen=True)
class Batch:
    """Packed clips: per row the prefix (left text, visual tokens), then its segments one behind the other.

    seen: pixels (B, F, 3, S, S), or features (B, F, 37, W) once the eyes have looked;
    ids: (B, T') text ids, the visual tokens belong behind the first ``left``; positions: (B, T), restarting behind
    the prefix; gather: (B * Q, S) index of a segment's positions into the row, padded with ``prefix``; scatter:
    (B, R) where each position behind the prefix lies in (Q, S), flattened; sizes: (B * Q,) lengths of the segments;
    rows, columns: (M,) where a weighted token is predicted; labels, weights: (M,); facts: (index into M, category).
    """

    seen: Tensor
    patches: Tensor
    wholes: Tensor
    ids: Tensor
    left: int
    prefix: int
    positions: Tensor
    gather: Tensor
    scatter: Tensor
    sizes: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor
    weights: Tensor
    facts: list[tuple[int, str]]


def packed_states(decoder: Decoder, embeds: Tensor, batch: Batch, tap: int) -> tuple[Tensor, Tensor]:
    """What ``Decoder.forward`` gives under the mask "prefix and own segment only", and the output of layer ``tap``.

    The linear layers see the packed rows; attention is computed for the prefix once and for every segment over the
    prefix and itself, which is less than half of the work of one masked square.
    """
    cos, sin = rope_table(decoder.frequencies().to(embeds.device), batch.positions)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)  # (B, T, 1, d / 2)
    many, length = batch.gather.shape
    size, prefix = embeds.shape[0], batch.prefix
    own = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril()
    barrier = torch.zeros(length, prefix + length, device=embeds.device)
    barrier[:, prefix:].masked_fill_(~own, -1e4)
    causal = torch.zeros(prefix, prefix, device=embeds.device).masked_fill_(
        ~torch.ones(prefix, prefix, dtype=torch.bool, device=embeds.device).tril(), -1e4
    )
    each = many // size
    # rows of the flattened batch: index_select's backward pass adds whole rows, indexing's adds single numbers
    flat = (batch.gather + torch.arange(size, device=embeds.device).repeat_interleave(each)[:, None]
            * embeds.shape[1]).flatten()  # fmt: skip
    x, tapped = embeds, embeds
    for i, module in enumerate(decoder.layers):
        layer = cast(DecoderLayer, module)
        assert layer.input_layernorm is not None
        y = layer.input_layernorm(x)
        attention = layer.self_attn
        q, k, v = (
            linear(y).view(size, y.shape[1], decoder.config.num_heads, -1)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        angle_cos, angle_sin = cos.to(q.dtype), sin.to(q.dtype)
        q, k = _rotate(q, angle_cos, angle_sin), _rotate(k, angle_cos, angle_sin)
        front = _attend(q[:, :prefix], k[:, :prefix], v[:, :prefix], causal)
        qs, ks, vs = (  # (B * Q, S, H, d)
            t.flatten(0, 1).index_select(0, flat).view(many, length, *t.shape[2:]) for t in (q, k, v)
        )
        ks, vs = (
            torch.cat((t[:, None, :prefix].expand(-1, each, -1, -1, -1).flatten(0, 1), mine), 1)
            for t, mine in ((k, ks), (v, vs))
        )
        behind = _attend(qs, ks, vs, barrier).view(size, -1, y.shape[-1])
        behind = behind.gather(1, batch.scatter.unsqueeze(-1).expand(-1, -1, y.shape[-1]))
        x = x + attention.o_proj(torch.cat((front, behind), 1))
        x = layer.feed(x)
        if i == tap:
            tapped = x
    return decoder.norm(x), tapped


def _attend(q: Tensor, k: Tensor, v: Tensor, barrier: Tensor) -> Tensor:
    """(B, T, H, d) attention with an additive mask, by plain products: the fused CPU kernel is slower backwards."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + barrier.to(q.dtype)
    return (weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def pack(
    words: Words,
    segments: Sequence[Sequence[Segment]],
    seen: Tensor,
    patches: Tensor,
    wholes: Tensor,
    num_visual: int,
    device: str = "cpu",
) -> Batch:
    """One row a clip; every row must have as many segments."""
    left = words.left()
    prefix = len(left) + num_visual
    batch, many = len(segments), len(segments[0])
    behind = max(sum(len(s.ids) for s in row) for row in segments)
    length = max(len(s.ids) for row in segments for s in row)
    ids = np.zeros((batch, len(left) + behind), np.int64)
    ids[:, : len(left)] = left
    positions = np.zeros((batch, prefix + behind), np.int64)
    positions[:, :prefix] = np.arange(prefix)
    gather = np.full((batch * many, length), prefix, np.int64)
    scatter = np.zeros((batch, behind), np.int64)
    sizes = np.zeros(batch * many, np.int64)
    rows: list[int] = []
    columns: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    facts: list[tuple[int, str]] = []
    for b, row in enumerate(segments):
        at = 0
        for j, segment in enumerate(row):
            size, start = len(segment.ids), segment.prompt_length
            place = np.arange(size)
            ids[b, len(left) + at : len(left) + at + size] = segment.ids
            positions[b, prefix + at : prefix + at + size] = prefix + place
            gather[b * many + j, :size] = prefix + at + place
            scatter[b, at : at + size] = j * length + place
            sizes[b * many + j] = size
            facts += [(len(labels) + where - start, category) for where, category in segment.facts]
            rows += [b] * (size - start)
            columns += range(prefix + at + start - 1, prefix + at + size - 1)
            labels += segment.ids[start:]
            weights += segment.weights[start:]
            at += size

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(values).to(device)

    return Batch(
        seen.to(device), patches.to(device), wholes.to(device), tensor(ids), len(left), prefix,
        tensor(positions),
        tensor(gather), tensor(scatter), tensor(sizes), tensor(rows), tensor(columns), tensor(labels),
        tensor(np.array(weights, np.float32)), facts,
    )  # fmt: skip


@dataclass(frozen=True)
class Lessons:
    """What a tongue is taught from: pictures (N, F, S, S, 3) uint8, their labels, segments [clip][question].

    vary_light: whether drawn batches are shown under changing light.
    """

    words: Words
    pictures: np.ndarray
    patches: np.ndarray
    wholes: np.ndarray
    segments: list[list[Segment]]
    vary_light: bool = False

    @property
    def num_visual(self) -> int:
        """Visual tokens of one clip."""
        frames, tokens = self.pictures.shape[1], clips.GRID**2 + 1
        return frames * tokens if self.words.role == "target" else frames + tokens

    def draw(
        self,
        step: int,
        clips_of_batch: int,
        questions_of_clip: int,
        seed: int,
        device: str = "cpu",
        part: int = 0,
        parts: int = 1,
    ) -> Batch:
        """A batch, or a part of it, as a function of (seed, step): every epoch meets all clips in a new order."""
        total = len(self.pictures)
        chosen, questions = [], []
        for slot in range(step * clips_of_batch + part, (step + 1) * clips_of_batch, parts):
            epoch, place = divmod(slot, total)
            chosen.append(int(_order(seed, epoch, total)[place]))
            rng = np.random.default_rng(seed_for(seed, f"questions/{slot}"))
            many = len(self.segments[chosen[-1]])
            questions.append(rng.permutation(many)[:questions_of_clip])
        light = np.random.default_rng(seed_for(seed, f"light/{step}/{part}")) if self.vary_light else None
        return self.take(chosen, questions, device, light)

    def take(
        self,
        chosen: Sequence[int],
        questions: Sequence[Sequence[int] | np.ndarray],
        device: str = "cpu",
        light: np.random.Generator | None = None,
    ) -> Batch:
        """Pack given questions of given clips, seen under other light if a generator for it is given."""
        index = np.asarray(chosen)
        pictures = self.pictures[index]
        pixels = normalise(pictures.reshape(-1, *pictures.shape[2:]), device)
        if light is not None:
            pixels = other_light(pixels, light)
        return pack(
            self.words,
            [[self.segments[c][q] for q in asked] for c, asked in zip(chosen, questions, strict=True)],
            pixels.unflatten(0, pictures.shape[:2]),
            torch.from_numpy(np.array(self.patches[index])),
            torch.from_numpy(np.array(self.wholes[index])),
            self.num_visual,
            device,
        )


_ORDERS: dict[tuple[int, int, int], np.ndarray] = {}


def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    key = (seed, epoch, total)
    if key not in _ORDERS:
        _ORDERS.clear()
        _ORDERS[key] = np.random.default_rng(seed_for(seed, f"epoch/{epoch}")).permutation(total)
    return _ORDERS[key]


@torch.no_grad()
def fact_accuracy(pair: Pair, batches: Sequence[Batch]) -> dict[str, float]:
    """Teacher-forced: share of fact words whose first token is the argmax, by category, and the mean loss."""
    hits: dict[str, list[float]] = {}
    losses = []
    for batch in batches:
        logits = pair(batch)
        right = (logits.argmax(-1) == batch.labels).float()
        losses.append(F.cross_entropy(logits.float(), batch.labels).item())
        hits.setdefault("all_tokens", []).append(right.mean().item())
        for index, category in batch.facts:
            hits.setdefault(category, []).append(right[index].item())
    return {"loss": float(np.mean(losses))} | {k: float(np.mean(v)) for k, v in sorted(hits.items())}
