"""What all published layouts share: a folder's config and tensors, the one layer's shape, and filling a head."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.weights import finite, read_json, read_tensors, weight_files
from crossdraft.nn.decoder import DecoderConfig

_PICKLE = (
    "convert them in a sandbox with torch and safetensors: "
    "save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)
_NOT_OURS = {
    "qkv_bias": "biases of q, k and v alone",
    "mlp_bias": "biases in its feed-forward part",
    "norm_before_fc": "a norm in front of fc",
    "fc_norm": "norms in front of fc",
    "norm_output": "normalised features that are fed back",
    "parallel_drafting": "parallel drafting",
    "sliding_window": "a sliding window",
}
_H = TypeVar("_H", bound=nn.Module)


class Target(TypedDict):
    """What a written head says of its target."""

    name: str
    config: Mapping[str, Any]
    embeddings: Float[Tensor, "V D"]


Written = tuple[dict[str, Tensor], dict[str, Any], str]
"""Tensors, config.json, and the weights' file name."""


@dataclass(frozen=True)
class Files:
    """A published head as it lies on disk. tensors: by key; what is floating-point is finite."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    EMBEDDINGS: ClassVar[str] = "embed_tokens.weight"

    def wrong(self, what: str) -> CheckpointError:
        """An error that names this folder."""
        return CheckpointError(f"{self.folder}: {what}")


def read_files(folder: Path) -> Files:
    """Read a folder. CheckpointError for pickles, damaged files and values that are not finite."""
    if not folder.is_dir():
        raise CheckpointError(f"no such drafting head: {folder}; give the folder with config.json and safetensors")
    weights = weight_files(folder, _PICKLE)
    config = read_json(folder / "config.json")
    tensors = {}
    for file in weights:
        for key, tensor in read_tensors(file):
            tensors[key] = finite(tensor, key, file) if key not in ("d2t", "t2d") else tensor
    return Files(folder, config, tensors)


def layer_shape(files: Files, config: Mapping[str, Any], target: DecoderConfig) -> DecoderConfig:
    """The head's one decoder layer, checked against the target.

    Rotary positions are the head's own: where its config.json names no ``rope_theta`` it is 10000, whatever the
    target's is, as transformers and the original codes have it. Positions go as far as the target's.
    """
    for name, what in _NOT_OURS.items():
        if config.get(name):
            raise files.wrong(f"config.json sets {name}: a head with {what}, which heads here do not have")
    if config.get("model_type", "llama") != "llama":
        raise files.wrong(f"its layer is of kind '{config['model_type']}'; only llama layers are supported")
    try:
        layer = DecoderConfig.from_hf(config)
        if not bool(layer.frequencies().isfinite().all()):
            raise ValueError("its rotary frequencies are not finite")
    except CheckpointError as error:
        raise files.wrong(str(error)) from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise files.wrong(f"config.json describes no decoder layer ({error}); fetch it again") from error
    width = config.get("target_hidden_size") or target.hidden_size
    for name, own, theirs in (
        ("num_hidden_layers", layer.num_layers, 1),
        ("hidden_size", layer.hidden_size, target.hidden_size),
        ("target_hidden_size", width, target.hidden_size),
        ("vocab_size", layer.vocab_size, target.vocab_size),
    ):
        if own != theirs:
            raise files.wrong(f"{name} is {own}, expected {theirs}; the head belongs to another target")
    scaling = layer.rope_scaling
    if scaling is not None and "low_freq_factor" in scaling:
        scaling = {"original_max_position_embeddings": layer.max_positions, **scaling}
    return replace(
        layer, max_positions=target.max_positions, tie_embeddings=target.tie_embeddings,
        rope_scaling=scaling,
    )  # fmt: skip


def build(files: Files, make: Callable[[], _H]) -> _H:
    """A head without memory behind its parameters. CheckpointError where its settings contradict each other."""
    try:
        with torch.device("meta"):
            return make()
    except SettingError as error:
        raise files.wrong(str(error)) from error


def fill(
    head: _H,
    files: Files,
    publish: Callable[[str], str],
    *,
    d2t: Tensor,
    dropped: tuple[str, ...] = (),
    zero: tuple[str, ...] = (),
) -> _H:
    """Give ``head`` its weights, in float32.

    publish: our parameter's name -> the published key. d2t: the target's ids of the draft vocabulary. dropped: keys
    that are known and not used; zero: our names of what the layout may leave out, which is then zero.
    Raises CheckpointError for missing and unknown keys and wrong shapes.
    """
    state = {"d2t": d2t}
    known = set(dropped)
    for name, empty in head.named_parameters():
        key, shape = publish(name), tuple(empty.shape)
        known.add(key)
        stored = files.tensors.get(key)
        if stored is None and name in zero:
            stored = torch.zeros(shape)
        if stored is None:
            raise files.wrong(f"lacks {key}, expected {list(shape)}; fetch or convert it again")
        if tuple(stored.shape) != shape:
            raise files.wrong(
                f"{key} is {list(stored.shape)}, expected {list(shape)}; config.json and weights do not fit"
            )
        state[name] = stored.float()
    unknown = sorted(k for k in files.tensors if k not in known and not k.endswith("rotary_emb.inv_freq"))
    if unknown:
        raise files.wrong(f"has keys that this layout does not have: {', '.join(unknown[:3])}; refusing to guess")
    head.load_state_dict(state, assign=True)
    return head
