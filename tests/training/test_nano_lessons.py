"""Labels, words and packing: what the pair is taught is what it will be asked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.data.templates import MEDIA, TEMPLATES
from crossdraft.nn.decoder import DecoderConfig
from crossdraft.training.loop import FitConfig, fit
from crossdraft.training.nano import clips, tongue, words
from crossdraft.training.nano.eyes import Eyes, EyesConfig, normalise


@pytest.fixture(scope="module")
def questions():
    keys = clips.split_keys("validation", 4)
    return [[vars(qa) for qa in key.clip().questions()] for key in keys]


@pytest.fixture(scope="module")
def tokenizer(questions):
    return words.train_tokenizer(words.corpus(questions))


def test_splits_share_no_stream():
    seeds = {s: {k.seed for k in clips.split_keys(s, 2000)} for s in clips.SPLIT_SEEDS}
    assert not seeds["train"] & seeds["validation"]
    assert not seeds["train"] & seeds["test"]
    assert not seeds["validation"] & seeds["test"]


def test_labels_hold_the_nearest_object():
    clip = clips.split_keys("validation", 12)[8].clip()
    patches, whole = clips.label_picture(clip, clip.middle_us)
    shown = clip.visible_objects()
    assert whole[clips.COUNT] == len(shown)
    nearest = shown[0]
    assert whole[clips.NEAR_KIND] == clips.KINDS.index(nearest.kind) + 1
    cell = clips.SIZE // clips.GRID
    column, row = (int(np.clip(v // cell, 0, clips.GRID - 1)) for v in (nearest.cx, nearest.cy))
    patch = patches[row * clips.GRID + column]
    assert patch[clips.KIND] > 0
    x = (patch[clips.DX] + 0.5 + column) * cell
    assert 0 <= row < clips.GRID and np.isfinite(x)


@pytest.mark.parametrize("role", ["target", "event"])
def test_prompt_equals_the_template(tokenizer, role):
    left, right = words.prompt_parts(role, "Is anything moving fast?")
    template = TEMPLATES["video_llava" if role == "target" else "eventgpt"]
    media = f"{MEDIA}\n" if role == "target" else f"<ev_start>{MEDIA}<ev_end>\n"
    assert f"{left}{MEDIA}{right}" == template.render("Is anything moving fast?", media=media)


@pytest.mark.parametrize("role", ["target", "event"])
def test_segment_spells_the_answer_and_marks_its_facts(tokenizer, questions, role):
    to_ids = words.Words(tokenizer, role)
    for qa in questions[0]:
        segment = to_ids.segment(qa)
        spoken = segment.ids[segment.prompt_length : -1]
        assert tokenizer.decode(spoken) == qa["answer" if role == "target" else "event_answer"]
        assert segment.ids[-1] == words.EOS
        assert segment.weights[: segment.prompt_length] == [0.0] * segment.prompt_length
        assert all(segment.weights[place] == words.FACT_WEIGHT for place, _ in segment.facts)


def _pair(role, vocabulary):
    decoder = DecoderConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=2,
        head_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    eyes = Eyes(EyesConfig(width=16, layers=1, heads=2, read_layer=-1, sees_colour=role == "target"))
    config = tongue.TongueConfig(role=role, eyes_width=16, decoder=decoder, aux_layer=0)
    return tongue.Pair(eyes, tongue.Tongue(config)).eval()


@pytest.mark.parametrize("role", ["target", "event"])
@settings(max_examples=8, deadline=None)
@given(asked=st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True), seed=st.integers(0, 99))
def test_packed_questions_do_not_see_each_other(tokenizer, questions, role, asked, seed):
    """Each question gets the logits that it gets alone."""
    to_ids = words.Words(tokenizer, role)
    frames = clips.NUM_FRAMES if role == "target" else clips.NUM_EVENT_IMAGES
    pictures = np.random.default_rng(seed).integers(0, 256, (1, frames, 96, 96, 3), dtype=np.uint8)
    patches, wholes = np.zeros((1, frames, 36, 9), np.float32), np.zeros((1, frames, 8), np.int64)
    patches[..., 0] = 1
    segments = [[to_ids.segment(qa) for qa in questions[1]]]
    lessons = tongue.Lessons(to_ids, pictures, patches, wholes, segments)
    model = _pair(role, tokenizer.get_vocab_size())
    with torch.no_grad():
        packed = model(lessons.take([0], [asked]))
        alone = [model(lessons.take([0], [[q]])) for q in asked]
        assert model.loss(lessons.take([0], [asked])).isfinite()
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("read_layer", [-1, -2])
def test_look_equals_the_library_tower(read_layer):
    torch.manual_seed(0)
    eyes = Eyes(EyesConfig(width=32, layers=3, heads=2, read_layer=read_layer, sees_colour=True)).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    pixels = normalise(pictures)
    with torch.no_grad():
        expected = eyes.tower(pixels, output_hidden_states=True).hidden_states[read_layer]
        torch.testing.assert_close(eyes.look(pixels), expected, atol=1e-4, rtol=1e-4)


def test_slow_parameters_learn_at_their_own_rate(tmp_path):
    """Adam's first step is as long as the rate, whatever the gradient."""
    pair = torch.nn.ModuleDict({"eyes": torch.nn.Linear(3, 1), "tongue": torch.nn.Linear(3, 1)})
    before = {k: v.detach().clone() for k, v in pair.named_parameters()}
    inputs = torch.ones(2, 3)

    def loss_of(step, part, parts):
        return (pair["eyes"](inputs) + pair["tongue"](inputs)).sum()

    config = FitConfig(steps=1, peak_lr=1e-2, weight_decay=0.0, slow="eyes.", slow_rate=0.25)
    assert fit("slow", pair, loss_of, config, tmp_path / "slow")
    moved = {k: (v.detach() - before[k]).abs().mean().item() for k, v in pair.named_parameters()}
    assert moved["eyes.weight"] == pytest.approx(0.25 * moved["tongue.weight"], rel=1e-4)


def test_two_processes_give_the_gradients_of_one(tmp_path):
    """Halving a batch between two processes changes nothing but the order of a sum."""
    weights = []
    for processes in (1, 2):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 2)

        def loss_of(step, part, parts, layer=layer):
            inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
            return layer(inputs[part::parts]).square().mean()

        config = FitConfig(steps=5, peak_lr=1e-2)
        assert fit(f"in_{processes}", layer, loss_of, config, tmp_path / str(processes), processes=processes)
        weights.append(layer.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)
