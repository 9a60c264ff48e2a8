"""Heads that draft from the target's own features: one decoder layer guesses the next feature, again and again.

EAGLE (arXiv 2401.15077), EAGLE-2 (2406.16858), HASS (2408.15766), EAGLE-3 (2503.01840) and their kin for pictures
(EagleVLM and SpecVLM 2509.11815, MSD 2505.14260, ViSpec 2509.15235) are settings of the one network here.

Entry ``t`` of a sequence couples the target's feature of position t with the *next* token, t + 1; its output stands
for the feature of position t + 1, from which token t + 2 is guessed. It has position id t.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossdraft.core.errors import SettingError
from crossdraft.core.types import LAST
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.visual import Visual, VisualConfig
from crossdraft.nn.decoder import Decoder, DecoderConfig, DecoderLayer
from crossdraft.nn.rope import rope_table

Fuse = Literal["concat", "attention"]


@dataclass(frozen=True, kw_only=True)
class FeatureHeadConfig:
    """What a feature head is made of.

    layer: shape of its one decoder layer; vocabulary and width are the target's.
    taps: target layers whose states are its features; -1 is the state behind the final norm.
    fuse: "concat" (EAGLE): a linear map of [embedding; feature] is the layer's input. "attention" (EAGLE-3): the
        taps are mapped to one feature, the attention reads [norm(embedding); norm(feature)], the feature is the
        residual.
    norm_input: a norm in front of the attention (EagleVLM); EAGLE has none, and EAGLE-3 always has its two.
    norm_residual: of "attention": the residual is the feature behind its norm, not the feature as it came.
    own_head: a trained output head behind a norm of its own; else the target's head reads the guessed feature.
    draft_vocab: how many tokens can be drafted (the most frequent ones); None: all.
    visual: what becomes of the pictures' positions; None: they are read like text.
    """

    layer: DecoderConfig
    taps: tuple[int, ...] = (LAST,)
    fuse: Fuse = "concat"
    norm_input: bool = False
    norm_residual: bool = False
    own_head: bool = False
    draft_vocab: int | None = None
    visual: VisualConfig | None = None

    def __post_init__(self) -> None:
        if self.fuse == "concat" and len(self.taps) != 1:
            raise SettingError(f"a head that fuses by concatenation reads one tap, not {len(self.taps)}")
        if self.fuse == "concat" and self.norm_residual:
            raise SettingError("norm_residual is a setting of heads that fuse by attention")
        if not self.taps:
            raise SettingError("a feature head needs at least one tap")
        if self.fuse == "attention" and self.visual is not None and self.visual.kind == "direct":
            raise SettingError("only a head that fuses by concatenation can take a picture's embedding for both")
        if self.draft_vocab is not None and not 1 <= self.draft_vocab <= self.layer.vocab_size:
            raise SettingError(
                f"draft_vocab is {self.draft_vocab}, must be from 1 to the target's {self.layer.vocab_size}"
            )


@dataclass(frozen=True)
class Reading:
    """Entries as the layer reads them, batch first: T entries of B sequences.

    embeds: embedding of the next token; feats: the feature; direct: True where the embedding alone stands for both;
    positions: of the entries. source: number of the original entry, -1 for one that was made of several.
    context: a summary of the pictures that later features are blended with.
    """

    embeds: Float[Tensor, "B T D"]
    feats: Float[Tensor, "B T D"]
    positions: Int[Tensor, "T"]
    source: Int[Tensor, "T"]
    direct: Bool[Tensor, "B T"] | None = None
    context: Float[Tensor, "B D"] | None = None


class FeatureHead(nn.Module):
    """The network; parameter names follow the published checkpoints. See the module's docstring for its entries.

    d2t: (draft vocabulary,) the target's id of each token that can be drafted.
    """

    d2t: Tensor

    def __init__(self, config: FeatureHeadConfig) -> None:
        super().__init__()
        self.config, shape = config, config.layer
        width, eps = shape.hidden_size, shape.rms_norm_eps
        wide = config.fuse == "attention"
        self.fc = nn.Linear(len(config.taps) * width, width, bias=False) if wide else nn.Linear(2 * width, width)
        self.embed_norm = nn.RMSNorm(width, eps=eps) if wide else None
        self.hidden_norm = nn.RMSNorm(width, eps=eps) if wide else None
        self.layer = DecoderLayer(shape, 2 * width if wide else None, input_norm=config.norm_input and not wide)
        drafted = config.draft_vocab or shape.vocab_size
        self.norm = nn.RMSNorm(width, eps=eps) if config.own_head else None
        self.lm_head = nn.Linear(width, drafted, bias=False) if config.own_head else None
        self.visual = None if config.visual is None else Visual(config.visual, width)
        self.register_buffer("d2t", torch.arange(drafted))

    @property
    def num_trained(self) -> int:
        """Parameters of its own, also those that a training left as they were."""
        return sum(p.numel() for p in self.parameters())

    def start_from(self, decoder: Decoder) -> None:
        """Begin as the target's last layer on its highest tap, for a head that fuses by attention.

        The feature is the last tap alone; the layer's weights are those of the target's last layer, which read the
        feature as they read its input, and the next token's embedding half as loudly; the norm behind it is the
        target's final one. The head then says what the target's last layers made of the token before, and has to
        learn the step ahead instead of all of it. Ours: the papers begin at random.
        Raises SettingError for a head of another kind or shape.
        """
        self.check_start(decoder.config)
        last = cast(DecoderLayer, decoder.layers[-1])
        assert self.embed_norm is not None and self.hidden_norm is not None and last.input_layernorm is not None
        width, own, theirs = self.config.layer.hidden_size, self.layer.self_attn, last.self_attn
        with torch.no_grad():
            for name in ("q_proj", "k_proj", "v_proj"):
                wide, narrow = getattr(own, name), getattr(theirs, name)
                wide.weight.copy_(torch.cat((0.5 * narrow.weight, narrow.weight), dim=1))
                if wide.bias is not None:
                    wide.bias.copy_(narrow.bias)
            own.o_proj.load_state_dict(theirs.o_proj.state_dict())
            self.layer.mlp.load_state_dict(last.mlp.state_dict())
            self.layer.post_attention_layernorm.load_state_dict(last.post_attention_layernorm.state_dict())
            for norm in (self.embed_norm, self.hidden_norm):
                norm.load_state_dict(last.input_layernorm.state_dict())
            if self.norm is not None:
                self.norm.load_state_dict(decoder.norm.state_dict())
            self.fc.weight.zero_()
            self.fc.weight[:, -width:].fill_diagonal_(1.0)

    def check_start(self, target: DecoderConfig) -> None:
        """SettingError unless ``start_from`` can be done with a target of this shape."""
        if self.config.fuse != "attention":
            raise SettingError(
                "only a head that fuses by attention (eagle3) can start from the target's last layer"
            )
        if replace(self.config.layer, num_layers=target.num_layers) != target:
            raise SettingError("a head of another shape than the target's layers cannot start from one of them")

    # -- entries ---------------------------------------------------------------------------------------------------

    def fuse_taps(self, states: Float[Tensor, "... taps_D"]) -> Float[Tensor, "... D"]:
        """The taps' states, side by side, as one feature."""
        return self.fc(states) if self.config.fuse == "attention" else states

    def read(
        self,
        embeds: Float[Tensor, "B T D"],
        states: Float[Tensor, "B T taps_D"],
        is_visual: Bool[Tensor, "T"] | None = None,
        prompt: Int[Tensor, "B"] | None = None,
    ) -> Reading:
        """Entries of whole sequences, from position 0 on.

        embeds: of the *next* tokens; states: of the entries' own positions, taps side by side. is_visual: entries
        whose embedding is a picture's; all sequences share them. prompt: positions of each sequence's prompt; None:
        all of them are.
        """
        return self.arrange(embeds, self.fuse_taps(states), is_visual, prompt)

    def arrange(
        self, embeds: Float[Tensor, "B T D"], feats: Float[Tensor, "B T D"], is_visual: Bool[Tensor, "T"] | None,
        prompt: Int[Tensor, "B"] | None = None,
    ) -> Reading:  # fmt: skip
        """``read``, of taps that are one feature already."""
        count = torch.arange(embeds.shape[1], device=embeds.device)
        reading = Reading(embeds, feats, count, count)
        if self.visual is None or is_visual is None or not bool(is_visual.any()):
            return reading
        ends = torch.full_like(count[:1], len(count)).expand(len(embeds)) if prompt is None else prompt
        question = reading.feats[torch.arange(len(ends), device=ends.device), ends - 1]
        return self.visual(reading, is_visual, question)

    def blend(self, feats: Float[Tensor, "B T D"], context: Float[Tensor, "B D"] | None) -> Tensor:
        """Features of text behind the pictures, with the pictures' summary if there is one."""
        if context is None:
            return feats
        assert self.visual is not None
        return self.visual.blend(feats, context)

    # -- the layer -------------------------------------------------------------------------------------------------

    def inputs(
        self, embeds: Tensor, feats: Tensor, direct: Bool[Tensor, "..."] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(residual (..., D), what the attention reads: (..., D), or (..., 2 D) for "attention")."""
        if self.config.fuse == "attention":
            assert self.embed_norm is not None and self.hidden_norm is not None
            normed = self.hidden_norm(feats)
            residual = normed if self.config.norm_residual else feats
            return residual, torch.cat((self.embed_norm(embeds), normed), dim=-1)
        x = self.fc(torch.cat((embeds, feats), dim=-1))
        if direct is not None:
            x = torch.where(direct[..., None], embeds.to(x.dtype), x)
        norm = self.layer.input_layernorm
        return x, x if norm is None else norm(x)

    def unroll(
        self, reading: Reading, passes: int, *, detach: bool, taught: Bool[Tensor, "B T"] | None = None,
        followed: Bool[Tensor, "B T"] | None = None,
    ) -> list[Float[Tensor, "B T D"]]:  # fmt: skip
        """Guessed features as drafting would make them, for chains that begin at every entry at once.

        Pass j: entry t is the j-th guess of the chain that began at entry t - j: its feature is what pass j - 1
        made of entry t - 1, and it attends to the target's features up to where its chain began and to its own
        chain behind. taught: entries at which chains begin, one block in each sequence (its answer), in which they
        also end; None: all. followed: those of them whose chains go on behind their first guess; None: all.
        What is returned at entries that no chain comes to is 0. detach: gradients stay within a pass (HASS), else
        they flow through it (EAGLE-3).
        Sources: HASS, arXiv 2408.15766, section 3.2; EAGLE-3, arXiv 2503.01840, section 3.2 (one scheme, numbered
        by the entry's own position here, by where the chain began there).
        """
        attn, embeds = self.layer.self_attn, reading.embeds
        cos, sin = (x.unsqueeze(2) for x in rope_table(self.config.layer.frequencies(), reading.positions[None]))
        x, read = self.inputs(embeds, reading.feats, reading.direct)
        keys, values = attn.remembered(read, cos, sin)
        if taught is None:
            taught = torch.ones_like(embeds[..., 0], dtype=torch.bool)
        ends = taught.shape[1] - taught.flip(1).int().argmax(1)
        chains = _Chains.of(taught)
        x, read = x[chains.sequence, chains.begin], read[chains.sequence, chains.begin]
        q = attn.queries(read[None], cos[:, chains.begin], sin[:, chains.begin])[0]
        own: list[tuple[Tensor, Tensor]] = []
        outs: list[Tensor] = []
        for j in range(passes):
            if j:
                if j == 1 and followed is not None:
                    chains = _Chains.of(taught & followed)
                chains = chains.those(chains.begin + j < ends[chains.sequence])
                row, entry = chains.sequence, chains.begin + j
                feats = outs[-1][row, entry - 1]
                if detach:
                    feats = feats.detach()
                if reading.context is not None:
                    feats = self.blend(feats[:, None], reading.context[row])[:, 0]
                direct = None if reading.direct is None else reading.direct[row, entry]
                x, read = self.inputs(embeds[row, entry], feats, direct)
                q, k, v = (part[0] for part in attn.project(read[None], cos[:, entry], sin[:, entry]))
                own.append((chains.blocks(k), chains.blocks(v)))
            seen = attn.attend(chains.blocks(q), keys, values, chains.mask, own)
            guessed = self.layer.feed(x + attn.o_proj(seen[chains.sequence, chains.rank]))
            outs.append(guessed.new_zeros(embeds.shape).index_put((chains.sequence, chains.begin + j), guessed))
        return outs

    # -- tokens ----------------------------------------------------------------------------------------------------

    def unembed(self, out: Float[Tensor, "... D"], head: Float[Tensor, "draft D"] | None) -> Tensor:
        """Logits over the draft vocabulary. head: the target's rows of ``d2t``, for a head without its own."""
        if self.lm_head is not None:
            assert self.norm is not None
            return self.lm_head(self.norm(out))
        assert head is not None, "this head reads the target's output head"
        return nn.functional.linear(out, head.to(out.dtype))


@dataclass(frozen=True)
class _Chains:
    """R chains of all sequences, one after the other, as rows of a pass; for attention, as blocks (B, S, ...).

    sequence, begin: of each, and the entry that it begins at; rank: its place in its sequence's block, which stays
    its own when others end. mask: the entries as the target says them that a chain sees, up to where it begins.
    """

    sequence: Int[Tensor, "R"]
    begin: Int[Tensor, "R"]
    rank: Int[Tensor, "R"]
    mask: Bool[Tensor, "B 1 S T"]

    @classmethod
    def of(cls, begins: Bool[Tensor, "B T"]) -> "_Chains":
        """Chains that begin at these entries."""
        sequence, begin = begins.nonzero(as_tuple=True)
        counts = begins.sum(1)
        rank = torch.arange(len(begin), device=begin.device) - (counts.cumsum(0) - counts)[sequence]
        upto = begin.new_zeros(len(begins), int(counts.max())).index_put((sequence, rank), begin)
        place = torch.arange(begins.shape[1], device=begin.device)
        return cls(sequence, begin, rank, (place <= upto[..., None])[:, None])

    def those(self, there: Bool[Tensor, "R"]) -> "_Chains":
        """Some of them, at their old places."""
        return _Chains(self.sequence[there], self.begin[there], self.rank[there], self.mask)

    def blocks(self, values: Float[Tensor, "R H d"]) -> Float[Tensor, "B S H d"]:
        """The rows' values at their places, 0 elsewhere."""
        batch, _, size, _ = self.mask.shape
        return values.new_zeros(batch, size, *values.shape[1:]).index_put((self.sequence, self.rank), values)


Drafts = TypeVar("Drafts", bound=FeatureHead | MedusaHead)
"""A head with a draft vocabulary."""


def with_draft_vocab(head: Drafts, tokens: Int[Tensor, "draft"]) -> Drafts:
    """Set the tokens that can be drafted. SettingError unless there are as many as the head was built for."""
    if len(tokens) != len(head.d2t):
        raise SettingError(f"{len(tokens)} draft tokens are given, the head has {len(head.d2t)}")
    head.d2t.copy_(tokens)
    return head


def output_matrices(head: FeatureHead | MedusaHead) -> list[Tensor]:
    """Those over the draft vocabulary that are the head's own."""
    if isinstance(head, MedusaHead):
        return [] if head.lm_heads is None else list(head.lm_heads.parameters())
    return [] if head.lm_head is None else [head.lm_head.weight]


def start_outputs(head: FeatureHead | MedusaHead, rows: Float[Tensor, "draft D"]) -> None:
    """Give every own output matrix the target's rows of ``d2t``."""
    with torch.no_grad():
        for matrix in output_matrices(head):
            matrix.copy_(rows)


def eagle_layer(target: DecoderConfig, intermediate_size: int | None = None) -> DecoderConfig:
    """The shape of a head's layer beside ``target``: one layer of the same kind."""
    size = target.intermediate_size if intermediate_size is None else intermediate_size
    return replace(target, num_layers=1, intermediate_size=size)


def fusion_taps(num_layers: int) -> tuple[int, int, int]:
    """EAGLE-3's low, middle and high tap: outputs of the layers in front of layers 2, L // 2 and L - 3.

    Targets too shallow for three different ones give first, middle and last but one.
    """
    taps = (1, num_layers // 2 - 1, num_layers - 4)
    if taps[0] < taps[1] < taps[2]:
        return taps
    low, high = 0, max(0, num_layers - 2)
    return low, (low + high + 1) // 2, high
