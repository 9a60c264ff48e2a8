"""``crossdraft list``: what can be chosen, read from the catalogues without importing the methods."""

import argparse
import ast
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("list", help="drafters, rules, model families and windows that can be chosen")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every catalogue, one name and one line of description each."""
    from crossdraft.drafters import DRAFTERS
    from crossdraft.models import FAMILIES
    from crossdraft.verify import RULES

    found = {
        "drafters": describe(DRAFTERS),
        "rules": describe(RULES),
        "families": describe(FAMILIES),
        "windows": WINDOWS,
    }
    if args.json:
        print(json.dumps(found))
        return 0
    width = max(len(name) for entries in found.values() for name in entries)
    for kind, entries in found.items():
        print(f"{kind}:")
        for name, line in entries.items():
            print(f"  {name:{width}}  {line}".rstrip())
    return 0


WINDOWS = {
    "auto": "chosen by this machine's measured times",
    "off": "the event model does not run before the target's first token",
    "sequential": "the event model runs first, then the target prefills",
    "overlapped": "both at once: threads on CPU, streams on GPU",
    "own-device": "the event model has a device of its own",
}


def describe(catalogue: Mapping[str, str]) -> dict[str, str]:
    """{name: "module:attribute"} -> {name: first line of the attribute's docstring, else the module's}."""
    return {name: _first_line(target) for name, target in catalogue.items()}


def _first_line(target: str) -> str:
    module, _, attribute = target.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text())
    own = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute]
    text = (ast.get_docstring(own[0]) if own else None) or ast.get_docstring(tree) or ""
    return text.partition("\n")[0]
