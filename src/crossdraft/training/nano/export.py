"""From trained modules to checkpoints in the published formats, read back by the classes that load the 7B ones."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError
from crossdraft.core.records import write_atomically
from crossdraft.core.weights import save_weights
from crossdraft.data.images import CLIP_MEAN, CLIP_STD
from crossdraft.data.scenes import SIZE
from crossdraft.models.eventgpt import EventGPTParts
from crossdraft.models.loading import shapes
from crossdraft.models.spliced import Parts, read_parts
from crossdraft.models.video_llava import VideoLlavaParts
from crossdraft.nn.decoder import DecoderConfig
from crossdraft.training.nano.clips import GRID, NUM_FRAMES
from crossdraft.training.nano.eyes import Eyes
from crossdraft.training.nano.tongue import Tongue
from crossdraft.training.nano.words import BOS, EOS, SPECIALS


def _llama(config: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": SPECIALS.index("<pad>"),
    }


def _vision(eyes: Eyes) -> dict[str, Any]:
    full = eyes.config.vision_config().to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
             "patch_size", "projection_dim", "hidden_act", "layer_norm_eps")  # fmt: skip
    return {"model_type": "clip_vision_model", **{k: full[k] for k in names}}


def target_config(eyes: Eyes, tongue: Tongue) -> dict[str, Any]:
    """config.json of a small Video-LLaVA."""
    return {
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "model_type": "video_llava",
        "image_token_index": SPECIALS.index("<image>"),
        "video_token_index": SPECIALS.index("<video>"),
        "image_seq_length": GRID * GRID,
        "video_seq_length": NUM_FRAMES * (GRID * GRID + 1),
        "vision_feature_layer": eyes.config.read_layer,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": False,
        "text_config": {"model_type": "llama", **_llama(tongue.config.decoder)},
        "vision_config": _vision(eyes),
    }


def event_config(eyes: Eyes, tongue: Tongue) -> dict[str, Any]:
    """config.json of a small EventGPT; ``vision_config`` gives the shape that the published one hard-wires."""
    return {
        "architectures": ["EventChatModel"],
        "model_type": "EventChat_llama",
        **_llama(tongue.config.decoder),
        "mm_visual_tower": "included",
        "event_feature_adaptor": True,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "vision_config": _vision(eyes),
    }


def _tower(eyes: Eyes, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{k.removeprefix('vision_model.')}": v for k, v in eyes.tower.named_parameters()}


def _gather(eyes: Eyes, tongue: Tongue) -> tuple[Parts, dict[str, Tensor]]:
    """The un-filled parts and {their parameter name: trained tensor}."""
    first, last = tongue.projector[0], tongue.projector[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    state: dict[str, Tensor] = {f"decoder.{k}": v for k, v in tongue.decoder.named_parameters()}
    if tongue.config.role == "target":
        parts: Parts = VideoLlavaParts(target_config(eyes, tongue))
        # one kind of eye: pictures are seen by a copy of the video tower
        state |= _tower(eyes, "video_tower") | _tower(eyes, "image_tower")
        names = ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2")
    else:
        parts = EventGPTParts(event_config(eyes, tongue))
        assert tongue.adaptor is not None
        state |= _tower(eyes, "visual_tower")
        state |= {f"feature_adaptor.{k}": v for k, v in tongue.adaptor.named_parameters()}
        names = ("visual_projector.0", "visual_projector.2")
    for name, layer in zip(names, (first, last), strict=True):
        state |= {f"{name}.{k}": v for k, v in layer.named_parameters()}
    return parts, state


@torch.no_grad()
def restore(eyes: Eyes, tongue: Tongue, folder: Path) -> None:
    """Give both modules the weights of a checkpoint that ``export`` wrote; the throw-away heads stay as they are.

    Raises CheckpointError when the folder is not there, or a tensor is missing or has another shape.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not there; give the folder that holds nano-target and nano-event")
    parts, state = _gather(eyes, tongue)
    found = read_parts(type(parts), folder, torch.float32)[0]
    for name, stored in found.named_parameters(remove_duplicate=False):
        if stored.shape != state[name].shape:
            raise CheckpointError(
                f"{folder}: {name} is {list(stored.shape)}, the recipe has {list(state[name].shape)}; training "
                "goes on from a checkpoint of the same shape only"
            )
        state[name].copy_(stored)


def export(eyes: Eyes, tongue: Tongue, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write config.json, model.safetensors (bfloat16), tokenizer and preprocessor files into ``folder``.

    Raises CrossdraftError when the disk is full.
    """
    parts, state = _gather(eyes, tongue)
    expected = shapes(parts)
    assert {k: tuple(v.shape) for k, v in state.items()} == expected, "trained modules do not fill the format"
    published = {parts.publish(k): v.detach().to("cpu", torch.bfloat16) for k, v in state.items()}
    save_weights(folder, published, {**parts.config, "dtype": "bfloat16"})
    texts = {
        "tokenizer.json": json.loads(tokenizer.to_str()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "add_bos_token": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": tongue.config.decoder.max_positions,
        },
        "generation_config.json": {
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": SPECIALS.index("<pad>"),
        },
        "preprocessor_config.json": {
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_convert_rgb": True,
            "resample": 3,
            "size": {"shortest_edge": SIZE},
            "crop_size": {"height": SIZE, "width": SIZE},
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
        },
    }
    for name, body in texts.items():
        write_atomically(folder / name, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())
    return folder
