"""Medusa: one state, all guesses, a tree built from how often each is right."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.build.heads import Fitted, headed_drafter
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.tree import StaticTree, static_tree
from crossdraft.core.types import LAST, Limits, Step
from crossdraft.decode.loop import generate
from crossdraft.drafters.medusa import Medusa, MedusaRunner, expected, paying_tree
from crossdraft.drafters.shapes import chain_of
from crossdraft.heads.checkpoint import HeadCard
from crossdraft.heads.feature import start_outputs
from crossdraft.heads.medusa import MedusaConfig, MedusaHead
from crossdraft.verify.greedy import Greedy

SAID = (5, 9, 2, 17)


@dataclass(frozen=True)
class Priced:
    """Every further row costs ``slope``."""

    slope: float

    def pass_ms(self, rows: int) -> float:
        return 1.0 + self.slope * rows


def head(seed: int = 0, **settings: Any) -> MedusaHead:
    """Heads of which none is the target's own any more."""
    torch.manual_seed(seed)
    made = MedusaHead(MedusaConfig(hidden_size=16, vocab_size=24, **settings)).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


@pytest.mark.parametrize("own", [False, True])
@torch.inference_mode()
def test_packed_heads_are_the_heads(own: bool) -> None:
    heads, rows = head(heads=3, own_head=own, draft_vocab=9), torch.randn(9, 16, dtype=torch.float64)
    runner = MedusaRunner(heads, None if own else rows, torch.float64)
    state = torch.randn(1, 16, dtype=torch.float64)
    want = torch.cat(heads(state, None if own else rows))
    torch.testing.assert_close(runner.logits(state), want.float())
    assert runner.weight_bytes == 8 * heads.num_trained
    if not own:
        with pytest.raises(SettingError, match="share the target's output head"):
            MedusaRunner(heads, rows[:4], torch.float64)


def test_every_head_starts_as_the_targets() -> None:
    rows, states = torch.randn(24, 16), torch.randn(5, 16)
    for own in (False, True):
        fresh = MedusaHead(MedusaConfig(hidden_size=16, vocab_size=24, heads=2, own_head=own))
        start_outputs(fresh, rows)
        for logits in fresh(states, rows):
            torch.testing.assert_close(logits, states @ rows.T)


@torch.inference_mode()
def test_a_node_is_the_guess_of_its_depths_head(tiny: Any, prompt: Prompt) -> None:
    """All heads read the state that predicted the newest token, whatever hangs above."""
    heads = head(heads=3, draft_vocab=10)
    heads.d2t.copy_(torch.randperm(24, generator=torch.Generator().manual_seed(2))[:10])
    rows = tiny.target.head.T[heads.d2t]
    tree = StaticTree.of_paths([(0,), (1,), (2,), (0, 0), (0, 2), (2, 1), (0, 2, 3)])
    drafter = Medusa(head=MedusaRunner(heads, rows, torch.float64), costs=Priced(0), tree=tree)
    session = drafter.begin(prompt, tiny.target, None)  # type: ignore[arg-type]
    ids = tiny.target.encode(prompt)
    states = torch.stack([tiny.target.state([*ids, *SAID[:n]]) for n in range(len(SAID))])
    session.observe(Step(SAID[:1], {LAST: states[:1]}, is_prompt=True))
    session.observe(Step(SAID[1:], {LAST: states[1:]}))
    ranked = [heads.d2t[logits.argsort(descending=True)] for logits in heads(states[-1], rows)]
    draft = session.propose(99)
    assert draft.tokens.tolist() == [
        int(ranked[d][r]) for d, r in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (1, 1), (2, 3))
    ]
    assert draft.parents.tolist() == [-1, -1, -1, 0, 0, 2, 4] and draft.probs is None
    assert len(session.propose(2)) == 6 and len(session.propose(1)) == 3


class Seer:
    """Stands in for packed heads: it knows which text each state belongs to. off: added to every right token."""

    def __init__(self, target: Any, ids: list[int], said: list[int], heads: int, off: int = 0) -> None:
        self.config, self.d2t = MedusaConfig(hidden_size=16, vocab_size=24, heads=heads), torch.arange(24)
        self.states = torch.stack([target.state([*ids, *said[:n]]) for n in range(len(said))])
        self.said, self.off = said, off

    def logits(self, state: torch.Tensor) -> torch.Tensor:
        newest = int((self.states - state).abs().sum(-1).argmin())
        out = torch.zeros(self.config.heads, 24)
        for k in range(self.config.heads):
            ahead = newest + 1 + k
            out[k, (self.said[ahead] + self.off) % 24 if ahead < len(self.said) else 0] = 9.0
        return out


@pytest.mark.parametrize(("off", "tau"), [(0, 5.0), (1, 1.0)])
def test_heads_that_know_and_heads_that_know_better(off: int, tau: float, tiny: Any, prompt: Prompt) -> None:
    """Perfect: heads + 1 tokens a pass, by the rank-0 chain. Hostile: one, and the same answer."""
    limits = Limits(max_new_tokens=1 + 5 * 3)
    plain = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    seer: Any = Seer(tiny.target, tiny.target.encode(prompt), plain.tokens, 4, off)
    drafter = Medusa(head=seer, costs=Priced(0), tree=chain_of(4))
    answer = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits)
    assert answer.tau == tau and answer.tokens == plain.tokens


@settings(max_examples=40, deadline=None)
@given(
    rates=st.lists(st.lists(st.floats(0.01, 0.9), min_size=3, max_size=3), min_size=1, max_size=4),
    slope=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
)
def test_the_tree_is_as_large_as_pays(rates: list[list[float]], slope: float) -> None:
    accuracies = torch.tensor(rates)
    tree = paying_tree(accuracies, Priced(slope), 20)
    per_ms = [
        (1 + expected(static_tree(accuracies, n), accuracies)) / (1.0 + slope * (n + 1)) for n in range(1, 21)
        if len(static_tree(accuracies, n)) == n
    ]  # fmt: skip
    best = per_ms.index(max(per_ms)) + 1
    got = (1 + expected(tree, accuracies)) / (1.0 + slope * (len(tree) + 1))
    assert got == pytest.approx(per_ms[best - 1], rel=1e-9)


def test_what_a_tree_is_expected_to_bring() -> None:
    """The sum over its nodes of the product along the path, heads taken as independent: by enumeration."""
    accuracies = torch.tensor([[0.5, 0.2, 0.1], [0.4, 0.3, 0.05]], dtype=torch.float64)
    tree = StaticTree.of_paths([(0,), (1,), (0, 0), (0, 1), (1, 0)])
    paths = {(0,), (1,), (0, 0), (0, 1), (1, 0)}
    mean = 0.0
    for right in itertools.product(range(4), repeat=2):  # which rank is right at each depth; 3: none
        chance = 1.0
        for depth, rank in enumerate(right):
            chance *= float(accuracies[depth, rank]) if rank < 3 else 1 - float(accuracies[depth].sum())
        mean += chance * sum(right[:length] in paths for length in (1, 2))
    assert expected(tree, accuracies) == pytest.approx(mean, rel=1e-12)


def test_a_tree_has_no_more_levels_than_there_are_heads(tiny: Any) -> None:
    drafter = tiny.drafter("medusa")
    assert drafter.needs.capture == (LAST,) and drafter.needs.trees and len(drafter.tree) == 12
    with pytest.raises(SettingError, match="5 levels deep, but there are 4 Medusa heads"):
        replace(drafter, tree=chain_of(5))


def test_a_tree_that_cannot_be_is_refused() -> None:
    runner = MedusaRunner(head(heads=3), torch.randn(24, 16, dtype=torch.float64), torch.float64)
    fitted = Fitted(runner, HeadCard(method="medusa", target="tiny"))
    for settings_, line in (
        ({"nodes": 0}, "nodes is 0, must be from 1 to 63"), ({"nodes": 2000}, "nodes is 2000"),
        ({"nodes": 2.5}, "nodes is 2.5, must be a whole"), ({"depth": -1}, "depth is -1, must be from 1 to 64"),
        ({"branch": 4}, "drafter 'medusa' has no setting 'branch'; it has nodes, depth"),
    ):  # fmt: skip
        with pytest.raises(SettingError, match=line):
            headed_drafter("medusa", fitted, Priced(0.1), settings_)
    made: Any = headed_drafter("medusa", fitted, Priced(0.1), {"nodes": 9, "depth": 6})
    assert len(made.tree) == 9 and made.tree.depth <= 3
