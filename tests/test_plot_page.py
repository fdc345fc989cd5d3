"""The page of a plot in a real browser: what is on the screen, at a desk's and a phone's width, light and dark."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from partial_fc.plot.figures import make_figures
from partial_fc.plot.page import make_page
from partial_fc.plot.palette import GROUND, LINES
from partial_fc.plot.runs import open_runs, parse_runs
from tests import chromium

pytestmark = pytest.mark.skipif(
    chromium.find_chromium() is None,
    reason="there is no Chromium: apt-get install chromium, or set CHROMIUM to one (tests/install_chromium.sh)",
)

# What a person would look for. `y` counts from the page's top, for nothing is scrolled.
SCRIPT = """({
  width: innerWidth,
  scrollWidth: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
  title: document.querySelector('h1').textContent,
  beyond: [...document.querySelectorAll('body *')].filter(element =>
    !element.closest('.scroll') && element.getBoundingClientRect().right > innerWidth + 1).length,
  figures: [...document.querySelectorAll('figure')].map(figure => {
    const seen = [...figure.querySelectorAll('svg[role=img]')].filter(svg => svg.getClientRects().length)
    const {x, y, width, height, right, bottom} = seen[0].getBoundingClientRect()
    const texts = [...seen[0].querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()])
    return {
      id: figure.id, drawings: seen.length, x, y, width, height,
      texts: texts.map(([text, box]) => text.textContent),
      textHeight: Math.max(...texts.map(([text, box]) => Math.min(box.height, box.width))),
      clipped: texts.filter(([text, box]) =>
        box.left < x - 2 || box.right > right + 2 || box.top < y - 2 || box.bottom > bottom + 2).length,
    }
  }),
})"""

FIGURES = ["loss", "accuracy", "images-per-second", "milliseconds", "learning-rate", "loss-scale"]


def log_lines(updates: int, pace: float) -> str:
    """A run that learns, made up: its lines do not cover each other."""
    lines = []
    for update in range(1, updates + 1):
        parts = {"data": 3.0, "backbone": 80 * pace, "head": 50.0 + 9 * pace, "communication": 20.0 + pace}
        wave = {part: value + math.sin(update) for part, value in parts.items()}
        record = {"update": update, "epoch": update // 9, "loss": 40 * math.exp(-update * pace / updates)}
        record |= {"learning_rate": 0.1 * pace * 0.01 ** (update / updates), "loss_scale": 2.0 ** (8 + int(8 * pace))}
        record |= {"images_per_second": 900 * pace + update, "milliseconds": wave, "skipped": 0}
        lines.append(json.dumps(record))
        if update % 20 == 0:
            for number, name in enumerate(("lfw", "cfp_fp")):
                numbers = {"accuracy": 0.9 - 0.1 * number + pace * update / updates / 20, "accuracy_std": 0.01}
                lines.append(json.dumps({"update": update, "verification": {name: numbers}}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, and one of two."""
    directory = tmp_path_factory.mktemp("pages")
    for name, pace in (("slow", 0.5), ("fast", 1.0)):
        (directory / name).mkdir()
        (directory / name / "log.jsonl").write_text(log_lines(120, pace))
    made = {}
    for page, names, title in (("one", ["slow"], "slow"), ("two", ["slow", "fast"], "Two <runs>")):
        runs = open_runs(parse_runs([str(directory / name) for name in names]))
        made[page] = directory / f"{page}.html"
        made[page].write_text(make_page(runs, make_figures(runs), title), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def views(
    pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int, bool], chromium.Page]:
    """The pages as the browser shows them, by (page, width, dark); and what it fetched for them, by its own log."""
    directory = tmp_path_factory.mktemp("chromium")
    seen = {}
    with chromium.run_chromium(directory / "profile", directory / "net.json") as browser:
        for name, width, dark in VIEWS:
            seen[name, width, dark] = browser.open(pages[name], width=width, dark=dark, script=SCRIPT)
    assert chromium.requested_urls(directory / "net.json") == []
    return seen


VIEWS = [("one", 1400, False), ("one", 390, True), ("two", 1400, True), ("two", 390, False), ("two", 820, False)]


@pytest.fixture(params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}-{'dark' if view[2] else 'light'}")
def view(request: pytest.FixtureRequest, views: dict[tuple[str, int, bool], chromium.Page]) -> tuple[Any, ...]:
    return (*request.param, views[request.param])


def pixels_of(pixels_HWC: np.ndarray, colour: str) -> np.ndarray:
    """Where a picture has that colour, (H, W) bool."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return cv2.inRange(pixels_HWC, np.maximum(rgb - 6, 0), np.minimum(rgb + 6, 255)) > 0


def region(page: chromium.Page, figure: dict[str, Any]) -> np.ndarray:
    """The pixels of a figure's drawing."""
    left, top, width, height = (round(chromium.SCALE * figure[name]) for name in ("x", "y", "width", "height"))
    return np.ascontiguousarray(page.pixels_HWC[top : top + height, left : left + width])


def test_every_figure_is_on_the_screen_with_its_lines(view: tuple[Any, ...]) -> None:
    name, width, dark, page = view
    figures = {figure["id"]: figure for figure in page.facts["figures"]}
    assert list(figures) == FIGURES
    for figure in figures.values():
        assert figure["drawings"] == 1, "of the drawings for several widths one is shown"
        lines = {"accuracy": 2, "milliseconds": 4}.get(figure["id"], 1) if name == "one" else 2
        pixels_HWC = region(page, figure)
        for number in range(lines):
            is_line_HW = pixels_of(pixels_HWC, LINES[number][dark])
            columns = np.flatnonzero(is_line_HW.any(axis=0))
            assert len(columns) > 0, (figure["id"], number)
            assert np.ptp(columns) > 0.7 * pixels_HWC.shape[1], (figure["id"], number, "from edge to edge")
        for number in range(lines, 6):  # the edges of lines and letters have some colours by chance
            assert pixels_of(pixels_HWC, LINES[number][dark]).sum() < 20, (figure["id"], number)
        assert pixels_of(pixels_HWC, GROUND[dark]).mean() > 0.5


def test_a_falling_loss_falls_and_a_rising_speed_rises(views: dict[tuple[str, int, bool], chromium.Page]) -> None:
    page = views["one", 1400, False]
    for name, falls in (("loss", True), ("images-per-second", False), ("learning-rate", True)):
        (figure,) = (figure for figure in page.facts["figures"] if figure["id"] == name)
        rows, columns = np.nonzero(pixels_of(region(page, figure), LINES[0][0]))
        tenth = np.ptp(columns) / 10
        left, right = rows[columns < columns.min() + tenth].mean(), rows[columns > columns.max() - tenth].mean()
        assert bool(right > left) is falls, "rows are counted from the top"


def test_nothing_is_cut_off_at_any_width(view: tuple[Any, ...]) -> None:
    _, width, _, page = view
    facts = page.facts
    assert facts["width"] == facts["scrollWidth"] == width
    assert facts["beyond"] == 0
    assert page.pixels_HWC.shape == (chromium.SCALE * facts["height"], chromium.SCALE * width, 3)
    assert facts["height"] > 1000
    last = max(figure["y"] + figure["height"] for figure in facts["figures"])
    assert last < facts["height"] < last + 150
    for figure in facts["figures"]:
        assert figure["clipped"] == 0, figure["texts"]
        assert {"update"} <= set(figure["texts"]) and len(figure["texts"]) > 6
        assert 9 <= figure["textHeight"] <= 20, "pixels of a line of text"
    rows = {round(figure["y"]) for figure in facts["figures"]}
    assert len(rows) == 6 if width <= 1000 else len(rows) < 6


def test_it_asks_for_nothing_and_complains_of_nothing(view: tuple[Any, ...], pages: dict[str, Path]) -> None:
    name, _, _, page = view
    assert page.requests == [pages[name].resolve().as_uri()]
    assert page.complaints == []
    assert page.facts["broken"] == 0
    assert page.facts["title"] == ("slow" if name == "one" else "Two <runs>")


def test_the_checks_see_a_page_that_asks(tmp_path: Path) -> None:
    """Of the tools here: a page that wants an image from elsewhere is found out, twice."""
    outside = "http://outside.example/picture.png"
    path = tmp_path / "page.html"
    path.write_text(f'<!doctype html><h1>x</h1><figure><svg role=img></svg></figure><img src="{outside}">')
    with chromium.run_chromium(tmp_path / "profile", tmp_path / "net.json") as browser:
        broken = "[...document.images].filter(image => !image.naturalWidth).length"
        page = browser.open(path, width=500, dark=False, script=broken)
    assert page.requests == [path.as_uri(), outside] and page.facts == 1
    assert page.complaints and "ERR_NAME_NOT_RESOLVED" in page.complaints[0]
    assert outside in chromium.requested_urls(tmp_path / "net.json")
