"""Every chain of ``unroll`` against a run of it by itself, entry by entry, with attention written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crossdraft.heads.feature import FeatureHead, Reading
from crossdraft.heads.visual import VisualConfig

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "eagle": ("eagle", {}),
    "eagle with an input norm": ("eagle_vlm", {}),
    "eagle3": ("eagle3", {"draft_vocab": 7}),
    "direct": ("msd", {}),
    "summary": ("vispec", {"visual": VisualConfig(kind="summary", queries=3)}),
    "pooled": ("spec_vlm", {"visual": VisualConfig(kind="compress", branches=("pool",))}),
}


class Alone:
    """One sequence of entries that grows by one; keys and values in lists."""

    def __init__(self, head: FeatureHead) -> None:
        self.head, self.keys, self.values = head, [], []  # type: ignore[var-annotated]

    def turned(self, rows: Tensor, position: int) -> Tensor:
        """(heads, d) rotated: channel i with channel i + d / 2."""
        angle = float(position) * self.head.config.layer.frequencies()
        turn = torch.complex(angle.cos(), angle.sin()).to(torch.complex128)
        half = rows.shape[-1] // 2
        out = torch.complex(rows[:, :half], rows[:, half:]) * turn
        return torch.cat((out.real, out.imag), dim=-1)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean() + self.head.config.layer.rms_norm_eps).sqrt() * weight

    def step(self, embed: Tensor, feat: Tensor, position: int, direct: bool = False) -> Tensor:
        """(D,) the guess of one more entry."""
        head, cfg, attn = self.head, self.head.config.layer, self.head.layer.self_attn
        if head.config.fuse == "attention":
            assert head.embed_norm is not None and head.hidden_norm is not None
            x = feat
            reads = torch.cat((self.norm(embed, head.embed_norm.weight), self.norm(feat, head.hidden_norm.weight)))
        else:
            x = embed if direct else head.fc.weight @ torch.cat((embed, feat)) + head.fc.bias
            reads = x
            if head.layer.input_layernorm is not None:
                reads = self.norm(x, head.layer.input_layernorm.weight)
        q = self.turned((attn.q_proj.weight @ reads).view(cfg.num_heads, -1), position)
        self.keys.append(self.turned((attn.k_proj.weight @ reads).view(cfg.num_kv_heads, -1), position))
        self.values.append((attn.v_proj.weight @ reads).view(cfg.num_kv_heads, -1))
        mixed = []
        for number in range(cfg.num_heads):
            shared = number // (cfg.num_heads // cfg.num_kv_heads)
            keys = torch.stack([k[shared] for k in self.keys])
            values = torch.stack([v[shared] for v in self.values])
            mixed.append(torch.softmax(keys @ q[number] / cfg.head_dim**0.5, 0) @ values)
        x = x + attn.o_proj.weight @ torch.cat(mixed)
        mlp, inner = head.layer.mlp, self.norm(x, head.layer.post_attention_layernorm.weight)
        gate = mlp.gate_proj.weight @ inner
        return x + mlp.down_proj.weight @ (gate * gate.sigmoid() * (mlp.up_proj.weight @ inner))


def chain(head: FeatureHead, reading: Reading, row: int, begins: int, passes: int) -> list[Tensor]:
    """Guesses of the chain that begins at one entry: everything up to it as the target says, then its own."""
    alone, outs = Alone(head), []
    for t in range(begins + passes):
        if t <= begins:
            feat = reading.feats[row, t]
        else:
            feat = outs[-1]
            if reading.context is not None:
                assert head.visual is not None and head.visual.img_fc is not None
                blended = torch.cat((feat, reading.context[row]))
                feat = head.visual.img_fc.weight @ blended + head.visual.img_fc.bias
        direct = reading.direct is not None and bool(reading.direct[row, t])
        out = alone.step(reading.embeds[row, t], feat, int(reading.positions[t]), direct)
        if t >= begins:
            outs.append(out)
    return outs


def reading_of(head: FeatureHead, make: Callable[..., Any], pictures: bool) -> Reading:
    """Two texts of 16 positions, read together."""
    texts = [make(16, pictures, seed) for seed in (1, 2)]
    embeds = torch.stack([text.embeds for text in texts])
    states = torch.stack([text.taps(head) for text in texts])
    is_visual = texts[0].is_visual if pictures else None
    return head.read(embeds[:, 1:], states[:, :-1], None if is_visual is None else is_visual[1:])


def blocks(reading: Reading, begins: tuple[int, int], counts: tuple[int, int]) -> Tensor:
    """(B, T): an answer's entries in each of two sequences."""
    place = torch.arange(reading.embeds.shape[1])
    return torch.stack([(place >= b) & (place < b + n) for b, n in zip(begins, counts, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taught", [None, (8, 7), (7, 3), (2, 1), (1, 0)])
@torch.no_grad()
def test_a_chain_is_what_it_would_be_alone(kind: str, taught: tuple[int, int] | None, head: Any, said: Any) -> None:
    """Also where answers begin and end at different places."""
    name, settings = KINDS[kind]
    passes, drafting = 4, head(name, **settings)
    reading = reading_of(drafting, said, drafting.visual is not None)
    steps = reading.embeds.shape[1]
    begins, ends = (steps - 8, steps - 8), (steps, steps)
    there = None
    if taught is not None:
        begins, ends = (steps - 8, steps - 7), (steps - 8 + taught[0], steps - 7 + taught[1])
        there = blocks(reading, begins, taught)  # type: ignore[arg-type]
    outs = drafting.unroll(reading, passes, detach=True, taught=there)
    assert [tuple(out.shape) for out in outs] == [(2, steps, 16)] * passes
    for row in range(2):
        for first in range(begins[row], ends[row]):
            length = min(passes, ends[row] - first)
            for j, own in enumerate(chain(drafting, reading, row, first, length)):
                torch.testing.assert_close(outs[j][row, first + j], own, atol=1e-11, rtol=1e-9)
        if there is not None:
            for j, out in enumerate(outs):
                computed = there[row] & (torch.arange(steps) >= begins[row] + j)
                assert not out[row, ~computed].any() and bool(out[row, computed].any(-1).all())


@torch.no_grad()
def test_chains_that_are_followed_are_the_same_chains(head: Any, said: Any) -> None:
    """Behind the first guess the others are left out, and so are all where none is followed."""
    drafting = head("eagle3")
    reading = reading_of(drafting, said, False)
    steps = reading.embeds.shape[1]
    taught = blocks(reading, (4, 6), (9, 5))
    drawn = torch.rand(2, steps, generator=torch.Generator().manual_seed(3)) < 0.4
    every = drafting.unroll(reading, 4, detach=True, taught=taught)
    some = drafting.unroll(reading, 4, detach=True, taught=taught, followed=drawn)
    none = drafting.unroll(reading, 4, detach=True, taught=taught, followed=torch.zeros_like(drawn))
    torch.testing.assert_close(some[0], every[0], atol=1e-12, rtol=1e-10)
    for j in range(1, 4):
        on = torch.nn.functional.pad(drawn & taught, (j, 0))[:, :steps] & taught
        assert 0 < int(on.sum()) < int(taught.sum()) - 2 * j
        torch.testing.assert_close(some[j][on], every[j][on], atol=1e-12, rtol=1e-10)
        assert not some[j][~on].any() and not none[j].any()


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_stay_in_their_pass_or_flow_through(detach: bool, head: Any, said: Any) -> None:
    """HASS against EAGLE-3: what the last guess owes to the first entry's feature."""
    drafting = head("eagle")
    reading = reading_of(drafting, said, False)
    feats = reading.feats.clone().requires_grad_()
    moved = Reading(reading.embeds, feats, reading.positions, reading.source)
    last = drafting.unroll(moved, 3, detach=detach)[2][0, -1].sum()
    (gradient,) = torch.autograd.grad(last, feats)
    begins = reading.embeds.shape[1] - 3
    assert gradient[0, begins].abs().sum() > 0, "its key is seen by the last guess in any case"
    assert torch.equal(gradient[0, begins + 1 :], torch.zeros_like(gradient[0, begins + 1 :]))
    assert not gradient[1].any()
    alone = torch.stack([out[0, begins + j] for j, out in enumerate(drafting.unroll(moved, 2, detach=detach))])
    (through,) = torch.autograd.grad(alone[1].sum(), drafting.fc.bias, retain_graph=True)
    frozen = drafting.unroll(moved, 2, detach=True)[1][0, begins + 1].sum()
    (within,) = torch.autograd.grad(frozen, drafting.fc.bias)
    assert torch.allclose(through, within) == detach
