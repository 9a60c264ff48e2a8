import torch

from crossdraft.adapters import build_adapter

WIDTH = 32


def fresh(name: str) -> torch.nn.Module:
    torch.manual_seed(4)
    return build_adapter(name, width_in=WIDTH, width_out=WIDTH).double().eval()


def test_it_starts_near_the_identity() -> None:
    x = torch.randn(2, 6, WIDTH, dtype=torch.float64)
    for name in ("l4", "l4_causal"):
        got = fresh(name)(x)
        assert torch.cosine_similarity(got, x, dim=-1).min() > 0.97
        # all but a tenth of each state is the state itself
        change = got - 0.9 * x
        assert (change.norm(dim=-1) < 0.11 * WIDTH**0.5).all()


def test_the_two_variants_differ_in_the_mask_alone() -> None:
    one, other = fresh("l4"), fresh("l4_causal")
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    both, causal = one(x), other(x)
    # the last position sees everything either way
    torch.testing.assert_close(both[:, -1], causal[:, -1], atol=1e-12, rtol=0)
    assert (both[:, 0] - causal[:, 0]).abs().max() > 1e-6


def test_padding_changes_no_valid_state() -> None:
    adapter = fresh("l4")
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    padded = torch.cat((x, torch.full((1, 3, WIDTH), 9.0, dtype=torch.float64)), dim=1)
    mask = (torch.arange(7) < 4)[None]
    torch.testing.assert_close(adapter(padded, mask=mask)[:, :4], adapter(x), atol=1e-12, rtol=0)
