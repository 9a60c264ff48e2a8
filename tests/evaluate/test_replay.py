import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.core.errors import DataError
from crossdraft.evaluate.latency import Times, break_even_accepted, hidden_ms, plain_ms
from crossdraft.evaluate.replay import configs_of, fit_one_verification, read_samples, replay

SMALL = Path(__file__).parent / "one_verification.csv"
REAL = Path(__file__).parents[3] / "shared" / "data" / "reference" / "e2e_50tok_prefill_window.csv.gz"


def test_four_answers_by_hand() -> None:
    samples = read_samples(SMALL)
    assert configs_of(samples) == ("quick", "slow")
    quick = replay(samples, "quick")
    assert quick.num_samples == 4
    assert quick.ratio_of_means == pytest.approx(700 / 698)
    assert quick.mean_of_ratios == pytest.approx((2 * 190 / 172 + 170 / 182 + 150 / 172) / 4)
    assert quick.slower_share == 0.5
    assert quick.accepted_mean == 2.25
    assert quick.accepted_sd == pytest.approx(((2 * 1.75**2 + 1.25**2 + 2.25**2) / 3) ** 0.5)
    assert quick.accepted_histogram == {0: 1, 1: 1, 4: 2}
    assert quick.accepted_by_question == {0: 2.5, 1: 2.0}
    assert quick.gain_ms_by_accepted == {0: -22.0, 1: -12.0, 4: 18.0}
    assert quick.accepted_quantiles[50] == 2.5 and quick.accepted_quantiles[25] == 0.75
    assert quick.speedup_quantiles[50] == pytest.approx((170 / 182 + 190 / 172) / 2)


def test_the_pass_and_the_step_are_told_apart() -> None:
    """Verify 30 and step 10 exactly: 4, 5, 4 and 4 steps were left."""
    fit = fit_one_verification(read_samples(SMALL), "quick")
    assert (fit.verify_ms, fit.step_ms, fit.adapter_ms) == pytest.approx((30.0, 10.0, 2.0))
    assert fit.break_even_accepted == pytest.approx((30 + 2) / 10 - 1)


def test_one_answer_has_no_spread() -> None:
    samples = read_samples(SMALL)
    assert replay(samples, "slow").accepted_sd is None
    with pytest.raises(DataError, match="equally many steps"):
        fit_one_verification(samples, "slow")
    with pytest.raises(DataError, match="no sample of 'L9'; there are quick, slow"):
        replay(samples, "L9")


def test_runs_are_not_thrown_together(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text(SMALL.read_text() + "r2,10,slow,0,0,10,5,0,6,100,112,212,2,110,190,0.8962\n")
    samples = read_samples(path)
    with pytest.raises(DataError, match="'slow' was run 2 times \\(r1, r2\\)"):
        replay(samples, "slow")
    assert replay([s for s in samples if s.run == "r2"], "slow").num_samples == 1


def test_compressed_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "small.csv.gz"
    path.write_bytes(gzip.compress(SMALL.read_bytes()))
    assert read_samples(path) == read_samples(SMALL)


def swap(old: str, new: str) -> Callable[[str], str]:
    def damaged(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return damaged


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (swap("100,72,172,2,70,190", "100,72,quick,2,70,190"), "row 6, column 'total_ms': 'quick' is not a number"),
        (swap("100,72,172,2,70,190", "100,72,nan,2,70,190"), "row 6, column 'total_ms': 'nan'"),
        (swap("100,72,172,2,70,190", "100,72,-5,2,70,190"), "row 6, column 'total_ms': '-5'"),
        (swap("100,72,172,2,70,190", "100,72,0,2,70,190"), "row 6, column 'total_ms'.*0 ms"),
        (swap("100,72,172,2,70,190", "100,72,172,2,70,"), "row 6, column 'baseline_total_ms': ''"),
        (swap("quick,1,0,8,5,1", "quick,1,0,8.5,5,1"), "row 7, column 'n_tokens': '8.5' is not a whole number"),
        (swap("quick,1,0,8,5,1", "quick,1,0,8,5,6"), "row 7, column 'accepted': 6 of 5"),
        (swap("quick,1,0,8,5,1", "quick,1,0,8,5,1,7"), "row 7 has another number of cells"),
        (swap(",190,0.8962", ""), "row 10 has another number of cells"),
        (swap("quick,1,0,8,5,1", "quick,1,0,8,,1"), "row 7, column 'drafted': ''"),
        (swap("quick,1,0,8,5,1", "quick,0,0,8,5,1"), "row 7 is sample 0, question 0 of row 6 again"),
        (swap("baseline,3,1,6,", "baseline,3,1,6"), "row 5 has another number of cells"),
        (swap(",accepted", ",agreed"), "no column 'accepted'"),
        (lambda text: text[: text.index("r1,10,quick")], "no row beside the baseline's"),
        (lambda text: "", "no column 'config'"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_clear_line(damage: Callable[[str], str], words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(damage(SMALL.read_text()))
    with pytest.raises(DataError, match=words) as caught:
        read_samples(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_cut_or_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv.gz"
    path.write_bytes(gzip.compress(SMALL.read_bytes())[:-20])
    with pytest.raises(DataError, match="cut.csv.gz cannot be read"):
        read_samples(path)
    path.write_bytes(SMALL.read_bytes())
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(path)
    with pytest.raises(DataError, match="no such file"):
        read_samples(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(tmp_path / "binary.csv")


def test_cells_that_only_the_fit_needs_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text(SMALL.read_text().replace(",2,110,", ",,,"))
    samples = read_samples(path)
    assert replay(samples, "slow").ratio_of_means == pytest.approx(190 / 212)
    with pytest.raises(DataError, match="without vl_decode_ms or adapter_ms"):
        fit_one_verification(samples, "slow")


needs_real = pytest.mark.skipif(not REAL.is_file(), reason="the study's records are not beside this checkout")


@needs_real
@pytest.mark.parametrize(
    ("config", "sums", "mean", "accepted"),
    [
        ("L1+VL", "0.999", "1.005", "3.29"), ("L2+VL", "1.010", "1.016", "4.00"),
        ("L3+VL", "1.009", "1.016", "4.04"), ("L4+VL", "1.012", "1.018", "4.22"),
    ],
)  # fmt: skip
def test_the_studys_gain(config: str, sums: str, mean: str, accepted: str) -> None:
    found = replay(read_samples(REAL), config)
    assert found.num_samples == 500
    assert f"{found.ratio_of_means:.3f}" == sums
    assert f"{found.mean_of_ratios:.3f}" == mean
    assert f"{found.accepted_mean:.2f}" == accepted


@needs_real
def test_the_studys_quantiles() -> None:
    found = replay(read_samples(REAL), "L4+VL")
    assert [found.accepted_quantiles[q] for q in (10, 25, 50, 75, 90, 95)] == [0, 1, 5, 7, 9, 11]
    assert max(found.accepted_histogram) == 13 and sum(found.accepted_histogram.values()) == 500
    assert f"{found.accepted_sd:.1f}" == "3.5"
    assert [f"{found.speedup_quantiles[q]:.3f}" for q in (5, 25, 50, 75, 95)] == [
        "0.954", "0.966", "1.020", "1.053", "1.139",
    ]  # fmt: skip
    assert f"{found.slower_share:.2f}" == "0.45"
    assert [f"{found.accepted_by_question[q]:.1f}" for q in range(10)] == [
        "9.1", "1.1", "3.9", "8.7", "5.0", "1.0", "6.8", "0.6", "0.8", "5.2",
    ]  # fmt: skip
    gains = {k: round(found.gain_ms_by_accepted[k]) for k in (0, 1, 2, 3, 4, 5, 7, 12)}
    assert gains == {0: -51, 1: -36, 2: -21, 3: -7, 4: 8, 5: 21, 7: 56, 12: 132}


@needs_real
def test_the_studys_break_even_and_what_it_predicts() -> None:
    samples = read_samples(REAL)
    fit = fit_one_verification(samples, "L4+VL")
    assert f"{fit.verify_ms:.0f} {fit.step_ms:.1f} {fit.break_even_accepted:.1f}" == "69 15.2 3.7"
    own = [s for s in samples if s.config == "L4+VL"]
    tokens = sum(s.num_tokens for s in own) / len(own)
    prefill = sum(s.baseline_ms for s in own) / len(own) - (tokens - 1) * fit.step_ms
    times = Times(
        target_encode_ms=0.0, target_prefill_ms=prefill, step_ms=fit.step_ms, verify_ms={22: fit.verify_ms},
        draft_step_ms=10.6, adapter_ms=fit.adapter_ms, window="own-device",
    )  # fmt: skip
    assert break_even_accepted(times, 21) == pytest.approx(fit.break_even_accepted)
    accepted = sum(s.accepted for s in own) / len(own)
    predicted = plain_ms(times, round(tokens)) / hidden_ms(times, round(tokens), accepted, 21)
    assert predicted == pytest.approx(replay(samples, "L4+VL").ratio_of_means, abs=0.005)
