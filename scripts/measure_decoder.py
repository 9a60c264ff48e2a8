"""Measure the decoder on this machine; ``docs/decoder.md`` quotes what this prints.

    python scripts/measure_decoder.py [--threads 1] [--repeats 15] [--shapes nano,135m] [--clock wall|cpu]

Row independence, cost of wide passes, cost over length, allocations, distance to transformers' ``generate``.
Weights are random (the arithmetic does not care). Times are medians of interleaved repeats. ``--clock cpu`` counts
the processor time of the process, which a busy machine disturbs less; it is the elapsed time of one thread only.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from crossdraft.bench.twin import transformers_twin
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine

SHAPES = {
    "nano": DecoderConfig(
        vocab_size=2048,
        hidden_size=320,
        intermediate_size=864,
        num_layers=6,
        num_heads=5,
        num_kv_heads=5,
        head_dim=64,
        max_positions=2048,
    ),
    # the shape of SmolLM2-135M
    "135m": DecoderConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        max_positions=2048,
        tie_embeddings=True,
    ),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
now = CLOCKS["wall"]


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call; the calls take turns, so that a busy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            start = now()
            call()
            times[name].append((now() - start) * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def table(head: list[str], rows: list[list[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *[[str(c) for c in r] for r in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def differing_rows(engine: Engine, tokens: torch.Tensor) -> dict[int, int]:
    """For each width, how many rows of a chain pass differ from the same rows alone."""
    cache = engine.new_cache(600)
    engine.prefill(engine.embed(tokens[:360]), cache)
    text, alone = tokens[360:392], []
    for token in text:
        alone.append(engine.score(token.view(1), cache).logits[0])
        cache.commit([0])
    cache.truncate(360)
    found = {}
    for width in (1, 2, 4, 8, 16, 24, 32):
        wide = engine.score(text[:width], cache).logits
        found[width] = sum(not torch.equal(wide[i], alone[i]) for i in range(width))
    return found


def pass_costs(engine: Engine, repeats: int, cached: int = 300) -> dict[str, float]:
    """Milliseconds of a chain pass by width."""
    cache = engine.new_cache(cached + 64)
    tokens = torch.arange(cached) % engine.config.vocab_size
    engine.prefill(engine.embed(tokens), cache)
    calls = {str(w): (lambda w=w: engine.score(tokens[:w], cache)) for w in (1, 2, 4, 8, 16, 32)}
    return interleaved(calls, repeats)


def length_costs(engine: Engine, repeats: int) -> dict[str, float]:
    """Milliseconds of one token behind 64 to 1024 others."""
    calls = {}
    for length in (64, 256, 512, 1024):
        cache = engine.new_cache(length + 8)
        engine.prefill(engine.embed(torch.arange(length) % engine.config.vocab_size), cache)
        calls[str(length)] = lambda c=cache: engine.score(torch.tensor([7]), c)
    return interleaved(calls, repeats)


def allocations(engine: Engine) -> str:
    """What 200 tokens leave behind: net bytes of tensors by torch's profiler, and the process's peak memory."""
    cache, token = engine.new_cache(900), torch.tensor([7])
    engine.prefill(engine.embed(torch.arange(200) % engine.config.vocab_size), cache)

    def step() -> None:
        engine.score(token, cache)
        cache.commit([0])

    for _ in range(20):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        step()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        for _ in range(10):
            step()
    net = sum(e.self_cpu_memory_usage for e in prof.key_averages())
    names = {e.key for e in prof.key_averages()}
    return (
        f"net tensor memory of 10 tokens: {net} bytes; peak memory of the process grew {grown} KiB over 200 tokens "
        f"(`aten::cat` called: {'aten::cat' in names})"
    )


def against_transformers(decoder: Decoder, engine: Engine, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Milliseconds per token of plain greedy decoding: ours, and ``generate`` of transformers; same weights."""
    theirs = transformers_twin(decoder, "cpu", dtype)
    prompt, count = torch.arange(1, 65)[None], 32

    def generate() -> None:
        theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )

    def ours() -> None:
        cache = engine.new_cache(128)
        token = engine.prefill(engine.embed(prompt[0]), cache).logits.argmax(-1)
        for _ in range(count - 1):
            token = engine.score(token, cache).logits.argmax(-1)
            cache.commit([0])

    got = interleaved({"ours": ours, "transformers": generate}, repeats)
    return {name: ms / count for name, ms in got.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shapes", default="nano,135m")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    args = parser.parse_args()
    global now
    now = CLOCKS[args.clock]
    torch.set_num_threads(args.threads)
    for name in args.shapes.split(","):
        for dtype_name in args.dtypes.split(","):
            torch.manual_seed(0)
            decoder = Decoder(SHAPES[name])
            dtype = getattr(torch, dtype_name)
            start = now()
            engine = Engine(decoder, dtype, self_test=False)
            packed = now() - start
            start = now()
            engine.run_self_test()
            tested = now() - start
            print(f"\n### {name}, {dtype_name}, {args.threads} thread(s), {args.clock} time\n")
            print(f"packing {packed * 1e3:.0f} ms, self-test {tested * 1e3:.0f} ms: {engine.exactness.detail}\n")
            tokens = torch.randint(decoder.config.vocab_size, (400,))
            rows = differing_rows(engine, tokens)
            cost = pass_costs(engine, args.repeats)
            print(
                table(
                    ["rows in the pass", *cost],
                    [
                        ["ms", *[f"{v:.2f}" for v in cost.values()]],
                        ["v(rows)", *[f"{v / cost['1']:.2f}" for v in cost.values()]],
                        ["rows that differ from rows alone", *[rows[int(w)] for w in cost]],
                    ],
                )
            )
            weight_bytes = sum(x.in_features * x.out_features for x in engine.linears()) * dtype.itemsize
            print(
                f"\nweights read per pass: {weight_bytes / 1e6:.1f} MB, {weight_bytes / cost['1'] / 1e6:.1f} GB/s\n"
            )
            lengths = length_costs(engine, args.repeats)
            print(table(["tokens cached", *lengths], [["ms per token", *[f"{v:.2f}" for v in lengths.values()]]]))
            print(f"\n{allocations(engine)}\n")
            pair = against_transformers(decoder, engine, dtype, max(3, args.repeats // 5))
            print(
                f"plain greedy decoding, 64 + 32 tokens, ms per token: ours {pair['ours']:.2f}, transformers "
                f"{pair['transformers']:.2f}: {pair['transformers'] / pair['ours']:.2f}x"
            )


if __name__ == "__main__":
    main()
