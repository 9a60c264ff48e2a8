"""One pair of states, the store that it fits into, and how it becomes named tensors and back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.config import from_mapping
from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.records import read_record

KIND, STORE_FILE = "paired-states", "store.json"
Mode = Literal["teacher-forced", "free-running"]
Control = Literal["none", "shuffled"]
DType = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class StoreIdentity:
    """What all samples of a store have in common; samples of another identity are refused.

    target, event_model: names of the two models.
    target_width, draft_width: hidden sizes of the two, which may differ.
    vocab_size: of the target; None where the source does not state it.
    mode: "teacher-forced": both models read the target's answer; "free-running": each its own.
    dtype: of the stored states.
    tapped: target layers whose states are stored as well; top_k: log-probabilities stored for each position.
    has_tokens: False where the source kept texts only.
    config_hash: of the whole configuration of the extraction, see ``config_hash``.
    control: "shuffled": the event model saw another clip's events, which nothing of the target's depends on.
    answers_hash: of what decides the target's side alone; stores that share it hold the same answers to the same
        clips and questions. "" where that is not known.
    """

    target: str
    event_model: str
    target_width: int
    draft_width: int
    vocab_size: int | None
    mode: Mode
    dtype: DType
    config_hash: str
    tapped: tuple[int, ...] = ()
    top_k: int = 0
    has_tokens: bool = True
    control: Control = "none"
    answers_hash: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tapped", tuple(self.tapped))
        for name in ("target", "event_model", "config_hash", "answers_hash"):
            if not isinstance(getattr(self, name), str):
                raise SettingError(f"{name} of a store is {getattr(self, name)!r:.40}, must be text")
        if type(self.has_tokens) is not bool:
            raise SettingError(f"has_tokens of a store is {self.has_tokens!r:.40}, must be true or false")
        for name in ("target_width", "draft_width"):
            _check_count(name, getattr(self, name), 1)
        _check_count("top_k", self.top_k, 0)
        if self.vocab_size is not None:
            _check_count("vocab_size", self.vocab_size, max(1, self.top_k))
        for name, kind in (("mode", Mode), ("dtype", DType), ("control", Control)):
            allowed = get_args(kind)
            if getattr(self, name) not in allowed:
                raise SettingError(
                    f"{name} of a store is {getattr(self, name)!r:.40}, must be one of: {', '.join(allowed)}"
                )
        if any(type(layer) is not int for layer in self.tapped) or len(set(self.tapped)) < len(self.tapped):
            raise SettingError(f"tapped layers of a store are {self.tapped!r:.60}, must be different layer numbers")

    def difference(self, other: "StoreIdentity") -> str | None:
        """The first field in which two identities differ, in words; None when they are the same."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        differ = [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]
        for name, mine, theirs in differ:
            if not name.endswith("_hash"):
                return f"{name} {mine!r} against {theirs!r}"
        if differ:
            name, mine, theirs = differ[0]
            return f"other checkpoints or settings: {name} {mine:.8} against {theirs:.8}"
        return None

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the tensors that every sample has."""
        tokens = ("target_tokens", "draft_tokens") if self.has_tokens else ()
        top = ("top_ids", "top_log_probs") if self.top_k else ()
        return ("target_states", "draft_states", *tokens, *(f"tapped.{layer}" for layer in self.tapped), *top)


def _check_count(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise SettingError(f"{name} of a store is {value!r:.40}, must be a whole number from {least} on")


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration of plain values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_identity(root: Path) -> StoreIdentity:
    """The identity of the store in ``root``. DataError when there is no store or its record is damaged."""
    path = root / STORE_FILE
    if not path.is_file():
        raise DataError(f"{root}: is no store of paired states (it has no {STORE_FILE}); give the folder of one")
    body = read_record(path, KIND)
    values = {name: value for name, value in body.items() if name not in ("schema", "kind")}
    try:
        return from_mapping(StoreIdentity, values, str(path))
    except (SettingError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); copy the store again") from error


def identity_body(identity: StoreIdentity) -> dict[str, Any]:
    """What ``store.json`` says of an identity; versions that know no controls can read what is none."""
    body = {**asdict(identity), "tapped": list(identity.tapped)}
    unsaid = [name for name, silent in (("control", "none"), ("answers_hash", "")) if body[name] == silent]
    return {name: value for name, value in body.items() if name not in unsaid}


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedStates:
    """States of both models for one clip and one question. K target tokens, J draft tokens; sequence first.

    id: unique in the store; recording: the stream that the clip was cut from, by which data are split.
    clip_index: the clip's place in its recording.
    target_states, draft_states: last layer after the final norm; row t is the state that *predicts* token t.
    target_tokens, draft_tokens: the predicted ids; None where the source kept texts only.
    tapped: states of further target layers, {layer: (K, Dt)}.
    top_ids, top_log_probs: the target's most probable tokens at each position (int32 when read back), and the
        natural logarithms of their probabilities.
    """

    id: str
    recording: str
    clip_index: int
    question: str
    target_states: Float[Tensor, "K Dt"]
    draft_states: Float[Tensor, "J Dd"]
    target_tokens: Int[Tensor, "K"] | None = None
    draft_tokens: Int[Tensor, "J"] | None = None
    tapped: Mapping[int, Float[Tensor, "K Dt"]] = field(default_factory=dict)
    top_ids: Int[Tensor, "K top"] | None = None
    top_log_probs: Float[Tensor, "K top"] | None = None
    target_text: str = ""
    draft_text: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        named = {
            "target_states": self.target_states, "draft_states": self.draft_states,
            "target_tokens": self.target_tokens, "draft_tokens": self.draft_tokens,
            **{f"tapped.{layer}": states for layer, states in self.tapped.items()},
            "top_ids": self.top_ids, "top_log_probs": self.top_log_probs,
        }  # fmt: skip
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def encode(sample: PairedStates, identity: StoreIdentity) -> dict[str, Tensor]:
    """Own copies of a sample's tensors on the CPU, as stored: states in the store's dtype, ids int32, logs float32.

    DataError when the sample does not fit the identity or holds a value that is not finite.
    """
    tensors = sample.tensors()
    where = f"sample '{sample.id}'"
    if tensors.keys() != set(identity.tensor_names):
        raise DataError(
            f"{where}: has {', '.join(sorted(tensors))}, the store takes {', '.join(sorted(identity.tensor_names))}"
        )
    _check_text(sample, where)
    stored = {}
    for name, tensor in tensors.items():
        dtype = _dtype(name, identity)
        copy = tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        # a cast of ids must not change them; states are rounded, which is what the store's dtype is for
        if not dtype.is_floating_point and (tensor.is_floating_point() or (copy != tensor.cpu()).any()):
            raise DataError(f"{where}: {name} must be token ids, whole numbers below 2^31")
        stored[name] = copy
    check_tensors(stored, len(sample.target_states), len(sample.draft_states), identity, where)
    return stored


def check_tensors(
    tensors: Mapping[str, Tensor], num_target: int, num_draft: int, identity: StoreIdentity, where: str
) -> None:
    """DataError, naming ``where``, unless shapes and dtypes are the store's and every value is one that can be."""
    if not (num_target and num_draft):
        raise DataError(f"{where}: an answer has no token; a pair needs at least one of each model")
    lengths = {"target": num_target, "draft": num_draft}
    widths = {"target_states": identity.target_width, "draft_states": identity.draft_width}
    widths |= {f"tapped.{layer}": identity.target_width for layer in identity.tapped}
    widths |= dict.fromkeys(("top_ids", "top_log_probs"), identity.top_k)
    ceiling = identity.vocab_size or 2**31
    for name, tensor in tensors.items():
        length = lengths.get(name.partition("_")[0], num_target)
        shape, dtype = (length, widths[name]) if name in widths else (length,), _dtype(name, identity)
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise DataError(
                f"{where}: {name} is {_words(tensor.dtype, tensor.shape)}, must be {_words(dtype, shape)} in this "
                "store; pairs of other models belong in another"
            )
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise DataError(f"{where}: {name} has NaN or infinite values{_overflow(name, identity)}")
        # the event model's vocabulary may be another one
        elif tensor.min() < 0 or (name != "draft_tokens" and int(tensor.max()) >= ceiling):
            raise DataError(f"{where}: {name} has ids outside the vocabulary of {ceiling} tokens")


def decode(tensors: Mapping[str, Tensor], identity: StoreIdentity, about: Mapping[str, Any]) -> PairedStates:
    """The sample of stored tensors; token ids as int64. ``about``: the fields that are no tensors."""
    named: dict[str, Any] = {
        n: t.long() if n.endswith("_tokens") else t for n, t in tensors.items() if "." not in n
    }
    return PairedStates(**about, **named, tapped={layer: tensors[f"tapped.{layer}"] for layer in identity.tapped})


def _dtype(name: str, identity: StoreIdentity) -> torch.dtype:
    if name.endswith("_tokens") or name == "top_ids":
        return torch.int32
    return torch.float32 if name == "top_log_probs" else DTYPES[identity.dtype]


def _words(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def _overflow(name: str, identity: StoreIdentity) -> str:
    return " (beyond 65504 in fp16? bf16 holds them)" if identity.dtype == "fp16" and "top" not in name else ""


def _check_text(sample: PairedStates, where: str) -> None:
    for name in ("id", "recording", "question", "target_text", "draft_text"):
        if not isinstance(getattr(sample, name), str):
            raise DataError(f"{where}: {name} is {getattr(sample, name)!r:.40}, must be text")
    if not sample.id:
        raise DataError("a sample has an empty id; ids must be text that differs from sample to sample")
    if type(sample.clip_index) is not int:
        raise DataError(f"{where}: clip_index is {sample.clip_index!r:.40}, must be a whole number")
