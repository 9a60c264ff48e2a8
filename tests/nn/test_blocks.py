import pytest
import torch
from torch import nn

from crossdraft.core.errors import SettingError
from crossdraft.nn.blocks import AttentionLayer, BlendedOutput, BottleneckBlock, SelfAttention

WIDTH, HEADS, STEPS = 16, 4, 6
PADDED = torch.tensor([[True] * STEPS, [True] * 4 + [False] * 2])


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def reference(layer: AttentionLayer) -> nn.TransformerEncoderLayer:
    """torch's own pre-norm layer with the same weights."""
    ffn = layer.ffn[0].out_features
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, ffn, activation="gelu", batch_first=True, norm_first=True)
    theirs.double().eval().load_state_dict(
        {
            "self_attn.in_proj_weight": layer.attn.in_proj.weight,
            "self_attn.in_proj_bias": layer.attn.in_proj.bias,
            "self_attn.out_proj.weight": layer.attn.out_proj.weight,
            "self_attn.out_proj.bias": layer.attn.out_proj.bias,
            "linear1.weight": layer.ffn[0].weight,
            "linear1.bias": layer.ffn[0].bias,
            "linear2.weight": layer.ffn[3].weight,
            "linear2.bias": layer.ffn[3].bias,
            "norm1.weight": layer.attn_norm.weight,
            "norm1.bias": layer.attn_norm.bias,
            "norm2.weight": layer.ffn_norm.weight,
            "norm2.bias": layer.ffn_norm.bias,
        }
    )
    return theirs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_layer_equals_torchs_own(causal: bool, padded: bool) -> None:
    torch.manual_seed(1)
    layer = AttentionLayer(WIDTH, HEADS, 24, causal=causal, dropout=0.1).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = states(2, STEPS, WIDTH)
    mask = PADDED if padded else None
    got = layer(x, mask)
    theirs = reference(layer)(
        x,
        src_mask=torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1) if causal else None,
        src_key_padding_mask=None if mask is None else ~mask,
    )
    valid = PADDED if padded else torch.ones_like(PADDED)
    torch.testing.assert_close(got[valid], theirs[valid], atol=1e-10, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_never_looked_at_and_stays_finite(causal: bool) -> None:
    torch.manual_seed(2)
    attention = SelfAttention(WIDTH, HEADS, causal=causal, dropout=0.0).double()
    left_padded = torch.tensor([[False] * 2 + [True] * 4])
    x = states(1, STEPS, WIDTH)
    changed = x.clone()
    changed[~left_padded] += 5
    before, after = attention(x, left_padded), attention(changed, left_padded)
    assert before.isfinite().all() and after.isfinite().all()
    torch.testing.assert_close(before[left_padded], after[left_padded], atol=1e-12, rtol=0)


def test_attention_starts_as_torchs_own_does() -> None:
    torch.manual_seed(3)
    ours = SelfAttention(WIDTH, HEADS, causal=False, dropout=0.0)
    torch.manual_seed(3)
    theirs = nn.MultiheadAttention(WIDTH, HEADS)
    bound = (6 / (WIDTH + 3 * WIDTH)) ** 0.5
    assert theirs.in_proj_weight.abs().max() <= bound and ours.in_proj.weight.abs().max() <= bound
    assert ours.in_proj.weight.abs().max() > 0.9 * bound
    assert not ours.in_proj.bias.any() and not ours.out_proj.bias.any()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(SettingError, match="8 attention heads do not divide a width of 20"):
        SelfAttention(20, 8, causal=True, dropout=0.0)


@pytest.mark.parametrize("norm", ["input", "hidden"])
def test_a_fresh_bottleneck_is_the_identity_and_still_learns(norm: str) -> None:
    block = BottleneckBlock(WIDTH, 4, norm=norm, dropout=0.0).double()  # type: ignore[arg-type]
    x = states(2, 3, WIDTH)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.up.weight.grad is not None and block.up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["input", "hidden"])
def test_bottleneck_by_hand(norm: str) -> None:
    """Width 2, hidden 1 or 2: every norm, GELU and product in plain Python."""
    import math

    def gelu(v: float) -> float:
        return v * 0.5 * (1 + math.erf(v / math.sqrt(2)))

    def normed(values: list[float]) -> list[float]:
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        return [(v - mean) / math.sqrt(variance + 1e-5) for v in values]

    down, up, scale, x = [[1.0, 2.0], [-1.0, 0.5]], [[0.5, 1.0], [2.0, -1.0]], 0.3, [1.0, 4.0]
    block = BottleneckBlock(2, 2, norm=norm, dropout=0.0).double()  # type: ignore[arg-type]
    with torch.no_grad():
        block.down.weight.copy_(torch.tensor(down))
        block.up.weight.copy_(torch.tensor(up))
        block.scale.fill_(scale)
    inner = normed(x) if norm == "input" else x
    hidden = [row[0] * inner[0] + row[1] * inner[1] for row in down]
    hidden = [gelu(v) for v in (hidden if norm == "input" else normed(hidden))]
    wanted = [v + scale * (row[0] * hidden[0] + row[1] * hidden[1]) for v, row in zip(x, up, strict=True)]
    got = block(torch.tensor([[x]], dtype=torch.float64))[0, 0].tolist()
    assert got == pytest.approx(wanted, abs=1e-7)


def test_blended_output_starts_nine_tenths_the_base() -> None:
    output = BlendedOutput(WIDTH).double()
    x, base = states(1, 3, WIDTH), states(2, 3, WIDTH)[1:]
    wanted = 0.9 * base + 0.1 * torch.layer_norm(x, (WIDTH,))
    torch.testing.assert_close(output(x, base), wanted, atol=1e-7, rtol=0)


def test_dropout_is_off_at_inference() -> None:
    layer = AttentionLayer(WIDTH, HEADS, 8, causal=True, dropout=0.5).double()
    x = states(1, STEPS, WIDTH)
    assert not torch.equal(layer(x, None), layer(x, None))
    layer.eval()
    assert torch.equal(layer(x, None), layer(x, None))
