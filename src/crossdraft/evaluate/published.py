"""Speed-up formulas as they were published, by name, each with what it leaves out.

They are here to be compared with, not to be believed: ``latency`` and ``prediction`` are the model of this package.
Nothing is built in; every figure a formula needs is an argument, times in milliseconds.
"""

from dataclasses import dataclass

from crossdraft.core.errors import SettingError
from crossdraft.evaluate.expected import expected_length, fit_alpha, reach
from crossdraft.evaluate.latency import Times
from crossdraft.evaluate.prediction import Acceptance

LABEL = "as published"
GAMMA = 5
"""The draft length at which the published study evaluates its formulas."""

_NOTE = "xifan-zhang/EventGPT, feasible/feature_alignment/ACCEPT_RATE_VS_SPEEDUP_ANALYSIS.md"
_TASKS = "xifan-zhang/EventGPT, feasible/feature_alignment/TASKS.md"
_METRICS = "xifan-zhang/EventGPT, feasible/feature_alignment/measure_feature_acceptance.py"
_TWO_PHASE = "xifan-zhang/EventGPT, feasible/feature_alignment/eval_two_phase.py"
_TOKENS = "xifan-zhang/EventGPT, feasible/token_alignment"


@dataclass(frozen=True)
class Published:
    """What a published formula gives for ``inputs``: ``speedup``, a ratio, to be shown with its label."""

    name: str
    speedup: float
    formula: str
    inputs: dict[str, float]
    source: str
    leaves_out: str
    label: str = LABEL


def leviathan(alpha: float, gamma: int, cost: float) -> Published:
    """Decode speed-up for one acceptance rate at all depths; cost: draft step / target step.

    Source: Leviathan et al., arXiv 2211.17192, theorem 3.8.
    """
    return Published(
        "Leviathan", capped_geometric(alpha, gamma) / (gamma * cost + 1), "(1 - α^(γ+1)) / ((1 - α)(γc + 1))",
        {"alpha": alpha, "gamma": gamma, "cost": cost}, "Leviathan et al., arXiv 2211.17192, theorem 3.8",
        "encode and prefill; that a wider pass costs more; that α changes with depth",
    )  # fmt: skip


def same_model(alpha: float, gamma: int, overhead: float) -> Published:
    """The note's speed-up of same-model drafting; overhead: drafting a round / target step.

    Source: the study's task list, "consecutive mode". Its note prints 3.1x for alpha 0.70 and overhead 0.3, which
    this formula gives at no draft length.
    """
    return Published(
        "same-model", capped_geometric(alpha, gamma) / (1 + overhead), "(1 - α^(γ+1)) / (1 - α) / (1 + overhead)",
        {"alpha": alpha, "gamma": gamma, "overhead": overhead}, f"{_TASKS}; {_NOTE}, section 4",
        "encode and prefill; the cost of a verify pass beyond one step",
    )  # fmt: skip


def cross_modal(alpha: float, gamma: int, overhead: float) -> Published:
    """The note's cross-modal equation: the same-model formula with next to no overhead.

    Source: the study's note, section 4. It prints 5.8x for acceptance 0.20 and overhead 0.01, which the formula
    gives at no draft length: that figure is a run length over an assumed overhead, see ``run_over_overhead``.
    """
    return Published(
        "cross-modal", capped_geometric(alpha, gamma) / (1 + overhead), "(1 - α^(γ+1)) / (1 - α) / (1 + overhead)",
        {"alpha": alpha, "gamma": gamma, "overhead": overhead}, f"{_TASKS}; {_NOTE}, section 4",
        "encode and prefill, which hiding does not shorten; the verify pass; that a window is open once a request",
    )  # fmt: skip


def run_over_overhead(run: float, overhead: float) -> Published:
    """run / (1 + overhead): the headline figure; run: mean leading positions above a cosine threshold, tokens.

    Source: the study's note; its 5.77x is 6.35 / 1.1.
    """
    return Published(
        "run / overhead", run / (1 + overhead), "run / (1 + overhead)", {"run": run, "overhead": overhead}, _NOTE,
        "prefill, verify pass, answer length and any comparison of tokens; the run exceeds its own draft length",
    )  # fmt: skip


def prefill_speedup(
    run: float, *, target_prefill_ms: float, draft_prefill_ms: float, draft_step_ms: float, step_ms: float
) -> Published:
    """The "prefill speed-up": steps saved in the window over the target's prefill; run: leading accepted tokens.

    Source: the study's metrics, ``speedup_prefill``.
    """
    if target_prefill_ms <= 0:
        raise SettingError("the published prefill speed-up divides by the target's prefill, which takes 0 ms here")
    free = max(0.0, target_prefill_ms - draft_prefill_ms) / draft_step_ms if draft_step_ms else run
    saved = min(run, free) * step_ms
    return Published(
        "prefill speedup", 1 + saved / target_prefill_ms, "1 + min(run, W / t_d) · t / P_t",
        {"run": run, "target_prefill_ms": target_prefill_ms, "draft_prefill_ms": draft_prefill_ms,
         "draft_step_ms": draft_step_ms, "step_ms": step_ms}, f"{_METRICS}: speedup_prefill",
        "the verify pass; that the prefill itself takes as long as before; the rest of the answer",
    )  # fmt: skip


def decode_speedup_gamma5(run: float, *, adapter_ms: float, step_ms: float) -> Published:
    """The "decode speed-up, gamma 5"; run: leading accepted tokens among the answer's first 5.

    Source: the study's metrics, ``speedup_decode_gamma5``.
    """
    return Published(
        "decode speedup gamma5", (run + 1) / (1 + adapter_ms / step_ms), "(run5 + 1) / (1 + a / t)",
        {"run": run, "adapter_ms": adapter_ms, "step_ms": step_ms}, f"{_METRICS}: speedup_decode_gamma5",
        "drafting time; that a wider pass costs more; positions beyond the first five, which are the easiest",
    )  # fmt: skip


def end_to_end(
    run: float, gamma: int, tokens: int, *, target_prefill_ms: float, draft_prefill_ms: float, adapter_ms: float,
    step_ms: float,
) -> Published:  # fmt: skip
    """The "end-to-end" estimate; run: leading accepted tokens among the first ``gamma``.

    Charges gamma + 1 steps for a verify pass.

    Source: the study's metrics, ``speedup_e2e`` (cosine runs) and ``token_sd_e2e_speedup`` (token runs).
    """
    a_round = step_ms * (gamma + 1) + adapter_ms
    decode = tokens / (run + 1) * a_round if run > 0 else tokens * step_ms
    whole = max(target_prefill_ms, draft_prefill_ms + adapter_ms) + decode
    return Published(
        "e2e", (target_prefill_ms + tokens * step_ms) / whole,
        "(P_t + N t) / (max(P_t, P_d + a) + N / (run + 1) · ((γ + 1) t + a))",
        {"run": run, "gamma": gamma, "tokens": tokens, "target_prefill_ms": target_prefill_ms,
         "draft_prefill_ms": draft_prefill_ms, "adapter_ms": adapter_ms, "step_ms": step_ms},
        f"{_METRICS}: speedup_e2e", "what a verify pass was measured to cost; drafting time; contention",
    )  # fmt: skip


def two_phase(
    window_run: float, decode_run: float, tokens: int, *, target_prefill_ms: float, draft_prefill_ms: float,
    adapter_ms: float, step_ms: float,
) -> Published:  # fmt: skip
    """The "two-phase" estimate: window_run tokens for nothing, then decode_run accepted in each round of one step
    and an adapter.

    Source: the study's two-phase evaluation, ``e2e_speedup``.
    """
    left = max(0.0, tokens - window_run)
    decode = left / (decode_run + 1) * (step_ms + adapter_ms) if decode_run > 0 else left * step_ms
    whole = max(target_prefill_ms, draft_prefill_ms + adapter_ms) + decode
    return Published(
        "two-phase", (target_prefill_ms + tokens * step_ms) / whole,
        "(P_t + N t) / (max(P_t, P_d + a) + (N - run_w) / (run_d + 1) · (t + a))",
        {"window_run": window_run, "decode_run": decode_run, "tokens": tokens,
         "target_prefill_ms": target_prefill_ms, "draft_prefill_ms": draft_prefill_ms, "adapter_ms": adapter_ms,
         "step_ms": step_ms}, f"{_TWO_PHASE}: e2e_speedup",
        "the verify pass of the window's draft; that a wider pass costs more; drafting time; that the decode run "
        "was measured on the target's own true states",
    )  # fmt: skip


def token_adapter(match_rate: float, gamma: int) -> Published:
    """The token adapter's speed-up; match_rate: share of positions at which the tokens agree.

    Source: the study's token alignment.
    """
    return Published(
        "token adapter", capped_geometric(match_rate, gamma), "(1 - α^(γ+1)) / (1 - α)",
        {"match_rate": match_rate, "gamma": gamma}, _TOKENS,
        "all time: encode, prefill, drafting, verifying; a match at any position is not acceptance after a prefix",
    )  # fmt: skip


def capped_geometric(alpha: float, gamma: int) -> float:
    """(1 - alpha^(gamma + 1)) / (1 - alpha), tokens of a pass; gamma + 1 for alpha = 1.

    Source: Leviathan et al., arXiv 2211.17192, equation 1. SettingError for an alpha that is no probability.
    """
    if not 0 <= alpha <= 1:
        raise SettingError(f"an acceptance rate is {alpha}, must be between 0 and 1")
    return expected_length(alpha, gamma)


def all_published(times: Times, acceptance: Acceptance, tokens: int, gamma: int = GAMMA) -> tuple[Published, ...]:
    """Every formula above fed with the figures of one pair of models, to be shown beside our own prediction.

    Token acceptance stands where the study put cosine runs, and the overhead is the drafting of a round
    (same-model) or the adapter alone (cross-modal), over a step.
    """
    gamma = min(gamma, len(acceptance.decode))
    alphas = acceptance.decode[:gamma]
    run = sum(reach(alphas))
    alpha = fit_alpha(1 + run, gamma)
    whole_run, window_run = acceptance.mean_accepted, sum(reach(acceptance.in_window))
    step, draft = times.step_ms, times.draft_step_ms
    start = times.target_encode_ms + times.target_prefill_ms
    event = times.event_encode_ms + times.event_prefill_ms
    own = {"target_prefill_ms": start, "draft_prefill_ms": event, "step_ms": step}
    free = max(0.0, start - event) / draft if draft else window_run
    return (
        leviathan(alpha, gamma, draft / step),
        same_model(alpha, gamma, (gamma * draft + times.adapter_ms) / step),
        cross_modal(alpha, gamma, times.adapter_ms / step),
        run_over_overhead(whole_run, times.adapter_ms / step),
        prefill_speedup(window_run, draft_step_ms=draft, **own),
        decode_speedup_gamma5(run, adapter_ms=times.adapter_ms, step_ms=step),
        end_to_end(run, gamma, tokens, adapter_ms=times.adapter_ms, **own),
        two_phase(min(window_run, free), run, tokens, adapter_ms=times.adapter_ms, **own),
        token_adapter(alpha, gamma),
    )
