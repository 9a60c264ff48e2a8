"""``crossdraft bench``: the measurements behind the figures that the README quotes."""

import argparse
from pathlib import Path

from crossdraft.cli import output

BENCHES = {
    "exactness": "tokens that differ from plain decoding: every drafter, widths 1-32, two dtypes, sampling",
    "hf": "plain decoding beside transformers' generate, same weights, dtype and threads",
    "growth": "cost per token from 64 to 1,024 generated tokens",
    "real": "a real video and real event recordings, every drafter beside plain decoding",
    "demo": "the demo's table, over more clips",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    listing = "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
    command = commands.add_parser("bench", help="measure this package's own claims", description=listing)
    command.add_argument("which", choices=(*BENCHES, "all"), help="which measurement")
    command.add_argument("--out", metavar="DIR", help="write one record for each measurement into DIR")
    command.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    command.add_argument("--events", metavar="DIR", help="real: folder of event recordings")
    command.add_argument("--video", metavar="FILE", help="real: a real video")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")
    command.add_argument("--json", action="store_true", help="print the records")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen measurements; exit code 1 when one of them shows a difference that must not be."""
    from crossdraft.build import set_threads
    from crossdraft.core.provenance import provenance
    from crossdraft.core.records import write_record
    from crossdraft.runs import run_bench

    set_threads(args.threads)
    good = True
    for name in BENCHES if args.which == "all" else (args.which,):
        with output.progress(args.json) as report:
            body = run_bench(name, quick=args.quick, video=args.video, events=args.events, report=report)
        good = good and bool(body.get("passed", True))
        if args.out:
            path = write_record(
                Path(args.out) / f"{name}.json", f"bench-{name}", {**body, "provenance": provenance()}
            )
            output.say(f"crossdraft: wrote {path}")
        if args.json:
            output.print_json({"bench": name, **body})
        else:
            print(f"{name}: {body['verdict']}")
    return 0 if good else 1
