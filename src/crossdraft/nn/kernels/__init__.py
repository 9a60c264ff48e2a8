"""Our own product of few bfloat16 rows with a large matrix (``rows.c``), compiled once for this machine.

It is for CPUs with AVX512_BF16 and without AMX, where the libraries' products first wait for the weights and then
multiply. It needs a C compiler at the first use; where it cannot be had, ``status`` says why and the library's
products are used. CROSSDRAFT_KERNELS=0 leaves it out.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float
from torch import Tensor

from crossdraft.core.places import cache_dir
from crossdraft.core.provenance import bf16_unit

SOURCE = Path(__file__).with_name("rows.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
_BLOCK = 32
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Status:
    """library: the compiled kernels; None: there are none, and ``why`` says so in a few words."""

    library: ctypes.CDLL | None
    why: str = ""


@lru_cache(maxsize=1)
def status() -> Status:
    """Compiled, loaded and tried, once for each process."""
    if os.environ.get("CROSSDRAFT_KERNELS") == "0":
        return Status(None, "left out by CROSSDRAFT_KERNELS")
    if (unit := bf16_unit()) != "avx512_bf16":
        return Status(None, "with AMX the library's products are quicker" if unit else "no AVX512_BF16")
    try:
        library = load(compiled(cache_dir() / "kernels"))
    except (OSError, subprocess.SubprocessError) as error:
        return Status(None, f"cannot be compiled: {str(error).partition(os.linesep)[0]:.120}")
    return Status(library) if _is_right(library) else Status(None, "wrong on a small example")


def fits(weight: Tensor) -> bool:
    """Whether a weight (out, in) can be packed."""
    outputs, inputs = weight.shape
    return weight.dtype == torch.bfloat16 and outputs % _BLOCK == 0 and inputs % 2 == 0


def pack(library: ctypes.CDLL, weight: BFloat16[Tensor, "out in"]) -> BFloat16[Tensor, "out in"]:
    """The weight as ``product`` reads it."""
    weight = weight.contiguous()
    out = torch.empty_like(weight)
    library.crossdraft_pack(weight.data_ptr(), out.data_ptr(), *weight.shape)
    return out


def product(
    library: ctypes.CDLL,
    rows: BFloat16[Tensor, "S in"],
    packed: BFloat16[Tensor, "out in"],
    bias: Float[Tensor, "out"] | None,
) -> BFloat16[Tensor, "S out"]:
    """``rows W' + bias``; bias is float32."""
    rows = rows.contiguous()
    out = rows.new_empty(rows.shape[0], packed.shape[0])
    library.crossdraft_rows(
        packed.data_ptr(), rows.data_ptr(), 0 if bias is None else bias.data_ptr(), out.data_ptr(), rows.shape[0],
        *packed.shape, torch.get_num_threads(),
    )  # fmt: skip
    return out


def load(path: Path) -> ctypes.CDLL:
    """A compiled library, with the types of its functions. Raises OSError."""
    library = ctypes.CDLL(str(path))
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.crossdraft_pack.argtypes = [pointer, pointer, long, long]
    library.crossdraft_rows.argtypes = [pointer] * 4 + [long] * 3 + [ctypes.c_int]
    library.crossdraft_pack.restype = library.crossdraft_rows.restype = None
    return library


def compiled(folder: Path, flags: tuple[str, ...] = FLAGS) -> Path:
    """The library in ``folder``, compiled for this very machine if it is not there.

    Raises OSError without a compiler or a place to write, SubprocessError when compiling fails.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "cc", "clang")), None)
    if compiler is None:
        raise OSError("no C compiler (gcc, cc or clang)")
    openmp = _openmp()
    sign = "\n".join((SOURCE.read_text(), compiler, " ".join(flags), openmp, _machine()))
    target = folder / f"rows-{hashlib.sha256(sign.encode()).hexdigest()[:20]}.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        objects, made = Path(scratch) / "rows.o", Path(scratch) / "rows.so"
        for command in (
            [*flags, "-c", str(SOURCE), "-o", str(objects)],
            ["-shared", str(objects), openmp, "-o", str(made)],
        ):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=_TIMEOUT_S)
        made.replace(target)
    return target


def _openmp() -> str:
    """torch's own OpenMP library: with a second one there would be twice the threads."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(found[0]) if found else "-lgomp"


def _machine() -> str:
    """The processor, by its name and all that it can."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in told.splitlines() if line.startswith(("model name", "flags"))}))


def _is_right(library: ctypes.CDLL) -> bool:
    """Small whole numbers: every sum is exact, so the results must agree to the bit."""
    weight = (torch.arange(64 * 34, dtype=torch.float32).view(64, 34) % 5 - 2).bfloat16()
    bias = torch.arange(64, dtype=torch.float32) % 7
    packed = pack(library, weight)
    for count in (1, 3, 14, 15, 40):
        rows = (torch.arange(count * 34, dtype=torch.float32).view(count, 34) % 3 - 1).bfloat16()
        if not torch.equal(
            product(library, rows, packed, bias).float(), F.linear(rows.float(), weight.float(), bias)
        ):
            return False
    return True
