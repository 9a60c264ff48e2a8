"""Every section: what it says of records that the real dataclasses made, and what it does without them."""

import copy
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from crossdraft.bench.demo import CONTROL
from crossdraft.bench.paired import PLAIN
from crossdraft.core.errors import DataError
from crossdraft.core.records import write_record
from crossdraft.report import words
from crossdraft.report.assemble import build_report, write_report
from crossdraft.report.gather import SHUFFLED, gather
from crossdraft.report.sections import SECTIONS

HOSTILE = "<script>alert('x')</script><img src=https://example.org/x onerror=alert(1)>"


def sections_of(text: str) -> dict[str, str]:
    found = re.findall(r'<section id="(\w+)">(.*?)</section>', text, re.S)
    return dict(found)


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


@pytest.fixture
def shown(run_folder: Path) -> dict[str, str]:
    return sections_of(build_report([run_folder]))


def one(tmp_path: Path, kind: str, body: dict[str, Any]) -> dict[str, str]:
    return sections_of(build_report([write_record(tmp_path / f"{kind}.json", kind, body)]))


def test_every_section_is_there_and_in_the_contents(run_folder: Path, shown: dict[str, str]) -> None:
    assert list(shown) == [section.name for section in SECTIONS]
    text = build_report([run_folder])
    assert re.findall(r'<a href="#(\w+)">', text) == list(shown)
    assert "store.json, of a kind that no section shows ('paired-store')" in html.unescape(text)
    assert "1 JSON file without a record in it (l4/config.json)" in text


def test_the_page_is_the_same_twice(run_folder: Path) -> None:
    assert build_report([run_folder]) == build_report([run_folder])


@pytest.mark.parametrize(
    ("record", "sections"),
    [
        ("live", {"summary", "controls", "speed", "timeline", "traces"}), ("league", {"summary", "league"}),
        ("evaluation", {"summary", "controls", "positions", "runs", "cosine"}),
        ("verdict", {"summary"}), ("l4/training", {"training"}), ("machine/profile", {"profile"}),
        ("answer", {"answers"}), ("bench/growth", {"summary", "benches"}), ("demo", {"benches"}),
    ],
)  # fmt: skip
def test_a_section_without_its_record_is_not_shown(run_folder: Path, record: str, sections: set[str]) -> None:
    assert set(sections_of(build_report([run_folder / f"{record}.json"]))) == sections | {"provenance"}


def test_the_summary_says_what_was_measured(shown: dict[str, str]) -> None:
    told = plain(shown["summary"])
    assert "live, 12 clips: 'cross_modal' is measured at" in told and "95 % interval" in told
    assert re.search(r"best control, whole requests: 'cross_modal' [\d.]+x \(.*?\), tau 3\.49; 'memory' ", told)
    assert told.count("It is ahead, their intervals are apart.") == 2
    assert "lossless, all answers are identical to plain decoding's" in told
    assert "60 samples, 95 % intervals over 6 recordings" in told
    assert "the right clip adds" in told and "1 row void and in no comparison: l1 (reads its answer)" in told
    assert told.count("VIABLE") == 4 and "NOT VIABLE production (> 3x)" in told
    assert "Modelled: an inequality" in told and "Assumed, not measured: event_prefill_ms" in told


def test_no_gain_and_a_lossy_method_are_said_aloud(tmp_path: Path, live: dict[str, Any]) -> None:
    body = copy.deepcopy(live)
    for row in body["rows"]:
        row["speedup_e2e"], row["speedup_e2e_interval"] = 1.0, [0.8, 1.1]
        row["identical"] = row["drafter"] != "memory"
    made = one(tmp_path, "live", body)
    told = plain(made["summary"])
    assert "nothing was gained for certain" in told and "NOT lossless: answers of memory differ" in told
    assert "Nothing is reached that a control does not reach" in told
    assert made["speed"].count('<tr class="bad">') == 1 and "NOT lossless" in plain(made["speed"])
    assert "NOT lossless" in plain(made["controls"])
    body["rows"] = [row for row in body["rows"] if not row["is_control"]]
    assert "no control was run" in plain(one(tmp_path, "live", body)["summary"])


def test_being_ahead_by_less_than_the_intervals_is_not_certain(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    body = copy.deepcopy(evaluation)
    memory = next(row for row in body["rows"] if row["name"] == "memory")
    memory["rounds"]["tau"]["high"] = body["rows"][0]["rounds"]["tau"]["value"]
    assert "ahead, but not for certain" in plain(one(tmp_path, "evaluation", body)["summary"])


def test_a_contribution_that_is_not_shown_is_called_so(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    body = copy.deepcopy(evaluation)
    body["rows"][0]["contribution"]["tau"]["gap"]["low"] = -0.1
    assert "that 'cross_modal' uses its clip is not shown" in plain(one(tmp_path, "evaluation", body)["summary"])


def test_methods_stand_beside_every_control(shown: dict[str, str], evaluation: dict[str, Any]) -> None:
    told = plain(shown["controls"])
    row = evaluation["rows"][0]
    for estimate in (row["tokens"]["top1"], row["contribution"]["top1"]["shuffled"]):
        assert words.estimate(estimate, 3) in told
    for name in ("constant, control", "memory, control", "ngram, control", "cross_modal, shuffled clip"):
        assert told.count(name) >= 3
    bars = shown["controls"].split("<details>")[0]
    assert "reads its answer" not in bars and "it reads the state it is judged by" in told
    assert (
        shown["controls"].count('<tr class="void">') == 1 and shown["controls"].count('<tr class="control">') == 3
    )


def test_speed_says_measured_and_modelled(shown: dict[str, str], live: dict[str, Any]) -> None:
    told = plain(shown["speed"])
    row = next(row for row in live["rows"] if row["drafter"] == "cross_modal")
    low, high = row["speedup_e2e_interval"]
    assert f"{row['speedup_e2e']:.2f}x ({low:.2f} to {high:.2f})" in told and "12 clips drawn anew" in told
    assert "predicted (modelled)" in told and f"{1.5 / row['speedup_e2e'] - 1:+.1%}" in told
    assert told.count("cross_modal tau") == 1


def test_curves_carry_every_figure_and_its_interval(shown: dict[str, str], evaluation: dict[str, Any]) -> None:
    row = evaluation["rows"][0]
    curve = row["tokens"]["positions"]["of_reached"]
    told = html.unescape(shown["positions"])
    for i, value in enumerate(curve["values"]):
        ends = f"({curve['low'][i]:.3f} to {curve['high'][i]:.3f})"
        n = row["tokens"]["positions"]["reached"][i]
        assert f"cross_modal, {i}: {value:.3f} {ends} n = {n}" in told
    assert shown["positions"].count("<svg") == 5 and shown["positions"].count("<details>") == 5
    assert "a diagnostic: it accepts no token" in told
    # void rows can be switched on, controls are dashed
    assert re.search(r'aria-pressed="false"><i class="swatch f\d"></i>l1 \(reads its answer\), void', told)
    assert re.search(r'swatch f\d dashed"></i>memory, control', told)


def test_runs_and_cosines(shown: dict[str, str], evaluation: dict[str, Any]) -> None:
    row = evaluation["rows"][0]
    total = sum(row["tokens"]["runs"]["histogram"])
    assert f"0: {row['tokens']['runs']['histogram'][0]} of {total}" in shown["runs"]
    assert words.estimate(row["tokens"]["runs"]["mean"]) in plain(shown["runs"])
    told = plain(shown["cosine"])
    assert words.estimate(row["map"]["pearson"], 3) in told and "P(match | cos > 0.9)" in told
    assert f"n {row['map']['above'][2]['count']:,}" in told
    at = row["states"]["accept_at"][2]
    assert f"{words.estimate(at['share'], 3)}, run {words.estimate(at['runs']['mean'])}" in told
    assert words.estimate(row["rounds"]["tau_per_request"]) in plain(shown["runs"])


def test_training_marks_its_best_epoch(shown: dict[str, str]) -> None:
    told = plain(shown["training"])
    assert "l4 free-running" in told and "best epoch 6" in told and "parameters 4,200,000" in told
    assert shown["training"].count("<svg") == 3 and shown["training"].count('class="rule"') == 3


def test_training_with_few_keys_shows_what_there_is(tmp_path: Path) -> None:
    body = {
        "name": "a",
        "epochs": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": None}, {"epoch": 3, "loss": 1.0}],
    }
    made = one(tmp_path, "adapter-training", body)["training"]
    assert made.count("<svg") == 1 and made.count("<polyline") == 2


def test_the_timeline_has_a_lane_for_each_model(shown: dict[str, str], live: dict[str, Any]) -> None:
    made = shown["timeline"]
    assert made.count('<span class="lane">target</span>') == 10
    assert made.count('<span class="lane">event model</span>') == 4
    spans = sum(len(m["timeline"]) for t in live["traces"] for m in t["methods"])
    assert made.count('<rect class="w-') == spans


def test_a_trace_is_the_answer_token_for_token(shown: dict[str, str], live: dict[str, Any]) -> None:
    for answer, method in zip(
        re.findall(r'<p class="answer">(.*?)</p>', shown["traces"], re.S),
        [m for t in live["traces"] for m in sorted(t["methods"], key=lambda m: m["name"] == PLAIN)],
        strict=True,
    ):
        kept = re.sub(r"<del.*?</del>", "", answer)
        said = method["first"] + "".join(
            "".join(r["drafted"][: r["accepted"]]) + r["bonus"] for r in method["rounds"]
        )
        assert html.unescape(re.sub(r"<[^>]+>", "", kept)) == said
        rejected = [html.unescape(text) for text in re.findall(r"<del[^>]*>(.*?)</del>", answer)]
        assert rejected == [token for r in method["rounds"] for token in r["drafted"][r["accepted"] :]]
    assert shown["traces"].count("<img ") == 12


def test_the_league_shows_every_row(tmp_path: Path, league: dict[str, Any]) -> None:
    made = one(tmp_path, "league", league)
    told = plain(made["league"])
    for row in (row for row in league["rows"] if row["error"] is None):
        low, high = row["speedup_decode_interval"]
        assert f"{row['method']} {'LOSSY' if row['output'] == 'lossy' else row['output']}" in told
        assert f"{row['speedup_decode']:.2f}x ({low:.2f} to {high:.2f})" in told
        assert (
            words.estimate({"value": row["tau"], "low": row["tau_interval"][0], "high": row["tau_interval"][1]})
            in told
        )
        point = (
            f"{row['method']}: tau {row['tau']:.2f}, speed-up {row['speedup_decode']:.2f} ({low:.2f} to {high:.2f})"
        )
        assert (point in told) == (row["kind"] != "control"), "controls would stretch the chart"
    assert told.count("broken needs a head; <train> one") == 2 and made["league"].count('<tr class="void">') == 2
    assert "2.90x, tau 3.94 (Vicuna-7B, MT-bench" in told and "Published figures are the authors' own" in told
    assert "0 of 288" in told and "1,234,567" in told and "settings tried on 12 other prompts" in told
    # typical is lossy at both temperatures; its line of the table is marked
    assert made["league"].count('<tr class="bad">') == 2 and "prompt <lookup>" in told
    assert "v(w)" in told and "behind 310 positions" in told
    assert "choosing nodes" in told and "7%" in told


def test_the_league_by_depth_and_by_latency(tmp_path: Path, league: dict[str, Any]) -> None:
    told = html.unescape(one(tmp_path, "league", league)["league"])
    row = next(row for row in league["rows"] if row["method"] == "eagle")
    alpha, judged = row["depths"]["alpha"], row["depths"]["judged"]
    for k, value in enumerate(alpha["values"]):
        ends = f"({alpha['low'][k]:.3f} to {alpha['high'][k]:.3f})"
        assert f"eagle, {k + 1}: {value:.3f} {ends} n = {judged[k]}" in told
        assert f"eagle, {k + 1}: {row['reach'][k]:.3f}" in told
    assert f"eagle, {row['token_ms']['p99']:.6g}: 0.990" in told
    assert "hf, 1:" not in told, "what another library drafted is not known"


def test_requests_of_a_league_are_shown_like_any_other(tmp_path: Path, league: dict[str, Any]) -> None:
    made = one(tmp_path, "league", league)
    assert made["timeline"].count('<span class="lane">target</span>') == 3
    assert made["traces"].count('class="viewer"') == 3 and "prompt 1" not in plain(made["summary"])


def test_the_summary_of_a_league(tmp_path: Path, league: dict[str, Any]) -> None:
    told = plain(one(tmp_path, "league", league)["summary"])
    assert "league, 12 prompts, temperature 0: the fastest is 'typical'" in told and "which is lossy" in told
    assert "tokens of lossless rows are plain decoding's own" in told and "1 method failed: broken" in told
    body = copy.deepcopy(league)
    body["rows"][3]["mismatches"] = 2
    told = plain(one(tmp_path, "league", body)["summary"])
    assert f"answers of {body['rows'][3]['method']} differ from plain decoding's" in told


def test_machine_answers_and_measurements(shown: dict[str, str]) -> None:
    assert "target prefill 61.00 ms" in plain(shown["profile"]) and "1.10" in plain(shown["profile"])
    assert "lossless" in plain(shown["answers"]) and "a car turns left" in plain(shown["answers"])
    told = plain(shown["benches"])
    assert "a step does not grow" in told and "64 9.9 1024 10.1" in told and "memory" in told
    assert "l4/training adapter-training" in plain(shown["provenance"])


def test_whatever_a_record_says_is_text(tmp_path: Path, live: dict[str, Any], evaluation: dict[str, Any]) -> None:
    body, offline = copy.deepcopy(live), copy.deepcopy(evaluation)
    body["question"] = HOSTILE
    for trace in body["traces"]:
        trace["question"] = trace["title"] = HOSTILE
        for method in trace["methods"]:
            method["name"] = method["first"] = HOSTILE
            method["rounds"][0].update(source=HOSTILE, bonus=HOSTILE, drafted=[HOSTILE], accepted=0)
            method["timeline"][0].update(lane=HOSTILE, what=HOSTILE)
    for row in body["rows"]:
        row["drafter"] += HOSTILE
    for row in offline["rows"]:
        row["name"] += HOSTILE
        row["void"] = row["trained_on"] = HOSTILE
    offline["store"] = offline["mode"] = HOSTILE
    paths = [
        write_record(tmp_path / f"{kind}.json", kind, b) for kind, b in (("live", body), ("evaluation", offline))
    ]
    text = build_report(paths, HOSTILE)
    assert text.count("<script") == 1 and "<img src=https" not in text and "onerror" in text
    tags = re.findall(r"<[a-zA-Z][^>]*>", text)
    assert not [tag for tag in tags if re.search(r"\son\w+=", re.sub(r'"[^"]*"', "", tag))]


@pytest.mark.parametrize(
    "image", ["https://example.org/a.jpg", "data:text/html;base64,AAAA", "data:image/svg+xml;base64,AAAA", "a.jpg"]
)
def test_an_image_from_elsewhere_is_refused(tmp_path: Path, live: dict[str, Any], image: str) -> None:
    body = copy.deepcopy(live)
    body["traces"][0]["events"][0] = image
    with pytest.raises(DataError, match=r"live\.json is a damaged 'live' record: the image"):
        one(tmp_path, "live", body)


def lose(body: Any, key: str) -> bool:
    """Take ``key`` out of the first mapping that has it."""
    if isinstance(body, dict):
        if key in body:
            del body[key]
            return True
        return any(lose(part, key) for part in body.values())
    return isinstance(body, list) and any(lose(part, key) for part in body)


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ("evaluation", "rows"), ("evaluation", "top1"), ("evaluation", "judged"), ("evaluation", "edges"),
        ("evaluation", "num_recordings"), ("league", "verify_costs"), ("league", "mismatches"),
        ("league", "token_ms"), ("league", "chosen"), ("live", "clips"), ("live", "rounds"), ("live", "identical"),
        ("live", "frames"), ("live", "start_ms"), ("verdict", "verdicts"), ("verdict", "inequality"),
        ("machine/profile", "target_pass_ms"), ("answer", "lossless"), ("bench/growth", "versions"),
    ],
)  # fmt: skip
def test_a_record_that_lacks_something_is_named(run_folder: Path, tmp_path: Path, record: str, key: str) -> None:
    path = run_folder / f"{record}.json"
    body = json.loads(path.read_text())
    assert lose(body, key)
    path.write_text(json.dumps(body))
    out = tmp_path / "out.html"
    with pytest.raises(DataError, match=rf"{path.name} is a damaged .*{key}") as error:
        write_report([run_folder], out)
    assert "\n" not in str(error.value) and not out.exists()


def test_figures_of_another_type_are_a_damaged_record(tmp_path: Path, live: dict[str, Any]) -> None:
    body = copy.deepcopy(live)
    body["rows"][1]["tau"] = "high"
    with pytest.raises(DataError, match=r"live\.json is a damaged"):
        one(tmp_path, "live", body)


def test_undefined_figures_are_gaps(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    body = copy.deepcopy(evaluation)
    row = body["rows"][0]
    row["map"]["match"]["values"][9] = row["map"]["pearson"]["value"] = row["rounds"]["alpha"] = None
    row["tokens"]["top1"]["value"] = math.inf
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"schema": 1, "kind": "evaluation", **body}))
    for name, markup in sections_of(build_report([path])).items():
        assert not re.search(r"\b(?:nan|inf|None)\b", markup), name


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record was found"):
        build_report([tmp_path])
    write_record(tmp_path / "s.json", "paired-store", {})
    with pytest.raises(DataError, match="no section shows records of kind paired-store"):
        build_report([tmp_path])


def test_names_of_plain_decoding_and_of_controls_are_those_of_bench(run_folder: Path) -> None:
    assert words.PLAIN == PLAIN and CONTROL.endswith(SHUFFLED)
    found = gather([run_folder])
    assert found.tone(CONTROL) == found.tone("cross_modal") != found.tone("memory")
