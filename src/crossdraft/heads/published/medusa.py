"""Medusa as published: heads that own their output matrices, and the older ones that share the target's.

config.json: ``medusa_num_heads``, ``medusa_num_layers``, ``base_model_name_or_path``. Weights of head k (from 0):
``{k}.0.linear.weight`` and ``{k}.0.linear.bias`` of its block; ``{k}.1.weight`` (V, D) where it owns its output
matrix. Head k reads the target's state of position t behind the final norm and guesses token t + 2 + k. The file is
``medusa_lm_head``; with the ending ``.safetensors`` text-generation-inference and TensorRT-LLM read it.

Read in: FasterDecoding/Medusa, medusa/model/medusa_model.py and medusa_model_legacy.py; InternLM/lmdeploy issue
1180 (the keys of a published file); TensorRT-LLM pull request 1535 (the file's name). The two variants cannot be
told by config.json, only by whether ``{k}.1.weight`` is there, and are not interchangeable (mlc-ai/mlc-llm issue
3173). A file may hold more heads than config.json counts, as the original loader allows: all are read. Not
supported: several blocks a head, which the original code ties to one another; Medusa-2, which is another target.
"""

import re

import torch
from torch import Tensor

from crossdraft.core.errors import CheckpointError
from crossdraft.heads.medusa import MedusaConfig, MedusaHead
from crossdraft.heads.published.files import Files, Target, Written, build, fill
from crossdraft.heads.recipes import Head
from crossdraft.nn.decoder import DecoderConfig


def read(files: Files, target: DecoderConfig) -> MedusaHead:
    """See ``read_published``."""
    layers = files.config.get("medusa_num_layers", 1)
    if layers != 1:
        raise files.wrong(f"medusa_num_layers is {layers!r}; only heads with one block each are supported")
    stored = {int(m[1]) for key in files.tensors if (m := re.fullmatch(r"(\d+)\.0\.linear\.weight", key))}
    told = files.config.get("medusa_num_heads", len(stored))
    if type(told) is not int or not 1 <= told <= len(stored):
        raise files.wrong(f"medusa_num_heads is {told!r}, but {len(stored)} heads are stored; fetch it again")
    config = MedusaConfig(
        hidden_size=target.hidden_size, vocab_size=target.vocab_size, heads=len(stored),
        own_head=any(re.fullmatch(r"\d+\.1\.weight", key) for key in files.tensors),
    )  # fmt: skip
    head = build(files, lambda: MedusaHead(config))
    return fill(head, files, _publish, d2t=torch.arange(target.vocab_size))


def write(head: Head, target: Target) -> Written:
    """Tensors, config.json and file name. CheckpointError for other heads, and for a draft vocabulary."""
    if not isinstance(head, MedusaHead):
        raise CheckpointError("only Medusa heads can be written in the layout 'medusa'")
    if not torch.equal(head.d2t.cpu(), torch.arange(head.config.vocab_size)):
        raise CheckpointError("the layout 'medusa' has no draft vocabulary; train the heads over all tokens")
    config = {
        "medusa_num_heads": head.config.heads,
        "medusa_num_layers": 1,
        "base_model_name_or_path": target["name"],
    }
    state: dict[str, Tensor] = {_publish(name): value for name, value in head.named_parameters()}
    return state, config, "medusa_lm_head.safetensors"


def _publish(name: str) -> str:
    """ "blocks.2.weight" -> "2.0.linear.weight", "lm_heads.2.weight" -> "2.1.weight"."""
    part, k, kind = name.split(".")
    return f"{k}.0.linear.{kind}" if part == "blocks" else f"{k}.1.{kind}"
