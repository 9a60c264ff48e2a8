"""``crossdraft store``: check, count, merge and import stores of paired states."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from crossdraft.cli import output
from crossdraft.core.errors import DataError

if TYPE_CHECKING:
    from crossdraft.data.store import Store


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("store", help="look after stores of paired states")
    verbs = command.add_subparsers(dest="verb", metavar="VERB", required=True)

    check = verbs.add_parser("check", help="compare every shard with its checksum; exit code 1 if one is damaged")
    check.add_argument("store", metavar="DIR")
    check.add_argument(
        "--repair", action="store_true", help="forget the damaged samples, so that extracting again makes them anew"
    )
    check.add_argument("--json", action="store_true", help="machine-readable")
    check.set_defaults(run=run_check)

    stats = verbs.add_parser("stats", help="samples, tokens, recordings, questions, failures")
    stats.add_argument("store", metavar="DIR")
    stats.add_argument("--json", action="store_true", help="machine-readable")
    stats.set_defaults(run=run_stats)

    merge = verbs.add_parser("merge", help="several stores of one pair into a new one")
    merge.add_argument("sources", nargs="+", metavar="DIR")
    merge.add_argument("out", metavar="OUT", type=output.folder, help="the new store")
    merge.add_argument("--json", action="store_true", help="machine-readable")
    merge.set_defaults(run=run_merge)

    chunks = verbs.add_parser("import", help="chunks of the EventGPT study (index.json and chunks/*.pt)")
    chunks.add_argument("chunks", metavar="CHUNKS")
    chunks.add_argument(
        "out", metavar="OUT", type=output.folder, help="the store: made, or continued after a break"
    )
    chunks.add_argument("--head", metavar="FILE", help="vl_lm_head.pt, the target's output head")
    chunks.add_argument(
        "--dataset", metavar="DIR", help="the data set, to group the samples by recording (else: one unknown one)"
    )
    chunks.add_argument(
        "--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: fp32, as they are"
    )
    chunks.add_argument("--json", action="store_true", help="machine-readable")
    chunks.set_defaults(run=run_import)


def run_check(args: argparse.Namespace) -> int:
    """Print what is damaged; exit code 1 when something is and stays so."""
    from crossdraft.data.store import check, repair

    with output.progress(args.json) as report:
        found = (repair if args.repair else check)(args.store, report)
    if args.json:
        output.print_json({"ok": found.ok, "repaired": args.repair, **dataclasses.asdict(found)})
        return 0 if found.ok or args.repair else 1
    for damage in found.damages:
        ids = f"; {len(damage.ids)} samples: {', '.join(damage.ids)}" if damage.ids else ""
        print(f"damaged: {damage.file} {damage.reason}{ids}")
    for name in found.unfinished:
        print(f"unfinished: {name}")
    state = "all whole" if found.ok else f"{len(found.damages)} damaged"
    print(f"{args.store}: {found.shards} shards, {found.samples} samples, {found.failures} failures; {state}")
    if found.ok:
        return 0
    if args.repair:
        print(
            f"forgotten: {len(found.damaged_ids)} samples; extract again with the same settings to make them anew"
        )
        return 0
    print(f"to make them anew: crossdraft store check {args.store} --repair, then extract again")
    return 1


def run_stats(args: argparse.Namespace) -> int:
    """Print the counts."""
    from crossdraft.data.store import stats

    found = stats(args.store)
    if args.json:
        output.print_json(dataclasses.asdict(found))
        return 0
    identity = found.identity
    output.print_facts(
        {
            "pair": f"{identity.target} (width {identity.target_width}), "
            f"{identity.event_model} (width {identity.draft_width})",
            "mode": identity.mode if identity.control == "none" else f"{identity.mode}, events {identity.control}",
            "states": f"{identity.dtype}, {found.size_bytes / 1e6:.1f} MB in {found.num_shards} shards",
            "samples": str(found.num_samples),
            "target tokens": _lengths(found.num_target_tokens, found.target_lengths),
            "draft tokens": _lengths(found.num_draft_tokens, found.draft_lengths),
            "recordings": str(len(found.recordings)),
            "questions": str(len(found.questions)),
            "failures": str(sum(found.failures.values())),
        }
    )
    for title, counts in (("recordings", found.recordings), ("questions", found.questions)):
        if counts:
            output.print_table(title, (title[:-1], "samples"), [(name, str(n)) for name, n in counts.items()])
    for reason, count in found.failures.items():
        print(f"failed: {count} x {reason}")
    return 0


def _lengths(total: int, spread: tuple[int, float, int] | None) -> str:
    return f"{total}, {spread[0]} to {spread[2]} a sample, median {spread[1]:g}" if spread else str(total)


def run_merge(args: argparse.Namespace) -> int:
    """Merge."""
    from crossdraft.data.store import merge

    with output.progress(args.json) as report:
        store = merge(args.sources, args.out, report)
    if args.json:
        output.print_json(_counts(args.out, store))
    else:
        print(f"{args.out}: {len(store)} samples of {len(store.recordings)} recordings")
    return 0


def _counts(out: str, store: "Store") -> dict[str, str | int]:
    recordings, failed = len(store.recordings), len(store.failures)
    return {"store": out, "samples": len(store), "recordings": recordings, "failed": failed}


def run_import(args: argparse.Namespace) -> int:
    """Import the chunks."""
    from crossdraft.data.store import import_chunks

    with output.progress(args.json) as report:
        store = import_chunks(
            args.chunks, args.out, head=args.head, dataset=args.dataset, dtype=args.dtype, progress=report
        )
    if args.json:
        output.print_json(_counts(args.out, store))
    else:
        found = f"{len(store)} samples of {len(store.recordings)} recordings, {len(store.failures)} failures"
        print(f"{args.out}: {found}")
    if store.failures and not len(store):
        reason = next(iter(store.failures.values())).reason
        raise DataError(f"{args.out}: nothing could be imported; the first reason: {reason}")
    if args.dataset is None:
        output.say(
            "the recordings are unknown, so the data cannot be split by recording; name the set: --dataset DIR"
        )
    return 0
