"""What is written in the layout ``speculators`` is loaded by that package and computed there as it is here.

Opt-in: CROSSDRAFT_SPECULATORS_PYTHON names the Python of an environment with the package (0.9), in which nothing of
ours is needed: ``pip install speculators``.
"""

import json
import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossdraft.heads.published import read_published, write_published
from crossdraft.heads.recipes import recipe_of

PYTHON = os.environ.get("CROSSDRAFT_SPECULATORS_PYTHON")
STEPS, VOCAB, WIDTH = 6, 40, 32

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="CROSSDRAFT_SPECULATORS_PYTHON names no Python that has the package speculators"
)

THEIRS = """
import sys, torch
from safetensors.torch import load_file, save_file
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
folder, given, found, again = sys.argv[1:]
config = Eagle3SpeculatorConfig.from_pretrained(folder)
config.transformer_layer_config._attn_implementation = "eager"
model = Eagle3DraftModel.from_pretrained(folder, config=config, torch_dtype=torch.float32)
x, logits = load_file(given), []
model.lm_head.register_forward_hook(lambda module, args, out: logits.append(out[0].clone()))
with torch.no_grad():
    model.eval()(x["states"][None], x["tokens"][None], torch.zeros_like(x["tokens"])[None], ttt_steps=2)
tokens = torch.arange(model.draft_vocab_size) + (0 if model.d2t is None else model.d2t)
ids = torch.tensor(model.target_layer_ids)
save_file({"first": logits[0], "second": logits[1], "ids": ids, "tokens": tokens}, found)
model.save_pretrained(again)
"""


@pytest.mark.parametrize("settings", [
    {"draft_vocab": 9}, {"norm_residual": True, "taps": (0, 4, 8)}, {"draft_vocab": 20, "norm_residual": True},
], ids=str)  # fmt: skip
def test_the_package_loads_and_computes_it(hand, settings, tmp_path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    config = {**hand.target.to_hf(), "architectures": ["LlamaForCausalLM"]}
    (target / "config.json").write_text(json.dumps(config))
    # the package reads both ends of the target, to train with
    ends = {"model.embed_tokens.weight": hand.embeddings, "lm_head.weight": hand.random(VOCAB, WIDTH)}
    save_file({**ends, "model.norm.weight": torch.ones(WIDTH)}, target / "model.safetensors")
    head = recipe_of("eagle3").network(hand.target, **settings)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(hand.random(*p.shape))
    if "draft_vocab" in settings:
        head.d2t.copy_(torch.randperm(VOCAB)[: settings["draft_vocab"]])
    names = {"embeddings": hand.embeddings, "target_config": config, "target_name": str(target)}
    write_published(tmp_path / "head", head, "speculators", dtype=torch.float32, **names)
    tokens, states = torch.randint(VOCAB, (STEPS,)), torch.randn(STEPS, 3 * WIDTH)
    save_file({"tokens": tokens, "states": states}, tmp_path / "given")
    done = subprocess.run(
        [PYTHON, "-c", THEIRS, tmp_path / "head", tmp_path / "given", tmp_path / "found", tmp_path / "again"],
        capture_output=True, text=True, timeout=600, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(tmp_path / "found")
    assert theirs["ids"].tolist() == [tap + 1 for tap in head.config.taps]
    order = head.d2t.argsort()
    assert torch.equal(theirs["tokens"], head.d2t[order])
    with torch.no_grad():
        reading = head.eval().read(hand.embeddings[tokens][None], states[None])
        ours = [head.unembed(out, None)[0][:, order] for out in head.unroll(reading, 2, detach=True)]
    torch.testing.assert_close(theirs["first"], ours[0], rtol=1e-4, atol=1e-4)
    # they shift a chain's second guess to the entry it began at, we to the entry it stands for
    torch.testing.assert_close(theirs["second"][:-1], ours[1][1:], rtol=1e-4, atol=1e-4)
    # and what the package writes is read here
    back, layout = read_published(tmp_path / "again", hand.target, embeddings=hand.embeddings)
    assert layout == "speculators"
    assert back.config.layer.frequencies().equal(head.config.layer.frequencies())
    for key, value in back.state_dict().items():
        wanted = head.state_dict()[key]
        assert torch.equal(value, wanted[order] if key in ("d2t", "lm_head.weight") else wanted), key
