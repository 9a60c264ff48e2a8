import itertools
import math
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
SHAPES = {"chain 1": [-1], "chain 2": [-1, 0], "siblings": [-1, -1], "siblings, then a child": [-1, -1, 0]}


def process(logits: torch.Tensor) -> torch.Tensor:
    return process_logits(logits, SAMPLING)


def drafts(toy: Any, parents: list[int]) -> Iterator[tuple[Draft, float]]:
    """Every draft that can be drawn from q with this shape, siblings with replacement, and its probability."""
    for tokens in itertools.product(range(toy.vocab_size), repeat=len(parents)):
        texts: list[tuple[int, ...]] = []
        for token, parent in zip(tokens, parents, strict=True):
            texts.append((*(texts[parent] if parent >= 0 else ()), token))
        q = torch.stack([toy.q[text[:-1]] for text in texts])
        weight = math.prod(float(q[i, token]) for i, token in enumerate(tokens))
        yield Draft(torch.tensor(tokens), torch.tensor(parents), q), weight


def outcomes(toy: Any, parents: list[int], judge: Any) -> Iterator[tuple[Draft, Verdict, float]]:
    for draft, drawn in drafts(toy, parents):
        p = process(toy.rows(draft)).softmax(-1)
        for verdict, weight in toy.branches(lambda chance, draft=draft, p=p: judge(draft, p, chance)):  # type: ignore[misc]
            yield draft, verdict, drawn * weight


def error(toy: Any, parents: list[int], judge: Any) -> float:
    want = toy.law(2, process)
    got = toy.complete(outcomes(toy, parents, judge), 2, process)
    return max(abs(got.get(t, 0) - want.get(t, 0)) for t in got.keys() | want.keys())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_law_is_the_targets_by_enumeration(toy: Any, shape: str) -> None:
    assert error(toy, SHAPES[shape], walk) < 1e-12


def test_siblings_without_replacement_carry_their_own_law(toy: Any) -> None:
    """Row i of ``probs`` is q without the elder siblings, re-normalised; keeping q there would break the law."""

    def every(honest: bool) -> Iterator[tuple[Draft, Verdict, float]]:
        for a, b in itertools.permutations(range(toy.vocab_size), 2):
            q = toy.q[()]
            rest = q.clone()
            rest[a] = 0
            rest = rest / rest.sum()
            given = torch.stack([q, rest if honest else q])
            draft = Draft(torch.tensor([a, b]), torch.tensor([-1, -1]), given)
            p = process(toy.rows(draft)).softmax(-1)
            for verdict, weight in toy.branches(lambda chance, draft=draft, p=p: walk(draft, p, chance)):  # type: ignore[misc]
                yield draft, verdict, float(q[a] * rest[b]) * weight

    want = toy.law(2, process)
    for honest, (low, high) in {True: (0, 1e-12), False: (1e-3, 1)}.items():
        got = toy.complete(every(honest), 2, process)
        assert low <= max(abs(got.get(t, 0) - want.get(t, 0)) for t in got.keys() | want.keys()) < high


def test_broken_rules_are_caught(toy: Any) -> None:
    def without_residual(draft: Draft, p: torch.Tensor, chance: Chance) -> Verdict:
        token = int(draft.tokens[0])
        assert draft.probs is not None
        if chance.accepts(acceptance(p[0], draft.probs[0], token)):
            return Verdict((0,), chance.draws(p[1]))
        return Verdict((), chance.draws(p[0]))

    def always(draft: Draft, p: torch.Tensor, chance: Chance) -> Verdict:
        return Verdict((0,), chance.draws(p[1]))

    assert error(toy, [-1], walk) < 1e-12
    assert error(toy, [-1], without_residual) > 1e-2
    assert error(toy, [-1], always) > 1e-2


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
    """Enumerated: probs None must give the target's law, and a token beyond top-k is never kept."""

    def every() -> Iterator[tuple[Draft, Verdict, float]]:
        draft = Draft.chain([2])
        sure = Draft(draft.tokens, draft.parents, torch.eye(toy.vocab_size, dtype=torch.float64)[[2]])
        p = process(toy.rows(draft)).softmax(-1)
        for verdict, weight in toy.branches(lambda chance: walk(sure, p, chance)):
            yield draft, verdict, weight

    want = toy.law(2, process)
    got = toy.complete(every(), 2, process)
    assert max(abs(got.get(t, 0) - want.get(t, 0)) for t in got.keys() | want.keys()) < 1e-12
    rule = LeviathanSampling(SAMPLING)
    least = int(toy.logits[()].argmin())
    assert all(rule(Draft.chain([least]), toy.rows(Draft.chain([least])), i).path == () for i in range(50))
    with pytest.raises(SettingError, match="greedy"):
        LeviathanSampling(Sampling())
