import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scipy import stats

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Draft, Sampling, Verdict
from crossdraft.verify.leviathan import Chance, LeviathanSampling, acceptance, residual, walk
from crossdraft.verify.sampling import process_logits

SAMPLING = Sampling(temperature=0.9, top_k=4)
SHAPES = {
    "chain 1": [-1],
    "chain 2": [-1, 0],
    "siblings": [-1, -1],
    "three siblings": [-1, -1, -1],
    "siblings, then a child": [-1, -1, 0],
    "siblings below siblings": [-1, -1, 0, 0, 1],
}


def process(logits: torch.Tensor) -> torch.Tensor:
    return process_logits(logits, SAMPLING)


def drafts(toy: Any, parents: list[int], replacement: bool, honest: bool = True) -> Iterator[tuple[Draft, float]]:
    """Every draft that can be drawn from q with this shape, and its probability.

    Without replacement, a node's row of ``probs`` is q without its elder siblings; honest: re-normalised.
    """
    for tokens in itertools.product(range(toy.vocab_size), repeat=len(parents)):
        texts: list[tuple[int, ...]] = []
        given, weight = [], 1.0
        for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            texts.append((*(texts[parent] if parent >= 0 else ()), token))
            q = toy.q[texts[-1][:-1]].clone()
            if not replacement:
                q[[tokens[elder] for elder in range(node) if parents[elder] == parent]] = 0
            law = q / q.sum()
            weight *= float(law[token])
            given.append(law if honest else q)
        if weight:
            yield Draft(torch.tensor(tokens), torch.tensor(parents), torch.stack(given)), weight


def outcomes(toy: Any, drawn: Iterator[tuple[Draft, float]], judge: Any) -> Iterator[tuple[Draft, Verdict, float]]:
    for draft, before in drawn:
        p = process(toy.rows(draft)).softmax(-1)
        for verdict, weight in toy.branches(lambda chance, draft=draft, p=p: judge(draft, p, chance)):  # type: ignore[misc]
            yield draft, verdict, before * weight


def off(toy: Any, found: Iterator[tuple[Draft, Verdict, float]], length: int = 2) -> float:
    """Largest error in the law of the first ``length`` tokens."""
    want, got = toy.law(length, process), toy.complete(found, length, process)
    return max(abs(got.get(t, 0) - want.get(t, 0)) for t in got.keys() | want.keys())


def error(toy: Any, parents: list[int], judge: Any) -> float:
    return off(toy, outcomes(toy, drafts(toy, parents, True), judge))


@pytest.mark.parametrize("replacement", [True, False], ids=["with replacement", "without"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_law_is_the_targets_by_enumeration(toy: Any, shape: str, replacement: bool) -> None:
    """Three tokens deep for two levels of siblings, over a vocabulary that has no token to spare."""
    parents = SHAPES[shape]
    toy = type(toy)(vocab_size=3, depth=3) if len(parents) > 2 else toy
    drawn = drafts(toy, parents, replacement)
    assert off(toy, outcomes(toy, drawn, walk), 3 if len(parents) > 2 else 2) < 1e-12


@pytest.mark.parametrize("tokens", [[2], [2, 0], [1, 1], [3, 1, 0, 2, 4]], ids=str)
def test_chosen_drafts_are_point_masses_by_enumeration(toy: Any, tokens: list[int]) -> None:
    parents = [-1, -1, 0, 0, 1][: len(tokens)]
    sure = torch.eye(5, dtype=torch.float64)[tokens]
    draft = Draft(torch.tensor(tokens), torch.tensor(parents), sure)
    assert off(toy, outcomes(toy, iter([(draft, 1.0)]), walk), 3) < 1e-12


def test_siblings_without_replacement_need_their_own_law(toy: Any) -> None:
    """q without its elder siblings, but not re-normalised; or q as it is: either breaks the law."""
    assert off(toy, outcomes(toy, drafts(toy, [-1, -1], False), walk)) < 1e-12
    assert off(toy, outcomes(toy, drafts(toy, [-1, -1], False, honest=False), walk)) > 1e-3

    def as_it_was() -> Iterator[tuple[Draft, float]]:
        for draft, weight in drafts(toy, [-1, -1], False):
            yield Draft(draft.tokens, draft.parents, toy.q[()].expand(2, -1)), weight

    assert off(toy, outcomes(toy, as_it_was(), walk)) > 1e-3


def test_broken_rules_are_caught(toy: Any) -> None:
    def without_residual(draft: Draft, p: torch.Tensor, chance: Chance) -> Verdict:
        token = int(draft.tokens[0])
        assert draft.probs is not None
        if chance.accepts(acceptance(p[0], draft.probs[0], token)):
            return Verdict((0,), chance.draws(p[1]))
        return Verdict((), chance.draws(p[0]))

    def always(draft: Draft, p: torch.Tensor, chance: Chance) -> Verdict:
        return Verdict((0,), chance.draws(p[1]))

    def bonus_at_temperature_one(draft: Draft, p: torch.Tensor, chance: Chance) -> Verdict:
        token = int(draft.tokens[0])
        assert draft.probs is not None
        if chance.accepts(acceptance(p[0], draft.probs[0], token)):
            return Verdict((0,), chance.draws(toy.logits[(token,)].softmax(-1)))
        return Verdict((), chance.draws(residual(p[0], draft.probs[0])))

    assert error(toy, [-1], walk) < 1e-12
    assert error(toy, [-1], without_residual) > 1e-2
    assert error(toy, [-1], always) > 1e-2
    assert error(toy, [-1], bonus_at_temperature_one) > 1e-3


def emitted(toy: Any, p: torch.Tensor, drawn: Iterator[tuple[Draft, float]]) -> torch.Tensor:
    """Law of the first token when ``walk`` judges these drafts of at most one node under a target's law p."""
    law = torch.zeros_like(p)
    for draft, before in drawn:
        rows = p.expand(len(draft) + 1, -1)
        for verdict, weight in toy.branches(lambda chance, draft=draft, rows=rows: walk(draft, rows, chance)):  # type: ignore[misc]
            law[int(draft.tokens[0]) if verdict.path else verdict.bonus] += before * weight
    return law


def test_whether_to_draft_must_not_hang_on_what_was_drawn(toy: Any) -> None:
    """Pruning a drawn token by its own probability, or keeping the likelier of two, is lossy; ``walk`` is not."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def one(token: int) -> Draft:
        return Draft(torch.tensor([token]), torch.tensor([-1]), q[None])

    nothing = Draft.chain([], probs=torch.zeros(0, 3, dtype=torch.float64))
    honest = emitted(toy, p, ((one(x), float(q[x])) for x in range(3)))
    assert torch.allclose(honest, p, atol=1e-12)
    dropped = emitted(toy, p, ((one(x) if q[x] >= 0.2 else nothing, float(q[x])) for x in range(3)))
    assert torch.allclose(dropped, torch.tensor([0.55, 0.33, 0.12], dtype=torch.float64), atol=1e-12)
    pairs = itertools.product(range(3), repeat=2)
    likelier = emitted(toy, p, ((one(x if q[x] >= q[y] else y), float(q[x] * q[y])) for x, y in pairs))
    assert float((likelier - p).abs().sum()) / 2 > 0.1
    # cutting by the distribution itself, before the draw, is allowed
    early = emitted(toy, p, ((nothing if q.max() < 0.7 else one(x), float(q[x])) for x in range(3)))
    assert torch.allclose(early, p, atol=1e-12)


def test_the_pieces() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.6, 0.15])
    assert acceptance(p, q, 0) == 1.0 and acceptance(p, q, 1) == pytest.approx(0.5)
    assert residual(p, q).tolist() == pytest.approx([0.25 / 0.3, 0.0, 0.05 / 0.3])
    assert torch.equal(residual(p, p), p)
    with pytest.raises(SettingError, match="probability 0"):
        acceptance(p, torch.tensor([1.0, 0.0, 0.0]), 1)


def test_the_rule_with_its_own_noise_follows_the_law(toy: Any) -> None:
    """Chi-square over 3,000 rounds; a right implementation fails with probability 1e-6, and the seeds are fixed."""
    rule = LeviathanSampling(SAMPLING)
    noise = torch.Generator().manual_seed(0)
    count = 3_000
    drawn = toy.q[()].multinomial(count, replacement=True, generator=noise).tolist()
    drafts = [Draft(torch.tensor([t]), torch.tensor([-1]), toy.q[()][None]) for t in range(toy.vocab_size)]
    rows = [toy.rows(draft) for draft in drafts]
    seen = torch.zeros(toy.vocab_size)
    for position, token in enumerate(drawn):
        verdict = rule(drafts[token], rows[token], position)
        seen[token if verdict.path else verdict.bonus] += 1
    p = process(toy.logits[()][None])[0].softmax(-1)
    alive = p > 0
    assert seen[~alive].sum() == 0
    assert stats.chisquare(seen[alive].numpy(), (p[alive] * count).numpy()).pvalue > 1e-6


def test_a_draft_without_probs_is_a_point_mass(toy: Any) -> None:
    """It is judged as the same draft with all of q on its token; a token beyond top-k is never kept."""
    rule = LeviathanSampling(SAMPLING)
    chosen = Draft(torch.tensor([2, 0, 1]), torch.tensor([-1, -1, 0]))
    sure = Draft(chosen.tokens, chosen.parents, torch.eye(toy.vocab_size)[chosen.tokens])
    rows = toy.rows(chosen)
    assert all(rule(chosen, rows, i) == rule(sure, rows, i) for i in range(50))
    least = int(toy.logits[()].argmin())
    assert all(rule(Draft.chain([least]), toy.rows(Draft.chain([least])), i).path == () for i in range(50))
    with pytest.raises(SettingError, match="greedy"):
        LeviathanSampling(Sampling())
