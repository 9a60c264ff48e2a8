"""``crossdraft report``: one page from records."""

import argparse

from crossdraft.cli import output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("report", help="one self-contained HTML page from records")
    command.add_argument("runs", nargs="+", metavar="RUN", help="a record, or a folder with records below it")
    command.add_argument("-o", "--out", required=True, metavar="FILE", help="the page, e.g. report.html")
    command.add_argument("--title", metavar="T", help="its title")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    from crossdraft.report.assemble import TITLE, write_report

    path = write_report(args.runs, args.out, TITLE if args.title is None else args.title)
    output.say(f"crossdraft: wrote {path}")
    return 0
