"""``crossdraft generate``: one answer, streamed as it is verified, and an honest line on what was gained."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdraft.cli import output
from crossdraft.core.errors import SettingError

if TYPE_CHECKING:
    from crossdraft.core.types import Generation, Sampling


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("generate", help="answer a question about a video, with events drafting")
    command.set_defaults(run=run)
    add_pair(command)
    command.add_argument(
        "--drafter", default="auto",
        help="see 'crossdraft list' (default: cross_modal with --adapter, draft_model with --draft-model, memory "
        "with --stream-id, else ngram)",
    )  # fmt: skip
    command.add_argument(
        "--adapter", metavar="FILE", help="drafts in the target's space (crossdraft train adapter)"
    )
    command.add_argument(
        "--head", metavar="FILE|DIR", help="a trained drafting head, or a folder of them (crossdraft train head)"
    )
    command.add_argument(
        "--draft-model", metavar="DIR|nano", help="any smaller model that writes ahead; chooses drafter draft_model"
    )
    seen = command.add_mutually_exclusive_group()
    seen.add_argument("--video", metavar="FILE", help="the clip that the target watches")
    seen.add_argument("--image", metavar="FILE", help="an image, or a folder of images in time order")
    command.add_argument("--events", metavar="FILE", help="event recording of the same scene")
    command.add_argument("--sensor", metavar="WxH", help="sensor size, where the recording does not carry it")
    command.add_argument(
        "--event-offset-us",
        type=int,
        metavar="US",
        help="added to event times to get the video's (default: by rule)",
    )
    command.add_argument("--prompt", required=True, metavar="TEXT", help="the question")
    command.add_argument("--stream-id", metavar="ID", help="clips of one recording share it; keys the memory")
    command.add_argument(
        "--memory", metavar="FILE", help="the stream's memory: read if it exists, written at the end"
    )
    command.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    command.add_argument("--top-k", type=int, default=0, metavar="K", help="0 is off (default)")
    command.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 is off (default)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the sampling noise")
    command.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends the answer; may be repeated"
    )
    command.add_argument("--window", default="auto", help="when the event model runs; see 'crossdraft list'")
    command.add_argument("--compare", action="store_true", help="also decode plainly and compare tokens and times")
    command.add_argument("--audit", action="store_true", help="re-score the answer and report every doubtful token")
    command.add_argument("--record", metavar="FILE", help="save rounds, times and provenance as JSON")
    command.add_argument("--json", action="store_true", help="print one JSON record instead of text")


def add_pair(command: argparse.ArgumentParser) -> None:
    """The options that choose the two models and where they run."""
    command.add_argument("--target", default="nano", metavar="DIR|nano", help="the video model (default: nano)")
    command.add_argument("--event-model", metavar="DIR|nano|none",
                         help="the event model (default: nano beside the nano target, else none; "
                         "nano-distilled: nano taught the target's phrasing)")  # fmt: skip
    command.add_argument("--dtype", default="auto", help="auto, bfloat16, float32 or float64 (default: auto)")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")


def run(args: argparse.Namespace) -> int:
    """Answer once; print the text as it comes and what drafting gained."""
    from crossdraft import build
    from crossdraft.bench.verdict import compare, describe

    sampling = _sampling(args)
    memory_file = Path(args.memory) if args.memory else None
    with output.progress(args.json) as report:
        report("reading the prompt", 0, 0)
        prompt = build.make_prompt(
            args.prompt, video=args.video, image=args.image, events=args.events, sensor=args.sensor,
            event_offset_us=args.event_offset_us, stream_id=args.stream_id,
        )  # fmt: skip
        plan = build.plan_pair(
            args.target, args.event_model, args.drafter, prompt, adapter=args.adapter, draft_model=args.draft_model,
            head=args.head,
        )  # fmt: skip
        if memory_file and plan.drafter != "memory":
            raise SettingError(
                f"--memory is for the drafter 'memory', not for '{plan.drafter}'; give --stream-id ID, or "
                "--drafter memory"
            )
        memory = build.open_memory(memory_file)
        report("loading the models", 0, 0)
        pair = build.load_pair(plan, dtype=args.dtype, device=args.device, threads=args.threads)
        costs = build.costs_for(pair, prompt, report=report)
    drafter = build.make_drafter(
        plan.drafter, target=pair.target, event_model=pair.event_model, memory=memory, adapter=plan.adapter,
        costs=costs, draft_model=pair.draft_model, head=plan.head,
    )  # fmt: skip
    request = build.make_request(
        pair.target, prompt, sampling=sampling, max_new_tokens=args.max_new_tokens, stop=args.stop,
        window=args.window, costs=costs,
    )  # fmt: skip
    if args.compare:
        request.warm_up()
    writer = None if args.json else _Stream(pair.target.tokenizer, request.limits.stop)
    answer = request.answer(drafter, on_tokens=writer)
    if writer:
        writer.end()
    body: dict[str, Any] = {"target": plan.target, "drafter": plan.drafter, **describe(answer)}
    if args.compare:
        body["compare"] = compare(request.answer(build.make_drafter("none", target=pair.target)), answer)
    if args.audit:
        report_of = request.audit(answer)
        body["audit"] = {"passed": report_of.passed, "verdict": report_of.verdict}
    # the answer first: if a file below cannot be written, nothing is lost
    if args.json:
        output.print_json(body)
    else:
        for line in _lines(answer, plan.drafter, body):
            output.say(line)
    if memory_file:
        memory.save(memory_file)
    if args.record:
        build.save_generation(args.record, answer, {"prompt": args.prompt, "sampling": vars(sampling), **body})
    return 0


def _sampling(args: argparse.Namespace) -> "Sampling":
    """Check all that can be checked before anything is read."""
    from crossdraft.core.types import Limits, Sampling

    if args.threads is not None and args.threads < 1:
        raise SettingError(f"--threads is {args.threads}, must be 1 or more")
    if args.audit and args.temperature > 0:
        raise SettingError("--audit re-scores greedy answers; leave --temperature at 0")
    Limits(max_new_tokens=args.max_new_tokens, stop=tuple(args.stop))
    return Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed)


class _Stream:
    """Prints text as its tokens are verified; never half a character, never the beginning of a stop string."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        from crossdraft.decode.stream import TextStream

        self.text = TextStream(tokenizer, stop)

    def __call__(self, tokens: Sequence[int]) -> None:
        self._write(self.text.push(tokens)[0])

    def end(self) -> None:
        """Print what was held back."""
        self._write(self.text.finish() + "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _lines(answer: "Generation", drafter: str, body: dict[str, Any]) -> list[str]:
    exact = "bit-exact" if answer.exactness.bit_exact else "not bit-exact"
    passes = len(answer.rounds)
    lines = [
        f"{len(answer.tokens)} tokens in {passes} target passes after the prefill"
        + (f" (tau {answer.tau:.2f})" if passes else "")
        + f", decode {answer.decode_ms:.0f} ms, total {answer.total_ms:.0f} ms; drafter {drafter}; "
        f"{'lossless' if answer.lossless else 'LOSSY'}, {exact} ({answer.exactness.detail})"
    ]
    if answer.window:
        told = {key: f"{value:.1f}" if isinstance(value, float) else value for key, value in answer.window.items()}
        lines.append("window: " + ", ".join(f"{key} {value}" for key, value in told.items()))
    if "compare" in body:
        lines.append(body["compare"]["verdict"])
    else:
        lines.append("what was gained in time is not known without --compare")
    if "audit" in body:
        lines.append(body["audit"]["verdict"])
    return lines
