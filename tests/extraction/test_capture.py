"""What is stored is what both models thought: held against models that recompute every text from its ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import EventStream, Prompt
from crossdraft.core.types import Limits
from crossdraft.data.store import Store, StoreWriter, same_content
from crossdraft.decode.loop import generate
from crossdraft.extraction.capture import ExtractConfig, Extracted, Extractor, extract
from crossdraft.extraction.jobs import Job
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
    drafters = tiny.drafter("memory"), tiny.drafter("memory")
    return Extractor(tiny.target, tiny.event_model, *drafters, Greedy(), config)


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


def test_other_settings_are_another_store(tiny: Any, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", _extractor(tiny).identity()):
        pass
    for change in ({"mode": "free-running"}, {"max_new_tokens": 15}, {"top_k": 2}, {"tapped": (0,)}):
        with pytest.raises(DataError, match="another kind"):
            StoreWriter(tmp_path / "s", _extractor(tiny, **change).identity())


def test_bad_settings() -> None:
    with pytest.raises(SettingError, match="max_new_tokens"):
        ExtractConfig(max_new_tokens=0)
