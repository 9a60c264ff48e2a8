"""A head's tree with a lookup's chain in it: both are verified, each learns what was its own."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Needs
from crossdraft.core.types import Draft, Limits, PromptView, Sampling, Step
from crossdraft.decode.loop import generate
from crossdraft.drafters.combined import Combined, parts_of
from crossdraft.drafters.ngram import NGram
from crossdraft.drafters.shapes import MAX_NODES
from crossdraft.verify import rule_for
from crossdraft.verify.greedy import Greedy

LIMITS = Limits(max_new_tokens=40)


@dataclass
class Says:
    """Drafts what it is told to, and remembers what it was told."""

    draft: Draft
    name: str = "says"
    needs: Needs = field(default_factory=Needs)
    seen: list[Any] = field(default_factory=list)

    def begin(self, prompt: Any, target: Any, window: Any) -> "Says":
        return self

    def see_prompt(self, view: PromptView) -> None:
        self.seen.append(view)

    def observe(self, step: Step) -> None:
        self.seen.append(step)

    def propose(self, room: int) -> Draft:
        return self.draft

    def finish(self) -> None:
        self.seen.append("finished")


def tree(tokens: list[int], parents: list[int]) -> Draft:
    return Draft(torch.tensor(tokens), torch.tensor(parents), source="tree")


def test_one_tree_of_both(paths: Any, free_width: Any) -> None:
    head, lookup = Says(tree([5, 6, 7, 8], [-1, -1, 0, 1])), Says(Draft.chain([5, 7, 9, 9]), "copy")
    session = Combined(head=head, lookup=lookup, costs=free_width).begin(None, None, None)  # type: ignore[arg-type]
    draft = session.propose(9)
    assert set(paths(draft)) == {(5,), (6,), (5, 7), (6, 8), (5, 7, 9), (5, 7, 9, 9)}
    assert draft.tokens[:4].tolist() == [5, 6, 7, 8] and draft.source == "says+copy" and not draft.is_chain
    # what was said followed the head's branch beyond the first token
    session.observe(Step((5, 7, 3), accepted=2))
    session.observe(Step((6, 8, 3), accepted=2))
    assert [step.accepted for step in head.seen] == [2, 2] and [step.accepted for step in lookup.seen] == [2, 0]
    view = PromptView((1, 2), torch.empty(0))
    session.see_prompt(view)
    session.finish()
    assert head.seen[2:] == lookup.seen[2:] == [view, "finished"]
    lookup.draft = Draft.chain([])
    assert set(paths(session.propose(9))) == {(5,), (6,), (5, 7), (6, 8)}


def test_the_copy_has_its_place_in_a_full_tree(paths: Any, free_width: Any) -> None:
    wide = tree(list(range(100, 100 + MAX_NODES)), [-1] * MAX_NODES)
    both = Combined(head=Says(wide), lookup=Says(Draft.chain([1, 2, 3])), costs=free_width)
    draft = both.begin(None, None, None).propose(9)  # type: ignore[arg-type]
    assert len(draft) == MAX_NODES and (1, 2, 3) in paths(draft) and (100,) in paths(draft)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_answer_is_the_targets_own(temperature: float, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    both = Combined(head=tiny.drafter("eagle2"), lookup=NGram(costs=free_width), costs=free_width)
    assert both.name == "eagle2+ngram" and both.needs.trees and both.needs.capture == (-1,)
    rule = rule_for(Sampling(temperature=temperature, seed=3))
    plain = generate(tiny.target, tiny.drafter("none"), prompt, rule=rule, limits=LIMITS)
    answer = generate(tiny.target, both, prompt, rule=rule, limits=LIMITS)
    assert answer.tokens == plain.tokens and answer.lossless


def test_a_head_that_is_wrong_leaves_the_lookup_its_gain(
    tiny: Any, prompt: Prompt, free_width: Any, oracle: Any
) -> None:
    """And a head that knows everything gains nothing by it, and loses nothing."""
    from crossdraft.drafters.eagle import Eagle2

    rounds = {}
    for name, sign in (("hostile", -1.0), ("knowing", 1.0)):
        head = Eagle2(head=oracle(tiny.target, sign), costs=free_width, nodes=20)
        together = Combined(head=head, lookup=NGram(costs=free_width), costs=free_width)
        for kind, drafter in (("alone", head), ("both", together)):
            answer = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=LIMITS)
            rounds[name, kind] = len(answer.rounds)
    alone = generate(tiny.target, NGram(costs=free_width), prompt, rule=Greedy(), limits=LIMITS)
    assert rounds["hostile", "both"] <= len(alone.rounds) < rounds["hostile", "alone"]
    assert rounds["knowing", "both"] <= rounds["knowing", "alone"]


@dataclass(frozen=True)
class Priced:
    """A tenth of a plain pass for every further row."""

    def pass_ms(self, rows: int) -> float:
        return 90.0 + 10.0 * rows


@pytest.mark.parametrize(
    ("nodes", "copies_right", "alone"), [(None, True, True), (None, False, False), (9, True, False)]
)
def test_a_copy_goes_alone_where_that_has_given_more(
    nodes: int | None, copies_right: bool, alone: bool, paths: Any
) -> None:
    """Four copied tokens: right, they need no tree beside them; wrong, the tree is what gives; and a head that is
    told how many nodes to draft drafts them."""
    head, lookup = Says(tree([5, 6, 7], [-1, -1, 0])), Says(Draft.chain([1, 2, 3, 4], "copy"))
    head.nodes = nodes  # type: ignore[attr-defined]
    both = Combined(head=head, lookup=lookup, costs=Priced())
    session = both.begin(None, None, None)  # type: ignore[arg-type]
    said = Step((1, 2, 3, 4, 9), accepted=4) if copies_right else Step((5, 7, 9), accepted=2)
    sizes = []
    for _ in range(20):
        sizes.append(len(session.propose(9)))
        session.observe(said)
    # the first round, in which the prompt is read, tells nothing of the others
    assert sizes == [7] * 9 + [4 if alone else 7] * 11
    draft = session.propose(9)
    assert draft.source == "says+says" and draft.is_chain is alone
    other = both.begin(None, None, None)  # type: ignore[arg-type]
    assert len(other.propose(9)) == (4 if alone else 7), "what was learned outlives the request"
    lookup.draft = Draft.chain([1])
    assert set(paths(other.propose(9))) == {(5,), (6,), (5, 7), (1,)}, "of shorter copies nothing is known yet"


def test_names(free_width: Any) -> None:
    assert parts_of("eagle3+ngram") == ("eagle3", "ngram") and parts_of("eagle3") == ("eagle3", None)
    with pytest.raises(SettingError, match="what can be added: ngram, memory, constant"):
        parts_of("eagle3+medusa")
    drawn = Says(Draft.chain([]))
    drawn.sampling = Sampling(temperature=1.0)  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match="drawn drafts cannot stand beside copied ones"):
        Combined(head=drawn, lookup=Says(Draft.chain([])), costs=free_width)
