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
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags), "")


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
