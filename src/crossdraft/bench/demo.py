"""The demo: one unseen stream, every drafter beside plain decoding and beside its control.

The stream goes through the same files and readers as a user's data: it is written as mp4 and npz and read back.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossdraft.bench.paired import PLAIN, Row, run_paired, summarise
from crossdraft.bench.workbench import Report, Workbench, shuffled_events, silent
from crossdraft.core.prompt import Prompt

DRAFTERS = (PLAIN, "constant", "ngram", "memory", "cross_modal")
CONTROL = "cross_modal (shuffled clip)"


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured."""

    clips: int
    question: str
    rows: list[Row]
    bit_exact: bool
    detail: str

    def as_json(self) -> dict[str, Any]:
        """{"clips": n, "rows": [{"drafter", "identical", "tokens", "tau", ...}]}."""
        return {"clips": self.clips, "rows": [row.brief() for row in self.rows]}

    def notes(self) -> list[str]:
        """The honest lines under the table."""
        own = [row for row in self.rows if row.drafter not in (PLAIN, CONTROL)]
        best = max(own, key=lambda row: row.speedup_e2e)
        low, high = best.speedup_e2e_interval
        lines = [
            f"question: {self.question}",
            f"'{best.drafter}' gained most: {best.speedup_decode:.2f}x while decoding, {best.speedup_e2e:.2f}x for "
            f"the whole request (95 % interval {low:.2f}-{high:.2f})"
            if low > 1
            else f"nothing was gained for certain: the best, '{best.drafter}', was {best.speedup_e2e:.2f}x for the "
            f"whole request (95 % interval {low:.2f}-{high:.2f})",
        ]
        rows = {row.drafter: row for row in self.rows}
        if "cross_modal" in rows and CONTROL in rows:
            ours, control = rows["cross_modal"], rows[CONTROL]
            lines.append(
                f"the event model's drafts: tau {ours.tau:.2f} on the right clip, {control.tau:.2f} on another "
                "clip's events (the control); what both reach is not owed to the events"
            )
        same = all(row.identical for row in self.rows)
        lines.append(
            (
                "all answers are identical to plain decoding's"
                if same
                else "SOME ANSWERS DIFFER from plain decoding's"
            )
            + f"; {'bit-exact' if self.bit_exact else 'not bit-exact'}: {self.detail}"
        )
        return lines


def run_demo(
    bench: Workbench,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    report: Report = silent,
) -> DemoResult:
    """Every drafter answers the same question about every clip, in the order of the stream.

    Memories start empty and are filled by the answers of this run alone. Times include everything from the decoded
    frames and events to the last token.
    """
    others = shuffled_events(prompts)
    contenders = {
        name: bench.contender(bench.make_drafter(name, bench.costs), prompts, max_new_tokens)
        for name in DRAFTERS
        if name != "cross_modal" or bench.event_model is not None
    }
    if "cross_modal" in contenders:
        contenders[CONTROL] = bench.contender(
            bench.make_drafter("cross_modal", bench.costs), others, max_new_tokens
        )
    answers = run_paired(contenders, len(prompts), seed=seed, report=report)
    exact = bench.target.exactness
    return DemoResult(len(prompts), prompts[0].question, summarise(answers, seed), exact.bit_exact, exact.detail)


def stream_prompts(clips: int, seed: int, folder: str | Path | None = None, question: int = 0) -> list[Prompt]:
    """The clips of one held-out stream, written to disk and read back as a user's data would be.

    folder: where to write; None: a temporary folder that is removed again. question: which kind of question.
    """
    from crossdraft.data.paired import load_prompt, read_instruction_dataset
    from crossdraft.data.scenes import write_streams

    with tempfile.TemporaryDirectory(prefix="crossdraft-") as temporary:
        root = Path(folder or temporary)
        write_streams(root, num_streams=1, num_clips=clips, seed=seed)
        samples = read_instruction_dataset(root)
        return [load_prompt(sample, sample.conversations[question][0]) for sample in samples]
