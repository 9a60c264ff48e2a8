"""What becomes of the pictures' entries."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError
from crossdraft.heads.feature import Reading
from crossdraft.heads.visual import BRANCHES, Visual, VisualConfig

D = 6


def reading(steps: int, batch: int = 2, seed: int = 0) -> Reading:
    drawn = torch.randn(2, batch, steps, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Reading(drawn[0], drawn[1], torch.arange(steps), torch.arange(steps))


def run(visual: Visual, steps: int, first: int, count: int, **more: Any) -> tuple[Reading, Reading]:
    """(what went in, what came out); pictures at entries first.."""
    before = reading(steps, **more)
    is_visual = torch.zeros(steps, dtype=torch.bool)
    is_visual[first : first + count] = True
    return before, visual(before, is_visual, before.feats[:, -1])


def compressor(*branches: str, **settings: Any) -> Visual:
    torch.manual_seed(0)
    return Visual(VisualConfig(kind="compress", branches=branches, **settings), D).double().eval()


MADE: dict[str, Callable[[int, int], int]] = {
    "prune": lambda count, ratio: -(-count // ratio),
    "pool": lambda count, ratio: -(-count // ratio),
    "conv": lambda count, ratio: -(-count // 3),
    "resample": lambda count, ratio: 2,
    "text-only": lambda count, ratio: 0,
}


@settings(max_examples=60, deadline=None)
@given(
    branch=st.sampled_from(BRANCHES), first=st.integers(0, 4), count=st.integers(1, 11), behind=st.integers(1, 5),
    ratio=st.integers(1, 4),
)  # fmt: skip
def test_text_stays_and_pictures_keep_their_positions(
    branch: str, first: int, count: int, behind: int, ratio: int
) -> None:
    before, after = run(compressor(branch, ratio=ratio), first + count + behind, first, count)
    made = MADE[branch](count, ratio)
    assert after.embeds.shape == after.feats.shape == (2, first + made + behind, D)
    text = torch.cat((torch.arange(first), torch.arange(first + count, first + count + behind)))
    is_text = after.source >= 0
    assert torch.equal(after.source[is_text], text) and torch.equal(after.positions[is_text], text)
    assert torch.equal(after.embeds[:, is_text], before.embeds[:, text])
    assert torch.equal(after.feats[:, is_text], before.feats[:, text])
    kept = after.positions[~is_text]
    assert ((kept >= first) & (kept < first + count)).all() and (kept.diff() >= 0).all()
    if made:
        assert kept[-1] == first + count - 1, "the last stands where the picture ends"
    if branch in ("prune", "pool", "conv"):
        assert (kept.diff() > 0).all()


def test_what_stands_for_a_window() -> None:
    for branch in ("prune", "pool", "conv"):
        before, after = run(compressor(branch), 10, 1, 7)
        emb, feat = before.embeds[:, 1:8], before.feats[:, 1:8]
        windows = [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
        assert after.positions[1:4].tolist() == [3, 6, 7]
        if branch == "prune":
            assert torch.equal(after.embeds[:, 1:4], emb[:, [2, 5, 6]])
            assert torch.equal(after.feats[:, 1:4], feat[:, [2, 5, 6]])
        else:  # a convolution begins as the mean
            mean = torch.stack([emb[:, w].mean(1) for w in windows], dim=1)
            torch.testing.assert_close(after.embeds[:, 1:4], mean)
            torch.testing.assert_close(
                after.feats[:, 1:4], torch.stack([feat[:, w].mean(1) for w in windows], dim=1)
            )


def test_resampling_is_one_cross_attention() -> None:
    visual = compressor("resample")
    before, after = run(visual, 9, 2, 5)
    seen = before.embeds[0, 2:7]
    assert visual.queries is not None and visual.q_proj and visual.k_proj and visual.v_proj and visual.o_proj
    scores = visual.q_proj(visual.queries) @ visual.k_proj(seen).T / D**0.5
    torch.testing.assert_close(after.embeds[0, 2:4], visual.o_proj(scores.softmax(-1) @ visual.v_proj(seen)))
    torch.testing.assert_close(after.feats[0, 2], before.feats[0, 2:7].mean(0))


def test_the_gate_draws_in_training_and_decides_at_inference() -> None:
    visual = compressor(*BRANCHES)
    assert visual.gate is not None
    question = torch.randn(1, D, dtype=torch.float64)
    best = int(visual.gate(question).argmax())
    assert {visual.choose(question)[0] for _ in range(8)} == {best}
    visual.train()
    torch.manual_seed(0)
    drawn = [visual.choose(question)[0] for _ in range(400)]
    law = visual.gate(question).softmax(-1)[0].tolist()
    for branch in range(len(BRANCHES)):  # five standard deviations of 400 draws
        share, p = drawn.count(branch) / 400, law[branch]
        assert abs(share - p) < 5 * (p * (1 - p) / 400) ** 0.5
    chance = visual.choose(question)[1]
    assert chance is not None and 0 < chance.item() < 1
    assert compressor("pool").choose(question) == (0, None)


def test_the_gate_learns_through_a_choice_that_changes_no_value() -> None:
    """Straight through: entries as if there were no gate, gradients by its probability of what was chosen."""
    gated = compressor("prune", "pool")
    assert gated.gate is not None
    with torch.no_grad():
        gated.gate.bias.copy_(torch.tensor([-9.0, 0.0]))
    before, after = run(gated, 9, 1, 6)
    _, alone = run(compressor("pool"), 9, 1, 6)
    assert torch.equal(after.embeds, alone.embeds) and torch.equal(after.feats, alone.feats)
    (after.embeds[:, 1:3].sum() + after.feats[:, 1:3].sum()).backward()
    got = gated.gate.bias.grad
    # the gate's chance is taken in float32
    logits = gated.gate(before.feats[:, -1]).detach().requires_grad_()
    worth = (alone.embeds[:, 1:3] + alone.feats[:, 1:3]).sum((1, 2))
    (logits.softmax(-1)[:, 1] * worth).sum().backward()
    assert got is not None and logits.grad is not None and got.abs().sum() > 0
    torch.testing.assert_close(got, logits.grad.sum(0), atol=1e-5, rtol=1e-5)


def test_the_gate_reads_where_the_prompt_ends(head: Any, said: Any) -> None:
    """Whatever is said behind it: a whole answer in training, nothing yet when a draft begins."""
    drafting, text = head("spec_vlm"), said(20)
    assert drafting.visual is not None
    asked: list[torch.Tensor] = []
    drafting.visual.gate.register_forward_hook(lambda module, given, out: asked.append(given[0]))
    states, embeds = text.taps(drafting)[None], text.embeds[None]
    drafting.read(embeds[:, 1:], states[:, :-1], text.is_visual[1:], torch.tensor([12]))
    drafting.read(embeds[:, 1:13], states[:, :12], text.is_visual[1:13])
    assert torch.equal(asked[0], asked[1]) and torch.equal(asked[0][0], states[0, 11])


def test_a_summary_stands_for_the_picture_and_colours_the_text() -> None:
    torch.manual_seed(0)
    visual = Visual(VisualConfig(kind="summary", queries=3), D).double()
    before, after = run(visual, 11, 2, 6)
    assert after.embeds.shape == (2, 7, D) and after.positions.tolist() == [0, 1, 6, 7, 8, 9, 10]
    assert after.source.tolist() == [0, 1, -1, -1, 8, 9, 10]
    assert after.context is not None and after.context.shape == (2, D)
    text = after.source >= 0
    assert torch.equal(after.feats[:, text], before.feats[:, after.source[text]]), (
        "at first the blend changes nothing"
    )
    torch.testing.assert_close(after.feats[:, 2], before.feats[:, 2:8].mean(1))
    assert visual.img_fc is not None
    with torch.no_grad():
        visual.img_fc.weight.normal_()
    _, blended = run(visual, 11, 2, 6)
    torch.testing.assert_close(blended.feats[:, 4:], visual.blend(before.feats[:, 8:], after.context))


def test_direct_pictures_are_marked_and_stay() -> None:
    before, after = run(Visual(VisualConfig(kind="direct"), D), 8, 1, 3)
    assert after.direct is not None and after.direct.tolist() == [[False, True, True, True] + [False] * 4] * 2
    assert after.embeds is before.embeds and after.positions is before.positions


def test_a_direct_picture_is_the_layers_input(head: Any, said: Any) -> None:
    drafting, text = head("msd"), said(16)
    r = drafting.read(text.embeds[None, 1:], text.taps(drafting)[None, :-1], text.is_visual[1:])
    x, reads = drafting.inputs(r.embeds, r.feats, r.direct)
    seen = text.is_visual[1:]
    assert torch.equal(x[0, seen], text.embeds[1:][seen]) and x is reads
    pairs = torch.cat((text.embeds[1:], text.states[-1][:-1]), dim=-1)
    torch.testing.assert_close(x[0, ~seen], drafting.fc(pairs)[~seen])


@pytest.mark.parametrize("kind", ["direct", "compress", "summary"])
def test_several_blocks_are_refused(kind: str) -> None:
    visual = Visual(VisualConfig(kind=kind), D).double()  # type: ignore[arg-type]
    is_visual = torch.tensor([True, True, False, True, False, False])
    with pytest.raises(DataError, match="one block of picture positions, not several"):
        visual(reading(6), is_visual, reading(6).feats[:, -1])


@pytest.mark.parametrize("name", ["spec_vlm", "vispec", "msd"])
def test_text_alone_is_read_as_it_is(name: str, head: Any, said: Any) -> None:
    drafting, text = head(name), said(10, pictures=False)
    r = drafting.read(text.embeds[None], text.taps(drafting)[None], text.is_visual)
    assert r.direct is None and r.context is None and torch.equal(r.embeds[0], text.embeds)
    assert r.positions.tolist() == r.source.tolist() == list(range(10))
