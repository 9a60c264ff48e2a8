"""Several stores into one, and whether two stores hold the same."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.data.store.durable import cannot_write, sync_folder, write_durably
from crossdraft.data.store.head import HEAD_FILE, load_head
from crossdraft.data.store.health import Progress, silent
from crossdraft.data.store.reader import Store
from crossdraft.data.store.writer import StoreWriter


def merge(sources: Sequence[str | Path], out: str | Path, progress: Progress = silent) -> Store:
    """Copy the samples of ``sources``, and their failures, into the new store ``out``.

    ``out`` appears when it is whole: after a crash there is none, and merging again starts anew.
    Raises DataError for sources that are no stores, of different identities, with different heads, or that share
    an id; CrossdraftError when ``out`` exists already or the disk is full; SettingError without sources.
    """
    stores, out = [Store.open(source) for source in sources], Path(out)
    _check_alike(stores)
    if out.exists():
        raise CrossdraftError(f"{out}: exists already; merge into a new folder")
    head, partial = _common_head(stores), out.with_name(f".{out.name}.merging")
    done, total = 0, sum(map(len, stores))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with StoreWriter(partial, stores[0].identity, prefix="merged") as writer:
            for sample in (sample for store in stores for sample in store):
                writer.put(sample)
                done += 1
                progress("merging", done, total)
            for failure in (f for store in stores for f in store.failures.values()):
                if not any(failure.id in store for store in stores):
                    writer.fail(failure)
        if head is not None:
            write_durably(partial / HEAD_FILE, head.read_bytes())
        os.rename(partial, out)
        sync_folder(out.parent)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Store.open(out)


def _check_alike(stores: Sequence[Store]) -> None:
    if not stores:
        raise SettingError("there is nothing to merge; name one store or more")
    owners: dict[str, Path] = {}
    for store in stores:
        if difference := stores[0].identity.difference(store.identity):
            raise DataError(f"{stores[0].root} and {store.root} are stores of different kinds ({difference})")
        for entry in store.entries:
            if entry.id in owners:
                raise DataError(
                    f"{owners[entry.id]} and {store.root} both have sample '{entry.id}'; ids must differ"
                )
            owners[entry.id] = store.root


def _common_head(stores: Sequence[Store]) -> Path | None:
    """The head's file, where one of the stores has it. DataError when two have different ones."""
    roots = [store.root for store in stores if (store.root / HEAD_FILE).is_file()]
    if not roots:
        return None
    first = load_head(roots[0])
    for other in roots[1:]:
        if not _same_bytes(first, load_head(other)):
            raise DataError(f"{roots[0]} and {other} have different target heads; they are not of one target")
    return roots[0] / HEAD_FILE


def same_content(one: str | Path, other: str | Path) -> bool:
    """Whether two stores have the same identity, ids, texts, failures and tensors, byte for byte.

    How the samples lie in shards, who wrote them and when does not matter. DataError when one cannot be read.
    """
    a, b = Store.open(one), Store.open(other)
    if a.identity != b.identity or a.failures != b.failures:
        return False
    if [entry.about() for entry in a.entries] != [entry.about() for entry in b.entries]:
        return False
    for x, y in zip(a, b, strict=True):
        mine, theirs = x.tensors(), y.tensors()
        if any(not _same_bytes(tensor, theirs[name]) for name, tensor in mine.items()):
            return False
    return True


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    # as bytes: -0.0 and 0.0 are different contents, though equal numbers
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
