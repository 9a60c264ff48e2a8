"""``crossdraft train head``: from a target's answers to a head that drafts, in a request and in the league."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossdraft import runs
from crossdraft.core.records import read_record
from crossdraft.data.scenes import write_streams
from crossdraft.heads.checkpoint import read_head_card
from crossdraft.training.lessons import read_lessons

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def corpus(run: Run, llama: Path, tmp_path: Path) -> Path:
    return answered(run, llama, "league", 12, tmp_path / "corpus")


def answered(run: Run, llama: Path, prompts: str, limit: int, out: Path) -> Path:
    code, _, said = run(
        "data", "answers", "--target", llama, "--prompts", prompts, "--limit", limit, "--max-new-tokens", 8,
        "--dtype", "float32", "--out", out,
    )  # fmt: skip
    assert code == 0, said
    return out


def train(run: Run, name: str, llama: Path, corpus: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return run(
        "train", "head", name, "--target", llama, "--data", corpus, "--out", out, "--epochs", 1, "--batch", 4,
        "--dtype", "float32", "--validation", 0.3, *more,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "drafter"), [("eagle", "eagle2"), ("medusa", "medusa")])
def test_a_head_is_trained_and_drafts(
    name: str, drafter: str, run: Run, llama: Path, corpus: Path, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    code, said, err = train(run, name, llama, corpus, heads / name, "--draft-vocab", 40)
    assert code == 0 and f"{name}," in said and "tau" in said, err
    record = read_record(heads / name / "training.json", "head-training")
    card = read_head_card(heads / name)
    assert card.method == name and card.trained_tokens == record["trained_tokens"] > 0
    assert "nothing to do" in train(run, name, llama, corpus, heads / name, "--draft-vocab", 40)[2]
    code, said, err = run(
        "generate", "--target", llama, "--head", heads / name, "--prompt", "Say it.", "--max-new-tokens", 12,
        "--dtype", "float32", "--audit", "--compare", "--json",
    )  # fmt: skip
    body = json.loads(said)
    assert code == 0 and body["drafter"] == drafter and body["audit"]["passed"], err
    assert body["compare"]["identical"]
    code, _, err = run("generate", "--target", llama, "--head", heads, "--prompt", "Say it.")
    assert code == 2 and f"{heads} holds the heads {name}; name the drafter to run" in err.replace("\n", " ")
    out = tmp_path / "league.json"
    code, _, err = run(
        "bench", "--target", llama, "--methods", f"{drafter},hass", "--heads", heads, "--limit", 1, "--repeats", 1,
        "--max-new-tokens", 8, "--dtype", "float32", "--json", out,
    )  # fmt: skip
    rows = {row["method"]: row for row in read_record(out, "league")["rows"]}
    assert code == 0 and rows[drafter]["mismatches"] == 0 and rows[drafter]["parameters"] == record["parameters"], (
        err
    )
    assert "train one: crossdraft train head hass" in rows["hass"]["error"]


def test_clips_are_looked_at_once_for_all_heads(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as their files are the same."""
    clips, corpus = tmp_path / "clips", tmp_path / "corpus"
    write_streams(clips, 2, 1, 3, "drive")
    said = ("--per-clip", 2, "--max-new-tokens", 4)
    assert run("data", "answers", "--target", "nano", "--prompts", clips, "--out", corpus, *said)[0] == 0
    read: list[int] = []

    def reading(*given: Any) -> Any:
        read.append(len(list(given[1])))
        return read_lessons(*given)

    monkeypatch.setattr(runs, "read_lessons", reading)
    digests = []
    for name in ("one", "two", "three"):
        if name == "three":
            for video in clips.rglob("*.mp4"):
                os.utime(video, ns=(0, 0))
        code, _, err = train(run, "medusa", "nano", corpus, tmp_path / name)
        assert code == 0, err
        digests.append(read_record(tmp_path / name / "training.json", "head-training")["about"]["answers"])
        assert read == ([4, 4] if name == "three" else [4])
    assert len(set(digests)) == 1


def test_answers_of_several_corpora_are_learned_together(
    run: Run, llama: Path, corpus: Path, tmp_path: Path
) -> None:
    more = answered(run, llama, "training", 6, tmp_path / "more")
    records = []
    for number, others in enumerate(([], ["--data", more], ["--data", more, "--held-out", corpus])):
        out = tmp_path / f"head{number}"
        code, _, err = train(run, "eagle", llama, corpus, out, *others)
        assert code == 0, err
        records.append(read_record(out / "training.json", "head-training"))
    one, both, judged = records
    answers = [record["num_answers"] + record["num_held_out"] for record in records]
    assert answers[1] == answers[0] + 6 and judged["num_held_out"] == answers[0]
    assert judged["num_answers"] == answers[1], "all of both"
    assert both["corpus"] == f"{corpus} + {more}" and one["about"]["answers"] != both["about"]["answers"]


def test_what_cannot_be_trained_is_said_in_a_line(run: Run, llama: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "head"
    for said, call in {
        "no drafting head that can be trained": train(run, "eagle4", llama, corpus, out),
        "answers of another target": train(run, "eagle", Path("nano"), corpus, out),
        "holds no corpus; make one": train(run, "eagle", llama, tmp_path, out),
        "draft_vocab is 9999": train(run, "eagle", llama, corpus, out, "--draft-vocab", 9999),
        "NAME=VALUE": train(run, "eagle", llama, corpus, out, "--set", "nothing"),
        "passes is 0": train(run, "eagle", llama, corpus, out, "--passes", 0),
    }.items():
        code, _, err = call
        assert code == 2 and said in err and err.count("\n") == 1, (said, err)
    assert not (out / "head.safetensors").exists()


def test_medusa_2_makes_another_target(run: Run, llama: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    code, said, err = train(run, "medusa2", llama, corpus, out)
    assert code == 0 and "another target" in said and f"--target {out}/target --head {out}" in said, err
    asked = ("--prompt", "Say it.", "--max-new-tokens", 8, "--dtype", "float32", "--compare", "--json")
    code, said, err = run("generate", "--target", out / "target", "--head", out, *asked)
    body = json.loads(said)
    assert code == 0 and body["drafter"] == "medusa" and body["compare"]["identical"], err
    code, _, err = run("generate", "--target", llama, "--head", out, *asked)
    assert code == 2 and "was trained for another checkpoint" in err


def test_a_draft_model_of_the_targets_own_layers(run: Run, llama: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    asked = ("train", "draft-model", "--target", llama, "--data", corpus, "--out", out, "--epochs", 1,
             "--dtype", "float32", "--validation", 0.3)  # fmt: skip
    code, said, err = run(*asked, "--layers", "1")
    assert code == 0 and f"use it: --draft-model {out}" in said and "layers 0 of" in said, err
    code, said, err = run(
        "generate", "--target", llama, "--draft-model", out, "--prompt", "Say it.", "--max-new-tokens", 8,
        "--dtype", "float32", "--compare", "--json",
    )  # fmt: skip
    body = json.loads(said)
    assert code == 0 and body["drafter"] == "draft_model" and body["compare"]["identical"], err
    code, _, err = run(*asked, "--layers", "1", "--out", tmp_path / "both", "--data", corpus)
    records = [read_record(folder / "training.json", "draft-model-training") for folder in (out, tmp_path / "both")]
    one, both = (record["num_answers"] + record["num_held_out"] for record in records)
    assert code == 0 and both == 2 * one and records[1]["corpus"] == f"{corpus} + {corpus}", err
    for layers, words in (("few", "--layers is 'few'"), ("99", "keep fewer"), ("0,99", "keep some of 0 to")):
        code, _, err = run(*asked, "--restart", "--layers", layers)
        assert code == 2 and words in err and err.count("\n") == 1
