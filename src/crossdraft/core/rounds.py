"""Rounds of greedy decoding, played through from known runs: what each round accepts and emits."""

from collections.abc import Sequence


def play(runs: Sequence[int], length: int) -> list[tuple[int, int]]:
    """(accepted, emitted) of every round of one answer in which every draft has ``length`` tokens.

    runs[s]: how many tokens a draft after s tokens said would get right; entry 0 is not read, for the first token
    comes from the target's prefill. The last round is cut where the answer ends.
    """
    rounds, said = [], 1
    while said < len(runs):
        left = len(runs) - said
        right = min(int(runs[said]), length)
        rounds.append((min(right, left), min(right + 1, left)))
        said += rounds[-1][1]
    return rounds
