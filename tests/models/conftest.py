"""Tiny random checkpoints in the real formats, written by transformers itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

TEXT = [
    "USER: What are the key elements in this scene? ASSISTANT: A red car drives to the left.</s>",
    "A chat between a curious human and an artificial intelligence assistant. Which way do they move?",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<video>", "<pad>"]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def llama_config(**changes) -> LlamaConfig:
    """Three layers with grouped queries."""
    settings = {
        "vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return LlamaConfig(**{**settings, **changes})


def _write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 320 entries with Llama's special tokens."""
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that argmax has no near-ties."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=draw) * (0.5 if "embed" in name else p.shape[-1] ** -0.5))
            else:
                p.add_(torch.randn(p.shape, generator=draw) * 0.1)
        # special tokens are never the argmax: transformers would take a generated <image> for a picture
        model.get_output_embeddings().weight[: len(SPECIAL)] *= 0.01
    return model.eval()


def build(kind: str) -> torch.nn.Module:
    """A random model of ``kind``."""
    vision = CLIPVisionConfig(**VISION)
    if kind == "llama":
        return LlamaForCausalLM(llama_config(tie_word_embeddings=True))
    if kind == "llama3":
        scaling = {
            "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 5000.0,
        }  # fmt: skip
        return LlamaForCausalLM(llama_config(rope_parameters=scaling))
    if kind == "video_llava":
        return VideoLlavaForConditionalGeneration(
            VideoLlavaConfig(
                vision_config=vision, text_config=llama_config(), image_token_index=3, video_token_index=4,
                image_seq_length=4, video_seq_length=40,
            )
        )  # fmt: skip
    if kind == "llava":
        return LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=llama_config(), image_token_index=3)
        )
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=vision, text_config=llama_config(), image_token_index=3, image_grid_pinpoints=pinpoints
        )
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Function: kind, sharded -> (folder, the transformers model that wrote it)."""
    made = {}

    def make(kind: str, sharded: bool = False):
        if (kind, sharded) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{'sharded' if sharded else 'whole'}")
            model = randomise(build(kind))
            model.save_pretrained(folder, max_shard_size="40KB" if sharded else "1GB")
            _write_tokenizer(folder)
            made[kind, sharded] = folder, model
        return made[kind, sharded]

    return make


@pytest.fixture
def frames():
    """(8, 40, 52, 3) uint8."""
    return np.random.default_rng(5).integers(0, 256, (8, 40, 52, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def write_tokenizer():
    """Function: folder -> None, writes the tiny tokenizer there."""
    return _write_tokenizer
