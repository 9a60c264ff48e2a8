"""The ideas that every other package speaks in: prompts, drafts, scores, verdicts, steps, generations."""
