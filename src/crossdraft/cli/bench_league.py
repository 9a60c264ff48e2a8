"""The league's options, its table on the terminal, and its record."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossdraft.cli import output
from crossdraft.core.errors import SettingError

Body = Mapping[str, Any]

_OPTIONS = (
    "target", "event_model", "methods", "prompts", "limit", "temperature", "mode", "nodes", "depth", "repeats",
    "max_new_tokens", "dtype", "device", "heads", "adapters", "draft_model", "trees",
    "traces", "seed",
)  # fmt: skip


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Add the league's options; what is not given does not appear in the arguments."""

    def add(name: str, text: str, **settings: Any) -> None:
        group.add_argument(name, help=text, default=argparse.SUPPRESS, **settings)

    add("--target", "checkpoint folder, hub id or nano (default: nano)", metavar="REF")
    add("--event-model", "checkpoint folder, hub id, nano, nano-distilled or none", metavar="REF")
    add(
        "--methods",
        "all, or names with commas, as ngram,eagle3,eagle3+ngram (docs/league.md; a wrong name lists "
        "them); exactness: names of drafters (default: all)",
        metavar="A,B",
    )
    add(
        "--prompts", "streams, league, a JSON-lines file or a folder of clips (default: streams for nano, league "
        "for others)", metavar="SET",
    )  # fmt: skip
    add("--limit", "prompts at most (default: 16)", type=int, metavar="N")
    add("--temperature", "one or several with commas (default: 0); above 0 with three seeds each", metavar="T,T")
    add(
        "--mode", "own: every method as it comes; equal: drafts of at most --nodes and --depth; best: the settings "
        "that were fastest on prompts for tuning (default: own)", metavar="MODE",
    )  # fmt: skip
    add("--nodes", "equal: nodes of a draft at most (default: 16)", type=int, metavar="N")
    add("--depth", "equal: levels of a draft at most (default: 6)", type=int, metavar="N")
    add("--repeats", "answers to each prompt at temperature 0; medians count (default: 2)", type=int, metavar="N")
    add("--max-new-tokens", "(default: 128)", type=int, metavar="N")
    add("--dtype", "auto, bfloat16 or float32 (default: auto)", metavar="DTYPE")
    add("--device", "auto, cpu or cuda (default: auto)", metavar="DEVICE")
    add("--heads", "folder of trained heads", metavar="DIR", type=output.folder)
    add(
        "--adapters",
        "folder of trained adapters (DIR/l1/adapter.safetensors ...)",
        metavar="DIR",
        type=output.folder,
    )
    add("--draft-model", "a smaller model to draft: folder, hub id or nano", metavar="REF")
    add("--trees", "how trees are scored: exact (bit for bit) or near-exact (default: exact)", metavar="HOW")
    add("--traces", "prompts whose requests are kept in detail for the report (default: 2)", type=int, metavar="N")
    add("--seed", "of the order of runs and of intervals (default: 0)", type=int, metavar="S")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The league's options that were given."""
    return {name: value for name, value in vars(args).items() if name in _OPTIONS}


def names(text: str) -> tuple[str, ...]:
    """Names from "a,b". SettingError when one is empty."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise SettingError(f"--methods is '{text}', must be all, or names with commas between them")
    return found


def temperatures(text: str) -> tuple[float, ...]:
    """Numbers from "0,1". SettingError for what is no number."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--temperature is '{text}', must be numbers of 0 or more, with commas") from None


def run(args: argparse.Namespace) -> int:
    """Run the league, print its tables, write its record."""
    from crossdraft.core.records import write_record
    from crossdraft.league.run import KIND, LeagueConfig, run_league

    settings = given(args)
    settings["methods"] = names(settings.get("methods", "all"))
    if "temperature" in settings:
        settings["temperatures"] = temperatures(settings.pop("temperature"))
    settings |= {name: Path(settings[name]) for name in ("heads", "adapters") if name in settings}
    if args.threads is not None:
        settings["threads"] = args.threads
    config = LeagueConfig(**{"target": "nano", **settings})
    printed = args.json == "-"
    paths = {"--out": Path(args.out) / "league.json"} if args.out else {}
    paths |= {"--json": Path(args.json)} if args.json and not printed else {}
    for option, path in paths.items():
        _check_writable(option, path)
    with output.progress(printed) as report:
        body = run_league(config, report)
    if printed:
        output.print_json(body)
    else:
        show(body)
    for path in paths.values():
        output.say(f"crossdraft: wrote {write_record(path, KIND, body)}")
    if body["interrupted"]:
        raise KeyboardInterrupt
    asked_for = [row["error"] for row in body["rows"] if row["method"] != "none"]
    if asked_for and None not in asked_for:
        return 2  # nothing that was asked for could be measured
    wrong = [r for r in body["rows"] if r["lossless"] and r["arithmetic"] == "bit-exact" and r["mismatches"]]
    return 1 if wrong else 0


def _check_writable(option: str, path: Path) -> None:
    """SettingError for a record that could not be written after all the work."""
    if path.is_dir():
        raise SettingError(f"{path} is a folder; name the file that the record shall be written to")
    parent = next(place for place in (path.parent, *path.parents) if place.exists())
    if not parent.is_dir():
        raise SettingError(f"{option} needs {path}, but {parent} is a file; choose another place")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError:
        raise SettingError(
            f"{option} needs {path}, but {parent} cannot be written to; choose another place"
        ) from None


HEADER = ("method", "output", "differ", "tau", "tok/s", "decode", "e2e", "slower", "p50", "p99", "first")
_LEGEND = (
    "differ: tokens unlike plain decoding's; decode (95 % interval), e2e (the whole request): speed-up over plain "
    "decoding; slower: requests; p50, p99: ms a token; first: ms to the first token"
)


def show(body: Body) -> None:
    """One table for each temperature, and what must be said below them."""
    asked = body["prompts"]
    for temperature in body["temperatures"]:
        rows = [row for row in body["rows"] if row["temperature"] == temperature]
        title = (
            f"{body['target']}, temperature {temperature:g}, {asked['prompts']} prompts of '{asked['name']}', "
            f"{body['dtype']}, mode {body['mode']}"
        )
        output.print_table(title, HEADER, [_cells(row) for row in rows])
    for line in (_LEGEND, *notes(body)):
        print(line)


def _cells(row: Body) -> list[str]:
    if row["error"] is not None:
        return [row["method"], "FAILED", *[""] * (len(HEADER) - 2)]
    told = {"lossy": "LOSSY", "other arithmetic": "theirs"}.get(row["output"], row["output"])
    if told == "lossless" and row["arithmetic"] == "near-exact":
        told = "near-exact"
    low, high = row["speedup_decode_interval"]
    differ = "" if row["mismatches"] is None else f"{row['mismatches']}/{row['compared_tokens']}"
    per_token = row["token_ms"] or {}
    return [
        row["method"], told, differ, _figure(row["tau"]), _figure(row["decode_tokens_per_s"], 0),
        f"{row['speedup_decode']:.2f}x ({low:.2f}-{high:.2f})", f"{row['speedup_e2e']:.2f}x",
        f"{row['slower_share']:.0%}", _figure(per_token.get("p50")), _figure(per_token.get("p99")),
        _figure(row["first_token_ms"], 0),
    ]  # fmt: skip


def _figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def notes(body: Body) -> list[str]:
    """Failures with their reasons, what is lossy, what was re-scored, and how settings were found."""
    rows = body["rows"]
    failed = {row["method"]: row["error"] for row in rows if row["error"] is not None}
    lines = ["INTERRUPTED: what stands here is of the answers until then"] if body["interrupted"] else []
    lines += [f"FAILED '{name}': {reason}" for name, reason in failed.items()]
    lossy = _names(row for row in rows if row["output"] == "lossy")
    if lossy:
        lines.append(f"LOSSY, other answers than the target's own: {lossy}")
    wrong = _names(row for row in rows if row["lossless"] and row["mismatches"])
    if wrong:
        lines.append(f"ANSWERS DIFFER from plain decoding's though they must not, but for rounding: {wrong}")
    doubts = _names(row for row in rows if row["audit"] and row["audit"]["doubts"])
    if doubts:
        lines.append(f"re-scored through fresh passes, some tokens are not the target's argmax: {doubts}")
    if body["tuning"]:
        chosen = {name: told["chosen"] for name, told in body["tuning"]["methods"].items()}
        told = "; ".join(f"{name} {settings or 'as it comes'}" for name, settings in chosen.items())
        lines.append(f"settings, chosen on {body['tuning']['prompts']['prompts']} other prompts: {told}")
    shares = [told["bookkeeping"] for told in body["round_shares"] if told["bookkeeping"] is not None]
    if shares:
        lines.append(
            f"choosing nodes takes {min(shares):.0%} to {max(shares):.0%} of a round of the methods with a head"
        )
    lines += [
        f"{told['method']}: where a round's time goes could not be measured ({told['error']})"
        for told in body["round_shares"]
        if told.get("error")
    ]
    exact = body["exactness"]
    lines.append(f"{'bit-exact' if exact['bit_exact'] else 'not bit-exact'}: {exact['detail']}")
    return lines


def _names(rows: Any) -> str:
    found: Sequence[str] = list(dict.fromkeys(row["method"] for row in rows))
    return ", ".join(found)
