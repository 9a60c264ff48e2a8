"""The packaged event model that was taught the target's phrasing says, on held-out clips, what the target says."""

import pytest
import torch

from crossdraft import build
from crossdraft.core.protocols import VLM
from crossdraft.decode.forced import forced
from crossdraft.models.eventgpt import read_event_parts
from crossdraft.models.nano import nano_dir
from crossdraft.training.nano.evaluate import answer, held_out_clips, prompt_of

QUESTIONS = ("What are the key elements in this scene?", "How are the objects moving?")


def test_it_is_small() -> None:
    folder = nano_dir("event-distilled")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6_000_000


def test_it_sees_what_the_other_one_sees() -> None:
    taught, base = (read_event_parts(nano_dir(role), torch.float32)[0] for role in ("event-distilled", "event"))
    for name, part in base.named_parameters():
        assert torch.equal(part, taught.get_parameter(name)) or name.startswith("decoder."), name


@pytest.fixture(scope="module")
def answers() -> list:
    """(clip, question, the target's own tokens) of clips that nobody was trained on."""
    target = build.load_target("nano", dtype="float32", device="cpu")
    return [
        (clip, question, answer(target, target.encode(prompt_of(clip, question, "target"))))
        for clip in held_out_clips(3, clips_of_a_stream=1)
        for question in QUESTIONS
    ]


def top1(model: VLM, answers: list) -> float:
    hits = []
    for clip, question, tokens in answers:
        encoded = model.encode(prompt_of(clip, question, "event"))
        logits = torch.cat([scores.logits for scores in forced(model, encoded, tokens)])
        hits += (logits.argmax(-1) == torch.tensor(tokens)).tolist()
    return sum(hits) / len(hits)


def test_it_says_what_the_target_says(answers: list) -> None:
    taught, base = (
        build.load_event_model(ref, dtype="float32", device="cpu") for ref in ("nano-distilled", "nano")
    )
    assert top1(taught, answers) > max(0.6, top1(base, answers) + 0.25)
