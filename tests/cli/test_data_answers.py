"""``crossdraft data answers``: from prompts or clips to a corpus, run anew, gone on with, or taken from a store."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossdraft.data.corpus import read_corpus
from crossdraft.data.prompts import read_prompts, writer
from crossdraft.data.scenes import write_streams
from crossdraft.data.store import PairedStates, StoreIdentity, StoreWriter, save_head
from crossdraft.models import fingerprint, read_ends
from crossdraft.models.nano import nano_dir
from crossdraft.training import regenerate

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_streams(root, 1, 2, 3, "drive")
    return root


def test_text_prompts_become_a_corpus(run: Run, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    options = ("--limit", 7, "--temperature", "0,0.7", "--max-new-tokens", 5, "--batch", 3, "--dtype", "float32")
    command = (
        "data",
        "answers",
        "--target",
        llama,
        "--prompts",
        "league",
        "--part",
        "tune",
        "--out",
        out,
        *options,
    )
    code, said, _ = run(*command, "--json")
    body = json.loads(said)
    assert (code, body["replies"], body["made"]) == (0, 7, 7)
    corpus = read_corpus(out)
    assert corpus.num_tokens == body["tokens"] and corpus.about["checkpoint"] == fingerprint(llama)
    assert corpus.about["prompts"]["source"] == "league" and corpus.about["settings"]["max_new_tokens"] == 5
    assert {reply.temperature for reply in corpus.replies} == {0.0, 0.7}
    assert "(0 made now)" in run(*command)[1]
    early = (*command[: command.index(out)], tmp_path / "early", *options, "--minutes", 1e-9)
    assert f"{tmp_path / 'early'}: 3 answers" in run(*early)[1] and "(0 made now)" in run(*early)[1]
    code, _, said = run(*command[:-1], "bfloat16")
    assert code == 2 and "another corpus ('dtype' was" in said


@pytest.fixture
def chatty(llama: Path, tmp_path: Path) -> Path:
    """The same model with a chat template."""
    made = tmp_path / "chatty"
    shutil.copytree(llama, made)
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}[assistant]"
    settings = json.loads((made / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    return made


def test_a_target_makes_up_its_own_prompts(
    run: Run, chatty: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regenerate, "_FEW_WORDS", 0)  # random bytes are no words
    out = tmp_path / "own.jsonl"
    command = ("data", "prompts", "--target", chatty, "--limit", 5, "--batch", 4, "--max-tokens", 300, "--out", out)
    code, said, err = run(*command, "--dtype", "float32")
    assert code == 0 and f"{out}: 5 prompts" in said, err
    assert [path.name for path in tmp_path.glob("own.jsonl*")] == ["own.jsonl"]
    damaged = tmp_path / "damaged"
    (tmp_path / "damaged.part").write_text("{}")
    code, _, err = run(*command[:-1], damaged)
    assert code == 2 and "damaged.part is damaged (KeyError); remove it" in err and not damaged.exists()
    records = read_prompts(out, "training")
    assert len({record.question for record in records}) == 5 and {r.kind for r in records} == {"free"}
    corpus = tmp_path / "corpus"
    code, _, err = run(
        "data", "answers", "--target", chatty, "--prompts", out, "--max-new-tokens", 3, "--out", corpus
    )
    assert code == 0 and {r.group for r in read_corpus(corpus).replies} == {f"own/{i}" for i in range(5)}, err
    for words, wrong in (
        ("is there already", command), ("limit", (*command[:-1], tmp_path / "b", "--limit", 0)),
        ("temperature is 0", (*command[:-1], tmp_path / "b", "--temperature", 0)),
        ("no chat template", ("data", "prompts", "--target", llama, "--limit", 2, "--out", tmp_path / "b")),
        ("watches videos", ("data", "prompts", "--target", "nano", "--limit", 2, "--out", tmp_path / "b")),
    ):  # fmt: skip
        code, _, err = run(*wrong)
        assert code == 2 and (words in err or "count is 0" in err) and not (tmp_path / "b").exists(), err


def test_prompts_about_a_targets_own_answers(
    run: Run, chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FEW_WORDS", 1)
    monkeypatch.setattr(writer, "_SENTENCE", re.compile(".+", re.DOTALL))  # random bytes are no sentences
    answers, out = tmp_path / "answers", tmp_path / "about.jsonl"
    code, _, err = run(
        "data", "answers", "--target", chatty, "--limit", 8, "--max-new-tokens", 40, "--out", answers
    )
    assert code == 0, err
    command = ("data", "prompts", "--target", chatty, "--about", answers, "--limit", 6, "--out", out)
    begun = tmp_path / "about.jsonl.part"  # of prompts that were to be made up
    begun.write_text("kept")
    code, said, err = run(*command)
    assert code == 0 and f"{out}: 6 prompts" in said and begun.read_text() == "kept", err
    groups = {reply.group for reply in read_corpus(answers).replies}
    records = read_prompts(out, "training")
    assert len(records) == 6 and {r.group for r in records} <= groups and "rewrite" in {r.kind for r in records}
    for words, wrong in (
        ("holds no corpus", (*command[:5], tmp_path, *command[6:-1], tmp_path / "b")),
        ("watches videos", (*command[:3], "nano", *command[4:-1], tmp_path / "b")),
    ):  # fmt: skip
        code, _, err = run(*wrong)
        assert code == 2 and words in err and not (tmp_path / "b").exists(), err


def test_composed_prompts(run: Run, llama: Path, tmp_path: Path) -> None:
    code, _, _ = run(
        "data", "answers", "--target", llama, "--limit", 6, "--max-new-tokens", 2, "--out", tmp_path / "c"
    )
    assert code == 0 and {r.group.split("/")[0] for r in read_corpus(tmp_path / "c").replies} >= {"story", "list"}


def test_clips_become_a_corpus_by_running_or_from_a_store(run: Run, scenes: Path, tmp_path: Path) -> None:
    """The answers of the built-in target, and the same ones taken from a store without running it."""
    out = tmp_path / "run"
    base = ("data", "answers", "--target", "nano", "--prompts", scenes)
    code, _, _ = run(*base, "--out", out, "--per-clip", 1, "--max-new-tokens", 12)
    corpus = read_corpus(out)
    assert code == 0 and len(corpus.replies) == 2
    assert corpus.about["clips"] == str(scenes) and all(reply.clip == reply.id for reply in corpus.replies)

    identity = StoreIdentity(
        target="nano-target", event_model="e", target_width=320, draft_width=4, vocab_size=1280,
        mode="teacher-forced", dtype="bf16", config_hash="c",
    )  # fmt: skip
    store = tmp_path / "store"
    with StoreWriter(store, identity, prefix="w0") as writer:
        for place, reply in enumerate(corpus.replies):
            tokens, count = torch.tensor(reply.tokens), len(reply.tokens)
            writer.put(
                PairedStates(
                    id=reply.id, recording=reply.group, clip_index=place, question=reply.question,
                    target_states=torch.zeros(count, 320), draft_states=torch.zeros(count, 4),
                    target_tokens=tokens, draft_tokens=tokens,
                )
            )  # fmt: skip
    head = read_ends(nano_dir("target")).head
    save_head(store, head)
    code, said, _ = run(*base, "--out", tmp_path / "taken", "--store", store)
    assert code == 0 and "2 answers" in said
    taken = read_corpus(tmp_path / "taken")
    assert set(taken.replies) == set(corpus.replies) and taken.about["checkpoint"] == corpus.about["checkpoint"]
    assert run(*base, "--out", tmp_path / "taken", "--store", store)[0] == 0

    other = tmp_path / "other"
    write_streams(other, 1, 1, 4, "drive")
    code, _, said = run(*base[:-1], other, "--out", tmp_path / "x", "--store", store)
    assert code == 2 and "is of no clip and question of" in said
    save_head(store, head + 1)
    code, _, said = run(*base, "--out", tmp_path / "x", "--store", store)
    assert code == 2 and "answers of another target" in said and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--temperature", "warm"), "--temperature is 'warm'"),
        (("--limit", 0), "--limit is 0"),
        (("--minutes", 0), "minutes is 0.0, must be above 0"),
        (("--prompts", "nowhere.jsonl"), "cannot be read"),
        (("--store", "s"), "reads text alone"),
        (("--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_bad_settings(run: Run, llama: Path, tmp_path: Path, options: tuple[object, ...], words: str) -> None:
    code, _, said = run("data", "answers", "--target", llama, "--out", tmp_path / "c", *options)
    assert code == 2 and words in said and said.count("\n") == 1 and not (tmp_path / "c").exists()


def test_a_target_of_clips_wants_clips(run: Run, tmp_path: Path) -> None:
    code, _, said = run("data", "answers", "--target", "nano", "--out", tmp_path / "c")
    assert code == 2 and "watches videos" in said
