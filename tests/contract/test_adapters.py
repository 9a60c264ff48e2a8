"""What every adapter of the catalogue must keep; what it declares of itself is true."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crossdraft.adapters import ADAPTERS, Adapter, build_adapter
from crossdraft.adapters.base import DRAFT, TARGET, TOKENS
from crossdraft.core.errors import SettingError
from crossdraft.core.registry import find

# the study's table at width 4096; the sound variants have the parameters of what they mend
PARAMETERS = {
    "l1": 2_113_537,
    "l2": 6_324_227,
    "l3": 25_188_355,
    "l3_2block": 16_797_698,
    "l4": 100_714_497,
    "l4_causal": 100_714_497,
    "l5": 102_819_841,
    "l5_tokens": 102_819_841 + 2 * 4096 * 4096 + 4096,
    "l5f": 169_936_897,
    "l5f_sound": 169_936_897,
    "b1": 102_819_841,
    "b1_sound": 102_819_841,
    "l6": 16_777_216,
}
# a narrow event model, as wide heads as the target has
IN, OUT = 24, 16


def trained(name: str, width_in: int = IN, width_out: int = OUT, **changes: object) -> Adapter:
    """An adapter in which every weight matters: fresh ones hide what they would do behind zeros."""
    torch.manual_seed(5)
    if name == "l6":
        changes = {"num_layers": 2, **changes}
    adapter = build_adapter(name, width_in=width_in, width_out=width_out, **changes).double().eval()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.4)
    return adapter


def inputs(
    steps: int, width_in: int = IN, width_out: int = OUT, seed: int = 0, batch: int = 1
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    widths = {DRAFT: width_in, TARGET: width_out, TOKENS: width_out}
    return {k: torch.randn(batch, steps, w, generator=draw, dtype=torch.float64) for k, w in widths.items()}


def run(adapter: Adapter, given_inputs: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
    others = {k: v for k, v in given_inputs.items() if k != DRAFT}
    with torch.no_grad():
        return adapter(given_inputs[DRAFT], mask=mask, **others)


def test_the_table_names_every_level() -> None:
    assert set(PARAMETERS) == set(ADAPTERS)
    assert {find("adapter", ADAPTERS, name).name for name in ADAPTERS} == set(ADAPTERS)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_parameters_at_4096_equal_the_studys(name: str) -> None:
    with torch.device("meta"):
        adapter = build_adapter(name, width_in=4096, width_out=4096)
    assert sum(p.numel() for p in adapter.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.parametrize("widths", [(16, 16), (24, 16), (8, 32)])
def test_any_widths(name: str, widths: tuple[int, int]) -> None:
    adapter = trained(name, *widths)
    got = run(adapter, inputs(5, *widths, batch=2))
    assert got.shape == (2, 5, widths[1]) and got.isfinite().all()
    projects = widths[0] != widths[1] and DRAFT in adapter.inputs
    assert isinstance(adapter.front, nn.Linear) == projects


@pytest.mark.parametrize("name", sorted(n for n in ADAPTERS if find("adapter", ADAPTERS, n).causal))
@settings(max_examples=20, deadline=None)
@given(steps=st.integers(2, 9), extra=st.integers(1, 4), seed=st.integers(0, 10_000), masked=st.booleans())
def test_what_was_said_stays_said(name: str, steps: int, extra: int, seed: int, masked: bool) -> None:
    """Causal levels: later positions, real or padded, change no earlier output."""
    adapter = trained(name)
    whole = inputs(steps + extra, seed=seed)
    prefix = {k: v[:, :steps] for k, v in whole.items()}
    mask = (torch.arange(steps + extra) < steps)[None] if masked else None
    torch.testing.assert_close(run(adapter, whole, mask)[:, :steps], run(adapter, prefix), atol=1e-10, rtol=0)


def test_level_4_changes_its_mind_as_the_draft_grows() -> None:
    adapter, whole = trained("l4"), inputs(6)
    assert not adapter.causal
    prefix = run(adapter, {k: v[:, :5] for k, v in whole.items()})
    assert (run(adapter, whole)[:, :5] - prefix).abs().amax(-1).min() > 1e-4


def influence(adapter: Adapter, name: str, steps: int = 5) -> Tensor:
    """(output position, input position): whether the output moves when the input named so is disturbed there."""
    base = inputs(steps)
    before = run(adapter, base)
    moved = []
    for at in range(steps):
        disturbed = {k: v.clone() for k, v in base.items()}
        disturbed[name][:, at] += 1 + torch.arange(disturbed[name].shape[-1])
        moved.append((run(adapter, disturbed) - before).abs().amax(-1)[0] > 1e-9)
    return torch.stack(moved, dim=1)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_it_sees_its_target_just_when_it_says_so(name: str) -> None:
    adapter, earlier = trained(name), torch.ones(5, 5, dtype=torch.bool).tril(-1)
    seen = influence(adapter, TARGET)
    if TARGET not in adapter.inputs:
        assert not seen.any() and not adapter.sees_its_target
    elif adapter.sees_its_target:
        assert torch.equal(seen, earlier | torch.eye(5, dtype=torch.bool))
    else:
        assert torch.equal(seen, earlier)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_no_level_sees_the_token_it_is_to_predict(name: str) -> None:
    seen = influence(trained(name), TOKENS)
    wanted = torch.ones(5, 5, dtype=torch.bool).tril(-1) if name == "l5_tokens" else torch.zeros_like(seen)
    assert torch.equal(seen, wanted)


def test_historical_and_sound_pairs() -> None:
    voided = {name for name in ADAPTERS if find("adapter", ADAPTERS, name).sees_its_target}
    assert voided == {"b1", "l5f"}
    assert all(f"{name}_sound" in ADAPTERS for name in voided)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_it_can_learn(name: str) -> None:
    """Every weight of a fresh adapter gets a gradient within two steps (a zero ``up`` hides ``down`` in the first).

    Level 6 learns inside a decoder (tests/adapters/test_lora.py); here only its projection takes part.
    """
    torch.manual_seed(0)
    adapter = build_adapter(name, width_in=IN, width_out=OUT, **({"num_layers": 1} if name == "l6" else {}))
    batch = {k: v.float() for k, v in inputs(4, batch=2).items()}
    draft = batch.pop(DRAFT)
    optimiser = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (adapter(draft, **batch) - batch[TARGET].flip(1)).square().mean().backward()
        optimiser.step()
    parts = adapter.front if name == "l6" else adapter
    assert not [n for n, p in parts.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_missing_and_wrong_inputs_are_named(name: str) -> None:
    adapter = trained(name)
    for wanted in adapter.inputs:
        what = wanted.replace("_", " ")
        given_inputs: dict = inputs(3)
        given_inputs[wanted] = None
        with pytest.raises(SettingError, match=f"adapter '{name}' takes {what}, but none were given"):
            run(adapter, given_inputs)
        given_inputs = inputs(3)
        given_inputs[wanted] = torch.zeros(1, 3, 7, dtype=torch.float64)
        with pytest.raises(
            SettingError, match=f"takes {what} of width {IN if wanted == DRAFT else OUT}, but got 7"
        ):
            run(adapter, given_inputs)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("l7", {}, "unknown adapter 'l7'"),
        ("l1", {"rank": 4}, "adapter 'l1': unknown key 'rank'"),
        ("l1", {"num_blocks": 0}, "num_blocks is 0"),
        ("l1", {"norm": "outer"}, "norm is 'outer'"),
        ("l2", {"dropout": 1.0}, "dropout is 1.0"),
        ("l4", {"num_heads": 5}, "5 attention heads do not divide a width of 16"),
        ("l5", {"max_positions": 2.5}, "max_positions is 2.5"),
        ("l6", {"alpha": 0.0}, "alpha is 0.0"),
        ("l6", {"kv_width": -1}, "kv_width is -1"),
    ],
)
def test_senseless_settings_are_refused(name: str, changes: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build_adapter(name, width_in=IN, width_out=OUT, **changes)


def test_senseless_widths_are_refused() -> None:
    with pytest.raises(SettingError, match="width_in is 0"):
        build_adapter("l1", width_in=0, width_out=OUT)
