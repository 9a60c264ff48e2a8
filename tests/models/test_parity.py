"""Logits within 1e-4 of transformers' own models in float32, greedy tokens identical over 64 tokens."""

import numpy as np
import pytest
import torch

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt, VideoFrames
from crossdraft.core.types import Draft
from crossdraft.data.images import clip_preprocess
from crossdraft.models import load_vlm
from crossdraft.models.spliced import PLACEHOLDER

QUESTION = "Which way do they move, and how fast?"


def _video(frames):
    return VideoFrames(frames, np.arange(len(frames), dtype=np.int64) * 125_000)


def _greedy(vlm, prompt, num):
    session = vlm.prefill(vlm.encode(prompt), room=num)
    tokens = [int(session.first.logits.argmax())]
    session.commit((), tokens[0])
    logits = [session.first.logits[0]]
    while len(tokens) < num:
        scores = session.score(Draft.chain([]))
        logits.append(scores.logits[0])
        tokens.append(int(scores.logits[0].argmax()))
        session.commit((), tokens[-1])
    return tokens, torch.stack(logits), session


@torch.no_grad()
def _reference(model, ids, tokens, **inputs):
    """What transformers says after each prefix of our answer; by induction, its own greedy answer and logits."""
    logits = model(input_ids=torch.tensor([[*ids, *tokens[:-1]]]), **inputs).logits[0, len(ids) - 1 :]
    return logits.argmax(-1).tolist(), logits


def _ids(vlm, prompt, mark_id):
    """Our prompt with its placeholders as transformers writes them."""
    return [mark_id if i == PLACEHOLDER else i for i in vlm.encode(prompt).tokens]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("kind", ["llama", "llama3"])
def test_text_models(checkpoint, kind, sharded):
    folder, model = checkpoint(kind, sharded)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    vlm = load_vlm(folder, dtype=torch.float32)
    prompt = Prompt(QUESTION)
    tokens, logits, _ = _greedy(vlm, prompt, 64)
    expected, reference = _reference(model, vlm.encode(prompt).tokens, tokens)
    assert tokens == expected
    assert torch.allclose(logits, reference, atol=1e-4)


def test_a_model_with_near_exact_trees_shares_the_weights_and_says_so(checkpoint):
    folder, _ = checkpoint("llama")
    vlm = load_vlm(folder, dtype=torch.float32)
    near = vlm.with_trees("near-exact")
    assert vlm.exactness.bit_exact and not near.exactness.bit_exact
    assert near.engine.linears()[0] is vlm.engine.linears()[0]
    draft = Draft(torch.tensor([5, 6, 7]), torch.tensor([-1, -1, 0]))
    encoded, got = vlm.encode(Prompt(QUESTION)), []
    for model in (vlm, near):
        session = model.prefill(encoded, room=8)
        session.commit((), 9)
        got.append(session.score(draft).logits)
    assert torch.allclose(*got, atol=1e-4)


def test_video_llava(checkpoint, frames):
    folder, model = checkpoint("video_llava")
    vlm = load_vlm(folder, dtype=torch.float32)
    prompt = Prompt(QUESTION, video=_video(frames))
    ids = _ids(vlm, prompt, 4)
    assert ids.count(4) == 8 * 5 and ids[0] == 1
    tokens, logits, _ = _greedy(vlm, prompt, 64)
    pixels = clip_preprocess(frames, 28)[None]
    expected, reference = _reference(model, ids, tokens, pixel_values_videos=pixels)
    assert tokens == expected
    assert torch.allclose(logits, reference, atol=1e-4)


def test_video_llava_on_one_picture_uses_the_image_tower(checkpoint, frames):
    folder, model = checkpoint("video_llava")
    vlm = load_vlm(folder, dtype=torch.float32)
    prompt = Prompt(QUESTION, video=_video(frames[:1]))
    ids = _ids(vlm, prompt, 3)
    assert ids.count(3) == 4  # 2 x 2 patches, no CLS
    tokens, logits, _ = _greedy(vlm, prompt, 16)
    expected, reference = _reference(model, ids, tokens, pixel_values=clip_preprocess(frames[:1], 28))
    assert tokens == expected
    assert torch.allclose(logits, reference, atol=1e-4)


def test_llava(checkpoint, frames):
    folder, model = checkpoint("llava", True)
    vlm = load_vlm(folder, dtype=torch.float32)
    prompt = Prompt(QUESTION, video=_video(frames[:1]))
    tokens, logits, _ = _greedy(vlm, prompt, 64)
    expected, reference = _reference(
        model, _ids(vlm, prompt, 3), tokens, pixel_values=clip_preprocess(frames[:1], 28)
    )
    assert tokens == expected
    assert torch.allclose(logits, reference, atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 52), (52, 40), (30, 90), (64, 64), (21, 200)])
def test_llava_next_packs_tiles_as_transformers_does(checkpoint, shape):
    folder, model = checkpoint("llava_next")
    vlm = load_vlm(folder, dtype=torch.float32)
    frame = np.random.default_rng(7).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
    prompt = Prompt(QUESTION, video=_video(frame))
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
    )  # fmt: skip
    prepared = processor(list(frame), return_tensors="pt")
    tokens, logits, _ = _greedy(vlm, prompt, 64)
    expected, reference = _reference(
        model, _ids(vlm, prompt, 3), tokens,
        pixel_values=prepared["pixel_values"], image_sizes=prepared["image_sizes"],
    )  # fmt: skip
    assert tokens == expected
    assert torch.allclose(logits, reference, atol=1e-4)


def test_states_of_captured_layers_are_transformers_own(checkpoint):
    folder, model = checkpoint("llama")
    vlm = load_vlm(folder, dtype=torch.float32)
    encoded = vlm.encode(Prompt(QUESTION))
    session = vlm.prefill(encoded, capture=(0, -1), room=8)
    session.commit((), 7)
    scores = session.score(Draft.chain([9, 11]))
    with torch.no_grad():
        out = model(torch.tensor([[*encoded.tokens, 7, 9, 11]]), output_hidden_states=True)
    assert torch.allclose(scores.states[0], out.hidden_states[1][0, -3:], atol=1e-4)
    assert torch.allclose(scores.states[-1], out.hidden_states[-1][0, -3:], atol=1e-4)
    assert torch.allclose(vlm.unembed(scores.states[-1]), scores.logits, atol=1e-5)


def test_mark_and_rewind_take_a_session_back(checkpoint):
    folder, _ = checkpoint("llama")
    vlm = load_vlm(folder, dtype=torch.float32)
    session = vlm.prefill(vlm.encode(Prompt(QUESTION)), room=32)
    session.commit((), 5)
    before = session.score(Draft.chain([6, 7])).logits
    mark = session.mark()
    session.commit((0, 1), 8)
    session.score(Draft.chain([3]))
    session.commit((0,), 4)
    session.rewind(mark)
    assert torch.equal(session.score(Draft.chain([6, 7])).logits, before)


def test_a_root_that_no_pass_has_seen_can_be_another(checkpoint):
    folder, _ = checkpoint("llama")
    vlm = load_vlm(folder, dtype=torch.float32)
    straight, changed = (vlm.prefill(vlm.encode(Prompt(QUESTION)), room=32) for _ in range(2))
    straight.commit((), 5)
    changed.commit((), 9)
    mark = changed.mark()
    changed.score(Draft.chain([6]))
    with pytest.raises(SettingError, match="before a pass"):
        changed.reroot(5)
    changed.rewind(mark)
    changed.reroot(5)
    assert torch.equal(changed.score(Draft.chain([6, 7])).logits, straight.score(Draft.chain([6, 7])).logits)
