"""Prompts for text targets: a set of our own for the league, and as many as one likes for training.

read_prompts("league", part="held-out")       # or a JSON-lines file
write_prompts(5000, seed=0)
"""

from crossdraft.data.prompts.reader import FREE, KINDS, LEAGUE, PARTS, PromptRecord, read_prompts
from crossdraft.data.prompts.writer import write_prompts, write_prompts_about

__all__ = [
    "FREE",
    "KINDS",
    "LEAGUE",
    "PARTS",
    "PromptRecord",
    "read_prompts",
    "write_prompts",
    "write_prompts_about",
]
