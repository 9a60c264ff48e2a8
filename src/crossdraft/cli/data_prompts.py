"""``crossdraft data prompts``: prompts that a target makes up itself, or about its own texts."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from crossdraft.cli import output
from crossdraft.core.clock import past
from crossdraft.core.errors import SettingError

_GROUPS = 20


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft data``."""
    verb = verbs.add_parser("prompts", help="prompts that a text target makes up itself, for 'data answers'")
    verb.add_argument("--target", required=True, metavar="DIR", help="checkpoint folder or hub id")
    verb.add_argument(
        "--about",
        metavar="CORPUS",
        help="compose tasks about these answers of the target; no model runs, so that temperature, lengths, batch, "
        "type, device and processes do not matter",
    )
    verb.add_argument("--limit", type=int, default=2000, metavar="N", help="so many (default: 2000)")
    verb.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the JSON lines that shall be written (FILE.part until all are made up: run again to go on)",
    )
    verb.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of the sampling (default: 1)")
    verb.add_argument("--max-tokens", type=int, default=128, metavar="N", help="of a prompt (default: 128)")
    verb.add_argument("--batch", type=int, default=48, metavar="N", help="made at once (default: 48)")
    verb.add_argument(
        "--minutes", type=float, metavar="X", help="end after so long, with what is made up (default: no limit)"
    )
    verb.add_argument("--seed", type=int, default=0, metavar="S")
    verb.add_argument("--dtype", default="auto", metavar="NAME", help="auto, bfloat16 or float32")
    verb.add_argument("--device", default="cpu", help="cpu (default), cuda or auto")
    verb.add_argument(
        "--threads", type=int, default=1, metavar="N", help="processes of one CPU thread (default: 1)"
    )
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make them up and write them."""
    from crossdraft.core.records import write_atomically

    if args.threads < 1:
        raise SettingError(f"--threads is {args.threads}, must be 1 or more")
    if Path(args.out).exists():
        raise SettingError(f"{args.out} is there already; name another file, or remove it")
    keep = Path(f"{args.out}.part")
    made = _made_up(args, keep) if args.about is None else _about(args)
    write_atomically(Path(args.out), "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in made).encode())
    if args.about is None:
        keep.unlink(missing_ok=True)
    print(
        f"{args.out}: {len(made)} prompts; answer them: crossdraft data answers --target {args.target} "
        f"--prompts {args.out} --out CORPUS"
    )
    return 0


def _made_up(args: argparse.Namespace, keep: Path) -> list[dict[str, str]]:
    import torch

    from crossdraft.build import Source, watches
    from crossdraft.data.prompts import FREE
    from crossdraft.training.regenerate import SelfAsking, TextTarget, own_prompts

    enough = past(args.minutes)
    config = SelfAsking(
        count=args.limit, temperature=args.temperature, max_tokens=args.max_tokens, batch=args.batch, seed=args.seed
    )
    source = Source.of(args.target, "target", args.dtype, args.device, engine=True)
    if watches(source.folder):
        raise SettingError(f"{args.target} watches videos: its prompts are questions about clips; make a data set")
    dtype = getattr(torch, source.dtype)
    target = TextTarget(Path(source.folder), dtype, config.max_tokens, args.threads, source.device)
    with output.progress() as report:
        made = own_prompts(target, config, report, keep, enough)
    return [
        {"id": f"own-{number:05d}", "kind": FREE, "question": text, "part": "training",
         "group": f"own/{number % _GROUPS}"}
        for number, text in enumerate(made)
    ]  # fmt: skip


def _about(args: argparse.Namespace) -> list[dict[str, str]]:
    from crossdraft.build import Source, watches
    from crossdraft.data.corpus import read_corpus
    from crossdraft.data.prompts import write_prompts_about
    from crossdraft.models import fingerprint
    from crossdraft.models.tokenizer import TextTokenizer

    source, corpus = Source.of(args.target, "target", args.dtype, "cpu"), read_corpus(args.about)
    if watches(source.folder):
        raise SettingError(f"{args.target} watches videos; prompts about texts are for text targets")
    if corpus.about.get("checkpoint") not in (None, fingerprint(Path(source.folder))):
        raise SettingError(f"{args.about}: holds answers of another target than {args.target}; name its own")
    tokenizer = TextTokenizer(Path(source.folder))
    texts = [(reply.group, tokenizer.decode(reply.tokens)) for reply in corpus.replies]
    return [asdict(record) for record in write_prompts_about(texts, args.limit, args.seed)]
