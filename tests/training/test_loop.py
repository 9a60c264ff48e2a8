"""The one loop: breaks lose nothing, the best weights win, and what goes wrong is said."""

import json
import os
import signal
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.training import log as training_log
from crossdraft.training.gradients import Gradients
from crossdraft.training.loop import Diverged, FitConfig, fit, join, read_log
from crossdraft.training.optim import make_optimiser, set_rate
from crossdraft.training.state import STATE, check_about


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))


TRUTH = torch.randn(5, 3, generator=torch.Generator().manual_seed(9))


def batch(step: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(size, 5, generator=torch.Generator().manual_seed(step))
    return x, x @ TRUTH


def losses(module: nn.Module):
    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        x, y = batch(step)
        return (module(x[part::parts]) - y[part::parts]).square().mean()

    return loss_of


def held_out(module: nn.Module):
    x, y = batch(10_000, 50)
    return lambda: {"loss": float((module(x) - y).square().mean()), "seen": 2.5}


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


BASE = FitConfig(steps=40, peak_lr=2e-2, epoch=4, watch="loss", patience=3, show=("seen", "accepted"), log_every=3)


def without_clock(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "minutes"} for line in read_log(folder)]


@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, 12), min_size=1, max_size=3), accumulate=st.integers(1, 3))
def test_a_broken_run_is_an_unbroken_one(stops: list[int], accumulate: int, tmp_path_factory) -> None:
    """Bit for bit: weights, kept step and log, with dropout, accumulation, and early stop by held-out figures."""
    config = FitConfig(**{**vars(BASE), "accumulate": accumulate, "peak_lr": 0.2})
    results = []
    for breaks in ([], stops):
        folder, module = tmp_path_factory.mktemp("run"), net()
        for stop in breaks:
            done = fit("x", module, losses(module), config, folder, evaluate=held_out(module), stop_after=stop)
            module = net(seed=77)  # what was in memory is gone
        done = fit("x", module, losses(module), config, folder, evaluate=held_out(module))
        assert done is not None
        results.append((done.step, done.best_step, done.ended_by, module, without_clock(folder)))
    (*one, first, log_one), (*two, second, log_two) = results
    assert one == two and same(first, second) and log_one == log_two


def test_ctrl_c_ends_the_step_and_keeps_it(tmp_path: Path) -> None:
    whole, broken, pressed = net(), net(), []
    fit("x", whole, losses(whole), BASE, tmp_path / "whole", evaluate=held_out(whole))
    ask = losses(broken)

    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        if step == 5 and not pressed:
            pressed.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return ask(step, part, parts)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit("x", broken, loss_of, BASE, tmp_path / "broken", evaluate=held_out(broken))
    assert signal.getsignal(signal.SIGINT) is before and pressed == [5]
    resumed = net(seed=77)
    fit("x", resumed, losses(resumed), BASE, tmp_path / "broken", evaluate=held_out(resumed))
    assert same(whole, resumed) and without_clock(tmp_path / "whole") == without_clock(tmp_path / "broken")


def test_patience_ends_it_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    module, seen = net(), []
    figures = iter([3.0, 1.0, 2.0, 1.5, 1.0, 9.0, 9.0])

    def evaluate() -> dict[str, float]:
        seen.append(weights(module))
        return {"loss": next(figures)}

    done = fit("x", module, losses(module), BASE, tmp_path, evaluate=evaluate)
    assert done is not None
    assert (done.step, done.best_step, done.ended_by) == (20, 8, "patience")
    assert done.figures == {"loss": 1.0}, "those of the weights that are kept"
    assert all(torch.equal(a, b) for a, b in zip(weights(module), seen[1], strict=True))
    again = net(seed=5)
    loaded = fit("x", again, losses(again), BASE, tmp_path, evaluate=evaluate)
    assert loaded == done and loaded.figures is None
    assert same(again, module) and len(seen) == 5 and not again.training


def test_without_a_watched_figure_the_last_weights_are_kept(tmp_path: Path) -> None:
    module = net()
    done = fit("x", module, losses(module), FitConfig(steps=7, peak_lr=1e-2), tmp_path)
    assert done is not None and (done.step, done.best_step, done.ended_by) == (7, 7, "steps")


def test_the_clock_ends_it(tmp_path: Path) -> None:
    module = net()
    config = FitConfig(steps=10**9, peak_lr=1e-2, minutes=0.001)
    done = fit("x", module, losses(module), config, tmp_path, evaluate=held_out(module))
    assert done is not None and done.ended_by == "minutes" and 0 < done.step < 10**9
    assert "held_out_loss" in read_log(tmp_path)[-1]


def test_the_log_and_the_progress(tmp_path: Path) -> None:
    module, told = net(), []
    config = FitConfig(**{**vars(BASE), "steps": 10, "patience": None})
    fit(
        "net",
        module,
        losses(module),
        config,
        tmp_path,
        evaluate=held_out(module),
        report=lambda *at: told.append(at),
    )
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 10]
    epochs = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert all(line["stage"] == "net" and line["held_out_seen"] == 2.5 and line["loss"] > 0 for line in epochs)
    assert [at[1:] for at in told] == [(n, 10) for n in range(1, 11)]
    assert told[-1][0].startswith("net epoch 3, loss ") and told[-1][0].endswith(", accepted 2.50")


def test_an_epochs_loss_is_the_mean_of_its_steps(tmp_path: Path) -> None:
    module, each = net(), []
    plain = losses(module)

    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        loss = plain(step, part, parts)
        each.append(float(loss.detach()))
        return loss

    fit("x", module, loss_of, FitConfig(**{**vars(BASE), "steps": 8}), tmp_path, evaluate=held_out(module))
    told = [line["loss"] for line in read_log(tmp_path) if "epoch" in line]
    assert told == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 4], rel=1e-4)


def test_tensorboard_holds_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module = net()
    fit("x", module, losses(module), FitConfig(**{**vars(BASE), "steps": 8}), tmp_path, evaluate=held_out(module))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    for name in ("loss", "held_out_loss", "lr"):
        told = [(line["step"], line[name]) for line in read_log(tmp_path) if name in line]
        assert [(e.step, pytest.approx(e.value, rel=1e-4)) for e in board.Scalars(name)] == told


def test_without_tensorboard_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_log, "find_spec", lambda name: None)
    module, notes = net(), []
    fit("x", module, losses(module), FitConfig(steps=2, peak_lr=1e-2, log_every=1), tmp_path, note=notes.append)
    assert notes == [training_log.NO_TENSORBOARD] and "pip install 'crossdraft[train]'" in notes[0]
    assert len(read_log(tmp_path)) == 2 and not (tmp_path / "tensorboard").exists()


def test_a_diverged_run_gives_the_best_weights_back(tmp_path: Path) -> None:
    module, kept = net(), []
    plain = losses(module)

    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        return plain(step, part, parts) * (float("nan") if step == 5 else 1.0)

    def evaluate() -> dict[str, float]:
        kept.append(weights(module))
        return {"loss": 1.0}

    with pytest.raises(Diverged, match="its loss is no finite number in step 6; lower the learning rate") as error:
        fit("x", module, loss_of, BASE, tmp_path, evaluate=evaluate)
    assert error.value.best_step == 4 and "of step 4, are kept" in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(weights(module), kept[0], strict=True))


def test_a_gradient_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    module = net()
    before = weights(module)

    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        return torch.sqrt(module(torch.zeros(1, 5)).sum() * 0)

    with pytest.raises(Diverged, match="its gradient .* nothing of it is kept"):
        fit("x", module, loss_of, FitConfig(steps=3, peak_lr=1.0), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(weights(module), before, strict=True))


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The second one says so and changes nothing; once the first has ended the folder is free."""
    module, second = net(), []

    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        if step == 3:
            with pytest.raises(CrossdraftError, match="another process is training here; wait for it"):
                fit("again", net(), losses(net()), BASE, tmp_path)
            second.append(sorted(path.name for path in tmp_path.iterdir()))
        return losses(module)(step, part, parts)

    assert fit("once", module, loss_of, BASE, tmp_path, stop_after=6) is None
    assert len(second) == 1 and STATE not in second[0]
    assert fit("once", net(), losses(module), BASE, tmp_path, evaluate=held_out(module), stop_after=1) is None


def test_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    module = net()
    about = {"store": "a", "layers": (1, 2)}
    assert (
        fit("x", module, losses(module), BASE, tmp_path, evaluate=held_out(module), about=about, stop_after=2)
        is None
    )
    with pytest.raises(SettingError, match="holds another training \\(store was 'a', now 'b'\\); choose another"):
        fit("x", module, losses(module), BASE, tmp_path, evaluate=held_out(module), about={**about, "store": "b"})
    named = {"net": {"layer": {"width": 3}, "heads": 2}}
    with pytest.raises(SettingError, match=r"\(net.layer.width was 3, now 4\)"):
        check_about(named, {"net": {"layer": {"width": 4}, "heads": 1}}, tmp_path)
    check_about(named, deepcopy(named), tmp_path)
    begun = fit(
        "x", module, losses(module), BASE, tmp_path, evaluate=held_out(module), about={"store": "b"}, resume=False,
        stop_after=1,
    )  # fmt: skip
    assert begun is None and read_log(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_state_is_one_line(tmp_path: Path, damage: bytes | None) -> None:
    module = net()
    fit("x", module, losses(module), BASE, tmp_path, evaluate=held_out(module), stop_after=2)
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[:-20] if damage is None else damage)
    with pytest.raises(DataError, match=r"state.safetensors: is damaged") as error:
        fit("x", module, losses(module), BASE, tmp_path, evaluate=held_out(module))
    assert "\n" not in str(error.value)


def test_a_state_of_another_shape_is_one_line(tmp_path: Path) -> None:
    module, other = net(), nn.Sequential(nn.Linear(5, 9), nn.Dropout(0.3), nn.Tanh(), nn.Linear(9, 3))
    fit("x", module, losses(module), BASE, tmp_path, evaluate=held_out(module), stop_after=2)
    with pytest.raises(DataError, match="another version"):
        fit("x", other, losses(other), BASE, tmp_path, evaluate=held_out(other))


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    module = net()
    torch.manual_seed(3)
    fit("x", module, losses(module), FitConfig(steps=2, peak_lr=1e-2), tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_steps_gradient_is_the_mean_of_its_parts(processes: int) -> None:
    module = nn.Linear(5, 3)
    config = FitConfig(steps=1, peak_lr=1.0, accumulate=2)
    with Gradients(module, losses(module), config, join(), processes) as gradients:
        loss = gradients(3)
        got = [p.grad.clone() for p in module.parameters()]
    assert gradients.parts == 2 * processes
    x, y = batch(3)
    whole = (module(x) - y).square().mean()
    torch.testing.assert_close(got, list(torch.autograd.grad(whole, list(module.parameters()))))
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)


def test_a_dead_child_is_one_line() -> None:
    module = nn.Linear(5, 3)
    with Gradients(module, losses(module), FitConfig(steps=1, peak_lr=1.0), join(), 2) as gradients:
        gradients(0)
        assert gradients._child is not None
        gradients._child.kill()
        gradients._child.join()
        with pytest.raises(CrossdraftError, match="second training process has died"):
            gradients(1)


def test_bfloat16_narrows_the_loss_and_not_the_weights(tmp_path: Path) -> None:
    module, kinds = nn.Linear(5, 3), []

    def loss_of(step: int, part: int, parts: int) -> torch.Tensor:
        out = module(batch(step)[0])
        kinds.append(out.dtype)
        return out.float().square().mean()

    def evaluate() -> dict[str, float]:
        kinds.append(module(batch(0)[0]).dtype)
        return {}

    for dtype in ("bfloat16", "float32", "bfloat16"):
        kinds.clear()
        config = FitConfig(steps=1, peak_lr=1e-2, dtype=dtype)
        assert fit("x", module, loss_of, config, tmp_path, evaluate=evaluate, resume=False)
        assert set(kinds) == {getattr(torch, dtype)} and len(kinds) == 2
        assert module.weight.dtype == torch.float32


def test_the_rate_climbs_then_falls_to_its_floor() -> None:
    config = FitConfig(steps=10, peak_lr=2.0, warmup=0.1, floor=0.05)
    optimiser = make_optimiser(net(), config)
    rates = []
    for share in (0.0, 0.05, 0.1, 0.55, 1.0):
        set_rate(optimiser, config, share)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([2 * 1e-3 / 0.101, 2 * 0.051 / 0.101, 2.0, 2 * 0.525, 0.1])
    assert {g["weight_decay"] for g in optimiser.param_groups} == {0.05, 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"peak_lr": 0.0}, "peak_lr is 0.0"),
        ({"minutes": -1.0}, "minutes is -1.0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"dtype": "float16"}, "dtype is 'float16', must be one of: float32, bfloat16"),
        ({"patience": 3}, "patience needs a figure to watch"),
    ],
)
def test_senseless_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        FitConfig(**{"steps": 2, "peak_lr": 1e-3, **changes})


# What one of two launched processes does: the very training of ``test_two_launched_processes``.
_LAUNCHED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_loop as t
module = t.net()
done = t.fit("x", module, t.losses(module), t.BASE, Path(sys.argv[2]), evaluate=t.held_out(module))
assert done is not None
print(done.step, done.best_step, done.ended_by, sum(float(w.double().sum()) for w in t.weights(module)).hex())
"""


def test_two_launched_processes_train_as_two_forked_ones(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    launched = [
        subprocess.Popen(
            [sys.executable, "-c", _LAUNCHED, str(Path(__file__).parent), str(tmp_path / "launched")],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    module = net()
    done = fit("x", module, losses(module), BASE, tmp_path / "forked", evaluate=held_out(module), processes=2)
    assert done is not None
    total = sum(float(w.double().sum()) for w in weights(module)).hex()
    said = [process.communicate(timeout=120)[0].split() for process in launched]
    assert said == [[str(done.step), str(done.best_step), done.ended_by, total]] * 2
    assert without_clock(tmp_path / "launched") == without_clock(tmp_path / "forked")


def test_several_processes_without_accelerate_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SettingError, match=r"accelerate, which joins them, is missing; run: pip install"):
        join()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    module = net()
    (tmp_path / "file").write_text(json.dumps("not a folder"))
    with pytest.raises((CrossdraftError, OSError), match="file"):
        fit("x", module, losses(module), BASE, tmp_path / "file", evaluate=held_out(module))
