"""A draft model of the target's own layers: what it learns is what it drafts, and its checkpoint is a target's."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.rounds import play
from crossdraft.core.types import LAST
from crossdraft.models import fingerprint
from crossdraft.models.llama import LlamaParts
from crossdraft.models.spliced import read_parts, save_parts
from crossdraft.training import draft_model
from crossdraft.training.draft_model import DraftModelTraining, keep_layers, outer_layers, train_draft_model

TRAIN, HELD_OUT = [0, 1, 2, 4, 5, 6, 8, 9], [3, 7, 10, 11]
Train = Callable[..., dict[str, Any] | None]


def config(**changes: Any) -> DraftModelTraining:
    quick: dict[str, Any] = {"layers": (0, 3), "epochs": 40, "batch": 8, "peak_lr": 1e-2, "dtype": "float32"}
    return DraftModelTraining(**{**quick, **changes})


@pytest.fixture
def source(chatter: Any, tmp_path: Path) -> Path:
    """The checkpoint of the target that gave the lessons."""
    decoder = chatter[False][0].decoder
    parts = LlamaParts(decoder.config.to_hf())
    parts.decoder = deepcopy(decoder)
    save_parts(parts, tmp_path / "source", torch.float32)
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    return tmp_path / "source"


@pytest.fixture
def train(chatter: Any, source: Path) -> Train:
    def run(out: Path, chosen: DraftModelTraining | None = None, **more: Any) -> dict[str, Any] | None:
        parts = read_parts(LlamaParts, source, torch.float32)[0]
        return train_draft_model(parts, source, chatter[False][0], TRAIN, HELD_OUT, out, chosen or config(), **more)

    return run


def test_a_few_layers_learn_what_the_target_says(train: Train, source: Path, chatter: Any, tmp_path: Path) -> None:
    out, lessons = tmp_path / "out", chatter[False][0]
    record = train(out)
    assert record is not None
    losses = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines() if "epoch" in line]
    assert losses[-1] < 0.3 * losses[0]
    made = read_parts(LlamaParts, out, torch.float32)[0].decoder
    assert made.config.num_layers == 2 and (out / "tokenizer.json").read_text() == "{}"
    table = lessons.decoder.embed_tokens.weight
    assert torch.equal(made.embed_tokens.weight, table), "its tokens mean what they meant"
    assert torch.equal(made.lm_head.weight, lessons.decoder.lm_head.weight)
    assert record["parameters"] == sum(p.numel() for p in made.layers.parameters()) + made.norm.weight.numel()
    # what the record says of it is what the written checkpoint does, token by token
    right = total = emitted = rounds = 0
    for place in HELD_OUT:
        lesson, batch = lessons.lessons[place], lessons.batch([place])
        states = made(batch.embeds, capture=(LAST,))[1][LAST][0]
        said = (states @ made.lm_head.weight.T).argmax(-1).tolist()
        hits = [said[i - 1] == lesson.ids[i] for i in range(lesson.prompt, len(lesson.ids))]
        right, total = right + sum(hits), total + len(hits)
        runs = [next((k for k, hit in enumerate(hits[s:]) if not hit), len(hits) - s) for s in range(len(hits))]
        pairs = play(runs, 4)
        emitted, rounds = emitted + sum(e for _, e in pairs), rounds + len(pairs)
    assert record["held_out"]["top1"] == pytest.approx(right / total)
    assert record["held_out"]["tau"] == pytest.approx(emitted / rounds)


@given(st.lists(st.booleans(), max_size=30))
def test_runs_by_brute_force(hits: list[bool]) -> None:
    want = [next((k for k, hit in enumerate(hits[s:]) if not hit), len(hits) - s) for s in range(len(hits))]
    assert draft_model._runs(np.array(hits, dtype=bool)) == want


def test_an_interrupted_training_goes_on_to_the_same_weights(train: Train, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    one = train(whole, config(epochs=6))
    assert train(parts, config(epochs=6), stop_after=2) is None and not (parts / "training.json").exists()
    two = train(parts, config(epochs=6))
    assert one is not None and two is not None and one["held_out"] == two["held_out"]
    assert fingerprint(whole) == fingerprint(parts)
    said: list[str] = []
    again = train(parts, config(epochs=6), note=said.append)
    assert again is not None and "nothing to do" in said[0]
    with pytest.raises(SettingError, match=r"another training \(epochs was 6, now 7\)"):
        train(parts, config(epochs=7))


def test_two_processes_and_bfloat16(train: Train, tmp_path: Path) -> None:
    record = train(tmp_path / "out", config(dtype="bfloat16", processes=2, epochs=20))
    assert record is not None and record["held_out"]["top1"] > 0.3
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()
        if "epoch" in line
    ]
    assert losses[-1] < 0.7 * losses[0]


def test_which_layers_are_kept(source: Path, chatter: Any) -> None:
    assert outer_layers(30, 4) == (0, 1, 28, 29) and outer_layers(30, 3) == (0, 1, 29)
    assert outer_layers(30, 1) == (0,)
    for count in (0, 30):
        with pytest.raises(SettingError, match="keep fewer, and at least one"):
            outer_layers(30, count)
    parts = read_parts(LlamaParts, source, torch.float32)[0]
    third = deepcopy(parts.decoder.layers[2])
    keep_layers(parts, (2,))
    assert parts.config["num_hidden_layers"] == 1 and len(parts.decoder.layers) == 1
    for name, value in parts.decoder.layers[0].state_dict().items():
        assert torch.equal(value, third.state_dict()[name])
    video = LlamaParts(chatter[False][0].decoder.config.to_hf())
    video.config = {"text_config": {"num_hidden_layers": 4, "hidden_size": 16}, "x": 1}
    keep_layers(video, (0, 3))
    assert video.config == {"text_config": {"num_hidden_layers": 2, "hidden_size": 16}, "x": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": ()}, "layers are"), ({"layers": (2, 1)}, "rising"), ({"layers": (-1,)}, "rising"),
        ({"layers": (1, 1)}, "rising"), ({"epochs": 0}, "epochs is 0"), ({"batch": 0}, "batch is 0"),
        ({"processes": 3}, "3 processes were asked for"), ({"processes": 2, "device": "cuda"}, "on a GPU"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        config(**changes)


def test_layers_that_the_target_has_not(train: Train, tmp_path: Path) -> None:
    for layers in ((0, 4), (0, 1, 2, 3)):
        with pytest.raises(SettingError, match="but the target has 4: keep some of 0 to 3"):
            train(tmp_path / "out", config(layers=layers))
