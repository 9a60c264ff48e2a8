"""``crossdraft train distil``: teach the event model the target's phrasing."""

import argparse
from typing import TYPE_CHECKING

from crossdraft.cli import output
from crossdraft.cli.extract import add_source

if TYPE_CHECKING:
    from torch import Tensor

    from crossdraft.data.store import Store


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft train``."""
    distil = verbs.add_parser("distil", help="teach the event model to speak as the target does")
    distil.add_argument(
        "--store", metavar="DIR", required=True, help="teacher-forced store of the target's answers"
    )
    add_source(distil)
    distil.add_argument("--out", metavar="DIR", required=True, help="result; run again to go on")
    distil.add_argument(
        "--event-model", default="nano", metavar="DIR|nano", help="the EventGPT to teach (default: nano)"
    )
    distil.add_argument("--lora", action="store_true", help="a low-rank change (L6) instead of all weights")
    distil.add_argument(
        "--loss", choices=("tokens", "states"), default="tokens",
        help="tokens (default), or the study's of states, through a projection and the target's head (with --lora)",
    )  # fmt: skip
    distil.add_argument("--epochs", type=int, default=20, metavar="N", help="at most (default: 20)")
    distil.add_argument("--minutes", type=float, metavar="M", help="of training at most (default: no limit)")
    distil.add_argument("--lr", type=float, metavar="X", help="peak learning rate (default: 5e-4; --lora 1e-4)")
    distil.add_argument("--batch", type=int, default=16, metavar="N", help="clips a step (default: 16)")
    distil.add_argument(
        "--target", metavar="DIR|nano",
        help="the target, whose output head is read where the store keeps neither it nor log-probabilities",
    )  # fmt: skip
    distil.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="of the passes (default: auto)"
    )
    distil.add_argument("--device", default="cpu", help="cpu (default), cuda or auto")
    distil.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    distil.add_argument("--seed", type=int, default=0, metavar="S")
    distil.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    distil.add_argument("--json", action="store_true", help="print the record instead of text")
    distil.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, or go on where an interrupted run stopped."""
    from crossdraft import build
    from crossdraft.data.store import Store
    from crossdraft.extraction.jobs import find_jobs
    from crossdraft.training.distil import DistilTraining, distil

    build.set_threads(args.threads)
    device = build.pick_device(args.device)
    config = DistilTraining(
        mode="l6" if args.lora else "full", loss=args.loss, epochs=args.epochs, minutes=args.minutes,
        peak_lr=args.lr, batch=args.batch, seed=args.seed,
        dtype=build.training_dtype(args.dtype, device),
    )  # fmt: skip
    store = Store.open(args.store)
    jobs = find_jobs(args.data, args.manifest, split=args.split, sensor=args.sensor, questions=args.questions)
    with output.progress(args.json) as report:
        record = distil(
            build.resolve(args.event_model, "event"), store, jobs, args.out, config,
            head=_head(store, args.target), report=report,
            device=device, resume=not args.restart, note=output.say,
        )  # fmt: skip
    assert record is not None
    if args.json:
        output.print_json(record)
        return 0
    print(f"{args.out}: {record['name']}, {record['num_samples']} answers, {record['num_tokens']} tokens")
    rows = [
        (f"{when}, {whose} clip's events", f"{marks['loss']:.3f}", f"{marks['top1']:.1%}", f"{marks['run']:.2f}")
        for when in ("before", "after")
        for whose, marks in record[when].items()
    ]
    held_out = len(record["recordings"]["validation"])
    output.print_table(
        f"{record['num_validation_samples']} answers of {held_out} held-out recordings",
        ("", "loss", "target's token first", "leading matches"), rows,
    )  # fmt: skip
    return 0


def _head(store: "Store", target: str | None) -> "Tensor | None":
    """The target's output head, (V, Dt): the store's own, else the target's; None where neither is known."""
    from crossdraft.build import resolve
    from crossdraft.data.store.head import kept_head
    from crossdraft.models.ends import read_ends

    if (head := kept_head(store.root)) is not None or target is None:
        return head
    return read_ends(resolve(target, "target")).head
