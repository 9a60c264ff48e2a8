"""A report in a real browser: it asks for nothing, fails at nothing, fits a phone, and does what is clicked.

Needs playwright and a chromium of the system (``make test`` installs it where that can be done). Screenshots go to
$CROSSDRAFT_SCREENSHOTS, else to pytest's temporary folder.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdraft.report.assemble import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; apt-get install chromium")

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    # a container's root has no sandbox, and its /dev/shm is small
    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("CROSSDRAFT_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visit:
    """A page that is open, and all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, viewport: dict[str, int], **settings: Any) -> None:
        self.page = browser.new_page(viewport=viewport, **settings)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri(), wait_until="load")

    def check(self, path: Path) -> None:
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith("data:")] == [path.as_uri()]
        wide = self.page.evaluate("[document.body.scrollWidth, document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[2] and wide[1] <= wide[2], f"the page is {wide} pixels wide"

    def shoot(self, folder: Path, name: str, place: str) -> None:
        path = folder / f"{name}.png"
        self.page.locator(place).screenshot(path=path)
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.fixture
def report(run_folder: Path, tmp_path: Path) -> Path:
    return write_report([run_folder], tmp_path / "report.html", "A <b>report</b>")


@pytest.mark.parametrize(("name", "viewport"), [("phone", PHONE), ("desktop", DESKTOP)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_quietly_and_fits(
    chromium: Any, report: Path, shots: Path, name: str, viewport: dict[str, int], scheme: str
) -> None:
    visit = Visit(chromium, report, viewport, color_scheme=scheme)
    visit.check(report)
    assert visit.page.locator("h1").inner_text() == "A <b>report</b>"
    back = visit.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(back) < 80) == (scheme == "dark")
    for place in ("summary", "controls", "traces"):
        visit.shoot(shots, f"{name}-{scheme}-{place}", f"#{place}")
    # opened tables scroll by themselves, they do not widen the page
    visit.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    visit.check(report)
    visit.page.close()


def test_the_trace_viewer_steps_through_rounds(chromium: Any, report: Path, shots: Path) -> None:
    visit = Visit(chromium, report, PHONE)
    section = visit.page.locator("#traces")
    viewer = section.locator(".viewer:visible")
    assert viewer.count() == 1 and viewer.locator("output").inner_text().startswith("all ")
    whole = viewer.locator(".answer .tok:visible").count()
    assert viewer.locator(".rounds li:visible").count() == 0

    viewer.locator("[data-step=first]").click()
    assert viewer.locator("output").inner_text() == "before the first round"
    assert viewer.locator(":scope > .answer .tok.later").count() == whole - 1
    viewer.locator("[data-step=on]").click()
    viewer.locator("[data-step=on]").click()
    assert viewer.locator("output").inner_text().startswith("round 2 of ")
    assert viewer.locator(".rounds li:visible").count() == 1
    assert "round 2:" in viewer.locator(".rounds li:visible").inner_text()
    assert viewer.locator(".tok.now[data-round='2']").count() == viewer.locator(".tok.now").count() > 0
    visit.shoot(shots, "phone-trace-round-2", "#traces")
    viewer.locator("[data-step=back]").click()
    assert viewer.locator("output").inner_text().startswith("round 1 of ")
    viewer.locator("input[type=range]").fill("3")
    assert viewer.locator("output").inner_text().startswith("round 3 of ")
    viewer.locator("[data-step=last]").click()
    assert viewer.locator(".tok.later").count() == 0

    struck = viewer.locator(":scope > .answer del")
    assert struck.count() > 0 and struck.first.is_visible()
    viewer.locator("[data-rejected]").uncheck()
    assert not struck.first.is_visible()
    visit.check(report)
    visit.page.close()


def test_clip_and_method_are_chosen(chromium: Any, report: Path) -> None:
    visit = Visit(chromium, report, PHONE)
    section = visit.page.locator("#traces")
    clip, method = section.locator("select:visible").nth(0), section.locator("select:visible").nth(1)
    picture = section.locator("img:visible").first.get_attribute("src")
    before = section.locator(".viewer:visible .answer").first.inner_html()
    method.select_option("memory")
    assert section.locator(".viewer:visible").count() == 1
    assert section.locator(".viewer:visible .answer").first.inner_html() != before
    assert "drafted by memory" in section.locator(".viewer:visible .legend").inner_text()
    clip.select_option("clip 2")
    assert section.locator("img:visible").first.get_attribute("src") != picture
    # the method stays, and the timeline follows to the same clip
    assert section.locator("select:visible").nth(1).input_value() == "memory"
    assert visit.page.locator("#timeline select").input_value() == "clip 2"
    visit.check(report)
    visit.page.close()


def test_lines_and_views_are_switched(chromium: Any, report: Path, shots: Path) -> None:
    visit = Visit(chromium, report, DESKTOP)
    chart = visit.page.locator("#positions figure:visible").first
    lines, key = chart.locator("g.series:visible"), chart.locator("button.key").first
    drawn = lines.count()
    key.click()
    assert lines.count() == drawn - 1 and key.get_attribute("aria-pressed") == "false"
    key.click()
    assert lines.count() == drawn
    title = chart.locator("figcaption").inner_text()
    visit.page.locator("#positions .choice", has_text="of all samples").click()
    assert visit.page.locator("#positions figure:visible figcaption").first.inner_text() != title
    visit.page.locator("#runs .choice", has_text="rounds of decoding").click()
    assert "accepted a round" in visit.page.locator("#runs figure:visible figcaption").first.inner_text()
    visit.shoot(shots, "desktop-runs", "#runs")
    visit.check(report)
    visit.page.close()


def test_without_a_script_everything_is_shown(chromium: Any, report: Path) -> None:
    visit = Visit(chromium, report, PHONE, java_script_enabled=False)
    section = visit.page.locator("#traces")
    assert section.locator(".viewer:visible").count() == 10 and section.locator("select:visible").count() == 0
    assert visit.requests and not [url for url in visit.requests if not url.startswith(("file:", "data:"))]
    visit.page.close()
