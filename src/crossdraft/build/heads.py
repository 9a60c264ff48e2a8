"""Drafting heads by name: where they lie, whether they fit a target, and the drafter that runs them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.protocols import VLM, CostCurve, Drafter
from crossdraft.core.registry import find
from crossdraft.core.tree import StaticTree, static_tree
from crossdraft.drafters import DRAFTERS
from crossdraft.drafters.medusa import MedusaRunner, paying_tree
from crossdraft.drafters.shapes import check_size
from crossdraft.heads.checkpoint import HEAD, HeadCard, load_head, read_head_card
from crossdraft.heads.growth import Growth
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.recipes import RECIPES
from crossdraft.heads.runner import HeadRunner
from crossdraft.models import fingerprint, read_ends, resolve_checkpoint
from crossdraft.models.nano import heads_dir as nano_heads

SAME_WEIGHTS = {"eagle2": "eagle"}
"""Drafters that run another method's head."""

HEADS_FOLDER = "heads"
"""Beside a target's checkpoint: a folder of heads trained for it, one folder each."""

_TIMED = 5


HEADED = (*RECIPES, *SAME_WEIGHTS)


def drafter_of(path: str | Path) -> str:
    """The drafter that best runs the head at ``path``. Raises CheckpointError, SettingError for several."""
    several = sorted(found.parent.name for found in Path(path).glob(f"*/{HEAD}"))
    if several and not (Path(path) / HEAD).is_file():
        raise SettingError(f"{path} holds the heads {', '.join(several)}; name the drafter to run, or one of them")
    method = read_head_card(path).method
    return {same: name for name, same in SAME_WEIGHTS.items()}.get(method, method)


def is_headed(name: str) -> bool:
    """Whether the drafter of this name runs a trained head."""
    return SAME_WEIGHTS.get(name, name) in RECIPES


def find_head(name: str, target_folder: str | Path, heads: str | Path | None = None) -> Path:
    """The checkpoint of the head that drafter ``name`` runs.

    heads: a head's file, its folder, or a folder of such folders; None: those that come with the built-in target,
    or lie in ``heads`` beside the target's own files. Raises CheckpointError, naming how to train one,
    and SettingError for the file of another method.
    """
    method = SAME_WEIGHTS.get(name, name)

    def checked(path: Path) -> Path:
        if (found := read_head_card(path).method) != method:
            raise SettingError(f"{path} is a head '{found}', which does not draft for '{name}'")
        return path

    if heads is not None and Path(heads).is_file():
        return checked(Path(heads))
    if heads is not None and not Path(heads).exists():
        raise CheckpointError(f"there is no head {heads}; name a head's file, its folder, or a folder of heads")
    built_in = nano_heads(target_folder)
    root = Path(heads) if heads is not None else built_in or Path(target_folder) / HEADS_FOLDER
    for folder in (root, root / method):
        if (folder / HEAD).is_file():
            return checked(folder / HEAD)
    raise CheckpointError(
        f"no head '{method}' for this target in {root}; train one: crossdraft train head {method} --target DIR "
        f"--data CORPUS --out {root / method}"
    )


@dataclass(frozen=True)
class Fitted:
    """A head that fits its target, packed, with what it cost."""

    runner: HeadRunner | MedusaRunner
    card: HeadCard


def fit_head(
    path: str | Path, target: VLM, target_folder: str | Path | None, dtype: torch.dtype, device: str
) -> Fitted:
    """Load a head for ``target``. target_folder: where its output head is read from; None: it must not be needed.

    Raises CheckpointError when it is of another width or vocabulary, SettingError when it was trained for another
    target's checkpoint.
    """
    head, card = load_head(path)
    config = head.config if isinstance(head, MedusaHead) else head.config.layer
    if (config.hidden_size, config.vocab_size) != (target.hidden_size, target.vocab_size):
        raise CheckpointError(
            f"{path} was made for a target of width {config.hidden_size} and {config.vocab_size} tokens, but "
            f"{target.name} has {target.hidden_size} and {target.vocab_size}; train one for it"
        )
    if target_folder is not None and card.fingerprint not in ("", fingerprint(resolve_checkpoint(target_folder))):
        raise SettingError(
            f"{path} was trained for another checkpoint than {target.name} (for {card.target}); its drafts would "
            "hardly be accepted; train one for this target"
        )
    rows = None
    if (head.lm_heads if isinstance(head, MedusaHead) else head.lm_head) is None:
        if target_folder is None:
            raise SettingError(
                f"head '{card.method}' reads the target's output head, and its checkpoint is not known"
            )
        rows = _output_head(str(target_folder))[head.d2t]
    if isinstance(head, MedusaHead):
        return Fitted(MedusaRunner(head, rows, dtype, device), card)
    return Fitted(HeadRunner(head, rows, dtype, device), card)


@lru_cache(maxsize=2)
def _output_head(folder: str) -> Float[Tensor, "V D"]:
    return read_ends(folder).head


def headed_drafter(name: str, fitted: Fitted, costs: CostCurve, settings: dict[str, Any]) -> Drafter:
    """The drafter ``name`` on a head.

    settings: of the drafter's class; level_ms: None measures it. "medusa": nodes and depth of its tree, None as
    large as pays. Raises SettingError for settings that make no sense, CheckpointError for a head of another kind.
    """
    kind: Any = find("drafter", DRAFTERS, name)
    runner = fitted.runner
    if isinstance(runner, MedusaRunner) != (name == "medusa"):
        raise CheckpointError(f"the head given is '{fitted.card.method}', which does not draft for '{name}'")
    if isinstance(runner, MedusaRunner):
        if "sampling" in settings:
            raise SettingError("Medusa's guesses are its heads' best and cannot be drawn; leave sampling out")
        _check_settings(name, settings, known=("nodes", "depth"), optional=("nodes", "depth"))
        tree = _medusa_tree(runner, fitted.card.accuracies, costs, **settings)
        medusa: Drafter = kind(head=runner, costs=costs, tree=tree)
        return medusa
    known = [f.name for f in fields(kind) if f.init and f.name not in ("head", "costs")]
    _check_settings(name, settings, known, optional=("nodes",))
    made = kind(head=runner, costs=costs, **settings)  # refuses what makes no sense, before it is timed
    timed: Drafter = made if made.level_ms else replace(made, level_ms=level_costs_ms(runner, made.branch))
    return timed


def _check_settings(name: str, settings: dict[str, Any], known: Sequence[str], optional: Sequence[str]) -> None:
    """optional: those that may be None, of those that are whole numbers."""
    for key, value in settings.items():
        if key not in known:
            raise SettingError(f"drafter '{name}' has no setting '{key}'; it has {', '.join(known)}")
        if key not in ("branch", "depth", "nodes") or (value is None and key in optional):
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingError(f"{key} is {value!r}, must be a whole number")


def _medusa_tree(
    runner: MedusaRunner, measured: list[list[float]], costs: CostCurve, nodes: int | None = None,
    depth: int | None = None,
) -> StaticTree:  # fmt: skip
    heads = runner.config.heads
    check_size(nodes, depth)
    listed = measured or [[0.5**rank for rank in range(1, 11)]] * heads
    accuracies = torch.tensor(listed)[: min(heads, depth or heads)]
    return paying_tree(accuracies, costs) if nodes is None else static_tree(accuracies, nodes)


def level_costs_ms(runner: HeadRunner, rows: int) -> tuple[float, float]:
    """Milliseconds of a level of drafting that expands one node, and of each further node up to ``rows`` (1 or
    more) of them, as far as the draft vocabulary has so many; medians of a few, output head included."""
    most = min(rows, len(runner.words))
    one, many = (_level_of(runner, count, most) for count in (1, most))
    return one, max(0.0, many - one) / (most - 1) if most > 1 else 0.0


def _level_of(runner: HeadRunner, rows: int, most: int) -> float:
    """rows: of the level; most: children of each."""
    state, tree = runner.idle_state(64 + 2 * rows), Growth(runner.words, most, depth=2)
    guesses = torch.zeros(rows, runner.config.layer.hidden_size, dtype=runner.dtype, device=runner.device)
    spent = []
    with torch.inference_mode():
        for _ in range(_TIMED + 1):
            tree.begin()
            tree.grow(runner.scores(guesses[:1]))  # waits for the device, as below
            start = time.perf_counter()
            front = tree.front(rows)
            out = runner.step(state, guesses, front.rows, guesses, 0, front.paths)
            tree.grow(runner.scores(out))
            spent.append((time.perf_counter() - start) * 1e3)
    return sorted(spent[1:])[_TIMED // 2]
