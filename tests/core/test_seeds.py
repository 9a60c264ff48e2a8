import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.seeds import generator, seed_for


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["draft", "verify", "scene/3"]))
def test_a_seed_is_stable_and_fits_a_generator(seed: int, purpose: str) -> None:
    value = seed_for(seed, purpose)
    assert value == seed_for(seed, purpose)
    assert 0 <= value < 2**63


def test_purposes_do_not_disturb_each_other() -> None:
    draft, verify = generator(1, "draft"), generator(1, "verify")
    torch.rand(100, generator=draft)
    again = generator(1, "verify")
    assert torch.equal(torch.rand(8, generator=verify), torch.rand(8, generator=again))
    assert seed_for(1, "draft") != seed_for(1, "verify") != seed_for(2, "verify")
