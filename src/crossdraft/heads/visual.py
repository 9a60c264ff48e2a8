"""What becomes of the pictures' entries when a drafting head reads a prompt: read, compressed, or summed up.

Only the drafter's view changes; the target reads its own prompt, so the answer cannot.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossdraft.core.errors import DataError, SettingError

if TYPE_CHECKING:
    from crossdraft.heads.feature import Reading

BRANCHES = ("prune", "pool", "conv", "resample", "text-only")
"""Ways to compress: keep some, average some, a learned average, a few learned queries, none at all."""

Kind = Literal["direct", "compress", "summary"]


@dataclass(frozen=True, kw_only=True)
class VisualConfig:
    """kind: "direct" (MSD): a picture's embedding stands for embedding and feature. "compress" (SpecVLM): fewer
    entries, by the branch that a gate chooses for the question. "summary" (ViSpec): learned queries, all but the
    last of which stand for the picture, the last of which is blended into every feature of text.

    branches: of ``BRANCHES``, for the gate to choose from; one switches the gate off. ratio: entries that prune and
    pool make one of. queries: learned ones of "resample" and "summary". Defaults: SpecVLM's and ViSpec's.
    """

    kind: Kind
    branches: tuple[str, ...] = BRANCHES
    ratio: int = 3
    queries: int = 2

    def __post_init__(self) -> None:
        if self.kind not in ("direct", "compress", "summary"):
            raise SettingError(f"visual kind is '{self.kind}', must be direct, compress or summary")
        if unknown := [b for b in self.branches if b not in BRANCHES]:
            raise SettingError(f"unknown compressor '{unknown[0]}'; known: {', '.join(BRANCHES)}")
        if self.kind == "compress" and not self.branches:
            raise SettingError("a compressor needs at least one branch")
        if self.ratio < 1 or self.queries < 1 or (self.kind == "summary" and self.queries < 2):
            raise SettingError("ratio must be 1 or more, queries 1 or more (for a summary 2 or more)")


class Visual(nn.Module):
    """The modules that ``config`` asks for, for states of ``width``.

    "compress": conv has kernel and stride 3 over entries; resample is one cross-attention with q, k, v and o of
    full width (arXiv 2509.11815, whose text gives no sizes). The gate reads the last feature of the prompt.
    "summary": queries attend with k, v and o (arXiv 2509.15235).
    """

    STRIDE = 3

    def __init__(self, config: VisualConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        compresses = config.kind == "compress"
        has = set(config.branches) if compresses else set()
        # as a matrix over three neighbours; at first it averages them
        self.conv = nn.Linear(self.STRIDE * width, width, bias=False) if "conv" in has else None
        self.gate = nn.Linear(width, len(config.branches)) if compresses and len(config.branches) > 1 else None
        attends = "resample" in has or config.kind == "summary"
        self.queries = nn.Parameter(torch.randn(config.queries, width) * width**-0.5) if attends else None
        self.q_proj = nn.Linear(width, width, bias=False) if "resample" in has else None
        self.k_proj = nn.Linear(width, width, bias=False) if attends else None
        self.v_proj = nn.Linear(width, width, bias=False) if attends else None
        self.o_proj = nn.Linear(width, width, bias=False) if attends else None
        self.img_fc = nn.Linear(2 * width, width) if config.kind == "summary" else None
        with torch.no_grad():
            if self.conv is not None:
                self.conv.weight.copy_(torch.eye(width).repeat(1, self.STRIDE) / self.STRIDE)
            if self.img_fc is not None:
                self.img_fc.weight.copy_(torch.cat((torch.eye(width), torch.zeros(width, width)), dim=1))
                self.img_fc.bias.zero_()

    def forward(
        self, reading: "Reading", is_visual: Bool[Tensor, "T"], question: Float[Tensor, "B D"]
    ) -> "Reading":
        """is_visual: entries whose embedding is a picture's, one block of them. question: what the gate reads, the
        feature of each prompt's last position.

        Raises DataError for several blocks.
        """
        places = torch.nonzero(is_visual).flatten()
        first, end = int(places[0]), int(places[-1]) + 1
        if end - first != len(places):
            raise DataError("this drafting head reads prompts with one block of picture positions, not several")
        if self.config.kind == "direct":
            return replace(reading, direct=is_visual.expand(reading.embeds.shape[:2]))
        if self.config.kind == "summary":
            return self._sum_up(reading, first, end)
        return self._compress(reading, first, end, question)

    def blend(self, feats: Float[Tensor, "B T D"], context: Float[Tensor, "B D"]) -> Float[Tensor, "B T D"]:
        """``img_fc([f; g])``."""
        assert self.img_fc is not None
        spread = context[:, None].expand(*feats.shape[:2], -1).to(feats.dtype)
        return self.img_fc(torch.cat((feats, spread), dim=-1))

    # -- SpecVLM ---------------------------------------------------------------------------------------------------

    def choose(self, question: Float[Tensor, "B D"]) -> tuple[int, Tensor | None]:
        """(branch for the whole batch, the gate's probability of it for each sequence).

        In training the branch is drawn (Gumbel), at inference it is the gate's best.
        """
        if self.gate is None:
            return 0, None
        logits = self.gate(question.to(self.gate.weight.dtype)).float()
        shared = logits.mean(0)
        if self.training:
            noise = -torch.log(-torch.log(torch.rand(shared.shape, device=shared.device).clamp(1e-9, 1 - 1e-7)))
            shared = shared + noise
        branch = int(shared.detach().argmax())
        return branch, logits.softmax(-1)[:, branch]

    def _compress(self, reading: "Reading", first: int, end: int, question: Tensor) -> "Reading":
        branch, chance = self.choose(question)
        name = self.config.branches[branch]
        emb, feat = reading.embeds[:, first:end], reading.feats[:, first:end]
        if name == "text-only":
            emb, feat, kept = emb[:, :0], feat[:, :0], reading.positions[:0]
        elif name == "resample":
            emb = self._attend(emb)
            feat = feat.mean(1, keepdim=True).expand_as(emb)
            kept = _last(reading.positions, first, end, emb.shape[1])
        else:
            # each window stands at its last position; the last window may be a short one
            size = self.STRIDE if name == "conv" else self.config.ratio
            last = torch.arange(size - 1, end - first + size - 1, size).clamp(max=end - first - 1)
            kept = reading.positions[first:end][last]
            if name == "prune":
                emb, feat = emb[:, last], feat[:, last]
            else:
                parts = _windows(emb, size)
                emb = parts.mean(2) if name == "pool" else self._convolve(parts)
                feat = _windows(feat, size).mean(2)
        if chance is not None:
            # straight through: 1 in value, the gate's probability in the gradient
            through = (1 + (chance - chance.detach()))[:, None, None].to(emb.dtype)
            emb, feat = emb * through, feat * through
        return _spliced(reading, first, end, emb, feat, kept)

    def _convolve(self, parts: Float[Tensor, "B W S D"]) -> Float[Tensor, "B W D"]:
        assert self.conv is not None
        return self.conv(parts.flatten(2))

    def _attend(self, seen: Float[Tensor, "B M D"]) -> Float[Tensor, "B Q D"]:
        assert self.queries is not None and self.k_proj and self.v_proj and self.o_proj
        q = self.queries.to(seen.dtype).expand(len(seen), -1, -1)
        if self.q_proj is not None:
            q = self.q_proj(q)
        return self.o_proj(F.scaled_dot_product_attention(q, self.k_proj(seen), self.v_proj(seen)))

    # -- ViSpec ----------------------------------------------------------------------------------------------------

    def _sum_up(self, reading: "Reading", first: int, end: int) -> "Reading":
        summary = self._attend(reading.embeds[:, first:end])
        tokens, context = summary[:, :-1], summary[:, -1]
        mean = reading.feats[:, first:end].mean(1, keepdim=True).expand_as(tokens)
        kept = _last(reading.positions, first, end, tokens.shape[1])
        blended = replace(reading, feats=self.blend(reading.feats, context))
        return replace(_spliced(blended, first, end, tokens, mean, kept), context=context)


def _windows(rows: Float[Tensor, "B M D"], size: int) -> Float[Tensor, "B W S D"]:
    """Neighbours side by side; what does not fill a window is repeated from the last row."""
    lacking = -rows.shape[1] % size
    if lacking:
        rows = torch.cat((rows, rows[:, -1:].expand(-1, lacking, -1)), dim=1)
    return rows.unflatten(1, (-1, size))


def _last(positions: Int[Tensor, "T"], first: int, end: int, count: int) -> Int[Tensor, "count"]:
    """The block's last ``count`` positions; its first again and again where it has fewer."""
    return positions[torch.arange(end - count, end, device=positions.device).clamp(min=first)]


def _spliced(reading: "Reading", first: int, end: int, emb: Tensor, feat: Tensor, kept: Tensor) -> "Reading":
    """Entries ``first`` to ``end`` replaced by others at positions ``kept``."""

    def around(whole: Tensor, middle: Tensor, dim: int) -> Tensor:
        before, behind = whole.narrow(dim, 0, first), whole.narrow(dim, end, whole.shape[dim] - end)
        return torch.cat((before, middle.to(whole.dtype), behind), dim=dim)

    return replace(
        reading,
        embeds=around(reading.embeds, emb, 1),
        feats=around(reading.feats, feat, 1),
        positions=around(reading.positions, kept, 0),
        source=around(reading.source, torch.full_like(kept, -1), 0),
    )
