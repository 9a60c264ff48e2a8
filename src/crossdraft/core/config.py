"""Frozen dataclasses from YAML or dictionaries; unknown keys are errors."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from crossdraft.core.errors import SettingError

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "settings") -> T:
    """Build the dataclass ``cls`` from ``values``. SettingError on unknown or missing keys, naming ``where``."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(fields)}"
            shown = str(key) if str(key).isprintable() else ascii(key).strip("'\"")
            raise SettingError(f"{where}: unknown key '{shown}'.{hint}")
    missing = [
        n for n, f in fields.items()
        if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise SettingError(f"{where}: missing {', '.join(missing)}")
    return cls(**values)


def load_yaml(cls: type[T], path: str | Path, overrides: Mapping[str, Any] | None = None) -> T:
    """Read ``cls`` from a YAML file; ``overrides`` win. SettingError when the file is no mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingError(f"{path} must hold a mapping of settings")
    return from_mapping(cls, {**values, **(overrides or {})}, str(path))
