"""What is refused, and with which line."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, VideoLlavaForConditionalGeneration

from crossdraft.core.errors import CheckpointError, CrossdraftError, DataError, SettingError
from crossdraft.core.prompt import Prompt, VideoFrames
from crossdraft.core.types import SIMILARITY, Draft, Limits
from crossdraft.decode.loop import generate
from crossdraft.drafters.draft_model import DraftModel
from crossdraft.drafters.length import AssumedCurve
from crossdraft.drafters.none import NoDraft
from crossdraft.models import check_checkpoint, load_vlm, own_memory, read_parts, save_parts
from crossdraft.models.video_llava import VideoLlavaParts
from crossdraft.verify.greedy import Greedy


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the tiny Video-LLaVA that a test may damage: (folder, state)."""
    folder, _ = checkpoint("video_llava")
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", load_file(folder / "model.safetensors")


def _refused(folder, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_vlm(folder, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_missing_key(copy):
    folder, state = copy
    del state["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors")
    _refused(folder, r"lacks decoder\.layers\.1\.mlp\.up_proj\.weight")
    report = check_checkpoint(folder)
    assert not report.ok and "missing: language_model.model.layers.1.mlp.up_proj.weight" in report.problems


def test_wrong_shape(copy):
    folder, state = copy
    state["multi_modal_projector.linear_1.weight"] = torch.zeros(48, 31)
    save_file(state, folder / "model.safetensors")
    _refused(folder, r"linear_1\.weight is \[48, 31\], expected \[48, 32\]")
    assert "wrong shape" in str(check_checkpoint(folder))


def test_unknown_key(copy):
    folder, state = copy
    save_file({**state, "adapter.weight": torch.zeros(2)}, folder / "model.safetensors")
    _refused(folder, "unknown keys adapter.weight")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(copy, bad):
    folder, state = copy
    state["multi_modal_projector.linear_2.bias"][3] = bad
    save_file(state, folder / "model.safetensors")
    _refused(folder, "NaN or infinite")


def test_quantised(copy):
    folder, state = copy
    state["multi_modal_projector.linear_2.bias"] = torch.zeros(48, dtype=torch.int8)
    save_file(state, folder / "model.safetensors")
    _refused(folder, "quantised")


def test_pickles_only(copy):
    folder, _ = copy
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _refused(folder, "pickled weights.*save_pretrained")


def test_truncated_file(copy):
    folder, _ = copy
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    _refused(folder, "damaged")


def test_no_folder_no_config_no_tokenizer(copy, tmp_path):
    folder, _ = copy
    _refused(tmp_path / "nowhere" / "at" / "all", "no such checkpoint folder")
    (folder / "tokenizer.json").unlink()
    _refused(folder, "no tokenizer.json")
    (folder / "config.json").unlink()
    _refused(folder, "no config.json")


def test_an_index_may_not_point_outside_its_folder(copy):
    folder, _ = copy
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../copy/model.safetensors"}})
    )
    _refused(folder, "points outside")


def test_a_prompt_longer_than_the_context(checkpoint):
    vlm = load_vlm(checkpoint("llama")[0], dtype=torch.float32)
    with pytest.raises(DataError, match=r"context of .* is 512"):
        vlm.encode(Prompt("how? " * 400))
    encoded = vlm.encode(Prompt("how?"))
    with pytest.raises(SettingError, match="context is 512"):
        vlm.prefill(encoded, room=600)


def test_marks_in_the_question_are_refused(checkpoint):
    folder, _ = checkpoint("video_llava")
    vlm = load_vlm(folder, dtype=torch.float32)
    video = VideoFrames(np.zeros((2, 30, 30, 3), np.uint8), np.array([0, 1], np.int64))
    with pytest.raises(DataError, match="marks"):
        vlm.encode(Prompt("what is <video>?", video=video))


def test_a_target_that_watches_needs_something_to_watch(checkpoint):
    vlm = load_vlm(checkpoint("video_llava")[0], dtype=torch.float32)
    with pytest.raises(DataError, match="--video"):
        vlm.encode(Prompt("what?"))


def test_the_older_layout_of_keys_loads_too(copy):
    folder, state = copy
    older = {k.replace("video_tower.", "video_tower.vision_model."): v for k, v in state.items()}
    save_file(older, folder / "model.safetensors")
    assert check_checkpoint(folder).ok
    newest = {"model." + k.replace("language_model.model.", "language_model."): v for k, v in state.items()}
    newest["lm_head.weight"] = newest.pop("model.language_model.lm_head.weight")
    save_file(newest, folder / "model.safetensors")
    assert check_checkpoint(folder).ok


def test_what_cannot_be_loaded_is_not_called_ready(copy):
    """An unknown architecture, quantised weights, a tokenizer that cannot be read."""
    folder, state = copy
    assert check_checkpoint(folder).ok
    name = "language_model.model.norm.weight"
    save_file({**state, name: state[name].to(torch.int8)}, folder / "model.safetensors")
    report = check_checkpoint(folder)
    assert not report.ok and f"{name} is stored as I8; quantised" in report.problems[0]
    save_file(state, folder / "model.safetensors")
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text("{}")
    assert not check_checkpoint(folder).ok
    (folder / "tokenizer.json").write_text(tokenizer)
    config = json.loads((folder / "config.json").read_text())
    for kind in ("foo", None):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        report = check_checkpoint(folder)
        assert not report.ok and "neither to crossdraft nor to transformers" in report.problems[0]


def test_what_training_writes_is_what_transformers_reads(copy, tmp_path):
    folder, _ = copy
    config = json.loads((folder / "config.json").read_text())
    torch.manual_seed(1)
    parts = own_memory(VideoLlavaParts(config))
    save_parts(parts, tmp_path / "written", torch.float32)
    model, info = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    theirs = model.get_output_embeddings().weight
    assert torch.equal(theirs, parts.decoder.lm_head.weight)
    again, _ = read_parts(VideoLlavaParts, tmp_path / "written", torch.float32)
    assert all(torch.equal(p, q) for p, q in zip(parts.parameters(), again.parameters(), strict=True))


def test_a_full_disk_is_one_line(copy, tmp_path, monkeypatch):
    folder, _ = copy
    parts, _ = read_parts(VideoLlavaParts, folder, torch.float32)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crossdraft.core.weights.save_file", full)
    with pytest.raises(CrossdraftError, match="No space left"):
        save_parts(parts, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.fixture
def gpt2(tmp_path, write_tokenizer):
    """A folder with an architecture that our decoder does not know, and the model that wrote it."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=128, n_embd=32, n_layer=2, n_head=2)).eval()
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    return tmp_path, model


def test_an_unknown_architecture_drafts_but_shows_no_attention(gpt2):
    vlm, prompt = load_vlm(gpt2[0], dtype=torch.float32), Prompt("what is this?")
    with pytest.raises(SettingError, match="neither show nor skip its attention"):
        vlm.prefill(vlm.encode(prompt), (SIMILARITY,))
    drafter = DraftModel(draft_model=vlm, costs=AssumedCurve(), length=3, room=32)
    plain, fast = (
        generate(vlm, d, prompt, rule=Greedy(), limits=Limits(max_new_tokens=21)) for d in (NoDraft(), drafter)
    )
    assert fast.tokens == plain.tokens and fast.tau == 4.0


def test_an_unknown_architecture_runs_on_transformers_and_says_so(gpt2):
    tmp_path, model = gpt2
    assert "not bit-exact" in str(check_checkpoint(tmp_path))
    vlm = load_vlm(tmp_path, dtype=torch.float32)
    assert not vlm.exactness.bit_exact and "gpt2" in vlm.exactness.detail
    encoded = vlm.encode(Prompt("what is this?"))
    session = vlm.prefill(encoded, room=16)
    session.commit((), 9)
    session.score(Draft.chain([10, 11, 12]))
    session.commit((0,), 20)
    scores = session.score(Draft.chain([21]))
    with torch.no_grad():
        reference = model(torch.tensor([[*encoded.tokens, 9, 10, 20, 21]])).logits[0, -2:]
    assert torch.allclose(scores.logits, reference, atol=1e-4)
    assert session.length == len(encoded.tokens) + 2
    mark = session.mark()
    session.commit((0,), 5)
    session.rewind(mark)
    assert torch.allclose(session.score(Draft.chain([21])).logits, reference, atol=1e-4)
    with pytest.raises(SettingError, match="chain"):
        session.score(Draft(torch.tensor([1, 2]), torch.tensor([-1, -1])))


@pytest.mark.parametrize("kind", ["llama", "video_llava"])
@pytest.mark.parametrize(
    "change", [{"hidden_size": "x"}, {"hidden_size": -4}, {"rope_parameters": "x"}, {"rms_norm_eps": "a"}]
)
def test_senseless_config_values_are_one_line(checkpoint, tmp_path, kind, change):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint(kind)[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config).update(change)
    (folder / "config.json").write_text(json.dumps(config))
    _refused(folder, "config")
    assert not check_checkpoint(folder).ok


@pytest.mark.parametrize("change", [{"vision_config": 3}, {"text_config": 3}, {"vision_feature_layer": 99}])
def test_senseless_towers_are_one_line(copy, change):
    folder, _ = copy
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    _refused(folder, "config|hidden states")
    assert not check_checkpoint(folder).ok


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"image_mean": "a"}, "three numbers"),
        ({"image_std": [0, 0, 0]}, "three numbers"),
        ({"size": {"shortest_edge": 56}, "crop_size": {"height": 28, "width": 28}}, "scales to 56"),
        ({"crop_size": 56}, "crops to 56"),
    ],
)
def test_a_preprocessing_that_we_cannot_follow_is_refused(copy, settings, line):
    folder, _ = copy
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    _refused(folder, line)


def test_the_checkpoints_mean_and_std_are_used(copy):
    folder, _ = copy
    video = VideoFrames(np.full((2, 28, 28, 3), 127, np.uint8), np.array([0, 1], np.int64))
    plain = load_vlm(folder, dtype=torch.float32).preprocess(list(video.frames))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 28}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    given = load_vlm(folder, dtype=torch.float32).preprocess(list(video.frames))
    assert not torch.allclose(plain, given)
    assert torch.allclose(given, torch.full_like(given, (127 / 255 - 0.5) / 0.25), atol=1e-5)


def test_a_tokenizer_of_another_model_is_one_line(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint("llama")[0], folder)
    body = json.loads((folder / "tokenizer.json").read_text())
    body["added_tokens"].append(
        {
            "id": 900, "content": "hello", "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False,
        }
    )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="knows 320 tokens"):
        load_vlm(folder, dtype=torch.float32).encode(Prompt("say hello"))


def test_dtypes_and_devices_that_are_not_offered_are_refused_before_loading(tmp_path):
    for dtype in (torch.float16, torch.int8):
        with pytest.raises(SettingError, match="use bfloat16 or float32"):
            load_vlm(tmp_path / "never looked at", dtype=dtype)
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="no CUDA device"):
            load_vlm(tmp_path / "never looked at", device="cuda")


def test_a_known_reason_is_told_as_it_is(copy):
    folder, _ = copy
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rope_parameters"] = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    _refused(folder, "^rope_scaling of kind 'yarn'")
