"""The guides as a site, built and looked at in a real browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import chromium

PROJECT = Path(__file__).resolve().parents[2]

FACTS = """(() => ({
    title: document.querySelector("h1").innerText,
    width: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll(".md-content table, .md-content pre, .md-content img, .md-content math")]
        .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth).length,
    formulas: [...document.querySelectorAll("math")].filter(each => each.getBoundingClientRect().height > 10).length,
    pictures: [...document.images].map(each => [each.complete, each.naturalWidth])
}))()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    if chromium.find_chromium() is None:
        pytest.skip("there is no Chromium: install it, or set CHROMIUM to one (tests/install_chromium.sh)")
    directory = tmp_path_factory.mktemp("chromium")
    with chromium.run_chromium(directory / "profile", directory / "net.json") as running:
        yield running
    assert chromium.requested_urls(directory / "net.json") == []  # nothing comes from elsewhere


def test_it_is_built_without_a_warning(site: Path) -> None:
    assert len(list(site.glob("*.html"))) > 15


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (400, True)])
def test_formulas_and_the_drawing_are_drawn(site: Path, browser: chromium.Browser, width: int, dark: bool) -> None:
    page = browser.open(site / "how-it-works.html", width=width, dark=dark, script=FACTS)
    facts = page.facts
    assert facts["title"].startswith("How it works")
    assert facts["formulas"] == 7
    assert facts["pictures"] and all(complete and natural > 0 for complete, natural in facts["pictures"])
    assert page.complaints == []
    assert facts["width"] <= width  # a phone scrolls up and down alone
    assert page.pixels_HWC.std() > 10


@pytest.mark.parametrize("name", ["index", "troubleshooting"])
def test_pages_fit_a_desk_and_ask_for_nothing(site: Path, browser: chromium.Browser, name: str) -> None:
    page = browser.open(site / f"{name}.html", width=1300, dark=False, script=FACTS)
    assert page.complaints == []
    assert facts_fit(page.facts, 1300)
    assert all(url.startswith(("file:", "data:")) for url in page.requests)


def facts_fit(facts: dict, width: int) -> bool:
    return facts["width"] <= width and facts["wide"] == 0
