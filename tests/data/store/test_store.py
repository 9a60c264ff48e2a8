"""What is put into a store comes back; what does not belong there stays out."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.data.store import (
    Failure,
    PairedStates,
    Store,
    StoreIdentity,
    StoreWriter,
    config_hash,
    load_head,
    same_content,
    save_head,
)
from crossdraft.data.store.durable import cannot_write
from crossdraft.data.store.index import dump, parse, read_index

Make = Callable[..., Any]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def failure(number: int, reason: str = "the video is cut") -> Failure:
    return Failure(id=f"s{number:03d}", recording="rec_0", clip_index=0, question="What?", reason=reason)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    lengths=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    tapped=st.lists(st.integers(-3, 40), max_size=2, unique=True),
    top_k=st.integers(0, 3),
    has_tokens=st.booleans(),
    text=st.text(min_size=1),
    per_shard=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_what_is_written_is_read_back(
    dtype: Any, widths: Any, lengths: Any, tapped: Any, top_k: int, has_tokens: bool, text: str, per_shard: int,
    seed: int,
) -> None:  # fmt: skip
    noise = torch.Generator().manual_seed(seed)
    identity = StoreIdentity(
        target="t", event_model="e", target_width=widths[0], draft_width=widths[1], vocab_size=90,
        mode="free-running", dtype=dtype, config_hash="", tapped=tuple(tapped), top_k=top_k, has_tokens=has_tokens,
    )  # fmt: skip
    samples = []
    for number, (k, j) in enumerate(lengths):
        samples.append(
            PairedStates(
                id=f"{text}/{number}", recording=text, clip_index=number, question=text, target_text=text,
                target_states=torch.randn(k, widths[0], generator=noise, dtype=torch.float64),
                draft_states=torch.randn(widths[1], j, generator=noise).T,
                target_tokens=torch.randint(90, (k,), generator=noise) if has_tokens else None,
                draft_tokens=torch.randint(1000, (j,), generator=noise) if has_tokens else None,
                tapped={layer: torch.randn(k, widths[0], generator=noise) for layer in tapped},
                top_ids=torch.randint(90, (k, top_k), generator=noise) if top_k else None,
                top_log_probs=-torch.rand(k, top_k, generator=noise) if top_k else None,
            )
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(folder, identity, max_samples=per_shard) as writer:
            for sample in samples:
                writer.put(sample)
        store = Store.open(folder)
        assert store.identity == identity and len(store) == len(samples)
        for read, sample in zip(store, samples, strict=True):
            assert (read.id, read.recording, read.question) == (sample.id, text, text)
            assert (read.clip_index, read.target_text, read.draft_text) == (sample.clip_index, text, "")
            mine, theirs = sample.tensors(), read.tensors()
            assert mine.keys() == theirs.keys()
            for name, tensor in mine.items():
                wanted = tensor
                if name.endswith("states") or name.startswith("tapped"):
                    wanted = tensor.to(DTYPES[dtype])
                elif name == "top_ids":
                    wanted = tensor.int()
                assert theirs[name].dtype == wanted.dtype and torch.equal(theirs[name], wanted)


def test_access_by_place_by_id_and_by_recording(tmp_path: Path, write_store: Make, make_sample: Make) -> None:
    store = Store.open(write_store(tmp_path / "s", [9, 3, 0, 8, 1], per_shard=2))
    assert [sample.id for sample in store] == ["s000", "s001", "s003", "s008", "s009"]
    assert store[-1].id == "s009" and store["s003"].id == "s003" and "s003" in store and "s007" not in store
    assert torch.equal(store["s008"].draft_states, make_sample(8).draft_states.bfloat16())
    assert store.recordings == {"rec_0": (0, 1, 2), "rec_2": (3, 4)}
    with pytest.raises(DataError, match="has no sample 's007'"):
        store["s007"]
    with pytest.raises(IndexError):
        store[5]


def test_the_order_does_not_depend_on_the_workers(tmp_path: Path, write_store: Make) -> None:
    one = write_store(tmp_path / "one", range(9), per_shard=100)
    for prefix, numbers in (("b", [8, 1, 5]), ("a", [0, 7, 2, 6]), ("b", [3, 4])):
        write_store(tmp_path / "many", numbers, prefix=prefix, per_shard=2)
    assert [e.id for e in Store.open(one).entries] == [e.id for e in Store.open(tmp_path / "many").entries]
    assert same_content(one, tmp_path / "many")


def test_more_shards_than_are_kept_open(tmp_path: Path, write_store: Make, make_sample: Make) -> None:
    store = Store.open(write_store(tmp_path / "s", range(24), per_shard=1))
    for number in (*range(24), 0, 23, 5):
        read = store[f"s{number:03d}"]
        assert torch.equal(read.target_states, make_sample(number).target_states.bfloat16())


def test_a_store_without_samples(tmp_path: Path, identity: StoreIdentity) -> None:
    StoreWriter(tmp_path / "s", identity).close()
    store = Store.open(tmp_path / "s")
    assert len(store) == 0 and list(store) == [] and store.recordings == {}


def test_the_buffer_commits_by_itself(tmp_path: Path, identity: StoreIdentity, make_sample: Make) -> None:
    with StoreWriter(tmp_path / "s", identity, max_samples=2) as writer:
        assert writer.put(make_sample(0)) == () and writer.done_ids == set()
        assert writer.put(make_sample(1)) == ("s000", "s001") and writer.done_ids == {"s000", "s001"}
        assert writer.commit() == ()
    with StoreWriter(tmp_path / "s", identity, prefix="b", max_bytes=1) as writer:
        assert writer.put(make_sample(2)) == ("s002",)
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "s", identity) as writer:
        writer.put(make_sample(3))
        raise RuntimeError("the model broke")
    assert [e.id for e in Store.open(tmp_path / "s").entries] == ["s000", "s001", "s002"]


def test_the_buffer_holds_copies(tmp_path: Path, identity: StoreIdentity, make_sample: Make) -> None:
    sample = make_sample(0)
    before = sample.target_states.clone()
    with StoreWriter(tmp_path / "s", identity) as writer:
        writer.put(sample)
        sample.target_states.zero_()
    assert torch.equal(Store.open(tmp_path / "s")[0].target_states, before.bfloat16())


def test_failures_are_recorded_and_retried_on_request(
    tmp_path: Path, identity: StoreIdentity, make_sample: Make
) -> None:
    ids = ["s000", "s001", "s002"]
    with StoreWriter(tmp_path / "s", identity) as writer:
        writer.put(make_sample(0))
        writer.fail(failure(1))
    store = Store.open(tmp_path / "s")
    assert len(store) == 1 and store.failures == {"s001": failure(1)}
    with StoreWriter(tmp_path / "s", identity, prefix="other") as writer:
        assert writer.failures == {"s001": failure(1)}
        assert writer.remaining(ids) == ["s002"] and writer.remaining(ids, retry_failed=True) == ["s001", "s002"]
        writer.put(make_sample(1))
        with pytest.raises(DataError, match="cannot have failed"):
            writer.fail(failure(1))
        writer.fail(failure(2))
        writer.fail(failure(2, "again"))
        writer.commit()
        assert writer.failures == {"s002": failure(2, "again")}
    store = Store.open(tmp_path / "s")
    assert len(store) == 2 and store.failures == {"s002": failure(2, "again")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_states": torch.zeros(1, 7)}, r"target_states is bfloat16 \[1, 7\], must be bfloat16 \[1, 6\]"),
        ({"draft_states": torch.zeros(1, 6)}, "draft_states is"),
        ({"tapped": {1: torch.zeros(1, 6), -2: torch.zeros(2, 6)}}, "tapped.-2 is"),
        ({"tapped": {}}, "the store takes"),
        ({"top_ids": None}, "the store takes"),
        ({"top_log_probs": torch.zeros(1, 4)}, "top_log_probs is"),
        ({"target_tokens": torch.tensor([50])}, "outside the vocabulary of 50"),
        ({"target_tokens": torch.tensor([-1])}, "outside the vocabulary"),
        ({"target_tokens": torch.tensor([1, 2])}, "target_tokens is"),
        ({"target_tokens": torch.tensor([2**32])}, "must be token ids"),
        ({"target_tokens": torch.tensor([1.5])}, "must be token ids"),
        ({"target_states": torch.zeros(0, 6), "target_tokens": torch.zeros(0, dtype=torch.long)}, "no token"),
        ({"draft_states": torch.full((1, 4), float("nan"))}, "draft_states has NaN"),
        ({"target_states": torch.full((1, 6), float("inf"))}, "target_states has NaN or infinite"),
        ({"id": ""}, "empty id"),
        ({"recording": 7}, "recording is 7, must be text"),
        ({"clip_index": "3"}, "clip_index is '3'"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(
    tmp_path: Path, identity: StoreIdentity, make_sample: Make, changes: dict[str, Any], says: str
) -> None:
    with StoreWriter(tmp_path / "s", identity) as writer:
        with pytest.raises(DataError, match=says) as caught:
            writer.put(make_sample(0, **changes))
        assert "\n" not in str(caught.value)
        assert writer.commit() == ()
        writer.put(make_sample(0))  # nothing of the refused one stays behind


def test_states_too_large_for_half_precision(tmp_path: Path, make_identity: Make, make_sample: Make) -> None:
    identity = make_identity(dtype="fp16")
    with (
        StoreWriter(tmp_path / "s", identity) as writer,
        pytest.raises(DataError, match="beyond 65504 in fp16"),
    ):
        writer.put(make_sample(0, identity, target_states=torch.full((1, 6), 7e4)))


def test_nothing_is_doubled(tmp_path: Path, identity: StoreIdentity, make_sample: Make) -> None:
    with StoreWriter(tmp_path / "s", identity) as writer:
        writer.put(make_sample(0))
        with pytest.raises(DataError, match="'s000' is there already"):
            writer.put(make_sample(0))
    with (
        StoreWriter(tmp_path / "s", identity, prefix="b") as writer,
        pytest.raises(DataError, match="there already"),
    ):
        writer.put(make_sample(0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_width": 8}, "target_width 6 against 8"),
        ({"event_model": "other"}, "event_model 'event' against 'other'"),
        ({"mode": "free-running"}, "mode 'teacher-forced' against 'free-running'"),
        ({"config_hash": "b"}, "config_hash"),
        ({"tapped": (1,)}, "tapped"),
        ({"control": "shuffled", "config_hash": "b"}, "control 'none' against 'shuffled'"),
    ],
)
def test_a_store_of_another_pair_is_refused(
    tmp_path: Path, identity: StoreIdentity, make_identity: Make, changes: dict[str, Any], says: str
) -> None:
    StoreWriter(tmp_path / "s", identity).close()
    with pytest.raises(DataError, match=says):
        StoreWriter(tmp_path / "s", make_identity(**changes))
    StoreWriter(tmp_path / "s", identity).close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_width": 0}, "target_width of a store is 0"),
        ({"draft_width": 2.0}, "draft_width"),
        ({"top_k": 60}, "vocab_size"),
        ({"mode": "both"}, "mode of a store is 'both', must be one of: teacher-forced, free-running"),
        ({"dtype": "int8"}, "dtype"),
        ({"control": "mirrored"}, "control of a store is 'mirrored'"),
        ({"tapped": (1, 1)}, "different layer numbers"),
    ],
)
def test_an_identity_that_cannot_be(make_identity: Make, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        make_identity(**changes)


def test_a_store_of_before_there_were_controls_is_what_it_was(tmp_path: Path, make_identity: Make) -> None:
    StoreWriter(tmp_path / "s", make_identity()).close()
    body = json.loads((tmp_path / "s" / "store.json").read_text())
    assert "control" not in body and "answers_hash" not in body
    assert Store.open(tmp_path / "s").identity == make_identity(control="none", answers_hash="")
    known = make_identity(control="shuffled", answers_hash="a")
    StoreWriter(tmp_path / "control", known).close()
    assert Store.open(tmp_path / "control").identity == known


def test_an_empty_store_of_another_kind_may_go(
    tmp_path: Path, identity: StoreIdentity, make_identity: Make
) -> None:
    StoreWriter(tmp_path / "s", identity).close()
    with pytest.raises(DataError, match=r"an empty store of another kind \(top_k 3 against 2\); delete it or"):
        StoreWriter(tmp_path / "s", make_identity(top_k=2))
    with pytest.raises(DataError, match="other checkpoints or settings: config_hash c0ffee against badcafe0;?"):
        StoreWriter(tmp_path / "s", make_identity(config_hash="badcafe0123"))


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (errno.ENOSPC, "free some space"), (errno.EFBIG, "free some space"), (errno.EROFS, "make it writable"),
        (errno.EEXIST, "choose another folder"),
    ],
)  # fmt: skip
def test_the_cure_fits_the_cause(code: int, cure: str) -> None:
    assert cure in str(cannot_write(Path("s"), OSError(code, os.strerror(code))))


def test_one_writer_for_a_prefix(tmp_path: Path, identity: StoreIdentity) -> None:
    with StoreWriter(tmp_path / "s", identity):
        with pytest.raises(CrossdraftError, match="another process is writing as 'w0'"):
            StoreWriter(tmp_path / "s", identity)
        StoreWriter(tmp_path / "s", identity, prefix="w1").close()
    StoreWriter(tmp_path / "s", identity).close()
    with pytest.raises(SettingError, match="letters, digits and underscores"):
        StoreWriter(tmp_path / "s", identity, prefix="../w")
    with pytest.raises(SettingError, match="must be 1 or more"):
        StoreWriter(tmp_path / "s", identity, max_samples=0)


def test_a_writer_that_was_closed_says_so(tmp_path: Path, identity: StoreIdentity, make_sample: Make) -> None:
    writer = StoreWriter(tmp_path / "s", identity)
    writer.put(make_sample(0))
    writer.close()
    writer.close()
    with pytest.raises(CrossdraftError, match="open the store again"):
        writer.commit()


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no store of paired states"):
        Store.open(tmp_path / "none")
    (tmp_path / "store.json").write_text('{"schema": 1, "kind": "paired-states", "target": "t"}')
    with pytest.raises(DataError, match="is damaged"):
        Store.open(tmp_path)
    (tmp_path / "store.json").write_text('{"schema": 1, "kind": "probe"}')
    with pytest.raises(DataError, match="is not a 'paired-states' record"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is no store"):
        Store.open(tmp_path / "file")


def test_a_missing_shard_is_named(tmp_path: Path, write_store: Make, identity: StoreIdentity) -> None:
    root = write_store(tmp_path / "s", range(6))
    (root / "w0-000001.safetensors").unlink()
    for opening in (lambda: Store.open(root), lambda: StoreWriter(root, identity)):
        with pytest.raises(DataError, match=r"w0-000001.safetensors: missing.*check .* --repair"):
            opening()


def test_a_shard_of_another_folder_is_not_touched(tmp_path: Path, write_store: Make) -> None:
    root = write_store(tmp_path / "s", range(2))
    index = root / "index-w0.jsonl"
    line = parse(index.read_bytes().splitlines()[0])
    (tmp_path / "w9-000000.safetensors").write_bytes(b"")
    index.write_bytes(dump(type(line)(**{**line.__dict__, "shard": "../w9-000000.safetensors"})))
    with pytest.raises(DataError, match="no shard of this folder"):
        Store.open(root)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw.replace(b"What?", b"Whet?"),
        lambda raw: raw.replace(b'"row": ', b'"row": 1'),
        lambda raw: b"\0" * len(raw[:-1]) + b"\n",
        lambda raw: b"[" * 100_000 + b"\n",
        lambda raw: b"\xff\xfe\n",
    ],
    ids=["text", "number", "zeros", "nested", "bytes"],
)
def test_a_damaged_line_is_named_and_a_torn_end_is_not_missed(
    tmp_path: Path, write_store: Make, spoil: Callable[[bytes], bytes]
) -> None:
    root = write_store(tmp_path / "s", range(3))
    index = root / "index-w0.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(spoil(lines[0]) + b"".join(lines[1:]))
    with pytest.raises(DataError, match=r"index-w0.jsonl: line 1 is damaged; run: crossdraft store check"):
        Store.open(root)
    # at the end, only an append that did not finish looks so: it was never acknowledged
    index.write_bytes(lines[0] + lines[1] + spoil(lines[2]))
    assert [e.id for e in Store.open(root).entries] == ["s000", "s001"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), junk=st.binary(max_size=20))
def test_any_cut_of_an_index_leaves_its_whole_lines(cut: int, junk: bytes) -> None:
    lines = [dump(failure(number)) for number in range(4)]
    whole = b"".join(lines)
    cut %= len(whole) + 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index-w0.jsonl"
        path.write_bytes(whole[:cut] + junk)
        index = read_index(path)
    kept = next(n for n in range(4, -1, -1) if len(b"".join(lines[:n])) <= cut)
    if junk != whole[cut : cut + len(junk)]:
        assert index.lines == tuple(failure(number) for number in range(kept))
        assert index.whole_bytes == len(b"".join(lines[:kept])) and not index.damaged


def test_states_that_are_not_finite_name_sample_and_shard(tmp_path: Path, write_store: Make) -> None:
    """The checksum is right, so they were written so: by another program."""
    root = write_store(tmp_path / "s", range(3))
    shard, index = root / "w0-000000.safetensors", root / "index-w0.jsonl"
    tensors = load_file(shard)
    tensors["1.draft_states"][0, 0] = float("nan")
    data = save(tensors)
    shard.write_bytes(data)
    lines = [parse(raw) for raw in index.read_bytes().splitlines()]
    digest = hashlib.sha256(data).hexdigest()
    index.write_bytes(b"".join(dump(type(line)(**{**line.__dict__, "sha256": digest})) for line in lines))
    store = Store.open(root)
    assert store[0].id == "s000" and store[2].id == "s002"
    with pytest.raises(DataError, match=r"sample 's001' in .*w0-000000.safetensors: draft_states has NaN"):
        store[1]


def test_a_cut_shard_is_one_line(tmp_path: Path, write_store: Make) -> None:
    root = write_store(tmp_path / "s", range(3))
    shard = root / "w0-000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"sample 's000' in .*cannot be read .*run: crossdraft store check"):
        Store.open(root)[0]


def test_a_shard_of_other_widths_is_one_line(tmp_path: Path, write_store: Make, make_identity: Make) -> None:
    root = write_store(tmp_path / "s", range(3))
    other = write_store(tmp_path / "other", range(3), identity=make_identity(target_width=7))
    os.replace(other / "w0-000000.safetensors", root / "w0-000000.safetensors")
    with pytest.raises(DataError, match=r"target_states is bfloat16 \[1, 7\], must be bfloat16 \[1, 6\]"):
        Store.open(root)[0]


def test_content_is_compared_byte_for_byte(tmp_path: Path, make_identity: Make, make_sample: Make) -> None:
    identity = make_identity(dtype="fp32", tapped=(), top_k=0)

    def write(name: str, **changes: Any) -> Path:
        with StoreWriter(tmp_path / name, identity) as writer:
            writer.put(make_sample(0, identity, **changes))
        return tmp_path / name

    zeros = torch.zeros(1, 6)
    one = write("one", target_states=zeros)
    assert same_content(one, write("same", target_states=zeros))
    assert not same_content(one, write("sign", target_states=-zeros))
    assert not same_content(one, write("text", target_states=zeros, question="Which?"))
    assert not same_content(one, write("id", target_states=zeros, id="other"))


def test_the_target_head_is_kept_beside_the_states(tmp_path: Path, identity: StoreIdentity) -> None:
    StoreWriter(tmp_path / "s", identity).close()
    with pytest.raises(DataError, match="has no target_head.safetensors"):
        load_head(tmp_path / "s")
    weight = torch.randn(50, 6)
    save_head(tmp_path / "s", weight, "somewhere")
    assert torch.equal(load_head(tmp_path / "s"), weight)
    assert len(Store.open(tmp_path / "s")) == 0
    with pytest.raises(DataError, match=r"is \[50, 7\], must be \[50, 6\]"):
        save_head(tmp_path / "s", torch.randn(50, 7))
    with pytest.raises(DataError, match="no finite numbers"):
        save_head(tmp_path / "s", weight / 0)
    (tmp_path / "s" / "target_head.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match="is damaged"):
        load_head(tmp_path / "s")


def test_a_configuration_is_known_by_its_values() -> None:
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1}) != config_hash({"a": 2, "b": [2]})
    assert len(config_hash({})) == 64


def test_the_index_can_be_read_without_us(tmp_path: Path, write_store: Make) -> None:
    root = write_store(tmp_path / "s", range(2))
    for raw in (root / "index-w0.jsonl").read_text().splitlines():
        line = json.loads(raw)
        assert hashlib.sha256((root / line["shard"]).read_bytes()).hexdigest() == line["sha256"]
        assert {"id", "recording", "clip_index", "question", "num_target_tokens"} <= line.keys()
