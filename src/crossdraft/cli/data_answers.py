"""``crossdraft data answers``: a target's own answers to many prompts, the material that heads are trained on."""

import argparse
import hashlib
import json
from pathlib import Path

from crossdraft.cli import output
from crossdraft.core.errors import SettingError


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to ``crossdraft data``."""
    answers = verbs.add_parser("answers", help="a target's own answers to many prompts, to train heads on")
    answers.add_argument("--target", required=True, metavar="DIR|nano")
    answers.add_argument(
        "--prompts", metavar="NAME|FILE|DATASET", default="training",
        help="'training' (composed by templates), 'league' (ours), a JSON-lines file, or a data set of clips",
    )  # fmt: skip
    answers.add_argument("--part", choices=("tune", "held-out", "training"), help="only this part of the prompts")
    answers.add_argument("--out", required=True, metavar="DIR", type=output.folder)
    answers.add_argument(
        "--limit", type=int, metavar="N", help="so many prompts (default: 5000 of 'training', else all)"
    )
    answers.add_argument(
        "--temperature",
        default="0",
        metavar="T,T,...",
        help="taken in turn: 0,0,0.7 samples a third of the answers",
    )
    answers.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
    answers.add_argument("--batch", type=int, default=48, metavar="N", help="prompts at once (text targets)")
    answers.add_argument("--seed", type=int, default=0, metavar="S")
    answers.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    answers.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads")
    answers.add_argument("--json", action="store_true", help="machine-readable")
    answers.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer and say how much there is."""
    import torch

    from crossdraft import build
    from crossdraft.data.corpus import read_corpus
    from crossdraft.data.prompts import read_prompts, write_prompts
    from crossdraft.training.regenerate import Asked, Regeneration, TextTarget, regenerate

    config = Regeneration(
        temperatures=_temperatures(args.temperature), max_new_tokens=args.max_new_tokens, batch=args.batch,
        seed=args.seed,
    )  # fmt: skip
    if args.prompts == "training":
        records = write_prompts(args.limit or 5000, args.seed)
    else:
        records = read_prompts(args.prompts, args.part)[: args.limit]
    asked = [Asked(record.id, record.group, record.question) for record in records]
    source = build.Source.of(args.target, "target", args.dtype, "cpu")
    folder = Path(source.folder)
    torch.set_num_threads(1)
    target = TextTarget(folder, getattr(torch, source.dtype), args.max_new_tokens, args.threads)
    digest = hashlib.sha256(json.dumps([[one.id, one.group, one.question] for one in asked]).encode()).hexdigest()
    identity = {
        "target": folder.name, **source.what(), "settings": config.settings(),
        "prompts": {"source": str(args.prompts), "sha256": digest, "count": len(asked)},
    }  # fmt: skip
    with output.progress(args.json) as report:
        made, tokens = regenerate(target, asked, config, args.out, identity, report)
    corpus = read_corpus(args.out)
    body = {
        "corpus": args.out,
        "replies": len(corpus.replies),
        "tokens": corpus.num_tokens,
        "made": made,
        "made_tokens": tokens,
    }
    if args.json:
        output.print_json(body)
    else:
        print(f"{args.out}: {body['replies']} answers, {body['tokens']} tokens ({made} made now)")
    return 0


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--temperature is '{text}', must be numbers with commas, as 0,0.7") from None
