"""Pairs ready to be extracted from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crossdraft.build.costs import profile_pair
from crossdraft.build.drafters import make_drafter
from crossdraft.build.load import SOURCES, Source, load_event_model, resolve
from crossdraft.build.pairs import Pair, Plan, load_pair, lora_of
from crossdraft.build.vocabulary import Speaker, check_vocabulary
from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.protocols import VLM, Drafter, Rule
from crossdraft.core.types import Sampling
from crossdraft.data.store import Store, save_head
from crossdraft.data.store.head import HEAD_FILE
from crossdraft.extraction.answers import Answers, Kept, Running
from crossdraft.extraction.capture import ExtractConfig, Extractor
from crossdraft.extraction.jobs import Job
from crossdraft.models import read_ends
from crossdraft.models.tokenizer import TextTokenizer
from crossdraft.verify import rule_for


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
    source = Source.of(plan.target, "target", dtype, device, engine=True)
    folder, what = Path(source.folder), source.what()
    wanted = {
        "target": folder.name, "dtype": config.dtype, "tapped": config.tapped, "top_k": config.top_k,
        "answers_hash": config.answers_hash(folder.name, what, rule.name),
    }  # fmt: skip
    kept.check(wanted, jobs)
    event_model = load_event_model(
        plan.event_model, dtype=dtype, device=device, threads=threads, lora=lora_of(plan.adapter)
    )
    check_vocabulary(Speaker(kept.name, kept.vocab_size, TextTokenizer(folder)), event_model)
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
    source = SOURCES.get(model)
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
