"""Drafting heads from one layout to another: ours and the published ones."""

from dataclasses import dataclass
from pathlib import Path

import torch

from crossdraft.build.load import resolve
from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.weights import read_json
from crossdraft.heads.checkpoint import HEAD, HeadCard, load_head, save_head
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.published import LAYOUTS, read_published, write_published
from crossdraft.heads.recipes import Head
from crossdraft.models import decoder_config, fingerprint, read_ends, resolve_checkpoint
from crossdraft.nn.decoder import DecoderConfig

OURS = "crossdraft"
_METHODS = {"speculators": "eagle3"}


@dataclass(frozen=True)
class Converted:
    """read, written: layouts; method: whose head it is; path: what was written; dtype: of its weights."""

    read: str
    written: str
    method: str
    target: str
    path: str
    parameters: int
    dtype: str


def convert_head(source: str | Path, out: str | Path, target: str | Path, layout: str = OURS) -> Converted:
    """Read a head from ``source``, whatever its layout, and write it to the folder ``out`` in ``layout``.

    target: the model that it drafts for, whose weights are not loaded. No value changes: weights are stored in the
    narrowest type that holds them all. Of what a head of ours knows about its training, the published layouts have
    no place. Raises SettingError for an unknown layout, CheckpointError for a head that cannot be read, that is for
    another target, or that ``layout`` cannot express.
    """
    if layout not in (OURS, *LAYOUTS):
        raise SettingError(f"unknown layout '{layout}'; known: {', '.join((OURS, *LAYOUTS))}")
    if Path(out).resolve() in (Path(source).resolve(), Path(source).resolve().parent):
        raise SettingError(f"{out} holds the head that is read; name another folder for the result")
    ref = Path(resolve(target, "target")).expanduser()
    source, folder = Path(source), resolve_checkpoint(ref)
    # a reader finds a folder by its whole path, a model on the hub by its id
    name = str(folder.resolve()) if ref.is_dir() else str(ref)
    shape, embeddings = decoder_config(folder), read_ends(folder).embeddings
    print_of = fingerprint(folder)
    if source.is_file() or (source / HEAD).is_file():
        head, card = load_head(source)
        read = OURS
        if card.fingerprint not in ("", print_of):
            raise CheckpointError(
                f"{source} was trained for another target ({card.target}) than {folder}; name that"
            )
    else:
        head, read = read_published(source, shape, embeddings=embeddings)
        card = HeadCard(method=_METHODS.get(read, read), target=Path(name).name, fingerprint=print_of)
    _check(head, shape, source)
    dtype = _narrowest(head)
    path = Path(out)
    if layout == OURS:
        path = save_head(path / HEAD, head, card, dtype)
    else:
        config = read_json(folder / "config.json")
        write_published(
            path, head, layout, embeddings=embeddings, target_config=config, target_name=name, dtype=dtype
        )
    return Converted(
        read, layout, card.method, Path(name).name, str(path), head.num_trained, str(dtype).removeprefix("torch.")
    )


def _check(head: Head, target: DecoderConfig, source: Path) -> None:
    """CheckpointError unless the head's widths and taps are the target's."""
    shape = head.config if isinstance(head, MedusaHead) else head.config.layer
    own, theirs = (shape.vocab_size, shape.hidden_size), (target.vocab_size, target.hidden_size)
    if own != theirs or max(head.config.taps) >= target.num_layers:
        raise CheckpointError(
            f"{source} is for {own[0]} tokens, width {own[1]} and layers {list(head.config.taps)}, the target has "
            f"{theirs[0]}, {theirs[1]} and {target.num_layers} layers; name the target that it was trained for"
        )


def _narrowest(head: Head) -> torch.dtype:
    """bfloat16 or float16 if that holds every weight as it is, else float32."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(p.to(dtype).to(p.dtype), p) for p in head.parameters()):
            return dtype
    return torch.float32
