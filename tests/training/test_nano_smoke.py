"""The whole training pipeline at tiny sizes: it writes loadable checkpoints; an interrupted run loses nothing."""

import pytest
import torch
from safetensors.torch import load_file

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.models import check_checkpoint, load_vlm
from crossdraft.training.loop import read_log
from crossdraft.training.nano import evaluate, pipeline
from crossdraft.training.nano.export import restore


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An unbroken run, and one that was interrupted in the middle of its first stage."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    out = pipeline.train_nano(whole, smoke=True, note=lambda _: None)
    assert pipeline.train_nano(broken, smoke=True, stop_after=2, note=lambda _: None) is None
    assert not (broken / "nano-target").exists()
    again = pipeline.train_nano(broken, smoke=True, note=lambda _: None)
    return out, again, whole


@pytest.mark.parametrize("role", ["target", "event"])
def test_resumed_run_equals_unbroken_one(runs, role):
    out, again, _ = runs
    one, two = (load_file(folder[role] / "model.safetensors") for folder in (out, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert {v.dtype for v in one.values()} == {torch.bfloat16}


@pytest.mark.parametrize("role", ["target", "event"])
def test_checkpoint_is_understood_and_speaks(runs, role):
    folder = runs[0][role]
    assert check_checkpoint(folder).ok
    model = load_vlm(folder, dtype=torch.float32)
    clip = evaluate.held_out_clips(1)[0]
    encoded = model.encode(evaluate.prompt_of(clip, "How are the objects moving?", role))
    tokens = evaluate.answer(model, encoded)
    assert len(tokens) <= evaluate.MAX_ANSWER_TOKENS
    assert isinstance(model.tokenizer.decode(tokens), str)


def test_log_and_finished_stage(runs):
    whole = runs[2]
    before = read_log(whole / "target_tongue")
    assert any("held_out_loss" in line for line in before)
    pipeline.train_nano(whole, smoke=True, note=lambda _: None)
    assert read_log(whole / "target_tongue") == before, "a finished stage is not trained again"


def test_training_goes_on_from_a_finished_pair(runs, tmp_path):
    """The first state of a continued run is the pair's weights; another shape is refused before any work."""
    whole = runs[2]
    on = tmp_path / "on"
    assert pipeline.train_nano(on, smoke=True, start_from=whole, stop_after=1, note=lambda _: None) is None
    pair = pipeline.new_pair(pipeline.smoke_recipes()[0], "cpu")
    restore(pair.eyes, pair.tongue, whole / "nano-target")
    stored = load_file(whole / "nano-target" / "model.safetensors")
    embedding = next(v for k, v in stored.items() if k.endswith("embed_tokens.weight"))
    assert torch.equal(pair.tongue.decoder.embed_tokens.weight, embedding.float())
    assert (on / "tokenizer.json").read_bytes() == (whole / "nano-target" / "tokenizer.json").read_bytes()
    with pytest.raises(CheckpointError, match="same shape"):
        pipeline.train_nano(tmp_path / "other", minutes=1, start_from=whole)
    with pytest.raises(CheckpointError, match="nowhere/nano-target is not there"):
        pipeline.train_nano(tmp_path / "other", minutes=1, start_from="nowhere")
    assert not (tmp_path / "other" / "data").exists()


def test_bad_settings(tmp_path):
    with pytest.raises(SettingError, match="minutes"):
        pipeline.train_nano(tmp_path, minutes=0)
