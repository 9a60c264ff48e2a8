"""A corpus is whole or it is not one; what is in it is what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import CrossdraftError, DataError
from crossdraft.core.seeds import generator
from crossdraft.data.corpus import ANSWERS, RECORD, CorpusWriter, Reply, read_corpus, replies_of
from crossdraft.data.store import PairedStates, Store, StoreIdentity, StoreWriter

IDENTITY = {"target": "t", "settings": {"temperatures": (0.0, 0.7)}}


def _reply(number: int, *tokens: int) -> Reply:
    return Reply(id=f"r{number}", group="g", question=f"What is {number}?\nÄ", tokens=tokens or (number, 2))


def _write(root: Path, replies: list[Reply], finish: bool = True) -> Path:
    with CorpusWriter(root, IDENTITY, {"clips": "/data"}) as writer:
        writer.append(replies)
        if finish:
            writer.finish()
    return root


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.builds(
    Reply, id=text, group=text, question=text, tokens=st.lists(st.integers(0, 60000), min_size=1).map(tuple),
    temperature=st.floats(0, 2), clip=st.none() | text,
), max_size=4))  # fmt: skip
def test_what_is_read_is_what_was_written(tmp_path_factory: Any, replies: list[Reply]) -> None:
    corpus = read_corpus(_write(tmp_path_factory.mktemp("corpus"), replies))
    assert list(corpus.replies) == replies
    assert corpus.num_tokens == corpus.about["num_tokens"] == sum(len(r.tokens) for r in replies)
    assert corpus.about["num_replies"] == len(replies) and corpus.about["clips"] == "/data"


def test_counts_of_tokens(tmp_path: Path) -> None:
    corpus = read_corpus(_write(tmp_path, [_reply(0, 3, 3, 1), _reply(1, 3, 0)]))
    assert np.array_equal(corpus.counts(6), [1, 1, 0, 3, 0, 0])
    with pytest.raises(DataError, match="token 3, but the vocabulary has 3"):
        corpus.counts(3)


def test_a_broken_append_is_forgotten(tmp_path: Path) -> None:
    """Whatever is left of the last line, the lines before it stay and the rest is written again."""
    whole = read_corpus(_write(tmp_path / "a", [_reply(n) for n in range(4)])).replies
    lines = (tmp_path / "a" / ANSWERS).read_bytes().splitlines(keepends=True)
    for cut in (1, len(lines[2]) - 1):
        root = _write(tmp_path / f"b{cut}", [_reply(n) for n in range(2)], finish=False)
        with (root / ANSWERS).open("ab") as file:
            file.write(lines[2][:cut])
        with CorpusWriter(root, IDENTITY) as writer:
            assert writer.kept == list(whole[:2])
            writer.append(list(whole[2:]))
            writer.finish()
        assert read_corpus(root).replies == whole


def test_only_whole_batches_are_kept(tmp_path: Path) -> None:
    _write(tmp_path, [_reply(n) for n in range(3)], finish=False)
    with CorpusWriter(tmp_path, IDENTITY) as writer:
        writer.keep(2)
    with CorpusWriter(tmp_path, IDENTITY) as writer:
        assert [r.id for r in writer.kept] == ["r0", "r1"]


def test_a_finished_corpus_stays_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path, [_reply(1)])
    before = (tmp_path / RECORD).read_bytes()
    with CorpusWriter(tmp_path, IDENTITY) as writer:
        assert writer.whole and writer.kept == [_reply(1)]
        writer.finish()
    assert (tmp_path / RECORD).read_bytes() == before


def test_an_unfinished_corpus_is_not_read(tmp_path: Path) -> None:
    _write(tmp_path, [_reply(1)], finish=False)
    with pytest.raises(DataError, match="is not finished"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="holds no corpus"):
        read_corpus(tmp_path / "elsewhere")


def test_damage_is_found(tmp_path: Path) -> None:
    """One changed byte, a lost file; in an unfinished corpus a line that is no reply."""
    path = _write(tmp_path / "a", [_reply(1)]) / ANSWERS
    path.write_bytes(path.read_bytes().replace(b"[1,2]", b"[1,3]"))
    with pytest.raises(DataError, match="it is damaged"):
        read_corpus(tmp_path / "a")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(tmp_path / "a")
    root = _write(tmp_path / "b", [_reply(1)], finish=False)
    for line in (b"{}\n", b"nonsense\n", b'{"tokens": ["x"]}\n'):
        (root / ANSWERS).write_bytes(line)
        with pytest.raises(DataError, match="line 1: is no reply"), CorpusWriter(root, IDENTITY):
            pass


def test_another_identity_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, [_reply(1)], finish=False)
    with (
        pytest.raises(DataError, match="is another corpus"),
        CorpusWriter(tmp_path, {**IDENTITY, "settings": {"temperatures": [0.5]}}),
    ):
        pass


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        CorpusWriter(tmp_path, IDENTITY),
        pytest.raises(CrossdraftError, match="another process"),
        CorpusWriter(tmp_path, IDENTITY),
    ):
        pass


@pytest.fixture
def store(tmp_path: Path) -> Callable[[bool], Store]:
    def make(has_tokens: bool) -> Store:
        identity = StoreIdentity(
            target="t", event_model="e", target_width=4, draft_width=4, vocab_size=9, mode="teacher-forced",
            dtype="bf16", config_hash="c", has_tokens=has_tokens,
        )  # fmt: skip
        root = tmp_path / f"store-{has_tokens}"
        with StoreWriter(root, identity, prefix="w0") as writer:
            for number in (1, 0):
                states = _states(number)
                tokens = {"target_tokens": _ids(number), "draft_tokens": _ids(number)} if has_tokens else {}
                about = {
                    "id": f"s{number}",
                    "recording": f"rec{number}",
                    "clip_index": 0,
                    "question": f"Q{number}?",
                }
                writer.put(PairedStates(**about, target_states=states, draft_states=states, **tokens))
        return Store.open(root)

    return make


def _states(number: int) -> torch.Tensor:
    return torch.randn(number + 2, 4, generator=generator(number, "corpus"))


def _ids(number: int) -> torch.Tensor:
    return torch.arange(number + 2) + number


def test_a_store_of_paired_states_holds_answers(store: Callable[[bool], Store]) -> None:
    assert replies_of(store(True)) == [
        Reply(id="s0", group="rec0", question="Q0?", tokens=(0, 1), clip="s0"),
        Reply(id="s1", group="rec1", question="Q1?", tokens=(1, 2, 3), clip="s1"),
    ]
    with pytest.raises(DataError, match="without token ids"):
        replies_of(store(False))


def test_the_record_is_json_with_provenance(tmp_path: Path) -> None:
    about = json.loads((_write(tmp_path, [_reply(1)]) / RECORD).read_text())
    assert about["kind"] == "corpus" and about["target"] == "t" and about["provenance"]["versions"]["torch"]
