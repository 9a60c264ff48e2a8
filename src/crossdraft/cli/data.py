"""``crossdraft data``: simulate events from a video, write synthetic streams, look at a recording."""

import argparse

from crossdraft.cli import data_answers, data_prompts, output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    command = commands.add_parser("data", help="make and look at recordings")
    verbs = command.add_subparsers(dest="verb", metavar="VERB", required=True)

    simulate = verbs.add_parser("simulate", help="an event recording from a video (needs the extra 'simulate')")
    simulate.add_argument("video", metavar="VIDEO")
    simulate.add_argument("out", metavar="OUT.npz")
    simulate.set_defaults(run=run_simulate)

    scenes = verbs.add_parser("scenes", help="synthetic streams: video, events, questions and answers")
    scenes.add_argument("out", metavar="OUT", help="folder to write, in the EventGPT instruction format")
    scenes.add_argument("--streams", type=int, default=1, metavar="N")
    scenes.add_argument("--clips", type=int, default=32, metavar="N", help="clips of a stream (default: 32)")
    scenes.add_argument("--seed", type=int, default=0, metavar="S")
    scenes.add_argument(
        "--kind", choices=("drive", "cut"), default="drive", help="cut: every clip is another scene"
    )
    scenes.add_argument(
        "--calibrate", action="store_true", help="also say how far the answers can be guessed from their past"
    )
    scenes.set_defaults(run=run_scenes)

    check = verbs.add_parser("check", help="read an event recording and say what is in it")
    check.add_argument("events", metavar="FILE")
    check.add_argument("--sensor", metavar="WxH", help="sensor size, where the recording does not carry it")
    check.add_argument("--json", action="store_true", help="machine-readable")
    check.set_defaults(run=run_check)

    data_answers.add(verbs)
    data_prompts.add(verbs)


def run_simulate(args: argparse.Namespace) -> int:
    """Write the events that an event camera would have seen of the video."""
    from crossdraft.data.simulate import simulate_events

    with output.progress() as report:
        events = simulate_events(args.video, args.out, progress=report)
    print(f"{args.out}: {len(events)} events, {events.sensor_size[0]}x{events.sensor_size[1]}")
    return 0


def run_scenes(args: argparse.Namespace) -> int:
    """Write the streams."""
    from crossdraft.data.scenes import calibrate, streams_of, write_streams

    with output.progress() as report:
        clips = write_streams(args.out, args.streams, args.clips, args.seed, args.kind, report)
    print(f"{args.out}: {args.streams} streams, {clips} clips")
    if args.calibrate:
        figures = calibrate(streams_of(args.streams, args.clips, args.seed, args.kind))
        output.print_table(
            "a memory of the last 16 clips' answers, chain of 16",
            ("question", "tokens a pass", "same as before", "words"),
            [
                (c.question, f"{c.tau:.2f}", f"{c.repeat_share:.1%}", f"{c.mean_tokens:.0f}")
                for c in figures.values()
            ],
        )
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print size, span and sensor of a recording."""
    from crossdraft.data.events import load_events, parse_sensor_size

    events = load_events(args.events, parse_sensor_size(args.sensor) if args.sensor else None)
    first_us, last_us = int(events.t_us[0]), int(events.t_us[-1])
    facts = {
        "file": args.events, "events": len(events), "first_us": first_us, "last_us": last_us,
        "span_ms": (last_us - first_us) / 1e3, "sensor": list(events.sensor_size),
        "brighter_share": float(events.p.mean()),
    }  # fmt: skip
    if args.json:
        output.print_json(facts)
    else:
        output.print_facts({name: str(value) for name, value in facts.items()})
    return 0
