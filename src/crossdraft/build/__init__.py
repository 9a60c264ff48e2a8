"""Composition root: the one place that turns names into objects and checks that they fit together."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch

from crossdraft.adapters import Adapter
from crossdraft.adapters.base import DRAFT
from crossdraft.adapters.checkpoint import load_adapter, read_card
from crossdraft.adapters.lora import L6
from crossdraft.bench.overheads import adapter_ms
from crossdraft.bench.profile import LatencyProfile, cached, measure
from crossdraft.bench.verdict import rounds_of
from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.build import heads
from crossdraft.core.clock import Clock
from crossdraft.core.errors import CheckpointError, DataError, SettingError
from crossdraft.core.prompt import EventStream, Prompt, VideoFrames
from crossdraft.core.protocols import VLM, CostCurve, Drafter, Rule, Tokenizer
from crossdraft.core.provenance import bf16_unit, provenance
from crossdraft.core.records import write_record
from crossdraft.core.registry import find
from crossdraft.core.types import Generation, Limits, Sampling
from crossdraft.core.vocab import TokenMap
from crossdraft.core.weights import read_json
from crossdraft.data.align import align, load_aligned
from crossdraft.data.events import load_events, make_stream, parse_sensor_size
from crossdraft.data.store import Store, save_head
from crossdraft.data.store.head import HEAD_FILE
from crossdraft.data.video import read_image, read_image_folder, read_video
from crossdraft.decode.audit import AuditReport, audit
from crossdraft.decode.loop import generate as run_loop
from crossdraft.decode.window import WindowPlan, choose
from crossdraft.drafters import DRAFTERS
from crossdraft.drafters.constant import OpeningBook
from crossdraft.drafters.memory import StreamMemory
from crossdraft.extraction.answers import Answers, Kept, Running
from crossdraft.extraction.capture import ExtractConfig, Extractor
from crossdraft.extraction.jobs import Job
from crossdraft.models import fingerprint, load_vlm, read_ends, resolve_checkpoint
from crossdraft.models.catalogue import WATCHING, family_of
from crossdraft.models.spliced import SplicedVLM
from crossdraft.models.tokenizer import TextTokenizer
from crossdraft.nn.decoder import Decoder
from crossdraft.nn.engine import TreeAttention
from crossdraft.verify import rule_for

NANO, NANO_DISTILLED = "nano", "nano-distilled"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
CHANGED = "+l6"
"""What the name of an event model ends with that a LoRA was merged into."""
EVENT_DRAFTERS = ("cross_modal",)
PACED_DRAFTERS = ("cross_modal", "draft_model", "layer_skip")
"""Those whose every token costs a pass of a model: their drafts can be given a fixed length."""

# vocabularies of one family differ by a handful of added special tokens at most
MAX_ADDED_TOKENS = 128
MAX_THREADS = 1024
PROBE = "A red car moves quickly to the left; 2 people wait. <x> [Y] 0.75 km/h, naïve\n\tindeed?"

_sources: WeakKeyDictionary[Any, "Source"] = WeakKeyDictionary()
_profiles: WeakKeyDictionary[Any, WeakKeyDictionary[Any, LatencyProfile]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Plan:
    """What shall be loaded, checked as far as that is possible without weights."""

    target: str
    event_model: str | None
    drafter: str
    adapter: str | None = None
    draft_model: str | None = None
    head: str | None = None


@dataclass(frozen=True)
class Pair:
    """A target and, perhaps, an event model that speaks the same tokens, or a model that only drafts."""

    target: VLM
    event_model: VLM | None
    draft_model: VLM | None = None


# --- models -----------------------------------------------------------------------------------------------------


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
    dtype: "auto" (bfloat16 where the hardware has it, else float32), "bfloat16", "float32" or "float64".
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
        _sources[model] = replace(_sources[model], lora=str(lora))
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
    if target in _sources:
        _sources[other] = _sources[target]
    return other


def load_for_training(ref: str | Path, *, device: str = "auto") -> tuple[VLM, Decoder]:
    """A frozen target and its decoder as a module, both in the target's dtype; errors as ``load_target``."""
    kept: list[Decoder] = []
    vlm = _load(ref, "target", "auto", device, None, None, kept.append)
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
) -> VLM:
    set_threads(threads)
    source = Source.of(ref, role, dtype, device, family)
    model: VLM = load_vlm(
        source.folder, dtype=getattr(torch, source.dtype), device=source.device, family=family, change=change
    )
    _sources[model] = source
    return model


@dataclass(frozen=True)
class Source:
    """Where a model comes from and as what it is loaded. family: None: as its config.json says. lora: an adapter
    file that is merged into it."""

    folder: str
    dtype: str
    device: str
    family: str | None
    config: str
    lora: str | None = None

    @classmethod
    def of(cls, ref: str | Path, role: str, dtype: str, device: str, family: str | None = None) -> "Source":
        """Of what a user named. Raises CheckpointError when there is no such folder or hub id, SettingError."""
        place = pick_device(device)
        kind = pick_dtype(dtype, place)
        folder = resolve_checkpoint(resolve(ref, role))
        return cls(str(folder), str(kind).removeprefix("torch."), place, family, _config_text(folder, role))

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


def pick_device(device: str) -> str:
    """ "auto" becomes cuda where there is one. SettingError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SettingError(f"unknown device '{device}'; choose auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError(f"device '{device}' is not there: no CUDA device was found; use --device cpu")
    return device


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """ "auto" becomes bfloat16 where the hardware has it, else float32. SettingError if it is not offered."""
    if dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device.startswith("cuda") else bool(bf16_unit())
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise SettingError(f"dtype '{dtype}' is not available on {device}; choose auto, {', '.join(DTYPES)}")
    if dtype == "bfloat16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported():
        raise SettingError("dtype 'bfloat16' is not available on this CUDA device; use --dtype float32")
    return DTYPES[dtype]


def set_threads(threads: int | None) -> None:
    """CPU threads of the process; None leaves them alone. SettingError below 1."""
    if threads is None:
        return
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise SettingError(f"threads is {threads!r}, must be a whole number from 1 to {MAX_THREADS}")
    torch.set_num_threads(threads)


def _config_text(ref: str | Path, role: str) -> str:
    path = Path(resolve(ref, role)) / "config.json"
    return path.read_text(errors="replace") if path.is_file() else ""


# --- pairs ------------------------------------------------------------------------------------------------------


def plan_pair(
    target: str,
    event_model: str | None = None,
    drafter: str | None = None,
    prompt: Prompt | None = None,
    *,
    adapter: str | Path | None = None,
    draft_model: str | Path | None = None,
    head: str | Path | None = None,
    both: bool = False,
) -> Plan:
    """Decide what to load and refuse what cannot work before any weight is read.

    event_model: None means the built-in one beside the built-in target and none otherwise; "none" means none.
    drafter: "auto" takes cross_modal with an adapter, draft_model with one, a head's own, memory for a stream and
    prompt lookup otherwise. adapter: a file. draft_model: a folder, a hub id or a built-in event model, perhaps of
    another vocabulary. head: a trained one, see ``make_drafter``. both: the event model is wanted, whoever drafts.
    Raises SettingError for an unknown drafter, for a drafter without what it needs, for vocabularies that differ,
    for an event model that is wanted and not named; CheckpointError for a file that is no adapter or head.
    """
    if event_model is None:
        event_model = NANO if target == NANO else "none"
    chosen = None if event_model == "none" else event_model
    if adapter is not None:
        read_card(adapter)
    if drafter == "auto" and head is not None and adapter is None and draft_model is None:
        drafter = heads.drafter_of(head)
    if drafter == "auto" and draft_model is not None and adapter is None:
        drafter = "draft_model"
    if drafter == "auto":
        drafter = default_drafter(prompt) if adapter is None else "cross_modal"
    if adapter is not None and drafter not in (None, "cross_modal"):
        raise SettingError(f"an adapter drafts with 'cross_modal', not with '{drafter}'; choose that or no adapter")
    if drafter is not None:
        find("drafter", dict.fromkeys(DRAFTERS, "builtins:object"), drafter)
    if drafter is not None and heads.is_headed(drafter):
        heads.find_head(drafter, resolve_checkpoint(resolve(target, "target")), head)
    elif head is not None:
        raise SettingError(f"a trained head drafts with {', '.join(heads.HEADED)}, not with '{drafter}'")
    if drafter in EVENT_DRAFTERS:
        if chosen is None:
            raise SettingError(f"drafter '{drafter}' needs an event model; give one with --event-model")
        if prompt is not None and prompt.events is None:
            raise SettingError(f"drafter '{drafter}' needs an event recording; give one with --events")
    if drafter == "layer_skip" and _runs_on_transformers(target):
        raise SettingError(
            f"drafter 'layer_skip' needs a target on crossdraft's own decoder, but {target} runs on transformers' "
            "code; choose another drafter"
        )
    if both and chosen is None:
        raise SettingError("an event model is needed beside the target; give one with --event-model")
    _check_named("event model", chosen, " or none")
    _plan_draft_model(target, drafter, draft_model)
    if drafter is not None and drafter not in EVENT_DRAFTERS and not both:
        chosen = None  # nobody would use it
    plan = Plan(
        str(target), chosen, drafter or "none", None if adapter is None else str(adapter),
        None if draft_model is None else str(draft_model), None if head is None else str(head),
    )  # fmt: skip
    if chosen is not None:
        sizes = [_vocab_size(_config_text(ref, role)) for ref, role in ((target, "target"), (chosen, "event"))]
        if None not in sizes and abs(sizes[0] - sizes[1]) > MAX_ADDED_TOKENS:  # type: ignore[operator]
            raise _mismatch(f"{sizes[0]} tokens against {sizes[1]}")
    return plan


def _check_named(what: str, ref: str | None, others: str = "") -> None:
    """SettingError for a name that can be neither a folder nor a hub id nor a built-in event model."""
    if ref not in (None, NANO, NANO_DISTILLED) and not Path(ref).is_dir() and "/" not in ref:
        raise SettingError(
            f"no such {what}: '{ref}'; give a folder, a hub id (owner/name), {NANO}, {NANO_DISTILLED}{others}"
        )


def _plan_draft_model(target: str, drafter: str | None, ref: str | Path | None) -> None:
    if ref is None:
        if drafter == "draft_model":
            raise _lacks_draft_model()
        return
    if drafter not in (None, "draft_model"):
        raise SettingError(f"a draft model drafts with 'draft_model', not with '{drafter}'; choose that or none")
    _check_named("draft model", str(ref))
    speakers = []
    for name, role in ((target, "target"), (ref, "event")):
        size, folder = _vocab_size(_config_text(name, role)), Path(resolve(name, role))
        if size is None or not folder.is_dir():
            return  # fetched first, and checked then
        speakers.append(_Speaker(folder.name, size, TextTokenizer(folder)))
    token_map(*speakers)


def watches(target: str) -> bool:
    """Whether a target answers about pictures. CheckpointError when there is none."""
    folder = resolve_checkpoint(resolve(target, "target"))
    return family_of(read_json(folder / "config.json")) in WATCHING


def _runs_on_transformers(target: str) -> bool:
    """As far as its config.json tells, before anything is loaded."""
    folder = Path(resolve(target, "target"))
    return (folder / "config.json").is_file() and family_of(read_json(folder / "config.json")) == "transformers"


def _lacks_draft_model() -> SettingError:
    return SettingError("drafter 'draft_model' needs a draft model; give one with --draft-model")


def default_drafter(prompt: Prompt | None) -> str:
    """memory for a clip of a stream, else prompt lookup: what costs next to nothing."""
    return "memory" if prompt is not None and prompt.stream_id is not None else "ngram"


def load_pair(plan: Plan, *, dtype: str = "auto", device: str = "auto", threads: int | None = None) -> Pair:
    """Load what ``plan`` names, an adapter 'l6' merged into the event model. SettingError when the two do not speak
    the same tokens, CheckpointError when an adapter does not fit them."""
    target = load_target(plan.target, dtype=dtype, device=device, threads=threads)
    if plan.draft_model is not None:
        return Pair(target, None, load_draft_model(plan.draft_model, dtype=dtype, device=device, threads=threads))
    if plan.event_model is None:
        return Pair(target, None)
    event_model = load_event_model(
        plan.event_model, dtype=dtype, device=device, threads=threads, lora=lora_of(plan.adapter)
    )
    check_vocabulary(target, event_model)
    return Pair(target, event_model)


class Speaks(Protocol):
    """The part of a model that turns text into ids."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of its tokens."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        ...


@dataclass(frozen=True)
class _Speaker:
    """A model that is not loaded."""

    name: str
    vocab_size: int
    tokenizer: Tokenizer


def lora_of(adapter: str | Path | None) -> str | Path | None:
    """``adapter`` if it is one that changes the event model itself. CheckpointError for a file that is none."""
    return adapter if adapter is not None and read_card(adapter).level == L6.name else None


def fitting_adapter(path: str | Path, pair: Pair) -> Adapter:
    """The adapter of a checkpoint, on the target's device. CheckpointError unless it has the pair's widths,
    SettingError when it reads an event model's states and there is none."""
    adapter, card = load_adapter(path, device=_device(pair.target))
    own = pair.event_model
    if own is None and DRAFT in adapter.inputs:
        raise SettingError(f"adapter '{card.level}' reads an event model's states; give one with --event-model")
    width = card.width_in if own is None else own.hidden_size
    name = "none" if own is None else own.name
    card.check_widths(event_model=name, width_in=width, target=pair.target.name, width_out=pair.target.hidden_size)
    return adapter


def check_vocabulary(target: Speaks, event_model: Speaks) -> None:
    """SettingError unless both models cut text into the same ids; a drafted id must mean the same to the target."""
    if not _cut_alike(target, event_model):
        raise _mismatch(f"'{target.name}' and '{event_model.name}' cut the same text into other ids")


def _cut_alike(one: Speaks, other: Speaks) -> bool:
    same = one.tokenizer.encode(PROBE) == other.tokenizer.encode(PROBE)
    return same and abs(one.vocab_size - other.vocab_size) <= MAX_ADDED_TOKENS


def token_map(target: Speaks, draft_model: Speaks) -> TokenMap:
    """The same ids where both cut text alike, else twins by spelling. SettingError when they share too little."""
    sizes = (target.vocab_size, draft_model.vocab_size)
    if _cut_alike(target, draft_model):
        return TokenMap.same(*sizes)
    ours, theirs = (getattr(speaker, "eos_token_ids", ())[:1] for speaker in (target, draft_model))
    ends = list(zip(ours, theirs, strict=False))
    return TokenMap.by_spelling(_spellings(target), _spellings(draft_model), sizes, ends)


def _spellings(speaker: Speaks) -> dict[bytes, int]:
    if not isinstance(speaker.tokenizer, TextTokenizer):
        raise SettingError(f"'{speaker.name}' has no tokenizer of a checkpoint, so its tokens cannot be compared")
    return speaker.tokenizer.spellings()


def _mismatch(what: str) -> SettingError:
    return SettingError(
        f"vocabulary mismatch between target and event model: {what}; "
        "choose an event model of the target's language model family, or --event-model none"
    )


def _vocab_size(config: str) -> int | None:
    try:
        body = json.loads(config)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None  # loading will say what is wrong with it
    text = body.get("text_config")
    size = body.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) else None


# --- prompts ----------------------------------------------------------------------------------------------------


def make_prompt(
    question: str,
    *,
    video: str | Path | VideoFrames | None = None,
    image: str | Path | None = None,
    events: str | Path | EventStream | None = None,
    sensor: str | tuple[int, int] | None = None,
    event_offset_us: int | None = None,
    stream_id: str | None = None,
    history: Sequence[tuple[str, str]] = (),
) -> Prompt:
    """Read what the user gave into one request, events on the video's clock and cut to its span.

    image: a picture, or a folder of pictures in time order. sensor: "640x480" or (640, 480), for recordings that do
    not carry it. event_offset_us: added to event times; None: the rule of ``data.align``.
    Raises DataError for anything that cannot be read, and when events and video do not overlap.
    """
    if video is not None and image is not None:
        raise DataError("give a video or an image, not both")
    frames = _frames(video, image)
    size = parse_sensor_size(sensor) if isinstance(sensor, str) else sensor
    if not isinstance(events, str | Path | EventStream | None):
        raise DataError(f"events is a {type(events).__name__}, must be a path or an EventStream")
    if events is None:
        seen = None
    elif isinstance(events, EventStream):
        seen = align(frames, events, event_offset_us) if frames is not None else events
    elif frames is not None:
        seen = load_aligned(events, frames, size, event_offset_us)
    else:
        seen = load_events(events, size)
    return Prompt(question, frames, seen, stream_id, tuple(history))


def _frames(video: str | Path | VideoFrames | None, image: str | Path | None) -> VideoFrames | None:
    for name, value in (("video", video), ("image", image)):
        if not isinstance(value, str | Path | VideoFrames | None):
            raise DataError(f"{name} is a {type(value).__name__}, must be a path or VideoFrames")
    if isinstance(video, VideoFrames):
        return video
    if video is not None:
        return read_video(video)
    if image is not None:
        return read_image_folder(image) if Path(image).is_dir() else read_image(image)
    return None


# --- costs -------------------------------------------------------------------------------------------------------


def costs_for(
    pair: Pair, prompt: Prompt, *, adapter: Adapter | None = None, refresh: bool = False, report: Report = silent
) -> LatencyProfile:
    """What passes of this pair cost here: kept from an earlier run, else measured now on ``prompt`` and kept.

    adapter: measured beside it, anew each time.
    """
    profile = _pair_costs(pair, prompt, refresh, report)
    if adapter is None:
        return profile
    on_gpu = _device(pair.target).startswith("cuda")
    return replace(
        profile, adapter_ms=adapter_ms(adapter, pair.target, sync=torch.cuda.synchronize if on_gpu else None)
    )


def _pair_costs(pair: Pair, prompt: Prompt, refresh: bool, report: Report) -> LatencyProfile:
    event_model = pair.event_model if prompt.events is not None else None
    profiles = _profiles.setdefault(pair.target, WeakKeyDictionary())
    known = profiles.get(pair.target if event_model is None else event_model)
    if known is None and event_model is None:
        known = next(iter(profiles.values()), None)  # of the target beside some event model
    if known is not None and not refresh:
        return known
    models = {"target": pair.target, "event": event_model}
    sources = {role: _sources.get(model) if model is not None else None for role, model in models.items()}
    known_by = {role: None if source is None else asdict(source) for role, source in sources.items()}
    identity = {**known_by, "threads": torch.get_num_threads()}
    device = _device(pair.target)

    def run() -> LatencyProfile:
        return measure(pair.target, event_model, prompt, device=device, report=report)

    # a target made by hand has no name, so nothing is kept of it
    profile = run() if sources["target"] is None else cached(identity, run, refresh)
    profiles[pair.target if event_model is None else event_model] = profile
    return profile


def profile_pair(
    pair: Pair, *, adapter: Adapter | None = None, refresh: bool = False, report: Report = silent
) -> LatencyProfile:
    """``costs_for`` on a made-up second of noise: eight frames and 20,000 events, whatever the pair looks at.

    adapter: measured beside it, anew each time.
    """
    rng = np.random.default_rng(0)
    times = np.arange(8, dtype=np.int64) * 125_000
    frames = VideoFrames(rng.integers(0, 256, (8, 240, 320, 3), dtype=np.uint8), times, "noise")
    count = 20_000
    events = make_stream(
        rng.integers(0, 320, count), rng.integers(0, 240, count), np.sort(rng.integers(0, 1_000_000, count)),
        rng.integers(0, 2, count), (320, 240), "noise",
    )  # fmt: skip
    prompt = Prompt("What are the key elements in this scene?", frames, events)
    try:
        pair.target.encode(prompt)
    except DataError:  # a text-only target
        prompt = replace(prompt, video=None)
    return costs_for(pair, prompt, adapter=adapter, refresh=refresh, report=report)


# --- drafters ---------------------------------------------------------------------------------------------------


def make_drafter(
    name: str,
    *,
    target: VLM,
    event_model: VLM | None = None,
    memory: StreamMemory | None = None,
    adapter: str | Path | Adapter | None = None,
    length: int | None = None,
    head: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    costs: CostCurve | None = None,
    draft_model: VLM | None = None,
    sampling: Sampling | None = None,
) -> Drafter:
    """A drafter of the catalogue. What it learns stays with it, so use one for all requests of a stream.

    memory: for "memory"; None makes an empty one. adapter: for "cross_modal", a file or what ``fitting_adapter``
    gave; an 'l6' wants the event model that was loaded with it (``lora``). length: for ``PACED_DRAFTERS``, tokens
    of every draft; None: as many as pay. head: for a drafter with a trained head, its file, its folder, or a
    folder of heads; None: those that lie beside the target (``build.heads.find_head``). settings: of such a drafter
    (shape, depth, branch, nodes). costs: of the target's passes; None takes what was measured for the pair, or
    measures it now. draft_model: for "draft_model". sampling: draw the drafts ("draft_model", and heads whose tree
    is static or a chain), which want ``LeviathanSampling`` with the same one as rule.
    Raises SettingError for an unknown name and when the event model is missing or of another vocabulary,
    CheckpointError for an adapter or head that does not fit.
    """
    kind = find("drafter", DRAFTERS, name)
    if name == "none":
        plain: Drafter = kind()
        return plain
    if name in EVENT_DRAFTERS and event_model is None:
        raise SettingError(f"drafter '{name}' needs an event model; give one with --event-model")
    is_headed = heads.is_headed(name)
    if name != "cross_modal" and adapter is not None:
        raise SettingError(f"an adapter is for 'cross_modal', not for '{name}'")
    if name not in PACED_DRAFTERS and length is not None:
        raise SettingError(f"length is for {', '.join(PACED_DRAFTERS)}, not for '{name}'")
    if name != "draft_model" and draft_model is not None:
        raise SettingError(f"draft_model is for 'draft_model', not for '{name}'")
    if sampling is not None and name != "draft_model" and not is_headed:
        raise SettingError(f"sampling is for 'draft_model' and trained heads, not for '{name}'")
    if (head is not None or settings) and not is_headed:
        raise SettingError(f"head and its settings are for drafters with a trained head, not for '{name}'")
    if costs is None:
        costs = profile_pair(Pair(target, event_model))
    if is_headed:
        own = dict(settings or {}) if sampling is None else {**(settings or {}), "sampling": sampling}
        return heads.headed_drafter(name, fitted_head(name, target, head), costs, own)
    given: dict[str, Any] = {"costs": costs}
    if name == "memory":
        given["memory"] = memory if memory is not None else StreamMemory()
    elif name == "constant":
        given["book"] = OpeningBook()
    elif name == "layer_skip":
        given["length"] = length
    elif name == "draft_model":
        if draft_model is None:
            raise _lacks_draft_model()
        given |= {
            "draft_model": draft_model, "tokens": token_map(target, draft_model), "sampling": sampling,
            "room": min(512, draft_model.max_positions // 2), "length": length,
        }  # fmt: skip
    elif name == "cross_modal":
        assert event_model is not None
        check_vocabulary(target, event_model)
        # half of its context is plenty for an answer, and leaves the other half to the prompt
        room = min(512, event_model.max_positions // 2)
        fitting = _fitting(adapter, Pair(target, event_model))
        token_ms = getattr(costs, "event_token_ms", None)
        if fitting is not None and token_ms is not None:
            token_ms += adapter_ms(fitting, target)
        given |= {
            "event_model": event_model, "token_ms": token_ms, "room": room, "adapter": fitting, "length": length,
        }  # fmt: skip
    made: Drafter = kind(**given)
    return made


_fitted: WeakKeyDictionary[Any, dict[Path, heads.Fitted]] = WeakKeyDictionary()


def fitted_head(name: str, target: VLM, head: str | Path | None = None) -> heads.Fitted:
    """The packed head that drafter ``name`` runs, loaded once for a target; see ``make_drafter``."""
    source = _sources.get(target)
    if source is None:
        raise SettingError(f"drafter '{name}' has a trained head, which belongs to a checkpoint; load the target")
    path = heads.find_head(name, source.folder, head)
    known = _fitted.setdefault(target, {})
    if path not in known:
        known[path] = heads.fit_head(path, target, source.folder, getattr(torch, source.dtype), source.device)
    return known[path]


def _fitting(adapter: str | Path | Adapter | None, pair: Pair) -> Adapter | None:
    if adapter is None:
        return None
    fitting = adapter if isinstance(adapter, Adapter) else fitting_adapter(adapter, pair)
    source = _sources.get(pair.event_model)
    if isinstance(fitting, L6) and source is not None and source.lora is None:
        raise SettingError(
            "adapter 'l6' changes the event model; load it with that: load_event_model(..., lora=FILE)"
        )
    return fitting


def open_memory(path: str | Path | None) -> StreamMemory:
    """The streams' memory kept under ``path``, an empty one where there is none yet. DataError if it is damaged."""
    if path is None or not Path(path).exists():
        return StreamMemory()
    return StreamMemory.load(path)


# --- extraction --------------------------------------------------------------------------------------------------


def make_extractor(pair: Pair, config: ExtractConfig) -> Extractor:
    """The pair, ready to be extracted from; greedy. SettingError without an event model."""
    if pair.event_model is None:
        raise SettingError("extraction needs an event model beside the target; give one with --event-model")
    rule = rule_for(Sampling())
    answers = Running(
        pair.target, _own_memory(pair.target), rule, config.max_new_tokens, config.tapped, config.top_k
    )
    return _extractor(answers, _what(pair.target), pair.event_model, rule, config)


def load_extractor(
    plan: Plan, config: ExtractConfig, *, dtype: str = "auto", device: str = "auto", threads: int | None = None,
    answers: str | Path | None = None, jobs: Sequence[Job] = (),
) -> Extractor:  # fmt: skip
    """Load what ``plan`` names for an extraction over ``jobs``.

    answers: a store of the same target with the same settings, whose answers and states are taken; the target is
    not loaded then. Raises DataError when it holds others, and as ``load_pair`` and ``make_extractor`` do.
    """
    if answers is None:
        return make_extractor(load_pair(plan, dtype=dtype, device=device, threads=threads), config)
    assert plan.event_model is not None, "plan_pair(both=True)"
    kept, rule = Kept.of(Store.open(answers)), rule_for(Sampling())
    source = Source.of(plan.target, "target", dtype, device)
    folder, what = Path(source.folder), source.what()
    wanted = {
        "target": folder.name, "dtype": config.dtype, "tapped": config.tapped, "top_k": config.top_k,
        "answers_hash": config.answers_hash(folder.name, what, rule.name),
    }  # fmt: skip
    kept.check(wanted, jobs)
    event_model = load_event_model(
        plan.event_model, dtype=dtype, device=device, threads=threads, lora=lora_of(plan.adapter)
    )
    check_vocabulary(_Speaker(kept.name, kept.vocab_size, TextTokenizer(folder)), event_model)
    return _extractor(kept, what, event_model, rule, config)


def _extractor(
    answers: Answers, target: dict[str, Any] | None, event_model: VLM, rule: Rule, config: ExtractConfig
) -> Extractor:
    own = _own_memory(event_model) if config.mode == "free-running" else make_drafter("none", target=event_model)
    sources = {"target": target, "event_model": _what(event_model)}
    return Extractor(answers, event_model, own, rule, config, sources)


def _own_memory(model: VLM) -> Drafter:
    return make_drafter("memory", target=model, costs=profile_pair(Pair(model, None)))


def _what(model: VLM) -> dict[str, Any] | None:
    source = _sources.get(model)
    return None if source is None else source.what()


def keep_head(
    store: str | Path, target: str | Path, *, note: Callable[[str], None] = lambda line: None
) -> Path | None:
    """Keep the target's output head beside its states, so that training needs no model; returns the file.

    A checkpoint whose head is not found by its name is noted: its states are as good without. Raises what cannot be
    written.
    """
    if (path := Path(store) / HEAD_FILE).is_file():
        return path
    folder = resolve(target, "target")
    try:
        head = read_ends(folder).head
    except CheckpointError as error:
        note(f"the target's output head is not kept: {error}")
        return None
    return save_head(store, head, str(folder))


# --- answers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One prompt for one target with everything that decides the answer; drafters change only how long it takes."""

    target: VLM
    prompt: Prompt
    rule: Rule
    limits: Limits
    window: WindowPlan

    def answer(
        self,
        drafter: Drafter,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Generation:
        """Answer with the help of ``drafter``. Raises what the models raise."""
        return run_loop(
            self.target, drafter, self.prompt, rule=self.rule, limits=self.limits, window=self.window,
            clock=_clock(self.target), on_tokens=on_tokens, cancel=cancel,
        )  # fmt: skip

    def warm_up(self) -> None:
        """A short plain answer that nobody times: the first run pays for pages and kernels that later ones find."""
        short = replace(self.limits, max_new_tokens=min(8, self.limits.max_new_tokens))
        replace(self, limits=short, window=choose("off")).answer(make_drafter("none", target=self.target))

    def audit(self, answer: Generation) -> AuditReport:
        """Re-score a greedy ``answer`` through fresh passes. SettingError for a sampled one."""
        if self.rule.name != "greedy":
            raise SettingError(
                "an audit re-scores greedy answers; a sampled one is meant to differ from the argmax"
            )
        return audit(self.target, self.prompt, answer)


def make_request(
    target: VLM,
    prompt: Prompt,
    *,
    sampling: Sampling,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    window: str = "auto",
    costs: LatencyProfile | None = None,
) -> Request:
    """Settle rule, limits and window. SettingError for settings that cannot work."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    limits = Limits(max_new_tokens=max_new_tokens, eos_token_ids=tuple(target.eos_token_ids), stop=stops)
    return Request(target, prompt, rule_for(sampling), limits, choose(window, costs))


def generate(
    target: VLM,
    question: str,
    *,
    video: str | Path | VideoFrames | None = None,
    image: str | Path | None = None,
    events: str | Path | EventStream | None = None,
    sensor: str | tuple[int, int] | None = None,
    event_offset_us: int | None = None,
    event_model: VLM | None = None,
    drafter: str | Drafter = "auto",
    memory: StreamMemory | None = None,
    adapter: str | Path | None = None,
    head: str | Path | None = None,
    stream_id: str | None = None,
    history: Sequence[tuple[str, str]] = (),
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    window: str = "auto",
    on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Generation:
    """The target's own answer to ``question``, token for token, with the help of a drafter.

    drafter: a name of ``crossdraft list``, or one made by ``make_drafter``, which keeps what it learned.
    "auto": cross_modal with an ``adapter``, a ``head``'s own drafter, memory where a ``stream_id`` is given, else
    prompt lookup. memory: of the streams, see ``open_memory``. adapter, head: see ``make_drafter``.
    The first call measures the pair's passes (a second or so for small models) and keeps that on disk.
    Raises DataError, SettingError; see ``make_prompt`` for the other arguments.
    """
    prompt = make_prompt(
        question, video=video, image=image, events=events, sensor=sensor, event_offset_us=event_offset_us,
        stream_id=stream_id, history=history,
    )  # fmt: skip
    if isinstance(target, str | Path):
        raise SettingError(f"target is '{target}', must be a loaded model; load it: crossdraft.load_target(...)")
    if not isinstance(drafter, str) and not hasattr(drafter, "begin"):
        raise SettingError(f"drafter is {drafter!r:.40}, must be a name or what make_drafter gave")
    if memory is not None and not isinstance(memory, StreamMemory):
        raise SettingError(f"memory is {memory!r:.40}, must be a StreamMemory; read one with open_memory(path)")
    if event_model is not None:
        check_vocabulary(target, event_model)
    costs = costs_for(Pair(target, event_model), prompt)
    if isinstance(drafter, str):
        chosen = default_drafter(prompt) if head is None else heads.drafter_of(head)
        chosen = chosen if adapter is None else "cross_modal"
        drafter = make_drafter(
            chosen if drafter == "auto" else drafter, target=target, event_model=event_model, memory=memory,
            adapter=adapter, head=head, costs=costs,
        )  # fmt: skip
    if drafter.needs.events and prompt.events is None:
        raise SettingError(f"drafter '{drafter.name}' needs an event recording; give one as events")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    request = make_request(
        target, prompt, sampling=sampling, max_new_tokens=max_new_tokens, stop=stop, window=window, costs=costs
    )
    return request.answer(drafter, on_tokens, cancel)


def save_generation(path: str | Path, answer: Generation, settings: dict[str, Any]) -> Path:
    """Save an answer with its rounds, ``settings`` and provenance as a record. CrossdraftError if it cannot be."""
    return write_record(path, "generation", {**settings, "rounds": rounds_of(answer), "provenance": provenance()})


def _clock(target: VLM) -> Clock:
    return Clock(sync=torch.cuda.synchronize if _device(target).startswith("cuda") else None)


def _device(model: VLM) -> str:
    source = _sources.get(model)
    return "cpu" if source is None else source.device


# --- measuring --------------------------------------------------------------------------------------------------


def workbench(pair: Pair, prompt: Prompt, *, window: str = "auto", report: Report = silent) -> Workbench:
    """The pair, ready to be measured; its costs are measured first where no earlier run kept them."""
    costs = costs_for(pair, prompt, report=report)

    def new_drafter(name: str, curve: CostCurve | None = None) -> Drafter:
        return make_drafter(name, target=pair.target, event_model=pair.event_model, costs=curve or costs)

    def new_rule(temperature: float, seed: int) -> Rule:
        return rule_for(Sampling(temperature=temperature, seed=seed))

    return Workbench(pair.target, pair.event_model, new_drafter, new_rule, costs, choose(window, costs))


def load_nano(*, dtype: str = "auto", threads: int | None = None) -> Pair:
    """The built-in pair on the CPU."""
    return load_pair(Plan(NANO, NANO, "cross_modal"), dtype=dtype, device="cpu", threads=threads)
