"""``crossdraft profile``: what this machine's passes cost for a pair of models."""

import argparse
from dataclasses import asdict

from crossdraft.cli import output
from crossdraft.cli.generate import add_pair


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("profile", help="measure step, prefill, pass widths and draft costs of a pair")
    add_pair(command)
    command.add_argument(
        "--adapter", metavar="FILE", help="also measure this adapter with the target's head behind it"
    )
    command.add_argument("--refresh", action="store_true", help="measure again even if a measurement is kept")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure (or read what was measured before) and print it."""
    from crossdraft import build
    from crossdraft.adapters.checkpoint import read_card

    if args.adapter:
        read_card(args.adapter)  # a file that is none is told before models are loaded
    with output.progress(args.json) as report:
        plan = build.plan_pair(args.target, args.event_model)
        pair = build.load_pair(plan, dtype=args.dtype, device=args.device, threads=args.threads)
        adapter = build.fitting_adapter(args.adapter, pair) if args.adapter else None
        profile = build.profile_pair(pair, adapter=adapter, refresh=args.refresh, report=report)
    if args.json:
        output.print_json(asdict(profile))
        return 0
    facts = {
        "target": f"encode {profile.target_encode_ms:.1f} ms, prefill {profile.target_prefill_ms:.1f} ms "
        f"({profile.context} positions)",
        "step": f"{profile.pass_ms(1):.2f} ms, {1e3 / profile.pass_ms(1):.0f} tokens/s when decoding plainly",
    }
    ratios = profile.verify_cost_ratio()
    facts["v(w)"] = "  ".join(f"{width}: {ratios[width]:.2f}" for width in sorted(ratios))
    if profile.target_tree_ms:
        step, trees = profile.pass_ms(1), sorted(profile.target_tree_ms.items())
        facts["v(w), trees"] = "  ".join(f"{width}: {ms / step:.2f}" for width, ms in trees)
    if profile.event_token_ms is not None:
        facts["event model"] = (
            f"encode {profile.event_encode_ms:.1f} ms, prefill {profile.event_prefill_ms:.1f} ms, "
            f"token {profile.event_token_ms:.2f} ms"
        )
    if profile.adapter_ms is not None:
        facts["adapter"] = f"{profile.adapter_ms:.2f} ms a drafted token, with the target's head"
    if profile.overhead_ms is not None:
        facts["round"] = f"{profile.overhead_ms:.2f} ms besides its passes"
    if profile.contention is not None:
        facts["side by side"] = (
            f"both prefilled after {profile.overlapped_ms:.1f} ms; the target takes {profile.contention:.2f} times "
            "as long"
        )
    facts["on"] = f"{profile.device}, {profile.threads} threads, {profile.measured.get('date', '')}"
    output.print_facts(facts)
    if "not_kept" in profile.measured:
        output.say(f"crossdraft: the measurement is not kept: {profile.measured['not_kept']}")
    return 0
