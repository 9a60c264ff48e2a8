"""``crossdraft models``: what a checkpoint is and whether it is complete; drafting heads from layout to layout."""

import argparse
import dataclasses

from crossdraft.cli import output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("models", help="look at checkpoints, convert drafting heads")
    verbs = command.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="what a checkpoint is and whether it is complete")
    check.add_argument("checkpoint", metavar="DIR|nano", help="folder with config.json and safetensors")
    check.add_argument("--json", action="store_true", help="machine-readable")
    check.set_defaults(run=run_check)

    convert = verbs.add_parser("convert-head", help="a drafting head into or out of a published layout")
    convert.add_argument("head", metavar="IN", help="a folder in whatever known layout, or a head of crossdraft")
    convert.add_argument("out", metavar="OUT", help="folder to write")
    convert.add_argument("--target", metavar="DIR|nano", required=True, help="the model that it drafts for")
    convert.add_argument(
        "--layout", default="crossdraft", metavar="NAME",
        help="crossdraft (default), eagle, eagle3, medusa or speculators",
    )  # fmt: skip
    convert.add_argument("--json", action="store_true", help="machine-readable")
    convert.set_defaults(run=run_convert)


def run_check(args: argparse.Namespace) -> int:
    """Print the report; exit code 2 when the checkpoint cannot be loaded."""
    from crossdraft.models import check_checkpoint
    from crossdraft.models.nano import ROLES, nano_dir

    folders = [nano_dir(role) for role in ROLES] if args.checkpoint == "nano" else [args.checkpoint]
    reports = [check_checkpoint(folder) for folder in folders]
    bodies = [dataclasses.asdict(report) for report in reports]
    if args.json:
        output.print_json(dict(zip(ROLES, bodies, strict=True)) if args.checkpoint == "nano" else bodies[0])
    else:
        print(*reports, sep="\n")
    return 0 if all(report.ok for report in reports) else 2


def run_convert(args: argparse.Namespace) -> int:
    """Convert, and say what was found."""
    from crossdraft.build.convert import convert_head

    made = convert_head(args.head, args.out, args.target, args.layout)
    if args.json:
        output.print_json(dataclasses.asdict(made))
    else:
        print(
            f"{made.path}: {made.method}, {made.parameters:,} parameters in {made.dtype}, for {made.target}; "
            f"layout {made.written}, read from {made.read}"
        )
    return 0
