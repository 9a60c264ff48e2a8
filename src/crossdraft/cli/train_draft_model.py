"""``crossdraft train draft-model``: a small draft model out of the target's own layers."""

import argparse

from crossdraft.cli import output
from crossdraft.cli.train_head import corpus_options
from crossdraft.core.errors import SettingError


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft train``."""
    verb = verbs.add_parser("draft-model", help="train a draft model of a few of the target's own layers")
    corpus_options(verb)
    verb.add_argument(
        "--layers", metavar="N|I,J,...", default="4",
        help="so many of the target's layers, from both ends, or these, counted from 0 (default: 4)",
    )  # fmt: skip
    verb.add_argument("--out", metavar="DIR", required=True, help="the new checkpoint; run again to go on")
    verb.add_argument("--epochs", type=int, default=3, metavar="N", help="at most (default: 3)")
    verb.add_argument("--minutes", type=float, metavar="X", help="end after so long (default: no limit)")
    verb.add_argument("--batch", type=int, default=8, metavar="N", help="answers of a step (default: 8)")
    verb.add_argument("--lr", type=float, default=5e-4, metavar="X", help="peak learning rate (default: 5e-4)")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, or go on where an interrupted run stopped."""
    from crossdraft import build, runs
    from crossdraft.models import decoder_config
    from crossdraft.training.draft_model import DraftModelTraining, outer_layers

    numbers = _numbers(args.layers)
    deep = decoder_config(build.resolve(args.target, "target")).num_layers
    build.set_threads(args.threads)
    layers = numbers if "," in args.layers else outer_layers(deep, numbers[0])
    device = build.pick_device(args.device)
    config = DraftModelTraining(
        layers=layers, epochs=args.epochs, minutes=args.minutes, batch=args.batch, peak_lr=args.lr, seed=args.seed,
        dtype=build.training_dtype(args.dtype, device), processes=args.processes, device=device,
    )  # fmt: skip
    with output.progress(args.json) as report:
        record = runs.train_on_corpus(
            args.target, args.data, args.out, config, clips=args.clips, held_out=args.held_out,
            validation=args.validation, online=args.online, restart=args.restart, report=report, note=output.say,
        )  # fmt: skip
    if args.json:
        output.print_json(record)
        return 0
    held = record["held_out"]
    print(
        f"{args.out}: layers {', '.join(map(str, record['layers']))} of {record['target']}, "
        f"{record['parameters']:,} trained parameters, {record['trained_tokens']:,} tokens of "
        f"{record['num_answers']} answers (ended by {record['ended_by']}), {record['seconds']:.0f} s"
    )
    print(
        f"held out, {record['num_held_out']} answers: {held['top1']:.1%} of the target's tokens; simulated tau "
        f"{held['tau']:.2f} of chains of {record['config']['length']}; use it: --draft-model {args.out}"
    )
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.rstrip(",").split(","))
    except ValueError:
        raise SettingError(f"--layers is '{text}', must be a number, or numbers of layers with commas") from None
