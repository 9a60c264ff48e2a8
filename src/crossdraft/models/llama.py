"""Text-only decoders of the Llama family (Llama 1-3, Mistral without a window, SmolLM2 ...)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossdraft.core.errors import CheckpointError
from crossdraft.core.prompt import Prompt
from crossdraft.models.spliced import Encoded, Parts, SplicedVLM, read_parts
from crossdraft.nn.decoder import Decoder, DecoderConfig


def meta_decoder(config: dict[str, Any]) -> Decoder:
    """A decoder of ``config`` without memory behind its parameters; loading gives them their tensors."""
    with torch.device("meta"):
        return Decoder(DecoderConfig.from_hf(config))


class LlamaParts(Parts):
    """``LlamaForCausalLM``."""

    family = "llama"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        if config.get("sliding_window"):
            raise CheckpointError("a decoder with a sliding window is not supported; it needs full attention")
        self.decoder = meta_decoder(config)

    @staticmethod
    def rename(key: str) -> str | None:
        """ "model.layers..." -> "decoder.layers..."."""
        if key.endswith("rotary_emb.inv_freq"):
            return None
        return "decoder." + key.removeprefix("model.")

    @staticmethod
    def publish(name: str) -> str:
        """ "decoder.layers..." -> "model.layers..."."""
        bare = name.removeprefix("decoder.")
        return bare if bare.startswith("lm_head.") else "model." + bare


class LlamaTarget(SplicedVLM):
    """A text-only target: it reads the question alone, by the chat template where there is one."""

    @classmethod
    def load(
        cls,
        ref: str | Path,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        change: Callable[[Decoder], None] | None = None,
    ) -> "LlamaTarget":
        """Load a folder; ``change`` is given the decoder before it is packed. Raises CheckpointError."""
        parts, folder = read_parts(LlamaParts, ref, dtype)
        if change is not None:
            change(parts.decoder)
        return cls(folder.name, parts, folder, dtype, device)

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokenise and embed; pictures and events of the prompt are not looked at."""
        return self.splice(self.tokenizer.dialogue(prompt.question, prompt.history), [])


def own_memory(parts: nn.Module) -> nn.Module:
    """Give a model on the meta device random weights of its own, for training from scratch and for tests."""
    for module in parts.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
            reset = getattr(module, "reset_parameters", None)
            assert reset is not None, f"{type(module).__name__} cannot be initialised"
            reset()
    return parts
