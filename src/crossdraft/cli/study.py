"""``crossdraft study``: the whole study on the built-in pair, from scenes to the report."""

import argparse
from typing import Any

from crossdraft.cli import output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "study",
        help="the whole study on the built-in pair, from scenes to the report",
        description="Scenes, extraction, training, evaluation, live check, verdicts, report: about half an hour on "
        "2 cores and 300 MB; --quick shows in a minute or two that it works.",
    )
    command.add_argument("out", metavar="DIR", help="its folder; run again to go on")
    command.add_argument("--quick", action="store_true", help="every stage once, tiny: figures that mean nothing")
    command.add_argument(
        "--processes", type=int, metavar="N", help="workers of one thread (default: cores, up to 2)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of scenes and trainings")
    command.add_argument("--json", action="store_true", help="print the record instead of text")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it and print what it found."""
    from dataclasses import replace

    from crossdraft.study.pipeline import PAGE, QUICK, StudySize, run_study

    size = replace(QUICK if args.quick else StudySize(), seed=args.seed)
    with output.progress(args.json) as report:
        found = run_study(args.out, size, processes=args.processes, report=report, note=output.say)
    if args.json:
        output.print_json(found)
        return 0
    output.print_table(
        "acceptance length tau on held-out streams, drafts of 6 tokens",
        ("", "tau", "of it the events' (95 %)", "live / predicted: tau", "end to end"),
        [_row(name, found) for name in sorted(found["tau"], key=found["tau"].get, reverse=True)],
        "the events': with the right clip minus with a shuffled one; predicted figures are modelled",
    )
    print(f"{args.out}/{PAGE}")
    return 0


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    gap = (found["events_contribution_tau"].get(name) or {}).get("gap")
    against = found["live_over_predicted"].get(name)
    return (
        name, f"{found['tau'][name]:.2f}",
        "" if gap is None else f"{gap['value']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})",
        "" if against is None else f"{against['tau']:.2f}",
        "" if against is None else f"{against['speedup_e2e']:.2f}",
    )  # fmt: skip
