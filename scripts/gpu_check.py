"""Everything that the decoder promises, checked on one GPU; writes a page of markdown (see docs/gpu.md).

    python scripts/gpu_check.py --out checked.md
    python scripts/gpu_check.py --device cpu --tiny --out tried.md    # the same steps, to try the script

Parity with transformers (a tiny model, fp32), bit-exactness of chains and trees, the plain step against the time
that reading the weights takes and against transformers' ``generate``, and the cost of passes of 1 to 128 rows.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from crossdraft.bench.twin import transformers_twin
from crossdraft.core.tree import path_to
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine

SEVEN_B = DecoderConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    max_positions=4096,
)
TINY = DecoderConfig(
    vocab_size=211,
    hidden_size=64,
    intermediate_size=176,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_positions=1024,
)
WIDTHS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)


class Bench:
    """Times calls on a device, waiting for it at both ends."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def ms(self, call: Callable[[], object]) -> float:
        """Median milliseconds, the first two runs left out."""
        times = []
        for _ in range(self.repeats + 2):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times[2:])


def random_decoder(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Random weights of the usual scale, made on the device."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            decoder = Decoder(config)
    finally:
        torch.set_default_dtype(previous)
    with torch.no_grad():
        for p in decoder.parameters():
            if p.ndim == 2:
                p.normal_(std=0.02)
    return decoder


def greedy(engine: Engine, prompt: torch.Tensor, count: int, width: int = 1) -> list[int]:
    """``count`` greedy tokens; with a width, every pass also carries drafts (right ones and wrong ones)."""
    cache = engine.new_cache(len(prompt) + count + width + 1)
    token = int(engine.prefill(engine.embed(prompt), cache).logits[0].argmax())
    out, known = [token], greedy(engine, prompt, count) if width > 1 else []
    while len(out) < count:
        draft = known[len(out) : len(out) + width - 1]
        # a wrong token now and then, so that passes are cut at all places
        draft = [(t + 1) % engine.config.vocab_size if (len(out) + i) % 7 == 6 else t for i, t in enumerate(draft)]
        best = engine.score(torch.tensor([out[-1], *draft]), cache).logits.argmax(-1).tolist()
        taken = 0
        while taken < len(draft) and draft[taken] == best[taken]:
            taken += 1
        cache.commit(range(taken + 1))
        out += best[: taken + 1]
    return out[:count]


def check_parity(device: torch.device) -> str:
    """Logits and greedy tokens of a tiny model, fp32, against transformers."""
    torch.manual_seed(0)
    decoder = random_decoder(TINY, device, torch.float32)
    theirs = transformers_twin(decoder, device, torch.float32)
    engine = Engine(decoder, torch.float32, device)
    ids = torch.randint(TINY.vocab_size, (48,))
    with torch.no_grad():
        want = theirs(ids[None].to(device)).logits[0]
    cache = engine.new_cache(64)
    first = engine.prefill(engine.embed(ids[:24]), cache).logits
    rest = engine.score(ids[24:], cache).logits
    gap = max(float((first[0] - want[23]).abs().max()), float((rest - want[24:]).abs().max()))
    prompt = ids[:12][None].to(device)
    said = theirs.generate(prompt, max_new_tokens=64, do_sample=False, pad_token_id=0)[0, 12:].tolist()
    same = said == greedy(engine, ids[:12], 64)
    return f"largest gap of logits {gap:.1e} (bar 1e-4), 64 greedy tokens identical: {same}"


def check_exactness(engine: Engine, length: int, tokens: int) -> list[str]:
    """Differing rows of chains and trees, and differing tokens of decoding with drafts."""
    cfg = engine.config
    text = torch.randint(cfg.vocab_size, (length + 64,))
    cache = engine.new_cache(length + 80)
    engine.prefill(engine.embed(text[:length]), cache)
    alone = []
    for token in text[length : length + 32]:
        alone.append(engine.score(token.view(1), cache).logits[0].clone())
        cache.commit([0])
    cache.truncate(length)
    differing = {}
    for width in (2, 5, 8, 16, 32):
        wide = engine.score(text[length : length + width], cache).logits
        differing[width] = sum(not torch.equal(wide[i], alone[i]) for i in range(width))
    parents = [-1, -1, 0, 0, 1, 2, 2, 5, 7, 8, 4, 10]
    tree = engine.score(text[length : length + 13], cache, parents=parents).logits.clone()
    wrong = 0
    for node in range(len(parents)):
        rows = [0, *(n + 1 for n in path_to(parents, node))]
        for row in rows:
            got = engine.score(text[length + row : length + row + 1], cache).logits[0]
            cache.commit([0])
        wrong += not torch.equal(got, tree[node + 1])
        cache.truncate(length)
    plain = greedy(engine, text[:length], tokens)
    same = {w: greedy(engine, text[:length], tokens, w) == plain for w in (4, 16, 32)}
    return [
        f"self-test: {engine.exactness.detail}",
        f"rows of chains that differ from rows alone, by width: {differing}",
        f"rows of a 13-row tree that differ from plain text: {wrong}",
        f"{tokens} greedy tokens with drafts identical to plain decoding, by width: {same}",
    ]


def bandwidth_gb_per_s(bench: Bench, size_mb: int) -> float:
    """Measured rate of reading a large array (a sum over it)."""
    block = torch.ones(size_mb * 2**20 // 4, device=bench.device)
    return block.numel() * 4 / bench.ms(block.sum) / 1e6


def check_speed(engine: Engine, decoder: Decoder, bench: Bench, length: int, tokens: int) -> list[str]:
    """Plain step against the floor and transformers; v(w)."""
    cfg = engine.config
    prompt = torch.randint(cfg.vocab_size, (length,))
    cache = engine.new_cache(length + 160)
    prefill = bench.ms(lambda: (cache.truncate(0), engine.prefill(engine.embed(prompt), cache)))
    cost = {w: bench.ms(lambda w=w: engine.score(prompt[:w], cache)) for w in WIDTHS if w < length}
    read = sum(x.in_features * x.out_features for x in engine.linears()) * engine.dtype.itemsize
    read += 2 * length * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * engine.dtype.itemsize
    rate = bandwidth_gb_per_s(bench, 2048 if bench.device.type == "cuda" else 64)
    floor = read / rate / 1e6
    theirs = transformers_twin(decoder, bench.device, engine.dtype)
    ids = prompt[None].to(bench.device)

    def generate() -> None:
        theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )

    bench = Bench(bench.device, 3)
    ours_ms = bench.ms(lambda: greedy(engine, prompt, tokens)) / tokens
    theirs_ms = bench.ms(generate) / tokens
    rows = [
        "| " + " | ".join(map(str, ["rows", *cost])) + " |",
        "| " + " | ".join(["---"] * (len(cost) + 1)) + " |",
    ]
    rows.append("| " + " | ".join(["ms", *(f"{c:.2f}" for c in cost.values())]) + " |")
    rows.append("| " + " | ".join(["v(rows)", *(f"{c / cost[1]:.2f}" for c in cost.values())]) + " |")
    return [
        f"prefill of {length} positions: {prefill:.1f} ms",
        f"plain step behind {length} positions: {cost[1]:.2f} ms; reading {read / 1e9:.2f} GB at the measured "
        f"{rate:.0f} GB/s takes {floor:.2f} ms ({cost[1] / floor:.2f}x the floor)",
        f"plain greedy decoding, {length} + {tokens} tokens, prefill included: ours {ours_ms:.2f} ms per token, "
        f"transformers' generate {theirs_ms:.2f} ms per token ({theirs_ms / ours_ms:.2f}x)",
        "cost of a chain pass by rows:\n\n" + "\n".join(rows) + "\n",
    ]


def main(argv: list[str] | None = None) -> int:
    """Run all checks; exit code 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--layers", type=int, help="fewer layers than the 7B shape has")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; try --device cpu --tiny", file=sys.stderr)
        return 2
    start = time.perf_counter()
    config = TINY if args.tiny else SEVEN_B
    if args.layers:
        config = replace(config, num_layers=args.layers)
    length, tokens = (200, 48) if args.tiny else (600, 128)
    bench = Bench(device, 5 if args.tiny else 15)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    parity = check_parity(device)
    torch.manual_seed(1)
    decoder = random_decoder(config, device, torch.bfloat16)
    engine = Engine(decoder, torch.bfloat16, device)
    exact = check_exactness(engine, length, tokens)
    speed = check_speed(engine, decoder, bench, length, tokens)
    shape = f"{config.num_layers} layers, width {config.hidden_size}, bfloat16, random weights"
    lines = [
        "# The decoder on a GPU",
        "",
        f"Written by `python scripts/gpu_check.py` on {name}, torch {torch.__version__}; {shape}.",
        "",
        "## Parity with transformers (tiny model, float32)",
        "",
        f"- {parity}",
        "",
        "## Bit-exactness",
        "",
        *(f"- {x}" for x in exact),
        "",
        "## Speed",
        "",
        *(f"- {x}" for x in speed),
        "",
        f"All of this took {time.perf_counter() - start:.0f} s.",
        "",
    ]
    with args.out.open("w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    broken = "identical: False" in parity or (engine.exactness.bit_exact and any("False" in x for x in exact))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
