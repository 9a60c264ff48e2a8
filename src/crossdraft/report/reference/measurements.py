"""The study's measurement files, condensed to the figures that the reference document needs.

Times in milliseconds, shares between 0 and 1, lengths in tokens. What ``condense`` returns is packaged as
``facts/study.json``, so that the document can be made without the files.
"""

import gzip
import json
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from crossdraft.core.errors import DataError
from crossdraft.evaluate.replay import Sample, fit_one_verification, read_samples, replay

LEVELS = ("L1", "L2", "L3", "L4", "L5", "B1", "L5F", "L4_5f_retrained", "L4_1f")
WINDOW_CONFIGS = ("L1+VL", "L2+VL", "L3+VL", "L4+VL")
EXECUTED = ("e2e_20tok", "e2e_30tok", "e2e_50tok")
WINDOW_RUN = "20260207_113610"
"""The run of ``e2e_50tok_prefill_window``: drafts of one window, verified once."""
SINGLE_RUN = "20260207_032943"
"""A ten-answer run in which every level, L5 too, was executed alone."""
ROUND = 5
"""Drafted tokens of a round in the executed runs."""

_DIGITS = 6
_BANDS = (80, 85, 90, 95)


def condense(folder: str | Path) -> dict[str, Any]:
    """The figures of a folder of the study's files, to 6 digits. DataError names what is missing or damaged.

    Raises DataError also where a file holds other fields than the study's do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; give the folder of the study's measurement files")
    try:
        runs = _json(folder / "e2e_runs.json")
        body = {
            "levels": {level: _level(folder, level) for level in LEVELS},
            "epochs": _epochs(_json(folder / "L1.history.json")),
            "window": _window(folder, runs[WINDOW_RUN]),
            "executed": {name: _executed(folder, name, runs) for name in EXECUTED},
            "single": _single(read_samples(folder / "e2e_small_runs.csv.gz")),
            "full": _full(_json(folder / "e2e_full_runs_published.json")),
            "openings": _openings(folder / "tokens_1q_1100clips.jsonl.gz"),
        }
    except (KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise DataError(f"a file of {folder} lacks what the study's files hold ({error!r})") from error
    rounded: dict[str, Any] = _rounded(body)
    return rounded


def differences(given: Any, packaged: Any, where: str = "", relative: float = 1e-5) -> list[str]:
    """One line for each figure of ``given`` that is not ``packaged``'s, numbers to ``relative``."""
    if isinstance(given, dict) and isinstance(packaged, dict):
        found = [f"{where}.{k}: only in one of the two".lstrip(".") for k in sorted(given.keys() ^ packaged.keys())]
        for key in sorted(given.keys() & packaged.keys()):
            found += differences(given[key], packaged[key], f"{where}.{key}".lstrip("."), relative)
        return found
    if isinstance(given, list) and isinstance(packaged, list) and len(given) == len(packaged):
        pairs = enumerate(zip(given, packaged, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]", relative)]
    if isinstance(given, (int, float)) and isinstance(packaged, (int, float)):
        same = abs(given - packaged) <= relative * max(1.0, abs(packaged))
    else:
        same = given == packaged
    return [] if same else [f"{where}: the files give {given}, packaged is {packaged}"]


# --- one function for each kind of file -------------------------------------------------------------------------


def _level(folder: Path, level: str) -> dict[str, Any]:
    metrics = _json(folder / f"{level}.acceptance_metrics.json")
    positions = _json(folder / f"{level}.position_stats.json")
    pairs = metrics["batch_size"]
    return {
        "params": _json(folder / f"{level}.config.json")["adapter"]["params"],
        "pairs": pairs,
        "cos": metrics["cos_sim_mean"],
        "accept_90": metrics["accept_90"],
        "run_90": metrics["consecutive_mean_90"],
        "run_90_first5": metrics.get("sd_consecutive_gamma5"),
        "token_match": metrics.get("token_top1_match", metrics.get("token_match_rate")),
        "token_run": metrics["token_consecutive_mean"],
        "token_run_first5": metrics.get("token_sd_decode_consecutive_mean"),
        # shares of all pairs: a pair too short for a position counts as rejected there
        "accepted": [round(p["accept_90"] * p["num_samples"]) for p in positions],
        "position_cos": [p["mean"] for p in positions[:10]],
        "position_tokens": metrics["position_token_accept"][:10],
        "match_by_cosine": _bands(metrics),
    }  # fmt: skip


def _bands(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Share of the target's own tokens among the states of each band of cosines: below 0.80, 0.80 to 0.85, ..."""
    match = metrics.get("token_top1_match", metrics.get("token_match_rate"))
    above = {band: metrics[f"cosim_{band}_count"] for band in _BANDS}
    hits = {band: metrics[f"cosim_{band}_token_match"] * above[band] for band in _BANDS}
    every = metrics["total_valid_positions"]
    edges = [("below 0.80", every - above[80], match * every - hits[80])]
    for low, high in pairwise(_BANDS):
        edges.append((f"0.{low} to 0.{high}", above[low] - above[high], hits[low] - hits[high]))
    edges.append(("above 0.95", above[95], hits[95]))
    return {name: share / count if count else None for name, count, share in edges}


def _epochs(history: dict[str, Any]) -> dict[str, Any]:
    cosines, shares = history["val_cos_sim"], history["val_accept_90"]
    best = max(range(len(cosines)), key=cosines.__getitem__)
    return {
        "cos": {str(e): cosines[e - 1] for e in (1, 3, 5, 12)},
        "accept_90": {str(e): shares[e - 1] for e in (1, 3, 5, 12)},
        "best_epoch": best + 1,
        "best_cos": cosines[best],
        "num_epochs": len(cosines),
    }


def _window(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    samples = read_samples(folder / "e2e_50tok_prefill_window.csv.gz")
    own = [s for s in samples if s.config == WINDOW_CONFIGS[0]]
    stage = run["stage_timing"]
    return {
        "configs": {config: _replayed(samples, config) for config in WINDOW_CONFIGS},
        "tokens": fmean(s.num_tokens for s in own),
        "plain_ms": fmean(s.baseline_ms for s in own),
        "target_prefill_ms": run["aggregate"]["VL baseline"]["prefill_ms_mean"],
        "event_encode_ms": stage["eventgpt"]["vision_ms"],
        "event_prefill_ms": stage["eventgpt"]["prefill_ms"],
        "event_token_ms": stage["eventgpt"]["per_token_ms"],
        "target_stage_prefill_ms": stage["videollava"]["prefill_ms"],
    }


def _replayed(samples: list[Sample], config: str) -> dict[str, Any]:
    found, fit = replay(samples, config), fit_one_verification(samples, config)
    own = [s for s in samples if s.config == config]
    return {
        "num_samples": found.num_samples,
        "ratio_of_means": found.ratio_of_means,
        "mean_of_ratios": found.mean_of_ratios,
        "drafted_mean": fmean(s.drafted for s in own),
        "drafted_max": max(s.drafted for s in own),
        "accepted_mean": found.accepted_mean,
        "accepted_sd": found.accepted_sd,
        "accepted_quantiles": {str(q): v for q, v in found.accepted_quantiles.items()},
        "accepted_histogram": {str(n): c for n, c in found.accepted_histogram.items()},
        "accepted_by_question": list(found.accepted_by_question.values()),
        "speedup_quantiles": {str(q): v for q, v in found.speedup_quantiles.items()},
        "slower_share": found.slower_share,
        "verify_ms": fit.verify_ms,
        "step_ms": fit.step_ms,
        "adapter_ms": fit.adapter_ms,
        "break_even": fit.break_even_accepted,
    }


def _executed(folder: Path, name: str, runs: dict[str, Any]) -> dict[str, Any]:
    samples = read_samples(folder / f"{name}.csv.gz")
    own = [s for s in samples if s.config == "L4+VL"]
    aggregate = runs[own[0].run]["aggregate"]
    return {
        "num_samples": len(own),
        "ratio_of_means": {c: replay(samples, c).ratio_of_means for c in WINDOW_CONFIGS},
        "prefill_ms": aggregate["L4+VL"]["prefill_ms_mean"],
        "plain_prefill_ms": aggregate["VL baseline"]["prefill_ms_mean"],
        "round_ms": aggregate["L4+VL"]["decode_ms_mean"] / (fmean(s.drafted for s in own) / ROUND),
    }


def _single(samples: list[Sample]) -> dict[str, Any]:
    own = [s for s in samples if s.run == SINGLE_RUN]
    found = replay(own, "L5-only")
    return {"num_samples": found.num_samples, "L5_ratio_of_means": found.ratio_of_means}


def _full(published: dict[str, Any]) -> dict[str, Any]:
    def ratio(run: dict[str, Any]) -> float:
        return float(run["baseline"]["total_ms"] / run["L4"]["total_ms"])

    short, long = published["full_30tok"], published["full_512tok"]
    histogram = {int(n): c for n, c in short["accepted_histogram"].items()}
    return {
        "num_samples": short["n"],
        "short": {"prefill_ms": short["baseline"]["prefill_ms"], "plain_ms": short["baseline"]["total_ms"],
                  "decode_ms": short["baseline"]["decode_ms"], "total_ms": short["L4"]["total_ms"],
                  "ratio_of_means": ratio(short), "drafted": short["L4"]["mean_drafted"],
                  "accepted": sum(n * c for n, c in histogram.items()) / sum(histogram.values()),
                  "slow_share": sum(c for n, c in histogram.items() if n <= 3) / sum(histogram.values()),
                  "least_share": sum(c for n, c in histogram.items() if n <= 1) / sum(histogram.values())},
        "long": {"prefill_ms": long["baseline"]["prefill_ms"], "plain_ms": long["baseline"]["total_ms"],
                 "total_ms": long["L4"]["total_ms"], "ratio_of_means": ratio(long)},
    }  # fmt: skip


def _openings(path: Path) -> dict[str, Any]:
    """How often the most common token stands at each of the first eight places of the target's answers."""
    try:
        with gzip.open(path, "rt") as file:
            answers = [json.loads(line)["target"] for line in file]
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    columns = [[answer[place] for answer in answers if len(answer) > place] for place in range(8)]
    shares = [Counter(column).most_common(1)[0][1] / len(answers) for column in columns]
    return {"num_answers": len(answers), "shares": shares}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable JSON file: {error}") from error


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
