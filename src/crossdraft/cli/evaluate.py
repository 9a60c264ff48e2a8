"""``crossdraft evaluate``: what adapters make of stored pairs, beside every control, and live if asked for."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossdraft.cli import output
from crossdraft.cli.extract import add_source
from crossdraft.cli.generate import add_pair
from crossdraft.core.errors import DataError, SettingError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("evaluate", help="adapters on stored pairs, beside every control; live if asked")
    add_pair(command)
    command.add_argument("adapters", nargs="*", metavar="PATH", help="adapter files, or folders of trainings")
    command.add_argument("--store", required=True, metavar="DIR", help="held-out pairs (crossdraft extract)")
    command.add_argument("--shuffled", metavar="DIR", help="the same pairs, extracted with --shuffle-events")
    command.add_argument("--learn-from", metavar="DIR", help="a store whose answers the controls may learn first")
    command.add_argument(
        "--length", type=int, default=6, metavar="N", help="tokens of a draft in the rounds played through (6)"
    )
    command.add_argument("--no-intervals", action="store_true", help="of one recording no interval can be given")
    live = command.add_argument_group("live check: the same clips answered for real, beside what was predicted")
    live.add_argument(
        "--live", type=int, metavar="N", help="answer N of the stored questions, read from the data below"
    )
    add_source(live, required=False)
    live.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="as in the extraction (128)")
    live.add_argument("--live-out", metavar="FILE", help="where the live record goes")
    command.add_argument("--out", "-o", metavar="FILE", help="keep the record, for 'crossdraft report'")
    command.add_argument("--json", action="store_true", help="print one JSON record instead of a table")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judge, print, and check live."""
    from crossdraft.core.records import write_record
    from crossdraft.data.store import Store
    from crossdraft.study import evaluation

    if args.length < 1:
        raise SettingError(f"--length is {args.length}, must be 1 or more")
    if (args.live is None) != (args.data is None and args.manifest is None):
        raise SettingError("--live N goes with --data or --manifest: the clips to answer, those of the store")
    if args.live is not None and args.live < 1:
        raise SettingError(f"--live is {args.live}, must be 1 or more")
    event_model = args.event_model or ("nano" if args.target == "nano" else None)
    with output.progress(args.json) as report:
        report("reading adapters and heads", 0, 0)
        models = evaluation.read_models(args.target, event_model)
        files = evaluation.find_adapters(args.adapters)
        shuffled = None if args.shuffled is None else Store.open(args.shuffled)
        group = evaluation.group_of(Store.open(args.store), files, models, shuffled=shuffled)
        body, judged = evaluation.evaluate(
            group, models.tokenizer, length=args.length, draws=0 if args.no_intervals else 2000, report=report,
            learn_from=None if args.learn_from is None else Store.open(args.learn_from),
        )  # fmt: skip
        live = None if args.live is None else _live(args, event_model, files, group, judged, report)
    if args.out:
        write_record(args.out, evaluation.KIND, body)
    if live is not None and args.live_out:
        write_record(args.live_out, "live", live)
    if args.json:
        output.print_json({"evaluation": body, "live": live})
        return 0
    _print_offline(body)
    if live is not None:
        _print_live(live)
    return 0


def _live(
    args: argparse.Namespace, event_model: str | None, files: Sequence[Path], group: Any, judged: Sequence[Any],
    report: output.Report,
) -> dict[str, Any]:  # fmt: skip
    from crossdraft import build
    from crossdraft.extraction.jobs import find_jobs
    from crossdraft.study.live import Entrant, check_live

    jobs = find_jobs(args.data, args.manifest, split=args.split, sensor=args.sensor, questions=args.questions)
    stored = {entry.id for entry in group.store.entries}
    jobs = [job for job in jobs if job.id in stored]  # the store may hold a part of the data set's questions
    if not jobs:
        raise DataError(f"{group.store.root}: holds none of these clips and questions; extract them first")
    can_draft = [(c, own) for c, own in zip(group.candidates, judged, strict=True) if c.void is None]
    if not can_draft:
        raise DataError("none of these adapters can draft, so there is nothing to check live; leave out --live")
    loras = [path for path in files if build.lora_of(path)]
    if group.store.identity.event_model.endswith(build.CHANGED) and not loras:
        raise DataError(f"{group.store.root} holds states of a changed event model; name its adapter 'l6' as well")
    plan = build.plan_pair(args.target, event_model, "cross_modal", adapter=loras[0] if loras else None)
    pair = build.load_pair(plan, dtype=args.dtype, device=args.device, threads=args.threads)
    entrants = [Entrant(c, pair, group.store, own, with_shuffled=True) for c, own in can_draft]
    return check_live(entrants, jobs, count=args.live, max_new_tokens=args.max_new_tokens, report=report)


def _print_offline(body: dict[str, Any]) -> None:
    rows = []
    for row in body["rows"]:
        contribution = row["contribution"] or {}
        rows.append(
            (
                row["name"],
                "" if row["is_control"] else str(row["parameters"]),
                _figure(row["states"] and row["states"]["cos_mean"]),
                _figure(row["states"] and row["states"]["accept_at"][2]["share"], 100, "%"),
                _figure(row["tokens"] and row["tokens"]["top1"], 100, "%"),
                _figure(row["first_run"]),
                _figure(row["rounds"] and row["rounds"]["tau"]),
                _figure(contribution.get("tau") and contribution["tau"]["gap"], sign=True),
                (row["void"] and "void") or ("ctrl" if row["is_control"] else ""),
            )
        )
    voids = [f"{row['name']}: void, {row['void']}" for row in body["rows"] if row["void"]]
    intervals = "intervals: 95 %, recordings drawn anew" if body["intervals"] else "no intervals"
    output.print_table(
        f"{body['num_samples']} answers of {body['num_recordings']} recordings, {body['mode']}; {intervals}",
        ("", "weights", "cosine", "Accept@0.90", "top-1", "first run", f"tau@{body['length']}", "events", ""),
        rows,
        "\n".join(
            (
                "first run: accepted tokens of a first and only draft; tau: tokens per target pass, bonus "
                "included; ctrl: a control, which knows nothing of the clip; events: tau with the right clip "
                "minus tau with a shuffled one; a cosine accepts nothing",
                *body["notes"],
                *voids,
            )
        ),
    )  # fmt: skip


def _figure(estimate: dict[str, Any] | None, factor: float = 1.0, unit: str = "", sign: bool = False) -> str:
    if not estimate or estimate["value"] is None:
        return ""
    value = f"{estimate['value'] * factor:{'+' if sign else ''}.{0 if unit else 2}f}{unit}"
    if not sign or estimate["low"] is None:
        return value
    return f"{value} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"


def _print_live(live: dict[str, Any]) -> None:
    rows = [
        (
            row["drafter"], str(row["length"] or ""), "yes" if row["identical"] else "NO", f"{row['tau']:.2f}",
            "" if row["predicted_tau"] is None else f"{row['predicted_tau']:.2f}", f"{row['speedup_decode']:.2f}x",
            f"{row['speedup_e2e']:.2f}x",
            "" if row["predicted_tau"] is None else f"{row['predicted_speedup_e2e']:.2f}x",
        )
        for row in live["rows"]
    ]  # fmt: skip
    others = "" if live["as_stored"] == 1 else "; predictions rest on others: give --max-new-tokens as extracted"
    exact = "bit-exact" if live["bit_exact"] else "not bit-exact"
    output.print_table(
        f"live: {live['clips']} answers",
        ("drafter", "drafted", "identical", "tau", "predicted", "decode", "end to end", "predicted"),
        rows,
        "predicted: modelled, from stored pairs of the same clips and times measured before; "
        f"{live['as_stored']:.0%} of plain decoding's answers are the stored ones{others}\n"
        f"{exact}: {live['exactness']}",
    )  # fmt: skip
