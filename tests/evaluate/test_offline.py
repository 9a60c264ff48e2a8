"""What is said of an adapter without decoding is what decoding then does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdraft.adapters import ADAPTERS, build_adapter
from crossdraft.adapters.base import Adapter
from crossdraft.core.errors import DataError, MeasureError
from crossdraft.core.types import Limits
from crossdraft.data.store import Store, StoreWriter
from crossdraft.decode.loop import generate
from crossdraft.drafters.cross_modal import CrossModal
from crossdraft.drafters.none import NoDraft
from crossdraft.evaluate.compare import Compared, compare_controls, compare_one
from crossdraft.evaluate.offline import Candidate, _leading, first_runs, judge, play
from crossdraft.extraction.answers import Running
from crossdraft.extraction.capture import ExtractConfig, Extractor, extract
from crossdraft.extraction.jobs import Job
from crossdraft.verify.greedy import Greedy

WIDTH = 16
TOKENS = 24
SOUND = [name for name in ADAPTERS if name not in ("b1", "l5f", "l6")]


def make_adapter(level: str) -> Adapter:
    """Near the identity, so that some drafts are right and some are not."""
    torch.manual_seed(3)
    heads = {"num_heads": 2} if level[:2] in ("l4", "l5", "b1") else {}
    adapter = build_adapter(level, width_in=WIDTH, width_out=WIDTH, **heads).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return adapter


def candidate(tiny: Any, level: str, **changes: Any) -> Candidate:
    embeddings = tiny.target.table.float()
    return Candidate(level, tiny.target.head.T.float(), make_adapter(level), embeddings, **changes)


@pytest.fixture
def pair(tiny: Any, make_tiny: Any) -> Any:
    """An event model that is the target, misled a little by what it watches."""
    tiny.event_model = make_tiny(0, watches="events")
    tiny.target.eos_token_ids = ()
    return tiny


def compare(store: Store, candidates: list[Candidate], **settings: Any) -> list[Compared]:
    return [compare_one(store, one, **settings)[0] for one in candidates]


def prompts(ask: Any, shift: int = 0) -> list[tuple[str, Any]]:
    return [(f"s{n % 3}", ask(f"question {n % 2}?", num_events=3 + (5 * n + shift) % 11)) for n in range(6)]


def make_store(root: Path, pair: Any, asked: list[tuple[str, Any]], mode: str = "teacher-forced") -> Store:
    config = ExtractConfig(dtype="fp32", max_new_tokens=TOKENS, mode=mode)  # type: ignore[arg-type]
    answers = Running(pair.target, NoDraft(), Greedy(), TOKENS)
    extractor = Extractor(answers, pair.event_model, NoDraft(), Greedy(), config)
    jobs = [
        Job(f"{number}", recording, number, prompt.question, lambda prompt=prompt: prompt)
        for number, (recording, prompt) in enumerate(asked)
    ]
    with StoreWriter(root, extractor.identity()) as writer:
        extract(extractor, jobs, writer)
    return Store.open(root)


@pytest.mark.parametrize("level", SOUND)
def test_rounds_played_through_are_those_of_decoding(
    level: str, pair: Any, ask: Any, free_width: Any, tmp_path: Path
) -> None:
    asked = prompts(ask)
    store = make_store(tmp_path, pair, asked)
    judged = judge(store, candidate(pair, level), depth=5, batch=4)
    assert judged.runs is not None
    by_id = dict(zip([entry.id for entry in store.entries], judged.runs, strict=True))
    some = 0
    for length in (1, 3, 5):
        drafter = CrossModal(
            event_model=pair.event_model, costs=free_width, adapter=make_adapter(level).double(), length=length
        )
        for number, (_, prompt) in enumerate(asked):
            # a budget beyond the answer, so that no draft is cut short
            tokens = store[str(number)].target_tokens
            assert tokens is not None
            live = generate(pair.target, drafter, prompt, rule=Greedy(), limits=Limits(max_new_tokens=TOKENS + 8))
            assert live.tokens[:TOKENS] == tokens.tolist()
            played = play([by_id[str(number)]], length)
            said, whole = 1, 0
            for r in live.rounds:
                if said + r.emitted > TOKENS:
                    break  # decoding went on behind what was stored
                assert (r.accepted, r.emitted) == (played.accepted[whole], played.emitted[whole])
                said, whole, some = said + r.emitted, whole + 1, some + r.accepted
    assert some > 0


@given(st.lists(st.booleans(), max_size=30))
def test_runs_are_hits_before_the_next_miss(hits: list[bool]) -> None:
    expected = []
    for at in range(len(hits)):
        count = 0
        while at + count < len(hits) and hits[at + count]:
            count += 1
        expected.append(count)
    assert _leading(np.array(hits, dtype=bool)).tolist() == expected


@settings(max_examples=50)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=5), st.integers(1, 6))
def test_a_played_round_accepts_what_matches(answers: list[list[bool]], length: int) -> None:
    rounds = play([_leading(np.array(own)) for own in answers], length)
    assert rounds.emitted.sum() == sum(len(own) - 1 for own in answers)
    assert (rounds.accepted <= length).all()
    at = 0
    for own, count in zip(answers, rounds.lengths, strict=True):
        said = 1
        for accepted, emitted in zip(rounds.accepted[at:][:count], rounds.emitted[at:][:count], strict=True):
            assert all(own[said : said + accepted])
            if emitted > accepted and accepted < length:
                assert not own[said + accepted]
            said += emitted
        at += count
        assert said == len(own) or len(own) == 1


def test_figures_of_a_batch_are_those_of_each_alone(pair: Any, ask: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path, pair, prompts(ask))
    for level in ("l1", "l4", "l5f_sound"):
        alone, together = (judge(store, candidate(pair, level), batch=batch) for batch in (1, 6))
        assert np.array_equal(alone.ranks.values, together.ranks.values)
        assert alone.cosines is not None and together.cosines is not None
        np.testing.assert_allclose(alone.cosines.values, together.cosines.values, atol=1e-5)
        assert (alone.ranks.values == 0).sum() >= alone.matches.values.sum()


def test_a_level_that_looks_ahead_is_judged_as_drafting_runs_it(pair: Any, ask: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path, pair, prompts(ask))
    drafted, whole = judge(store, candidate(pair, "l4")), judge(store, candidate(pair, "l4", whole=True))
    assert whole.runs is None and drafted.runs is not None
    assert drafted.cosines is not None and whole.cosines is not None
    assert not np.allclose(drafted.cosines.values, whole.cosines.values)
    adapter, sample = make_adapter("l4"), store[2]
    with torch.no_grad():
        prefixes = torch.stack(
            [adapter(sample.draft_states[None, : n + 1].float())[0, -1] for n in range(len(sample.draft_states))]
        )
    ours = drafted.cosines.values[drafted.cosines.sample == 2]
    theirs = torch.cosine_similarity(prefixes, sample.target_states.float(), -1)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_void_rows_say_so_and_have_no_rounds(pair: Any, ask: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path, pair, prompts(ask))
    for level, changes in (("b1", {}), ("l5f", {}), ("l4", {"whole": True})):
        row = compare(store, [candidate(pair, level, **changes)], draws=200)[0]
        assert row.void and row.rounds is None and row.states is not None
    assert compare(store, [candidate(pair, "l4_causal", whole=True)], draws=200)[0].void is None


def test_free_running_pairs_have_no_rounds(pair: Any, make_tiny: Any, ask: Any, tmp_path: Path) -> None:
    pair.event_model = make_tiny(1, watches="events")
    store = make_store(tmp_path, pair, prompts(ask), "free-running")
    row = compare(store, [candidate(pair, "l1")], draws=200)[0]
    assert row.rounds is None and row.void is None and row.tokens is not None


def test_the_event_model_s_own_head(pair: Any, ask: Any, tmp_path: Path, free_width: Any) -> None:
    asked = prompts(ask)
    store = make_store(tmp_path, pair, asked)
    own = Candidate("event model", pair.event_model.head.T.float())
    judged = judge(store, own)
    assert judged.runs is not None
    drafter = CrossModal(event_model=pair.event_model, costs=free_width, length=3)
    by_id = dict(zip([entry.id for entry in store.entries], judged.runs, strict=True))
    for number, (_, prompt) in enumerate(asked):
        live = generate(pair.target, drafter, prompt, rule=Greedy(), limits=Limits(max_new_tokens=TOKENS))
        assert live.rounds[0].accepted == min(3, by_id[str(number)][1])


def test_the_shuffled_clip_is_paired_by_sample(pair: Any, ask: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "right", pair, prompts(ask))
    # the target's prompt has no events here, so another clip's events change the event model alone
    pair.target.encode = (lambda encode: lambda p: encode(ask(p.question, num_events=0)))(pair.target.encode)
    same = make_store(tmp_path / "a", pair, prompts(ask))
    other = make_store(tmp_path / "b", pair, prompts(ask, shift=4))
    row = compare(same, [candidate(pair, "l1")], shuffled=same, draws=200)[0]
    assert row.contribution is not None and set(row.contribution) == {"top1", "run", "tau"}
    assert all(paired.gap.value == 0 for paired in row.contribution.values())
    shuffled = compare(same, [candidate(pair, "l1")], shuffled=other, draws=200)[0].contribution
    assert shuffled is not None and shuffled["tau"].right.value == row.rounds.tau.value  # type: ignore[union-attr]
    # within recordings the two differ, whatever the average
    assert shuffled["top1"].gap.low < shuffled["top1"].gap.high
    with pytest.raises(DataError, match="same samples"):
        compare(store, [candidate(pair, "l1")], shuffled=make_store(tmp_path / "c", pair, prompts(ask)[:4]))


def test_controls_draft_from_text_alone(pair: Any, ask: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path, pair, prompts(ask))
    rows = {row.name: row for row in compare_controls(store, pair.target.tokenizer, draws=200)}
    assert set(rows) == {"constant per question", "stream memory", "prompt lookup"}
    assert all(row.is_control and row.rounds is not None and row.rounds.tau.value >= 1 for row in rows.values())
    # the same answers learned first: now the constant has seen them all, and a memory knows each word for word
    learned = {row.name: row for row in compare_controls(store, pair.target.tokenizer, learn_from=store, draws=200)}
    name = "stream memory"
    assert learned[name].rounds.tau.value > rows[name].rounds.tau.value  # type: ignore[union-attr]
    assert learned[name].first_run.value > rows[name].first_run.value


def test_what_does_not_fit_is_named(pair: Any, ask: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", pair, prompts(ask))
    wide = build_adapter("l1", width_in=8, width_out=WIDTH).eval()
    head: Tensor = pair.target.head.T.float()
    with pytest.raises(DataError, match="event model have width 16.*made for 8"):
        judge(store, Candidate("l1", head, wide))
    with pytest.raises(DataError, match="the head takes 9"):
        judge(store, Candidate("l1", torch.zeros(24, 9), make_adapter("l1")))
    with pytest.raises(DataError, match="another event model"):
        judge(store, Candidate("own", torch.zeros(24, 9)))
    with pytest.raises(DataError, match="embeddings"):
        judge(store, Candidate("l5_tokens", head, make_adapter("l5_tokens")))
    one = make_store(tmp_path / "one", pair, prompts(ask)[:1])
    with pytest.raises(MeasureError, match="two or more recordings"):
        compare(one, [candidate(pair, "l1")])
    assert compare(one, [candidate(pair, "l1")], draws=0)[0].rounds is not None


def test_the_first_draft_starts_behind_the_target_s_first_token(pair: Any, ask: Any, tmp_path: Path) -> None:
    judged = judge(make_store(tmp_path, pair, prompts(ask)), candidate(pair, "l3"))
    assert judged.runs is not None
    assert first_runs(judged).tolist() == judged.matches.after(1).leading().tolist()
