"""EAGLE-3 as its authors publish it.

config.json is that of a Llama with one layer, plus ``draft_vocab_size``. Weights: ``midlayer.*`` of a Llama layer
whose q, k and v read 2 D (embedding first), with ``midlayer.input_layernorm`` for the embedding and
``midlayer.hidden_norm`` for the feature; ``fc.weight`` (D, 3 D), no bias, over the low, middle and high tap in
this order; ``norm.weight`` in front of ``lm_head.weight`` (draft vocabulary, D). The residual, and what is fed
back, is the feature without a norm. ``d2t`` holds offsets (token = index + d2t[index]), ``t2d`` says of every token
whether it can be drafted; both are missing where all can. The embeddings are the target's and are not stored.

Taps: the states *entering* layers 2, L // 2 and L - 3, that is the outputs of the layers before. Other ones are
named by ``eagle_aux_hidden_state_layer_ids``, in the same counting (vLLM's).

Read in: SafeAILab/EAGLE, eagle/model/cnets.py (names, order, norms, d2t), eagle/model/ea_model.py (d2t and t2d
dropped for a whole vocabulary), eagle/traineagle3/config.json; vLLM, model_executor/models/llama_eagle3.py
(``layers.0.`` is accepted for ``midlayer.``, ``norm_before_residual``, offsets, embeddings shared unless stored),
pull requests 16937 (default taps) and 25961 (the entry that names others). SGLang looks for that entry inside
``eagle_config`` and counts by the layer whose output it is (``set_eagle3_layers_to_capture``), while vLLM is said
to read that place in its own counting: an entry found there alone is refused. The training code takes 10000 for the
rotary base whatever config.json says (SpecForge issue 265); here, as in the inference code, config.json decides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from crossdraft.core.errors import CheckpointError
from crossdraft.heads.feature import FeatureHead, FeatureHeadConfig
from crossdraft.heads.published.eagle import llama_entries
from crossdraft.heads.published.files import Files, Target, Written, build, fill, layer_shape
from crossdraft.heads.recipes import Head
from crossdraft.nn.decoder import DecoderConfig

IDS = "eagle_aux_hidden_state_layer_ids"
_LAYER, _ALIAS = "midlayer.", "layers.0."


def read(files: Files, target: DecoderConfig) -> FeatureHead:
    """See ``read_published``."""
    config = files.config
    nested = config.get("eagle_config")
    if isinstance(nested, Mapping) and nested.get(IDS) and not config.get(IDS):
        raise files.wrong(
            f"config.json names its taps inside eagle_config, where serving programs count differently; put {IDS} "
            "beside it, numbered by the layers that the states enter"
        )
    if isinstance(nested, Mapping) and nested.get("use_aux_hidden_state") is False:
        raise files.wrong("it reads the last state alone (use_aux_hidden_state is false), which is not supported")
    layer = layer_shape(files, config, target)
    prefix = _LAYER if any(key.startswith(_LAYER) for key in files.tensors) else _ALIAS
    return read_fused(files, config, layer, taps(files, config.get(IDS), target.num_layers), prefix)


def write(head: Head, target: Target) -> Written:
    """Tensors, config.json and file name. CheckpointError for a head that is not EAGLE-3's."""
    fused = check_fused(head, "eagle3")
    shape = fused.config
    if shape.norm_residual:
        raise CheckpointError(
            "the original EAGLE-3 keeps its residual as it is, this head normalises it; write it as 'speculators'"
        )
    if len(shape.taps) != 3:
        raise CheckpointError(f"the layout 'eagle3' has three taps, this head {len(shape.taps)}; use 'speculators'")
    state, draft_vocab = fused_state(fused, _LAYER)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLMEagle3"],
        **llama_entries(shape.layer),
        "draft_vocab_size": draft_vocab,
    }
    entering = [tap + 1 for tap in shape.taps]
    layers = number_of_layers(target["config"])
    if layers is None or entering != usual(layers):
        config[IDS] = entering
    return state, config, "model.safetensors"


# -- what both EAGLE-3 layouts share -------------------------------------------------------------------------------


def usual(num_layers: int) -> list[int]:
    """The layers that EAGLE-3's taps enter unless something else is said."""
    return [2, num_layers // 2, num_layers - 3]


def number_of_layers(config: Mapping[str, Any]) -> int | None:
    """Of a target, by its config.json."""
    text = config.get("text_config")
    return (text if isinstance(text, Mapping) else config).get("num_hidden_layers")


def taps(files: Files, entering: Any, num_layers: int) -> tuple[int, ...]:
    """Our taps (outputs of layers) of those that are numbered by the layer they enter; None: the usual ones."""
    named = usual(num_layers) if entering is None else entering
    good = isinstance(named, Sequence) and bool(named) and all(type(i) is int for i in named)
    # entering layer L would be the last output, before the final norm
    if not good or len(set(named)) != len(named) or not all(1 <= i <= num_layers for i in named):
        which = f"{IDS} is {named!r}" if entering is not None else f"it names no taps, and the usual {named}"
        raise files.wrong(f"{which} does not fit a target of {num_layers} layers; name different ones from 1 on")
    return tuple(i - 1 for i in named)


def read_fused(
    files: Files, config: Mapping[str, Any], layer: DecoderConfig, tapped: tuple[int, ...], prefix: str
) -> FeatureHead:
    """The head from its tensors. config: where draft_vocab_size and norm_before_residual are said."""
    drafted = config.get("draft_vocab_size")
    size = layer.vocab_size if drafted is None else drafted
    if type(size) is not int or not 1 <= size <= layer.vocab_size:
        raise files.wrong(f"draft_vocab_size is {drafted!r}, must be from 1 to the target's {layer.vocab_size}")
    d2t = _vocabulary(files, size, layer.vocab_size)
    whole = torch.equal(d2t, torch.arange(layer.vocab_size))
    shape = build(
        files,
        lambda: FeatureHead(
            FeatureHeadConfig(
                layer=layer, taps=tapped, fuse="attention", own_head=True, draft_vocab=None if whole else size,
                norm_residual=bool(config.get("norm_before_residual", False)),
            )
        ),
    )  # fmt: skip
    return fill(
        shape, files, lambda name: _publish(name, prefix), d2t=d2t, dropped=("d2t", "t2d", Files.EMBEDDINGS)
    )


def check_fused(head: Head, layout: str) -> FeatureHead:
    """``head``. CheckpointError unless it is EAGLE-3's network."""
    if isinstance(head, FeatureHead):
        shape = head.config
        named = min(shape.taps) >= 0 and len(set(shape.taps)) == len(shape.taps)
        if shape.fuse == "attention" and shape.own_head and shape.visual is None and named:
            return head
    raise CheckpointError(
        "only an EAGLE-3 head (taps on outputs of different layers, an output head of its own, nothing for "
        f"pictures) can be written in the layout '{layout}'"
    )


def fused_state(head: FeatureHead, prefix: str) -> tuple[dict[str, Tensor], int]:
    """(tensors by key, size of the draft vocabulary).

    Drafted tokens are put in ascending order: ``t2d`` says which they are, not in which order, and programs that
    pick the target's rows by it take them as they come.
    """
    state: dict[str, Tensor] = {_publish(name, prefix): value for name, value in head.named_parameters()}
    tokens, order = head.d2t.sort()
    state["lm_head.weight"] = state["lm_head.weight"][order]
    vocab = head.config.layer.vocab_size
    if len(tokens) < vocab:
        state["d2t"] = tokens - torch.arange(len(tokens), device=tokens.device)
        state["t2d"] = torch.zeros(vocab, dtype=torch.bool, device=tokens.device).index_fill_(0, tokens, True)
    return state, len(tokens)


def _publish(name: str, prefix: str) -> str:
    if name.startswith("layer."):
        return prefix + name.removeprefix("layer.")
    return {
        "embed_norm.weight": prefix + "input_layernorm.weight",
        "hidden_norm.weight": prefix + "hidden_norm.weight",
    }.get(name, name)


def _vocabulary(files: Files, size: int, vocab: int) -> Int[Tensor, "draft"]:
    """The target's id of every token that can be drafted."""
    offsets, marks = files.tensors.get("d2t"), files.tensors.get("t2d")
    if offsets is None:
        if size != vocab:
            raise files.wrong(f"lacks d2t, although it drafts {size} of {vocab} tokens; fetch or convert it again")
        return torch.arange(vocab)
    if offsets.is_floating_point() or tuple(offsets.shape) != (size,):
        raise files.wrong(f"d2t is {offsets.dtype} {list(offsets.shape)}, expected {size} whole numbers")
    tokens = offsets.long() + torch.arange(size)
    if not bool(((tokens >= 0) & (tokens < vocab)).all()):
        raise files.wrong(f"d2t leads to tokens that the target does not have ({vocab}); it holds offsets, not ids")
    if len(tokens.unique()) != size:
        raise files.wrong("d2t drafts a token twice; it holds offsets, not ids")
    if marks is not None:
        if tuple(marks.shape) != (vocab,):
            raise files.wrong(f"t2d is {list(marks.shape)}, expected {[vocab]}")
        if not torch.equal(marks.bool().nonzero().flatten(), tokens.sort().values):
            raise files.wrong("d2t and t2d disagree on which tokens can be drafted; the file is damaged")
    return tokens
