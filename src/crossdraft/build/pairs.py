"""A target and what drafts for it: planned and checked before any weight is read, then loaded."""

from dataclasses import dataclass
from pathlib import Path

from crossdraft.adapters import Adapter
from crossdraft.adapters.base import DRAFT
from crossdraft.adapters.checkpoint import load_adapter, read_card
from crossdraft.adapters.lora import L6
from crossdraft.build import heads
from crossdraft.build.load import (
    NANO,
    NANO_DISTILLED,
    config_text,
    device_of,
    load_draft_model,
    load_event_model,
    load_target,
    resolve,
    runs_on_transformers,
)
from crossdraft.build.vocabulary import MAX_ADDED_TOKENS, Speaker, check_vocabulary, mismatch, token_map, vocab_size
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.registry import find
from crossdraft.drafters import DRAFTERS
from crossdraft.drafters.combined import parts_of
from crossdraft.models import resolve_checkpoint
from crossdraft.models.tokenizer import TextTokenizer

EVENT_DRAFTERS = ("cross_modal",)


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
    own = None
    if drafter is not None:
        own, lookup = parts_of(drafter)
        find("drafter", dict.fromkeys(DRAFTERS, "builtins:object"), own)
        if lookup is not None and not heads.is_headed(own):
            raise SettingError(f"'{drafter}' adds a lookup to a tree, but '{own}' has no trained head to grow one")
    if own is not None and heads.is_headed(own):
        heads.find_head(own, resolve_checkpoint(resolve(target, "target")), head)
    elif head is not None:
        raise SettingError(f"a trained head drafts with {', '.join(heads.HEADED)}, not with '{drafter}'")
    if drafter in EVENT_DRAFTERS:
        if chosen is None:
            raise SettingError(f"drafter '{drafter}' needs an event model; give one with --event-model")
        if prompt is not None and prompt.events is None:
            raise SettingError(f"drafter '{drafter}' needs an event recording; give one with --events")
    if drafter == "layer_skip" and runs_on_transformers(target):
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
        sizes = [vocab_size(config_text(ref, role)) for ref, role in ((target, "target"), (chosen, "event"))]
        if None not in sizes and abs(sizes[0] - sizes[1]) > MAX_ADDED_TOKENS:  # type: ignore[operator]
            raise mismatch(f"{sizes[0]} tokens against {sizes[1]}")
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
            raise lacks_draft_model()
        return
    if drafter not in (None, "draft_model"):
        raise SettingError(f"a draft model drafts with 'draft_model', not with '{drafter}'; choose that or none")
    _check_named("draft model", str(ref))
    speakers = []
    for name, role in ((target, "target"), (ref, "event")):
        size, folder = vocab_size(config_text(name, role)), Path(resolve(name, role))
        if size is None or not folder.is_dir():
            return  # fetched first, and checked then
        speakers.append(Speaker(folder.name, size, TextTokenizer(folder)))
    token_map(*speakers)


def lacks_draft_model() -> SettingError:
    """What is raised where there is none."""
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


def load_nano(*, dtype: str = "auto", threads: int | None = None) -> Pair:
    """The built-in pair on the CPU."""
    return load_pair(Plan(NANO, NANO, "cross_modal"), dtype=dtype, device="cpu", threads=threads)


def lora_of(adapter: str | Path | None) -> str | Path | None:
    """``adapter`` if it is one that changes the event model itself. CheckpointError for a file that is none."""
    return adapter if adapter is not None and read_card(adapter).level == L6.name else None


def fitting_adapter(path: str | Path, pair: Pair) -> Adapter:
    """The adapter of a checkpoint, on the target's device. CheckpointError unless it has the pair's widths,
    SettingError when it reads an event model's states and there is none."""
    adapter, card = load_adapter(path, device=device_of(pair.target))
    own = pair.event_model
    if own is None and DRAFT in adapter.inputs:
        raise SettingError(f"adapter '{card.level}' reads an event model's states; give one with --event-model")
    width = card.width_in if own is None else own.hidden_size
    name = "none" if own is None else own.name
    card.check_widths(event_model=name, width_in=width, target=pair.target.name, width_out=pair.target.hidden_size)
    return adapter
