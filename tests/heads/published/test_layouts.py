"""Heads in each published layout, written here by hand, give the logits that their papers' formulas give."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from crossdraft.core.errors import CheckpointError
from crossdraft.core.types import PromptView
from crossdraft.heads.feature import FeatureHead
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.published import LAYOUTS, read_published, write_published
from crossdraft.heads.recipes import RECIPES, recipe_of
from crossdraft.heads.runner import HeadRunner

STEPS, WIDTH, VOCAB = 5, 32, 40
OUTPUT = torch.linspace(-2, 3, VOCAB * WIDTH).cos().reshape(VOCAB, WIDTH)


def doubles(tensors):
    return {k: v.double() for k, v in tensors.items()}


def pass_of(head: FeatureHead, embeds, states, passes: int = 1):
    """What each pass makes of every entry (T, D), as drafting computes it."""
    reading = head.double().read(embeds[None], states[None])
    with torch.no_grad():
        return [out[0] for out in head.unroll(reading, passes, detach=True)]


@pytest.mark.parametrize("bias", [True, False])
def test_eagle_reads_embedding_then_feature_into_a_layer_without_input_norm(hand, publish, bias) -> None:
    config, tensors = hand.eagle(bias)
    head, layout = read_published(publish(config, tensors), hand.target, embeddings=hand.embeddings)
    assert layout == "eagle" and isinstance(head, FeatureHead) and not head.training
    w, states = doubles(tensors), torch.randn(STEPS, WIDTH, dtype=torch.float64)
    embeds = w["embed_tokens.weight"][torch.arange(STEPS) * 3]
    x = torch.cat((embeds, states), dim=-1) @ w["fc.weight"].T + w.get("fc.bias", torch.zeros(WIDTH))
    # the base of the rotation is 10000, since config.json says nothing, and not the target's
    wanted = hand.run_layer(w, "layers.0.", x, x, list(range(STEPS)), theta=10000.0) @ OUTPUT.double().T
    (out,) = pass_of(head, embeds, states)
    torch.testing.assert_close(head.unembed(out, OUTPUT.double()), wanted, rtol=1e-5, atol=1e-5)
    # positions go as far as the target's, whatever the head's config says
    assert head.config.layer.max_positions == hand.target.max_positions


@pytest.mark.parametrize("prefix", ["midlayer.", "layers.0."])
def test_eagle3_fuses_three_taps_and_feeds_its_raw_output_back(hand, publish, prefix) -> None:
    config, tensors, tokens = hand.eagle3(prefix)
    head, layout = read_published(publish({**config, "rope_theta": 70000.0}, tensors), hand.target)
    assert layout == "eagle3" and torch.equal(head.d2t, tokens)
    # entering layers 2, 6 and 9 of 12
    assert head.config.taps == (1, 5, 8)
    _same_as_by_hand(hand, head, tensors, prefix, 70000.0, raw=True)


@pytest.mark.parametrize("normed", [True, False])
def test_speculators_may_normalise_the_residual(hand, publish, normed) -> None:
    _, tensors, tokens = hand.eagle3("layers.0.")
    tensors["embed_tokens.weight"] = hand.embeddings
    folder = publish(hand.speculators(len(tokens), normed), tensors)
    head, layout = read_published(folder, hand.target, embeddings=hand.embeddings)
    assert layout == "speculators" and torch.equal(head.d2t, tokens) and head.config.taps == (2, 3, 10)
    _same_as_by_hand(hand, head, tensors, "layers.0.", 2500.0, raw=not normed)


def _same_as_by_hand(hand, head, tensors, prefix: str, theta: float, raw: bool) -> None:
    """Two guesses in a row: the first from the target's features, the second from the first one's output."""
    w, states = doubles(tensors), torch.randn(STEPS, 3 * WIDTH, dtype=torch.float64)
    embeds = hand.embeddings.double()[torch.arange(STEPS) * 3]

    def entries(feats):
        normed = hand.norm(feats, w[f"{prefix}hidden_norm.weight"])
        read = torch.cat((hand.norm(embeds, w[f"{prefix}input_layernorm.weight"]), normed), dim=-1)
        return hand.run_layer(w, prefix, feats if raw else normed, read, list(range(STEPS)), theta)

    def logits(rows):
        return hand.norm(rows, w["norm.weight"]) @ w["lm_head.weight"].T

    feats = states @ w["fc.weight"].T
    first = entries(feats)
    # the last entry's feature is now what was guessed for it, neither normalised nor sent through fc
    second = entries(torch.cat((feats[:-1], first[-2:-1])))
    ours = pass_of(head, embeds, states, passes=2)
    torch.testing.assert_close(head.unembed(ours[0], None), logits(first), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.unembed(ours[1], None)[-1], logits(second)[-1], rtol=1e-5, atol=1e-5)
    # and so when it drafts: a prompt is read, then one verified token is digested
    runner = HeadRunner(head, None, torch.float64)
    by_layer = dict(zip(head.config.taps, states[:-1].chunk(3, dim=-1), strict=True))
    view = PromptView(tuple(range(STEPS - 1)), torch.cat((embeds[:1], embeds[:-2])), by_layer)
    state, guess = runner.begin(view, embeds[-2:-1], 8)
    torch.testing.assert_close(runner.logits(guess).double(), logits(first)[-2:-1], rtol=1e-5, atol=1e-5)
    guess = runner.extend(state, states[-1:], embeds[-1:])
    torch.testing.assert_close(runner.logits(guess).double(), logits(first)[-1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_medusa_owns_its_output_matrices_or_shares_the_targets(hand, publish, own) -> None:
    tensors = {}
    for k in range(3):
        tensors |= {f"{k}.0.linear.weight": hand.random(WIDTH, WIDTH), f"{k}.0.linear.bias": hand.random(WIDTH)}
        if own:
            tensors[f"{k}.1.weight"] = hand.random(VOCAB, WIDTH)
    # the file may hold more heads than are counted
    config = {"medusa_num_heads": 2, "medusa_num_layers": 1, "base_model_name_or_path": "owner/target"}
    head, layout = read_published(publish(config, tensors, "medusa_lm_head.safetensors"), hand.target)
    assert layout == "medusa" and isinstance(head, MedusaHead) and head.config.own_head is own
    w, states = doubles(tensors), torch.randn(STEPS, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        ours = head.double()(states, OUTPUT.double())
    assert len(ours) == 3
    for k in range(3):
        inner = states @ w[f"{k}.0.linear.weight"].T + w[f"{k}.0.linear.bias"]
        wanted = (states + inner * inner.sigmoid()) @ w.get(f"{k}.1.weight", OUTPUT.double()).T
        torch.testing.assert_close(ours[k], wanted, rtol=1e-10, atol=1e-10)


# -- out and in again ----------------------------------------------------------------------------------------------

PUBLISHED = {"eagle": {"eagle"}, "hass": {"eagle"}, "eagle3": {"eagle3", "speculators"}, "medusa": {"medusa"}}
SETTINGS = [
    *((name, {}) for name in RECIPES), ("eagle3", {"draft_vocab": 9}), ("eagle3", {"norm_residual": True}),
    ("eagle3", {"taps": (0, 4, 11), "draft_vocab": VOCAB}), ("medusa", {"own_head": True, "heads": 2}),
]  # fmt: skip


def trained(hand, name: str, settings):
    """A head of the recipe with values of its own."""
    head = recipe_of(name).network(hand.target, **settings)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(hand.random(*p.shape))
    if settings.get("draft_vocab"):
        head.d2t.copy_(torch.randperm(VOCAB)[: settings["draft_vocab"]])
    return head.eval().requires_grad_(False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_what_is_written_is_what_is_read_or_the_layout_refuses(hand, name, settings, layout, tmp_path) -> None:
    head = trained(hand, name, settings)
    can = layout in PUBLISHED.get(name, ()) and not (layout == "eagle3" and settings.get("norm_residual"))
    if not can:
        with pytest.raises(CheckpointError) as refused:
            write_published(tmp_path / "out", head, layout, **hand.elsewhere)
        assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()
        return
    write_published(tmp_path / "out", head, layout, **hand.elsewhere)
    again, found = read_published(tmp_path / "out", hand.target, embeddings=hand.embeddings)
    assert found == layout
    if settings.get("draft_vocab") == VOCAB:
        assert again.config.draft_vocab is None
    else:
        assert again.config == head.config
    order = head.d2t.argsort()
    assert torch.equal(again.d2t, head.d2t[order])
    theirs = head.state_dict()
    for key, value in again.state_dict().items():
        drafted = key in ("d2t", "lm_head.weight")
        assert torch.equal(value, theirs[key][order] if drafted else theirs[key]), key


def test_the_written_files_say_what_other_programs_look_for(hand, tmp_path) -> None:
    head = trained(hand, "eagle3", {"draft_vocab": 9})
    write_published(tmp_path / "s", head, "speculators", **hand.elsewhere)
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    spec = config["speculators_config"]
    assert config["speculators_model_type"] == spec["algorithm"] == "eagle3"
    assert config["norm_before_residual"] is False and config["draft_vocab_size"] == 9
    # numbered by the layer that they enter
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 6, 9]
    assert spec["verifier"] == {"name_or_path": "owner/target", "architectures": ["LlamaForCausalLM"]}
    assert spec["proposal_methods"][0]["speculative_tokens"] == 3
    inner = config["transformer_layer_config"]
    assert (inner["num_hidden_layers"], inner["rope_theta"], inner["num_key_value_heads"]) == (1, 500000.0, 2)
    tensors = load_file(tmp_path / "s" / "model.safetensors")
    tokens = head.d2t.sort().values
    assert torch.equal(tensors["d2t"] + torch.arange(9), tokens) and tensors["d2t"].dtype == torch.int64
    assert torch.equal(tensors["t2d"].nonzero().flatten(), tokens) and tensors["t2d"].dtype == torch.bool
    assert torch.equal(tensors["embed_tokens.weight"].float(), hand.embeddings)

    write_published(tmp_path / "e3", head, "eagle3", **hand.elsewhere)
    config = json.loads((tmp_path / "e3" / "config.json").read_text())
    # the usual taps are not named: programs that count differently all take them
    assert "eagle_aux_hidden_state_layer_ids" not in config and config["num_attention_heads"] == 4
    assert "embed_tokens.weight" not in load_file(tmp_path / "e3" / "model.safetensors")
    write_published(tmp_path / "e3b", trained(hand, "eagle3", {"taps": (0, 4, 8)}), "eagle3", **hand.elsewhere)
    config = json.loads((tmp_path / "e3b" / "config.json").read_text())
    assert config["eagle_aux_hidden_state_layer_ids"] == [1, 5, 9]

    plain = trained(hand, "eagle", {})
    plain.fc.bias.zero_()
    write_published(tmp_path / "e", plain, "eagle", **hand.elsewhere)
    assert json.loads((tmp_path / "e" / "config.json").read_text())["bias"] is False
    assert "fc.bias" not in load_file(tmp_path / "e" / "model.safetensors")
    write_published(tmp_path / "m", trained(hand, "medusa", {}), "medusa", **hand.elsewhere)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "medusa_lm_head.safetensors"]


@pytest.mark.parametrize(("scaling", "written"), [
    # the original code takes these two entries and no other
    ({"rope_type": "linear", "factor": 2}, {"type": "linear", "factor": 2.0}),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, None),
])  # fmt: skip
def test_rotary_scaling_survives_although_positions_go_further(hand, tmp_path, scaling, written) -> None:
    short = replace(hand.target, rope_scaling=scaling, max_positions=64)
    head = recipe_of("eagle").network(short)
    write_published(tmp_path, head, "eagle", **hand.elsewhere)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_scaling"] == (written or scaling)
    again, _ = read_published(tmp_path, hand.target)
    assert again.config.layer.max_positions == 4096
    assert torch.equal(again.config.layer.frequencies(), short.frequencies())
