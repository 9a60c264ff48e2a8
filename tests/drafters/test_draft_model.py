from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from scipy import stats

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Draft, Limits, Sampling, Step
from crossdraft.core.vocab import NO_TWIN, TokenMap
from crossdraft.decode.loop import generate
from crossdraft.drafters.draft_model import DraftModel
from crossdraft.drafters.length import AssumedCurve
from crossdraft.verify import rule_for
from crossdraft.verify.leviathan import LeviathanSampling
from crossdraft.verify.sampling import process_logits


def answer(target: Any, drafter: Any, prompt: Prompt, rule: Any = None, tokens: int = 25) -> Any:
    return generate(
        target, drafter, prompt, rule=rule or rule_for(Sampling()), limits=Limits(max_new_tokens=tokens)
    )


class Otherwise:
    """A target's own model that says what the target finds least likely, or in other ids what the target says."""

    def __init__(self, model: Any, *, contrary: bool = False, order: torch.Tensor | None = None) -> None:
        self.model, self.sign = model, -1 if contrary else 1
        # own id j is the target's id order[j]
        self.order = torch.arange(model.vocab_size) if order is None else order
        self.vocab_size, self.max_positions = len(self.order), model.max_positions

    def encode(self, prompt: Prompt) -> list[int]:
        return self.model.encode(prompt)

    def prefill(self, encoded: list[int], capture: tuple[int, ...] = (), room: int = 512) -> "OtherSession":
        return OtherSession(self, self.model.prefill(encoded, capture, room))


class OtherSession:
    def __init__(self, other: Otherwise, inner: Any) -> None:
        self.other, self.inner = other, inner
        self.mark, self.rewind = inner.mark, inner.rewind
        self.first = self.seen(inner.first)

    def seen(self, scores: Any) -> Any:
        return replace(scores, logits=self.other.sign * scores.logits[:, self.other.order])

    def score(self, draft: Draft) -> Any:
        return self.seen(self.inner.score(replace(draft, tokens=self.other.order[draft.tokens])))

    def commit(self, path: Any, bonus: int) -> None:
        self.inner.commit(path, int(self.other.order[bonus]))

    def reroot(self, token: int) -> None:
        self.inner.reroot(int(self.other.order[token]))


@pytest.mark.parametrize("length", [1, 4, 9])
def test_the_target_as_its_own_draft_model(length: int, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    """tau = gamma + 1. A draft of n tokens takes n passes, the first over the last one's end and the bonus."""
    drafter = DraftModel(draft_model=tiny.target, costs=free_width, length=length)
    out = answer(tiny.target, drafter, prompt, tokens=1 + 4 * (length + 1))
    assert out.tau == length + 1 and len(out.rounds) == 4
    own = tiny.target.sessions[-1]
    # the root alone, whose pass also says what comes next; then what the last draft left unread, and the bonus
    rest = [1] * (length - 1)
    assert own.widths == [1, *rest, *([2, *rest] * 3)]


def test_a_hostile_draft_model_costs_time_only(tiny: Any, make_tiny: Any, prompt: Prompt, free_width: Any) -> None:
    for seed in range(5):
        target = make_tiny(seed)
        drafter = DraftModel(draft_model=Otherwise(target, contrary=True), costs=free_width, length=4)
        out = answer(target, drafter, prompt)
        assert out.tau == 1.0 and out.num_accepted == 0 and out.num_drafted > 0
        assert out.tokens == answer(target, tiny.drafter("none"), prompt).tokens


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_answer_is_the_targets_own(
    temperature: float, tiny: Any, make_tiny: Any, ask: Any, free_width: Any
) -> None:
    """Many random models, greedy and with shared noise, chosen and drawn drafts, fixed and paying lengths."""
    accepted = 0
    for seed in range(20):
        target, prompt = make_tiny(seed), ask(f"question {seed}?")
        rule = rule_for(Sampling(temperature=temperature, seed=seed))
        plain = answer(target, tiny.drafter("none"), prompt, rule)
        drawn = Sampling(temperature=temperature, seed=seed) if temperature and seed % 2 else None
        for model in (make_tiny(seed + 1), target):
            drafter = DraftModel(
                draft_model=model, costs=free_width, length=(None, 1, 3, 7)[seed % 4], sampling=drawn
            )
            out = answer(target, drafter, prompt, rule)
            assert out.tokens == plain.tokens
            accepted += out.num_accepted
    assert accepted > 100


NUM_ANSWERS, LENGTH = 800, 4
# under a right law the test fails once in a million choices of the seed, which is fixed
ERROR = 1e-6


def remembering(model: Any) -> Any:
    """The same model, which works out every text once."""
    state = cache(lambda ids: type(model).state(model, list(ids)))
    model.state = lambda ids: state(tuple(ids))
    return model


def laws(target: Any, prompt: Prompt, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The probability of every answer of ``LENGTH`` tokens, by enumeration."""
    ids = target.encode(prompt)

    def law(said: tuple[int, ...]) -> list[float]:
        logits = target.unembed(target.state([*ids, *said])[None]).float()
        return process_logits(logits, sampling).softmax(-1)[0].tolist()

    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        found = {(*said, i): p * q for said, p in found.items() for i, q in enumerate(law(said)) if q > 0}
    return found


def misfit(
    target: Any, draft_model: Any, prompt: Prompt, temperature: float, claimed: float
) -> tuple[float, float]:
    """p-value of drawn answers under the enumerated law, and tau. claimed: the drafter's own temperature."""
    sampling = Sampling(temperature=temperature, top_k=3)
    expected = laws(target, prompt, sampling)
    seen: Counter[tuple[int, ...]] = Counter()
    rounds = emitted = 0
    for seed in range(NUM_ANSWERS):
        own = replace(sampling, seed=seed)
        drafter = Claiming(
            DraftModel(draft_model=draft_model, costs=AssumedCurve(), length=2, sampling=own), claimed
        )
        out = generate(target, drafter, prompt, rule=LeviathanSampling(own), limits=Limits(max_new_tokens=LENGTH))
        seen[tuple(out.tokens)] += 1
        rounds, emitted = rounds + len(out.rounds), emitted + sum(r.emitted for r in out.rounds)
    assert set(seen) <= set(expected)
    # cells too rare for the approximation are counted together
    common = [k for k, p in expected.items() if p * NUM_ANSWERS >= 5]
    counts = [*(seen[k] for k in common)]
    weights = [expected[k] for k in common]
    counts, weights = [*counts, NUM_ANSWERS - sum(counts)], [*weights, 1 - sum(weights)]
    kept = [i for i, w in enumerate(weights) if w > 1e-9]
    told = stats.chisquare([counts[i] for i in kept], [weights[i] * NUM_ANSWERS for i in kept])
    return float(told.pvalue), emitted / rounds


class Claiming:
    """A drafter that says its tokens were drawn from flatter or sharper laws than they were; at 1 the truth."""

    name = "claiming"

    def __init__(self, inner: DraftModel, power: float) -> None:
        self.inner, self.needs, self.power = inner, inner.needs, power

    def begin(self, prompt: Prompt, target: Any, window: Any) -> Any:
        session = self.inner.begin(prompt, target, window)
        propose = session.propose

        def claim(room: int) -> Draft:
            draft = propose(room)
            if draft.probs is None or self.power == 1:
                return draft
            bent = draft.probs**self.power
            return replace(draft, probs=bent / bent.sum(-1, keepdim=True))

        session.propose = claim
        return session


def test_drawn_drafts_leave_the_law_as_it_is(make_tiny: Any) -> None:
    prompt = Prompt("which?")
    target, other = remembering(make_tiny(3)), remembering(make_tiny(4))
    p_value, tau = misfit(target, other, prompt, 1.5, claimed=1)
    assert p_value > ERROR and tau > 1
    p_value, tau = misfit(target, target, prompt, 1.5, claimed=1)
    assert p_value > ERROR and tau == 3.0  # q = p: everything drawn is kept


def test_the_test_of_the_law_has_teeth(make_tiny: Any) -> None:
    target = remembering(make_tiny(3))
    assert misfit(target, target, Prompt("which?"), 1.5, claimed=3)[0] < ERROR


def test_drawn_laws_are_over_the_targets_tokens(tiny: Any, make_tiny: Any, prompt: Prompt, free_width: Any) -> None:
    """Mass on tokens without a twin is shared out among the others; a drawn token always has one."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    to_target = torch.where(order % 3 == 0, NO_TWIN, order)
    drafter = DraftModel(
        draft_model=Otherwise(tiny.target, order=order), costs=free_width, length=8,
        sampling=Sampling(temperature=2.0, seed=1), tokens=TokenMap(to_target, 24),
    )  # fmt: skip
    session = drafter.begin(prompt, tiny.target, None)
    session.observe(Step((4,), is_prompt=True))
    draft = session.propose(8)
    assert draft.probs is not None and draft.probs.shape == (8, 24)
    torch.testing.assert_close(draft.probs.sum(-1), torch.ones(8, dtype=torch.float64))
    assert not draft.probs[:, ::3].any()
    said = [4]
    for token, row in zip(draft.tokens.tolist(), draft.probs, strict=True):
        logits = (
            tiny.target.unembed(tiny.target.state([*tiny.target.encode(prompt), *said])[None]).float()[0].double()
        )
        logits[::3] = -torch.inf
        torch.testing.assert_close(row, (logits / 2.0).softmax(-1))
        assert row[token] > 0
        said.append(token)


def test_other_ids_for_the_same_words(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    """The target under another numbering, and a map: as good as the target itself."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    drafter = DraftModel(
        draft_model=Otherwise(tiny.target, order=order), costs=free_width, length=4, tokens=TokenMap(order, 24)
    )
    assert answer(tiny.target, drafter, prompt, tokens=21).tau == 5.0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_words_that_only_one_of_them_has(temperature: float, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    """A greedy draft ends before one; a verified one ends the drafting; no token changes."""
    rule = rule_for(Sampling(temperature=temperature, seed=4))
    alone = answer(tiny.target, tiny.drafter("none"), prompt, rule)
    order = torch.arange(24)
    for at in (0, 3, 10):
        lacking = alone.tokens[at]
        first = alone.tokens.index(lacking)
        drafter = DraftModel(
            draft_model=tiny.target, costs=free_width, length=6,
            tokens=TokenMap(torch.where(order == lacking, NO_TWIN, order), 24),
        )  # fmt: skip
        out = answer(tiny.target, drafter, prompt, rule)
        assert out.tokens == alone.tokens
        said = 1
        for r in out.rounds:
            assert r.drafted == 0 or said <= first
            assert temperature > 0 or said + r.drafted <= max(first, said)
            said += r.emitted


def test_it_follows_no_further_than_its_cache_reaches(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = DraftModel(draft_model=tiny.target, costs=free_width, room=10, max_ahead=4, length=4)
    out = answer(tiny.target, drafter, prompt, tokens=40)
    assert out.tokens == answer(tiny.target, tiny.drafter("none"), prompt, tokens=40).tokens
    assert 0 < out.num_drafted < 10
    assert tiny.target.sessions[-2].length <= tiny.target.sessions[-2].capacity


def test_it_falls_silent_when_it_does_not_pay_and_reads_nothing_then(tiny: Any, ask: Any) -> None:
    model = Otherwise(tiny.target, contrary=True)
    drafter = DraftModel(draft_model=model, costs=AssumedCurve(0.05), token_ms=0.4, retry_every=4)
    drafted = []
    for i in range(9):
        tiny.target.sessions.clear()
        drafted.append(answer(tiny.target, drafter, ask(f"clip {i}?")).num_drafted)
        assert len(tiny.target.sessions) == 1 + (drafted[-1] > 0)
    assert drafted[0] > 0 and drafted[1:4] == [0, 0, 0] and drafted[4] == drafted[8] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_ahead": 0}, {"room": 5, "max_ahead": 9}, {"retry_every": 0}, {"length": 99}, {"sampling": Sampling()},
        {"tokens": TokenMap.same(24, 23)},
    ],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong: dict[str, Any], tiny: Any, free_width: Any) -> None:
    with pytest.raises(SettingError):
        DraftModel(draft_model=tiny.target, costs=free_width, **wrong)


def test_a_map_to_another_target_is_refused(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = DraftModel(draft_model=tiny.target, costs=free_width, tokens=TokenMap.same(99, 24))
    with pytest.raises(SettingError, match="for a target of 99 tokens, 'tiny' has 24"):
        drafter.begin(prompt, tiny.target, None)
