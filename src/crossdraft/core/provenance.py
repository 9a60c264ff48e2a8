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
    return _cpu_field("model name") or platform.processor() or platform.machine()


def bf16_unit() -> str:
    """The CPU's bf16 arithmetic unit ("amx_bf16", "avx512_bf16"), or "" where there is none that is faster than its
    float32, or nobody knows.

    Intel's cores from Sapphire Rapids on multiply float32 twice as fast as bf16 with AVX512_BF16 alone, where AMX
    is switched off, as in some virtual machines (170 against 85 GFLOP/s, one core of an Emerald Rapids); AMD's the
    other way round.
    """
    flags = _cpu_flags()
    if "amx_bf16" in flags:
        return "amx_bf16"
    return "avx512_bf16" if "avx512_bf16" in flags and not slow_bf16() else ""


def slow_bf16() -> bool:
    """Whether the CPU has bf16 instructions that are slower than its float32.

    AVX512_FP16 tells the generations with AMX from Cooper Lake, which was not measured.
    """
    flags = _cpu_flags()
    if _cpu_field("vendor_id") != "GenuineIntel" or "amx_bf16" in flags:
        return False
    return {"avx512_bf16", "avx512_fp16"} <= flags


def has_fma() -> bool:
    """Whether the CPU has AVX2 and fused multiply-add; False where nobody knows."""
    return {"avx2", "fma"} <= _cpu_flags()


def _cpu_flags() -> set[str]:
    """What the first CPU can do, as Linux names it; empty where nobody knows."""
    return set(_cpu_field("flags").split())


def _cpu_field(name: str) -> str:
    """What Linux tells of the first CPU under ``name``; empty where nobody knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


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
