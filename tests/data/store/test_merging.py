"""Several stores become one, whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.data.store import (
    Failure,
    Store,
    StoreIdentity,
    StoreWriter,
    load_head,
    merge,
    same_content,
    save_head,
)

Make = Callable[..., Any]


def test_merged_is_the_same_as_written_at_once(tmp_path: Path, write_store: Make) -> None:
    parts = [write_store(tmp_path / name, range(*span)) for name, span in (("b", (5, 9)), ("a", (0, 5)))]
    told: list[int] = []
    store = merge(parts, tmp_path / "out", lambda what, done, total: told.append(done))
    assert told == list(range(1, 10)) and len(store) == 9
    assert same_content(tmp_path / "out", write_store(tmp_path / "whole", range(9)))
    assert same_content(parts[0], write_store(tmp_path / "again", range(5, 9))), "the sources stay as they are"


def test_failures_and_head_come_along(tmp_path: Path, write_store: Make, identity: StoreIdentity) -> None:
    a, b = write_store(tmp_path / "a", range(2)), write_store(tmp_path / "b", range(2, 4))
    with StoreWriter(a, identity) as writer:
        for name in ("s002", "s009"):
            writer.fail(Failure(id=name, recording="r", clip_index=0, question="?", reason="no video"))
    weight = torch.randn(50, 6)
    save_head(b, weight)
    store = merge([a, b], tmp_path / "out")
    assert list(store.failures) == ["s009"], "s002 was made elsewhere"
    assert torch.equal(load_head(tmp_path / "out"), weight)
    save_head(a, -weight)
    with pytest.raises(DataError, match="different target heads"):
        merge([a, b], tmp_path / "other")


def test_what_cannot_be_merged(tmp_path: Path, write_store: Make, make_identity: Make) -> None:
    a = write_store(tmp_path / "a", range(3))
    b = write_store(tmp_path / "b", range(2, 4))
    c = write_store(tmp_path / "c", range(5, 6), identity=make_identity(dtype="fp32"))
    with pytest.raises(DataError, match="both have sample 's002'"):
        merge([a, b], tmp_path / "out")
    with pytest.raises(DataError, match="different kinds .dtype 'bf16' against 'fp32'"):
        merge([a, c], tmp_path / "out")
    with pytest.raises(CrossdraftError, match="exists already"):
        merge([a], b)
    with pytest.raises(DataError, match="is no store"):
        merge([a, tmp_path / "none"], tmp_path / "out")
    with pytest.raises(SettingError, match="nothing to merge"):
        merge([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_merged_leaves_nothing(tmp_path: Path, write_store: Make) -> None:
    a, b = write_store(tmp_path / "a", range(3)), write_store(tmp_path / "b", range(3, 6))
    shard = next(b.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(DataError, match="cannot be read"):
        merge([a, b], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("step", range(3, 30, 4))
def test_a_death_while_merging(
    tmp_path: Path, write_store: Make, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The child dies at the ``step``-th sync or rename, wherever that is; merging again gives the whole."""
    parts = [write_store(tmp_path / "a", range(0, 5)), write_store(tmp_path / "b", range(5, 9))]
    count = iter(range(10**6))

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(count) == step:
                os._exit(9)
            return original(*args)

        return call

    pid = os.fork()
    if pid == 0:
        try:
            for name in ("fsync", "rename", "replace"):
                monkeypatch.setattr(os, name, mortal(getattr(os, name)))
            merge(parts, tmp_path / "out")
        finally:
            os._exit(0)
    died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    if not (tmp_path / "out").exists():
        assert died
        merge(parts, tmp_path / "out")
    assert same_content(tmp_path / "out", write_store(tmp_path / "whole", range(9)))
    assert len(Store.open(tmp_path / "out")) == 9
