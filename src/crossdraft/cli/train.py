"""``crossdraft train``: train adapters, drafting heads and the built-in pair, and measure what it sees."""

import argparse

from crossdraft.cli import output, train_adapter, train_distil, train_draft_model, train_head
from crossdraft.core.errors import SettingError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("train", help="train adapters, drafting heads and the built-in pair")
    verbs = command.add_subparsers(dest="verb", metavar="WHAT", required=True)

    train_adapter.add(verbs)
    train_head.add(verbs)
    train_draft_model.add(verbs)
    nano = verbs.add_parser("nano", help="train the built-in pair")
    nano.add_argument("--out", metavar="DIR", required=True, help="work folder (5 GB); run again to go on")
    nano.add_argument("--minutes", type=float, default=95.0, metavar="M", help="of training in all (default: 95)")
    nano.add_argument(
        "--from",
        dest="start_from",
        metavar="DIR",
        help="go on from the pair in DIR (nano: the built-in one)",
    )
    nano.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    nano.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    nano.add_argument("--smoke", action="store_true", help="a few steps at tiny sizes, to see that it works")
    nano.set_defaults(run=run_nano)

    evaluate = verbs.add_parser("nano-eval", help="what the built-in pair sees, on held-out streams")
    evaluate.add_argument("--target", metavar="DIR", help="another target than the built-in one")
    evaluate.add_argument("--event-model", metavar="DIR", help="another event model than the built-in one")
    evaluate.add_argument("--clips", type=int, default=40, metavar="N", help="held-out clips (default: 40)")
    evaluate.add_argument("--streams", type=int, default=2, metavar="N", help="whole streams (default: 2)")
    evaluate.add_argument("--stream-clips", type=int, default=40, metavar="N", help="clips of each (default: 40)")
    evaluate.add_argument("--json", action="store_true", help="machine-readable")
    evaluate.set_defaults(run=run_eval)

    train_distil.add(verbs)


def run_nano(args: argparse.Namespace) -> int:
    """Train, or go on where an interrupted run stopped."""
    from crossdraft.models.nano import nano_dir
    from crossdraft.training.nano import train_nano

    start_from = nano_dir("target").parent if args.start_from == "nano" else args.start_from
    with output.progress() as report:
        made = train_nano(
            args.out, minutes=args.minutes, device=args.device, resume=not args.restart, smoke=args.smoke,
            start_from=start_from, note=output.say, report=report,
        )  # fmt: skip
    for role, folder in (made or {}).items():
        print(f"{role}: {folder}")
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Print the shares of facts stated right."""
    for name in ("clips", "streams", "stream_clips"):
        if (value := getattr(args, name)) < 1:
            raise SettingError(f"--{name.replace('_', '-')} is {value}, must be 1 or more")
    from crossdraft.training.nano import evaluate_nano

    quiet = args.json
    result = evaluate_nano(
        args.target, args.event_model, num_clips=args.clips, num_blank=max(1, args.clips // 3),
        num_streams=args.streams, clips_of_a_stream=args.stream_clips,
        note=(lambda _: None) if quiet else output.say,
    )  # fmt: skip
    if quiet:
        output.print_json(result)
        return 0
    for part, figures in result.items():
        print(f"{part}:")
        output.print_facts({f"  {name}": _figure(value) for name, value in figures.items()})
    return 0


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_figure(inner)}" for name, inner in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
