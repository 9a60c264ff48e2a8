"""EAGLE-2: the tree that a head's own confidence grows."""

from dataclasses import dataclass, replace
from math import exp
from typing import Any

import pytest
import torch

from crossdraft.build.heads import Fitted, headed_drafter
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.tree import depths
from crossdraft.core.types import Limits, Sampling, Step
from crossdraft.decode.loop import generate
from crossdraft.drafters.eagle import Eagle2
from crossdraft.drafters.shapes import MAX_NODES
from crossdraft.heads.checkpoint import HeadCard
from crossdraft.verify.greedy import Greedy

SAID = (5, 9, 2, 17)


@dataclass(frozen=True)
class Priced:
    """Every further row costs ``slope``."""

    slope: float

    def pass_ms(self, rows: int) -> float:
        return 1.0 + self.slope * rows


@pytest.mark.parametrize(("branch", "depth", "nodes"), [(3, 4, 12), (4, 3, 63), (2, 5, 7), (5, 1, 4), (1, 4, 9)])
@pytest.mark.parametrize("seed", [0, 1])
@torch.inference_mode()
def test_the_tree_is_the_one_found_by_trying(
    branch: int, depth: int, nodes: int, seed: int, tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any,
) -> None:  # fmt: skip
    """Expand the best of every level by path value, keep the best of all; every log-probability computed anew."""
    from crossdraft.heads.runner import HeadRunner

    head = tiny.head("eagle", seed)
    runner = HeadRunner(head, tiny.target.head.T, torch.float64)
    drafter = replace(tiny.drafter("eagle2"), head=runner, branch=branch, depth=depth, nodes=nodes)
    draft = begin(drafter, tiny.target, prompt, SAID).propose(99)
    got = paths(draft)
    assert len(set(got)) == len(got) == len(draft)
    assert set(got) == retell(head, tiny.target, prompt, SAID).tree(branch, depth, nodes)
    assert draft.probs is None and draft.source == "eagle2"
    assert len(draft) == min(nodes, branch + (depth - 1) * branch**2)


@torch.inference_mode()
def test_nothing_is_expanded_whose_children_cannot_be_kept(
    tiny: Any, prompt: Prompt, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few nodes cost fewer rows of the head than many; that they are the same nodes is tried above."""
    from crossdraft.heads.runner import HeadRunner

    rows: list[int] = []
    step = HeadRunner.step

    def counted(self: Any, state: Any, guesses: Any, above: Any, *rest: Any) -> Any:
        rows.append(len(above))
        return step(self, state, guesses, above, *rest)

    monkeypatch.setattr(HeadRunner, "step", counted)
    spent = []
    for nodes in (60, 12, 4, 1):
        rows.clear()
        begin(replace(tiny.drafter("eagle2"), branch=4, depth=5, nodes=nodes), tiny.target, prompt, SAID).propose(
            99
        )
        spent.append(sum(rows))
    assert spent[0] == 16 and spent == sorted(set(spent), reverse=True) and spent[-1] == 0


@torch.inference_mode()
def test_limits_of_the_tree(tiny: Any, prompt: Prompt, begin: Any) -> None:
    drafter = tiny.drafter("eagle2")
    for room in (1, 2, 4):
        draft = begin(replace(drafter, nodes=40), tiny.target, prompt, SAID).propose(room)
        assert int(depths(draft.parents.tolist()).max()) <= room
    draft = begin(replace(drafter, branch=3, depth=9, nodes=60), tiny.target, prompt, SAID).propose(99)
    parents = draft.parents.tolist()
    assert max(parents.count(p) for p in parents) <= 3 and len(draft) == 60
    assert int(depths(parents).max()) <= 9


def grown(
    told: Any, branch: int, depth: int, row: float, level: float, further: float = 0.0
) -> list[list[tuple[tuple[int, ...], float]]]:
    """Nodes and their chances, level by level: of the best of each level those are expanded that bring more than a
    row costs, if all of them bring more than a level costs. Costs are shares of a pass without a draft; a level
    costs ``level``, and ``further`` for each node but one that is expanded in it."""
    levels = []
    frontier = [((), 1.0)]
    while frontier and len(levels) < depth:
        levels.append(
            [((*path, token), c * exp(own)) for path, c in frontier for token, own in told.children(path, branch)]
        )
        best = sorted(levels[-1], key=lambda n: -n[1])[:branch]
        frontier = [(path, c) for path, c in best if c > row + further]
        if sum(c - row - further for _, c in frontier) <= level - further:
            break
    return levels


@torch.inference_mode()
def test_as_many_nodes_as_pay(tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any) -> None:
    """The number with the most expected tokens per millisecond, drafting included, over all candidates."""
    told = retell(tiny.head("eagle"), tiny.target, prompt, SAID)
    sizes, grew = [], []
    for slope, level_ms, further_ms in (
        (0.0005, 1e-9, 0.0), (0.002, 1e-9, 0.0), (0.02, 0.3, 0.0), (0.04, 1e-9, 0.0), (0.08, 1e-9, 0.0),
        (1.0, 1e-9, 0.0), (0.002, 0.01, 0.05),
    ):  # fmt: skip
        settings = {"costs": Priced(slope), "branch": 4, "depth": 4, "level_ms": (level_ms, further_ms)}
        draft = begin(replace(tiny.drafter("eagle2"), **settings), tiny.target, prompt, SAID).propose(99)
        plain = 1.0 + slope
        levels = grown(told, 4, 4, slope / plain, level_ms / plain, further_ms / plain)
        best = sorted((node for level in levels for node in level), key=lambda node: -node[1])
        drafting = level_ms + sum(level_ms + (len(level) // 4 - 1) * further_ms for level in levels[1:])
        emitted, rates = 1.0, [1.0 / (plain + drafting)]
        for _, chance in best[:MAX_NODES]:
            emitted += chance
            rates.append(emitted / (plain + slope * len(rates) + drafting))
        count = rates.index(max(rates))
        assert set(paths(draft)) == {path for path, _ in best[:count]}
        sizes.append(len(draft))
        grew.append([len(level) for level in levels])
    dear, narrow = grew.pop(), sizes.pop()
    assert dear == [4, 16, 12] and 0 < narrow < sizes[1], "fewer are expanded where each costs"
    assert grew[0] == [4, 16, 16, 16] and [4, 16] in grew and grew[-1] == [4], "all, some and no further levels"
    assert grew[3] == [4, 16, 12, 4], "and one behind part of a frontier"
    assert sizes == sorted(set(sizes), reverse=True) and sizes[-1] == 0


@torch.inference_mode()
def test_promises_that_were_not_kept_make_smaller_trees(tiny: Any, prompt: Prompt, begin: Any) -> None:
    """A drafter that has seen its head to be wrong sends fewer nodes, then none, and digests nothing any more; one
    with a fixed number of nodes goes on."""
    drafter = replace(tiny.drafter("eagle2"), costs=Priced(0.02), branch=4, depth=3, level_ms=(0.01, 0.0))
    first = begin(drafter, tiny.target, prompt, SAID).propose(99)
    for _ in range(30):
        drafter.confidence.learn([0.9, 0.8, 0.7], 0, False, 1.3)
    later = [begin(drafter, tiny.target, prompt, SAID) for _ in range(7)]
    assert not drafter.confidence.pays and len(first) > 0
    assert all(len(session.propose(99)) == 0 for session in later)
    assert all(session._state is None for session in later), "nothing was read"
    trial = begin(drafter, tiny.target, prompt, SAID).propose(99)
    assert 0 < len(trial) < len(first), "every eighth request looks again, with a tree as large as was kept"
    assert len(begin(replace(drafter, nodes=5), tiny.target, prompt, SAID).propose(99)) == 5


@torch.inference_mode()
def test_what_is_promised_is_held_against_what_was_said(tiny: Any, prompt: Prompt, begin: Any, paths: Any) -> None:
    """Depth by depth, and also where somebody else's draft was taken; an answer's end tells nothing."""
    seen: list[tuple[list[float], int, bool, tuple[float, float]]] = []
    drafter = replace(tiny.drafter("eagle2"), costs=Priced(0.01), branch=3, depth=3, level_ms=(1e-9, 0.0))
    drafter.confidence.learn = lambda promised, kept, cut, ms, expanded: seen.append(
        (promised, kept, cut, expanded)
    )
    for ends_in_the_draft, depth in ((False, 2), (True, 2), (False, 0)):
        session = begin(drafter, tiny.target, prompt, SAID)
        draft = session.propose(99)
        path = max(paths(draft), key=len)[:depth]
        other = next(token for token in range(tiny.target.vocab_size) if token not in draft.tokens)
        said = path if ends_in_the_draft else (*path, other)
        session.observe(Step(said, {-1: torch.zeros(len(said), tiny.target.table.shape[1])}))
        assert seen[-1][1:3] == (depth, ends_in_the_draft)
        reached, best_child = seen[-1][3]
        assert 0 < best_child < reached <= 2, "two levels were expanded; a child is less likely than its parent"
        shares = [seen[-1][0][d] - sum(seen[-1][0][d + 1 : d + 2]) for d in range(3)]
        assert 0 < seen[-1][0][0] <= 1 and min(shares) >= 0, "deeper nodes are reached through those above"


@torch.inference_mode()
def test_where_no_child_was_ever_likely_no_level_is_made(tiny: Any, prompt: Prompt, begin: Any) -> None:
    drafter = replace(tiny.drafter("eagle2"), costs=Priced(0.01), branch=3, depth=3, level_ms=(0.05, 0.0))
    before = begin(drafter, tiny.target, prompt, SAID).propose(99)
    for _ in range(200):
        drafter.confidence.learn([0.9, 0.8, 0.7], 3, False, 1.0, (1.0, 0.01))
    after = begin(drafter, tiny.target, prompt, SAID).propose(99)
    assert int(depths(before.parents.tolist()).max()) > 1 and int(depths(after.parents.tolist()).max()) == 1


@torch.inference_mode()
def test_levels_that_cannot_pay_are_not_made(tiny: Any, prompt: Prompt, begin: Any, oracle: Any) -> None:
    """A node may bring one token where it is reached, and a level costs ``level_ms``."""
    for sign, level_ms, levels in ((1.0, 0.5, 5), (1.0, 1.5, 0), (-1.0, 0.2, 1)):
        head = oracle(tiny.target, sign)
        drafter = Eagle2(head=head, costs=Priced(0.0), depth=6, branch=8, level_ms=(level_ms, 0.0))
        begin(drafter, tiny.target, prompt, SAID).propose(99)
        assert len(head.levels) == levels, "an unsure head goes on only while its best nodes are worth it"


@pytest.mark.parametrize(("sign", "tau"), [(1.0, 7.0), (-1.0, 1.0)])
def test_a_head_that_knows_and_one_that_knows_better(
    sign: float, tau: float, tiny: Any, prompt: Prompt, oracle: Any
) -> None:
    """Perfect: depth + 1 tokens a pass. Hostile: one, and the same answer."""
    drafter = Eagle2(head=oracle(tiny.target, sign), costs=Priced(0.0), nodes=20)
    limits = Limits(max_new_tokens=1 + 7 * 3)
    answer = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits)
    assert answer.tau == tau
    plain = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    assert answer.tokens == plain.tokens


def test_settings_that_cannot_work_are_refused(tiny: Any) -> None:
    drafter = tiny.drafter("eagle2")
    assert drafter.shape == "dynamic" and drafter.needs.trees and drafter.needs.capture == (-1,)
    for changed, line in (
        ({"depth": 0}, "depth is 0"),
        ({"branch": 65}, "branch is 65"),
        ({"nodes": 64}, "nodes is 64, must be from 1 to 63"),
        ({"shape": "star"}, "shape is 'star'"),
        ({"sampling": Sampling(temperature=1.0)}, "must not be drawn"),
        ({"level_ms": (0.1, -1.0)}, "level_ms is"),
        ({"level_ms": (0.1, float("nan"))}, "level_ms is"),
        ({"level_ms": 3}, "level_ms is 3, must be two times"),
    ):
        with pytest.raises(SettingError, match=line):
            replace(drafter, **changed)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"branch": 0}, "branch is 0"),
        ({"branch": 65}, "branch is 65"),
        ({"branch": None}, "branch is None"),
        ({"branch": 8.0}, "branch is 8.0, must be a whole"),
        ({"nodes": True}, "nodes is True"),
        ({"depth": "4"}, "depth is '4'"),
        ({"depth": None}, "depth is None"),
        ({"leaves": 3}, "drafter 'eagle2' has no setting 'leaves'; it has shape, depth, branch"),
        ({"head": None}, "no setting 'head'"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_timed(settings: dict[str, Any], line: str, tiny: Any) -> None:
    fitted = Fitted(tiny.drafter("eagle2").head, HeadCard(method="eagle", target="tiny"))
    with pytest.raises(SettingError, match=line):
        headed_drafter("eagle2", fitted, Priced(0.1), settings)


def test_levels_are_timed_unless_that_is_told(tiny: Any) -> None:
    fitted = Fitted(tiny.drafter("eagle2").head, HeadCard(method="eagle", target="tiny"))
    made = headed_drafter("eagle2", fitted, Priced(0.1), {"branch": 3, "nodes": 9})
    assert made.branch == 3 and made.nodes == 9 and min(made.level_ms) >= 0 < made.level_ms[0]
    told = headed_drafter("eagle2", fitted, Priced(0.1), {"level_ms": (7.0, 1.0)})
    assert told.level_costs_ms == (7.0, 1.0)


@torch.inference_mode()
def test_a_chain_has_no_more_nodes_than_it_may(tiny: Any, prompt: Prompt, begin: Any) -> None:
    drafter = replace(tiny.drafter("eagle2"), shape="chain", depth=5, nodes=2)
    assert len(begin(drafter, tiny.target, prompt, SAID).propose(99)) == 2
