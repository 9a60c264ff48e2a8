"""Published heads that cannot be read, or not as they were meant, are refused with one line that says why."""

from dataclasses import replace

import pytest
import torch

from crossdraft.core.errors import CheckpointError
from crossdraft.heads.published import read_published, write_published
from crossdraft.heads.recipes import recipe_of


def refused(hand, match: str, folder, target=None, **more) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_published(folder, target or hand.target, **more)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_pickles_say_how_to_convert_them(hand, tmp_path) -> None:
    folder = tmp_path / "head"
    refused(hand, "no such drafting head", folder)
    folder.mkdir()
    refused(hand, "has no .*safetensors", folder)
    for name in ("pytorch_model.bin", "medusa_lm_head.pt"):
        (folder / name).write_bytes(b"\x80\x04K\x01.")
        refused(hand, "pickled weights only.*can run code.*sandbox.*save_file", folder)


def test_damaged_files(hand, publish) -> None:
    folder = publish(*hand.eagle())
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    refused(hand, "damaged", folder)
    folder = publish(*hand.eagle())
    (folder / "config.json").write_text("{")
    refused(hand, "cannot be read", folder)
    (folder / "config.json").unlink()
    refused(hand, "has no config.json", folder)


WIDTH, VOCAB = 32, 40


def without(key):
    return lambda c, t: t.pop(key)


def put(key, value):
    return lambda c, t: t.update({key: value})


def say(**entries):
    return lambda c, t: c.update(entries)


@pytest.mark.parametrize(("change", "match"), [
    (without("fc.bias"), r"lacks fc\.bias"),
    (without("layers.0.mlp.up_proj.weight"), r"lacks layers\.0\.mlp\.up_proj\.weight"),
    (put("fc.weight", torch.ones(WIDTH, 3 * WIDTH)), r"fc\.weight is \[32, 96\], expected \[32, 64\]"),
    (put("layers.0.input_layernorm.weight", torch.ones(WIDTH)), r"does not have: layers\.0\.input_layernorm"),
    (put("layers.1.mlp.up_proj.weight", torch.ones(4, 4)), r"does not have: layers\.1"),
    (put("fc.weight", torch.full((WIDTH, 2 * WIDTH), torch.nan)), r"fc\.weight in .* NaN or infinite"),
    (put("fc.weight", torch.zeros(WIDTH, 2 * WIDTH, dtype=torch.int8)), "quantised"),
    (say(num_hidden_layers=2), "num_hidden_layers is 2, expected 1"),
    (say(hidden_size=64), "hidden_size is 64, expected 32; the head belongs to another target"),
    (say(vocab_size=41), "vocab_size is 41"),
    (say(hidden_act="gelu"), "activation"),
    (say(qkv_bias=True), "qkv_bias"),
    (say(model_type="qwen3"), "only llama"),
    (say(rope_scaling={"type": "dynamic", "factor": 2.0}), "'dynamic' is not supported"),
    (say(rope_theta=float("nan")), "not finite"),
    (say(num_attention_heads="many"), "describes no decoder layer"),
    (say(vocab_size=None), "lacks vocab_size"),
])  # fmt: skip
def test_eagle(hand, publish, change, match) -> None:
    config, tensors = hand.eagle()
    change(config, tensors)
    refused(hand, match, publish(config, tensors))


def test_old_buffers_are_known_and_not_used(hand, publish) -> None:
    config, tensors = hand.eagle()
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    assert read_published(publish(config, tensors), hand.target)[1] == "eagle"


def test_embeddings_of_another_target(hand, publish) -> None:
    config, tensors = hand.eagle()
    other = hand.embeddings.clone()
    other[7] += 0.5
    refused(hand, "is no copy of the target's", publish(config, tensors), embeddings=other)
    # a half-precision copy of a half-precision table is a copy
    tensors["embed_tokens.weight"] = (hand.embeddings * 1.001).bfloat16()
    read_published(publish(config, tensors), hand.target, embeddings=hand.embeddings)


OFFSETS = torch.arange(12) * 2


@pytest.mark.parametrize(("change", "match"), [
    (without("d2t"), "lacks d2t, although it drafts 12 of 40"),
    (without("midlayer.input_layernorm.weight"), r"lacks midlayer\.input_layernorm"),
    (without("lm_head.weight"), r"lacks lm_head\.weight"),
    # ids where offsets belong: all past the end, or some of them
    (put("d2t", torch.arange(12) * 3), "tokens that the target does not have.*offsets, not ids"),
    (put("d2t", -torch.arange(12)), "a token twice.*offsets, not ids"),
    (put("d2t", OFFSETS), "d2t and t2d disagree"),
    (put("d2t", OFFSETS.float()), "expected 12 whole numbers"),
    (put("t2d", torch.ones(7, dtype=torch.bool)), r"t2d is \[7\]"),
    (say(draft_vocab_size=41), "draft_vocab_size is 41"),
    (say(draft_vocab_size=11), r"d2t is .*expected 11"),
    (say(draft_vocab_size="all"), "draft_vocab_size is 'all'"),
    (say(target_hidden_size=64), "target_hidden_size is 64"),
    (say(norm_before_fc=True), "norm_before_fc"),
    (say(norm_output=True), "norm_output"),
    (say(eagle_aux_hidden_state_layer_ids=[2, 2, 9]), "does not fit a target of 12 layers"),
    (say(eagle_aux_hidden_state_layer_ids=[0, 6, 9]), "from 1 on"),
    (say(eagle_aux_hidden_state_layer_ids=[2, 6, 13]), "does not fit"),
    (say(eagle_aux_hidden_state_layer_ids=[2, 6]), r"fc\.weight is \[32, 96\], expected \[32, 64\]"),
    (say(eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 5, 8]}), "inside eagle_config.*count differently"),
    (say(eagle_config={"use_aux_hidden_state": False}), "last state alone"),
])  # fmt: skip
def test_eagle3(hand, publish, change, match) -> None:
    config, tensors, _ = hand.eagle3()
    change(config, tensors)
    refused(hand, match, publish(config, tensors))


def test_a_target_too_shallow_for_the_usual_taps(hand, publish) -> None:
    config, tensors, _ = hand.eagle3()
    folder = publish(config, tensors)
    refused(hand, r"names no taps.*\[2, 3, 3\].*6 layers", folder, replace(hand.target, num_layers=6))


@pytest.mark.parametrize(("change", "match"), [
    (say(norm_before_residual=None), "does not say norm_before_residual"),
    (say(speculators_model_type="mtp"), "'mtp'; only 'eagle3'"),
    (say(transformer_layer_config=None), "no transformer_layer_config"),
    (say(transformer_layer_config={"model_type": "qwen3"}), "'qwen3'; only llama"),
    (say(fc_norm=True), "fc_norm"),
])  # fmt: skip
def test_speculators(hand, publish, change, match) -> None:
    _, tensors, tokens = hand.eagle3("layers.0.")
    config = hand.speculators(len(tokens), False)
    change(config, tensors)
    refused(hand, match, publish(config, tensors))


@pytest.mark.parametrize(("change", "match"), [
    (say(medusa_num_layers=2), "medusa_num_layers is 2"),
    (say(medusa_num_heads=3), "medusa_num_heads is 3, but 2 heads are stored"),
    (say(medusa_num_heads=10**9), "but 2 heads are stored"),
    (without("1.1.weight"), r"lacks 1\.1\.weight"),
    (put("0.1.weight", torch.ones(VOCAB + 1, WIDTH)), r"0\.1\.weight is \[41, 32\], expected \[40, 32\]"),
    (put("0.1.linear.weight", torch.ones(WIDTH, WIDTH)), r"does not have: 0\.1\.linear"),
])  # fmt: skip
def test_medusa(hand, publish, change, match) -> None:
    tensors = {
        f"{k}.{part}": hand.random(*shape)
        for k in range(2)
        for part, shape in (
            ("0.linear.weight", (WIDTH, WIDTH)),
            ("0.linear.bias", (WIDTH,)),
            ("1.weight", (VOCAB, WIDTH)),
        )
    }
    config = {"medusa_num_heads": 2, "medusa_num_layers": 1}
    change(config, tensors)
    refused(hand, match, publish(config, tensors))


def test_no_layout_that_is_known(hand, publish) -> None:
    refused(
        hand,
        "no layout that is known.*embed.weight",
        publish(dict(hand.llama), {"embed.weight": hand.random(2, 2)}),
    )


def test_what_cannot_be_written(hand, tmp_path) -> None:
    head = recipe_of("eagle").network(hand.target)
    with pytest.raises(CheckpointError, match="no layout that is known"):
        write_published(tmp_path, head, "gguf", **hand.elsewhere)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="40 tokens of width 32, owner/target has 7 of width 32"):
        write_published(tmp_path, head, "eagle", **{**hand.elsewhere, "embeddings": hand.embeddings[:7]})
    with torch.no_grad():
        head.fc.bias[3] = torch.inf
    with pytest.raises(CheckpointError, match=r"fc\.bias of the head has NaN or infinite"):
        write_published(tmp_path, head, "eagle", **hand.elsewhere)
    medusa = recipe_of("medusa").network(hand.target, draft_vocab=9)
    with pytest.raises(CheckpointError, match="no draft vocabulary"):
        write_published(tmp_path, medusa, "medusa", **hand.elsewhere)
    assert not list(tmp_path.iterdir())
