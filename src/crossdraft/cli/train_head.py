"""``crossdraft train head``: a drafting head for a target, taught with that target's own answers."""

import argparse
from typing import Any

from crossdraft.cli import output
from crossdraft.cli.train_adapter import setting

JOINT = "medusa2"


def corpus_options(verb: argparse.ArgumentParser) -> None:
    """Options of every training on a target's own answers."""
    verb.add_argument("--target", metavar="DIR|nano", required=True, help="the model it shall draft for")
    verb.add_argument(
        "--data", metavar="CORPUS", required=True, action="append",
        help="the target's answers: what 'crossdraft data answers' wrote; may be repeated",
    )  # fmt: skip
    verb.add_argument(
        "--clips", metavar="DIR", help="the data set whose clips the answers are about (video targets)"
    )
    verb.add_argument("--held-out", metavar="CORPUS", help="other answers to judge by (default: a share of --data)")
    verb.add_argument(
        "--validation", type=float, default=0.05, metavar="X", help="share of the groups held out (default: 0.05)"
    )
    verb.add_argument(
        "--online", action="store_true", help="compute the target's states anew for every batch, store nothing"
    )
    verb.add_argument(
        "--dtype", default="auto",
        help="of the computation: bfloat16, float32, or auto, bfloat16 where that is faster (default: auto)",
    )  # fmt: skip
    verb.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    verb.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")
    verb.add_argument("--processes", type=int, default=1, metavar="N", help="2 halve every batch (default: 1)")
    verb.add_argument("--seed", type=int, default=0, metavar="N")
    verb.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    verb.add_argument("--json", action="store_true", help="print the record instead of text")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft train``."""
    head = verbs.add_parser("head", help="train a drafting head (medusa, eagle, hass, eagle3, ...) for a target")
    head.add_argument(
        "name", metavar="NAME",
        help="which head; see 'crossdraft list'. medusa2: Medusa heads and the target together",
    )  # fmt: skip
    corpus_options(head)
    head.add_argument("--out", metavar="DIR", required=True, help="result; run again to go on")
    head.add_argument(
        "--epochs",
        type=int,
        default=3,
        metavar="N",
        help="at most, of medusa2 for each of its two parts (default: 3)",
    )
    head.add_argument(
        "--minutes",
        type=float,
        metavar="X",
        help="end after so long, medusa2 each of its two parts (default: no limit)",
    )
    head.add_argument("--batch", type=int, default=16, metavar="N", help="answers of a step (default: 16)")
    head.add_argument("--lr", type=float, metavar="X", help="peak learning rate (default: 0.256 / width)")
    head.add_argument(
        "--passes", type=int, metavar="N", help="guesses of a chain that are trained (default: recipe)"
    )
    head.add_argument(
        "--followed", type=float, default=1.0, metavar="X",
        help="share of the chains that are taught beyond their first guess, drawn for every batch (default: 1)",
    )  # fmt: skip
    head.add_argument(
        "--start",
        default="random",
        metavar="random|target|HEAD",
        help="begin at random (default), as the target's last layer (eagle3), or with a trained head",
    )
    head.add_argument("--draft-vocab", type=int, metavar="N", help="draft the N most frequent tokens only")
    head.add_argument(
        "--freeze-output", action="store_true", help="keep the target's output rows as they are (eagle3, own heads)"
    )
    head.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the network; may be repeated"
    )
    head.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, or go on where an interrupted run stopped."""
    settings = dict(map(setting, args.set))
    if args.draft_vocab is not None:
        settings["draft_vocab"] = args.draft_vocab
    from crossdraft import build, runs
    from crossdraft.training.heads import HeadTraining
    from crossdraft.training.joint import JointTraining

    build.set_threads(args.threads)
    joint, device = args.name == JOINT, build.pick_device(args.device)
    heads = HeadTraining(
        name="medusa" if joint else args.name, settings=settings, epochs=args.epochs, minutes=args.minutes,
        batch=args.batch, peak_lr=args.lr, passes=args.passes, start=args.start, seed=args.seed,
        dtype=build.training_dtype(args.dtype, device), freeze_output=args.freeze_output, followed=args.followed,
        processes=args.processes, device=device,
    )  # fmt: skip
    config: HeadTraining | JointTraining = heads
    if joint:
        config = JointTraining(heads=heads, epochs=args.epochs, minutes=args.minutes, peak_lr=args.lr)
    with output.progress(args.json) as report:
        record = runs.train_on_corpus(
            args.target, args.data, args.out, config, clips=args.clips, held_out=args.held_out,
            validation=args.validation, online=args.online, restart=args.restart, report=report, note=output.say,
        )  # fmt: skip
    if args.json:
        output.print_json(record)
        return 0
    for line in _lines(args.out, record):
        print(line)
    return 0


def _lines(out: str, record: dict[str, Any]) -> list[str]:
    held = record["held_out"]
    depths = [value for key, value in held.items() if key.startswith("accept_")]
    more = []
    parameters = f"{record['parameters']:,} parameters"
    if (trained := record.get("trained_parameters", record["parameters"])) < record["parameters"]:
        parameters += f" ({trained:,} trained)"
    if record["name"] == JOINT:
        more.append(
            f"{out}/target is another target: it would still say {held['agreement']:.1%} of what the old one said "
            f"({held['divergence']:.4f} nats apart); its heads draft for it alone: --target {out}/target "
            f"--head {out}"
        )
    return [
        f"{out}: {record['name']}, {parameters}, {record['trained_tokens']:,} tokens of "
        f"{record['num_answers']} answers (ended by {record['ended_by']}), {record['seconds']:.0f} s",
        f"held out, {record['num_held_out']} answers, simulated: tau {held['tau']:.2f} of chains of "
        f"{len(depths)}; accepted by depth, given all before: {', '.join(f'{x:.0%}' for x in depths)}",
        *more,
    ]
