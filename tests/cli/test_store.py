"""``crossdraft store``: what a person sees of a store."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from crossdraft.cli.main import main
from crossdraft.data.store import Failure, PairedStates, StoreIdentity, StoreWriter, load_head

Run = Callable[..., tuple[int, str, str]]
IDENTITY = StoreIdentity(
    target="video-llava", event_model="eventgpt", target_width=4, draft_width=3, vocab_size=20,
    mode="teacher-forced", dtype="bf16", config_hash="c0ffee",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_syncs() -> Iterator[None]:
    """A sync takes 0.1 s on a busy disk, and what it does shows only when the plug is pulled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, numbers: Iterable[int]) -> Path:
        with StoreWriter(tmp_path / name, IDENTITY, max_samples=2) as writer:
            for number in numbers:
                writer.put(
                    PairedStates(
                        id=f"s{number}", recording=f"seq_{number % 2}", clip_index=number, question="What?",
                        target_states=torch.ones(2, 4), draft_states=torch.ones(3, 3),
                        target_tokens=torch.tensor([1, 2]), draft_tokens=torch.tensor([1, 2, 3]),
                    )
                )  # fmt: skip
        return tmp_path / name

    return write


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, out + err
    assert err.startswith("crossdraft: error: ") and err.count("\n") == 1
    assert all(word in err for word in words)


def test_check_of_a_whole_store(run: Run, write: Callable[..., Path]) -> None:
    code, out, _ = run("store", "check", write("s", range(5)))
    assert code == 0 and "3 shards, 5 samples, 0 failures; all whole" in out


def test_check_names_the_damaged_shard_and_repair_forgets_it(run: Run, write: Callable[..., Path]) -> None:
    root = write("s", range(5))
    shard = root / "w0-000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    code, out, _ = run("store", "check", root)
    assert code == 1
    assert (
        "damaged: w0-000001.safetensors differs from its checksum; 2 samples: s2, s3" in out and "--repair" in out
    )
    code, out, _ = run("store", "check", root, "--json")
    body = json.loads(out)
    assert code == 1 and not body["ok"] and body["damages"][0]["ids"] == ["s2", "s3"]
    code, out, _ = run("store", "check", root, "--repair")
    assert code == 0 and "forgotten: 2 samples" in out
    assert run("store", "check", root)[0] == 0


def test_stats(run: Run, write: Callable[..., Path]) -> None:
    root = write("s", range(5))
    with StoreWriter(root, IDENTITY) as writer:
        writer.fail(Failure(id="bad", recording="seq_0", clip_index=9, question="What?", reason="no video"))
    code, out, _ = run("store", "stats", root)
    assert code == 0
    for words in (
        "video-llava (width 4)",
        "teacher-forced",
        "bf16",
        "10, 2 to 2 a sample",
        "seq_1",
        "1 x no video",
    ):
        assert words in out
    body = json.loads(run("store", "stats", root, "--json")[1])
    assert body["num_samples"] == 5 and body["recordings"] == {"seq_0": 3, "seq_1": 2}
    assert body["identity"]["vocab_size"] == 20


def test_merge(run: Run, write: Callable[..., Path], tmp_path: Path) -> None:
    a, b = write("a", range(3)), write("b", range(3, 5))
    code, out, err = run("store", "merge", a, b, tmp_path / "out")
    assert code == 0, err
    assert "5 samples of 2 recordings" in out
    refused(run("store", "merge", a, a, tmp_path / "other"), "both have sample 's0'")
    refused(run("store", "merge", a, b, tmp_path / "out"), "exists already")


def test_import(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "chunked"
    (root / "chunks").mkdir(parents=True)
    body = {
        "egpt_hidden": torch.ones(2, 3, 4), "vl_hidden": torch.ones(2, 3, 5), "seq_lens": torch.tensor([3, 2]),
        "metadata": [{"sample_idx": i, "question_idx": 0, "question": "What?"} for i in range(2)],
    }  # fmt: skip
    torch.save(body, root / "chunks" / "chunk_000000.pt")
    (root / "index.json").write_text(json.dumps({"chunks": [{"path": "chunk_000000.pt", "n_samples": 2}]}))
    torch.save({"lm_head_weight": torch.ones(7, 5)}, tmp_path / "head.pt")
    code, out, err = run(
        "store", "import", root, tmp_path / "out", "--head", tmp_path / "head.pt", "--dtype", "bf16"
    )
    assert code == 0, err
    assert "2 samples of 1 recordings, 0 failures" in out and "--dataset DIR" in err
    assert load_head(tmp_path / "out").shape == (7, 5)
    assert run("store", "check", tmp_path / "out")[0] == 0
    (root / "chunks" / "chunk_000000.pt").write_bytes(b"junk")
    refused(run("store", "import", root, tmp_path / "fresh"), "chunk_000000.pt", "refused")


def test_json_of_merge_and_import_is_one_document(run: Run, write: Callable[..., Path], tmp_path: Path) -> None:
    a, b = write("a", range(3)), write("b", range(3, 5))
    code, out, err = run("store", "merge", a, b, tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out) == {"store": str(tmp_path / "out"), "samples": 5, "recordings": 2, "failed": 0}
    code, out, err = run("store", "import", chunks(tmp_path / "c"), tmp_path / "in", "--json")
    assert code == 0, err
    assert json.loads(out)["samples"] == 1 and "--dataset DIR" in err


def chunks(root: Path, *, first: float = 1.0, question: str = "What?") -> Path:
    """One pair of states, of which the first value is ``first``."""
    (root / "chunks").mkdir(parents=True)
    hidden = torch.ones(1, 3, 5)
    hidden[0, 0, 0] = first
    body = {
        "egpt_hidden": torch.ones(1, 3, 4), "vl_hidden": hidden, "seq_lens": torch.tensor([3]),
        "metadata": [{"sample_idx": 0, "question_idx": 0, "question": question}],
    }  # fmt: skip
    torch.save(body, root / "chunks" / "a.pt")
    (root / "index.json").write_text(json.dumps({"chunks": [{"path": "a.pt", "n_samples": 1}]}))
    return root


def test_an_import_of_nothing_usable_is_no_success(run: Run, tmp_path: Path) -> None:
    refused(
        run("store", "import", chunks(tmp_path / "c", first=float("nan")), tmp_path / "s"),
        "nothing could be imported", "NaN",
    )  # fmt: skip


def test_an_import_with_a_head_that_does_not_fit_leaves_no_store(run: Run, tmp_path: Path) -> None:
    torch.save({"lm_head_weight": torch.ones(7, 9)}, tmp_path / "head.pt")
    result = run("store", "import", chunks(tmp_path / "c"), tmp_path / "s", "--head", tmp_path / "head.pt")
    refused(result, "head.pt: is [7, 9]", "must be [7, 5]")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("question", ["[/x] [bold]", "\ud800?", "naïve \u202e?"])
def test_odd_words_are_shown_as_they_are(run: Run, tmp_path: Path, question: str) -> None:
    assert run("store", "import", chunks(tmp_path / "c", question=question), tmp_path / "s")[0] == 0
    code, out, err = run("store", "stats", tmp_path / "s")
    assert code == 0, err
    assert question.encode("utf-8", "backslashreplace").decode() in out
    assert question in json.loads(run("store", "stats", tmp_path / "s", "--json")[1])["questions"]


def test_a_reader_that_goes_away_in_a_table(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise BrokenPipeError

    root = write("s", range(3))
    gone = io.TextIOWrapper(io.BufferedWriter(Gone(), 1), write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", gone)
        assert main(["store", "stats", str(root)]) == 0
        with contextlib.suppress(BrokenPipeError):
            gone.detach()


@pytest.mark.parametrize("verb", ["check", "stats"])
def test_an_index_that_is_a_folder(run: Run, write: Callable[..., Path], verb: str) -> None:
    root = write("s", range(3))
    (root / "index-w0.jsonl").unlink()
    (root / "index-w0.jsonl").mkdir()
    refused(run("store", verb, root), "index-w0.jsonl: cannot be read (Is a directory)")


@pytest.mark.parametrize(
    ("name", "value"),
    [("target", 5), ("event_model", None), ("config_hash", None), ("answers_hash", 3), ("has_tokens", "no"),
     ("control", ["x"])],
)  # fmt: skip
def test_a_damaged_identity(run: Run, write: Callable[..., Path], name: str, value: object) -> None:
    root = write("s", range(1))
    body = json.loads((root / "store.json").read_text())
    (root / "store.json").write_text(json.dumps({**body, name: value}))
    refused(run("store", "stats", root), "store.json: is damaged", name)


def test_a_folder_without_a_name(run: Run, write: Callable[..., Path], tmp_path: Path) -> None:
    """It would be the working directory."""
    refused(run("store", "merge", write("a", range(1)), ""), "name of the folder is empty")
    refused(run("store", "import", chunks(tmp_path / "c"), ""), "name of the folder is empty")
    refused(run("extract", "", "--data", tmp_path), "name of the folder is empty")


def test_a_file_where_the_store_should_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    refused(run("store", "import", chunks(tmp_path / "c"), tmp_path / "taken"), "File exists", "another folder")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("verb", ["check", "stats"])
def test_no_store(run: Run, tmp_path: Path, verb: str) -> None:
    refused(run("store", verb, tmp_path), "is no store of paired states")
