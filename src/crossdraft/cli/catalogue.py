"""``crossdraft list``: what can be chosen, read from the catalogues without importing the methods."""

import argparse
import ast
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("list", help="drafters, adapters, rules, families and windows to choose from")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every catalogue, one name and one line of description each."""
    found: dict[str, Any] = {
        name: describe(read_catalogue(package, name.upper())) for name, package in CATALOGUES.items()
    }
    found |= {"adapters": describe_adapters(), "windows": WINDOWS}
    if args.json:
        print(json.dumps(found))
        return 0
    width = max(len(name) for entries in found.values() for name in entries)
    for kind, entries in found.items():
        print(f"{kind}:")
        for name, line in entries.items():
            print(f"  {name:{width}}  {line if isinstance(line, str) else _told(line)}".rstrip())
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


def describe_adapters() -> dict[str, dict[str, Any]]:
    """What each adapter reads and how far it can be believed, as its class says."""
    found = {}
    for name, target in read_catalogue("crossdraft.adapters", "ADAPTERS").items():
        found[name] = {
            "description": _first_line(target),
            "inputs": sorted(_constants(_attribute(target, "inputs"))),
            "causal": ast.literal_eval(_attribute(target, "causal")),
            "sees_its_target": ast.literal_eval(_attribute(target, "sees_its_target")),
        }
    return found


def _told(adapter: Mapping[str, Any]) -> str:
    marks = ["causal" if adapter["causal"] else "not causal"] + ["sees its target"] * adapter["sees_its_target"]
    return f"{adapter['description']} [{' + '.join(adapter['inputs'])}; {', '.join(marks)}]"


def _attribute(target: str, name: str) -> ast.expr:
    """What the class "module:attribute", or else the first of its bases, sets ``name`` to."""
    module, _, attribute = target.partition(":")
    tree = _source(module)
    own = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == attribute)
    for node in own.body:
        to = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(to, ast.Name) and to.id == name and node.value is not None:  # type: ignore[attr-defined]
            return node.value  # type: ignore[attr-defined]
    imported = {a.name: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    base = own.bases[0]
    assert isinstance(base, ast.Name), f"{target} has no {name}"
    return _attribute(f"{imported.get(base.id) or module}:{base.id}", name)


def _constants(expression: ast.expr) -> list[str]:
    """The strings that the adapters' constants in an expression stand for."""
    named = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}
    return [
        ast.literal_eval(node.value)
        for node in _source("crossdraft.adapters.base").body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in named
    ]


def _first_line(target: str) -> str:
    module, _, attribute = target.partition(":")
    tree = _source(module)
    own = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute]
    text = (ast.get_docstring(own[0]) if own else None) or ast.get_docstring(tree) or ""
    return text.partition("\n")[0]


@lru_cache
def _source(module: str) -> ast.Module:
    """The syntax tree of a module of this package; importing it would import torch."""
    path = Path(__file__).parent.parent.joinpath(*module.split(".")[1:])
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
