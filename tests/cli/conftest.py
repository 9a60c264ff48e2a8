import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from crossdraft.cli.main import main
from crossdraft.models import own_memory, save_parts
from crossdraft.models.eventgpt import EventGPTParts
from crossdraft.models.video_llava import VideoLlavaParts

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path / "cache"))

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in argv])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of one second, 64 x 48: a bright square that moves to the right."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            frame = np.zeros((48, 64, 3), np.uint8)
            frame[16:32, 2 * i : 2 * i + 16] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def columns(count: int = 500, last_us: int = 999_000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 64, count).astype(np.uint16),
        "y": rng.integers(0, 48, count).astype(np.uint16),
        "t": np.sort(rng.integers(0, last_us, count)).astype(np.int64),
        "p": rng.integers(0, 2, count).astype(np.uint8),
    }


@pytest.fixture
def write_events(tmp_path: Path) -> Callable[..., Path]:
    """Write an npz recording of the clip's scene; keyword arguments replace columns."""

    def write(name: str = "events.npz", **changes: np.ndarray) -> Path:
        path = tmp_path / name
        np.savez(path, **{**columns(), **changes})
        return path

    return write


VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "model_type": "clip_vision_model",
}  # fmt: skip
TEXT = {
    "vocab_size": 262, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 768,
    "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<video>", "<pad>"]


def write_tokenizer(folder: Path) -> None:
    """Bytes, and Llama's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*SPECIAL, *letters])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    inner.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names})
    )


def make_checkpoint(folder: Path, kind: str, **text: int) -> Path:
    """A tiny random Video-LLaVA ("target") or EventGPT ("event") in its real format."""
    torch.manual_seed(0)
    if kind == "target":
        config = {
            "model_type": "video_llava", "vision_config": VISION, "text_config": {**TEXT, **text},
            "image_token_index": 3, "video_token_index": 4, "image_seq_length": 4, "video_seq_length": 40,
            "projector_hidden_act": "gelu", "vision_feature_layer": -2,
        }  # fmt: skip
        parts = own_memory(VideoLlavaParts(config))
    else:
        config = {
            "model_type": "EventChat_llama", "vision_config": VISION, "event_feature_adaptor": True,
            **{**TEXT, **text},
        }  # fmt: skip
        parts = own_memory(EventGPTParts(config))
    folder.mkdir(parents=True)
    with torch.no_grad():
        for p in parts.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5)
    save_parts(parts, folder, torch.float32)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny target and a tiny event model that speak the same tokens."""
    root = tmp_path_factory.mktemp("pair")
    return make_checkpoint(root / "target", "target"), make_checkpoint(root / "event", "event")


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Function: folder, "target" or "event", changes of the decoder's settings -> the folder."""
    return make_checkpoint


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers over bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(root)
    letters = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE({token: i for i, token in enumerate(letters)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="</s>").save_pretrained(root)
    return root
