"""Adapters from their files, judged on a store: the record behind ``crossdraft evaluate``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from crossdraft.adapters.checkpoint import load_adapter
from crossdraft.build import CHANGED, lora_of, resolve
from crossdraft.core.errors import DataError
from crossdraft.core.protocols import Tokenizer
from crossdraft.core.provenance import provenance
from crossdraft.core.records import read_record
from crossdraft.data.store import Store
from crossdraft.evaluate.acceptance import as_record
from crossdraft.evaluate.compare import Compared, compare_controls, compare_one
from crossdraft.evaluate.offline import Candidate, Judged
from crossdraft.models import Ends, read_ends, resolve_checkpoint
from crossdraft.models.tokenizer import TextTokenizer
from crossdraft.training.adapters import ADAPTER, RECORD
from crossdraft.training.adapters import KIND as TRAINING

KIND = "evaluation"
LENGTH = 6
"""Tokens of a draft in the rounds that are played through: acceptance rates are known to this depth."""

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Group:
    """Candidates whose states are in one store, and the same samples with the events of other clips. notes: what a
    reader of their rows must know."""

    store: Store
    candidates: Sequence[Candidate]
    shuffled: Store | None = None
    notes: Sequence[str] = ()


def find_adapters(paths: Sequence[str | Path]) -> list[Path]:
    """Adapter files: those named, and those in the folders named, at any depth. DataError where there is none."""
    found: list[Path] = []
    for path in map(Path, paths):
        files = sorted(path.rglob(ADAPTER)) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: holds no {ADAPTER}; train one: crossdraft train adapter")
        found += files
    return found


def candidates_of(
    files: Sequence[Path], ends: Ends, own_head: Float[Tensor, "V D"] | None = None
) -> list[Candidate]:
    """A candidate for each adapter, and for a level that looks ahead one more, run on whole answers as the study
    did. An 'l6' that was taught tokens speaks through the event model's ``own_head``.

    Raises CheckpointError for a file that is no adapter, DataError for two of one name.
    """
    candidates = []
    for file in files:
        adapter, card = load_adapter(file)
        training = _training(file)
        trained_on = training.get("trained_on")
        name = card.level if trained_on in (None, "teacher-forced") else f"{card.level}, {trained_on}"
        if card.level == "l6" and training.get("about", {}).get("loss") == "tokens" and own_head is not None:
            candidates.append(Candidate(name, own_head, trained_on=trained_on))
            continue
        one = Candidate(name, ends.head, adapter, ends.embeddings, trained_on)
        candidates.append(one)
        if not adapter.causal:
            candidates.append(replace(one, name=f"{name} (whole answer)", whole=True))
    names = [c.name for c in candidates]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two adapters are called '{min(twice)}'; evaluate them one after the other")
    return candidates


def _training(file: Path) -> dict[str, Any]:
    """The record that an adapter's training left beside it; empty without one."""
    record = file.with_name(RECORD)
    return read_record(record, TRAINING) if record.is_file() else {}


def evaluate(
    group: Group,
    tokenizer: Tokenizer,
    *,
    learn_from: Store | None = None,
    length: int = LENGTH,
    draws: int = 2000,
    report: Report = lambda what, done, total: None,
) -> tuple[dict[str, Any], list[Judged]]:
    """The body of an evaluation record, a row for each candidate and for each control beside them; and what each
    candidate made of each sample.

    learn_from: answers that the controls may learn first, such as those that the adapters were trained on. Raises
    DataError, MeasureError (``compare_one``).
    """
    rows: list[Compared] = []
    judged: list[Judged] = []
    for number, candidate in enumerate(group.candidates):
        report(f"judging {candidate.name}", number, len(group.candidates))
        row, own = compare_one(group.store, candidate, shuffled=group.shuffled, length=length, draws=draws)
        rows.append(row)
        judged.append(own)
    body = record_of(
        rows, group.store, tokenizer, has_shuffled=group.shuffled is not None, learn_from=learn_from, length=length,
        draws=draws, notes=group.notes, report=report,
    )  # fmt: skip
    return body, judged


def record_of(
    rows: Sequence[Compared],
    store: Store,
    tokenizer: Tokenizer,
    *,
    has_shuffled: bool,
    learn_from: Store | None = None,
    length: int = LENGTH,
    draws: int = 2000,
    notes: Sequence[str] = (),
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """The body of an evaluation record: ``rows``, and the controls on ``store`` that know nothing of the clip.

    Raises DataError when ``learn_from`` holds samples of ``store``: a control would recite what it is asked.
    """
    if learn_from is not None:
        known = {(entry.recording, entry.id) for entry in learn_from.entries}
        if twice := sum((entry.recording, entry.id) in known for entry in store.entries):
            raise DataError(
                f"{learn_from.root} holds {twice} of the {len(store)} samples of {store.root}, so the controls "
                "would recite their answers; let them learn from other recordings"
            )
    notes, every = list(notes), list(rows)
    if store.identity.has_tokens:
        every += compare_controls(store, tokenizer, learn_from=learn_from, draws=draws, report=report)
    else:
        notes.append("no controls: this store keeps texts, not tokens")
    if not has_shuffled:
        notes.append(
            "no shuffled clip beside these rows: what the events contribute cannot be said; extract one with "
            "--shuffle-events"
        )
    return {
        "store": str(store.root), "mode": store.identity.mode, "length": length, "num_samples": len(store),
        "num_recordings": len(store.recordings),
        "num_tokens": sum(entry.num_target_tokens for entry in store.entries), "intervals": draws > 0,
        "notes": notes, "rows": [as_record(row) for row in every], "provenance": provenance(),
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Models:
    """What candidates are made of, none of it loaded for decoding. own_head: the event model's, for its own row;
    event_model: that one's name."""

    ends: Ends
    tokenizer: Tokenizer
    own_head: Float[Tensor, "V D"] | None = None
    event_model: str | None = None


def read_models(target: str, event_model: str | None) -> Models:
    """Heads, embeddings and tokenizer of a pair by reference. Raises CheckpointError."""
    folder = resolve_checkpoint(resolve(target, "target"))
    ends, tokenizer = read_ends(folder), TextTokenizer(folder)
    if event_model in (None, "none"):
        return Models(ends, tokenizer)
    own = resolve_checkpoint(resolve(str(event_model), "event"))
    return Models(ends, tokenizer, read_ends(own).head, own.name)


def group_of(
    store: Store,
    files: Sequence[Path],
    models: Models,
    *,
    shuffled: Store | None = None,
    own_name: str = "event model",
) -> Group:
    """The adapters of ``files`` on one store, led by the event model's own head where it is known.

    Raises DataError for an 'l6' on states of another event model than the one that it changes, and the reverse; for
    an adapter, or an event model's head, on states of an event model that is not its own; and unless ``store`` saw
    the right clips and ``shuffled`` others.
    """
    _check_clips(store, shuffled)
    identity = store.identity
    changed = identity.event_model.endswith(CHANGED)
    if models.event_model not in (None, identity.event_model.removesuffix(CHANGED)):
        raise DataError(
            f"{store.root} holds states of '{identity.event_model}', which the head of '{models.event_model}' "
            "never saw; name the store's own with --event-model, or none"
        )
    for file in files:
        is_change = lora_of(file) is not None
        if is_change and not changed:
            raise DataError(
                f"{file} changes the event model, but {store.root} holds states of '{store.identity.event_model}' "
                "as it was; extract again with --lora, and evaluate on that"
            )
        trained = _training(file).get("store", {}).get("event_model")
        if changed and not is_change and trained != identity.event_model:
            raise DataError(f"{store.root} holds states of '{store.identity.event_model}', which {file} never saw")
        if not changed and trained not in (None, identity.event_model):
            raise DataError(
                f"{file} was trained on states of '{trained}', but {store.root} holds those of "
                f"'{identity.event_model}'; extract with the event model that it was trained for"
            )
    candidates = candidates_of(files, models.ends, models.own_head)
    if models.own_head is not None and not changed and store.identity.mode == "teacher-forced":
        candidates.insert(0, Candidate(own_name, models.own_head))
    return Group(store, candidates, shuffled, [note for file in files for note in _seen(file, store)])


def _check_clips(store: Store, shuffled: Store | None) -> None:
    if store.identity.control != "none":
        raise DataError(f"{store.root}: its event model saw other clips' events; give it as the shuffled control")
    if shuffled is not None and shuffled.identity.control != "shuffled":
        raise DataError(
            f"{shuffled.root}: its event model saw the right clips; extract the control with --shuffle-events"
        )


def _seen(file: Path, store: Store) -> list[str]:
    """A note when the adapter was trained on recordings of the store: its figures are no held-out ones."""
    train = set(_training(file).get("recordings", {}).get("train", ()))
    both = len(train & set(store.recordings))
    return [f"{file} was trained on {both} of these {len(store.recordings)} recordings: not held out"] * (both > 0)
