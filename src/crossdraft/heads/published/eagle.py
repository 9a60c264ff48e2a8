"""EAGLE, EAGLE-2 and HASS as published.

config.json is that of a Llama with one layer, plus ``bias`` (whether ``fc`` has one; true where it is not said).
Weights: ``fc.weight`` (D, 2 D), of which the first D columns read the embedding and the others the feature;
``fc.bias``; ``layers.0.*`` of a Llama without ``input_layernorm``; ``embed_tokens.weight``, the target's, frozen.
The feature is the target's state behind its final norm; the target's own head reads what the layer gives, without a
norm. Channels of q and k rotate in halves, as everywhere in transformers.

Read in: SafeAILab/EAGLE, eagle/model/cnets1.py (names, order in ``fc``, no norm in layer 0, base of the
rotation), eagle/model/ea_model.py (default of ``bias``, loading), eagle/model/configs.py, eagle/train/*.json (the
entries; heads for Llama 3 have ``"bias": false``). Not verified: that HASS's files look the same, which rests on
its paper's saying that it keeps EAGLE's network. vLLM's loader has no place for ``fc.bias``, so it serves heads
without one only.
"""

from typing import Any

import torch

from crossdraft.core.errors import CheckpointError
from crossdraft.core.types import LAST
from crossdraft.heads.feature import FeatureHead, FeatureHeadConfig
from crossdraft.heads.published.files import Files, Target, Written, build, fill, layer_shape
from crossdraft.heads.recipes import Head
from crossdraft.nn.decoder import DecoderConfig


def read(files: Files, target: DecoderConfig) -> FeatureHead:
    """See ``read_published``."""
    layer = layer_shape(files, files.config, target)
    head = build(files, lambda: FeatureHead(FeatureHeadConfig(layer=layer)))
    return fill(
        head, files, _publish, d2t=torch.arange(layer.vocab_size), dropped=(Files.EMBEDDINGS,),
        zero=() if files.config.get("bias", True) else ("fc.bias",),
    )  # fmt: skip


def write(head: Head, target: Target) -> Written:
    """Tensors, config.json and file name. CheckpointError for a head that is not EAGLE's."""
    plain = isinstance(head, FeatureHead) and head.config == FeatureHeadConfig(layer=head.config.layer)
    if not plain:
        raise CheckpointError(
            "only a plain EAGLE head (eagle, hass: one tap behind the final norm, no input norm, the target's head "
            "and whole vocabulary, nothing for pictures) can be written in the layout 'eagle'"
        )
    assert isinstance(head, FeatureHead) and head.config.taps == (LAST,)
    bias = head.fc.bias is not None and bool(head.fc.bias.any())
    state = {_publish(name): value for name, value in head.named_parameters() if bias or name != "fc.bias"}
    config = {"architectures": ["LlamaForCausalLM"], **llama_entries(head.config.layer), "bias": bias}
    return {**state, Files.EMBEDDINGS: target["embeddings"]}, config, "model.safetensors"


def llama_entries(layer: DecoderConfig) -> dict[str, Any]:
    """The config.json entries of the one layer. Linear scaling is written as the original code insists on it."""
    entries = layer.to_hf()
    scaling = entries.get("rope_scaling")
    if scaling is not None and scaling.get("rope_type", scaling.get("type")) == "linear":
        entries["rope_scaling"] = {"type": "linear", "factor": float(scaling["factor"])}
    return {**entries, "tie_word_embeddings": False}


def _publish(name: str) -> str:
    return name.replace("layer.", "layers.0.", 1) if name.startswith("layer.") else name
