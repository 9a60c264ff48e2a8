"""The parts of a study that a worker process does alone: fill a store, train one module, judge one candidate.

Each is called by its own arguments, all plain values, and is resumed by being called again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossdraft import build
from crossdraft.core.errors import DataError
from crossdraft.core.seeds import seed_for
from crossdraft.data.store import Store, StoreWriter, load_head
from crossdraft.evaluate.compare import Compared, compare_one
from crossdraft.evaluate.offline import Candidate, Judged
from crossdraft.extraction.capture import ExtractConfig, extract
from crossdraft.extraction.jobs import Job, find_jobs
from crossdraft.nn.losses import TOKENS
from crossdraft.runs import train_on_store
from crossdraft.study.evaluation import LENGTH, group_of, read_models
from crossdraft.training.adapters import AdapterTraining
from crossdraft.training.distil import DistilTraining, distil

TARGET = "nano"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A store to fill. answers: a store whose target's side is taken; lora: merged into the event model first."""

    root: str
    data: str
    per_clip: int
    event_model: str = "nano"
    lora: str | None = None
    answers: str | None = None
    config: ExtractConfig

    def jobs(self) -> list[Job]:
        """What is extracted."""
        return find_jobs(self.data, None, per_clip=self.per_clip, shuffle=self.config.shuffled)


def fill_store(extraction: Extraction, worker: int, workers: int) -> None:
    """Do this worker's share of an extraction. Raises DataError when a sample fails: a study wants all of them."""
    build.set_threads(1)
    jobs = extraction.jobs()
    plan = replace(build.plan_pair(TARGET, extraction.event_model, "memory", both=True), adapter=extraction.lora)
    extractor = build.load_extractor(
        plan, extraction.config, device="cpu", threads=1, answers=extraction.answers, jobs=jobs
    )
    with StoreWriter(extraction.root, extractor.identity(), prefix=f"w{worker}") as writer:
        build.keep_head(extraction.root, TARGET)
        made = extract(extractor, jobs[worker::workers], writer)
    if made.failed:
        raise DataError(
            f"{extraction.root}: {made.failed} samples failed; see: crossdraft store stats {extraction.root}"
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """One module to train. what: a level of the adapters, "l6" (as the study trained it), or "distilled"."""

    what: str
    store: str
    out: str
    epochs: int
    data: str
    per_clip: int
    seed: int = 0


def train(task: Training) -> dict[str, Any]:
    """Train, or go on; the record that is in OUT/training.json."""
    build.set_threads(1)
    if task.what in ("l6", "distilled"):
        whole = task.what == "distilled"
        config = DistilTraining(
            mode="full" if whole else "l6", loss="tokens" if whole else "states", epochs=task.epochs,
            peak_lr=1e-3, batch=4, seed=task.seed,
        )  # fmt: skip
        store = Store.open(task.store)
        record = distil(
            build.resolve("nano", "event"), store, find_jobs(task.data, None, per_clip=task.per_clip), task.out,
            config, head=load_head(task.store),
        )  # fmt: skip
        assert record is not None, "it was not told to stop early"
        return record
    adapter = AdapterTraining(
        level=task.what, loss=TOKENS, epochs=task.epochs, batch=32,
        peak_lr=3e-3, dtype="bfloat16", seed=task.seed,
    )  # fmt: skip
    return train_on_store(task.store, task.out, adapter, target=TARGET)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """One adapter, or for None an event model's own head, to be judged on a store beside its shuffled control."""

    store: str
    shuffled: str
    adapter: str | None
    event_model: str = "nano"
    name: str = "event model"


def judge_one(task: Judging) -> list[tuple[Candidate, Compared, Judged]]:
    """The rows of one adapter (two for a level that looks ahead), with what they rest on."""
    build.set_threads(1)
    models = read_models(TARGET, task.event_model)
    store, shuffled = Store.open(task.store), Store.open(task.shuffled)
    if task.adapter is None:
        assert models.own_head is not None
        candidates = [Candidate(task.name, models.own_head)]
    else:
        files = [Path(task.adapter)]
        candidates = list(group_of(store, files, replace(models, own_head=None)).candidates)
    return [
        (candidate, *compare_one(store, candidate, shuffled=shuffled, length=LENGTH, depth=LENGTH))
        for candidate in candidates
    ]


def scene_seed(seed: int, which: str) -> int:
    """Seed of a study's scenes, 50,000 or more: the built-in models were taught on sets of lower seeds, and demo
    and tests use small ones."""
    drawn = 10_000 + seed_for(seed, f"study/{which}") % 1_000_000
    return drawn if drawn >= 50_000 else drawn + 50_000
