"""``crossdraft data answers``: a target's own answers to many prompts, the material that heads are trained on."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdraft.cli import output
from crossdraft.core.clock import past
from crossdraft.core.errors import DataError, SettingError

if TYPE_CHECKING:
    from crossdraft.build import Source
    from crossdraft.extraction.jobs import Job
    from crossdraft.training.regenerate import Answering, Asked, Regeneration

TRAINING = "training"
"""The prompts that are composed, not read."""
_COMPOSED = 5000


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft data``."""
    answers = verbs.add_parser("answers", help="a target's own answers to many prompts, to train heads on")
    answers.add_argument("--target", required=True, metavar="DIR|nano", help="checkpoint folder, hub id or nano")
    answers.add_argument(
        "--prompts", default=TRAINING, metavar="NAME|FILE|DATASET",
        help="'training' (composed from templates), 'league' (the package's own), a JSON-lines file; for a target "
        "that watches videos: a data set in EventGPT's instruction layout",
    )  # fmt: skip
    answers.add_argument(
        "--part", choices=("tune", "held-out", "training"), help="only this part of a file's prompts"
    )
    answers.add_argument("--per-clip", type=int, metavar="N", help="only so many questions of each clip")
    answers.add_argument(
        "--limit", type=int, metavar="N", help=f"so many prompts (default: {_COMPOSED} of 'training', else all)"
    )
    answers.add_argument(
        "--out", required=True, metavar="DIR", type=output.folder, help="the corpus, made or gone on with"
    )
    answers.add_argument(
        "--store", metavar="DIR", help="take the answers of this store of paired states, run nothing"
    )
    answers.add_argument(
        "--temperature", default="0", metavar="T,T,...", help="taken in turn: 0,0,0.7 samples a third (default: 0)"
    )
    answers.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
    answers.add_argument(
        "--batch", type=int, default=48, metavar="N", help="prompts at once, of text (default: 48)"
    )
    answers.add_argument(
        "--minutes", type=float, metavar="X", help="end after so long, with what is answered (default: no limit)"
    )
    answers.add_argument("--seed", type=int, default=0, metavar="S")
    answers.add_argument("--dtype", default="auto", metavar="NAME", help="auto, bfloat16 or float32")
    answers.add_argument("--device", default="cpu", help="cpu (default), cuda or auto")
    answers.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads; for text, processes of one thread (default: 1)",
    )
    answers.add_argument("--json", action="store_true", help="machine-readable")
    answers.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer what is not answered yet, and say how much there is."""
    from crossdraft.build import Source, watches
    from crossdraft.data.corpus import read_corpus
    from crossdraft.training.regenerate import Regeneration, regenerate

    for name in ("limit", "per_clip", "threads"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise SettingError(f"--{name.replace('_', '-')} is {value}, must be 1 or more")
    enough, text = past(args.minutes), not watches(args.target)
    source = Source.of(args.target, "target", args.dtype, args.device, engine=True)
    config = Regeneration(
        temperatures=_temperatures(args.temperature), max_new_tokens=args.max_new_tokens,
        batch=args.batch if text else 1, seed=args.seed,
    )  # fmt: skip
    jobs = [] if text else _jobs(args)
    asked = _asked_text(args) if text else _asked_clips(jobs)
    note = {} if text else {"clips": str(Path(args.prompts).resolve())}
    identity: dict[str, Any] = {"target": Path(source.folder).name, **source.what()}
    with output.progress(args.json) as report:
        if args.store is not None:
            made = _take_over(args, source, jobs, identity, note)
        else:
            # a GPU's kernels give other answers at near-ties
            device = None if source.device.startswith("cpu") else "cuda"
            identity |= {"settings": config.settings(), "prompts": _about(args.prompts, asked), "device": device}
            target = _answering(args, source, config, jobs)
            made, _ = regenerate(target, asked, config, args.out, identity, note=note, report=report, enough=enough)
    corpus = read_corpus(args.out)
    body = {"corpus": args.out, "replies": len(corpus.replies), "tokens": corpus.num_tokens, "made": made}
    if args.json:
        output.print_json(body)
    else:
        print(f"{args.out}: {len(corpus.replies)} answers, {corpus.num_tokens} tokens ({made} made now)")
    return 0


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--temperature is '{text}', must be numbers with commas, as 0,0.7") from None


def _asked_text(args: argparse.Namespace) -> "list[Asked]":
    from crossdraft.data.prompts import read_prompts, write_prompts
    from crossdraft.training.regenerate import Asked

    if Path(args.prompts).is_dir() or args.store is not None:
        raise SettingError(f"{args.target} reads text alone; name text prompts, and no data set and no store")
    if args.prompts == TRAINING:
        records = write_prompts(args.limit or _COMPOSED, args.seed)
    else:
        records = read_prompts(args.prompts, args.part)[: args.limit]
    return [Asked(record.id, record.group, record.question) for record in records]


def _jobs(args: argparse.Namespace) -> "list[Job]":
    from crossdraft.extraction.jobs import find_jobs, spread_jobs

    if not Path(args.prompts).is_dir():
        raise SettingError(f"{args.target} watches videos; name a data set of clips with --prompts DATASET")
    jobs = find_jobs(args.prompts, None, per_clip=args.per_clip)
    return jobs if args.limit is None else spread_jobs(jobs, args.limit)


def _asked_clips(jobs: "list[Job]") -> "list[Asked]":
    from crossdraft.training.regenerate import Asked

    return [Asked(job.id, job.recording, job.question, job.id) for job in jobs]


def _about(source: str, asked: "list[Asked]") -> dict[str, Any]:
    said = json.dumps([[one.id, one.group, one.question] for one in asked])
    return {"source": Path(source).name, "sha256": hashlib.sha256(said.encode()).hexdigest(), "count": len(asked)}


def _answering(
    args: argparse.Namespace, source: "Source", config: "Regeneration", jobs: "list[Job]"
) -> "Answering":
    import torch

    from crossdraft import build
    from crossdraft.training.regenerate import LoopTarget, TextTarget

    if not jobs:
        dtype = getattr(torch, source.dtype)
        return TextTarget(Path(source.folder), dtype, config.max_new_tokens, args.threads, source.device)
    target = build.load_target(source.folder, dtype=source.dtype, device=source.device, threads=args.threads)
    drafter = build.make_drafter("memory", target=target)
    return LoopTarget(target, drafter, config.max_new_tokens, {job.id: job.load for job in jobs})


def _take_over(
    args: argparse.Namespace, source: "Source", jobs: "list[Job]", identity: dict[str, Any], note: dict[str, Any]
) -> int:
    """The store's answers as a corpus, once it is sure that they are this target's, about these clips."""
    from crossdraft.data.corpus import CorpusWriter, replies_of
    from crossdraft.data.store import Store, load_head
    from crossdraft.models import read_ends

    store = Store.open(args.store)
    if not load_head(store.root).equal(read_ends(source.folder).head):
        raise DataError(f"{store.root}: holds the answers of another target than {args.target}; name that one")
    asked = {job.id: job.question for job in jobs}
    replies = [reply for reply in replies_of(store) if args.limit is None or reply.id in asked]
    if strange := [reply.id for reply in replies if asked.get(reply.id) != reply.question]:
        raise DataError(
            f"{store.root}: its sample '{strange[0]}' is of no clip and question of {args.prompts}; name the data "
            "set that the store was extracted from"
        )
    # in which precision they were answered the store does not say
    own = {key: value for key, value in identity.items() if key != "dtype"}
    with CorpusWriter(args.out, {**own, "store": store.digest}, note) as writer:
        if writer.whole:
            return 0
        writer.keep(0)
        writer.append(replies)
        writer.finish()
    return len(replies)
