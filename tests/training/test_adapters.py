"""An adapter learns what can be learnt, keeps what it says, and goes on after a break as if there had been none."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from crossdraft.adapters import ADAPTERS
from crossdraft.adapters.checkpoint import load_adapter
from crossdraft.core.errors import DataError, SettingError
from crossdraft.nn.losses import ALIGNMENT, TOKENS, LossConfig, named_loss
from crossdraft.training.adapters import ADAPTER, RECORD, AdapterTraining, Teacher, train_adapter
from crossdraft.training.loop import Diverged
from crossdraft.training.state import STATE

Make = Callable[..., Any]
LEVELS = sorted(set(ADAPTERS) - {"l6"})


def training(level: str = "l1", **changes: Any) -> AdapterTraining:
    settings: dict[str, Any] = {"loss": TOKENS, "epochs": 1, "batch": 8, "validation": 0.3, "peak_lr": 1e-2}
    return AdapterTraining(level=level, **{**settings, **changes})


def train(lesson: Any, out: Path, config: AdapterTraining, **more: Any) -> dict[str, Any] | None:
    return train_adapter(
        lesson.store, out, config, **{"head": lesson.head, "embeddings": lesson.embeddings, **more}
    )


def test_it_learns_a_linear_map(lesson: Make, tmp_path: Path) -> None:
    made = lesson(recordings=8, clips=12)
    record = train(made, tmp_path / "out", training(epochs=40, settings={"dropout": 0.0}))
    assert record is not None
    first, best = record["epochs"][0], record["epochs"][record["best_epoch"] - 1]
    length = sum(e.num_target_tokens for e in made.store.entries) / len(made.store)
    assert first["held_out_cos"] < 0.6 < 0.97 < best["held_out_cos"]
    assert first["held_out_top1"] < 0.5 < 0.9 < best["held_out_top1"]
    assert first["held_out_run"] < 1.5 < 0.85 * length < best["held_out_run"]
    assert best["held_out_loss"] == min(e["held_out_loss"] for e in record["epochs"])


def test_the_figures_are_those_of_the_saved_adapter(lesson: Make, tmp_path: Path) -> None:
    """Held-out cos, top1 and run, worked out anew sample by sample."""
    made = lesson()
    record = train(made, tmp_path, training("l5", epochs=3, settings={"num_heads": 2}))
    assert record is not None
    adapter, card = load_adapter(tmp_path / ADAPTER)
    assert (card.level, card.extraction) == ("l5", "c0ffee")
    cosines, matches, runs = [], [], []
    for sample in made.store:
        if sample.recording in record["recordings"]["validation"]:
            with torch.no_grad():
                out = adapter(sample.draft_states[None])[0]
            cosines += F.cosine_similarity(out, sample.target_states).tolist()
            right = ((out @ made.head.T).argmax(-1) == sample.target_tokens).tolist()
            matches += right
            runs.append(right.index(False) if False in right else len(right))
    best = record["epochs"][record["best_epoch"] - 1]
    assert best["held_out_cos"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)
    assert best["held_out_top1"] == pytest.approx(sum(matches) / len(matches), rel=1e-4)
    assert best["held_out_run"] == pytest.approx(sum(runs) / len(runs), rel=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss", [None, TOKENS])
def test_every_level_trains(level: str, loss: LossConfig | None, lesson: Make, tmp_path: Path) -> None:
    made = lesson(recordings=3, clips=4)
    record = train(made, tmp_path / "out", training(level, loss=loss))
    assert record is not None
    adapter, card = load_adapter(tmp_path / "out" / ADAPTER)
    assert card.level == level and record["parameters"] == sum(p.numel() for p in adapter.parameters())
    assert record["sees_its_target"] == (level in ("b1", "l5f")) and record["trained_on"] == "teacher-forced"
    assert record["loss"] == vars(loss or type(adapter).study_loss)
    (epoch,) = record["epochs"]
    assert epoch["epoch"] == 1 and all(isinstance(value, float) for name, value in epoch.items() if name != "epoch")
    assert not (tmp_path / "out" / STATE).exists()


def test_the_record(lesson: Make, tmp_path: Path) -> None:
    made = lesson()
    record = train(made, tmp_path, training(epochs=2))
    stored = json.loads((tmp_path / RECORD).read_text())
    assert stored["kind"] == "adapter-training" and record is not None
    sides = record["recordings"]
    samples = {side: [s for s in made.store if s.recording in names] for side, names in sides.items()}
    assert record["num_samples"] == len(samples["train"]) == 18
    assert record["num_validation_samples"] == len(samples["validation"]) == 12
    assert record["num_tokens"] == sum(len(s.target_states) for s in samples["train"])
    assert [e["epoch"] for e in record["epochs"]] == [1, 2] and record["ended_by"] == "steps"
    assert record["store"]["extraction"] == "c0ffee" and record["config"]["epochs"] == 2
    assert {"inputs": ["draft_states"], "causal": True}.items() <= record.items() and record["seconds"] > 0
    assert {*stored} - {"schema", "kind"} == {*record}


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"dtype": "bfloat16"}])
def test_a_broken_training_is_an_unbroken_one(changes: dict, lesson: Make, tmp_path: Path) -> None:
    made = lesson()
    config = training("l4", epochs=6, patience=2, **changes)  # with dropout
    whole = train(made, tmp_path / "whole", config)
    for stop in (1, 4):
        assert train(made, tmp_path / "broken", config, stop_after=stop) is None
    assert not (tmp_path / "broken" / RECORD).exists()
    broken = train(made, tmp_path / "broken", config)
    assert whole is not None and broken is not None
    assert whole["epochs"] == broken["epochs"] and whole["best_epoch"] == broken["best_epoch"]
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (tmp_path / "broken" / ADAPTER).read_bytes()


def test_a_finished_training_says_so(lesson: Make, tmp_path: Path) -> None:
    made, notes = lesson(), []
    record = train(made, tmp_path, training())
    before = (tmp_path / ADAPTER).stat().st_mtime_ns
    again = train(made, tmp_path, training(), note=notes.append)
    assert again is not None and record is not None
    assert {k: again[k] for k in record} == json.loads(json.dumps(record))
    assert notes == [f"{tmp_path}: is finished (best epoch 1 of 1); nothing to do"]
    assert (tmp_path / ADAPTER).stat().st_mtime_ns == before
    with pytest.raises(SettingError, match=r"holds another training \(epochs was 1, now 2\)"):
        train(made, tmp_path, training(epochs=2))
    anew = train(made, tmp_path, training(epochs=2), resume=False)
    assert anew is not None and len(anew["epochs"]) == 2


def test_another_pair_is_not_gone_on_with(lesson: Make, tmp_path: Path) -> None:
    assert train(lesson(), tmp_path, training(epochs=3), stop_after=1) is None
    for changes, words in (
        ({"event_model": "other"}, "event_model was 'event', now 'other'"),
        ({"config_hash": "beef"}, "extraction was 'c0ffee', now 'beef'"),
        ({"clips": 7}, "samples was '30, sha256"),
    ):
        with pytest.raises(SettingError, match=words):
            train(lesson(**changes), tmp_path, training(epochs=3))


def test_a_store_without_tokens_teaches_through_the_head(lesson: Make, tmp_path: Path) -> None:
    """Its tokens are the head's argmax, so the figures are those of the same store with tokens."""
    with_tokens, without = lesson(), lesson(has_tokens=False)
    for level in ("l1", "l5_tokens"):
        one, two = (
            train(made, tmp_path / level / str(i), training(level)) for i, made in enumerate((with_tokens, without))
        )
        assert one is not None and two is not None and one["epochs"] == two["epochs"]
    for loss in ("study", "mse=1", "token_ce=1", "kl=0.5,cosine=1", "top_k_ce=1", "next_state=1"):
        config = training(loss=named_loss(loss, ALIGNMENT))
        assert train(without, tmp_path / "loss" / loss, config) is not None


def test_free_running_pairs_train(lesson: Make, tmp_path: Path) -> None:
    made = lesson(free_running=True)
    record = train(made, tmp_path, training("l5"))
    assert record is not None and record["trained_on"] == "free-running"
    cut = sum(min(e.num_target_tokens, e.num_draft_tokens) for e in made.store.entries
              if e.recording in record["recordings"]["train"])  # fmt: skip
    assert record["num_tokens"] == cut


def test_without_a_head_states_are_learnt_and_tokens_are_not_judged(lesson: Make, tmp_path: Path) -> None:
    record = train(lesson(), tmp_path, training(loss=None), head=None)
    assert record is not None
    (epoch,) = record["epochs"]
    assert epoch["held_out_top1"] is epoch["held_out_run"] is None and epoch["held_out_cos"] is not None


def test_two_processes_learn_the_same(lesson: Make, tmp_path: Path) -> None:
    """Up to the order of sums: without dropout, and with answers that all count alike in both halves."""
    made, threads = lesson(), torch.get_num_threads()
    torch.set_num_threads(1)
    loss = LossConfig(mse=1.0)
    config = training(epochs=2, loss=loss, settings={"dropout": 0.0})
    records = [train(made, tmp_path / str(n), replace(config, processes=n)) for n in (1, 2)]
    torch.set_num_threads(threads)
    one, two = (r["epochs"][-1]["held_out_loss"] for r in records if r is not None)
    assert two == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize(("good_steps", "kept"), [(2, False), (4, True)])
def test_a_diverged_training_keeps_its_best_weights(
    good_steps: int, kept: bool, lesson: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 samples in batches of 8: an epoch has three steps."""
    whole = Teacher.loss_of
    monkeypatch.setattr(
        Teacher,
        "loss_of",
        lambda self, step, *of: whole(self, step, *of) * (1.0 if step < good_steps else torch.nan),
    )
    where = f"of step 3, are kept in {tmp_path / ADAPTER}" if kept else "nothing of it is kept"
    with pytest.raises(Diverged, match=f"finite number in step {good_steps + 1}; lower .*{where}$") as error:
        train(lesson(), tmp_path, training(epochs=3))
    assert "\n" not in str(error.value)
    assert (tmp_path / ADAPTER).exists() == kept and not (tmp_path / RECORD).exists()


def test_a_rate_that_is_too_high_is_found_out(lesson: Make, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="its peak is 3e\\+37"):
        train(lesson(), tmp_path, training(epochs=60, peak_lr=3e37, weight_decay=0.0))


@pytest.mark.parametrize(
    ("level", "changes", "more", "message"),
    [
        ("l1", {}, {"head": torch.zeros(20, 12)}, r"the head for .* is \[20, 12\], must be \[20, 16\]"),
        ("l1", {}, {"head": torch.zeros(21, 16)}, r"is \[21, 16\], must be \[20, 16\]"),
        ("l1", {}, {"head": None}, "needs the target's output head"),
        ("l5_tokens", {}, {"embeddings": None}, "reads token embeddings, which only the target has"),
        ("l5_tokens", {}, {"embeddings": torch.zeros(20, 8)}, r"token embeddings for .* is \[20, 8\]"),
        ("l5", {"settings": {"max_positions": 4}}, {}, "knows 4 positions, but the store has answers of 7"),
        ("l1", {"settings": {"depth": 2}}, {}, "unknown key 'depth'"),
        ("l4", {"settings": {"num_heads": 3}}, {}, "3 attention heads do not divide"),
        ("l1", {"accumulate": 19}, {}, "a step has 19 parts, but 18 samples in batches of 8 do not fill them"),
        ("l1", {"batch": 1, "processes": 2}, {}, "do not fill them"),
        ("l1", {"validation": 0.0}, {}, "validation is 0.0"),
        ("l1", {"patience": 0}, {}, "patience is 0"),
        ("l7", {}, {}, "unknown adapter 'l7'"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    level: str, changes: dict, more: dict, message: str, lesson: Make, tmp_path: Path
) -> None:
    with pytest.raises((SettingError, DataError), match=message) as error:
        train(lesson(), tmp_path / "out", training(level, **changes), **more)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"level": "l6"}, "crossdraft train distil"), ({"epochs": 0}, "epochs is 0"), ({"batch": 2.5}, "batch is 2.5"),
])  # fmt: skip
def test_senseless_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        AdapterTraining(**{"level": "l1", **changes})


@pytest.mark.parametrize("name", ["", "tokns", "mse=", "mse=a", "mse=1,kl"])
def test_a_loss_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(SettingError, match=f"loss is '{name}', must be study, tokens, or weights"):
        named_loss(name, ALIGNMENT)


def test_losses_by_name() -> None:
    assert named_loss("study", ALIGNMENT) is ALIGNMENT and named_loss("tokens", ALIGNMENT) is TOKENS
    assert named_loss("mse=2, kl=0.5", ALIGNMENT) == LossConfig(mse=2.0, kl=0.5)
    with pytest.raises(SettingError, match="loss: unknown key 'mes'. Did you mean 'mse'"):
        named_loss("mes=1", ALIGNMENT)
