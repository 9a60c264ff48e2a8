"""A target's own answers, made in batches: the target's law, its ends, and the same after an interruption."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.seeds import generator, seed_for
from crossdraft.core.types import Limits, Sampling
from crossdraft.data.corpus import Reply, read_corpus
from crossdraft.decode.loop import generate
from crossdraft.drafters.none import NoDraft
from crossdraft.models import load_vlm
from crossdraft.models.tokenizer import TextTokenizer
from crossdraft.training import regenerate as module
from crossdraft.training.regenerate import (
    Asked,
    Batch,
    LoopTarget,
    Regeneration,
    SelfAsking,
    TextTarget,
    own_prompts,
    plan,
    regenerate,
)
from crossdraft.verify import rule_for

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ENDS = [2, 40, 80, 120]
ASKED = [Asked(f"p{n}", f"g{n % 3}", "Say it again, please. "[: 3 + 2 * n]) for n in range(11)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers over bytes, with a chat template and end tokens that it meets now and then."""
    root = tmp_path_factory.mktemp("tiny-llama")
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=160, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    noise = generator(0, "tiny-llama")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=noise) * parameter.shape[-1] ** -0.5 * 2)
    # settings of its own that must not be taken over
    model.generation_config = GenerationConfig(eos_token_id=ENDS, repetition_penalty=3.0, do_sample=True, top_k=1)
    model.save_pretrained(root)
    marks = ["<unk>", "<s>", "</s>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({token: i for i, token in enumerate([*marks, *letters])}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root)
    return root


def _target(folder: Path, workers: int = 1) -> TextTarget:
    return TextTarget(folder, torch.float32, 70, workers)


def _config(**changes: Any) -> Regeneration:
    return Regeneration(**{"temperatures": (0.0, 0.0, 0.9), "max_new_tokens": 70, "batch": 3, "seed": 5, **changes})


def test_greedy_answers_are_those_of_our_own_loop(folder: Path) -> None:
    """Same prompt ids, same tokens, the end token with them, whatever stands beside them in the batch."""
    ours = load_vlm(folder, dtype=torch.float32)
    assert set(ours.eos_token_ids) == set(ENDS)
    said = next(_target(folder).answers([Batch(tuple(ASKED), 0.0, 1)]))
    limits = Limits(max_new_tokens=70, eos_token_ids=tuple(ours.eos_token_ids))
    alone = [
        tuple(generate(ours, NoDraft(), Prompt(one.question), rule=rule_for(Sampling()), limits=limits).tokens)
        for one in ASKED
    ]
    assert said == alone
    ended = [tokens[-1] in ENDS for tokens in said]
    assert any(ended) and len({len(tokens) for tokens in said}) > 3, "the test wants answers of many lengths"
    assert all(not set(tokens[:-1]) & set(ENDS) for tokens in said)


def test_a_gpu_is_one_worker(folder: Path) -> None:
    with pytest.raises(SettingError, match="2 processes were asked for; on a GPU one does the work"):
        TextTarget(folder, torch.float32, 70, 2, "cuda")


@pytest.mark.parametrize("stage", [1, 7, 1000])
def test_ended_answers_leave_the_batch_unnoticed(folder: Path, monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    batch = Batch(tuple(ASKED[:6]), 0.0, 1)
    expected = next(_target(folder).answers([batch]))
    monkeypatch.setattr(module, "_STAGE", stage)
    assert next(_target(folder).answers([batch])) == expected


def _surprise(seen: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Standard deviations of chi-square above its mean; tokens that are expected fewer than 5 times are one."""
    expected = probabilities * seen.sum()
    rare = expected < 5
    counts, wanted = (torch.cat((t[~rare], t[rare].sum()[None])) for t in (seen, expected))
    freedom = len(counts) - 1
    return (float(((counts - wanted) ** 2 / wanted).sum()) - freedom) / (2 * freedom) ** 0.5


def test_sampled_answers_follow_the_temperature(folder: Path) -> None:
    """The first tokens of many samples have the probabilities of the target's own logits, and no others."""
    batch = Batch(tuple([ASKED[0]] * 2000), 0.6, 3)
    said = next(TextTarget(folder, torch.float32, 1).answers([batch]))
    ours = load_vlm(folder, dtype=torch.float32)
    logits = ours.prefill(ours.encode(Prompt(ASKED[0].question)), room=1).first.logits[0].double()
    seen = torch.bincount(torch.tensor([tokens[0] for tokens in said]), minlength=260).double()
    assert _surprise(seen, (logits / 0.6).softmax(-1)) < 4
    assert _surprise(seen, logits.softmax(-1)) > 20


class _Broken(Exception):
    pass


class _Stopping:
    """A target whose run is broken off after so many batches."""

    def __init__(self, inner: TextTarget, after: int) -> None:
        self.inner, self.after = inner, after

    def answers(self, batches: Sequence[Batch]) -> Iterator[list[tuple[int, ...]]]:
        for number, said in enumerate(self.inner.answers(batches)):
            if number == self.after:
                raise _Broken
            yield said


def test_a_broken_run_ends_like_an_unbroken_one(folder: Path, tmp_path: Path) -> None:
    """Sampled answers too, and with a half-written batch on the disk."""
    made = regenerate(_target(folder), ASKED, _config(), tmp_path / "a", {"of": 1})
    whole = read_corpus(tmp_path / "a")
    assert made == (len(ASKED), whole.num_tokens)
    for after in (0, 2):
        with pytest.raises(_Broken):
            regenerate(_Stopping(_target(folder), after), ASKED, _config(), tmp_path / f"b{after}", {"of": 1})
    answers = tmp_path / "b2" / "answers.jsonl"
    lines = (tmp_path / "a" / "answers.jsonl").read_bytes().splitlines(keepends=True)
    done = len(answers.read_bytes().splitlines())
    answers.write_bytes(b"".join(lines[: done + 1]) + lines[done + 1][:9])
    for after in (0, 2):
        regenerate(_target(folder), ASKED, _config(), tmp_path / f"b{after}", {"of": 1})
        assert read_corpus(tmp_path / f"b{after}").replies == whole.replies
    assert regenerate(_target(folder), ASKED, _config(), tmp_path / "a", {"of": 1}) == (0, 0)


def test_what_is_ended_early_is_whole(folder: Path, tmp_path: Path) -> None:
    """The first batches of an unbroken run, and not gone on with."""
    regenerate(_target(folder), ASKED, _config(), tmp_path / "all", {"of": 1})
    asked = iter((False, True))
    regenerate(_target(folder), ASKED, _config(), tmp_path / "some", {"of": 1}, enough=lambda: next(asked))
    some, whole = (read_corpus(tmp_path / name).replies for name in ("some", "all"))
    first = sum(len(batch.asked) for batch in plan(ASKED, _config())[:2])
    assert len(some) == first < len(whole) and list(some) == list(whole)[:first]
    assert regenerate(_target(folder), ASKED, _config(), tmp_path / "some", {"of": 1}) == (0, 0)


def test_processes_change_the_time_alone(folder: Path) -> None:
    batches = plan(ASKED[:4], _config(batch=2))
    assert list(_target(folder, 2).answers(batches)) == list(_target(folder).answers(batches))


def test_every_prompt_is_answered_once_at_its_temperature(folder: Path, tmp_path: Path) -> None:
    regenerate(_target(folder), ASKED, _config(), tmp_path, {})
    replies = {reply.id: reply for reply in read_corpus(tmp_path).replies}
    assert len(replies) == len(ASKED)
    for place, one in enumerate(ASKED):
        reply = replies[one.id]
        assert (reply.group, reply.question, reply.clip) == (one.group, one.question, None)
        assert reply.temperature == (0.0, 0.0, 0.9)[place % 3]


@given(st.integers(1, 40), st.integers(1, 9), st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4))
def test_the_plan_covers_each_prompt_once(count: int, size: int, temperatures: list[float]) -> None:
    asked = [Asked(f"p{n}", f"g{n * 7 % 5}", "x" * (n * 5 % 11 + 1)) for n in range(count)]
    batches = plan(asked, _config(temperatures=tuple(temperatures), batch=size))
    placed = {one.id: batch.temperature for batch in batches for one in batch.asked}
    assert sum(len(batch.asked) for batch in batches) == len(placed) == count
    assert all(placed[one.id] == temperatures[n % len(temperatures)] for n, one in enumerate(asked))
    assert len({batch.seed for batch in batches}) == len(batches)
    assert all(1 <= len(batch.asked) <= size for batch in batches)
    if size == 1:
        assert [batch.asked[0] for batch in batches] == asked


def test_clips_are_answered_in_the_loop(tiny: Any, tmp_path: Path) -> None:
    """By their own prompt, greedy or sampled by a seed of their own; the clip is kept with the reply."""
    prompts = {f"c{n}": Prompt(f"which {n}?", stream_id="s") for n in range(4)}
    asked = [Asked(name, "s", prompt.question, name) for name, prompt in prompts.items()]
    load = {name: partial(prompts.__getitem__, name) for name in prompts}
    config = _config(temperatures=(0.0, 0.8), batch=1)
    regenerate(LoopTarget(tiny.target, NoDraft(), 20, load), asked, config, tmp_path, {}, note={"clips": "here"})
    corpus = read_corpus(tmp_path)
    assert corpus.about["clips"] == "here"
    limits = Limits(max_new_tokens=20, eos_token_ids=tiny.target.eos_token_ids)
    expected = []
    for batch in plan(asked, config):
        one = batch.asked[0]
        rule = rule_for(Sampling(temperature=batch.temperature, seed=seed_for(batch.seed, one.id)))
        tokens = tuple(generate(tiny.target, NoDraft(), prompts[one.id], rule=rule, limits=limits).tokens)
        expected.append(
            Reply(
                id=one.id, group="s", question=one.question, tokens=tokens, temperature=batch.temperature,
                clip=one.id,
            )
        )  # fmt: skip
    assert list(corpus.replies) == expected


def test_what_cannot_work_is_refused(folder: Path, tmp_path: Path) -> None:
    for changes in (
        {"temperatures": ()},
        {"temperatures": (-1.0,)},
        {"temperatures": (float("nan"),)},
        {"batch": 0},
    ):
        with pytest.raises(SettingError):
            _config(**changes)
    with pytest.raises(SettingError, match="exceeds the context of 160"):
        next(_target(folder).answers([Batch((Asked("long", "g", "x" * 100),), 0.0, 0)]))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError):
        next(_target(tmp_path).answers([Batch((ASKED[0],), 0.0, 0)]))


def test_prompts_of_its_own_go_on_from_the_template(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is what the model says behind the opening; those cut short, too short, or known are dropped."""
    monkeypatch.setattr(module, "_FEW_WORDS", 0)
    target, tokenizer = TextTarget(folder, torch.float32, 40), TextTokenizer(folder)
    seen: list[Any] = []
    real = TextTarget.run

    def watched(self: TextTarget, work: Any) -> Iterator[list[tuple[int, ...]]]:
        seen.extend(work)
        yield from real(self, work)

    monkeypatch.setattr(TextTarget, "run", watched)
    made = own_prompts(target, SelfAsking(count=5, max_tokens=40, batch=4, seed=1))
    assert len(made) == len(set(made)) == 5
    assert tokenizer.decode(tokenizer.opening()).endswith("[user]")
    opening = tokenizer.opening()
    assert tokenizer.dialogue("Why?", ())[: len(opening)] == opening
    assert all(ids == [opening] * 4 and temperature == 1.0 for ids, temperature, _ in seen)
    assert len({seed for *_, seed in seen}) == len(seen), "no batch is drawn twice"
    said = [answer for batch in real(target, seen) for answer in batch]
    ended = [tokenizer.decode(answer[:-1]).strip() for answer in said if answer[-1] in ENDS]
    assert made == list(dict.fromkeys(text for text in ended if text))[:5]
    assert own_prompts(target, SelfAsking(count=5, max_tokens=40, batch=4, seed=1)) == made
    early = own_prompts(target, SelfAsking(count=5, max_tokens=40, batch=4, seed=1), enough=lambda: True)
    assert 0 < len(early) < 5 and early == made[: len(early)]
    _are_gone_on_with(target, made, tmp_path / "kept", seen)
    monkeypatch.setattr(module, "_FEW_WORDS", 1000)
    with pytest.raises(SettingError, match="made up 16 prompts, of which 0 end and are new, 2 are wanted"):
        own_prompts(target, SelfAsking(count=2, max_tokens=40, batch=4))
    for wrong in ({"count": 0}, {"count": 1, "temperature": 0.0}, {"count": 1, "max_tokens": 0}):
        with pytest.raises(SettingError):
            SelfAsking(**wrong)


def _are_gone_on_with(target: TextTarget, made: list[str], keep: Path, seen: list[Any]) -> None:
    """Broken off after a batch, the same prompts are found, and nothing is drawn again."""
    config = SelfAsking(count=5, max_tokens=40, batch=4, seed=1)

    def stop(*_: object) -> None:
        if keep.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own_prompts(target, config, stop, keep)
    kept = json.loads(keep.read_text())
    assert kept["made"] > 0 and kept["found"] == made[: len(kept["found"])]
    drawn = len(seen)
    assert own_prompts(target, config, keep=keep) == made
    assert len(seen) - drawn < drawn and own_prompts(target, config, keep=keep) == made
    with pytest.raises(SettingError, match="made up with other settings"):
        own_prompts(target, replace(config, seed=2), keep=keep)
