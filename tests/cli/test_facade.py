"""The same in Python: crossdraft.load_target, make_drafter, generate."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import crossdraft
from crossdraft.core.errors import DataError, SettingError

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def models(pair: tuple[Path, Path]):
    return crossdraft.load_target(pair[0], dtype="float32"), crossdraft.load_event_model(pair[1], dtype="float32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path / "cache"))


class Flat:
    """Wider passes cost no more: what is drafted does not hang on how busy the machine was when it was measured."""

    def pass_ms(self, rows: int) -> float:
        return 1.0


def test_a_drafter_kept_between_clips_learns(models, clip: Path) -> None:
    target, event_model = models
    drafter = crossdraft.make_drafter("memory", target=target, event_model=event_model, costs=Flat())
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
    from crossdraft.build import costs

    prompt = build.make_prompt("What?", video=clip)
    pair = build.Pair(models[0], None)
    first = build.costs_for(pair, prompt, refresh=True)
    assert build.costs_for(pair, prompt) is first
    costs._profiles.clear()
    assert build.costs_for(pair, prompt) == first
    assert list((tmp_path / "cache").glob("profile-*.json"))


def test_exact_and_near_exact_trees_have_their_own_costs(models, clip: Path, tmp_path: Path) -> None:
    from crossdraft import build
    from crossdraft.build.load import with_trees

    prompt = build.make_prompt("What?", video=clip)
    exact = build.costs_for(build.Pair(models[0], None), prompt)
    kept = set((tmp_path / "cache").glob("profile-*.json"))
    near = build.costs_for(build.Pair(with_trees(models[0], "near-exact"), None), prompt)
    assert len(set((tmp_path / "cache").glob("profile-*.json")) - kept) == 1
    assert set(exact.target_tree_ms) == set(near.target_tree_ms) == {4, 8, 16, 32, 64}


@pytest.mark.parametrize("positions", [128, 64])
def test_a_target_that_takes_chains_only_is_timed_too(llama: Path, tmp_path: Path, positions: int) -> None:
    """Its session refuses trees; and where the context ends early there are fewer of them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from crossdraft import build

    GPT2LMHeadModel(
        GPT2Config(vocab_size=320, n_positions=positions, n_embd=32, n_layer=2, n_head=2)
    ).save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llama / name, tmp_path / "gpt2" / name)
    target = crossdraft.load_target(tmp_path / "gpt2", dtype="float32", device="cpu")
    prompt = build.make_prompt("What?")
    costs = build.costs_for(build.Pair(target, None), prompt)
    assert costs.target_tree_ms == {} and costs.tree_ms(8) == costs.pass_ms(8) > 0
    answer = crossdraft.generate(target, "What?", drafter="ngram", max_new_tokens=8)
    assert len(answer.tokens) == 8


@pytest.mark.parametrize("dtype", ["float16", "int8", "half"])
def test_a_dtype_that_is_not_offered(dtype: str, pair: tuple[Path, Path]) -> None:
    with pytest.raises(SettingError, match=f"'{dtype}' is not available on cpu"):
        crossdraft.load_target(pair[0], dtype=dtype, device="cpu")


def test_the_package_has_exactly_the_promised_names() -> None:
    assert dir(crossdraft) == sorted(crossdraft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        crossdraft.nonsense  # noqa: B018


def test_a_single_stop_string_is_one_string(models) -> None:
    from crossdraft import build
    from crossdraft.core.types import Sampling

    for stop, expected in (("cyclist", ("cyclist",)), (["a", "b"], ("a", "b")), ((), ())):
        prompt = build.make_prompt("What?")
        request = build.make_request(models[0], prompt, sampling=Sampling(), max_new_tokens=4, stop=stop)
        assert request.limits.stop == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question": None}, "must be a text"), ({"video": 3}, "video is a int"),
        ({"events": 3}, "events is a int"),
        ({"max_new_tokens": 1.5}, "whole number"), ({"top_p": None}, "top_p is None"),
        ({"stop": [3]}, "must be texts"),
        ({"temperature": float("inf")}, "finite"), ({"drafter": None}, "must be a name"),
        ({"memory": "x.json"}, "open_memory"), ({"seed": 1.5}, "seed is 1.5"),
    ],
)  # fmt: skip
def test_what_is_of_the_wrong_type_is_one_clear_line(models, clip: Path, changes, words: str) -> None:
    given = {"question": "What?", "video": clip, "drafter": "none", **changes}
    with pytest.raises(crossdraft.CrossdraftError, match=words):
        crossdraft.generate(models[0], given.pop("question"), **given)


def test_frames_must_be_frames() -> None:
    with pytest.raises(DataError, match="uint8"):
        crossdraft.VideoFrames(np.zeros((8, 4, 4, 3), np.float32), np.arange(8))
    with pytest.raises(DataError, match="one time for each"):
        crossdraft.VideoFrames(np.zeros((8, 4, 4, 3), np.uint8), np.arange(7))
    with pytest.raises(crossdraft.SettingError, match="load_target"):
        crossdraft.generate("nano", "What?")


def test_exactness_holds_for_the_threads_it_was_tested_with(models) -> None:
    target, threads = models[0], torch.get_num_threads()
    assert target.exactness.bit_exact
    torch.set_num_threads(threads + 1)
    try:
        assert not target.exactness.bit_exact and "load it again" in target.exactness.detail
    finally:
        torch.set_num_threads(threads)


def test_who_gets_bfloat16_where_only_our_kernels_have_it(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path], llama: Path
) -> None:
    """What runs on the engine; not what torch or transformers computes, which would emulate it."""
    from crossdraft import build
    from crossdraft.build import load
    from crossdraft.models import vision
    from crossdraft.nn import kernels

    ours, none = kernels.Status(object()), kernels.Status(None, "no AVX2")  # type: ignore[arg-type]
    for there, engine_dtype in ((ours, "bfloat16"), (none, "float32")):
        for module in (load, vision):
            monkeypatch.setattr(module, "bf16_unit", lambda: "")
        monkeypatch.setattr(kernels, "status", lambda there=there: there)
        assert str(build.pick_dtype("auto", "cpu", engine=True)) == f"torch.{engine_dtype}"
        assert build.pick_dtype("auto", "cpu") == torch.float32, "trainings, and answers by transformers"
        sources = [
            load.Source.of(folder, "target", "auto", "cpu", family, engine=True).dtype
            for folder, family in ((llama, None), (pair[0], None), (llama, "transformers"))
        ]
        assert sources == [engine_dtype, engine_dtype, "float32"]
        assert load.Source.of(llama, "target", "auto", "cpu").dtype == "float32"
        assert vision.module_dtype(torch.bfloat16, "cpu") == torch.float32, "towers"
    monkeypatch.setattr(load, "bf16_unit", lambda: "avx512_bf16")
    monkeypatch.setattr(vision, "bf16_unit", lambda: "avx512_bf16")
    assert load.Source.of(llama, "target", "auto", "cpu").dtype == "bfloat16"
    assert vision.module_dtype(torch.bfloat16, "cpu") == torch.bfloat16


def test_a_target_to_learn_from_is_loaded_for_torch(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    from crossdraft.build import load

    monkeypatch.setattr(load, "bf16_unit", lambda: "")
    _, decoder = load.load_for_training(llama, device="cpu")
    assert next(decoder.parameters()).dtype == torch.float32
