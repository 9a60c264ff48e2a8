"""What is stored is what both models thought: held against models that recompute every text from its ids."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.core.prompt import EventStream, Prompt
from crossdraft.core.types import Limits
from crossdraft.data.store import PairedStates, Store, StoreWriter, same_content
from crossdraft.decode.loop import generate
from crossdraft.extraction.answers import Kept, Running
from crossdraft.extraction.capture import ExtractConfig, Extracted, Extractor, extract
from crossdraft.extraction.jobs import Job, shuffled
from crossdraft.verify.greedy import Greedy


def _prompt(number: int) -> Prompt:
    t = np.arange(number + 2, dtype=np.int64)
    xy = np.zeros(len(t), np.uint16)
    events = EventStream(xy, xy, t, np.zeros(len(t), np.uint8), (4, 4))
    return Prompt(f"what is there in clip {number}?", events=events, stream_id="road")


def _jobs(count: int) -> list[Job]:
    return [
        Job(f"clip{i}#0", f"road{i // 3}", i, _prompt(i).question, lambda i=i: _prompt(i)) for i in range(count)
    ]


def _extractor(tiny: Any, **changes: Any) -> Extractor:
    config = ExtractConfig(**{"dtype": "fp32", "max_new_tokens": 14, **changes})
    answers = Running(
        tiny.target, tiny.drafter("memory"), Greedy(), config.max_new_tokens, config.tapped, config.top_k
    )
    return Extractor(answers, tiny.event_model, tiny.drafter("memory"), Greedy(), config)


def _fill(root: Path, extractor: Extractor, jobs: list[Job]) -> Store:
    with StoreWriter(root, extractor.identity()) as writer:
        extract(extractor, jobs, writer)
    return Store.open(root)


def _target_side(sample: PairedStates) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in sample.tensors().items() if not name.startswith("draft_")}


def _expected(model: Any, prompt: Prompt, tokens: list[int]) -> torch.Tensor:
    encoded = model.encode(prompt)
    return torch.stack([model.state([*encoded, *tokens[:t]]) for t in range(len(tokens))])


@pytest.mark.parametrize("mode", ["teacher-forced", "free-running"])
def test_row_t_is_the_state_that_predicts_token_t(tiny: Any, mode: str) -> None:
    extractor = _extractor(tiny, mode=mode, tapped=(0,), top_k=3)
    limits = Limits(max_new_tokens=14, eos_token_ids=(1,))
    for job in _jobs(5):
        sample, prompt = extractor.states_of(job), job.load()
        alone = {
            model: generate(model, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits).tokens
            for model in (tiny.target, tiny.event_model)
        }
        assert sample.target_tokens is not None and sample.draft_tokens is not None
        said, own = sample.target_tokens.tolist(), sample.draft_tokens.tolist()
        assert said == alone[tiny.target]
        assert own == (said if mode == "teacher-forced" else alone[tiny.event_model])
        torch.testing.assert_close(sample.target_states, _expected(tiny.target, prompt, said))
        torch.testing.assert_close(sample.draft_states, _expected(tiny.event_model, prompt, own))
        assert set(sample.tapped) == {0} and torch.equal(sample.tapped[0], sample.target_states)
        best = tiny.target.unembed(sample.target_states).float().log_softmax(-1).topk(3, -1)
        assert sample.top_ids is not None and sample.top_log_probs is not None
        assert torch.equal(sample.top_ids.long(), best.indices)
        torch.testing.assert_close(sample.top_log_probs, best.values)
        assert sample.top_ids[:, 0].tolist() == said, "greedy: the first of the best is what was said"


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_a_broken_run_ends_like_an_unbroken_one(tiny: Any, tmp_path_factory: Any, stops: list[int]) -> None:
    """Whatever was said before, a run with an empty memory keeps the same: drafts change no state."""
    folder = tmp_path_factory.mktemp("stores")
    whole, broken = folder / "whole", folder / "broken"
    extractor = _extractor(tiny)
    with StoreWriter(whole, extractor.identity()) as writer:
        made = extract(extractor, _jobs(7), writer)
    assert (made.done, made.failed) == (7, 0)
    done = 0
    for stop in [*stops, 7]:
        done = min(7, done + stop)
        fresh = _extractor(tiny)
        with StoreWriter(broken, fresh.identity(), max_samples=1) as writer:
            extract(fresh, _jobs(done), writer)
    assert same_content(whole, broken)


def test_a_clip_that_cannot_be_read_is_recorded_and_can_be_retried(tiny: Any, tmp_path: Path) -> None:
    broken = True
    jobs = _jobs(3)

    def load() -> Prompt:
        if broken:
            raise DataError("clip1.npz: is cut short; copy it again")
        return _prompt(1)

    jobs[1] = Job("clip1#0", "road0", 1, _prompt(1).question, load)
    extractor = _extractor(tiny)
    with StoreWriter(tmp_path / "s", extractor.identity()) as writer:
        assert extract(extractor, jobs, writer).failed == 1
    assert "cut short" in Store.open(tmp_path / "s").failures["clip1#0"].reason
    broken = False
    with StoreWriter(tmp_path / "s", extractor.identity()) as writer:
        assert extract(extractor, jobs, writer) == Extracted(0, 0, 0), "failed samples count as done"
        again = extract(extractor, jobs, writer, retry_failed=True)
    assert (again.done, again.failed) == (1, 0) and len(Store.open(tmp_path / "s")) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupted_run_keeps_what_it_made(tiny: Any, tmp_path: Path, error: BaseException) -> None:
    def interrupt() -> Prompt:
        raise error

    jobs = _jobs(4)
    jobs[2] = Job("clip2#0", "road0", 2, _prompt(2).question, interrupt)
    with pytest.raises(type(error)):
        _fill(tmp_path / "s", _extractor(tiny), jobs)
    assert [entry.id for entry in Store.open(tmp_path / "s").entries] == ["clip0#0", "clip1#0"]
    _fill(tmp_path / "s", _extractor(tiny), _jobs(4))
    _fill(tmp_path / "whole", _extractor(tiny), _jobs(4))
    assert same_content(tmp_path / "s", tmp_path / "whole")


def test_a_long_run_commits_now_and_then(tiny: Any, tmp_path: Path) -> None:
    extractor = _extractor(tiny)
    with StoreWriter(tmp_path / "s", extractor.identity()) as writer:
        assert extract(extractor, _jobs(3), writer, commit_s=0.0) == Extracted(3, 0, writer_tokens(writer))
    assert len({entry.shard for entry in Store.open(tmp_path / "s").entries}) == 3


def writer_tokens(writer: StoreWriter) -> int:
    return sum(entry.num_target_tokens for entry in Store.open(writer.root).entries)


def test_other_settings_are_another_store(tiny: Any, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", _extractor(tiny).identity()):
        pass
    for change in ({"mode": "free-running"}, {"max_new_tokens": 15}, {"top_k": 2}, {"tapped": (0,)}):
        with pytest.raises(DataError, match="another kind"):
            StoreWriter(tmp_path / "s", _extractor(tiny, **change).identity())


@pytest.mark.parametrize("mode", ["teacher-forced", "free-running"])
def test_a_control_differs_in_what_the_event_model_saw_and_in_nothing_else(
    tiny: Any, tmp_path: Path, mode: str
) -> None:
    settings: dict[str, Any] = {"mode": mode, "tapped": (0,), "top_k": 2}
    jobs = _jobs(6)
    right = _fill(tmp_path / "right", _extractor(tiny, **settings), jobs)
    control = _fill(tmp_path / "control", _extractor(tiny, **settings, shuffled=True), shuffled(jobs))
    assert control.identity.control == "shuffled" and right.identity.control == "none"
    assert control.identity.answers_hash == right.identity.answers_hash
    assert [entry.id for entry in control.entries] == [entry.id for entry in right.entries]
    for job in shuffled(jobs):
        mine, theirs = control[job.id], right[job.id]
        for name, tensor in _target_side(mine).items():
            assert torch.equal(tensor, _target_side(theirs)[name]), name
        assert not torch.equal(mine.draft_states, theirs.draft_states)
        assert job.other is not None and mine.draft_tokens is not None
        shown = Prompt(job.question, events=job.other().events)
        expected = _expected(tiny.event_model, shown, mine.draft_tokens.tolist())
        torch.testing.assert_close(mine.draft_states.double(), expected, atol=1e-6, rtol=1e-6)


def test_settings_and_jobs_must_agree_on_what_is_shuffled(tiny: Any) -> None:
    with pytest.raises(SettingError, match="differ on whether events are shuffled"):
        _extractor(tiny, shuffled=True).states_of(_jobs(2)[0])
    with pytest.raises(SettingError, match="differ on whether events are shuffled"):
        _extractor(tiny).states_of(shuffled(_jobs(2))[0])


@pytest.mark.parametrize("mode", ["teacher-forced", "free-running"])
def test_kept_answers_give_the_same_store_without_the_target(tiny: Any, tmp_path: Path, mode: str) -> None:
    changes: dict[str, Any] = {"tapped": (0,), "top_k": 2}
    kept = Kept.of(_fill(tmp_path / "answers", _extractor(tiny, **changes), _jobs(5)))
    running = _extractor(tiny, **changes, mode=mode, shuffled=True)
    _fill(tmp_path / "ran", running, shuffled(_jobs(5)))
    before = len(tiny.target.sessions)
    reading = Extractor(kept, tiny.event_model, tiny.drafter("memory"), Greedy(), running.config)
    assert reading.identity() == running.identity()
    _fill(tmp_path / "read", reading, shuffled(_jobs(5)))
    assert len(tiny.target.sessions) == before, "the target was run"
    assert same_content(tmp_path / "ran", tmp_path / "read")


def test_answers_of_another_target_or_other_settings_are_refused(tiny: Any, tmp_path: Path) -> None:
    made = _extractor(tiny)
    kept = Kept.of(_fill(tmp_path / "answers", made, _jobs(3)))
    config, name = made.config, tiny.target.name
    wanted = {
        "target": name, "dtype": "fp32", "tapped": (), "top_k": 0,
        "answers_hash": config.answers_hash(name, None, "greedy"),
    }  # fmt: skip
    kept.check(wanted, _jobs(3))
    kept.check(wanted, _jobs(9))
    for change, words in (
        ({"target": "other"}, "target 'tiny', 'other' is asked for"),
        ({"dtype": "bf16"}, "dtype 'fp32', 'bf16' is asked for"),
        ({"tapped": (0,)}, "tapped"),
        ({"top_k": 2}, "top_k 0, 2"),
        (
            {"answers_hash": config.answers_hash(name, {"checkpoint": "b"}, "greedy")},
            "another checkpoint, dtype or",
        ),
    ):
        with pytest.raises(DataError, match=words):
            kept.check({**wanted, **change}, _jobs(3))
    other = [Job("clip1#0", "road0", 1, "another question?", lambda: _prompt(1))]
    with pytest.raises(DataError, match="'clip1#0' is of another clip or question"):
        kept.check(wanted, other)
    with pytest.raises(DataError, match="no answer to any of the 1 clips"):
        kept.check(wanted, [Job("x", "road9", 1, "what?", lambda: _prompt(1))])


def test_a_store_that_does_not_say_whose_answers_it_holds(tiny: Any, tmp_path: Path) -> None:
    made = _extractor(tiny)
    identity = replace(made.identity(), answers_hash="")
    with StoreWriter(tmp_path / "old", identity) as writer:
        writer.put(made.states_of(_jobs(1)[0]))
    with pytest.raises(DataError, match="does not say which target"):
        Kept.of(Store.open(tmp_path / "old"))


def test_a_damaged_store_of_answers_ends_the_run(tiny: Any, tmp_path: Path) -> None:
    """It is not the clips' fault, so no clip may count as failed."""
    kept = Kept.of(_fill(tmp_path / "answers", _extractor(tiny), _jobs(2)))
    shard = next((tmp_path / "answers").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:60])
    reading = Extractor(kept, tiny.event_model, tiny.drafter("memory"), Greedy(), _extractor(tiny).config)
    with pytest.raises(CrossdraftError, match="cannot be read.*store check"):
        _fill(tmp_path / "read", reading, _jobs(2))
    assert not Store.open(tmp_path / "read").failures


def test_a_model_that_does_not_look_at_events_has_no_control(tiny: Any, make_tiny: Any) -> None:
    extractor = replace(_extractor(tiny, shuffled=True), event_model=make_tiny(1))
    with pytest.raises(SettingError, match="does not look at events"):
        extractor.states_of(shuffled(_jobs(2))[0])


def test_a_clip_without_a_kept_answer_is_recorded_with_the_reason(tiny: Any, tmp_path: Path) -> None:
    def load() -> Prompt:
        raise DataError("clip1.npz: is cut short; copy it again")

    broken = [*_jobs(1), Job("clip1#0", "road0", 1, _prompt(1).question, load)]
    kept = Kept.of(_fill(tmp_path / "answers", _extractor(tiny), broken))
    reading = Extractor(kept, tiny.event_model, tiny.drafter("memory"), Greedy(), _extractor(tiny).config)
    failures = _fill(tmp_path / "read", reading, _jobs(3)).failures
    assert "it failed there: clip1.npz: is cut short" in failures["clip1#0"].reason
    assert "extract it there first" in failures["clip2#0"].reason


def test_bad_settings() -> None:
    with pytest.raises(SettingError, match="max_new_tokens"):
        ExtractConfig(max_new_tokens=0)
