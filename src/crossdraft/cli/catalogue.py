"""``crossdraft list``: what can be chosen, read from the catalogues without importing the methods."""

import argparse
import ast
import json
from collections.abc import Mapping
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("list", help="drafters, rules, model families and windows that can be chosen")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every catalogue, one name and one line of description each."""
    found = {name: describe(read_catalogue(package, name.upper())) for name, package in CATALOGUES.items()}
    found["windows"] = WINDOWS
    if args.json:
        print(json.dumps(found))
        return 0
    width = max(len(name) for entries in found.values() for name in entries)
    for kind, entries in found.items():
        print(f"{kind}:")
        for name, line in entries.items():
            print(f"  {name:{width}}  {line}".rstrip())
    return 0


CATALOGUES = {
    "drafters": "crossdraft.drafters",
    "rules": "crossdraft.verify",
    "families": "crossdraft.models.catalogue",
}

WINDOWS = {
    "auto": "chosen by this machine's measured times",
    "off": "the event model does not run before the target's first token",
    "sequential": "the event model runs first, then the target prefills",
    "overlapped": "both at once: threads on CPU, streams on GPU",
    "own-device": "the event model has a device of its own",
}


def read_catalogue(package: str, name: str) -> dict[str, str]:
    """The dictionary literal ``name`` = {"name": "module:attribute"} in the source of ``package``, not imported."""
    for node in _source(package).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return dict(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    raise LookupError(f"there is no {name} in {package}")


def describe(catalogue: Mapping[str, str]) -> dict[str, str]:
    """{name: "module:attribute"} -> {name: first line of the attribute's docstring, else the module's}."""
    return {name: _first_line(target) for name, target in catalogue.items()}


def _first_line(target: str) -> str:
    module, _, attribute = target.partition(":")
    tree = _source(module)
    own = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute]
    text = (ast.get_docstring(own[0]) if own else None) or ast.get_docstring(tree) or ""
    return text.partition("\n")[0]


def _source(module: str) -> ast.Module:
    """The syntax tree of a module of this package; importing it would import torch."""
    path = Path(__file__).parent.parent.joinpath(*module.split(".")[1:])
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
