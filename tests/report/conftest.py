"""A run with a record of every kind, each made through the dataclasses that real commands write."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossdraft.bench.demo import DemoResult
from crossdraft.bench.league import Cost, Method, Played, Results
from crossdraft.bench.league_rows import Auditor, league_rows
from crossdraft.bench.paired import summarise
from crossdraft.bench.profile import LatencyProfile, save
from crossdraft.bench.verdict import describe, rounds_of
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.types import Generation, Round
from crossdraft.evaluate.acceptance import (
    Rounds,
    as_record,
    match_by_cosine,
    round_figures,
    state_figures,
    tau_contribution,
    token_contribution,
    token_figures,
)
from crossdraft.evaluate.intervals import Recordings
from crossdraft.evaluate.latency import FIGURES, Times
from crossdraft.evaluate.prediction import Acceptance
from crossdraft.evaluate.ragged import Cosines, Matches
from crossdraft.evaluate.viability import judge

Body = dict[str, Any]
Write = Callable[..., Path]
SKILL = {"cross_modal": 0.82, "l1 (reads its answer)": 0.97, "constant": 0.45, "memory": 0.72, "ngram": 0.35}
CONTROLS = ("constant", "memory", "ngram")
QUESTION = "What moves in <this> scene & where?"


def generations(skill: float, noise: np.random.Generator, clips: int = 12, source: str = "x") -> list[Generation]:
    """Answers of 24 tokens whose drafts of 5 are accepted with chance ``skill`` each."""
    answers = []
    for clip in range(clips):
        rounds, left = [], 23
        while left > 0:
            drafted = min(5, left - 1) if skill else 0
            hits = noise.random(drafted) < skill - 0.02 * (clip % 4)
            accepted = drafted if hits.all() else int(hits.argmin())
            spans = {"draft": 0.3 * drafted, "verify": 10.0 + 0.4 * drafted}
            rounds.append(Round(source, drafted, accepted, accepted + 1, spans))
            left -= accepted + 1
        decode = sum(sum(r.spans_ms.values()) for r in rounds)
        spans = {"encode": 12.0, "prefill": 60.0 + clip, "decode": decode, "total": 72.0 + clip + decode}
        answers.append(Generation(tokens=list(range(24)), rounds=rounds, text="a car turns left", spans_ms=spans))
    return answers


def evaluation_row(name: str, skill: float, recordings: Recordings) -> Body:
    noise = np.random.default_rng(len(name))
    lengths = noise.integers(6, 15, recordings.num_samples)

    def matches_of(chance: float) -> tuple[Cosines, Matches]:
        cosines = [np.clip(noise.normal(0.5 + 0.45 * chance, 0.12, many), -1, 1) for many in lengths]
        hits = [
            noise.random(many) < np.clip(chance + (row - 0.8), 0, 1)
            for many, row in zip(lengths, cosines, strict=True)
        ]
        return Cosines.of(cosines), Matches.of(hits)

    cosines, matches = matches_of(skill)
    own, other = (
        Rounds.of(generations(s, noise, recordings.num_samples)) for s in (skill, skill * 0.6)
    )  # fmt: skip
    control = name in CONTROLS
    shuffled = matches_of(skill * 0.6)[1]
    contribution = {
        **token_contribution(matches, shuffled, recordings),
        "tau": tau_contribution(own, other, recordings),
    }
    return {
        "name": name, "trained_on": None if control else "free-running answers",
        "parameters": 0 if control else 4_200_000,
        "void": "it reads the state it is judged by" if name.startswith("l1") else None, "is_control": control,
        "states": None if control else as_record(state_figures(cosines, recordings)),
        "tokens": as_record(token_figures(matches, recordings)),
        "map": None if control else as_record(match_by_cosine(cosines, matches, recordings)),
        "rounds": as_record(round_figures(own, recordings)),
        "contribution": None if control else as_record(contribution),
    }  # fmt: skip


@pytest.fixture(scope="session")
def evaluation() -> Body:
    """Five methods over 60 samples of 6 recordings."""
    recordings = Recordings.of([f"recording {i % 6}" for i in range(60)], draws=200)
    rows = [evaluation_row(name, skill, recordings) for name, skill in SKILL.items()]
    return {"store": "store/held-out", "mode": "free-running", "num_samples": 60, "num_recordings": 6, "rows": rows,
            "provenance": provenance()}  # fmt: skip


def picture(seed: int) -> str:
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, 80, (48, 64, 3)).astype(np.uint8)
    pixels[12:30, 4 * seed % 40 : 4 * seed % 40 + 16] = (60 + 20 * seed % 190, 180, 200)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


SENTENCE = "A red car turns left at the crossing and a man in a dark coat waits for the light to turn green ."
WORDS = tuple(SENTENCE.split(" "))


def trace_method(name: str, skill: float, noise: np.random.Generator) -> Body:
    clock, rounds, at = 72.0, [], 1
    spans = [("target", "encode", 0.0, 12.0), ("target", "prefill", 12.0, 72.0)]
    if name.startswith("cross_modal"):
        spans += [("event model", "prefill", 3.0, 20.0), ("event model", "draft", 20.0, 68.0)]
    while at < len(WORDS):
        drafted = 0 if name == "none" else min(4, len(WORDS) - at - 1)
        hits = noise.random(drafted) < skill
        accepted = drafted if hits.all() else int(hits.argmin())
        text = [" " + WORDS[at + i] if hit else " (wrong)" for i, hit in enumerate(hits)]
        if drafted:
            spans.append(
                ("event model" if name.startswith("cross_modal") else "target", "draft", clock, clock + 2.0)
            )
            clock += 2.0
        spans += [("target", "verify", clock, clock + 11.0), ("target", "commit", clock + 11.0, clock + 11.4)]
        clock += 11.4
        rounds.append({"source": name, "drafted": text, "accepted": accepted, "bonus": " " + WORDS[at + accepted]})
        at += accepted + 1
    timeline = [{"lane": lane, "what": what, "start_ms": a, "end_ms": b} for lane, what, a, b in spans]
    return {"name": name, "total_ms": clock, "rounds": rounds, "first": WORDS[0], "timeline": timeline}


@pytest.fixture(scope="session")
def live() -> Body:
    """Five contenders over twelve clips, two of them traced."""
    noise = np.random.default_rng(3)
    chances = {"none": 0.0, "cross_modal": 0.82, "memory": 0.6, "ngram": 0.3, "cross_modal (shuffled clip)": 0.5}
    rows = []
    for row in summarise({name: generations(chance, noise) for name, chance in chances.items()}):
        predicted = row.drafter == "cross_modal"
        rows.append({
            **asdict(row), "is_control": row.drafter not in ("none", "cross_modal"),
            "predicted_tau": 3.1 if predicted else None, "predicted_speedup_e2e": 1.5 if predicted else None,
            "predicted_speedup_decode": 2.2 if predicted else None,
        })  # fmt: skip
    traces = [
        {
            "title": f"clip {clip + 1}", "question": QUESTION,
            "frames": [picture(clip * 10 + i) for i in range(4)],
            "events": [picture(clip * 10 + 5 + i) for i in range(2)],
            "methods": [trace_method(name, chance, noise) for name, chance in chances.items()],
        } for clip in range(2)
    ]  # fmt: skip
    return {"clips": 12, "question": QUESTION, "rows": rows, "traces": traces, "provenance": provenance()}


def played(name: str, skill: float, plain: list[Generation], noise: np.random.Generator) -> Played:
    """A method's answers, whose tokens are plain decoding's."""
    own = generations(skill, noise, source=name)
    pairs = [(a.tokens, b.tokens) for a, b in zip(own, plain, strict=True)]
    return Played("greedy", own, plain, list(range(12)), [0] * 12, pairs)


@pytest.fixture(scope="session")
def league() -> Body:
    """Six methods at two temperatures over twelve prompts; one fails, one is lossy, one is another library's."""
    noise = np.random.default_rng(11)
    methods = [
        Method(name="none", kind="baseline"), Method(name="hf", foreign=True, kind="baseline"),
        Method(name="ngram", grid=({}, {"length": 4}), note="prompt <lookup>"),
        Method(name="eagle", kind="trained", settings={"nodes": 16}),
        Method(name="typical", kind="trained", lossless=False), Method(name="broken", kind="trained"),
        Method(name="hostile", kind="control"),
    ]  # fmt: skip
    skills = {"none": 0.0, "hf": 0.0, "ngram": 0.3, "eagle": 0.8, "typical": 0.85, "hostile": 0.05}
    plain = generations(0.0, noise)
    results = Results(
        {(t, name): played(name, skill, plain, noise) for t in (0.0, 1.0) for name, skill in skills.items()},
        {name: Cost(parameters=1_234_567 * (name == "eagle"), weight_bytes=2**21) for name in skills},
        {"broken": "needs a head; <train> one"},
    )
    known: dict[tuple[int, tuple[int, ...]], list[float]] = {(i, tuple(range(24))): [] for i in range(12)}
    rows = league_rows(results, methods, (0.0, 1.0), Auditor(None, (), known))  # type: ignore[arg-type]
    trace = {
        "title": "prompt 1", "question": QUESTION, "frames": [], "events": [],
        "methods": [trace_method(name, skills[name], noise) for name in ("none", "ngram", "eagle")],
    }  # fmt: skip
    costs = [
        {
            "context": context,
            "passes": [{"width": w, "ms": 9.0 + w, "ratio": (9.0 + w) / 10} for w in (1, 8, 64)],
            "trees": [{"width": w, "ms": 9.9 + w, "ratio": (9.9 + w) / 10} for w in (8, 64)][:more],
        }
        for context, more in ((310, 2), (822, 0))
    ]
    tried = [{"settings": {}, "error": None, "speedup_decode": 1.1, "tau": 1.2},
             {"settings": {"length": 4}, "error": "too long", "speedup_decode": None, "tau": None}]  # fmt: skip
    asked = {"name": "streams", "prompts": 12, "kinds": {"question 1": 12}, "questions_sha256": "0"}
    return {
        "target": "nano-target", "event_model": None, "dtype": "bfloat16", "device": "cpu", "threads": 1,
        "prompts": asked, "temperatures": [0.0, 1.0], "mode": "best", "rows": [asdict(row) for row in rows],
        "tau_differences": [
            {"temperature": 0.0, "above": "eagle", "below": "ngram", "difference": 0.5, "low": 0.2, "high": 0.8},
            {"temperature": 1.0, "above": "eagle", "below": "ngram", "difference": 0.1, "low": None, "high": None},
        ],
        "round_shares": [
            {"method": "eagle", "network": 0.4, "bookkeeping": 0.07, "verify": 0.5, "commit": 0.03, "round_ms": 9.0}
        ],
        "verify_costs": costs, "traces": [trace], "peak_memory_bytes": 700 * 2**20, "seconds": 61.0,
        "tuning": {"prompts": asked, "temperature": 0.0, "methods": {"ngram": {"chosen": {}, "tried": tried}}},
        "exactness": {"bit_exact": True, "detail": "by self-test", "max_rows": 64}, "provenance": provenance(),
    }  # fmt: skip


@pytest.fixture(scope="session")
def verdict() -> Body:
    """As ``crossdraft verdict --json`` prints it."""
    times = Times(
        target_encode_ms=12.0, target_prefill_ms=317.0, step_ms=14.0, verify_ms={2: 15.0, 8: 18.0, 21: 70.0},
        draft_step_ms=1.2, event_encode_ms=9.0, event_prefill_ms=83.0, window="own-device",
        assumed=frozenset({"event_prefill_ms"}),
    )  # fmt: skip
    acceptance = Acceptance((0.9, 0.88, 0.8, 0.8, 0.7, 0.7))
    shown: Body = {}
    for name in FIGURES:
        value = getattr(times, name)
        value = {str(rows): ms for rows, ms in value.items()} if name == "verify_ms" else value
        shown[name] = {"value": value, "origin": times.origin(name)}
    return {
        "tokens": 40, "times": shown, "acceptance": asdict(acceptance), "interval": (2.5, 4.0),
        "verdicts": [asdict(v) for v in judge(times, acceptance, 40, interval=(2.5, 4.0))],
    }  # fmt: skip


EPOCHS = [
    {"epoch": n, "loss": 2.0 / n + 0.4, "held_out_loss": 2.1 / n + 0.5 + 0.03 * n, "held_out_cos": 0.9 - 0.5 / n,
     "held_out_top1": 0.7 - 0.4 / n, "held_out_run": 4 - 3 / n}
    for n in range(1, 9)
]  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path, evaluation: Body, live: Body, league: Body, verdict: Body) -> Path:
    """A folder with a record of every kind."""
    root = tmp_path / "run"
    write_record(root / "evaluation.json", "evaluation", evaluation)
    write_record(root / "live.json", "live", live)
    write_record(root / "league.json", "league", {**league, "traces": []})
    write_record(root / "verdict.json", "verdict", verdict)
    training = {"name": "l4 free-running", "level": "l4", "trained_on": "free-running answers",
                "parameters": 4_200_000, "seconds": 83.2, "best_epoch": 6, "provenance": provenance()}  # fmt: skip
    write_record(root / "l4" / "training.json", "adapter-training", training)
    (root / "l4" / "log.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in EPOCHS))
    (root / "l4" / "config.json").write_text('{"level": "l4"}')
    save(
        LatencyProfile(9.0, 61.0, {1: 10.0, 2: 10.4, 4: 11.0, 8: 13.0, 16: 22.0}, 210, event_token_ms=1.2),
        root / "machine" / "profile.json",
    )  # fmt: skip
    noise = np.random.default_rng(0)
    answer = generations(0.7, noise, clips=1, source="memory")[0]
    body = {"prompt": QUESTION, "target": "nano", "drafter": "memory", **describe(answer)}
    write_record(
        root / "answer.json", "generation", {**body, "rounds": rounds_of(answer), "provenance": provenance()}
    )
    rows = summarise({"none": generations(0.0, noise), "memory": generations(0.6, noise)})
    (root / "demo.json").write_text(json.dumps(DemoResult(12, QUESTION, rows, True, "by self-test").as_json()))
    growth = {"passed": True, "verdict": "a step does not grow", "step_ms": {"64": 9.9, "1024": 10.1}}
    write_record(root / "bench" / "growth.json", "bench-growth", {**growth, "provenance": provenance()})
    write_record(root / "store.json", "paired-store", {"layers": [1, 2]})
    return root
