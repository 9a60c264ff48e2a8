"""``crossdraft bench`` without a measurement: the league on a tiny random pair in the built-in pair's place."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.bench.league_rows import LeagueRow
from crossdraft.cli.bench_league import notes
from crossdraft.core.errors import SettingError
from crossdraft.core.records import read_record
from crossdraft.heads.checkpoint import HEAD, HeadCard, save_head
from crossdraft.heads.recipes import RECIPES, recipe_of
from crossdraft.league.methods import METHODS
from crossdraft.models import decoder_config
from crossdraft.report.assemble import build_report

Run = Callable[..., tuple[int, str, str]]
FIGURES = {
    "tau": float, "tau_draft": float, "speedup_decode": float, "speedup_e2e": float, "slower_share": float,
    "tokens": int, "rounds": int, "decode_tokens_per_s": float, "first_token_ms": float, "parameters": int,
    "weight_bytes": int, "requests": int,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_nano(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for role in ("target", "event"):
        write_checkpoint(root / f"nano-{role}", role, max_position_embeddings=2048)
    shutil.copytree(root / "nano-event", root / "nano-event-distilled")
    torch.manual_seed(0)
    for name in RECIPES:
        head = recipe_of(name).network(decoder_config(root / "nano-target"))
        save_head(root / "nano-heads" / name / HEAD, head, HeadCard(method=name, target="nano-target"))
    return root


@pytest.fixture
def bench(run: Run, tiny_nano: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``crossdraft bench`` with short answers."""
    from crossdraft.models import nano

    monkeypatch.setattr(nano, "WEIGHTS", tiny_nano)
    return lambda *argv: run("bench", *argv)


def rows_of(path: Path) -> dict[tuple[str, float], dict[str, Any]]:
    return {(row["method"], row["temperature"]): row for row in read_record(path, "league")["rows"]}


def test_all_methods_in_one_table(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "league.json"
    code, told, err = bench(
        "--target", "nano", "--methods", "all", "--limit", "2", "--repeats", "1", "--temperature", "0,1",
        "--max-new-tokens", "10", "--dtype", "float32", "--json", out,
    )  # fmt: skip
    assert code == 0, err
    body, rows = read_record(out, "league"), rows_of(out)
    assert set(rows) == {(name, t) for name in METHODS for t in (0.0, 1.0)}
    assert all(set(row) == {field.name for field in fields(LeagueRow)} for row in rows.values())
    adapters = {name for name in METHODS if name.startswith("cross_modal_l")}
    # these are trained by a study, whose folder was not given: rows with the reason
    assert {name for (name, _), row in rows.items() if row["error"] is not None} == adapters
    assert all("--adapters" in row["error"] for (name, _), row in rows.items() if name in adapters)
    for (name, temperature), row in rows.items():
        if name in adapters:
            continue
        for figure, kind in FIGURES.items():
            assert isinstance(row[figure], kind), (name, figure)
        if name in ("draft_model", "medusa_typical") and temperature:
            # judged by rules of their own: drawn drafts keep the law, not the tokens; typical acceptance neither
            assert row["rule"] == {"draft_model": "leviathan", "medusa_typical": "typical"}[name]
            assert row["lossless"] == (name == "draft_model") and row["mismatches"] is None
        elif not name.startswith("hf"):
            assert row["lossless"] and row["mismatches"] == 0 and row["arithmetic"] == "bit-exact", name
            assert row["rule"] == ("greedy" if temperature == 0 else "sampling")
        else:
            assert not row["lossless"] and row["output"] == "other arithmetic"
        assert row["requests"] == (2 if temperature == 0 else 6) and name in told
    # the same float32 weights and the same ids: near-ties apart, transformers says the same
    assert rows["hf", 0.0]["agreeing_tokens"] >= 0.8 * rows["hf", 0.0]["compared_tokens"]
    assert rows["cross_modal", 0.0]["weight_bytes"] > 10_000
    assert rows["ngram", 0.0]["published"] and rows["none", 0.0]["published"] is None
    assert body["provenance"]["machine"]["cores"] >= 1 and body["threads"] == 1 and body["seconds"] > 0
    assert body["prompts"]["prompts"] == 2 and body["prompts"]["name"] == "streams"
    assert [len(cost["passes"]) for cost in body["verify_costs"]] == [9, 9]
    shares = {told["method"]: told for told in body["round_shares"]}
    assert set(shares) == {"medusa", "medusa_typical", "eagle_chain", *set(RECIPES) - {"medusa"}, "eagle2"}
    for told in shares.values():
        parts = [told[name] for name in ("network", "bookkeeping", "verify", "commit")]
        assert sum(parts) == pytest.approx(1) and min(parts) > 0
    assert [len(trace["methods"]) for trace in body["traces"]] == [len(METHODS) - len(adapters)] * 2
    assert '<section id="league">' in build_report([out])


def test_equal_budgets(bench: Run, tmp_path: Path) -> None:
    code, _, err = bench(
        "--methods", "memory,constant,perfect", "--limit", "3", "--repeats", "1", "--mode", "equal", "--nodes", "9",
        "--depth", "3", "--max-new-tokens", "24", "--out", tmp_path, "--traces", "0",
    )  # fmt: skip
    assert code == 0, err
    rows = rows_of(tmp_path / "league.json")
    assert [name for name, _ in rows] == ["none", "memory", "constant", "perfect"]
    for name in ("memory", "constant", "perfect"):
        row = rows[name, 0.0]
        assert row["settings"]["length"] == 3 and row["levels"] <= 3 and len(row["histogram"]) <= 4
    assert len(rows["perfect", 0.0]["histogram"]) == 4


def test_best_settings_are_chosen_on_other_prompts(bench: Run) -> None:
    code, told, err = bench(
        "--methods",
        "ngram,hf",
        "--limit",
        "1",
        "--repeats",
        "1",
        "--mode",
        "best",
        "--max-new-tokens",
        "8",
        "--json",
    )
    assert code == 0, err
    body = json.loads(told)
    tuning = body["tuning"]
    assert set(tuning["methods"]) == {"ngram"} and tuning["prompts"]["prompts"] == 1
    tried = [t["settings"] for t in tuning["methods"]["ngram"]["tried"]]
    assert tried == [{}, {"length": 4}, {"length": 8}, {"length": 16}]
    assert body["rows"][1]["settings"] == tuning["methods"]["ngram"]["chosen"] in tried
    assert any("chosen on 1 other prompts" in line for line in notes(body))


def test_a_method_that_cannot_be_made_is_a_row(bench: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    code, told, err = bench(
        "--target", pair[0], "--methods", "cross_modal,ngram", "--prompts", "streams", "--limit", "1", "--repeats",
        "1", "--max-new-tokens", "8", "--json", tmp_path / "l.json",
    )  # fmt: skip
    assert code == 0, err
    rows = rows_of(tmp_path / "l.json")
    assert (
        rows["cross_modal", 0.0]["error"]
        == "drafter 'cross_modal' needs an event model; give one with --event-model"
    )
    assert rows["cross_modal", 0.0]["tau"] is None and rows["ngram", 0.0]["error"] is None
    assert "FAILED 'cross_modal': drafter 'cross_modal' needs an event model" in told


def test_a_run_that_is_interrupted_keeps_its_whole_heats(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossdraft.bench import league

    heats = []

    def run(*args: Any, whole: Any = league._run) -> Any:
        heats.append(args)
        if len(heats) > 1:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(league, "_run", run)
    out = tmp_path / "league.json"
    code, told, err = bench(
        "--methods", "ngram", "--limit", "1", "--repeats", "2", "--temperature", "0,1", "--max-new-tokens", "8",
        "--json", out,
    )  # fmt: skip
    assert code == 130 and "wrote" in err and err.endswith("crossdraft: interrupted\n"), err
    assert "INTERRUPTED" in told and read_record(out, "league")["temperatures"] == [0.0]
    assert set(rows_of(out)) == {("none", 0.0), ("ngram", 0.0)} and '<section id="league">' in build_report([out])


def test_a_head_under_another_methods_name_is_refused(tmp_path: Path) -> None:
    """A row's name is the head's, wherever its file lies."""
    from crossdraft.build import resolve
    from crossdraft.build.heads import find_head

    nano = resolve("nano", "target")
    own = find_head("eagle3", nano)
    for folder in (tmp_path / "msd", tmp_path):
        folder.mkdir(exist_ok=True)
        shutil.copy(own, folder / own.name)
        with pytest.raises(SettingError, match="is a head 'eagle3', which does not draft for 'msd'"):
            find_head("msd", nano, tmp_path)
    assert find_head("eagle3", nano, tmp_path) == tmp_path / own.name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--methods", "ngran"), "unknown method 'ngran'. Did you mean 'ngram'?"),
        (("--methods", "ngram,"), "names with commas"),
        (("--temperature", "hot"), "--temperature is 'hot'"),
        (("--temperature", "-1"), "temperature is -1.0, must be 0 (greedy) or more"),
        (("--temperature", "0,0"), "a temperature is given twice"),
        (("--temperature", "nan"), "temperature is nan"),
        (("--limit", "0"), "limit is 0, must be 1 or more"),
        (("--repeats", "0"), "repeats is 0"),
        (("--mode", "fair"), "unknown mode 'fair'"),
        (("--prompts", "nothing.jsonl"), "no prompts are called 'nothing.jsonl'"),
        (("--prompts", "EMPTY"), "is not a data set"),
        (("--dtype", "int3"), "dtype 'int3'"),
        (("--max-new-tokens", "0"), "max_new_tokens is 0"),
        (("--seed", "-1"), "a seed is negative"),
        (("--prompts", "league"), "watches pictures and the prompts 'league' are text alone; name streams or"),
        (("--heads", "nowhere"), "there is no folder of heads"),
        (("--heads", "FILE"), "FILE is a file; name the folder of heads"),
        (("--nodes", "5"), "nodes is for mode equal, and the mode is own"),
        (("--mode", "equal", "--nodes", "64"), "nodes is 64, must be from 1 to 63"),
        (("--mode", "equal", "--depth", "65"), "depth is 65, must be from 1 to 64"),
        (("--mode", "best", "--depth", "5"), "depth is for mode equal, and the mode is best"),
        (("--limit", "8001"), "limit is 8001, but 'streams' has 8000 prompts at most"),
        (("--out", "FILE"), "--out needs FILE/league.json, but FILE is a file"),
        (("--json", "/proc/x.json"), "--json needs /proc/x.json, but /proc cannot be written to"),
        (("--quick",), "--quick is for a measurement"),
        (("--json", "EMPTY"), "EMPTY is a folder"),
        (("exactness", "--limit", "3"), "--limit is for the league"),
        (("growth", "--methods", "ngram"), "--methods is for the league"),
        (("exactness", "--methods", "ngran"), "unknown drafter 'ngran'"),
        (("exactness", "--json", "file"), "give --out DIR"),
        (("--json", "exactness"), "name the measurement before its options"),
    ],
)
def test_bad_input_is_one_line_before_any_weight_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    from crossdraft.build import load

    monkeypatch.setattr(load, "load_vlm", lambda *a, **k: pytest.fail("weights were loaded"))
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)
    code, out, err = run("bench", *options)
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err, err


def test_exactness_of_chosen_drafters(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossdraft.bench import exactness

    monkeypatch.setattr(exactness, "QUICK_WIDTHS", (9,))
    seen = []
    monkeypatch.setattr(
        exactness.Tally, "add", lambda self, what, plain, own, add=exactness.Tally.add: (
            seen.append(what.split(",")[0]), add(self, what, plain, own)
        ),
    )  # fmt: skip
    code, out, err = bench("exactness", "--quick", "--methods", "ngram,memory")
    assert code == 0, err
    assert set(seen) == {"ngram", "memory", "scripted"} and "0 of " in out


def test_what_must_be_said_is_said_below_the_table() -> None:
    def row(method: str, **changes: Any) -> dict[str, Any]:
        body = {
            "method": method,
            "error": None,
            "output": "lossless",
            "lossless": True,
            "mismatches": 0,
            "audit": None,
        }
        return {**body, **changes}

    body = {
        "rows": [
            row("none"), row("a", error="lost"), row("b", output="lossy", lossless=False, mismatches=9),
            row("c", mismatches=1), row("d", audit={"checked": 9, "doubts": 1}),
        ],
        "round_shares": [{"bookkeeping": 0.031}, {"bookkeeping": None}, {"bookkeeping": 0.12},
                         {"method": "eagle", "bookkeeping": None, "error": "OSError: gone"}],
        "tuning": None, "interrupted": False, "exactness": {"bit_exact": False, "detail": "not tested"},
    }  # fmt: skip
    failed, lossy, wrong, doubts, shares, gone, exact = notes(body)
    assert gone == "eagle: where a round's time goes could not be measured (OSError: gone)"
    assert "takes 3% to 12% of a round" in shares
    assert (
        failed == "FAILED 'a': lost" and lossy.endswith(": b") and wrong.endswith(": c") and doubts.endswith(": d")
    )
    assert exact == "not bit-exact: not tested"


def test_a_record_that_could_not_be_written_is_refused_before_the_work(bench: Run, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("a file")
    code, said, err = bench("--methods", "none", "--json", plain / "x.json")
    assert code == 2 and not said and f"{plain} is a file" in err


def test_nothing_that_could_be_measured_is_a_failure(bench: Run, tmp_path: Path) -> None:
    code, said, _ = bench("--methods", "eagle2", "--heads", tmp_path, "--limit", "1", "--max-new-tokens", "4")
    assert code == 2 and "FAILED 'eagle2'" in said
