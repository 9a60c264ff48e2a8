"""Where the built-in pair lies: a small Video-LLaVA and a small EventGPT in the published formats, made by
``crossdraft train nano`` (docs/nano.md says how, and what the two can see), and the same EventGPT taught the
target's phrasing by ``crossdraft train distil``."""

from pathlib import Path
from typing import Literal

from crossdraft.core.errors import CheckpointError

NanoRole = Literal["target", "event", "event-distilled"]
ROLES: tuple[NanoRole, ...] = ("target", "event")
WEIGHTS = Path(__file__).parent / "weights"


def heads_dir(target: str | Path) -> Path | None:
    """The packaged folder of drafting heads, if ``target`` is the built-in one."""
    return WEIGHTS / "nano-heads" if Path(target).resolve() == (WEIGHTS / "nano-target").resolve() else None


def nano_dir(role: NanoRole) -> Path:
    """The packaged checkpoint folder of the "target", the "event" model or the distilled one.

    Raises CheckpointError when this installation came without the weights.
    """
    folder = WEIGHTS / f"nano-{role}"
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(
            f"the built-in nano {role} model is not in this installation ({folder}); install crossdraft with its "
            "package data, or train the pair: crossdraft train nano --out DIR"
        )
    return folder
