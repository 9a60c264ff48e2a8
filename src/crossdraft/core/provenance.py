"""Where a figure came from: versions, machine, command line. Standard library only."""

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("crossdraft", "torch", "transformers", "numpy", "safetensors", "tokenizers")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def bf16_unit() -> str:
    """The CPU's bf16 arithmetic unit ("amx_bf16", "avx512_bf16"), or "" where bf16 is emulated or nobody knows."""
    flags = _cpu_flags()
    return next((unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags), "")


def has_fma() -> bool:
    """Whether the CPU has AVX2 and fused multiply-add; False where nobody knows."""
    return {"avx2", "fma"} <= _cpu_flags()


def _cpu_flags() -> set[str]:
    """What the first CPU can do, as Linux names it; empty where nobody knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def provenance() -> dict[str, Any]:
    """Versions, commit, machine, command line and date, ready for a record."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": versions,
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
    }
