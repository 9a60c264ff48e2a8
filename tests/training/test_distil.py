"""The event model is taught at the very positions at which it will draft, and what comes out is an event model."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossdraft import build
from crossdraft.adapters.checkpoint import load_adapter
from crossdraft.core.errors import CheckpointError, CrossdraftError, DataError, SettingError
from crossdraft.core.prompt import EventStream, Prompt
from crossdraft.data.store import PairedStates, Store, StoreIdentity, StoreWriter
from crossdraft.decode.forced import forced
from crossdraft.models.eventgpt import EventGPT, read_event_parts
from crossdraft.models.nano import nano_dir
from crossdraft.training.answers import read_answers, rows_of_step
from crossdraft.training.distil import DistilTraining, distil
from crossdraft.training.pupil import Marks, Pupil, marks

WIDTH, TOP, VOCAB = 24, 4, 1280
QUESTIONS = ("What moves?", "Is anything fast, and where does it go?")
WORDS = ("a red car", "two men", "a bus", "a white van", "one dog", "three bikes")


@dataclass(frozen=True)
class Clip:
    """A job of extraction: a few events of a clip, and a question."""

    id: str
    recording: str
    clip_index: int
    question: str

    def load(self) -> Prompt:
        rng = np.random.default_rng([ord(c) for c in f"{self.recording}{self.clip_index}"])
        xy = rng.integers(0, 96, (2, 200)).astype(np.uint16)
        t, p = np.sort(rng.integers(0, 10**6, 200)), rng.integers(0, 2, 200).astype(np.uint8)
        return Prompt(self.question, events=EventStream(xy[0], xy[1], t, p, (96, 96)), stream_id=self.recording)


def clips(recordings: int = 3, of_each: int = 2) -> list[Clip]:
    return [
        Clip(f"r{r}/{c}#{q}", f"r{r}", c, question)
        for r in range(recordings)
        for c in range(of_each)
        for q, question in enumerate(QUESTIONS)
    ]


@pytest.fixture(scope="module")
def event_model() -> EventGPT:
    return EventGPT.load(nano_dir("event"), torch.float32)


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    drawn = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(3))
    return drawn / drawn.norm(dim=-1, keepdim=True)


@pytest.fixture
def make_store(event_model: EventGPT, head: torch.Tensor, tmp_path: Path) -> Callable[..., Store]:
    """A store as extraction leaves it: the states' tokens are the answer's, and its most likely ones are kept."""

    def make(
        jobs: list[Clip] | None = None,
        top_k: int = TOP,
        name: str = "store",
        text: str | None = None,
        **changes: Any,
    ) -> Store:
        jobs = clips() if jobs is None else jobs
        identity = StoreIdentity(
            target="t", event_model="e", target_width=WIDTH, draft_width=160, vocab_size=VOCAB,
            mode="teacher-forced", dtype="fp32", config_hash="c0ffee", top_k=top_k,
        )  # fmt: skip
        identity = replace(identity, **changes)
        with StoreWriter(tmp_path / name, identity) as writer:
            for number, job in enumerate(jobs):
                said = f"There is {WORDS[number % 6]} and {WORDS[(number + job.clip_index) % 6]}."
                tokens = torch.tensor([*event_model.tokenizer.encode(said), 2])
                states = 20 * head[tokens]
                best = (states @ head.T).log_softmax(-1).topk(top_k, -1) if top_k else None
                writer.put(
                    PairedStates(
                        id=job.id, recording=job.recording, clip_index=job.clip_index, question=job.question,
                        target_states=states, draft_states=torch.zeros(len(tokens), 160), target_tokens=tokens,
                        draft_tokens=tokens, target_text=text or said, draft_text=said,
                        top_ids=None if best is None else best.indices,
                        top_log_probs=None if best is None else best.values,
                    )
                )  # fmt: skip
        return Store.open(tmp_path / name)

    return make


QUICK: dict[str, Any] = {
    "epochs": 12, "batch": 4, "questions": 2, "validation": 0.34, "dtype": "float32",
}  # fmt: skip


@pytest.mark.parametrize("most", [1, 2])
def test_a_packed_answer_is_judged_where_the_engine_would_draft(
    event_model: EventGPT, make_store: Callable[..., Store], tmp_path: Path, most: int
) -> None:
    """No off-by-one: row t of training is row t of ``decode.forced``, however many answers share the clip."""
    store = make_store()
    answers = read_answers(event_model, store, clips(), tmp_path)
    decoder = read_event_parts(nano_dir("event"), torch.float32)[0].decoder
    rows = answers.rows(store.recordings, most)
    assert len(rows) == 12 // most
    batch = answers.pack(rows, ("top_ids", "target_states"))
    got = Pupil(decoder).logits(batch).detach()
    jobs = {job.id: job for job in clips()}
    expected = []
    for row in rows:
        for number in row.answers:
            sample = store[answers.answers[number].place]
            encoded = event_model.encode(jobs[sample.id].load())
            expected.append(
                torch.cat([s.logits for s in forced(event_model, encoded, sample.target_tokens.tolist())])
            )
            assert len(expected[-1]) == len(sample.target_tokens)
    torch.testing.assert_close(got, torch.cat(expected), atol=2e-4, rtol=1e-4)
    assert batch.tokens.tolist() == [t for r in rows for n in r.answers for t in answers.answers[n].tokens]
    assert batch.top_ids[:, 0].tolist() == batch.tokens.tolist(), "the store's tensors stand at their own tokens"


def test_marks_against_the_engine(event_model: EventGPT, make_store: Callable[..., Store], tmp_path: Path) -> None:
    store = make_store()
    answers = read_answers(event_model, store, clips(), tmp_path)
    decoder = read_event_parts(nano_dir("event"), torch.float32)[0].decoder
    got = marks(Pupil(decoder), [answers.pack([row]) for row in answers.rows(store.recordings, 2)])
    hits, runs = [], []
    for job in clips():
        tokens = store[job.id].target_tokens
        logits = torch.cat([s.logits for s in forced(event_model, event_model.encode(job.load()), tokens.tolist())])
        right = (logits.argmax(-1) == tokens).tolist()
        hits += right
        runs.append(([*right, False]).index(False))
    assert got.top1 == pytest.approx(sum(hits) / len(hits)) and got.run == pytest.approx(sum(runs) / len(runs))


def test_a_stranger_is_of_another_recording_and_only_the_events_change(
    event_model: EventGPT, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    store = make_store()
    answers = read_answers(event_model, store, clips(), tmp_path)
    rows = answers.rows(["r1"], 2)
    assert {answers.answers[n].recording for row in rows for n in row.answers} == {"r1"}
    right, wrong = answers.pack(rows), answers.pack(rows, shuffled=True)
    for b, row in enumerate(rows):
        other = answers.stranger(row.clip)
        assert answers.recording_of[other] != answers.recording_of[row.clip]
        assert torch.equal(right.seen[b], answers.seen[row.clip])
        assert torch.equal(wrong.seen[b], answers.seen[other]) and not torch.equal(wrong.seen[b], right.seen[b])
    assert torch.equal(right.ids, wrong.ids) and torch.equal(right.flat, wrong.flat)


def test_clips_too_many_for_memory_lie_in_a_file(
    event_model: EventGPT, make_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    there = read_answers(event_model, store, clips(), tmp_path)
    monkeypatch.setattr("crossdraft.training.answers._IN_MEMORY_BYTES", 1000)
    mapped = read_answers(event_model, store, clips(), tmp_path / "scratch")
    assert torch.equal(mapped.seen, there.seen) and mapped.answers == there.answers
    assert list((tmp_path / "scratch").iterdir()) == [], "nothing is left behind"


def test_every_epoch_meets_every_row_once(
    make_store: Callable[..., Store], event_model: Any, tmp_path: Path
) -> None:
    store = make_store()
    rows = read_answers(event_model, store, clips(), tmp_path).rows(store.recordings, 1)
    seen = [row for step in range(8) for row in rows_of_step(rows, step, 3, 5)]
    for epoch in range(2):
        assert sorted(r.answers for r in seen[12 * epoch : 12 * epoch + 12]) == sorted(r.answers for r in rows)
    assert seen[:12] != seen[12:24] and rows_of_step(rows, 6, 3, 5) == seen[18:21]


def recited(event_model: EventGPT, out: Path, store: Store, names: list[str], head: torch.Tensor | None) -> Marks:
    """How well what lies in ``out`` says the answers of these recordings."""
    answers = read_answers(event_model, store, clips(), out)
    if (out / "config.json").exists():
        pupil = Pupil(read_event_parts(out, torch.float32)[0].decoder)
    else:
        lora, _ = load_adapter(out / "adapter.safetensors")
        pupil = Pupil(
            read_event_parts(nano_dir("event"), torch.float32)[0].decoder, lora, head, 1.0, head is not None
        )
        lora.inject(pupil.decoder)
    return marks(pupil, [answers.pack(answers.rows(names, 1))])


@pytest.mark.parametrize(
    ("changes", "top_k", "share", "top1"),
    [
        ({"mode": "full", "peak_lr": 2e-3, "batch": 1}, TOP, 0.1, 0.8),
        ({"mode": "full", "peak_lr": 2e-3, "batch": 1}, 0, 0.1, 0.8),
        ({"mode": "l6", "peak_lr": 5e-3, "batch": 1}, TOP, 0.35, 0.5),
        ({"mode": "l6", "loss": "states", "peak_lr": 5e-3, "batch": 1}, 0, 0.3, 0.7),
    ],
)
def test_it_learns_the_answers_by_heart(
    event_model: EventGPT, make_store: Callable[..., Store], head: torch.Tensor, tmp_path: Path, changes: dict,
    top_k: int, share: float, top1: float,
) -> None:  # fmt: skip
    store = make_store(top_k=top_k)
    record = distil(
        nano_dir("event"), store, clips(), tmp_path / "out",
        DistilTraining(**{**QUICK, **changes}, patience=99), head=None if top_k else head,
    )  # fmt: skip
    assert record is not None
    saved = json.loads((tmp_path / "out" / "training.json").read_text())
    assert saved == json.loads(json.dumps({"schema": 1, "kind": "adapter-training", **record}))
    losses = [epoch["loss"] for epoch in record["epochs"]]
    assert len(losses) == QUICK["epochs"] and losses[-1] < share * losses[0]
    train = record["recordings"]["train"]
    assert set(train).isdisjoint(record["recordings"]["validation"]) and record["num_samples"] == 8
    through = head if "loss" in changes else None
    assert recited(event_model, tmp_path / "out", store, train, through).top1 > top1
    # the form is learned, the other clip's own words cannot be known
    assert record["before"]["right"]["top1"] + 0.3 < record["after"]["right"]["top1"]


@pytest.mark.parametrize("mode", ["full", "l6"])
def test_a_broken_run_ends_like_an_unbroken_one(
    make_store: Callable[..., Store], tmp_path: Path, mode: str
) -> None:
    """Bit for bit, dropout of the LoRA included."""
    store = make_store()
    config = DistilTraining(**{**QUICK, "epochs": 3, "batch": 2}, mode=mode)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    one = distil(nano_dir("event"), store, clips(), whole, config)
    for stop_after in (1, 3):
        assert distil(nano_dir("event"), store, clips(), broken, config, stop_after=stop_after) is None
        assert not (broken / "training.json").exists()
    two = distil(nano_dir("event"), store, clips(), broken, config)
    assert one is not None and two is not None
    file = "model.safetensors" if mode == "full" else "adapter.safetensors"
    assert (whole / file).read_bytes() == (broken / file).read_bytes()
    assert one["after"] == two["after"] and one["epochs"] == two["epochs"]
    # a run that is done is not done again
    assert distil(nano_dir("event"), store, clips(), whole, config, stop_after=0)["after"] == one["after"]


def logits(model: Any, clip: Clip, tokens: list[int]) -> torch.Tensor:
    return torch.cat([scores.logits for scores in forced(model, model.encode(clip.load()), tokens)])


def test_the_checkpoint_is_an_event_model(make_store: Callable[..., Store], tmp_path: Path) -> None:
    """Loaded like any other: vision and words untouched, and it says what the record claims."""
    store, out = make_store(), tmp_path / "out"
    record = distil(nano_dir("event"), store, clips(), out, DistilTraining(**{**QUICK, "epochs": 8}, peak_lr=2e-3))
    assert record is not None
    model, before = (build.load_event_model(ref, dtype="float32", device="cpu") for ref in (out, "nano"))
    taught, base = (read_event_parts(ref, torch.float32)[0] for ref in (out, nano_dir("event")))
    for name, part in taught.named_parameters():
        assert torch.equal(part, base.get_parameter(name)) != name.startswith("decoder."), name
    clip, tokens = clips()[0], store[0].target_tokens.tolist()
    assert not torch.allclose(logits(model, clip, tokens), logits(before, clip, tokens), atol=0.1)
    held_out = [c for c in clips() if c.recording in record["recordings"]["validation"]]
    hits = torch.cat(
        [
            logits(model, c, store[c.id].target_tokens.tolist()).argmax(-1) == store[c.id].target_tokens
            for c in held_out
        ]
    )
    assert float(hits.float().mean()) == pytest.approx(record["after"]["right"]["top1"], abs=0.03)


def test_merged_is_injected(make_store: Callable[..., Store], tmp_path: Path) -> None:
    store, out = make_store(), tmp_path / "out"
    config = DistilTraining(**{**QUICK, "epochs": 8}, mode="l6", peak_lr=2e-2)
    assert distil(nano_dir("event"), store, clips(), out, config) is not None
    assert not (out / "config.json").exists()
    path = out / "adapter.safetensors"
    merged = build.load_event_model("nano", dtype="float32", device="cpu", lora=path)
    lora, _ = load_adapter(path)
    decoder = read_event_parts(nano_dir("event"), torch.float32)[0].decoder
    lora.inject(decoder)
    answers = read_answers(EventGPT.load(nano_dir("event"), torch.float32), store, clips(), tmp_path)
    injected = Pupil(decoder, lora).logits(answers.pack([answers.rows(["r0"], 1)[0]])).detach()
    tokens = store["r0/0#0"].target_tokens.tolist()
    plain = build.load_event_model("nano", dtype="float32", device="cpu")
    torch.testing.assert_close(logits(merged, clips()[0], tokens), injected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(logits(plain, clips()[0], tokens), injected, atol=0.1)


def test_a_change_of_another_event_model_is_refused(make_store: Callable[..., Store], tmp_path: Path) -> None:
    store, out = make_store(), tmp_path / "out"
    config = DistilTraining(**{**QUICK, "epochs": 1}, mode="l6")
    assert distil(nano_dir("event"), store, clips(), out, config) is not None
    other = tmp_path / "other"
    assert distil(nano_dir("event"), store, clips(), other, replace(config, mode="full")) is not None
    with pytest.raises(SettingError, match="trained in another event model"):
        build.load_event_model(other, lora=out / "adapter.safetensors")
    from crossdraft.adapters import build_adapter
    from crossdraft.adapters.checkpoint import save_adapter

    wide = build_adapter("l6", width_in=64, width_out=64, num_layers=2)
    save_adapter(tmp_path / "wide.safetensors", wide, extraction="x")
    with pytest.raises(SettingError, match="changes 2 layers, but the decoder has 4"):
        build.load_event_model("nano", lora=tmp_path / "wide.safetensors")
    save_adapter(tmp_path / "l1.safetensors", build_adapter("l1", width_in=8, width_out=8), extraction="x")
    with pytest.raises(CheckpointError, match="only 'l6' is merged"):
        build.load_event_model("nano", lora=tmp_path / "l1.safetensors")


def test_what_cannot_teach_is_one_line(
    make_store: Callable[..., Store], head: torch.Tensor, tmp_path: Path
) -> None:
    def refusal(store: Store, jobs: list[Clip], config: DistilTraining | None = None, **more: Any) -> str:
        with pytest.raises(CrossdraftError) as caught:
            distil(nano_dir("event"), store, jobs, tmp_path / "out", config or DistilTraining(**QUICK), **more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    few = clips(2, 1)
    store = make_store(few, name="few")
    assert "'r1/0#0' is of no clip that was given (and 1 more)" in refusal(store, clips(1, 1))
    assert "these data ask 'Who?'" in refusal(store, [replace(job, question="Who?") for job in few])
    one = make_store(clips(1, 1), name="one")
    assert "all samples are of one recording ('r0')" in refusal(one, clips(1, 1))
    assert "is free-running, two different texts" in refusal(make_store(few, name="free", mode="free-running"), few)
    large = make_store(few, name="large", vocab_size=32000)
    assert "another vocabulary (32000 tokens against 1280)" in refusal(large, few)
    plain = make_store(few, 0, name="plain")
    assert "keeps no log-probabilities" in refusal(plain, few)
    states = DistilTraining(**QUICK, mode="l6", loss="states")
    assert "goes through the target's output head" in refusal(store, few, states)
    assert "have width 24" in refusal(store, few, states, head=torch.zeros(VOCAB, 8))
    assert not (tmp_path / "out" / "training.json").exists()


def test_another_language_is_recognised_by_its_words(
    make_store: Callable[..., Store], event_model: EventGPT, tmp_path: Path
) -> None:
    """Same size, other ids: the text that the target's tokenizer made of them gives it away."""
    store = make_store(clips(2, 1), text="Ein rotes Auto.")
    with pytest.raises(DataError, match="reads the first answer's tokens as another text"):
        read_answers(event_model, store, clips(2, 1), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "half"}, "mode is 'half'"),
        ({"loss": "states"}, "choose mode 'l6'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_settings_that_make_no_sense(changes: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        DistilTraining(**changes)
