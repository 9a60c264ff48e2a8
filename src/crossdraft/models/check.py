"""What a checkpoint is, and whether it can be loaded, from its config and headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossdraft.core.errors import CheckpointError
from crossdraft.core.registry import find
from crossdraft.core.weights import Entry, read_headers, read_json
from crossdraft.models.catalogue import PARTS, family_of
from crossdraft.models.hf import knows
from crossdraft.models.loading import compare, resolve_checkpoint, shapes
from crossdraft.models.spliced import build_parts
from crossdraft.models.tokenizer import TextTokenizer

_SHOWN = 8
# safetensors' names
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class CheckReport:
    """ok: it can be loaded. parameters: stored values. problems: what is missing, unknown or of another shape."""

    path: str
    family: str
    ok: bool
    parameters: int
    size_bytes: int
    understood: int
    unused: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.family}, {self.parameters / 1e6:,.1f} M values, {self.size_bytes / 1e6:,.1f} MB",
            f"keys understood: {self.understood}, known but not used: {self.unused}",
            *(f"problem: {p}" for p in self.problems),
            "ready to load" if self.ok else "cannot be loaded as it is",
        ]
        return "\n".join(lines)


def check_checkpoint(ref: str | Path) -> CheckReport:
    """Look at ``ref`` without reading its weights. Raises CheckpointError when there is nothing to look at."""
    folder = resolve_checkpoint(ref)
    config = read_json(folder / "config.json")
    headers = read_headers(folder)
    parameters = sum(_count(e.shape) for e in headers.values())
    size = sum(f.stat().st_size for f in {e.file for e in headers.values()})
    family = family_of(config)
    general = _general_problems(folder, headers, family)
    if family not in PARTS:
        kind = config.get("model_type")
        known = knows(str(kind))
        note = (
            f"model_type '{kind}' runs on transformers' own code: not bit-exact, chains only"
            if known
            else f"model_type {kind!r} is known neither to crossdraft nor to transformers"
        )
        return CheckReport(
            str(folder), "transformers", known and not general, parameters, size, len(headers), 0, (note, *general)
        )  # fmt: skip
    try:
        parts = build_parts(find("family", PARTS, family), config, folder)
    except CheckpointError as error:
        return CheckReport(str(folder), family, False, parameters, size, 0, 0, (str(error),))
    report = compare(headers, shapes(parts), parts.rename)
    missing = [n for n in report.missing if n not in parts.optional]
    problems = [f"missing: {parts.publish(n)}" for n in missing]
    problems += [f"unknown key: {k}" for k in report.unexpected]
    problems += [f"wrong shape: {line}" for line in report.misshapen]
    tower = [n for n in missing if n.startswith("visual_tower.")]
    outside = family == "eventgpt" and tower and len(tower) == len(missing)
    if outside:
        problems = ["the CLIP tower is not in this folder; it is read from mm_visual_tower or DIR/visual_tower"]
    problems += general
    if len(problems) > _SHOWN:
        problems = [*problems[:_SHOWN], f"... and {len(problems) - _SHOWN} more"]
    ok = not problems or (bool(outside) and len(problems) == 1)
    return CheckReport(
        str(folder), family, ok, parameters, size, report.understood, len(report.unused), tuple(problems)
    )


def _general_problems(folder: Path, headers: Mapping[str, Entry], family: str) -> list[str]:
    """What keeps a checkpoint of any family from being loaded: quantised weights, no usable tokenizer, and of one
    that looks at pictures a preprocessing that says nothing."""
    found = [
        f"{key} is stored as {entry.dtype}; quantised checkpoints are not supported"
        for key, entry in headers.items()
        if entry.dtype not in _FLOATS
    ]
    try:
        TextTokenizer(folder)
    except CheckpointError as error:
        found.append(str(error))
    if family not in ("llama", "transformers"):
        try:
            read_json(folder / "preprocessor_config.json", needed=False)
        except CheckpointError as error:
            found.append(str(error))
    return found


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for edge in shape:
        total *= edge
    return total
