"""The same in Python: crossdraft.load_target, make_drafter, generate."""

from collections.abc import Callable
from pathlib import Path

import pytest

import crossdraft
from crossdraft.core.errors import DataError, SettingError

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def models(pair: tuple[Path, Path]):
    return crossdraft.load_target(pair[0], dtype="float32"), crossdraft.load_event_model(pair[1], dtype="float32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path / "cache"))


def test_a_drafter_kept_between_clips_learns(models, clip: Path) -> None:
    target, event_model = models
    drafter = crossdraft.make_drafter("memory", target=target, event_model=event_model)
    options = {"video": clip, "stream_id": "front", "max_new_tokens": 24}
    plain = crossdraft.generate(target, "What is it?", drafter="none", **options)
    first = crossdraft.generate(target, "What is it?", drafter=drafter, **options)
    second = crossdraft.generate(target, "What is it?", drafter=drafter, **options)
    assert first.tokens == second.tokens == plain.tokens
    assert len(second.rounds) < len(plain.rounds) == len(plain.tokens) - 1
    assert second.exactness.bit_exact


def test_the_event_model_drafts(models, clip: Path, write_events: Write) -> None:
    target, event_model = models
    told: list[int] = []
    answer = crossdraft.generate(
        target, "What moves?", video=clip, events=write_events(), sensor=(64, 48), event_model=event_model,
        drafter="cross_modal", max_new_tokens=16, on_tokens=told.extend,
    )  # fmt: skip
    assert told == answer.tokens
    assert answer.tokens == crossdraft.generate(target, "What moves?", video=clip, max_new_tokens=16).tokens


def test_an_answer_can_be_cancelled(models, clip: Path) -> None:
    said: list[int] = []
    answer = crossdraft.generate(
        models[0], "What is it?", video=clip, drafter="none", max_new_tokens=24, on_tokens=said.extend,
        cancel=lambda: len(said) >= 5,
    )  # fmt: skip
    assert answer.finish_reason == "cancelled" and len(answer.tokens) == 5


def test_what_does_not_fit_is_refused(models, clip: Path, tmp_path: Path) -> None:
    target, event_model = models
    with pytest.raises(SettingError, match="needs an event recording"):
        crossdraft.generate(target, "What?", video=clip, event_model=event_model, drafter="cross_modal")
    with pytest.raises(SettingError, match="needs an event model"):
        crossdraft.generate(target, "What?", video=clip, drafter="cross_modal")
    with pytest.raises(SettingError, match="not both|unknown drafter"):
        crossdraft.generate(target, "What?", video=clip, drafter="telepathy")
    with pytest.raises(DataError, match="not both"):
        crossdraft.generate(target, "What?", video=clip, image=clip)
    with pytest.raises(DataError):
        crossdraft.generate(target, "What?", drafter="none")


def test_costs_are_measured_once_and_kept(models, clip: Path, tmp_path: Path) -> None:
    from crossdraft import build

    prompt = build.make_prompt("What?", video=clip)
    pair = build.Pair(models[0], None)
    first = build.costs_for(pair, prompt, refresh=True)
    assert build.costs_for(pair, prompt) is first
    build._profiles.clear()
    assert build.costs_for(pair, prompt) == first
    assert list((tmp_path / "cache").glob("profile-*.json"))


@pytest.mark.parametrize("dtype", ["float16", "int8", "half"])
def test_a_dtype_that_is_not_offered(dtype: str, pair: tuple[Path, Path]) -> None:
    with pytest.raises(SettingError, match=f"'{dtype}' is not available on cpu"):
        crossdraft.load_target(pair[0], dtype=dtype, device="cpu")


def test_the_package_has_exactly_the_promised_names() -> None:
    assert dir(crossdraft) == sorted(crossdraft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        crossdraft.nonsense  # noqa: B018
