"""Catalogues: plain dictionaries {name: "module:attribute"}, imported when asked for."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from crossdraft.core.errors import SettingError


def find(kind: str, catalogue: Mapping[str, str], name: str) -> Any:
    """Look up ``name`` in {name: "module:attribute"} and import it. SettingError if there is no such name."""
    if name not in catalogue:
        near = get_close_matches(name, catalogue, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise SettingError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(sorted(catalogue))}")
    module, _, attribute = catalogue[name].partition(":")
    return getattr(import_module(module), attribute)
