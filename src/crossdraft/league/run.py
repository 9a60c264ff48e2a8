"""One run of the league: checked before any weight is loaded, then loaded, tuned where it shall be, and played."""

import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossdraft.bench.league import Method, play, tune, with_budget
from crossdraft.bench.league_rows import Auditor, league_rows, tau_differences
from crossdraft.bench.paired import PLAIN
from crossdraft.bench.round_shares import round_shares
from crossdraft.bench.verify_cost import verify_costs
from crossdraft.bench.workbench import Report, silent
from crossdraft.build import (
    NANO,
    Pair,
    Source,
    load_pair,
    pick_device,
    pick_dtype,
    plan_pair,
    watches,
    with_trees,
    workbench,
)
from crossdraft.core.errors import SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.registry import find
from crossdraft.core.types import Limits, Sampling
from crossdraft.drafters.shapes import check_size
from crossdraft.league.methods import METHODS, Setup
from crossdraft.league.prompts import STREAMS, TEXT, TUNE, PromptSet, read_prompt_set

KIND = "league"
MODES = ("own", "equal", "best")
LIMIT = 16
BUDGET = {"nodes": 16, "depth": 6}


@dataclass(frozen=True, kw_only=True)
class LeagueConfig:
    """What a league is run with.

    methods: names of ``METHODS``, or "all". prompts: see ``league.prompts``; None: "streams" for the built-in
    target and "league" for others. limit: prompts of each part, at most.
    mode: "own" (every method as it comes), "equal" (drafts of at most ``nodes`` nodes and ``depth`` levels), "best"
    (the settings that were fastest on the part "tune"). repeats: at temperature 0; above it every seed is run once.
    traces: prompts whose requests are kept in every detail. seed: of the orders and of the bootstrap.
    threads: of the CPU; one is steadier on a machine that does other things too. heads, adapters: folders of
    trained ones; draft_model: a smaller model. trees: how the target scores them, "exact"
    or "near-exact".
    """

    target: str
    methods: tuple[str, ...]
    event_model: str | None = None
    prompts: str | None = None
    limit: int = LIMIT
    temperatures: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0, 1, 2)
    mode: str = "own"
    nodes: int | None = None
    depth: int | None = None
    repeats: int = 2
    max_new_tokens: int = 128
    traces: int = 2
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = 1
    heads: Path | None = None
    adapters: Path | None = None
    draft_model: str | None = None
    trees: str = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0 or min(self.seeds, default=0) < 0:
            raise SettingError("a seed is negative; give whole numbers from 0 on")
        for name in ("limit", "nodes", "depth", "repeats"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SettingError(f"{name} is {value}, must be 1 or more")
        check_size(self.nodes, self.depth)
        if self.mode not in MODES:
            raise SettingError(f"unknown mode '{self.mode}'; choose one of {', '.join(MODES)}")
        for name in BUDGET:
            if getattr(self, name) is not None and self.mode != "equal":
                raise SettingError(f"{name} is for mode equal, and the mode is {self.mode}; leave it out")
        if not self.temperatures or not self.methods or not self.seeds:
            raise SettingError("a league needs at least one method, one temperature and one seed")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise SettingError("a temperature is given twice; give each once")
        for temperature in self.temperatures:
            Sampling(temperature=temperature)
        Limits(max_new_tokens=self.max_new_tokens)
        for method in self.names:
            find("method", dict.fromkeys(METHODS, "builtins:object"), method)
        for what, folder in (("heads", self.heads), ("adapters", self.adapters)):
            if folder is not None and folder.is_file():
                raise SettingError(f"{folder} is a file; name the folder of {what} that it lies in")
            if folder is not None and not folder.is_dir():
                raise SettingError(f"there is no folder of {what} {folder}; train some, or leave it out")
        pick_dtype(self.dtype, pick_device(self.device), engine=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Methods by name, plain decoding first, none of them twice."""
        chosen = METHODS if "all" in self.methods else self.methods
        return tuple(dict.fromkeys((PLAIN, *chosen)))

    @property
    def budget(self) -> dict[str, int]:
        """Of a draft in mode equal."""
        return {name: most if (own := getattr(self, name)) is None else own for name, most in BUDGET.items()}

    @property
    def source(self) -> str:
        """Where prompts come from."""
        return self.prompts or (STREAMS if self.target == NANO else TEXT)


def run_league(config: LeagueConfig, report: Report = silent) -> dict[str, Any]:
    """The body of a league's record: rows, costs of passes, traces, tuning, where it all came from.

    Raises DataError, SettingError and CheckpointError for what cannot be read, before weights are loaded where that
    is possible, and what plain decoding raises. A method that fails is a row with its reason. Interrupted, it ends
    with what the whole heats so far gave, and says so; before the first one it raises KeyboardInterrupt.
    """
    start = time.perf_counter()
    report("reading prompts", 0, 0)
    held_out = read_prompt_set(config.source, config.limit)
    tuning = read_prompt_set(config.source, config.limit, TUNE) if config.mode == "best" else None
    plan = plan_pair(config.target, config.event_model)
    if not held_out.shows_pictures and watches(config.target):
        raise SettingError(
            f"{config.target} watches pictures and the prompts '{config.source}' are text alone; name {STREAMS} or "
            "a folder of clips with --prompts"
        )
    report("loading the target", 0, 0)
    pair = load_pair(plan, dtype=config.dtype, device=config.device, threads=config.threads)
    if config.trees != "exact":
        pair = replace(pair, target=with_trees(pair.target, config.trees))
    prompts = held_out.prompts
    # drafts are sized by costs of this very run: kept ones may be of a busier hour
    bench = workbench(pair, prompts[0], refresh=True, report=report)
    source = Source.of(config.target, "target", config.dtype, config.device, engine=True)
    setup = Setup(pair, bench, source, config.heads, config.adapters, config.draft_model)
    methods, tuned = _settle(config, setup, tuning, report)
    results = play(
        bench, methods, prompts, temperatures=config.temperatures, seeds=config.seeds, repeats=config.repeats,
        max_new_tokens=config.max_new_tokens, traces=config.traces, seed=config.seed, report=report,
    )  # fmt: skip
    report("re-scoring answers", 0, 0)
    played = tuple(t for t in config.temperatures if (t, PLAIN) in results.played)
    rows = league_rows(results, methods, played, Auditor(pair.target, prompts), config.seed)
    report("timing passes", 0, 0)
    sync = torch.cuda.synchronize if source.device.startswith("cuda") else None
    return {
        **_told(config, pair, source, held_out),
        "temperatures": played,
        "interrupted": results.interrupted,
        "rows": [asdict(row) for row in rows],
        "tau_differences": tau_differences(rows, config.seed),
        "verify_costs": verify_costs(pair.target, prompts[0], sync=sync),
        "round_shares": round_shares(
            bench,
            [] if results.interrupted else [m for m in methods if m.name not in results.failures],
            prompts[0],
            max_new_tokens=min(64, config.max_new_tokens),
            sync=sync,
        ),
        "tuning": tuned,
        "traces": results.traces,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


def _settle(
    config: LeagueConfig, setup: Setup, tuning: PromptSet | None, report: Report
) -> tuple[list[Method], dict[str, Any] | None]:
    """The methods with the settings that they shall run with, and how these were found."""
    methods = [METHODS[name](setup) for name in config.names]
    if config.mode == "equal":
        return with_budget(methods, **config.budget), None
    if tuning is None:
        return methods, None
    methods, told = tune(
        setup.bench, methods, tuning.prompts, temperature=config.temperatures[0],
        max_new_tokens=config.max_new_tokens, seed=config.seed, report=report,
    )  # fmt: skip
    return methods, {**told, "prompts": tuning.told()}


def _told(config: LeagueConfig, pair: Pair, source: Source, prompts: PromptSet) -> dict[str, Any]:
    settings = asdict(replace(config, heads=None, adapters=None))
    for name in ("methods", "prompts", "target", "dtype", "device", "threads", "heads", "adapters", *BUDGET):
        del settings[name]
    if config.mode == "equal":
        settings |= config.budget
    return {
        "target": pair.target.name, "event_model": None if pair.event_model is None else pair.event_model.name,
        "dtype": source.dtype, "device": source.device, "threads": torch.get_num_threads(),
        "prompts": prompts.told(), **{key: value for key, value in settings.items() if key != "event_model"},
        "exactness": vars(pair.target.exactness),
    }  # fmt: skip
