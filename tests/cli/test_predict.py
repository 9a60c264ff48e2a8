"""``crossdraft predict`` and ``crossdraft verdict``: figures in, an honest table out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.bench.profile import LatencyProfile, save
from crossdraft.core.records import write_record
from crossdraft.evaluate.latency import Times
from crossdraft.evaluate.prediction import Acceptance, predict

Run = Callable[..., tuple[int, str, str]]

# an event model that costs 92 ms before its first token beside a target with 317 ms of prefill
TIMES = (
    "--times", "target_encode=0", "target_prefill=317", "step=14", "verify=2:65,21:70", "draft_step=10",
    "event_encode_ms=9", "event_prefill=83", "window=own-device",
)  # fmt: skip
RATES = ("--acceptance", "0.9,0.9,0.8,0.8,0.7,0.7", "--tokens", "30")


def test_ours_stands_beside_what_was_published(run: Run) -> None:
    code, out, err = run("predict", *TIMES, *RATES)
    assert code == 0, err
    assert out.count("as published") == 9 and out.count("modelled") == 2
    assert "Leviathan" in out and "leaves out" in out and "no drafting beats 2.28x" in out
    assert "target_prefill_ms  317.0 (assumed)" in out and "2: 65  21: 70 (assumed)" in out


def test_the_json_says_what_was_computed(run: Run) -> None:
    body = json.loads(run("predict", *TIMES, *RATES, "--json")[1])
    times = Times(
        target_encode_ms=0.0, target_prefill_ms=317.0, step_ms=14.0, verify_ms={2: 65.0, 21: 70.0},
        draft_step_ms=10.0, event_encode_ms=9.0, event_prefill_ms=83.0, window="own-device",
    )  # fmt: skip
    mine = predict(times, Acceptance((0.9, 0.9, 0.8, 0.8, 0.7, 0.7)), 30, "one-shot")
    shown = {p["scheme"]: p for p in body["ours"]}
    assert shown["one-shot"]["speedup_e2e"] == pytest.approx(mine.speedup_e2e)
    assert shown["one-shot"]["window_drafted"] == mine.window_drafted
    assert {p["label"] for p in body["published"]} == {"as published"}
    assert body["times"]["verify_ms"] == {"value": {"2": 65.0, "21": 70.0}, "origin": "assumed"}


def test_a_measured_profile_in_both_forms(run: Run, tmp_path: Path) -> None:
    profile = LatencyProfile(10.0, 20.0, {1: 5.0, 8: 6.0}, 140, 1.0, 2.0, 3.0)
    save(profile, tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text())["profile"]
    printed = {**kept, "target_pass_ms": {str(rows): ms for rows, ms in kept["target_pass_ms"]}}
    (tmp_path / "printed.json").write_text(json.dumps(printed))
    bodies = [
        json.loads(run("predict", "--profile", tmp_path / name, *RATES, "--json")[1])
        for name in ("kept.json", "printed.json")
    ]
    assert bodies[0] == bodies[1]
    assert bodies[0]["times"]["step_ms"] == {"value": 5.0, "origin": "measured"}
    assert bodies[0]["times"]["adapter_ms"]["origin"] == "assumed"


def test_acceptance_from_records(run: Run, tmp_path: Path) -> None:
    rounds = [{"drafted": 2, "accepted": 1, "emitted": 2}, {"drafted": 2, "accepted": 2, "emitted": 3}]
    answer = write_record(tmp_path / "answer.json", "generation", {"rounds": rounds})
    body = json.loads(run("predict", *TIMES, "--acceptance", answer, "--tokens", "9", "--json")[1])
    assert body["acceptance"] == {"decode": [1.0, 0.5], "window": []}
    rates = write_record(tmp_path / "rates.json", "offline", {"alpha": [0.5, 0.4], "window_alpha": [0.3]})
    body = json.loads(run("predict", *TIMES, "--acceptance", rates, "--tokens", "9", "--json")[1])
    assert body["acceptance"] == {"decode": [0.5, 0.4], "window": [0.3]}
    given = ("--window-acceptance", "0.9,0.8")
    body = json.loads(run("predict", *TIMES, "--acceptance", rates, *given, "--tokens", "9", "--json")[1])
    assert body["acceptance"]["window"] == [0.9, 0.8]


def test_the_verdicts(run: Run) -> None:
    code, out, err = run("verdict", *TIMES, *RATES, "--interval", "3.0", "3.6")
    assert code == 0, err
    assert "cross-modal prefill: NOT VIABLE" in out and "production (> 3x): NOT VIABLE" in out
    assert "(A0 + 1) t > a + V(n + 1) + delay" in out
    assert "would flip it: acceptance: 3.49 -> " in out and "alone flips it" in out
    body = json.loads(run("verdict", *TIMES, *RATES, "--interval", "3.0", "5.8", "--json")[1])
    assert [v["answer"] for v in body["verdicts"]] == ["UNDETERMINED", "NOT VIABLE", "UNDETERMINED", "NOT VIABLE"]
    assert body["interval"] == [3.0, 5.8] and len(body["verdicts"][0]["flips"]) == 4


def test_the_threshold_of_production_is_a_choice(run: Run) -> None:
    assert "production (> 0.9x): VIABLE" in run("verdict", *TIMES, *RATES, "--production", "0.9")[1]
    assert "no interval was given" in run("verdict", *TIMES, *RATES)[1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("predict", *RATES), "not known: target_encode_ms"),
        (("predict", *TIMES, "luck=3", *RATES), "--times 'luck=3' is no NAME=MS"),
        (("predict", *TIMES, "adapter", *RATES), "--times 'adapter' is no NAME=MS"),
        (("predict", *TIMES, "adapter=fast", *RATES), "expected a number"),
        (("predict", *TIMES, "verify=2", *RATES), "expected ROWS:MS"),
        (("predict", *TIMES, "window=ajar", *RATES), "unknown window 'ajar'"),
        (("predict", *TIMES, "--acceptance", "often", "--tokens", "9"), "neither a file nor numbers"),
        (("predict", *TIMES, "--acceptance", "1.5", "--tokens", "9"), "acceptance rate is 1.5"),
        (("predict", *TIMES, "--acceptance", "0.5", "--tokens", "0"), "answer of 0 tokens"),
        (("predict", "--profile", "none.json", *RATES), "no such record: none.json"),
        (("predict", *TIMES, "--acceptance", ",".join(["0.9"] * 300), "--tokens", "9"), "rates of 300 depths"),
        (("predict", *TIMES, "--acceptance", "x" * 5000, "--tokens", "9"), "neither a file nor numbers"),
        (("predict", *TIMES, "--acceptance", "0.5", "--tokens", "1000000000"), "cannot be predicted"),
        (("verdict", *TIMES, "--acceptance", "0.5", "--tokens", "1000000000"), "is too long"),
        (("predict", *TIMES, "step=1e308", *RATES), "step_ms is 1e+308"),
        (("predict", *TIMES, "step=1e-300", *RATES), "step_ms is 1e-300"),
        (("predict", *TIMES, *RATES, "--window-acceptance", ""), "--window-acceptance ''"),
        (("verdict", *TIMES, *RATES, "--interval", "0", "1"), "enclose the 3.4"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(argv: tuple[str, ...], words: str, run: Run) -> None:
    code, out, err = run(*argv)
    assert code == 2 and out == ""
    assert err.startswith("crossdraft: error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not a readable record"), ("[1]", "is not a record"), ("{}", "neither 'alpha' rates nor 'rounds'"),
     ('{"rounds": [3]}', "neither"), ('{"alpha": 3}', "neither"), ('{"alpha": ["x"]}', "neither"),
     ('{"alpha": "0.5"}', "neither"), ('{"alpha": {"1": 0.5}}', "neither"), ('{"alpha": [2]}', "rate is 2.0"),
     ('{"alpha": [0.5], "window_alpha": "x"}', "neither"), ("[" * 100_000, "not a readable record"),
     ('{"rounds": [{"drafted": "a", "accepted": 0, "emitted": 1}]}', "neither"),
     ('{"rounds": [{"drafted": 1000000000, "accepted": 0, "emitted": 1}]}', "drafted 1000000000 tokens")],
)  # fmt: skip
def test_damaged_records(text: str, words: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    code, _, err = run("predict", *TIMES, "--acceptance", tmp_path / "r.json", "--tokens", "9")
    assert code == 2 and words in err and err.count("\n") == 1
    if text != "{}":
        code, _, err = run("predict", "--profile", tmp_path / "r.json", *RATES)
        assert code == 2 and err.count("\n") == 1


def test_a_profile_with_a_byte_order_mark(run: Run, tmp_path: Path) -> None:
    body = {
        "target_pass_ms": {"1": 5.0, "8": 6.0},
        "target_encode_ms": 1,
        "target_prefill_ms": 2,
        "event_token_ms": 3,
    }
    (tmp_path / "p.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(body).encode())
    assert run("predict", "--profile", tmp_path / "p.json", *RATES)[0] == 0
