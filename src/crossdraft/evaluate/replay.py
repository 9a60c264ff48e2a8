"""A study's per-sample end-to-end records, added up anew: what was really gained, and where the time went.

The records are a CSV (``.csv`` or ``.csv.gz``) with one row for each configuration, sample and question. Needed
columns: config, sample, question_idx, n_tokens, drafted, accepted, total_ms, baseline_total_ms; adapter_ms and
vl_decode_ms (one verification, then plain decoding) only for ``fit_one_verification``; ``run`` where a file holds
several. Times are milliseconds. Rows of the configuration "baseline" are plain decoding, which every other row
repeats as its ``baseline_total_ms``.
"""

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from crossdraft.core.errors import DataError

BASELINE = "baseline"
QUANTILES = (5, 10, 25, 50, 75, 90, 95)
_NEEDED = (
    "config", "sample", "question_idx", "n_tokens", "drafted", "accepted", "total_ms", "baseline_total_ms",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One answer of one configuration; times in ms. baseline_ms: plain decoding of the same sample and question."""

    run: str
    config: str
    sample: int
    question: int
    num_tokens: int
    drafted: int
    accepted: int
    total_ms: float
    baseline_ms: float
    adapter_ms: float | None
    verify_decode_ms: float | None

    @property
    def speedup(self) -> float:
        """Plain decoding / this configuration, a ratio."""
        return self.baseline_ms / self.total_ms


@dataclass(frozen=True)
class Replay:
    """One configuration over all its samples.

    ratio_of_means: summed plain times / summed times, the figure to quote; mean_of_ratios: the mean of the samples'
    speed-ups, which flatters. quantiles: percent -> value, linear between order statistics. slower_share: share of
    samples that took longer than plain decoding. gain_ms_by_accepted: mean ms saved, by accepted tokens.
    """

    config: str
    num_samples: int
    ratio_of_means: float
    mean_of_ratios: float
    speedup_quantiles: dict[int, float]
    slower_share: float
    accepted_mean: float
    accepted_sd: float | None
    accepted_quantiles: dict[int, float]
    accepted_histogram: dict[int, int]
    accepted_by_question: dict[int, float]
    gain_ms_by_accepted: dict[int, float]


@dataclass(frozen=True)
class OneVerification:
    """Least squares of ``verify + step x remaining tokens`` over samples that verify once; all in ms.

    break_even_accepted: accepted tokens at which (accepted + 1) steps pay for verification and adapter.
    """

    verify_ms: float
    step_ms: float
    adapter_ms: float
    break_even_accepted: float


def read_samples(path: str | Path) -> list[Sample]:
    """Every row that drafted. DataError, naming file, row and column, for a file that is missing, cut or
    malformed."""
    path = Path(path)
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else open(path, newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
                raise DataError(f"{path}: there is no column '{missing[0]}'; needed: {', '.join(_NEEDED)}")
            found = _samples(reader, path)
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); it may be cut or no CSV") from error
    if not found:
        raise DataError(f"{path} has no row beside the baseline's, so there is nothing to replay")
    return found


def replay(samples: Sequence[Sample], config: str) -> Replay:
    """Add up ``config``'s samples. DataError when it has none."""
    own = _of(samples, config)
    speedups = [s.speedup for s in own]
    accepted = [s.accepted for s in own]
    return Replay(
        config=config,
        num_samples=len(own),
        ratio_of_means=sum(s.baseline_ms for s in own) / sum(s.total_ms for s in own),
        mean_of_ratios=fmean(speedups),
        speedup_quantiles=_quantiles(speedups),
        slower_share=fmean(s < 1 for s in speedups),
        accepted_mean=fmean(accepted),
        accepted_sd=stdev(accepted) if len(own) > 1 else None,
        accepted_quantiles=_quantiles(accepted),
        accepted_histogram=dict(sorted(Counter(accepted).items())),
        accepted_by_question=_means(own, lambda s: s.question, lambda s: float(s.accepted)),
        gain_ms_by_accepted=_means(own, lambda s: s.accepted, lambda s: s.baseline_ms - s.total_ms),
    )


def configs_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The configurations in the order of their first row."""
    return tuple(dict.fromkeys(s.config for s in samples))


def fit_one_verification(samples: Sequence[Sample], config: str) -> OneVerification:
    """What the verify pass and a plain step cost, from samples that draft and verify once and then decode plainly.

    Of N tokens the first comes from the prefill and accepted + 1 from the verification, so N - accepted - 2 steps
    are left. break-even: (verify + adapter) / step - 1. DataError when the columns are empty or all answers left
    equally many steps. Source: project derivation (ordinary least squares).
    """
    own = _of(samples, config)
    if any(s.verify_decode_ms is None or s.adapter_ms is None for s in own):
        raise DataError(f"'{config}' has samples without vl_decode_ms or adapter_ms, so nothing can be fitted")
    steps = np.array([max(0, s.num_tokens - s.accepted - 2) for s in own], float)
    spent = np.array([s.verify_decode_ms for s in own], float)
    if np.ptp(steps) == 0:
        raise DataError(
            f"all samples of '{config}' left equally many steps, so a step cannot be told from the pass"
        )
    slope, base = np.polyfit(steps, spent, 1)
    adapter = fmean(s.adapter_ms or 0.0 for s in own)
    return OneVerification(float(base), float(slope), adapter, float((base + adapter) / slope - 1))


def _of(samples: Sequence[Sample], config: str) -> list[Sample]:
    own = [s for s in samples if s.config == config]
    if not own:
        raise DataError(f"there is no sample of '{config}'; there are {', '.join(configs_of(samples)) or 'none'}")
    if len(runs := dict.fromkeys(s.run for s in own)) > 1:
        raise DataError(f"'{config}' was run {len(runs)} times ({', '.join(runs)}); take the samples of one run")
    return own


def _quantiles(values: Sequence[float]) -> dict[int, float]:
    return dict(zip(QUANTILES, np.percentile(values, QUANTILES).tolist(), strict=True))


def _means(own: list[Sample], key: Callable[[Sample], int], value: Callable[[Sample], float]) -> dict[int, float]:
    return {k: fmean(value(s) for s in own if key(s) == k) for k in sorted({key(s) for s in own})}


# --- cells ------------------------------------------------------------------------------------------------------


def _samples(reader: "csv.DictReader[str]", path: Path) -> list[Sample]:
    seen: dict[tuple[str, str, int, int], int] = {}
    found = []
    for row in reader:
        where = f"{path}: row {reader.line_num}"
        if None in row or None in row.values():
            raise DataError(f"{where} has another number of cells than the header has columns")
        if row["config"] == BASELINE:
            continue
        sample = _sample(row, where)
        first = seen.setdefault((sample.run, sample.config, sample.sample, sample.question), reader.line_num)
        if first != reader.line_num:
            raise DataError(f"{where} is sample {sample.sample}, question {sample.question} of row {first} again")
        found.append(sample)
    return found


def _sample(row: dict[str, str], where: str) -> Sample:
    def number(column: str, least: float = 0.0) -> float:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            raise DataError(f"{where}, column '{column}': '{row[column]}' is not a number of {least:g} or more")
        return value

    def count(column: str) -> int:
        value = number(column)
        if value != int(value):
            raise DataError(f"{where}, column '{column}': '{row[column]}' is not a whole number")
        return int(value)

    def time(column: str) -> float:
        if number(column) == 0:
            raise DataError(f"{where}, column '{column}': a request cannot have taken 0 ms")
        return number(column)

    found = Sample(
        run=row.get("run", ""), config=row["config"],
        sample=count("sample"), question=count("question_idx"), num_tokens=count("n_tokens"),
        drafted=count("drafted"), accepted=count("accepted"), total_ms=time("total_ms"),
        baseline_ms=time("baseline_total_ms"), adapter_ms=number("adapter_ms") if row.get("adapter_ms") else None,
        verify_decode_ms=number("vl_decode_ms") if row.get("vl_decode_ms") else None,
    )  # fmt: skip
    if found.accepted > found.drafted:
        raise DataError(f"{where}, column 'accepted': {found.accepted} of {found.drafted} drafted tokens")
    return found
