"""``crossdraft models check``: what a checkpoint is, whether every key is understood, what is missing."""

import argparse
import dataclasses

from crossdraft.cli import output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("models", help="look at checkpoints")
    verbs = command.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="what a checkpoint is and whether it is complete")
    check.add_argument("checkpoint", metavar="DIR|nano", help="folder with config.json and safetensors")
    check.add_argument("--json", action="store_true", help="machine-readable")
    check.set_defaults(run=run_check)


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
