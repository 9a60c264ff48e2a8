import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Draft, Sampling, Verdict
from crossdraft.verify.sampling import KeyedSampling, draw, position_keys, process_logits, uniforms
from crossdraft.verify.walk import follow

SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5, top_k=3),
    Sampling(temperature=1.3, top_p=0.8),
    Sampling(temperature=0.9, top_k=4, top_p=0.7),
]


def outcomes(
    toy: Any, draft: Draft, process: Callable[..., torch.Tensor], judge: Callable[..., Verdict] = follow
) -> Iterator[tuple[Draft, Verdict, float]]:
    """Every choice that the target can make at every row, with its probability, and what the rule makes of it."""
    p = process(toy.rows(draft)).softmax(-1)
    for own in itertools.product(range(toy.vocab_size), repeat=len(draft) + 1):
        weight = float(torch.stack([p[row, token] for row, token in enumerate(own)]).prod())
        yield draft, judge(draft, torch.tensor(own)), weight


DRAFTS = [
    Draft.chain([]),
    Draft.chain([2]),
    Draft.chain([0, 3]),
    Draft(torch.tensor([1, 4]), torch.tensor([-1, -1])),
    Draft(torch.tensor([1, 4, 0]), torch.tensor([-1, -1, 1])),
]


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_the_law_is_the_targets_by_enumeration(toy: Any, draft: Draft, sampling: Sampling) -> None:
    def process(logits: torch.Tensor) -> torch.Tensor:
        return process_logits(logits, sampling)

    got = toy.complete(outcomes(toy, draft, process), 3, process)
    want = toy.law(3, process)
    assert max(abs(got.get(t, 0) - want.get(t, 0)) for t in got.keys() | want.keys()) < 1e-12


def test_a_broken_rule_is_caught(toy: Any) -> None:
    """Keeping a draft that the target did not draw, or another bonus, must show in the law."""

    def process(logits: torch.Tensor) -> torch.Tensor:
        return process_logits(logits, SETTINGS[0])

    def generous(draft: Draft, own: torch.Tensor) -> Verdict:
        verdict = follow(draft, own)
        return Verdict((0,), int(own[1])) if abs(int(own[0]) - int(draft.tokens[0])) == 1 else verdict

    want = toy.law(2, process)
    got = toy.complete(outcomes(toy, Draft.chain([2]), process, generous), 2, process)
    assert max(abs(got.get(t, 0) - want[t]) for t in want) > 1e-2


def test_what_is_drawn_follows_the_law() -> None:
    """Chi-square over 60,000 positions; a right rule fails with probability 1e-6, and the seed is fixed."""
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, -2.0, 0.0, -1.0])
    count = 60_000
    drawn = torch.cat(
        [draw(logits.double().expand(6000, -1), torch.arange(s, s + 6000), 11) for s in range(0, count, 6000)]
    )
    p = logits.double().softmax(-1).numpy()
    seen = torch.bincount(drawn, minlength=7).numpy()
    assert stats.chisquare(seen, p * count).pvalue > 1e-6
    # the same check has teeth: a law off by 2 % of mass is refused
    off = p.copy()
    off[3] -= 0.02
    off[0] += 0.02
    assert stats.chisquare(seen, off * count).pvalue < 1e-6
    # neighbouring positions are independent: pairs too follow the product law
    pairs = torch.bincount(drawn[:-1:2] * 7 + drawn[1::2], minlength=49).numpy()
    assert stats.chisquare(pairs, (p[:, None] * p).ravel() * (count // 2)).pvalue > 1e-6


def test_noise_is_uniform_and_of_its_own_for_every_seed_position_and_purpose() -> None:
    numbers = uniforms(position_keys(3, "verify", torch.arange(200)), 500)
    assert numbers.dtype == torch.float64 and numbers.min() > 0 and numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-6
    assert len(numbers.unique()) == numbers.numel()
    other = uniforms(position_keys(4, "verify", torch.arange(200)), 500)
    assert abs(float(torch.corrcoef(torch.stack([numbers.flatten(), other.flatten()]))[0, 1])) < 0.02
    assert not torch.equal(position_keys(3, "a", torch.arange(3)), position_keys(3, "b", torch.arange(3)))
    # a row's noise does not depend on which rows come along, nor on how many ids are asked for
    assert torch.equal(uniforms(position_keys(3, "verify", torch.tensor([7])), 40)[0], numbers[7, :40])


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 5), max_size=20),
    position=st.integers(0, 1000),
    seed=st.integers(0, 5),
    guided=st.integers(0, 20),
)
def test_a_chain_is_judged_as_plain_decoding_would_speak(
    tokens: list[int], position: int, seed: int, guided: int
) -> None:
    rule = KeyedSampling(Sampling(temperature=0.8, seed=seed))
    logits = torch.randn(len(tokens) + 1, 6, generator=torch.Generator().manual_seed(seed))
    own = [rule(Draft.chain([]), logits[i : i + 1], position + i).bonus for i in range(len(tokens) + 1)]
    tokens[:guided] = own[: min(guided, len(tokens))]  # drafts that are right for a while
    verdict = rule(Draft.chain(tokens), logits, position)
    right = next((i for i, token in enumerate(tokens) if token != own[i]), len(tokens))
    assert verdict.path == tuple(range(right)) and verdict.bonus == own[right]


def test_a_trees_rows_take_the_noise_of_their_depth() -> None:
    rule = KeyedSampling(Sampling(temperature=1.0, seed=2))
    logits = torch.zeros(5, 40)
    own = [rule(Draft.chain([]), logits[:1], 9 + depth).bonus for depth in range(3)]
    other = (own[0] + 1) % 40
    draft = Draft(torch.tensor([other, own[0], own[1], own[2]]), torch.tensor([-1, -1, 1, 2]))
    verdict = rule(draft, logits, 9)
    assert verdict.path == (1, 2, 3)


def test_filters_keep_what_they_should_and_break_ties_by_id() -> None:
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, -1.0]])
    kept = process_logits(logits, Sampling(temperature=1.0, top_k=2)).isfinite()[0].tolist()
    assert kept == [False, True, True, False, False]
    # three equal tokens hold 0.81 of the mass: 0.5 needs two of them
    kept = process_logits(logits, Sampling(temperature=1.0, top_p=0.5)).isfinite()[0].tolist()
    assert kept == [False, True, True, False, False]
    kept = process_logits(logits, Sampling(temperature=1.0, top_p=0.01)).isfinite()[0].tolist()
    assert kept == [False, True, False, False, False]
    assert torch.equal(process_logits(logits, Sampling(temperature=0.5)), logits.double() * 2)
    # top_k beyond the vocabulary is off
    assert process_logits(logits, Sampling(temperature=1.0, top_k=99)).isfinite().all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), top_k=st.integers(0, 12), top_p=st.sampled_from([1.0, 0.9, 0.4]))
def test_rows_are_filtered_on_their_own(seed: int, top_k: int, top_p: float) -> None:
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)).mul(4).round().div(4)
    sampling = Sampling(temperature=0.7, top_k=top_k, top_p=top_p)
    together = process_logits(logits, sampling)
    assert torch.equal(together, torch.cat([process_logits(row[None], sampling) for row in logits]))
    kept = together.isfinite()
    assert kept.any(-1).all()
    if top_k:
        assert (kept.sum(-1) <= top_k).all()
    # what is kept is never less probable than what is removed
    assert (logits.masked_fill(~kept, 99).min(-1).values >= logits.masked_fill(kept, -99).max(-1).values).all()


def test_temperature_zero_is_refused() -> None:
    with pytest.raises(SettingError, match="greedy"):
        KeyedSampling(Sampling())
    with pytest.raises(SettingError, match="greedy"):
        process_logits(torch.zeros(1, 3), Sampling())
    assert KeyedSampling(Sampling(temperature=1.0)).with_seed(4).sampling.seed == 4
