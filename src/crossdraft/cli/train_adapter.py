"""``crossdraft train adapter``: learn to map the event model's states to the target's, from a store of both."""

import argparse
from typing import Any

from crossdraft.cli import output
from crossdraft.core.errors import SettingError


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft train``."""
    adapter = verbs.add_parser("adapter", help="train an adapter on a store of paired states")
    adapter.add_argument("level", metavar="LEVEL", help="which adapter; see 'crossdraft list'")
    adapter.add_argument("--store", metavar="DIR", required=True, help="what 'crossdraft extract' wrote")
    adapter.add_argument("--out", metavar="DIR", required=True, help="result; run again to go on")
    source = adapter.add_mutually_exclusive_group()
    source.add_argument("--head", metavar="FILE", help="the target's output head (default: the store's own)")
    source.add_argument("--target", metavar="DIR|nano", help="read head and embeddings from the target itself")
    adapter.add_argument(
        "--loss", default="tokens", metavar="LOSS",
        help="tokens (default: for acceptance), study (the level's own), or weights as smooth_l1=1,kl=0.5",
    )  # fmt: skip
    adapter.add_argument(
        "--position-decay", type=float, metavar="X", help="position t counts X^t (default: as in the loss)"
    )
    adapter.add_argument("--epochs", type=int, default=50, metavar="N", help="at most (default: 50)")
    adapter.add_argument("--batch", type=int, default=64, metavar="N", help="samples (default: 64)")
    adapter.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches a step (default: 1)")
    adapter.add_argument("--lr", type=float, default=1e-3, metavar="X", help="peak learning rate (default: 1e-3)")
    adapter.add_argument(
        "--patience", type=int, default=10, metavar="N", help="epochs without a better held-out loss (default: 10)"
    )
    adapter.add_argument(
        "--validation", type=float, default=0.1, metavar="X", help="share of the recordings held out (default: 0.1)"
    )
    adapter.add_argument("--dtype", default="float32", help="of the computation: float32 (default) or bfloat16")
    adapter.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    adapter.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")
    adapter.add_argument("--seed", type=int, default=0, metavar="N")
    adapter.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the level; may be repeated"
    )
    adapter.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    adapter.add_argument("--json", action="store_true", help="print the record instead of text")
    adapter.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, or go on where an interrupted run stopped."""
    settings = dict(map(setting, args.set))
    from dataclasses import replace

    from crossdraft import build, runs
    from crossdraft.adapters import ADAPTERS
    from crossdraft.core.registry import find
    from crossdraft.nn.losses import named_loss
    from crossdraft.training.adapters import AdapterTraining
    from crossdraft.training.ranks import join

    build.set_threads(args.threads)
    loss = named_loss(args.loss, find("adapter", ADAPTERS, args.level).study_loss)
    if args.position_decay is not None:
        loss = replace(loss, position_decay=args.position_decay)
    config = AdapterTraining(
        level=args.level, settings=settings, loss=loss, epochs=args.epochs, batch=args.batch,
        accumulate=args.accumulate, peak_lr=args.lr, patience=args.patience, validation=args.validation,
        seed=args.seed, dtype=args.dtype, device=build.pick_device(args.device),
    )  # fmt: skip
    first = join(config.device).first  # of several launched processes only one tells
    with output.progress(args.json or not first) as report:
        record = runs.train_on_store(
            args.store, args.out, config, head=args.head, target=args.target, restart=args.restart, report=report,
            note=output.say if first else lambda line: None,
        )  # fmt: skip
    if not first:
        return 0
    if args.json:
        output.print_json(record)
        return 0
    for line in _lines(args.out, record):
        print(line)
    if record["sees_its_target"]:
        output.say(f"{args.level} reads the very state that it is judged by: its figures say nothing of drafting")
    return 0


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE; true, false and numbers as such. SettingError."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise SettingError(f"--set is '{text}', must be NAME=VALUE, as num_heads=4")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _lines(out: str, record: dict[str, Any]) -> list[str]:
    best = record["epochs"][record["best_epoch"] - 1]
    recordings = {
        side: f"{len(names)} recording{'s' * (len(names) != 1)}" for side, names in record["recordings"].items()
    }
    held_out = f"cos {best['held_out_cos']:.3f}"
    if best["held_out_run"] is not None:
        held_out += f", target's token {best['held_out_top1']:.1%}, leading matches {best['held_out_run']:.2f}"
    return [
        f"{out}: {record['level']}, {record['parameters']:,} parameters, on {record['num_samples']} "
        f"{record['trained_on']} answers of {recordings['train']}; best epoch {record['best_epoch']} of "
        f"{len(record['epochs'])} (ended by {record['ended_by']}), {record['seconds']:.0f} s",
        f"held out, {record['num_validation_samples']} answers of {recordings['validation']}: {held_out}",
    ]
