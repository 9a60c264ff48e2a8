"""Medusa-2: the target learns with its heads, becomes another one, and the one it came from stays as it was."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.core.errors import SettingError
from crossdraft.core.types import LAST
from crossdraft.heads.checkpoint import HEAD, load_head
from crossdraft.heads.feature import output_matrices
from crossdraft.heads.medusa import MedusaHead
from crossdraft.models import fingerprint
from crossdraft.models.llama import LlamaParts
from crossdraft.models.spliced import read_parts, save_parts
from crossdraft.training import joint
from crossdraft.training.heads import HeadTraining
from crossdraft.training.joint import JointTraining, train_together
from crossdraft.training.lessons import Lessons

TRAIN, HELD_OUT = [0, 1, 2, 4, 5, 6, 8, 9], [3, 7, 10, 11]
Train = Callable[..., dict[str, Any] | None]


def config(heads_weight: float = 0.5, epochs: int = 12) -> JointTraining:
    heads = HeadTraining(name="medusa", settings={"heads": 2}, epochs=12, batch=8, peak_lr=1e-2, dtype="float32")
    return JointTraining(heads=heads, epochs=epochs, peak_lr=2e-2, heads_weight=heads_weight, rank=4, alpha=4.0)


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
    lessons: Lessons = chatter[False][0]

    def run(out: Path, chosen: JointTraining | None = None, **more: Any) -> dict[str, Any] | None:
        parts = read_parts(LlamaParts, source, torch.float32)[0]
        return train_together(parts, source, lessons, TRAIN, HELD_OUT, out, chosen or config(), **more)

    return run


def logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_target_and_heads_learn_together(train: Train, source: Path, chatter: Any, tmp_path: Path) -> None:
    lessons: Lessons = chatter[False][0]
    before = fingerprint(source)
    record = train(tmp_path / "out")
    assert record is not None and record["name"] == "medusa2"
    assert fingerprint(source) == before and record["about"]["target"] == before
    held = record["held_out"]
    assert held["divergence"] > 0 and 0 < held["agreement"] <= 1
    # the new checkpoint is the target that the heads were judged on
    target = tmp_path / "out" / "target"
    assert fingerprint(target) != before and (target / "tokenizer.json").read_text() == "{}"
    assert not (target / "training.json").exists()
    head, card = load_head(tmp_path / "out" / HEAD)
    assert isinstance(head, MedusaHead) and card.method == "medusa" and card.fingerprint == fingerprint(target)
    made = read_parts(LlamaParts, target, torch.float32)[0].decoder
    batch = lessons.batch(HELD_OUT)
    states = made(batch.embeds, capture=(LAST,))[1][LAST]
    there = batch.predicts
    said = (states[there] @ made.lm_head.weight.T).argmax(-1) == batch.tokens.roll(-1, 1)[there]
    assert float(said.float().mean()) == pytest.approx(held["agreement"], abs=1e-6)  # the lessons are greedy
    assert not torch.equal(states[there], batch.states[LAST][there])


def test_before_the_first_step_it_is_the_target_it_was(
    source: Path, train: Train, chatter: Any, tmp_path: Path
) -> None:
    assert train(tmp_path, stop_after=1) is None
    parts = read_parts(LlamaParts, source, torch.float32)[0]
    course = joint._Course(parts.decoder, chatter[False][0], TRAIN, HELD_OUT, config(), tmp_path / "alone" / HEAD)
    figures = course.figures()
    assert figures["divergence"] == pytest.approx(0, abs=1e-5) and figures["agreement"] == 1.0
    alone = json.loads((tmp_path / "alone" / "training.json").read_text())["held_out"]
    assert figures["tau"] == pytest.approx(alone["tau"]) and figures["top1"] == pytest.approx(alone["top1"])


def test_the_more_the_heads_count_the_less_it_is_what_it_was(train: Train, tmp_path: Path) -> None:
    little, much = (train(tmp_path / str(w), config(w)) for w in (0.001, 5.0))
    assert little is not None and much is not None
    assert little["held_out"]["divergence"] < 0.2 * much["held_out"]["divergence"]
    # and the more its states tell the heads: the loss is a fifth of five times the heads', and what it cost besides
    together, alone = (logged(tmp_path / "5.0" / part, "loss")[-1] for part in ("together", "alone"))
    assert together / 5 < 0.9 * alone


def test_an_interrupted_training_goes_on_to_the_same_numbers(train: Train, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    one = train(whole)
    assert train(parts, stop_after=3) is None and not (parts / "training.json").exists()
    two = train(parts)
    assert one is not None and two is not None and one["held_out"] == two["held_out"]
    assert fingerprint(whole / "target") == fingerprint(parts / "target")
    said: list[str] = []
    again = train(parts, note=said.append)
    assert again is not None and again["held_out"] == two["held_out"] and "nothing to do" in said[0]
    with pytest.raises(SettingError, match="another training"):
        train(parts, config(0.25))
    record = json.loads((parts / "training.json").read_text())
    assert "freeze_output" not in record["about"]["heads"], "what an earlier version wrote is known again"
    assert train(parts, config(0.25), resume=False) is not None


def test_frozen_output_rows_stay_in_the_joint_part_too(train: Train, chatter: Any, tmp_path: Path) -> None:
    chosen = config(epochs=2)
    chosen = replace(chosen, heads=replace(chosen.heads, freeze_output=True, settings={"own_head": True}))
    record = train(tmp_path, chosen)
    head = load_head(tmp_path)[0]
    rows = chatter[False][0].decoder.lm_head.weight[head.d2t].bfloat16().float()
    matrices = output_matrices(head)
    assert record is not None and matrices and all(torch.equal(matrix, rows) for matrix in matrices)
    assert any(bool(block.weight.any()) for block in head.blocks), "all else has learned"


def test_settings_that_make_no_sense() -> None:
    medusa = HeadTraining(name="medusa")
    with pytest.raises(SettingError, match="only Medusa heads .* not 'eagle'"):
        JointTraining(heads=HeadTraining(name="eagle"))
    with pytest.raises(SettingError, match="leave processes at 1"):
        JointTraining(heads=HeadTraining(name="medusa", processes=2))
    for value in (0.0, float("nan"), -1.0):
        with pytest.raises(SettingError, match="heads_weight is"):
            JointTraining(heads=medusa, heads_weight=value)
    with pytest.raises(SettingError, match="epochs is 0"):
        JointTraining(heads=medusa, epochs=0)
