"""Models by name: where they lie, as what they are loaded, and on what they run."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch

from crossdraft.adapters.checkpoint import load_adapter
from crossdraft.adapters.lora import L6
from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.protocols import VLM
from crossdraft.core.provenance import bf16_unit
from crossdraft.core.weights import read_json
from crossdraft.models import fingerprint, load_vlm, resolve_checkpoint
from crossdraft.models.catalogue import WATCHING, family_of
from crossdraft.models.spliced import SplicedVLM
from crossdraft.nn import kernels
from crossdraft.nn.decoder import Decoder
from crossdraft.nn.engine import TreeAttention

NANO, NANO_DISTILLED = "nano", "nano-distilled"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
CHANGED = "+l6"
"""What the name of an event model ends with that a LoRA was merged into."""
MAX_THREADS = 1024

SOURCES: WeakKeyDictionary[Any, "Source"] = WeakKeyDictionary()
"""Where each loaded model came from."""


def load_target(
    ref: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    family: str | None = None,
) -> VLM:
    """Load the video model that shall answer.

    ref: a checkpoint folder (config.json, safetensors, tokenizer), a hub id, or "nano", the built-in one.
    dtype: "auto" (bfloat16 where the hardware or our kernels have it, else float32), "bfloat16", "float32" or
    "float64".
    threads: CPU threads of the whole process; None leaves them alone.
    Raises CheckpointError for a checkpoint that cannot be used and SettingError for a dtype or device not there.
    """
    return _load(ref, "target", dtype, device, threads, family)


def load_event_model(
    ref: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    family: str | None = None,
    lora: str | Path | None = None,
) -> VLM:
    """Load the event model that may draft; arguments and errors as ``load_target``, and "nano-distilled" for the
    built-in one that was taught the target's phrasing.

    lora: an adapter 'l6' (``crossdraft train distil --lora``), merged into the decoder's weights. Raises
    CheckpointError for an adapter of another level, SettingError for one of another event model.
    """
    change = None if lora is None else _merging(lora, resolve(ref, "event"))
    model = _load(ref, "event", dtype, device, threads, family, change)
    if lora is not None:
        SOURCES[model] = replace(SOURCES[model], lora=str(lora))
        model.name += CHANGED  # its states are another model's
    return model


def with_trees(target: VLM, attention: str) -> VLM:
    """The same weights, with draft trees scored "exact" or "near-exact" (``nn.engine``). SettingError for a model
    on transformers' code."""
    if not isinstance(target, SplicedVLM):
        raise SettingError(f"'{target.name}' runs on transformers' code, which takes chains only")
    if attention not in get_args(TreeAttention):
        raise SettingError(f"unknown trees '{attention}'; choose {' or '.join(get_args(TreeAttention))}")
    other: VLM = target.with_trees(attention)
    if target in SOURCES:
        SOURCES[other] = replace(SOURCES[target], trees=attention)
    return other


def load_for_training(ref: str | Path, *, device: str = "auto") -> tuple[VLM, Decoder]:
    """A frozen target and its decoder as a module, both in the target's dtype; errors as ``load_target``."""
    kept: list[Decoder] = []
    vlm = _load(ref, "target", "auto", device, None, None, kept.append, engine=False)
    return vlm, kept[0].to(pick_device(device)).requires_grad_(False)


def load_draft_model(
    ref: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    family: str | None = None,
) -> VLM:
    """Load a model that only drafts, of any family; arguments and errors as ``load_target``. "nano" and
    "nano-distilled" are the built-in event models."""
    return _load(ref, "event", dtype, device, threads, family)


def _merging(path: str | Path, event_model: str | Path) -> Callable[[Decoder], None]:
    adapter, card = load_adapter(path)
    if not isinstance(adapter, L6):
        raise CheckpointError(f"{path} is an adapter '{card.level}'; only 'l6' is merged into an event model")

    def merge(decoder: Decoder) -> None:
        adapter.inject(decoder)  # refuses another shape
        if card.event_model not in (None, fingerprint(resolve_checkpoint(event_model))):
            raise SettingError(
                f"{path} was trained in another event model than {event_model}; train it in this one"
            )
        adapter.merge()

    return merge


def _load(
    ref: str | Path,
    role: str,
    dtype: str,
    device: str,
    threads: int | None,
    family: str | None,
    change: Callable[[Decoder], None] | None = None,
    engine: bool = True,
) -> VLM:
    set_threads(threads)
    source = Source.of(ref, role, dtype, device, family, engine=engine)
    model: VLM = load_vlm(
        source.folder, dtype=getattr(torch, source.dtype), device=source.device, family=family, change=change
    )
    SOURCES[model] = source
    return model


@dataclass(frozen=True)
class Source:
    """Where a model comes from and as what it is loaded. family: None: as its config.json says. lora: an adapter
    file that is merged into it; trees: how it scores them, see ``with_trees``."""

    folder: str
    dtype: str
    device: str
    family: str | None
    config: str
    lora: str | None = None
    trees: str = "exact"

    @classmethod
    def of(
        cls, ref: str | Path, role: str, dtype: str, device: str, family: str | None = None, *, engine: bool = False
    ) -> "Source":
        """Of what a user named; engine: as ``pick_dtype``, where the model is of a family of ours.

        Raises CheckpointError when there is no such folder or hub id, SettingError.
        """
        place = pick_device(device)
        folder = resolve_checkpoint(resolve(ref, role))
        ours = engine and (family or family_of(read_json(folder / "config.json"))) != "transformers"
        kind = pick_dtype(dtype, place, engine=ours)
        return cls(str(folder), str(kind).removeprefix("torch."), place, family, config_text(folder, role))

    def what(self) -> dict[str, Any]:
        """What the model is, wherever it lies and whatever it runs on: by this an extraction is known again.

        Raises CheckpointError.
        """
        own = {"family": self.family, "dtype": self.dtype, "checkpoint": fingerprint(Path(self.folder))}
        if self.lora is None:
            return own
        return {**own, "lora": hashlib.sha256(Path(self.lora).read_bytes()).hexdigest()}


def resolve(ref: str | Path, role: str) -> str | Path:
    """The folder of the built-in model for ``role`` ("target" or "event") when ``ref`` is "nano" (an event model:
    or "nano-distilled"), else ``ref``."""
    from crossdraft.models.nano import nano_dir

    if str(ref) == NANO:
        return nano_dir("target" if role == "target" else "event")
    if str(ref) == NANO_DISTILLED and role == "event":
        return nano_dir("event-distilled")
    return ref


def watches(target: str) -> bool:
    """Whether a target answers about pictures. CheckpointError when there is none."""
    folder = resolve_checkpoint(resolve(target, "target"))
    return family_of(read_json(folder / "config.json")) in WATCHING


def runs_on_transformers(target: str) -> bool:
    """As far as its config.json tells, before anything is loaded."""
    folder = Path(resolve(target, "target"))
    return (folder / "config.json").is_file() and family_of(read_json(folder / "config.json")) == "transformers"


def pick_device(device: str) -> str:
    """ "auto" becomes cuda where there is one. SettingError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SettingError(f"unknown device '{device}'; choose auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError(f"device '{device}' is not there: no CUDA device was found; use --device cpu")
    return device


def pick_dtype(dtype: str, device: str, *, engine: bool = False) -> torch.dtype:
    """ "auto" becomes bfloat16 where the hardware has it and is faster in it, else float32.

    engine: for models whose linears are packed by us (our engine's, and text targets' in batches): our kernels have
    bfloat16 on other CPUs too.
    Raises SettingError for a dtype that is not offered.
    """
    if dtype == "auto":
        if device.startswith("cuda"):
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = bool(bf16_unit()) or (engine and kernels.status().library is not None)
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise SettingError(f"dtype '{dtype}' is not available on {device}; choose auto, {', '.join(DTYPES)}")
    if dtype == "bfloat16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported():
        raise SettingError("dtype 'bfloat16' is not available on this CUDA device; use --dtype float32")
    return DTYPES[dtype]


def training_dtype(dtype: str, device: str) -> Literal["bfloat16", "float32"]:
    """What a training computes in, ``auto`` as ``pick_dtype`` has it. SettingError for anything but these two."""
    picked = pick_dtype(dtype, device)
    if picked == torch.bfloat16:
        return "bfloat16"
    if picked == torch.float32:
        return "float32"
    raise SettingError(f"dtype '{dtype}' is not for training; choose auto, bfloat16 or float32")


def set_threads(threads: int | None) -> None:
    """CPU threads of the process; None leaves them alone. SettingError below 1."""
    if threads is None:
        return
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise SettingError(f"threads is {threads!r}, must be a whole number from 1 to {MAX_THREADS}")
    torch.set_num_threads(threads)


def config_text(ref: str | Path, role: str) -> str:
    """A checkpoint's config.json, "" where it has to be fetched first."""
    path = Path(resolve(ref, role)) / "config.json"
    return path.read_text(errors="replace") if path.is_file() else ""


def device_of(model: VLM) -> str:
    """Where a model lies; one made by hand on the CPU."""
    source = SOURCES.get(model)
    return "cpu" if source is None else source.device
