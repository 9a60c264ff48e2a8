"""Which questions a live check asks, and that what it predicts is what playing them through gives."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from crossdraft.core.errors import DataError
from crossdraft.evaluate.latency import Times
from crossdraft.evaluate.offline import play
from crossdraft.extraction.jobs import Job, choose_jobs
from crossdraft.study.live import alphas_of, expect


def jobs(recordings: int, clips: int, questions: int) -> list[Job]:
    return [
        Job(f"r{r}/{c}#{q}", f"r{r}", c, f"question {q}?", lambda: pytest.fail("not loaded"))
        for r in range(recordings)
        for c in range(clips)
        for q in range(questions)
    ]


def test_a_stream_is_asked_one_question_clip_after_clip() -> None:
    chosen = choose_jobs(jobs(3, 4, 2), 9)
    assert [job.id for job in chosen] == [
        "r0/0#0", "r0/1#0", "r0/2#0", "r1/0#1", "r1/1#1", "r1/2#1", "r2/0#0", "r2/1#0", "r2/2#0",
    ]  # fmt: skip
    assert len(choose_jobs(jobs(3, 4, 2), 4)) == 4 and len(choose_jobs(jobs(2, 2, 2), 99)) == 4
    with pytest.raises(DataError, match="no clip is left"):
        choose_jobs([], 3)


@dataclass
class Entry:
    id: str


@dataclass
class FakeStore:
    entries: list[Entry]
    root: str = "store"


@dataclass
class FakeJudged:
    runs: list[np.ndarray] | None


@dataclass
class FakeCandidate:
    name: str = "l1"
    void: str | None = None


@dataclass
class FakeEntrant:
    judged: FakeJudged
    store: FakeStore
    candidate: FakeCandidate = field(default_factory=FakeCandidate)


def times(draft_step: float = 0.1, **more: Any) -> Times:
    return Times(
        target_encode_ms=10, target_prefill_ms=20, step_ms=4.0, verify_ms={2: 4.0, 8: 4.4, 16: 5.0},
        draft_step_ms=draft_step, event_encode_ms=3, event_prefill_ms=2, **more,
    )  # fmt: skip


def entrant(rng: np.random.Generator, chance: float, samples: int = 40) -> FakeEntrant:
    runs: list[np.ndarray] = []
    for _ in range(samples):
        hits = rng.random(60) < chance
        own: list[int] = []
        for hit in hits[::-1]:
            own.insert(0, own[0] + 1 if hit and own else int(hit))
        runs.append(np.array(own))
    return FakeEntrant(FakeJudged(runs), FakeStore([Entry(f"s{n}") for n in range(samples)]))


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.9])
def test_the_prediction_is_what_playing_through_gives(chance: float) -> None:
    one: Any = entrant(np.random.default_rng(0), chance)
    ids = [f"s{n}" for n in range(0, 40, 2)]
    length, expected = expect(one, ids, times())
    some = play([one.judged.runs[n] for n in range(0, 40, 2)], length)
    assert expected["tau"] == pytest.approx(some.emitted.sum() / len(some.emitted), rel=0.05)
    # the same by hand: every round drafts so many tokens and verifies one more
    cost = times()
    rounds = len(some.emitted)
    own = 30 + 5 + rounds * (length * cost.draft_step_ms + cost.pass_ms(length + 1)) / len(ids)
    plain = 30 + 59 * 4.0
    assert expected["speedup_e2e"] == pytest.approx(plain / own, rel=0.05)
    assert (length == 1) == (chance == 0.0)


def test_dear_drafts_are_short_and_cheap_ones_long() -> None:
    one: Any = entrant(np.random.default_rng(1), 0.8)
    lengths = [expect(one, ["s0"], times(step))[0] for step in (0.01, 1.0, 9.0)]
    assert lengths[0] > lengths[1] >= lengths[2] == 1
    assert len(alphas_of(one.judged.runs, 6)) == 6


def test_what_cannot_be_predicted_is_named() -> None:
    one: Any = entrant(np.random.default_rng(0), 0.5, samples=2)
    with pytest.raises(DataError, match=r"lacks 1 of 2 samples to check live \('s9'\)"):
        expect(one, ["s0", "s9"], times())
    void: Any = FakeEntrant(FakeJudged(None), FakeStore([]), FakeCandidate("b1", "reads its own target"))
    with pytest.raises(DataError, match="'b1' cannot draft: reads its own target"):
        expect(void, [], times())
