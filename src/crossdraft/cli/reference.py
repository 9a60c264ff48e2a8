"""``crossdraft reference``: the original study's note, table by table, with what holds of it."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdraft.cli import output
from crossdraft.core.errors import DataError

if TYPE_CHECKING:
    from crossdraft.report.reference.model import Document


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("reference", help="the original study's note, recomputed")
    command.add_argument(
        "--data",
        metavar="DIR",
        help="the study's measurement files: recompute from them; exit code 1 if they differ",
    )
    command.add_argument("--out", metavar="FILE", default="docs/reference.md", help="default: docs/reference.md")
    command.add_argument("--html", metavar="FILE", help="write a page too")
    command.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a file is not what would be written"
    )
    command.add_argument("--json", action="store_true", help="print the document as JSON instead of writing files")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write or check the document; with --data from the files, if they give the packaged figures."""
    from crossdraft.report.reference.document import build
    from crossdraft.report.reference.facts import load_facts
    from crossdraft.report.reference.measurements import condense, differences

    study = None
    if args.data is not None:
        study = condense(args.data)
        if lines := differences(study, load_facts().study):
            for line in lines:
                output.say(f"crossdraft: {line}")
            output.say("crossdraft: nothing was written; the document cites the packaged figures")
            return 1
    document = build(study)
    if args.json:
        output.print_json(_as_json(document))
        return 0
    return _check(args, document) if args.check else _write(args, document)


def _write(args: argparse.Namespace, document: "Document") -> int:
    from crossdraft.core.records import write_atomically

    for path, text in _texts(args, document).items():
        write_atomically(path, text.encode())
        output.say(f"wrote {path}")
    return 0


def _check(args: argparse.Namespace, document: "Document") -> int:
    stale = 0
    for path, text in _texts(args, document).items():
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if found != text.encode():
            output.say(
                f"crossdraft: {path} is not what would be written; run: crossdraft reference --out {args.out}"
            )
            stale = 1
    return stale


def _texts(args: argparse.Namespace, document: "Document") -> dict[Path, str]:
    from crossdraft.report.reference.html import to_html
    from crossdraft.report.reference.markdown import to_markdown

    texts = {Path(args.out): to_markdown(document)}
    if args.html:
        texts[Path(args.html)] = to_html(document)
    return texts


def _as_json(document: "Document") -> dict[str, Any]:
    from crossdraft.report.reference.model import count_marks

    return {**asdict(document), "marks": count_marks(list(document.rows()))}
