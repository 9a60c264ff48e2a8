"""``crossdraft bench``: the league of all methods, and the measurements behind the figures of the README."""

import argparse
from pathlib import Path

from crossdraft.cli import bench_league, output
from crossdraft.core.errors import SettingError

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
    command = commands.add_parser(
        "bench", help="every method on one target, in one table; or measure this package's own claims",
        description=f"Without WHICH: the league, every method on one target in one run. Measurements: {listing}",
    )  # fmt: skip
    command.add_argument(
        "which", nargs="?", choices=(*BENCHES, "all"), metavar="WHICH",
        help=f"which measurement ({', '.join(BENCHES)} or all); none: the league",
    )  # fmt: skip
    command.add_argument("--out", metavar="DIR", help="write one record for each measurement into DIR")
    command.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: physical cores; league: 1)"
    )
    command.add_argument(
        "--json", metavar="FILE", nargs="?", const="-",
        help="league: write the record to FILE; without FILE: print the record instead of the table",
    )  # fmt: skip
    bench_league.add_options(command.add_argument_group("the league"))
    own = command.add_argument_group("single measurements")
    own.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    own.add_argument("--events", metavar="DIR", help="real: folder of event recordings")
    own.add_argument("--video", metavar="FILE", help="real: a real video")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run what was chosen; exit code 1 when it shows a difference that must not be."""
    if args.which is None:
        if args.json in (*BENCHES, "all"):
            raise SettingError(f"name the measurement before its options: crossdraft bench {args.json} --json")
        for name in ("quick", "events", "video"):
            if getattr(args, name):
                raise SettingError(
                    f"--{name} is for a measurement ({', '.join(BENCHES)}); name one, or leave it out"
                )
        return bench_league.run(args)
    given = bench_league.given(args)
    methods = given.pop("methods", None) if args.which == "exactness" else None
    if given:
        name = next(iter(given)).replace("_", "-")
        raise SettingError(f"--{name} is for the league, not for '{args.which}'; leave out one of the two")
    if args.json not in (None, "-"):
        raise SettingError(f"'{args.which} --json' prints its record; to keep it in a file give --out DIR")
    return _measure(args, bench_league.names(methods) if methods is not None else ())


def _measure(args: argparse.Namespace, drafters: tuple[str, ...]) -> int:
    from crossdraft.build import set_threads
    from crossdraft.core.provenance import provenance
    from crossdraft.core.records import write_record
    from crossdraft.runs import run_bench

    set_threads(args.threads)
    good, printed = True, args.json is not None
    chosen = {"drafters": drafters} if drafters else {}
    for name in BENCHES if args.which == "all" else (args.which,):
        with output.progress(printed) as report:
            body = run_bench(
                name, quick=args.quick, video=args.video, events=args.events, report=report, **chosen
            )  # fmt: skip
        good = good and bool(body.get("passed", True))
        if args.out:
            path = write_record(
                Path(args.out) / f"{name}.json", f"bench-{name}", {**body, "provenance": provenance()}
            )
            output.say(f"crossdraft: wrote {path}")
        if printed:
            output.print_json({"bench": name, **body})
        else:
            print(f"{name}: {body['verdict']}")
    return 0 if good else 1
