"""Paired states on disk: what target and event model computed for a clip and a question, to train adapters on.

    with StoreWriter(folder, identity, prefix="w0") as writer:        # makes a store or goes on with one
        for sample_id in writer.remaining(all_ids):
            writer.put(PairedStates(...))                              # or writer.fail(Failure(...))
    store = Store.open(folder)
    store[0], store["id"], store.recordings, len(store)                # lazy: shards are mapped, not read
    check(folder), repair(folder), stats(folder), merge([a, b], out), same_content(a, b)
    import_chunks(chunks, folder, head="vl_lm_head.pt")                # torch pickles of the earlier pipeline

    folder/store.json                    identity: the pair, widths, mode, dtype, configuration
    folder/index-PREFIX.jsonl            one line for each sample, committed or failed
    folder/PREFIX-000000.safetensors     shards; every worker writes its own prefix
    folder/target_head.safetensors       the target's output head, where known

A shard is written under a temporary name, synced, renamed, its folder synced, and only then named by the index,
which is synced in turn. So whatever a line of an index names is whole, a crash at any moment leaves at most files
that no line names, and going on removes those of its own prefix.
"""

from crossdraft.data.store.chunks import import_chunks
from crossdraft.data.store.head import load_head, read_head, save_head
from crossdraft.data.store.health import CheckReport, Damage, StoreStats, check, repair, stats
from crossdraft.data.store.index import Entry, Failure
from crossdraft.data.store.merging import merge, same_content
from crossdraft.data.store.reader import Store
from crossdraft.data.store.sample import Control, DType, Mode, PairedStates, StoreIdentity, config_hash
from crossdraft.data.store.writer import StoreWriter

__all__ = [
    "CheckReport",
    "Control",
    "DType",
    "Damage",
    "Entry",
    "Failure",
    "Mode",
    "PairedStates",
    "Store",
    "StoreIdentity",
    "StoreStats",
    "StoreWriter",
    "check",
    "config_hash",
    "import_chunks",
    "load_head",
    "merge",
    "read_head",
    "repair",
    "same_content",
    "save_head",
    "stats",
]
