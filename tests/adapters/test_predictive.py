import pytest
import torch

from crossdraft.adapters import build_adapter
from crossdraft.adapters.predictive import delayed
from crossdraft.core.errors import SettingError

WIDTH = 32


def fresh(name: str) -> torch.nn.Module:
    torch.manual_seed(4)
    return build_adapter(name, width_in=WIDTH, width_out=WIDTH).double().eval()


def states(seed: int) -> torch.Tensor:
    return torch.randn(2, 6, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_delayed() -> None:
    rows = torch.arange(1.0, 7.0).view(1, 3, 2)
    assert delayed(rows)[0].tolist() == [[0, 0], [1, 2], [3, 4]]
    assert delayed(rows[:, :1])[0].tolist() == [[0, 0]]


def test_each_level_starts_near_what_it_changes() -> None:
    draft, target = states(1), states(2)
    base = {"l5": draft, "l5_tokens": draft, "b1": target, "l5f": target, "l5f_sound": delayed(target)}
    base["b1_sound"] = delayed(target)
    for name, wanted in base.items():
        got = fresh(name)(draft, target_states=target, token_embeddings=states(3))
        late = slice(1, None) if name.endswith("sound") else slice(None)
        assert torch.cosine_similarity(got[:, late], wanted[:, late], dim=-1).min() > 0.97, name


def test_tokens_start_unused() -> None:
    """With level 5's weights the token level is level 5, until it learns to read."""
    plain, reading = fresh("l5"), fresh("l5_tokens")
    missing = reading.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing.missing_keys) == {"fuse.weight", "fuse.bias"} and not missing.unexpected_keys
    got = reading(states(1), token_embeddings=states(3))
    torch.testing.assert_close(got, plain(states(1)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("historical", ["b1", "l5f"])
def test_a_sound_variant_is_the_historical_one_fed_late(historical: str) -> None:
    one, other = fresh(historical), fresh(f"{historical}_sound")
    other.load_state_dict(one.state_dict())
    late = one(states(1), target_states=delayed(states(2)))
    torch.testing.assert_close(other(states(1), target_states=states(2)), late, atol=1e-12, rtol=0)


def test_the_target_only_bound_needs_no_draft() -> None:
    assert fresh("b1_sound")(None, target_states=states(2)).shape == (2, 6, WIDTH)


def test_answers_beyond_the_trained_positions_are_refused() -> None:
    adapter = build_adapter("l5", width_in=WIDTH, width_out=WIDTH, max_positions=5)
    assert adapter(states(1)[:, :5].float()).shape == (2, 5, WIDTH)
    with pytest.raises(SettingError, match="adapter 'l5' knows 5 positions, but got 6"):
        adapter(states(1).float())


def test_positions_start_small() -> None:
    positions = fresh("l5").positions.detach()
    assert 0.015 < float(positions.std()) < 0.025 and positions.abs().max() <= 2
