"""``crossdraft extract``: what both models think at every token, over a data set, into a store."""

import argparse
import re

from crossdraft.cli import output
from crossdraft.cli.generate import add_pair
from crossdraft.core.errors import DataError, SettingError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("extract", help="states of both models over paired clips, into a store")
    add_pair(command)
    command.add_argument("out", metavar="STORE", type=output.folder, help="folder of the store; made, or continued")
    add_source(command)
    command.add_argument("--lora", metavar="FILE", help="an adapter 'l6' to merge into the event model first")
    command.add_argument("--per-clip", type=int, metavar="N", help="only N questions of each clip, drawn")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N clips and questions")
    command.add_argument(
        "--mode", choices=("teacher-forced", "free-running"), default="teacher-forced",
        help="the event model reads the target's answer (default), or writes its own as the study did",
    )  # fmt: skip
    command.add_argument(
        "--shuffle-events", action="store_true",
        help="a control: the event model sees another clip's events (of another recording where there are several)",
    )  # fmt: skip
    command.add_argument(
        "--answers", metavar="STORE",
        help="take the target's answers and states from this store (same target, clips and settings), and run the "
        "event model alone",
    )  # fmt: skip
    command.add_argument("--states", choices=("bf16", "fp16", "fp32"), default="bf16", help="how they are stored")
    command.add_argument("--layers", metavar="I,J", default="", help="further target layers to keep")
    command.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K best log-probabilities")
    command.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="(default: 128)")
    command.add_argument(
        "--worker", default="0/1", metavar="I/N", help="this is worker I of N (from 0) on one store"
    )
    command.add_argument("--retry-failed", action="store_true", help="try again what was recorded as failed")
    command.add_argument("--json", action="store_true", help="print one JSON record instead of text")
    command.set_defaults(run=run)


def add_source(command: argparse._ActionsContainer, *, required: bool = True) -> None:
    """The options that name clips and questions."""
    source = command.add_mutually_exclusive_group(required=required)
    source.add_argument("--data", metavar="DIR", help="data set in EventGPT's instruction layout")
    source.add_argument("--manifest", metavar="FILE", help="clips and questions as JSON lines")
    command.add_argument("--split", metavar="NAME", help="only this split of the data set")
    command.add_argument("--sensor", metavar="WxH", help="sensor size, where the data set does not state it")
    command.add_argument("--questions", metavar="FILE", help="asked of every clip (default: the clips' own)")


def run(args: argparse.Namespace) -> int:
    """Extract, or go on where an earlier run stopped."""
    from dataclasses import replace

    from crossdraft import build
    from crossdraft.data.store import StoreWriter
    from crossdraft.extraction.capture import ExtractConfig, extract
    from crossdraft.extraction.jobs import find_jobs

    worker, workers = _worker(args.worker)
    if args.lora is not None and build.lora_of(args.lora) is None:
        raise SettingError(f"--lora {args.lora} is no adapter 'l6'; only that one changes the event model")
    config = ExtractConfig(
        mode=args.mode, dtype=args.states, tapped=_layers(args.layers), top_k=args.top_k,
        max_new_tokens=args.max_new_tokens, shuffled=args.shuffle_events,
    )  # fmt: skip
    jobs = find_jobs(
        args.data, args.manifest, split=args.split, sensor=args.sensor, questions=args.questions,
        per_clip=args.per_clip, limit=args.limit, shuffle=args.shuffle_events,
    )  # fmt: skip
    with output.progress(args.json) as report:
        report("loading the models", 0, 0)
        plan = replace(build.plan_pair(args.target, args.event_model, "memory", both=True), adapter=args.lora)
        extractor = build.load_extractor(
            plan,
            config,
            dtype=args.dtype,
            device=args.device,
            threads=args.threads,
            answers=args.answers,
            jobs=jobs,
        )
        identity = extractor.identity()
        with StoreWriter(args.out, identity, prefix=f"w{worker}") as writer:
            build.keep_head(args.out, args.target, note=output.say)
            mine = jobs[worker::workers]
            made = extract(extractor, mine, writer, retry_failed=args.retry_failed, report=report)
            failures = [writer.failures[job.id] for job in mine if job.id in writer.failures]
    before = len(failures) - made.failed
    body = {
        "store": str(args.out), "mode": args.mode, "control": identity.control,
        "samples": made.done, "failed": made.failed, "failed_before": before, "tokens": made.tokens,
    }  # fmt: skip
    if args.json:
        output.print_json(body)
    else:
        what = args.mode if identity.control == "none" else f"{args.mode}, events {identity.control}"
        print(f"{args.out}: {made.done} samples, {made.tokens} tokens ({what})")
    if made.failed and not made.done:
        raise DataError(
            f"{args.out}: nothing could be extracted from {made.failed} clips and questions; the last reason: "
            f"{failures[-1].reason}"
        )
    if failures:
        output.say(
            f"{made.failed} failed, {before} had failed before (--retry-failed tries again); their reasons: "
            f"crossdraft store stats {args.out}"
        )
    return 0


def _worker(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise SettingError(f"--worker is '{text}', must be I/N with I from 0 to N-1, as 0/2 and 1/2")
    return int(match[1]), int(match[2])


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SettingError(f"--layers is '{text}', must be layer numbers with commas, as 2,16,29") from None
