import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import leaves, path_to
from crossdraft.core.types import Draft, Sampling
from crossdraft.verify import RULES
from crossdraft.verify.sampling import process_logits
from crossdraft.verify.typical import TypicalAcceptance

SAMPLING = Sampling(temperature=0.7)


def by_definition(rule: TypicalAcceptance, draft: Draft, logits: torch.Tensor) -> tuple[int, ...]:
    """Each root-to-leaf path cut at its first token that is not typical; then the longest, likeliest, first."""
    p = process_logits(logits, rule.sampling).softmax(-1).tolist()
    tokens, parents = draft.tokens.tolist(), draft.parents.tolist()
    best: tuple[int, float, tuple[int, ...]] = (0, 0.0, ())
    for leaf in leaves(parents):
        kept, worth = [], 0.0
        for node in path_to(parents, leaf):
            law = p[parents[node] + 1]
            entropy = -sum(x * math.log(x) for x in law if x > 0)
            if not law[tokens[node]] > min(rule.epsilon, rule.delta * math.exp(-entropy)):
                break
            kept.append(node)
            worth += math.log(law[tokens[node]])
        longer = len(kept) > best[0]
        if longer or (len(kept) == best[0] and kept and worth > best[1] + 1e-12):
            best = (len(kept), worth, tuple(kept))
    return best[2]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), nodes=st.integers(0, 12), seed=st.integers(0, 99), spread=st.sampled_from([0.5, 2.0, 5.0]))
def test_the_longest_typical_path_is_kept(data: st.DataObject, nodes: int, seed: int, spread: float) -> None:
    parents = [data.draw(st.integers(-1, i - 1)) for i in range(nodes)]
    tokens = data.draw(st.lists(st.integers(0, 5), min_size=nodes, max_size=nodes))
    draft = Draft(torch.tensor(tokens, dtype=torch.long), torch.tensor(parents, dtype=torch.long))
    logits = spread * torch.randn(nodes + 1, 6, generator=torch.Generator().manual_seed(seed))
    rule = TypicalAcceptance(SAMPLING)
    verdict = rule(draft, logits, 3)
    want = by_definition(rule, draft, logits)

    def said(path: tuple[int, ...]) -> list[int]:
        return [tokens[n] for n in path]

    # equal siblings may tie to the last digit: then the texts are what must agree
    assert said(verdict.path) == said(want)
    assert list(verdict.path) == (path_to(parents, verdict.path[-1]) if verdict.path else [])
    assert verdict.bonus == int(logits[verdict.path[-1] + 1 if verdict.path else 0].argmax())


def test_a_likelier_path_wins_among_equally_long_ones() -> None:
    logits = torch.tensor([[2.0, 2.4, -9.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    draft = Draft(torch.tensor([0, 1]), torch.tensor([-1, -1]))
    assert TypicalAcceptance(SAMPLING)(draft, logits, 0).path == (1,)
    # length comes first: the less likely child has a child of its own
    longer = Draft(torch.tensor([0, 1, 2]), torch.tensor([-1, -1, 0]))
    assert TypicalAcceptance(SAMPLING)(longer, torch.cat((logits, logits[1:2])), 0).path == (0, 2)


def test_it_is_named_lossy_and_keeps_what_the_target_would_not_say() -> None:
    rule = TypicalAcceptance(SAMPLING)
    assert not rule.lossless and rule.name == "typical" and "typical" in RULES
    logits = torch.tensor([[1.0, 0.9, -3.0], [0.0, 1.0, 0.0]])
    verdict = rule(Draft.chain([1]), logits, 0)
    # greedy decoding says 0
    assert verdict.path == (0,) and verdict.bonus == 1


def test_a_drawn_bonus_follows_the_law_without_untypical_tokens() -> None:
    """Chi-square over 3,000 positions; a right rule fails with probability 1e-6, and the noise is fixed."""
    rule = TypicalAcceptance(SAMPLING, bonus="drawn")
    logits = torch.tensor([[1.0, 0.2, -0.4, -2.5]])
    p = process_logits(logits, SAMPLING).softmax(-1)[0]
    p = torch.where(p < rule.threshold(p[None]), 0, p)
    p /= p.sum()
    assert (p > 0).tolist() == [True, True, True, False]
    count = 3000
    seen = torch.bincount(torch.tensor([rule(Draft.chain([]), logits, i).bonus for i in range(count)]), minlength=4)
    assert seen[3] == 0
    assert stats.chisquare(seen[:3].numpy(), (p[:3] * count).numpy()).pvalue > 1e-6
    # after a kept token, the noise is that of the next position
    chain = rule(Draft.chain([0]), logits.expand(2, -1), 7)
    assert chain.bonus == rule(Draft.chain([]), logits, 8).bonus


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), spread=st.sampled_from([0.1, 1.0, 6.0]), size=st.integers(1, 40))
def test_the_likeliest_token_is_always_typical_enough_to_draw(seed: int, spread: float, size: int) -> None:
    p = (spread * torch.randn(1, size, generator=torch.Generator().manual_seed(seed)).double()).softmax(-1)
    assert p.max() > TypicalAcceptance(SAMPLING, epsilon=0.999, delta=0.999).threshold(p)[0]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(SettingError, match="greedy"):
        TypicalAcceptance(Sampling())
    with pytest.raises(SettingError, match="epsilon is 0"):
        TypicalAcceptance(SAMPLING, epsilon=0)
    with pytest.raises(SettingError, match="known: greedy, drawn"):
        TypicalAcceptance(SAMPLING, bonus="other")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="needs 2 rows"):
        TypicalAcceptance(SAMPLING)(Draft.chain([1]), torch.zeros(3, 4), 0)
