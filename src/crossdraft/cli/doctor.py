"""``crossdraft doctor``: versions, cores, memory, devices, what is missing and the command that mends it."""

import argparse
import os
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crossdraft.cli import output
from crossdraft.core.provenance import bf16_unit, provenance

NEEDED = {
    "torch": "torch", "numpy": "numpy", "transformers": "transformers", "tokenizers": "tokenizers",
    "safetensors": "safetensors", "pillow": "PIL", "av": "av", "h5py": "h5py", "hdf5plugin": "hdf5plugin",
    "jaxtyping": "jaxtyping", "pyyaml": "yaml", "rich": "rich",
}  # fmt: skip
GIB = 2**30
EXTRAS = {
    "events": {"faery": "faery"},
    "simulate": {"eventcv": "eventcv"},
    "train": {"accelerate": "accelerate", "tensorboard": "tensorboard"},
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("doctor", help="what this machine has and what is missing")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 2 when something that every run needs is missing."""
    found = examine()
    if args.json:
        output.print_json(found)
    else:
        machine, memory = found["machine"], found["memory"]
        output.print_facts(
            {
                "crossdraft": f"{found['versions']['crossdraft']} (commit {found['commit'] or 'unknown'})",
                "python": f"{found['python']} ({sys.executable})",
                **{name: version for name, version in found["versions"].items() if name != "crossdraft"},
                "cpu": f"{machine['cpu']}, {machine['cores']} cores ({found['threads']} threads are used)",
                "bf16": found["bf16"],
                "kernels": found["kernels"],
                "memory": f"{memory['available_bytes'] / GIB:.1f} of {memory['total_bytes'] / GIB:.1f} GiB free",
                "gpu": ", ".join(found["gpus"]) or "none",
                "built-in pair": found["nano"],
                "measurements": found["cache"],
            }
        )
        for problem in found["problems"]:
            print(f"{'missing' if problem['needed'] else 'optional'}: {problem['what']}; mend: {problem['mend']}")
        if not found["problems"]:
            print("nothing is missing")
    return 2 if any(problem["needed"] for problem in found["problems"]) else 0


def examine() -> dict[str, Any]:
    """All that ``doctor`` reports, ready for JSON."""
    here = provenance()
    problems = _missing_packages()
    found: dict[str, Any] = {
        "python": here["python"],
        "commit": here["commit"],
        "versions": {name: _version(name) for name in ("crossdraft", *NEEDED)},
        "machine": here["machine"],
        "memory": _memory(),
        "threads": 0, "gpus": [], "bf16": "unknown", "kernels": "unknown", "nano": "not checked", "cache": "",
    }  # fmt: skip
    if find_spec("torch"):
        import torch

        from crossdraft.core.places import cache_dir
        from crossdraft.nn import kernels

        found["cache"] = str(cache_dir())
        found["threads"] = torch.get_num_threads()
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        unit = bf16_unit()
        why = kernels.status().why
        found["kernels"] = f"the library's ({why})" if why else "our own, compiled for this machine"
        emulated = (
            "emulated, or slower than float32, the default here"
            if why
            else "by our own kernels, in float32 arithmetic"
        )
        found["bf16"] = f"in hardware ({unit})" if unit else emulated
    nano = Path(__file__).parent.parent / "models" / "weights"
    weights = sorted(nano.glob("**/*.safetensors"))
    size = sum(w.stat().st_size for w in weights)
    found["nano"] = (
        f"{len(weights)} weight files, {size / 2**20:.1f} MiB in {nano}" if weights else "weights missing"
    )
    if not weights:
        problems.append(
            {
                "what": "the weights of the built-in pair",
                "needed": True,
                "mend": "crossdraft train nano (2.5 hours)",
            }
        )
    if shutil.disk_usage(Path.home()).free < GIB:
        problems.append({"what": "less than 1 GiB free on disk", "needed": False, "mend": "free some space"})
    found["problems"] = problems
    return found


def _missing_packages() -> list[dict[str, Any]]:
    missing = [name for name, module in NEEDED.items() if not find_spec(module)]
    problems: list[dict[str, Any]] = [
        {"what": f"package {name}", "needed": True, "mend": f"pip install -c constraints.txt {name}"}
        for name in missing
    ]
    for extra, packages in EXTRAS.items():
        problems += [
            {
                "what": f"package {name} (extra '{extra}')",
                "needed": False,
                "mend": f"pip install 'crossdraft[{extra}]'",
            }
            for name, module in packages.items()
            if not find_spec(module)
        ]
    return problems


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> dict[str, int]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        available = total
    return {"total_bytes": total, "available_bytes": available}
