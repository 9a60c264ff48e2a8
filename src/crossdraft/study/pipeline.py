"""A whole study on the built-in pair: scenes, extraction, training, evaluation, the live check, verdicts, report.

Everything is kept in one folder and taken from there when the study is called again, so a break costs the stage it
fell into. Worker processes of one thread each do extraction, training and judging; the live check runs alone.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from crossdraft import build
from crossdraft.bench.profile import LatencyProfile
from crossdraft.core.errors import SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.data.scenes import write_streams
from crossdraft.data.store import Store
from crossdraft.evaluate.compare import Compared
from crossdraft.evaluate.latency import origins, times_from_profile
from crossdraft.evaluate.offline import Candidate, Judged
from crossdraft.evaluate.prediction import Acceptance
from crossdraft.evaluate.viability import judge as judge_viability
from crossdraft.extraction.capture import ExtractConfig
from crossdraft.report.assemble import write_report
from crossdraft.study import evaluation, live
from crossdraft.study.evaluation import LENGTH, Report, read_models, record_of
from crossdraft.study.live import Entrant, alphas_of, check_live
from crossdraft.study.stages import (
    TARGET,
    Extraction,
    Judging,
    Training,
    fill_store,
    judge_one,
    scene_seed,
    train,
)
from crossdraft.training.adapters import ADAPTER
from crossdraft.training.adapters import RECORD as TRAINING_RECORD

KIND, RECORD, PAGE = "study", "study.json", "report.html"
MODES = ("teacher-forced", "free-running")
# the dearest first, so that workers end together
LEVELS = ("l5f_sound", "l5_tokens", "b1_sound", "l5", "l4", "l4_causal", "l3", "l2", "l1")
COMPARED = ("l5", "l4", "l3", "l2", "l1")
"""Levels that are trained on free-running pairs as well."""


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """How much of everything. clips: of each stream; per_clip: questions about each; live: questions answered."""

    train_streams: int = 20
    train_clips: int = 10
    train_per_clip: int = 6
    test_streams: int = 8
    test_clips: int = 5
    test_per_clip: int = 4
    levels: tuple[str, ...] = LEVELS
    compared: tuple[str, ...] = COMPARED
    epochs: int = 8
    distil_epochs: int = 8
    live: int = 20
    max_new_tokens: int = 128
    seed: int = 0


QUICK = StudySize(
    train_streams=2, train_clips=2, train_per_clip=1, test_streams=2, test_clips=2, test_per_clip=1,
    levels=("l5f_sound", "l4", "l1"), compared=("l1",), epochs=1, distil_epochs=1, live=2, max_new_tokens=24,
)  # fmt: skip
"""Every stage once, in a minute or two: it shows that all works, its figures mean nothing."""


@dataclass
class Study:
    """One study in one folder. processes: workers of one thread each."""

    out: Path
    size: StudySize
    processes: int
    report: Report
    note: Callable[[str], None]
    stages: dict[str, float] = field(default_factory=dict)
    workers: ProcessPoolExecutor = field(init=False, repr=False)

    def run(self) -> dict[str, Any]:
        """All stages; the body of the study's record. Raises what the stages raise."""
        spawned = multiprocessing.get_context("spawn")  # a forked torch may hang
        # the same for all stages: a worker's start takes seconds
        with ProcessPoolExecutor(self.processes, mp_context=spawned) as self.workers:
            extractions = self._timed("scenes", self._scenes)
            self._timed("extraction", lambda: self._fill(extractions.values()))
            trained = self._timed("training", lambda: self._train(extractions))
            more = self._changed(extractions["test"], extractions["test-shuffled"], trained)
            self._timed("extraction, changed event models", lambda: self._fill(more.values()))
            judged = self._timed("evaluation", lambda: self._evaluate(extractions, more, trained))
        body, profile = self._timed("live check", lambda: self._live(extractions, more, trained, judged))
        self._timed("verdicts", lambda: self._verdicts(judged, profile))
        summary: dict[str, Any] = {
            "size": asdict(self.size), "processes": self.processes, "seconds": self.stages,
            **_findings([row for _, row, _ in judged], body), "provenance": provenance(),
        }  # fmt: skip
        write_record(self.out / RECORD, KIND, summary)
        records = [self.out / "records", *sorted((self.out / "training").rglob(TRAINING_RECORD))]
        write_report(records, self.out / PAGE, "A study of the built-in pair")
        return summary

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        self.report(stage, len(self.stages), 7)
        made = work()
        self.stages[stage] = round(time.monotonic() - start, 1)
        self.note(f"{stage}: {self.stages[stage]:.0f} s")
        return made

    def _shared_out(self, work: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Results in the order of the tasks."""
        return [future.result() for future in [self.workers.submit(work, *task) for task in tasks]]

    # -- data ------------------------------------------------------------------------------------------------------

    def _scenes(self) -> dict[str, Extraction]:
        """Write both sets of scenes; the stores to fill, by name."""
        size, data = self.size, self.out / "scenes"
        for which, streams, clips in (
            ("train", size.train_streams, size.train_clips),
            ("test", size.test_streams, size.test_clips),
        ):
            write_streams(data / which, streams, clips, scene_seed(size.seed, which))

        def store(name: str, which: str, per_clip: int, answers: str | None = None, **config: Any) -> Extraction:
            return Extraction(
                root=str(self.out / "stores" / name), data=str(data / which), per_clip=per_clip,
                answers=None if answers is None else str(self.out / "stores" / answers),
                config=ExtractConfig(max_new_tokens=size.max_new_tokens, top_k=16, **config),
            )  # fmt: skip

        return {
            "teacher-forced": store("teacher-forced", "train", size.train_per_clip),
            "test": store("test", "test", size.test_per_clip),
            "free-running": store(
                "free-running", "train", size.train_per_clip, "teacher-forced", mode="free-running"
            ),
            "test-shuffled": store("test-shuffled", "test", size.test_per_clip, "test", shuffled=True),
        }

    def _changed(self, right: Extraction, other: Extraction, trained: dict[str, str]) -> dict[str, Extraction]:
        """Stores of the test set as event models see it that training changed, right clip and shuffled."""
        models: dict[str, dict[str, Any]] = {
            "l6": {"lora": str(Path(trained["l6"]) / ADAPTER)},
            "distilled": {"event_model": trained["distilled"]},
            build.NANO_DISTILLED: {"event_model": build.NANO_DISTILLED},
        }
        return {
            f"{name}{suffix}": replace(
                one, root=str(self.out / "stores" / f"test-{name}{suffix}"), answers=right.root, **changes
            )
            for name, changes in models.items()
            for one, suffix in ((right, ""), (other, "-shuffled"))
        }

    def _fill(self, extractions: Iterable[Extraction]) -> None:
        """Those that run the target first, for the others read its answers."""
        for needs_answers in (False, True):
            some = [e for e in extractions if (e.answers is not None) == needs_answers]
            if some:
                self._shared_out(fill_store, [(e, w, self.processes) for e in some for w in range(self.processes)])

    # -- training --------------------------------------------------------------------------------------------------

    def _train(self, extractions: dict[str, Extraction]) -> dict[str, str]:
        """{what: folder} of everything that was trained."""
        size, source = self.size, extractions["teacher-forced"]
        tasks = {}
        for what, mode, epochs in (
            ("distilled", MODES[0], size.distil_epochs),
            ("l6", MODES[0], size.distil_epochs),
            *((level, MODES[0], size.epochs) for level in size.levels),
            *((level, MODES[1], size.epochs) for level in size.compared),
        ):
            name = what if mode == MODES[0] else f"{what}, {mode}"
            tasks[name] = Training(
                what=what, store=extractions[mode].root, epochs=epochs, data=source.data, per_clip=source.per_clip,
                out=str(self.out / "training" / mode / what), seed=size.seed,
            )  # fmt: skip
        self._shared_out(train, [(task,) for task in tasks.values()])
        return {name: task.out for name, task in tasks.items()}

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _evaluate(
        self, extractions: dict[str, Extraction], more: dict[str, Extraction], trained: dict[str, str]
    ) -> list[tuple[Candidate, Compared, Judged]]:
        right, other = extractions["test"].root, extractions["test-shuffled"].root
        tasks = [
            Judging(store=right, shuffled=other, adapter=str(Path(folder) / ADAPTER))
            for name, folder in trained.items()
            if name not in ("l6", "distilled")
        ]
        tasks.append(Judging(store=right, shuffled=other, adapter=None))
        for name, event_model in (("distilled", trained["distilled"]), (build.NANO_DISTILLED,) * 2):
            tasks.append(
                Judging(
                    store=more[name].root, shuffled=more[f"{name}-shuffled"].root, adapter=None,
                    event_model=event_model, name=name,
                )
            )  # fmt: skip
        tasks.append(
            Judging(
                store=more["l6"].root, shuffled=more["l6-shuffled"].root,
                adapter=str(Path(trained["l6"]) / ADAPTER),
            )
        )  # fmt: skip
        judged = [row for rows in self._shared_out(judge_one, [(task,) for task in tasks]) for row in rows]
        body = record_of(
            [row for _, row, _ in judged], Store.open(right), read_models(TARGET, None).tokenizer,
            has_shuffled=True, learn_from=Store.open(extractions["teacher-forced"].root),
        )  # fmt: skip
        write_record(self.out / "records" / "evaluation.json", evaluation.KIND, body)
        return judged

    # -- live ------------------------------------------------------------------------------------------------------

    def _live(
        self,
        extractions: dict[str, Extraction],
        more: dict[str, Extraction],
        trained: dict[str, str],
        judged: Sequence[tuple[Candidate, Compared, Judged]],
    ) -> tuple[dict[str, Any], LatencyProfile]:
        build.set_threads(1)
        target = build.load_target(TARGET, device="cpu")
        events = {
            "": build.load_event_model("nano", device="cpu"),
            "l6": build.load_event_model("nano", device="cpu", lora=Path(trained["l6"]) / ADAPTER),
            "distilled": build.load_event_model(trained["distilled"], device="cpu"),
            build.NANO_DISTILLED: build.load_event_model(build.NANO_DISTILLED, device="cpu"),
        }
        best = _best_adapter(judged)[0].name
        entrants = []
        for candidate, _, own in judged:
            if own.runs is None:
                continue
            which = candidate.name if candidate.name in events else ""
            root = extractions["test"].root if which == "" else more[which].root
            shown = candidate.name in (best, "event model", "distilled", build.NANO_DISTILLED)
            entrants.append(
                Entrant(candidate, build.Pair(target, events[which]), Store.open(root), own, with_shuffled=shown)
            )
        body = check_live(
            entrants, extractions["test"].jobs(), count=self.size.live, seed=self.size.seed,
            max_new_tokens=self.size.max_new_tokens, report=self.report,
        )  # fmt: skip
        write_record(self.out / "records" / "live.json", live.KIND, body)
        return body, build.profile_pair(build.Pair(target, events[build.NANO_DISTILLED]))

    # -- verdicts --------------------------------------------------------------------------------------------------

    def _verdicts(self, judged: Sequence[tuple[Candidate, Compared, Judged]], profile: LatencyProfile) -> None:
        """Of the best adapter and of the distilled event models."""
        times = times_from_profile(asdict(profile))
        distilled = [row for row in judged if row[0].name in ("distilled", build.NANO_DISTILLED)]
        for candidate, row, own in (_best_adapter(judged), *distilled):
            assert own.runs is not None and row.rounds is not None
            acceptance = Acceptance(alphas_of(own.runs, LENGTH))
            tokens = round(sum(map(len, own.runs)) / len(own.runs))
            draft = row.rounds.tau_draft
            around = acceptance.mean_accepted - draft.value  # the two differ by the rounds cut at an answer's end
            interval = (max(0.0, draft.low + around), min(float(LENGTH), draft.high + around))
            verdicts = judge_viability(times, acceptance, max(2, tokens), interval=interval)
            body = {
                "name": candidate.name, "tokens": tokens, "acceptance": asdict(acceptance), "interval": interval,
                "times": origins(times), "verdicts": [asdict(v) for v in verdicts],
            }  # fmt: skip
            write_record(self.out / "records" / f"verdict-{candidate.name}.json", "verdict", body)


def _best_adapter(
    judged: Sequence[tuple[Candidate, Compared, Judged]],
) -> tuple[Candidate, Compared, Judged]:
    """The adapter with the most tokens a pass, of those that can draft."""

    def tau(row: tuple[Candidate, Compared, Judged]) -> float:
        return row[1].rounds.tau.value if row[1].rounds is not None else 0.0

    return max((row for row in judged if row[2].runs is not None and row[0].adapter), key=tau)


def _findings(rows: Sequence[Compared], body: dict[str, Any]) -> dict[str, Any]:
    """What the study is asked for, in figures: objective against objective, the events' share, prediction against
    the clock."""
    tau = {row.name: row.rounds.tau.value for row in rows if row.rounds is not None}
    contributions = {
        row.name: asdict(row.contribution["tau"]) for row in rows if row.contribution and "tau" in row.contribution
    }
    against = {
        row["drafter"]: {
            "tau": row["tau"] / row["predicted_tau"],
            "speedup_e2e": row["speedup_e2e"] / row["predicted_speedup_e2e"],
        }
        for row in body["rows"]
        if row["predicted_tau"] is not None
    }
    return {
        "tau": tau,
        "teacher_forced_over_free_running": {
            name: tau[name] / tau[f"{name}, {MODES[1]}"] for name in tau if f"{name}, {MODES[1]}" in tau
        },
        "events_contribution_tau": contributions,
        "live_over_predicted": against,
        "identical": all(row["identical"] for row in body["rows"]),
    }


def run_study(
    out: str | Path,
    size: StudySize,
    *,
    processes: int | None = None,
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run, or go on with, the study in the folder ``out``; the body of OUT/study.json. OUT/report.html shows it.

    processes: workers; None: one for each core, at most 2. Raises SettingError for a number below 1, and what the
    stages raise.
    """
    count = min(2, os.cpu_count() or 1) if processes is None else processes
    if count < 1:
        raise SettingError(f"processes is {count}, must be 1 or more")
    return Study(Path(out), size, count, report, note).run()
