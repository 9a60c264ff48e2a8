"""Drafting heads in the layouts that others publish and serve, read and written as safetensors.

    head, layout = read_published(folder, target_config, embeddings=ends.embeddings)
    write_published(folder, head, "speculators", embeddings=ends.embeddings, target_config=..., target_name="...")

- "eagle": EAGLE, EAGLE-2 and HASS; one layout, which does not tell them apart.
- "eagle3": EAGLE-3 as its authors publish it.
- "medusa": Medusa, with output matrices of its own or with the target's.
- "speculators": EAGLE-3 as the package ``speculators`` writes and vLLM reads it.

Each layout's module says where its facts were read and what could not be verified.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import CheckpointError
from crossdraft.core.weights import save_weights
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.published import eagle, eagle3, medusa, speculators
from crossdraft.heads.published.files import Files, read_files
from crossdraft.heads.recipes import Head
from crossdraft.nn.decoder import DecoderConfig

Layout = Literal["eagle", "eagle3", "medusa", "speculators"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_MODULES: dict[str, ModuleType] = {
    "eagle": eagle, "eagle3": eagle3, "medusa": medusa, "speculators": speculators,
}  # fmt: skip


def read_published(
    folder: str | Path, target: DecoderConfig, *, embeddings: Float[Tensor, "V D"] | None = None
) -> tuple[Head, Layout]:
    """The head in ``folder``, in float32, ready for inference, and the layout that it lies in.

    target: the decoder that it drafts for. embeddings: that target's; a copy in the folder is held against them
    and dropped, because a head here reads the target's own. None: it is dropped unseen.
    Raises CheckpointError for pickles, an unknown layout, unknown or missing keys, wrong shapes, values that are
    not finite, and for what these heads cannot compute.
    """
    files = read_files(Path(folder))
    layout = layout_of(files)
    head: Head = _MODULES[layout].read(files, target)
    if embeddings is not None:
        _same_embeddings(files, embeddings)
    return head.eval().requires_grad_(False), layout


def write_published(
    folder: str | Path,
    head: Head,
    layout: str,
    *,
    embeddings: Float[Tensor, "V D"],
    target_config: Mapping[str, Any],
    target_name: str,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write ``head`` into ``folder`` in ``dtype``; whole files or none. layout: of ``LAYOUTS``.

    embeddings, target_config, target_name: the target's input embeddings, the mapping in its config.json, and the
    name or path by which a reader finds it; layouts store what they have a place for.
    Raises CheckpointError for a head that the layout cannot express, or that is for another target, or whose
    weights are not finite.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"'{layout}' is no layout that is known; known: {', '.join(LAYOUTS)}")
    shape = head.config if isinstance(head, MedusaHead) else head.config.layer
    if tuple(embeddings.shape) != (shape.vocab_size, shape.hidden_size):
        raise CheckpointError(
            f"the head is for {shape.vocab_size} tokens of width {shape.hidden_size}, {target_name} has "
            f"{len(embeddings)} of width {embeddings.shape[-1]}; name the target that it was trained for"
        )
    target = {"name": target_name, "config": target_config, "embeddings": embeddings}
    state, config, file = _MODULES[layout].write(head, target)
    stored = {name: value.to("cpu", dtype) if value.is_floating_point() else value for name, value in state.items()}
    for name, value in stored.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{name} of the head has NaN or infinite values in {dtype}; train it again")
    save_weights(Path(folder), stored, {**config, "torch_dtype": str(dtype).removeprefix("torch.")}, file)


def layout_of(files: Files) -> Layout:
    """Which layout a folder is in, by what only that one has. CheckpointError when it is none of them."""
    if "speculators_model_type" in files.config:
        return "speculators"
    if "medusa_num_heads" in files.config or "0.0.linear.weight" in files.tensors:
        return "medusa"
    if any(key.endswith(".hidden_norm.weight") for key in files.tensors):
        return "eagle3"
    if "fc.weight" in files.tensors:
        return "eagle"
    raise CheckpointError(
        f"{files.folder} is a drafting head in no layout that is known ({', '.join(LAYOUTS)}); its first key is "
        f"{min(files.tensors, default='missing')}"
    )


def _same_embeddings(files: Files, embeddings: Tensor) -> None:
    stored = files.tensors.get(files.EMBEDDINGS)
    if stored is None:
        return
    # apart by no more than the roundings of two half-precision types
    if stored.shape != embeddings.shape or not torch.allclose(
        stored.float(), embeddings.float(), rtol=2**-7, atol=1e-6
    ):
        raise CheckpointError(
            f"{files.EMBEDDINGS} in {files.folder} is no copy of the target's; the head belongs to another target, "
            "or was trained with embeddings of its own, which heads here do not have"
        )
