"""How adapters were trained: losses and held-out figures by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from crossdraft.report import blocks, charts, words
from crossdraft.report.gather import Gathered, reading

_CHARTS = (
    ("Loss by epoch", "loss", {"loss": "training", "held_out_loss": "held out"}),
    ("Held-out cosine and token match by epoch", "share", {"held_out_cos": "cosine", "held_out_top1": "top 1"}),
    ("Held-out mean run by epoch", "tokens", {"held_out_run": "mean run"}),
)


def training(gathered: Gathered) -> Markup:
    """Curves of every training record; the best epoch is marked."""
    parts = []
    for found in gathered.of("adapter-training"):
        with reading(found):
            body, epochs = found.body, found.body.get("epochs", [])
            parts += [blocks.heading(str(body["name"])), blocks.text(_facts(body), "note")]
            charted = [_chart(title, unit, keys, epochs, body.get("best_epoch")) for title, unit, keys in _CHARTS]
            parts += [blocks.grid(charted), _table(epochs)]
    return blocks.together(parts)


def _facts(body: Mapping[str, Any]) -> str:
    told = {
        "level": words.short(body.get("level")), "trained on": words.short(body.get("trained_on")),
        "parameters": words.count(body.get("parameters")), "time": words.figure(body.get("seconds"), 0, " s"),
        "best epoch": words.count(body.get("best_epoch")),
    }  # fmt: skip
    return ", ".join(f"{name} {value}" for name, value in told.items() if value != words.NOTHING)


def _chart(
    title: str, unit: str, keys: Mapping[str, str], epochs: Sequence[Mapping[str, Any]], best: int | None
) -> Markup:
    numbers = [epoch["epoch"] for epoch in epochs]
    series = [
        charts.Series(name, numbers, [words.known(epoch.get(key)) for epoch in epochs], tone=tone)
        for tone, (key, name) in enumerate(keys.items())
        if any(epoch.get(key) is not None for epoch in epochs)
    ]
    rule = best if best in numbers else None
    return charts.lines(title, series, x_label="epoch (the line marks the best)", y_label=unit, rule=rule)


def _table(epochs: Sequence[Mapping[str, Any]]) -> Markup:
    keys = [key for _, _, names in _CHARTS for key in names if any(key in epoch for epoch in epochs)]
    body = [[words.count(epoch["epoch"]), *(words.figure(epoch.get(key), 4) for key in keys)] for epoch in epochs]
    return blocks.folded("Table: epochs", ["epoch", *(key.replace("_", " ") for key in keys)], body)
