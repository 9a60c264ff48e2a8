"""Paired states in the chunks of the study that this project grew from, brought into a store.

    CHUNKS/index.json             total_samples, chunk_size, chunks [{path, start_idx, n_samples}], config
    CHUNKS/chunks/chunk_*.pt      egpt_hidden, vl_hidden (N, L, D) float32, zero-padded; seq_lens (N,);
                                  metadata [{sample_idx, question_idx, question, egpt_text, vl_text, seq_len}]
    vl_lm_head.pt                 lm_head_weight (V, D) float32, vocab_size, hidden_dim, model_id

Both models wrote freely, row t is the state that predicts token t, and a pair is cut to the shorter answer. Token
ids were not kept, texts were. ``sample_idx`` counts the records of the data set in the order of its file.

The files are pickles: they are loaded with ``weights_only``, which refuses everything but tensors and plain values,
and mapped, so that a chunk's states pass through memory one sample at a time.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossdraft.core.errors import DataError
from crossdraft.data.paired import INDEX_FILE, read_instruction_dataset
from crossdraft.data.store.head import check_head, save_head
from crossdraft.data.store.health import Progress, silent
from crossdraft.data.store.index import Failure
from crossdraft.data.store.reader import Store
from crossdraft.data.store.sample import DType, PairedStates, StoreIdentity, config_hash
from crossdraft.data.store.writer import StoreWriter

TARGET, EVENT_MODEL = "Video-LLaVA", "EventGPT"
UNKNOWN_RECORDING = "unknown"


def import_chunks(
    chunks: str | Path, out: str | Path, *, head: str | Path | None = None, dataset: str | Path | None = None,
    dtype: DType = "fp32", progress: Progress = silent,
) -> Store:  # fmt: skip
    """Bring a folder of chunks into the store ``out``, which is made, or continued after a break.

    A pair whose states are not finite, or too large for fp16, is recorded as failed.

    Args:
        chunks: folder with index.json and chunks/.
        head: vl_lm_head.pt, to be kept as the store's target head; its vocabulary becomes the store's.
        dataset: the data set in the instruction layout, to learn which recording a sample belongs to. Without it
            all samples are of one recording named "unknown", so that no split by recording is possible.
        dtype: of the stored states; fp32 keeps them as they are, bf16 and fp16 halve them.

    Raises:
        DataError: a file is missing, damaged, hostile, or breaks the format.
        CrossdraftError: the disk is full.
    """
    source = _Source.open(Path(chunks))
    clips = _clips(Path(dataset)) if dataset is not None else None
    weight, model = _load_head(Path(head)) if head is not None else (None, "")
    target_width, draft_width = source.widths()
    identity = StoreIdentity(
        target=TARGET, event_model=EVENT_MODEL, target_width=target_width, draft_width=draft_width,
        vocab_size=None if weight is None else len(weight), mode="free-running", dtype=dtype,
        config_hash=config_hash(source.config), has_tokens=False,
    )  # fmt: skip
    if weight is not None:
        # before the store is made, which could not be another kind of store later
        check_head(weight, identity, str(head))
    seen: set[str] = set()
    with StoreWriter(out, identity, prefix="chunks") as writer:
        if weight is not None:
            save_head(out, weight, model)
        for place, pair in enumerate(source.pairs(clips)):
            if pair.id in seen:
                raise DataError(f"{source.root}: has sample '{pair.id}' (clip and question) twice; extract again")
            seen.add(pair.id)
            progress("importing", place, source.num_samples)
            if writer.remaining([pair.id]):
                _take(writer, pair)
    return Store.open(out)


def _take(writer: StoreWriter, pair: PairedStates) -> None:
    try:
        writer.put(pair)
    except DataError as error:
        # widths and lengths were checked for the whole chunk, so what does not fit here are the values
        writer.fail(
            Failure(
                id=pair.id, recording=pair.recording, clip_index=pair.clip_index, question=pair.question,
                reason=str(error),
            )
        )  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """The index of a folder of chunks."""

    root: Path
    sizes: Mapping[str, int]  # file name -> samples
    config: Mapping[str, Any]

    @classmethod
    def open(cls, root: Path) -> "_Source":
        path = root / "index.json"
        try:
            body = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise DataError(f"{root}: has no index.json; give the folder that holds it and chunks/") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read ({error}); copy it again") from None
        chunks = body.get("chunks") if isinstance(body, dict) else None
        if not isinstance(chunks, list) or not chunks:
            raise DataError(f"{path}: names no chunks; it must hold a list 'chunks' with at least one")
        sizes: dict[str, int] = {}
        for number, chunk in enumerate(chunks):
            name, size = (chunk.get("path"), chunk.get("n_samples")) if isinstance(chunk, dict) else (None, None)
            if not isinstance(name, str) or Path(name).name != name or type(size) is not int or name in sizes:
                raise DataError(
                    f"{path}: chunk {number} is {chunk!r:.80}, must have the plain file name 'path', each "
                    "once, and the number 'n_samples'"
                )
            if not (root / "chunks" / name).is_file():
                raise DataError(f"{root / 'chunks' / name}: missing, though {path} names it; copy the chunks again")
            sizes[name] = size
        config = body.get("config", {})
        if not isinstance(config, dict):
            raise DataError(f"{path}: 'config' is {config!r:.40}, must be an object")
        try:
            config_hash(config)
        except ValueError as error:
            raise DataError(f"{path}: 'config' holds what is no JSON value ({error}); mend it there") from None
        return cls(root, sizes, config)

    @property
    def num_samples(self) -> int:
        return sum(self.sizes.values())

    def widths(self) -> tuple[int, int]:
        """Hidden sizes of target and event model, from the first chunk."""
        chunk = self._load(next(iter(self.sizes)))
        return chunk.target.shape[2], chunk.draft.shape[2]

    def pairs(self, clips: "list[tuple[str, int]] | None") -> Iterator[PairedStates]:
        """All pairs in order, one chunk open at a time. clips: (recording, clip index) by sample_idx."""
        widths = self.widths()
        for name in self.sizes:
            chunk = self._load(name)
            if (chunk.target.shape[2], chunk.draft.shape[2]) != widths:
                raise DataError(
                    f"{chunk.path}: has states of widths {chunk.target.shape[2]} and {chunk.draft.shape[2]}, the "
                    f"chunks before it {widths[0]} and {widths[1]}; import them into stores of their own"
                )
            for row in range(len(chunk.lengths)):
                yield chunk.pair(row, clips)

    def _load(self, name: str) -> "_Chunk":
        path = self.root / "chunks" / name
        chunk = _Chunk.of(_load_pickle(path), path)
        if len(chunk.lengths) != self.sizes[name]:
            raise DataError(f"{path}: holds {len(chunk.lengths)} samples, its index says {self.sizes[name]}")
        return chunk


@dataclass(frozen=True)
class _Chunk:
    """One checked chunk; states are (N, L, D), mapped from the file."""

    path: Path
    target: Tensor
    draft: Tensor
    lengths: list[int]
    metadata: list[Any]

    @classmethod
    def of(cls, body: Mapping[Any, Any], path: Path) -> "_Chunk":
        target, draft = (_tensor(body, name, 3, path) for name in ("vl_hidden", "egpt_hidden"))
        lengths = _tensor(body, "seq_lens", 1, path)
        metadata = body.get("metadata")
        if not isinstance(metadata, list) or not len(metadata) == len(lengths) == len(target) == len(draft):
            raise DataError(f"{path}: states, seq_lens and metadata must be of the same number of samples")
        longest = min(target.shape[1], draft.shape[1])
        if len(lengths) and (lengths.is_floating_point() or not 1 <= lengths.min() <= lengths.max() <= longest):
            raise DataError(
                f"{path}: seq_lens must be whole numbers between 1 and the {longest} rows of the states"
            )
        return cls(path, target, draft, lengths.tolist(), metadata)

    def pair(self, row: int, clips: list[tuple[str, int]] | None) -> PairedStates:
        where = f"{self.path}, sample {row}"
        about = self.metadata[row]
        if not isinstance(about, dict):
            raise DataError(f"{where}: metadata is {about!r:.40}, must be a dictionary")
        clip, question = about.get("sample_idx"), about.get("question_idx")
        if type(clip) is not int or type(question) is not int or min(clip, question) < 0:
            raise DataError(f"{where}: sample_idx {clip!r:.20} and question_idx {question!r:.20} must be 0 or more")
        texts = [about.get(name, "") for name in ("question", "vl_text", "egpt_text")]
        if any(not isinstance(text, str) for text in texts):
            raise DataError(f"{where}: question, vl_text and egpt_text must be texts")
        if clips is not None and clip >= len(clips):
            raise DataError(f"{where}: sample_idx {clip} is beyond the {len(clips)} records of the data set given")
        recording, clip_index = (UNKNOWN_RECORDING, clip) if clips is None else clips[clip]
        length = self.lengths[row]
        return PairedStates(
            id=f"{clip:06d}-q{question:02d}", recording=recording, clip_index=clip_index, question=texts[0],
            target_states=self.target[row, :length], draft_states=self.draft[row, :length],
            target_text=texts[1], draft_text=texts[2],
        )  # fmt: skip


def _load_pickle(path: Path) -> dict[Any, Any]:
    """A torch file that holds a dictionary of tensors and plain values. DataError for anything else."""
    try:
        # old torch files are no zip archives and cannot be mapped
        body = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:
        # torch's readers raise a dozen kinds on cut, garbled and hostile files, and their texts say how to load
        # such a file all the same, which is no advice to pass on
        raise DataError(
            f"{path}: refused ({type(error).__name__}): damaged, or holds more than tensors and plain values, "
            "which could run code when loaded; copy it again"
        ) from None
    if not isinstance(body, dict):
        raise DataError(f"{path}: holds a {type(body).__name__}, must hold a dictionary")
    return body


def _tensor(body: Mapping[Any, Any], name: str, ndim: int, path: Path) -> Tensor:
    """A plain tensor. What it takes in memory must really be in the file: strides can claim any size."""
    tensor = body.get(name)
    if not isinstance(tensor, Tensor) or tensor.ndim != ndim:
        found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DataError(f"{path}: '{name}' is {found}, must be a tensor of {ndim} dimensions")
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not (
        plain and tensor.is_contiguous() and tensor.nbytes <= path.stat().st_size and 0 not in tensor.shape[1:]
    ):
        raise DataError(f"{path}: '{name}' is no plain tensor whose values are all in the file; extract it again")
    if ndim > 1 and not tensor.is_floating_point():
        raise DataError(f"{path}: '{name}' has values of type {tensor.dtype}, must be floating point")
    return tensor


def _clips(root: Path) -> list[tuple[str, int]]:
    """(recording, clip index) of the data set's records, in the order of its file."""
    places = {
        sample.id: (sample.recording, sample.clip_index)
        for sample in read_instruction_dataset(root, check_files=False)
    }
    return [places[record["id"]] for record in json.loads((root / INDEX_FILE).read_text(encoding="utf-8"))]


def _load_head(path: Path) -> tuple[Tensor, str]:
    """The head's weight (V, D) and the name of the model that it is from."""
    body = _load_pickle(path)
    weight = _tensor(body, "lm_head_weight", 2, path)
    stated = body.get("vocab_size", weight.shape[0]), body.get("hidden_dim", weight.shape[1])
    if stated != tuple(weight.shape):
        raise DataError(f"{path}: lm_head_weight is {list(weight.shape)}, the file says {list(stated)}")
    return weight, str(body.get("model_id", ""))
