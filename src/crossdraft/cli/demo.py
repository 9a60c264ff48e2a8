"""``crossdraft demo``: the built-in pair on the clips of one unseen stream, every drafter beside plain decoding."""

import argparse
import json
from pathlib import Path

from crossdraft.cli import output
from crossdraft.core.errors import SettingError
from crossdraft.core.records import write_atomically


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("demo", help="what each drafter gains, on the built-in pair")
    command.add_argument("--clips", type=int, default=20, metavar="N", help="clips of the stream (default: 20)")
    command.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the stream and the order of runs")
    command.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    command.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1; steadier on a busy machine)"
    )
    command.add_argument("--json", metavar="FILE", nargs="?", const="-", help="write the rows to FILE (or stdout)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo, print its table, write its rows."""
    if args.clips < 1:
        raise SettingError(f"--clips is {args.clips}, must be 1 or more")
    from crossdraft.runs import run_demo

    with output.progress(args.json == "-") as report:
        result = run_demo(
            clips=args.clips, max_new_tokens=args.max_new_tokens, seed=args.seed, dtype=args.dtype,
            threads=args.threads, report=report,
        )  # fmt: skip
    if args.json == "-":
        output.print_json(result.as_json())
        return 0
    rows = [
        (
            row.drafter, "yes" if row.identical else "NO", str(row.tokens), f"{row.tau:.2f}",
            f"{row.decode_tokens_per_s:.0f}", f"{row.speedup_decode:.2f}x", f"{row.speedup_e2e:.2f}x",
            f"{row.slower_share:.0%}",
        )
        for row in result.rows
    ]  # fmt: skip
    header = ("drafter", "identical", "tokens", "tau", "decode tok/s", "decode", "end to end", "slower")
    output.print_table(
        f"{result.clips} clips of one stream, same question", header, rows, "\n".join(result.notes())
    )
    if args.json:
        write_atomically(Path(args.json), (json.dumps(result.as_json(), indent=1) + "\n").encode())
    return 0
