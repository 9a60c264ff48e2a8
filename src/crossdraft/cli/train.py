"""``crossdraft train``: train the built-in pair anew, and measure what it sees."""

import argparse

from crossdraft.cli import output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("train", help="train and measure the built-in pair")
    verbs = command.add_subparsers(dest="verb", metavar="WHAT", required=True)

    nano = verbs.add_parser("nano", help="train the built-in pair from scratch (2.5 hours on 2 cores)")
    nano.add_argument("--out", metavar="DIR", required=True, help="work folder; run again to resume")
    nano.set_defaults(run=run_nano)

    evaluate = verbs.add_parser("nano-eval", help="what the built-in pair sees, on held-out streams")
    evaluate.add_argument("--json", action="store_true", help="machine-readable")
    evaluate.set_defaults(run=run_eval)


def run_nano(args: argparse.Namespace) -> int:
    """Train, or go on where an interrupted run stopped."""
    from crossdraft import build

    build.train_nano(args.out)
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Print the shares of facts stated right."""
    from crossdraft import build

    result = build.evaluate_nano()
    if args.json:
        output.print_json(result)
    else:
        output.print_facts({name: str(value) for name, value in result.items()})
    return 0
