"""EventGPT against a straightforward reference built from transformers' CLIP and Llama."""

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from crossdraft.core.errors import CheckpointError, DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Draft
from crossdraft.data.events import make_stream, render_event_images
from crossdraft.data.images import clip_preprocess
from crossdraft.data.templates import TEMPLATES
from crossdraft.models import check_checkpoint, load_vlm
from crossdraft.models.spliced import PLACEHOLDER

VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
TEXT = {
    "vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
QUESTION = "Which way do they move, and how fast?"


@pytest.fixture(scope="module")
def published(tmp_path_factory, write_tokenizer):
    """A random checkpoint with the published keys, and the modules it was made of."""
    folder = tmp_path_factory.mktemp("eventgpt")
    torch.manual_seed(3)
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    llama = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    projector = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.GELU(), torch.nn.Linear(48, 48))
    adaptor = torch.nn.Linear(48, 48)
    with torch.no_grad():
        for p in [*llama.parameters(), *tower.parameters()]:
            if p.ndim > 1:
                p.normal_(std=p.shape[-1] ** -0.5)
    state = {f"model.visual_tower.visual_tower.vision_model.{k}": v for k, v in tower.state_dict().items()}
    state |= {f"model.visual_projector.{k}": v for k, v in projector.state_dict().items()}
    state |= {f"model.feature_adaptor.{k}": v for k, v in adaptor.state_dict().items()}
    state |= dict(llama.state_dict())
    save_file({k: v.clone().contiguous() for k, v in state.items()}, folder / "model.safetensors")
    config = {"model_type": "EventChat_llama", "event_feature_adaptor": True, "vision_config": VISION, **TEXT}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder, tower, projector, adaptor, llama


@pytest.fixture
def events():
    """2,000 events in 50 ms on a 64 x 48 sensor."""
    draw = np.random.default_rng(11)
    t = np.sort(draw.integers(0, 50_000, 2000))
    return make_stream(
        draw.integers(0, 64, 2000), draw.integers(0, 48, 2000), t, draw.integers(0, 2, 2000), (64, 48)
    )


@torch.no_grad()
def _reference_embeds(published, vlm, events):
    """Adaptor once, per image, before pooling; temporal tokens, then spatial ones."""
    _, tower, projector, adaptor, llama = published
    pixels = clip_preprocess(render_event_images(events, 5), 28)
    features = tower(pixels, output_hidden_states=True).hidden_states[-1]
    assert features.shape == (5, 5, 32)  # CLS and four patches
    features = adaptor(projector(features))
    seen = torch.cat((features.mean(1), features.mean(0)))
    before = [1, *vlm.tokenizer.encode(TEMPLATES["eventgpt"].render("Q", media="|").split("|")[0] + "<ev_start>")]
    after = vlm.tokenizer.encode(f"<ev_end>\n{QUESTION} ASSISTANT:")
    embed = llama.get_input_embeddings()
    return torch.cat((embed(torch.tensor(before)), seen, embed(torch.tensor(after)))), before, after


def test_the_port_equals_the_reference(published, events):
    folder, *_, llama = published
    vlm = load_vlm(folder, dtype=torch.float32)
    encoded = vlm.encode(Prompt(QUESTION, events=events))
    embeds, before, after = _reference_embeds(published, vlm, events)
    assert encoded.tokens == (*before, *[PLACEHOLDER] * 10, *after)
    assert torch.allclose(encoded.embeds, embeds, atol=1e-5)
    session = vlm.prefill(encoded, room=64)
    tokens, logits = [int(session.first.logits.argmax())], [session.first.logits[0]]
    session.commit((), tokens[0])
    for _ in range(63):
        logits.append(session.score(Draft.chain([])).logits[0])
        tokens.append(int(logits[-1].argmax()))
        session.commit((), tokens[-1])
    with torch.no_grad():
        said = llama.get_input_embeddings()(torch.tensor(tokens[:-1]))
        reference = llama(inputs_embeds=torch.cat((embeds, said))[None]).logits[0, len(embeds) - 1 :]
    assert tokens == reference.argmax(-1).tolist()
    assert torch.allclose(torch.stack(logits), reference, atol=1e-4)


def test_a_missing_tower_is_read_from_the_folder_that_the_config_names(
    published, events, tmp_path, write_tokenizer
):
    folder, tower, *_ = published
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if "visual_tower" not in k}
    save_file(state, tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "mm_visual_tower": "openai/clip-vit-large-patch14-336"})
    )
    write_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="holds no vision tower"):
        load_vlm(tmp_path, dtype=torch.float32)
    tower.save_pretrained(tmp_path / "visual_tower")
    (tmp_path / "config.json").write_text(json.dumps({**config, "mm_visual_tower": "visual_tower"}))
    ours = load_vlm(tmp_path, dtype=torch.float32).encode(Prompt(QUESTION, events=events))
    whole = load_vlm(folder, dtype=torch.float32).encode(Prompt(QUESTION, events=events))
    assert torch.equal(ours.embeds, whole.embeds)


def test_prompts_without_events_and_qformer_checkpoints_are_refused(published, tmp_path):
    folder, *_ = published
    with pytest.raises(DataError, match="--events"):
        load_vlm(folder, dtype=torch.float32).encode(Prompt(QUESTION))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "EventChat_llama", "use_event_qformer": True}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "Q-Former" in check_checkpoint(tmp_path).problems[0]


class LlamaStandIn:
    """The ids that LLaMA's tokenizer gives to the pieces of the published test vector."""

    bos: ClassVar = [1]
    pieces: ClassVar = {
        "before": [
            319, 13563, 1546, 263, 12758, 5199, 322, 385, 23116, 21082, 20255, 29889, 450, 20255, 4076, 8444, 29892,
            13173, 29892, 322, 1248, 568, 6089, 304, 278, 5199, 29915, 29879, 5155, 29889, 3148, 1001, 29901, 529,
            5750, 29918, 2962, 29958,
        ],
        "after": [529, 5750, 29918, 355, 29958, 13, 5618, 526, 278, 1820, 3161, 297, 445, 9088, 29973, 319, 1799,
                  9047, 13566, 29901],
    }  # fmt: skip

    def encode(self, text):
        """The piece's ids, if it is exactly the text that the published format cuts out."""
        system = (
            "A chat between a curious human and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the human's questions."
        )
        known = {
            f"{system} USER: <ev_start>": "before",
            "<ev_end>\nWhat are the key elements in this scene? ASSISTANT:": "after",
        }
        return self.pieces[known[text]]


def test_the_prompt_is_the_published_test_vector(published):
    vlm = load_vlm(published[0], dtype=torch.float32)
    vlm.tokenizer = LlamaStandIn()
    ids = vlm.prompt_ids(Prompt("What are the key elements in this scene?"))
    assert ids == [1, *LlamaStandIn.pieces["before"], PLACEHOLDER, *LlamaStandIn.pieces["after"]]
    assert len(ids) - 1 == 59  # with 578 event positions the 637 that were measured
