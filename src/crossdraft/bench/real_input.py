"""A real video and real event recordings through every drafter, beside plain decoding."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.data.align import load_aligned
from crossdraft.data.simulate import SensorModel, simulate_events
from crossdraft.data.video import read_video

DRAFTERS = ("constant", "ngram", "memory", "cross_modal")
QUESTIONS = ("What are the key elements in this scene?", "What moves here, and where to?")

# the sensor of EventGPT's recordings; their files do not state it
SENSOR = (640, 480)
SECOND_US = 1_000_000


def real_prompts(
    video: str | Path, recordings: Sequence[Path], *, seconds: int = 2, camera: SensorModel | None = None,
    report: Report = silent,
) -> dict[str, Prompt]:  # fmt: skip
    """Prompts of a real video: second by second with events simulated from it, then with each real recording.

    A real recording has no video of its own here, so the two show different scenes; exactness does not mind.
    Raises DataError for files that cannot be read.
    """
    prompts: dict[str, Prompt] = {}
    with tempfile.TemporaryDirectory(prefix="crossdraft-") as folder:
        for second in range(seconds):
            span = (second * SECOND_US, (second + 1) * SECOND_US)
            report(f"simulating events, second {second}", second, seconds)
            frames = read_video(video, start_us=span[0], end_us=span[1])
            out = Path(folder) / f"{second}.npz"
            simulate_events(video, out, camera, start_us=span[0], end_us=span[1])
            events = load_aligned(out, frames, offset_us=0)
            for question in QUESTIONS:
                prompts[f"simulated, second {second}, {question}"] = Prompt(question, frames, events, "bikes")
    frames = read_video(video, start_us=0, end_us=SECOND_US)
    for path in recordings:
        # the recording is taken to begin with the video, whatever its clock says
        events = load_aligned(path, frames, SENSOR)
        prompts[path.name] = Prompt(QUESTIONS[0], frames, events, "recordings")
    return prompts


def find_recordings(folder: str | Path | None) -> list[Path]:
    """Every event file of ``folder``, by name; none for None. DataError when the folder holds none."""
    if folder is None:
        return []
    found = sorted(p for p in Path(folder).iterdir() if p.suffix in (".npy", ".npz", ".h5", ".raw", ".dat"))
    if not found:
        raise DataError(f"{folder}: there are no event recordings in it")
    return found


def run_real(
    bench: Workbench, prompts: dict[str, Prompt], *, max_new_tokens: int = 96, report: Report = silent
) -> dict[str, Any]:
    """Every drafter on every prompt; ``passed`` says whether all answers equal plain decoding's."""
    names = [n for n in DRAFTERS if n != "cross_modal" or bench.event_model is not None]
    drafters = {name: bench.make_drafter(name, bench.costs) for name in names}
    rows: list[dict[str, Any]] = []
    for done, (what, prompt) in enumerate(prompts.items()):
        report(what, done, len(prompts))
        plain = bench.answer(bench.make_drafter("none"), prompt, max_new_tokens)
        for name, drafter in drafters.items():
            own = bench.answer(drafter, prompt, max_new_tokens)
            rows.append(
                {
                    "prompt": what, "events": len(prompt.events or ()), "drafter": name, "tokens": len(own.tokens),
                    "identical": own.tokens == plain.tokens, "tau": own.tau if own.rounds else None,
                }
            )  # fmt: skip
    same = sum(row["identical"] for row in rows)
    return {
        "passed": same == len(rows),
        "verdict": f"{same} of {len(rows)} answers equal plain decoding's "
        f"({len(prompts)} prompts, {len(names)} drafters)",
        "rows": rows,
    }
