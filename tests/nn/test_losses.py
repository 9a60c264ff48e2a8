"""Every loss against the number worked out in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.nn import losses
from crossdraft.nn.losses import LossConfig, adapter_loss

# one sample of three positions, width 2; the head has 4 words
ADAPTED = [[1.0, 0.0], [0.5, 2.0], [-1.0, 3.0]]
TARGET = [[0.0, 1.0], [0.5, 0.4], [2.0, -1.0]]
HEAD = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]]


def tensor(values: list) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def logits(state: list[float]) -> list[float]:
    return [row[0] * state[0] + row[1] * state[1] for row in HEAD]


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def by_hand(name: str, top_k: int = 2) -> list[float]:
    """The loss at each position."""
    values = []
    for a, t in zip(ADAPTED, TARGET, strict=True):
        gaps = [abs(x - y) for x, y in zip(a, t, strict=True)]
        q, p = softmax(logits(a)), softmax(logits(t))
        best = sorted(range(4), key=lambda i: -p[i])
        values.append(
            {
                "mse": sum(g * g for g in gaps) / 2,
                "smooth_l1": sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / 2,
                "cosine": 1 - (a[0] * t[0] + a[1] * t[1]) / (math.hypot(*a) * math.hypot(*t)),
                "token_ce": -math.log(q[best[0]]),
                "kl": sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)),
                "top_k_ce": -sum(p[i] * math.log(q[i]) for i in best[:top_k]),
            }[name]
        )
    return values


TERMS = ["mse", "smooth_l1", "cosine", "token_ce", "kl", "top_k_ce"]


@pytest.mark.parametrize("name", TERMS)
def test_at_each_position_by_hand(name: str) -> None:
    head = torch.tensor(HEAD, dtype=torch.float64)
    adapted, target = tensor(ADAPTED), tensor(TARGET)
    q, p = adapted @ head.T, target @ head.T
    got = {
        "mse": lambda: losses.mse(adapted, target),
        "smooth_l1": lambda: losses.smooth_l1(adapted, target),
        "cosine": lambda: losses.cosine(adapted, target),
        "token_ce": lambda: losses.token_ce(q, p.argmax(-1)),
        "kl": lambda: losses.kl(q, p),
        "top_k_ce": lambda: losses.top_k_ce(q, p, 2),
    }[name]()
    assert got[0].tolist() == pytest.approx(by_hand(name), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("form", ["weight", "callable"])
def test_each_term_is_the_front_loaded_mean_over_valid_positions(name: str, form: str) -> None:
    """decay 0.5, the last position padded: weights 1 and 0.5."""
    weight = torch.tensor(HEAD, dtype=torch.float64)
    head = weight if form == "weight" else lambda states: states @ weight.T
    config = LossConfig(**{name: 3.0}, position_decay=0.5, top_k=2)
    mask = torch.tensor([[True, True, False]])
    total, parts = adapter_loss(config, tensor(ADAPTED), tensor(TARGET), mask=mask, head=head)
    values = by_hand(name)
    wanted = (values[0] + 0.5 * values[1]) / 1.5
    assert set(parts) == {name}
    assert float(parts[name]) == pytest.approx(wanted, rel=1e-5)
    assert float(total) == pytest.approx(3 * wanted, rel=1e-5)


def test_next_state_by_hand() -> None:
    """Adapted 0 against target 1, adapted 1 against target 2; the pair counts as the later position."""
    first = ((1.0 - 0.5) ** 2 + (0.0 - 0.4) ** 2) / 2
    second = ((0.5 - 2.0) ** 2 + (2.0 + 1.0) ** 2) / 2
    plain = LossConfig(next_state=1.0)
    assert float(adapter_loss(plain, tensor(ADAPTED), tensor(TARGET))[0]) == pytest.approx((first + second) / 2)
    decayed = LossConfig(next_state=1.0, position_decay=0.5)
    wanted = (0.5 * first + 0.25 * second) / 0.75
    assert float(adapter_loss(decayed, tensor(ADAPTED), tensor(TARGET))[0]) == pytest.approx(wanted)
    mask = torch.tensor([[True, True, False]])
    assert float(adapter_loss(plain, tensor(ADAPTED), tensor(TARGET), mask=mask)[0]) == pytest.approx(first)


def test_the_studys_losses_are_their_formulas() -> None:
    mse, cosine = sum(by_hand("mse")) / 3, sum(by_hand("cosine")) / 3
    after = LossConfig(next_state=1.0)
    follow = float(adapter_loss(after, tensor(ADAPTED), tensor(TARGET))[0])
    head = torch.tensor(HEAD, dtype=torch.float64)
    wanted = {
        losses.ALIGNMENT: mse + 0.5 * cosine,
        losses.PREDICTION: 0.5 * (mse + 0.5 * cosine) + 0.5 * follow,
        losses.DISTILLATION: mse + 0.5 * cosine + 0.1 * sum(by_hand("token_ce")) / 3,
    }
    for config, value in wanted.items():
        assert float(adapter_loss(config, tensor(ADAPTED), tensor(TARGET), head=head)[0]) == pytest.approx(
            value, rel=1e-5
        )


def test_position_weights_by_hand() -> None:
    assert losses.position_weights(4, 0.8).tolist() == pytest.approx([1, 0.8, 0.64, 0.512])
    assert losses.position_weights(3, 1.0).tolist() == [1, 1, 1]


def test_a_stored_distribution_is_the_one_that_it_was_taken_from() -> None:
    q, p = tensor([logits(a) for a in ADAPTED]), tensor([logits(t) for t in TARGET])
    kept = p.log_softmax(-1).topk(2, -1)
    stored = losses.stored_ce(q[0], kept.indices[0].int(), kept.values[0])
    torch.testing.assert_close(stored, losses.top_k_ce(q, p, 2)[0])


def test_top_k_over_the_whole_vocabulary_is_cross_entropy_with_the_distribution() -> None:
    """CE(p, q) = KL(p || q) + H(p), also when k exceeds the vocabulary."""
    head = torch.tensor(HEAD, dtype=torch.float64)
    q, p = tensor(ADAPTED) @ head.T, tensor(TARGET) @ head.T
    entropy = torch.special.entr(p.softmax(-1)).sum(-1)
    torch.testing.assert_close(losses.top_k_ce(q, p, 99).double(), losses.kl(q, p) + entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [{"kl": 1.0}, {"top_k_ce": 0.7}, {"kl": 0.1, "top_k_ce": 1.0}])
@pytest.mark.parametrize("together", [1, 5, 1000], ids="{} numbers at once".format)
def test_soft_labels_are_the_terms_and_their_gradient(
    weights: dict[str, float], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many positions are worked on at once, and with each position weighted by another number."""
    monkeypatch.setattr(losses, "_CACHED", 11 * together)
    config = LossConfig(**weights, top_k=3)
    generator = torch.Generator().manual_seed(5)
    q = torch.randn(13, 11, generator=generator).requires_grad_()
    p, position = torch.randn(13, 11, generator=generator), torch.randn(13, generator=generator)
    terms = config.kl * losses.kl(q, p) + config.top_k_ce * losses.top_k_ce(q, p, 3)
    (slope,) = torch.autograd.grad((terms * position).sum(), q)
    labels = losses.soft_labels(config, p)
    values = losses.soft_ce(q, labels)
    torch.testing.assert_close(values, terms, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad((values * position).sum(), q)[0], slope, atol=1e-6, rtol=1e-5)
    some = torch.tensor([12, 0, 7])
    torch.testing.assert_close(losses.soft_ce(q[some], labels.at(some)), terms[some], atol=1e-5, rtol=1e-5)
    fewer = torch.tensor([2, 0])
    torch.testing.assert_close(
        losses.soft_ce(q[some][fewer], labels.at(some).at(fewer)), terms[some][fewer], atol=1e-5, rtol=1e-5
    )


def test_soft_labels_are_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(6)
    q, p = 12 * torch.randn(9, 40, generator=generator), 12 * torch.randn(9, 40, generator=generator)
    config = LossConfig(kl=1.0)
    want = losses.soft_ce(q, losses.soft_labels(config, p))
    with torch.autocast("cpu", torch.bfloat16):
        values = losses.soft_ce(q, losses.soft_labels(config, p))
    assert values.dtype == torch.float32 and torch.equal(values, want) and float(values.min()) >= 0


def test_soft_labels_of_nothing() -> None:
    empty = torch.zeros(0, 7, requires_grad=True)
    values = losses.soft_ce(empty, losses.soft_labels(LossConfig(kl=1.0), empty.detach()))
    assert values.shape == (0,) and torch.autograd.grad(values.sum(), empty)[0].shape == (0, 7)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_padding_changes_nothing(data: st.DataObject) -> None:
    """A shorter batch and the same one padded with anything, NaN included, have one loss and one gradient."""
    length, pad = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    config = LossConfig(
        mse=1, cosine=1, smooth_l1=1, kl=1, token_ce=1, top_k_ce=1, next_state=1, position_decay=0.9
    )
    head = torch.randn(7, 3, generator=draw, dtype=torch.float64)
    adapted, target = torch.randn(2, 2, length, 3, generator=draw, dtype=torch.float64)
    mask = torch.arange(length + pad).expand(2, -1) < length
    fill = data.draw(st.sampled_from([0.0, 1e3, float("nan")]))
    padded = [torch.nn.functional.pad(x, (0, 0, 0, pad), value=fill) for x in (adapted, target)]
    adapted.requires_grad_(True)
    padded[0].requires_grad_(True)
    short, _ = adapter_loss(config, adapted, target, head=head)
    long, _ = adapter_loss(config, *padded, mask=mask, head=head)
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)
    if not math.isnan(fill):
        short.backward()
        long.backward()
        assert adapted.grad is not None and padded[0].grad is not None
        torch.testing.assert_close(adapted.grad, padded[0].grad[:, :length], rtol=1e-5, atol=1e-6)
        assert not padded[0].grad[:, length:].any()


def test_nothing_valid_is_zero_and_has_a_gradient() -> None:
    adapted = tensor(ADAPTED).requires_grad_(True)
    config = LossConfig(mse=1, next_state=1)
    total, _ = adapter_loss(config, adapted, tensor(TARGET), mask=torch.zeros(1, 3, dtype=torch.bool))
    total.backward()
    assert float(total.detach()) == 0 and adapted.grad is not None and not adapted.grad.any()
    one_position, _ = adapter_loss(LossConfig(next_state=1), adapted[:, :1], tensor(TARGET)[:, :1])
    assert float(one_position.detach()) == 0


def test_the_head_is_not_trained_towards_its_own_labels() -> None:
    """The gradient reaches the adapted states; the target's side is a constant."""
    target = tensor(TARGET).requires_grad_(True)
    adapted = tensor(ADAPTED).requires_grad_(True)
    config = LossConfig(kl=1, top_k_ce=1, token_ce=1)
    adapter_loss(config, adapted, target, head=torch.tensor(HEAD, dtype=torch.float64))[0].backward()
    assert target.grad is None and adapted.grad is not None and adapted.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "every weight is 0"),
        ({"mse": -1.0}, "weight of mse is -1.0"),
        ({"kl": float("nan")}, "weight of kl is nan"),
        ({"mse": 1.0, "position_decay": 0.0}, "position_decay is 0.0"),
        ({"mse": 1.0, "position_decay": 1.5}, "position_decay is 1.5"),
        ({"top_k_ce": 1.0, "top_k": 0}, "top_k is 0"),
    ],
)
def test_senseless_settings_are_refused(values: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        LossConfig(**values)


def test_a_token_loss_without_a_head_is_refused() -> None:
    with pytest.raises(SettingError, match="go through the target's head"):
        adapter_loss(LossConfig(kl=1.0), tensor(ADAPTED), tensor(TARGET))
