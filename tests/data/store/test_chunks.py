"""The study's chunks, written here as its own pipeline wrote them, come into a store, and nothing else does."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.core.errors import DataError
from crossdraft.data.store import Store, check, import_chunks, load_head

WIDTH_VL, WIDTH_EGPT, QUESTIONS = 6, 4, ("What is there?", "Was gibt’s?")


def chunk(start: int, count: int, seed: int = 0) -> dict[str, Any]:
    """A chunk of clips x questions; zero beyond each pair's length, as the pipeline pads."""
    noise = torch.Generator().manual_seed(seed + start)
    lengths = torch.randint(1, 6, (count,), generator=noise)
    longest = int(lengths.max())
    states = {
        name: torch.randn(count, longest, width, generator=noise)
        for name, width in (("egpt_hidden", WIDTH_EGPT), ("vl_hidden", WIDTH_VL))
    }
    for tensor in states.values():
        for row, length in enumerate(lengths.tolist()):
            tensor[row, length:] = 0
    metadata = [
        {
            "sample_idx": i // 2, "question_idx": i % 2, "question": QUESTIONS[i % 2], "egpt_text": f"egpt {i}",
            "vl_text": f"vl {i}", "seq_len": int(length),
        }
        for i, length in enumerate(lengths.tolist(), start)
    ]  # fmt: skip
    return {**states, "seq_lens": lengths, "metadata": metadata, "chunk_id": start, "n_samples": count}


def write(root: Path, chunks: list[Any], **save: Any) -> Path:
    """Write chunks and their index."""
    (root / "chunks").mkdir(parents=True)
    listed, start = [], 0
    for body in chunks:
        name, count = f"chunk_{start:06d}.pt", body.get("n_samples", 0) if isinstance(body, dict) else 0
        torch.save(body, root / "chunks" / name, **save)
        listed.append({"path": name, "start_idx": start, "n_samples": count})
        start += max(count, 1)
    index = {
        "total_samples": start, "chunk_size": 4, "chunks": listed, "config": {"split": "test", "hidden_dim": 6},
        "created": "2026-02-07T00:00:00",
    }  # fmt: skip
    (root / "index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def chunks(tmp_path: Path) -> Path:
    return write(tmp_path / "chunks", [chunk(0, 4), chunk(4, 3)])


@pytest.mark.parametrize("save", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_every_pair_comes_over_as_it_was(tmp_path: Path, save: dict[str, Any]) -> None:
    bodies = [chunk(0, 4), chunk(4, 3)]
    store = import_chunks(write(tmp_path / "c", bodies, **save), tmp_path / "out")
    assert len(store) == 7 and not store.failures
    identity = store.identity
    assert (identity.target_width, identity.draft_width, identity.vocab_size) == (WIDTH_VL, WIDTH_EGPT, None)
    assert (identity.mode, identity.dtype, identity.has_tokens) == ("free-running", "fp32", False)
    assert list(store.recordings) == ["unknown"]
    for body in bodies:
        for row, about in enumerate(body["metadata"]):
            pair = store[f"{about['sample_idx']:06d}-q{about['question_idx']:02d}"]
            length = about["seq_len"]
            assert torch.equal(pair.target_states, body["vl_hidden"][row, :length])
            assert torch.equal(pair.draft_states, body["egpt_hidden"][row, :length])
            assert (pair.question, pair.clip_index) == (about["question"], about["sample_idx"])
            assert (pair.target_text, pair.draft_text) == (about["vl_text"], about["egpt_text"])
            assert pair.target_tokens is None


def test_half_precision(tmp_path: Path, chunks: Path) -> None:
    store = import_chunks(chunks, tmp_path / "out", dtype="bf16")
    assert torch.equal(
        store["000000-q00"].target_states, import_chunks(chunks, tmp_path / "o")[0].target_states.bfloat16()
    )


def test_the_head_comes_along(tmp_path: Path, chunks: Path) -> None:
    weight = torch.randn(30, WIDTH_VL)
    head = {"lm_head_weight": weight, "vocab_size": 30, "hidden_dim": WIDTH_VL, "model_id": "some/model"}
    torch.save(head, tmp_path / "head.pt")
    store = import_chunks(chunks, tmp_path / "out", head=tmp_path / "head.pt")
    assert store.identity.vocab_size == 30 and torch.equal(load_head(tmp_path / "out"), weight)
    torch.save({**head, "vocab_size": 31}, tmp_path / "head.pt")
    with pytest.raises(DataError, match=r"lm_head_weight is \[30, 6\], the file says \[31, 6\]"):
        import_chunks(chunks, tmp_path / "other", head=tmp_path / "head.pt")
    torch.save({"lm_head_weight": torch.randn(30, 9)}, tmp_path / "head.pt")
    with pytest.raises(DataError, match=r"is \[30, 9\], must be \[30, 6\]"):
        import_chunks(chunks, tmp_path / "third", head=tmp_path / "head.pt")
    with pytest.raises(DataError, match="no such file"):
        import_chunks(chunks, tmp_path / "third", head=tmp_path / "none.pt")


def test_the_data_set_gives_the_recordings(tmp_path: Path, chunks: Path) -> None:
    """sample_idx counts the records as they stand in the file; the clip index is the place in the recording."""
    root = tmp_path / "set"
    root.mkdir()
    records = [
        {"id": name, "event_data": f"{name}.npy", "conversations": []}
        for name in ("b/clip_1", "a/clip_10", "a/clip_2", "b/clip_0")
    ]
    (root / "EventGPT_Instruction_Subset.json").write_text(json.dumps(records))
    store = import_chunks(chunks, tmp_path / "out", dataset=root)
    clips = {entry.id[:6]: (entry.recording, entry.clip_index) for entry in store.entries}
    assert clips == {"000000": ("b", 1), "000001": ("a", 1), "000002": ("a", 0), "000003": ("b", 0)}
    (root / "EventGPT_Instruction_Subset.json").write_text(json.dumps(records[:3]))
    with pytest.raises(DataError, match="sample_idx 3 is beyond the 3 records"):
        import_chunks(chunks, tmp_path / "other", dataset=root)


def test_an_import_goes_on_after_a_break(tmp_path: Path, chunks: Path) -> None:
    hidden = chunks / "chunks" / "chunk_000004.pt"
    data = hidden.read_bytes()
    hidden.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="chunk_000004.pt: refused"):
        import_chunks(chunks, tmp_path / "out")
    hidden.write_bytes(data)
    assert len(import_chunks(chunks, tmp_path / "out")) == 7
    assert len(import_chunks(chunks, tmp_path / "out")) == 7
    assert check(tmp_path / "out").ok


def test_a_config_that_is_no_json(tmp_path: Path) -> None:
    root = write(tmp_path / "c", [chunk(0, 2)])
    body = json.loads((root / "index.json").read_text())
    (root / "index.json").write_text(json.dumps({**body, "config": {"lr": float("nan")}}))
    with pytest.raises(DataError, match="'config' holds what is no JSON value"):
        import_chunks(root, tmp_path / "out")


def test_states_that_are_not_finite_are_recorded(tmp_path: Path) -> None:
    body = chunk(0, 4)
    body["vl_hidden"][2, 0, 0] = float("nan")
    body["egpt_hidden"][3, 0, 0] = 1e6
    store = import_chunks(write(tmp_path / "c", [body]), tmp_path / "out", dtype="fp16")
    assert [entry.id for entry in store.entries] == ["000000-q00", "000000-q01"]
    assert "target_states has NaN" in store.failures["000001-q00"].reason
    assert "fp16" in store.failures["000001-q01"].reason


class Hostile:
    def __reduce__(self) -> tuple:
        return (os.system, ("echo hostile > hostile.txt",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: Hostile(), "refused"),
        (lambda b: {**b, "metadata": [Hostile()] * 4}, "refused"),
        (lambda b: [b], "holds a list"),
        (lambda b: {**b, "vl_hidden": None}, "'vl_hidden' is NoneType"),
        (lambda b: {**b, "vl_hidden": b["vl_hidden"][0]}, "'vl_hidden' is .* must be a tensor of 3 dimensions"),
        (lambda b: {**b, "vl_hidden": b["vl_hidden"].long()}, "must be floating point"),
        (lambda b: {**b, "vl_hidden": torch.zeros(1).expand(4, 10**6, 10**6)}, "no plain tensor"),
        (lambda b: {**b, "vl_hidden": b["vl_hidden"].to_sparse()}, "no plain tensor"),
        (lambda b: {**b, "vl_hidden": torch.zeros(4, 5, 6, device="meta")}, "no plain tensor"),
        (lambda b: {**b, "egpt_hidden": torch.zeros(4, 5, 0)}, "no plain tensor"),
        (lambda b: {**b, "egpt_hidden": b["egpt_hidden"][:3]}, "same number of samples"),
        (lambda b: {**b, "metadata": b["metadata"][:3]}, "same number of samples"),
        (lambda b: {**b, "metadata": "four"}, "same number of samples"),
        (lambda b: {**b, "seq_lens": b["seq_lens"] * 0}, "seq_lens must be whole numbers between 1"),
        (lambda b: {**b, "seq_lens": b["seq_lens"] + 9}, "seq_lens must be"),
        (lambda b: {**b, "seq_lens": b["seq_lens"].float()}, "seq_lens must be"),
        (lambda b: {**b, "metadata": [7] * 4}, "metadata is 7"),
        (lambda b: {**b, "metadata": [{**m, "sample_idx": "0"} for m in b["metadata"]]}, "sample_idx '0'"),
        (lambda b: {**b, "metadata": [{**m, "question_idx": -1} for m in b["metadata"]]}, "question_idx -1"),
        (lambda b: {**b, "metadata": [{**m, "question": 3} for m in b["metadata"]]}, "must be texts"),
        (lambda b: {**b, "metadata": [b["metadata"][0]] * 4}, "'000000-q00' .clip and question. twice"),
        (lambda b: chunk(0, 2), "holds 2 samples, its index says 4"),
    ],
)  # fmt: skip
def test_malformed_and_hostile_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    body = change(chunk(0, 4))
    root = write(tmp_path / "c", [chunk(0, 4)])
    torch.save(body, root / "chunks" / "chunk_000000.pt")
    with pytest.raises(DataError, match=says) as caught:
        import_chunks(root, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hostile.txt").exists()


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"PK\x03\x04junk", b"\x80\x02."], ids=["empty", "junk", "zip", "pickle"]
)
def test_files_that_are_no_chunks(tmp_path: Path, chunks: Path, data: bytes) -> None:
    (chunks / "chunks" / "chunk_000000.pt").write_bytes(data)
    with pytest.raises(DataError, match="chunk_000000.pt: refused"):
        import_chunks(chunks, tmp_path / "out")


def test_chunks_of_two_widths(tmp_path: Path) -> None:
    other = chunk(4, 3)
    other["vl_hidden"] = torch.zeros(3, other["vl_hidden"].shape[1], 9)
    with pytest.raises(DataError, match="states of widths 9 and 4, the chunks before it 6 and 4"):
        import_chunks(write(tmp_path / "c", [chunk(0, 4), other]), tmp_path / "out")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "names no chunks"),
        ('{"chunks": []}', "names no chunks"),
        ('{"chunks": ["a.pt"]}', "chunk 0 is 'a.pt'"),
        ('{"chunks": [{"path": "../secret.pt", "n_samples": 1}]}', "plain file name"),
        ('{"chunks": [{"path": "a.pt", "n_samples": "1"}]}', "the number 'n_samples'"),
        ('{"chunks": [{"path": "gone.pt", "n_samples": 1}]}', "gone.pt: missing"),
        ('{"chunks": [{"path": "chunk_000000.pt", "n_samples": 4}], "config": 1}', "'config' is 1"),
        ("[" * 100_000, "cannot be read"),
    ],
)  # fmt: skip
def test_malformed_indexes(tmp_path: Path, chunks: Path, index: str, says: str) -> None:
    (chunks / "index.json").write_text(index)
    with pytest.raises(DataError, match=says) as caught:
        import_chunks(chunks, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_chunks_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no index.json"):
        import_chunks(tmp_path, tmp_path / "out")


def test_an_imported_store_is_not_continued_with_other_settings(tmp_path: Path, chunks: Path) -> None:
    import_chunks(chunks, tmp_path / "out")
    with pytest.raises(DataError, match="dtype 'fp32' against 'bf16'"):
        import_chunks(chunks, tmp_path / "out", dtype="bf16")
    assert len(Store.open(tmp_path / "out")) == 7
