"""What the papers report of the league's methods: context for a row, never a row.

Every figure is the authors' own (or a named third party's) on other targets, prompts and machines, over a baseline
of theirs, at batch size 1. tau: tokens per target pass, bonus included, unless said. Published speed-ups do not
transfer: the same method differs by 0.9x between two papers.
"""

_SPEC_BENCH = "Spec-Bench leaderboard, Vicuna-7B, A100, T = 0"

PUBLISHED: dict[str, str] = {
    "ngram": f"1.66x (prompt lookup; {_SPEC_BENCH}); 2.66x on summaries, 1.06x on translation",
    "hf_lookup": f"1.66x (prompt lookup; {_SPEC_BENCH}); 2.66x on summaries, 1.06x on translation",
    "draft_model": "1.82x, tau 2.36 (68M drafter, Vicuna-7B, MT-bench, T = 0; arXiv 2406.16858, table 1); "
    "3.4x (T5-XXL with T5-small, translation, T = 0; arXiv 2211.17192, table 2)",
    "medusa": f"2.18x (Medusa-1, Vicuna-7B, MT-bench; arXiv 2401.10774); 1.71x ({_SPEC_BENCH})",
    "eagle_chain": "tau 3.20 (EAGLE as a chain, Vicuna-7B, MT-bench, T = 0; arXiv 2401.15077)",
    "eagle": f"2.90x, tau 3.94 (Vicuna-7B, MT-bench, T = 0; arXiv 2401.15077); 2.10x ({_SPEC_BENCH})",
    "eagle2": f"3.62x, tau 4.98 (Vicuna-7B, MT-bench, T = 0; arXiv 2406.16858); 2.36x ({_SPEC_BENCH})",
    "hass": "3.24x, tau 5.15, EAGLE-2 there 2.81x, 4.61 (LLaMA2-Chat-7B, mean of three sets, T = 0; "
    "arXiv 2408.15766)",
    "eagle3": "4.40x, tau 6.13 (LLaMA3.1-8B, MT-bench, T = 0; arXiv 2503.01840); 3.02x, tau 5.71 (Spec-Bench "
    "leaderboard, Vicuna-13B, A100, T = 0)",
    "eagle_vlm": "1.82x, accepted length 3.55 (LLaVA-1.5-7B, A100, six sets, T = 0; arXiv 2509.11815)",
    "spec_vlm": "1.93x, accepted length 3.65 (LLaVA-1.5-7B, A100, six sets, T = 0; arXiv 2509.11815)",
    "vispec": "2.58x, tau 2.98 without the bonus (LLaVA-1.6-7B, eight sets, T = 0; arXiv 2509.15235)",
    "msd": "2.29x (LLaVA-1.5-7B; arXiv 2505.14260, abstract); 2.04x, tau 4.67 (same target, re-run in "
    "arXiv 2509.23928)",
    "cross_modal": "1.03x as reported, 1.02x as a ratio of means (EventGPT for Video-LLaVA 7B, 10,970 clips, "
    "30 tokens, L4)",
}
"""Method -> figure and source. Methods without an entry have no published figure that could be verified."""


def published(method: str) -> str | None:
    """The published figure of a method as text, with its source; None where there is none."""
    return PUBLISHED.get(method)
