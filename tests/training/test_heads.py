"""Training of drafting heads: what a head learns is what it must say when it drafts, one for one."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.seeds import seed_for
from crossdraft.core.types import LAST, Limits
from crossdraft.decode.loop import generate
from crossdraft.drafters.eagle import Eagle2
from crossdraft.drafters.medusa import Medusa, MedusaRunner
from crossdraft.drafters.shapes import chain_of
from crossdraft.heads.checkpoint import HEAD, load_head
from crossdraft.heads.feature import FeatureHead, output_matrices
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.recipes import RECIPES
from crossdraft.heads.runner import HeadRunner
from crossdraft.heads.visual import VisualConfig
from crossdraft.training import heads as training
from crossdraft.training.heads import HeadTraining, Pupil, train_head
from crossdraft.training.lessons import Batch, Lessons
from crossdraft.verify.greedy import Greedy


def config(name: str, **changes: Any) -> HeadTraining:
    quick: dict[str, Any] = {"epochs": 80, "batch": 8, "peak_lr": 1e-2, "depth": 3, "dtype": "float32"}
    return HeadTraining(name=name, **{**quick, **changes})


TRAIN, HELD_OUT = [0, 1, 2, 4, 5, 6, 8, 9], [3, 7, 10, 11]
PICTURED = ("eagle_vlm", "spec_vlm", "vispec", "msd")
NETWORK: dict[str, dict[str, Any]] = {"medusa": {"own_head": True, "heads": 3}}


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "epoch" in line]


# --- what is learned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_one_batch_is_learned_by_heart(name: str, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    """And what was learned is the token that follows: right at every depth of chains over answers never seen."""
    record = train_head(
        copies[name in PICTURED],
        TRAIN,
        HELD_OUT,
        tmp_path,
        config(name, settings=NETWORK.get(name, {})),
        target="c",
    )
    assert record is not None and record["steps"] == 80
    curve = losses(tmp_path)
    assert curve[-1] < 0.15 * curve[0]
    held_out = record["held_out"]
    assert held_out["top1"] == held_out["accept_1"] > 0.97
    assert min(held_out["accept_2"], held_out["accept_3"]) > 0.75
    assert held_out["tau"] > 3.0, "3.25 can be had: 13 tokens in four passes"


class Shifted(Pupil):
    """Taught wrongly: every label is the next position's. What the head reads and its judgement are right."""

    truth: Batch | None = None
    shifted: Batch | None = None

    def learn(self, batch: Batch) -> Tensor:
        self.truth = batch
        states = batch.states
        if not isinstance(self.head, MedusaHead):
            states = {layer: s.roll(-1, dims=1) for layer, s in states.items()}
        self.shifted = replace(batch, tokens=batch.tokens.roll(-1, dims=1), states=states)
        return super().learn(self.shifted)

    def _guess(self, head: Any, batch: Batch, passes: int, followed: Any = None) -> Any:
        shown = self.truth if batch is self.shifted else batch
        assert shown is not None
        return super()._guess(head, shown, passes, followed)


@pytest.mark.parametrize("name", ["medusa", "eagle", "hass", "eagle3", "vispec"])
def test_labels_one_off_teach_nothing(
    name: str, copies: dict[bool, Lessons], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same training, its labels shifted by one: were they shifted in the right one, this would succeed."""
    monkeypatch.setattr(training, "Pupil", Shifted)
    record = train_head(
        copies[name in PICTURED],
        TRAIN,
        HELD_OUT,
        tmp_path,
        config(name, settings=NETWORK.get(name, {})),
        target="c",
    )
    assert record is not None and losses(tmp_path)[-1] < 0.3 * losses(tmp_path)[0], "it does learn its labels"
    assert record["held_out"]["top1"] < 0.1 and record["held_out"]["tau"] < 1.2


def foreseen(pupil: Pupil, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guessed features are the target's own."""

    def guess(head: Any, batch: Batch, passes: int, followed: Any = None) -> Any:
        ahead = batch.states[LAST][:, 1:].float()
        return [ahead] * passes, torch.arange(ahead.shape[1])

    monkeypatch.setattr(pupil, "_guess", guess)


@pytest.mark.parametrize("name", ["eagle", "hass"])
def test_the_targets_own_features_are_without_fault(
    name: str, chatter: dict[bool, tuple[Lessons, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No off-by-one between features, tokens and figures: their loss is that of the labels with themselves."""
    pupil = Pupil(chatter[False][0], TRAIN, HELD_OUT, config(name, depth=4))
    foreseen(pupil, monkeypatch)
    figures = pupil.figures()
    assert figures["top1"] == 1 and all(figures[f"accept_{k}"] == 1 for k in range(1, 5))
    rounds = sum(
        -(-(len(pupil.lessons.lessons[i].ids) - pupil.lessons.lessons[i].prompt - 1) // 5) for i in HELD_OUT
    )
    tokens = sum(len(pupil.lessons.lessons[i].ids) - pupil.lessons.lessons[i].prompt - 1 for i in HELD_OUT)
    assert figures["tau"] == pytest.approx(tokens / rounds)
    if name == "eagle":
        assert figures["loss"] == pytest.approx(0, abs=1e-6)


def test_a_share_of_the_chains_is_followed(chatter: dict[bool, tuple[Lessons, Any]]) -> None:
    """Over many draws their loss is that of all chains: what is left out is left out of the labels too. Held-out
    figures follow all of them."""
    lessons = chatter[False][0]
    every = Pupil(lessons, TRAIN, HELD_OUT, config("eagle3", passes=3))
    some = Pupil(lessons, TRAIN, HELD_OUT, config("eagle3", passes=3, followed=0.3))
    batch = lessons.batch(TRAIN)
    with torch.no_grad():
        want = float(every.learn(batch))
        torch.manual_seed(0)
        drawn = torch.tensor([float(some.learn(batch)) for _ in range(60)])
        assert drawn.std() > 0 and abs(float(drawn.mean()) - want) < 4 * float(drawn.std()) / 60**0.5
        every.head.eval()
        some.head.eval()
        assert float(some.learn(batch)) == float(every.learn(batch)) and some.figures() == every.figures()
    for wrong in (0.0, 1.5):
        with pytest.raises(SettingError, match="followed is .*, must be above 0 and at most 1"):
            config("eagle3", followed=wrong)


def test_chains_are_taught_on_answers_alone(chatter: dict[bool, tuple[Lessons, Any]]) -> None:
    """Pass j has one entry for every token of an answer that has j + 1 others before it."""
    lessons = chatter[True][0]
    batch = lessons.batch(TRAIN)
    source = torch.arange(batch.tokens.shape[1] - 1)
    for j in range(4):
        there = training._entries(batch, source, j)
        for row, place in enumerate(TRAIN):
            lesson = lessons.lessons[place]
            assert int(there[row].sum()) == max(0, len(lesson.ids) - lesson.prompt - 1 - j)
            assert all(t >= lesson.prompt - 1 + j for t in there[row].nonzero().flatten().tolist())


# --- simulated equals live ----------------------------------------------------------------------------------------


def half_taught(name: str, lessons: Lessons, steps: int = 25, **changes: Any) -> Pupil:
    pupil = Pupil(lessons, TRAIN, HELD_OUT, config(name, **changes))
    optimiser = torch.optim.AdamW(pupil.head.parameters(), lr=1e-2)
    pupil.head.train()
    for step in range(steps):
        torch.manual_seed(step)
        optimiser.zero_grad()
        pupil.loss_of(step, 0, 1).backward()
        optimiser.step()
    pupil.head.eval().requires_grad_(False)
    return pupil


class Free:
    """Every pass costs the same."""

    def pass_ms(self, rows: int) -> float:
        return 1.0


def live(pupil: Pupil, target: Any, places: Sequence[int], depth: int, ends: tuple[int, ...]) -> float:
    """Tokens a pass of the real loop, pooled over its rounds; answers must be those that were taught."""
    drafter: Any
    if isinstance(pupil.head, MedusaHead):
        drafter = Medusa(
            head=MedusaRunner(pupil.head, pupil.rows, torch.float32), costs=Free(), tree=chain_of(depth)
        )
    else:
        runner = HeadRunner(pupil.head, pupil.rows, torch.float32)
        drafter = Eagle2(head=runner, costs=Free(), shape="chain", depth=depth)
    rounds: list[int] = []
    for place in places:
        answer = generate(
            target, drafter, Prompt(str(place)), rule=Greedy(), limits=Limits(max_new_tokens=24, eos_token_ids=ends)
        )
        lesson = pupil.lessons.lessons[place]
        assert answer.tokens == list(lesson.ids[lesson.prompt :])
        rounds += [r.emitted for r in answer.rounds]
    return sum(rounds) / len(rounds)


@pytest.mark.parametrize("name", RECIPES)
def test_simulated_equals_live(name: str, chatter: dict[bool, tuple[Lessons, Any]]) -> None:
    """The held-out figure against the real engine, loop and drafter, with heads that are right now and then."""
    lessons, target = chatter[name in PICTURED]
    pupil = half_taught(name, lessons)
    figures = pupil.figures()
    assert 1.2 < figures["tau"] < 3.5
    assert live(pupil, target, HELD_OUT, 3, (11,)) == pytest.approx(figures["tau"], abs=1e-12)


def test_ranks_are_counted_at_every_depth(chatter: dict[bool, tuple[Lessons, Any]]) -> None:
    """Of Medusa's heads over the target's states, one answer and one position at a time."""
    lessons, _ = chatter[True]
    pupil = half_taught("medusa", lessons, settings={"heads": 2, "draft_vocab": 6})
    figures = pupil.figures()
    seen = np.zeros((2, 10))
    count = np.zeros(2)
    for place in HELD_OUT:
        lesson, batch = lessons.lessons[place], lessons.batch([place])
        for k, logits in enumerate(pupil.head(batch.states[LAST], pupil.rows)):  # type: ignore[operator]
            for t in range(lesson.prompt - 1, len(lesson.ids) - 2 - k):
                ranked = pupil.head.d2t[logits[0, t].argsort(descending=True)].tolist()
                count[k] += 1
                if lesson.ids[t + 2 + k] in ranked:
                    seen[k, ranked.index(lesson.ids[t + 2 + k])] += 1
    assert np.allclose(pupil.accuracies, seen / count[:, None], atol=1e-5)
    assert pupil.accuracies[0][0] == pytest.approx(figures["top1"], abs=1e-5)
    assert not np.array(pupil.accuracies)[:, 6:].any(), "what cannot be drafted is never right"


def test_the_draft_vocabulary_is_what_training_answers_say_most(
    chatter: dict[bool, tuple[Lessons, Any]],
) -> None:
    lessons, _ = chatter[False]
    said = [t for i in TRAIN for t in lessons.lessons[i].ids[lessons.lessons[i].prompt :]]
    common = sorted(range(12), key=lambda t: (-said.count(t), t))[:5]
    for name in ("eagle3", "medusa", "eagle"):
        pupil = Pupil(lessons, TRAIN, HELD_OUT, config(name, settings={"draft_vocab": 5}))
        assert pupil.head.d2t.tolist() == sorted(common)
        assert [int(pupil.t2d[t]) for t in sorted(common)] == list(range(5)) and int((pupil.t2d >= 0).sum()) == 5
        assert torch.equal(pupil.rows, lessons.decoder.lm_head.weight[sorted(common)])
        pupil.loss_of(0, 0, 1).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pupil.head.parameters())


# --- the training itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eagle", "eagle3", "spec_vlm", "medusa"])
def test_a_broken_run_ends_like_an_unbroken_one(name: str, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    """Bit for bit: noise on features and drawn compressors included."""
    plan = config(name, epochs=3, batch=3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    one = train_head(copies[name in PICTURED], TRAIN, HELD_OUT, whole, plan, target="c")
    for stop_after in (1, 4):
        assert train_head(
            copies[name in PICTURED], TRAIN, HELD_OUT, broken, plan, target="c", stop_after=stop_after
        ) is None  # fmt: skip
        assert not (broken / "training.json").exists()
    two = train_head(copies[name in PICTURED], TRAIN, HELD_OUT, broken, plan, target="c")
    assert one is not None and two is not None
    heads = [load_head(folder / HEAD)[0].state_dict() for folder in (whole, broken)]
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())
    assert one["held_out"] == two["held_out"] and one["steps"] == two["steps"] == 9
    assert losses(whole) == losses(broken)


def test_a_step_is_its_parts_and_an_epoch_is_every_answer(
    copies: dict[bool, Lessons], monkeypatch: pytest.MonkeyPatch
) -> None:
    pupil = Pupil(copies[False], TRAIN, HELD_OUT, config("eagle", batch=3))
    taken: list[list[int]] = []
    monkeypatch.setattr(pupil, "learn", lambda batch: torch.zeros(()))
    monkeypatch.setattr(pupil.lessons, "batch", lambda places: taken.append([int(p) for p in places]))
    assert pupil.num_batches == 3
    for epoch in range(2):
        taken.clear()
        for step in range(3 * epoch, 3 * epoch + 3):
            pupil.loss_of(step, 0, 1)
        assert sorted(chain(*taken)) == TRAIN and max(map(len, taken)) <= 3
    whole = taken[2]
    taken.clear()
    for part in (0, 1):
        pupil.loss_of(5, part, 2)
    assert sorted(chain(*taken)) == sorted(whole)


def test_the_record_says_what_was_done(copies: dict[bool, Lessons], tmp_path: Path) -> None:
    plan = config("eagle", epochs=2, batch=3, settings={"intermediate_size": 24}, passes=2)
    lessons = copies[False]
    given: dict[str, Any] = {"target": "small", "fingerprint": "f00", "corpus": "talks"}
    record = train_head(lessons, TRAIN, HELD_OUT, tmp_path, plan, **given)
    assert record is not None
    assert json.loads((tmp_path / "training.json").read_text()) == json.loads(
        json.dumps({"schema": 1, "kind": "head-training", **record})
    )
    head, card = load_head(tmp_path)
    assert head.config.layer.intermediate_size == 24 and head.num_trained == record["parameters"]  # type: ignore[union-attr]
    assert (card.method, card.target, card.fingerprint) == ("eagle", "small", "f00")
    assert card.trained_tokens == record["trained_tokens"] == 2 * 14 * len(TRAIN)
    assert card.accuracies == record["accuracies"] and len(card.accuracies) == plan.depth
    assert record["recipe"]["passes"] == 2 and record["recipe"]["loss"]["kl"] == 0.1
    assert record["num_answers"] == 8 and record["num_held_out"] == 4 and record["corpus"] == "talks"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        ".lock", "head.safetensors", "log.jsonl", "training.json"
    ]  # fmt: skip
    assert "start" not in record["about"], "what was begun before there was a choice is gone on with"
    notes: list[str] = []
    again = train_head(lessons, TRAIN, HELD_OUT, tmp_path, plan, note=notes.append, **given)
    assert again is not None and again["held_out"] == record["held_out"] and "nothing to do" in notes[0]
    with pytest.raises(SettingError, match="holds another training"):
        train_head(lessons, TRAIN, HELD_OUT, tmp_path, replace(plan, seed=1), **given)
    with pytest.raises(SettingError, match="holds another training"):
        train_head(copies[True], TRAIN, HELD_OUT, tmp_path, plan, **given)
    anew = train_head(lessons, TRAIN, HELD_OUT, tmp_path, replace(plan, seed=1), resume=False, **given)
    assert anew is not None and anew["held_out"]["loss"] != record["held_out"]["loss"]


def test_a_compressor_is_a_setting_like_any_other(copies: dict[bool, Lessons], tmp_path: Path) -> None:
    visual = VisualConfig(kind="compress", branches=("conv", "text-only"))
    plan = config("spec_vlm", epochs=1, settings={"visual": visual})
    record = train_head(copies[True], TRAIN, HELD_OUT, tmp_path, plan, target="c")
    assert record is not None and record["config"]["settings"]["visual"]["branches"] == ["conv", "text-only"]
    assert load_head(tmp_path)[0].config.visual == visual  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["medusa", "eagle", "eagle3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_narrow_target_teaches_too(name: str, dtype: Any, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    lessons = Lessons(deepcopy(copies[False].decoder).bfloat16(), copies[False].lessons, [], range(-1, 4))
    record = train_head(
        lessons, TRAIN, HELD_OUT, tmp_path, config(name, epochs=2, dtype=dtype), target="c"
    )  # fmt: skip
    assert record is not None and np.isfinite(record["held_out"]["loss"])
    assert all(p.dtype == torch.float32 for p in load_head(tmp_path)[0].parameters())


def test_heads_of_one_seed_begin_alike(copies: dict[bool, Lessons]) -> None:
    """Whatever torch's generator was at, and it stays where it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = Pupil(copies[False], TRAIN, HELD_OUT, config("eagle")).head.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(seed_for(0, "other"))
    two, three = (Pupil(copies[False], TRAIN, HELD_OUT, config("eagle", seed=s)).head.state_dict() for s in (0, 1))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not torch.equal(one["fc.weight"], three["fc.weight"])


def test_a_head_can_begin_as_the_targets_last_layer(chatter: dict[bool, tuple[Lessons, Any]]) -> None:
    """On the layer's own input, and without the next token, it says what the target said of the token before."""
    lessons = chatter[False][0]
    decoder = lessons.decoder
    pupil = Pupil(lessons, TRAIN, HELD_OUT, config("eagle3", start="target", settings={"taps": (0, 1, 2)}))
    head = pupil.head
    assert isinstance(head, FeatureHead)
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            weight, theirs = getattr(head.layer.self_attn, name).weight, decoder.layers[-1].self_attn
            half = weight.shape[1] // 2
            torch.testing.assert_close(weight[:, :half], 0.5 * getattr(theirs, name).weight)
            weight[:, :half] = 0
        batch = lessons.batch(HELD_OUT)
        states = torch.cat([batch.states[layer] for layer in (0, 1, 2)], dim=-1)
        reading = head.read(batch.embeds, states)
        logits = head.unembed(head.unroll(reading, 1, detach=True)[0], None)
        torch.testing.assert_close(logits, decoder.lm_head(batch.states[LAST]), atol=1e-4, rtol=1e-4)
    for name, said in (("eagle", "only a head that fuses by attention"), ("medusa", "leave start out")):
        with pytest.raises(SettingError, match=said):
            Pupil(lessons, TRAIN, HELD_OUT, config(name, start="target"))
    with pytest.raises(SettingError, match="another shape"):
        Pupil(lessons, TRAIN, HELD_OUT, config("eagle3", start="target", settings={"intermediate_size": 8}))
    with pytest.raises(SettingError, match="start is 'there', must be random, target or a trained head"):
        config("eagle3", start="there")


@pytest.mark.parametrize("name", ["medusa", "eagle3"])
def test_a_training_can_go_on_from_a_trained_head(name: str, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    settings = {**NETWORK.get(name, {}), "draft_vocab": 9}
    given = (copies[False], TRAIN, HELD_OUT)
    first = train_head(*given, tmp_path / "1", config(name, settings=settings, epochs=4), target="small")
    more = config(name, settings=settings, epochs=4, start=str(tmp_path / "1"), seed=3)
    pupil = Pupil(*given, more)
    for key, value in load_head(tmp_path / "1")[0].state_dict().items():
        assert torch.equal(pupil.head.state_dict()[key], value)
    second = train_head(*given, tmp_path / "2", more, target="small")
    assert first is not None and second is not None
    assert second["held_out"]["loss"] < first["held_out"]["loss"]
    assert second["trained_tokens"] == 2 * first["trained_tokens"], "what the head has cost in all"
    assert len(second["about"]["start"]) == 64, "the head itself, wherever it lies"
    other = {"heads": 2} if name == "medusa" else {"intermediate_size": 8}
    with pytest.raises(SettingError, match="holds a head of another shape"):
        Pupil(*given, replace(more, settings={**settings, **other}))


@pytest.mark.parametrize("name", ["medusa", "eagle3", "eagle"])
def test_a_head_that_goes_on_may_draft_more_tokens(name: str, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    """The old ones keep what was learned of them, the new ones begin with the target's rows."""
    settings, given = NETWORK.get(name, {}), (copies[False], TRAIN, HELD_OUT)
    plan = config(name, settings={**settings, "draft_vocab": 7}, epochs=2)
    train_head(*given, tmp_path, plan, target="small")
    before = load_head(tmp_path)[0]
    grown = Pupil(*given, replace(plan, settings={**settings, "draft_vocab": 11}, start=str(tmp_path))).head
    assert set(before.d2t.tolist()) < set(grown.d2t.tolist()) and len(grown.d2t) == 11
    assert grown.d2t.tolist() == sorted(grown.d2t.tolist())
    rows = copies[False].decoder.lm_head.weight
    matrices = (output_matrices(grown), output_matrices(before))
    assert len(matrices[0]) == {"medusa": 3, "eagle3": 1, "eagle": 0}[name]
    for mine, theirs in zip(*matrices, strict=True):
        for row, token in zip(mine, grown.d2t.tolist(), strict=True):
            old = (before.d2t == token).nonzero()
            assert torch.equal(row, theirs[old[0, 0]] if len(old) else rows[token].float())
    outputs = {id(matrix) for matrix in matrices[1]}
    kept = [(key, value) for key, value in before.named_parameters() if id(value) not in outputs]
    assert kept and all(torch.equal(grown.get_parameter(key), value) for key, value in kept)


@pytest.mark.parametrize("name", ["medusa", "eagle3", "eagle"])
def test_a_head_that_goes_on_may_draft_fewer_tokens(name: str, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    """Those that the answers say most often stay, with what was learned of them."""
    settings, given = NETWORK.get(name, {}), (copies[False], TRAIN, HELD_OUT)
    plan = config(name, settings={**settings, "draft_vocab": 9}, epochs=2)
    train_head(*given, tmp_path, plan, target="small")
    before = load_head(tmp_path)[0]
    shrunk = Pupil(*given, replace(plan, settings={**settings, "draft_vocab": 5}, start=str(tmp_path))).head
    said = copies[False].counts(TRAIN)
    most = sorted(before.d2t.tolist(), key=lambda token: (-int(said[token]), token))[:5]
    assert shrunk.d2t.tolist() == sorted(most)
    places = [before.d2t.tolist().index(token) for token in shrunk.d2t.tolist()]
    for mine, theirs in zip(output_matrices(shrunk), output_matrices(before), strict=True):
        assert torch.equal(mine, theirs[places])


@pytest.mark.parametrize("name", ["eagle3", "medusa"])
def test_a_frozen_output_stays_the_targets(name: str, copies: dict[bool, Lessons], tmp_path: Path) -> None:
    """All else learns, and a broken run ends like an unbroken one."""
    settings, given = {**NETWORK.get(name, {}), "draft_vocab": 9}, (copies[False], TRAIN, HELD_OUT)
    plan = config(name, settings=settings, epochs=3, freeze_output=True)
    began = Pupil(*given, plan).head
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    record = train_head(*given, whole, plan, target="c")
    assert train_head(*given, broken, plan, target="c", stop_after=2) is None
    again = train_head(*given, broken, plan, target="c")
    assert record is not None and again is not None and record["held_out"] == again["held_out"]
    head = load_head(whole)[0]
    outputs = {id(matrix) for matrix in output_matrices(head)}
    rows = copies[False].decoder.lm_head.weight[head.d2t].bfloat16().float()  # as it is saved
    assert outputs and all(torch.equal(matrix, rows) for matrix in output_matrices(head))
    rest = {key: value for key, value in head.named_parameters() if id(value) not in outputs}
    assert all(not torch.equal(began.get_parameter(key), value) for key, value in rest.items())
    assert record["trained_parameters"] == sum(value.numel() for value in rest.values()) < record["parameters"]
    with pytest.raises(SettingError, match="holds another training"):
        train_head(*given, broken, replace(plan, freeze_output=False), target="c")
    grown = Pupil(*given, replace(plan, settings={**settings, "draft_vocab": 11}, start=str(whole)))
    for matrix in output_matrices(grown.head):
        assert not matrix.requires_grad
        known = torch.isin(grown.head.d2t, head.d2t)
        assert torch.equal(matrix[known], rows) and int(known.sum()) == 9
    with pytest.raises(SettingError, match="eagle heads as they are asked for read the target's output head"):
        Pupil(*given, config("eagle", freeze_output=True))


def test_what_cannot_teach_is_one_line(copies: dict[bool, Lessons]) -> None:
    decoder = copies[False].decoder
    lessons = Lessons(decoder, copies[False].lessons, [], (LAST,))
    with pytest.raises(SettingError, match="head 'eagle3' reads layer 0, whose states are not there"):
        Pupil(lessons, TRAIN, HELD_OUT, config("eagle3"))
    short = [replace(lesson, ids=lesson.ids[: lesson.prompt + 1]) for lesson in lessons.lessons]
    with pytest.raises(SettingError, match="answers of two tokens or more"):
        Pupil(Lessons(decoder, short, [], (LAST,)), TRAIN, HELD_OUT, config("eagle"))
    shortest = [replace(lesson, ids=lesson.ids[: lesson.prompt + 2]) for lesson in lessons.lessons]
    few = Lessons(decoder, shortest, [], range(-1, decoder.config.num_layers))
    for name in ("medusa", "hass", "eagle3"):  # fewer tokens than there are heads, or passes
        pupil = Pupil(few, TRAIN, HELD_OUT, config(name, depth=5))
        with torch.no_grad():
            figures = pupil.figures()
        assert figures["tau"] == 1 and figures["accept_2"] == 0
        assert float(pupil.learn(few.batch(TRAIN)).detach()) > 0
    for wrong in ({"epochs": 0}, {"batch": 2.5}, {"depth": 0}, {"passes": 0}):
        with pytest.raises(SettingError, match="must be a whole number"):
            config("eagle", **wrong)
    with pytest.raises(SettingError, match="no drafting head that can be trained"):
        Pupil(lessons, TRAIN, HELD_OUT, config("eagle2"))
