"""``crossdraft predict`` and ``crossdraft verdict``: what a drafter will gain, and whether that is worth it."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdraft.cli import output
from crossdraft.core.errors import CrossdraftError, DataError, SettingError

if TYPE_CHECKING:
    from crossdraft.evaluate.latency import Times
    from crossdraft.evaluate.prediction import Acceptance


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to the parser."""
    predict = commands.add_parser("predict", help="what a drafter will gain, beside every published formula")
    _add_inputs(predict)
    predict.set_defaults(run=run_predict)

    verdict = commands.add_parser("verdict", help="viable or not, by use case, and what would turn the answer")
    _add_inputs(verdict)
    verdict.add_argument(
        "--interval", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of the mean accepted tokens of a draft"
    )
    verdict.add_argument("--production", type=float, default=3.0, metavar="X", help="speed-up needed (default: 3)")
    verdict.set_defaults(run=run_verdict)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", metavar="FILE", help="what 'crossdraft profile --json' printed")
    command.add_argument(
        "--times",
        nargs="+",
        default=[],
        metavar="NAME=MS",
        help="figures the profile lacks: target_encode, target_prefill, step, verify=2:MS,8:MS, draft_step, "
        "event_encode, event_prefill, adapter, overhead, contention=FACTOR, window=NAME; they count as assumed",
    )
    command.add_argument(
        "--acceptance",
        required=True,
        metavar="FILE|A1,A2,...",
        help="acceptance rate at each depth, or a record with 'alpha' or 'rounds' (generate --record)",
    )
    command.add_argument(
        "--window-acceptance", metavar="A1,A2,...", help="of the draft written in the window (default: the same)"
    )
    command.add_argument("--tokens", type=int, required=True, metavar="N", help="length of an answer")
    command.add_argument("--json", action="store_true", help="machine-readable")


def run_predict(args: argparse.Namespace) -> int:
    """Print our prediction for both schemes beside each published formula."""
    from crossdraft.evaluate.latency import origins
    from crossdraft.evaluate.prediction import SCHEMES, predict
    from crossdraft.evaluate.published import all_published

    times, acceptance = _times(args), _acceptance(args)
    ours = [predict(times, acceptance, args.tokens, scheme) for scheme in SCHEMES]
    published = all_published(times, acceptance, args.tokens)
    if args.json:
        output.print_json(
            {
                "tokens": args.tokens, "times": origins(times), "acceptance": asdict(acceptance),
                "ours": [asdict(p) for p in ours], "published": [asdict(p) for p in published],
            }
        )  # fmt: skip
        return 0
    _print_times(times)
    rows = [
        (p.scheme, f"{p.speedup_e2e:.2f}x", f"{p.speedup_decode:.2f}x", f"{p.tau:.2f}",
         f"{p.window_drafted} + {p.drafted}", "modelled")
        for p in ours
    ] + [(p.name, f"{p.speedup:.2f}x", "", "", "", p.label) for p in published]  # fmt: skip
    ceiling = "none" if ours[0].ceiling is None else f"{ours[0].ceiling:.2f}x"
    output.print_table(
        f"{args.tokens} tokens, plain decoding {ours[0].plain_ms:.1f} ms; no drafting beats {ceiling}",
        ("", "speed-up", "decode", "tau", "drafted: window + round", ""), rows,
        "\n".join(f"{p.name}: {p.formula}; leaves out {p.leaves_out}" for p in published),
    )  # fmt: skip
    return 0


def run_verdict(args: argparse.Namespace) -> int:
    """Print the answer for each use case, its inequality, margin, interval, and what would turn it."""
    from crossdraft.evaluate.latency import origins
    from crossdraft.evaluate.viability import judge

    times, acceptance = _times(args), _acceptance(args)
    interval = tuple(args.interval) if args.interval else None
    verdicts = judge(times, acceptance, args.tokens, interval=interval, production=args.production)
    if args.json:
        output.print_json(
            {
                "tokens": args.tokens, "times": origins(times), "acceptance": asdict(acceptance),
                "interval": interval, "verdicts": [asdict(v) for v in verdicts],
            }
        )  # fmt: skip
        return 0
    _print_times(times)
    for v in verdicts:
        print(f"{v.use_case}: {v.answer}")
        band = "no interval was given"
        if v.margin_interval is not None:
            band = f"interval {v.margin_interval[0]:+.2f} to {v.margin_interval[1]:+.2f}"
        print(f"  {v.inequality}: {v.numbers}")
        print(f"  margin {v.margin:+.2f} {v.unit} ({band})")
        for flip in v.flips:
            print(f"  would flip it: {flip.text}" if flip.needed is not None else f"  {flip.text}")
    return 0


def _print_times(times: "Times") -> None:
    from crossdraft.evaluate.latency import origins

    facts = {}
    for name, figure in origins(times).items():
        value = figure["value"]
        shown = "  ".join(f"{rows}: {ms:g}" for rows, ms in value.items()) if isinstance(value, dict) else value
        shown = round(shown, 3) if isinstance(shown, float) else shown
        facts[name] = f"{shown} ({figure['origin']})"
    output.print_facts(facts)


def _times(args: argparse.Namespace) -> "Times":
    from crossdraft.evaluate.latency import times_from_figures, times_from_profile

    given = dict(_figure(item) for item in args.times)
    if args.profile is None:
        return times_from_figures(given)
    body = _read(args.profile)
    return times_from_profile(body["profile"] if isinstance(body.get("profile"), dict) else body, **given)


def _figure(item: str) -> tuple[str, Any]:
    """``NAME=VALUE`` of --times; ``_ms`` may be left out."""
    from crossdraft.evaluate.latency import FIGURES

    name, equals, value = item.partition("=")
    name = name if name in FIGURES else f"{name}_ms"
    if not equals or name not in FIGURES:
        raise SettingError(f"--times '{item}' is no NAME=MS with a name of {', '.join(FIGURES)}")
    if name == "window":
        return name, value
    try:
        if name == "verify_ms":
            pairs = (part.split(":") for part in value.split(","))
            return name, {int(rows): float(ms) for rows, ms in pairs}
        return name, float(value)
    except ValueError as error:
        form = "ROWS:MS,ROWS:MS" if name == "verify_ms" else "a number"
        raise SettingError(f"--times '{item}': expected {form} after the equals sign") from error


def _acceptance(args: argparse.Namespace) -> "Acceptance":
    from crossdraft.evaluate.prediction import Acceptance, alphas_from_rounds

    window = _rates(args.window_acceptance, "--window-acceptance") if args.window_acceptance is not None else ()
    try:
        return Acceptance(_rates(args.acceptance, "--acceptance"), window)
    except _NoRates:
        # numbers first: a long list of them is no file name that could be asked for
        if len(args.acceptance) > _LONGEST_PATH or not Path(args.acceptance).is_file():
            raise
    body = _read(args.acceptance)
    try:
        if "alpha" in body:
            return Acceptance(_numbers(body["alpha"]), window or _numbers(body.get("window_alpha", [])))
        return Acceptance(alphas_from_rounds(body["rounds"]), window)
    except CrossdraftError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{args.acceptance} holds neither 'alpha' rates nor 'rounds' with drafted, accepted and emitted tokens"
        ) from error


_LONGEST_PATH = 250


class _NoRates(SettingError):
    """What was given is no list of numbers."""


def _rates(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise _NoRates(f"{option} '{text:.60}' is neither a file nor numbers like 0.8,0.7,0.6") from error


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise TypeError("no list")
    return tuple(float(value) for value in values)


def _read(path: str) -> dict[str, Any]:
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"no such record: {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a readable record: {error}") from error
    if not isinstance(body, dict):
        raise DataError(f"{path} is not a record, but {type(body).__name__}")
    return body
