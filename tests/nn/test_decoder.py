import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from crossdraft.core.errors import CheckpointError
from crossdraft.nn.decoder import Decoder, DecoderConfig, many_lengths, spread_heads
from crossdraft.nn.engine import Engine

VARIANTS = {
    "mha": {},
    "gqa_tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mqa_bias": {"num_key_value_heads": 1, "attention_bias": True},
    "wide_heads": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    "llama3": {
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 500000.0,
        },
    },
}


def pair(name):
    """A random Llama of transformers, and ours with its weights."""
    torch.manual_seed(3)
    settings = {
        "vocab_size": 113,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
    }
    config = LlamaConfig(**(settings | VARIANTS[name]))
    theirs = LlamaForCausalLM(config).eval()
    if config.attention_bias:
        for layer in theirs.model.layers:
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
            torch.nn.init.normal_(layer.self_attn.v_proj.bias)
    ours = Decoder(DecoderConfig.from_hf(config.to_dict()))
    ours.load_state_dict({k.removeprefix("model."): v for k, v in theirs.state_dict().items()})
    return theirs, ours


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name):
    theirs, ours = pair(name)
    ids = torch.randint(113, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = theirs(ids, output_hidden_states=True)
        states, taps = ours(ours.embed_tokens(ids), capture=(0, 1, -1))
        torch.testing.assert_close(ours.unembed(states), want.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(taps[0], want.hidden_states[1], atol=1e-4, rtol=0)
        torch.testing.assert_close(taps[1], want.hidden_states[2], atol=1e-4, rtol=0)
        assert torch.equal(taps[-1], states)

    engine = Engine(ours, torch.float32)
    cache = engine.new_cache(90)
    first = engine.prefill(engine.embed(ids[0, :50]), cache)
    rest = engine.score(ids[0, 50:], cache)
    torch.testing.assert_close(first.logits[0], want.logits[0, 49], atol=1e-4, rtol=0)
    torch.testing.assert_close(rest.logits, want.logits[0, 50:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mha", "gqa_tied", "llama3"])
def test_64_greedy_tokens_equal_transformers(name):
    theirs, ours = pair(name)
    engine = Engine(ours, torch.float32)
    prompt = torch.randint(1, 113, (1, 12), generator=torch.Generator().manual_seed(1))
    want = theirs.generate(
        prompt, max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=True
    )[0, 12:].tolist()
    cache = engine.new_cache(80)
    token = int(engine.prefill(engine.embed(prompt[0]), cache).logits[0].argmax())
    got = [token]
    while len(got) < 64:
        token = int(engine.score(torch.tensor([token]), cache).logits[0].argmax())
        cache.commit([0])
        got.append(token)
    assert got == want


def test_mask_and_positions_are_obeyed():
    _, ours = pair("gqa_tied")
    embeds = torch.randn(1, 6, 64)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        default, _ = ours(embeds)
        explicit, _ = ours(embeds, mask=causal, positions=torch.arange(6))
        shifted, _ = ours(embeds, mask=causal, positions=torch.arange(6)[None] + 40)
        blind, _ = ours(embeds, mask=torch.eye(6, dtype=torch.bool)[None, None])
    torch.testing.assert_close(default, explicit, atol=1e-5, rtol=0)
    # rotary positions are relative: a shift of all changes nothing
    torch.testing.assert_close(default, shifted, atol=1e-4, rtol=0)
    assert (default[:, 1:] - blind[:, 1:]).abs().max() > 1e-2


def test_training_pass_has_gradients_under_autocast():
    _, ours = pair("mha")
    ids = torch.randint(113, (2, 10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states, _ = ours(ours.embed_tokens(ids), mask=torch.ones(10, 10, dtype=torch.bool).tril()[None, None])
        loss = torch.nn.functional.cross_entropy(ours.unembed(states).float().flatten(0, 1), ids.flatten())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


def test_config_reads_both_layouts_of_transformers():
    old = {
        "vocab_size": 10,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "rope_theta": 500000.0,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    config = DecoderConfig.from_hf(old)
    assert (config.rope_theta, config.num_kv_heads, config.head_dim) == (500000.0, 4, 8)
    assert config.rope_scaling == {"type": "linear", "factor": 2.0}
    new = {k: v for k, v in old.items() if not k.startswith("rope")}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 1234.0}
    assert DecoderConfig.from_hf(new).rope_theta == 1234.0
    assert DecoderConfig.from_hf(new).rope_scaling is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"head_dim": 7}, "even"),
    ],
)
def test_a_bad_config_is_named(change, says):
    good = {
        "vocab_size": 10,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    with pytest.raises(CheckpointError, match=says):
        DecoderConfig.from_hf(good | change)


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn", "factor": 2.0}, {"rope_type": "llama3", "factor": 2.0}])
def test_an_unknown_or_incomplete_rope_scaling_is_named(scaling):
    config = DecoderConfig(
        vocab_size=10,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
        rope_scaling=scaling,
    )
    with pytest.raises(CheckpointError, match=r"rope_scaling of kind"):
        Decoder(config).frequencies()


def test_on_a_gpu_no_plan_is_made_for_every_length(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: "as it was")
    with many_lengths("cpu"):
        assert asked == []
    with pytest.raises(KeyError), many_lengths("cuda:0"):
        assert asked == [False]
        raise KeyError
    assert asked == [False, "as it was"]


def test_spread_heads_are_attended_to_as_grouped_ones():
    q, k, v = torch.randn(2, 7, 6, 8), torch.randn(2, 9, 2, 8), torch.randn(2, 9, 2, 8)
    mask = torch.rand(7, 9) > 0.3
    mask[:, 0] = True
    q, k, v = q.double().transpose(1, 2), k.double(), v.double()
    grouped = F.scaled_dot_product_attention(
        q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, enable_gqa=True
    )
    wide = (spread_heads(x, 6).transpose(1, 2) for x in (k, v))
    assert (F.scaled_dot_product_attention(q, *wide, attn_mask=mask) - grouped).abs().max() < 1e-12
