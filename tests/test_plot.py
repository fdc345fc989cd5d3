"""Pictures of runs: the numbers drawn are those of the logs, whatever state these are in."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc import train
from partial_fc.plot.__main__ import main
from partial_fc.plot.draw import HALF, PHONE, draw_png, draw_svg, format_value
from partial_fc.plot.figures import FigureContent, make_figures
from partial_fc.plot.log_reader import MAX_NAMES, read_log
from partial_fc.plot.names import clean, labels_of
from partial_fc.plot.page import make_page
from partial_fc.plot.palette import GROUND, LINES, TEXT, Style, variables
from partial_fc.plot.runs import Run, open_runs, parse_runs
from partial_fc.plot.series import MAX_POINTS, Series, smoothed
from partial_fc.plot.settings import read_settings
from partial_fc.plot.table import last_figures, remarks, settings_rows
from partial_fc.testing_run import write_tiny_faces

PNGS = {"loss.png", "accuracy.png", "images-per-second.png", "milliseconds.png", "learning-rate.png", "loss-scale.png"}


def entry(update: int, **more: Any) -> dict[str, Any]:
    """A line of a training log."""
    milliseconds = {"data": 1.5, "backbone": 40.0 + update, "head": 20.0, "communication": 5.0}
    own = {"update": update, "epoch": update // 10, "loss": 40.0 / (update + 1), "learning_rate": 0.1}
    return own | {"loss_scale": 1024.0, "images_per_second": 900.0, "milliseconds": milliseconds, "skipped": 0} | more


def verification(update: int, name: str, accuracy: float) -> dict[str, Any]:
    numbers = {"accuracy": accuracy, "accuracy_std": 0.01, "threshold": 1.2, "xnorm": 20.0}
    return {"update": update, "verification": {name: numbers}}


def write_log(path: Path, records: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in records))
    return path


def one_run(*paths: Path) -> list[Run]:
    return open_runs(parse_runs([str(path) for path in paths]))


# ---- series ----


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-1e3, 1e3) | st.just(math.nan)), min_size=1), st.integers(1, 9))
def test_a_thinned_series_has_the_mean_and_range_of_every_bin(steps: list[tuple[int, float]], bins: int) -> None:
    updates = np.cumsum([step for step, _ in steps])
    values = np.array([value for _, value in steps])
    first, last = int(updates[0]), int(updates[-1])
    series = Series(first, last, bins)
    for update, value in zip(updates, values, strict=True):
        series.add(int(update), value)
    series.close()
    points = series.points()

    places = (updates - first) * min(bins, last - first + 1) // (last - first + 1)
    groups = [np.flatnonzero(places == place) for place in np.unique(places)]
    assert len(points.update_K) == len(groups) <= bins
    for k, group in enumerate(groups):
        finite = values[group][np.isfinite(values[group])]
        assert points.update_K[k] == pytest.approx(updates[group].mean())
        assert points.entries_K[k] == len(finite)
        if len(finite):
            expected = (finite.mean(), finite.min(), finite.max())
            assert (points.value_K[k], points.low_K[k], points.high_K[k]) == pytest.approx(expected, abs=1e-9)
        else:
            assert math.isnan(points.value_K[k])
    finite = values[np.isfinite(values)]
    assert (series.finite, series.not_finite) == (len(finite), len(values) - len(finite))
    if len(finite):
        assert series.last == (updates[np.isfinite(values)][-1], finite[-1])
        assert (series.lowest[1], series.highest[1]) == (finite.min(), finite.max())
        assert series.mean == pytest.approx(finite.mean(), abs=1e-9)
    else:
        assert series.last is series.mean is None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 7), st.floats(-9, 9) | st.just(math.nan)), min_size=1), st.integers(1, 20))
def test_smoothing_is_the_mean_of_the_last_updates(steps: list[tuple[int, float]], window: int) -> None:
    updates = np.cumsum([step for step, _ in steps])
    series = Series(int(updates[0]), int(updates[-1]))
    for update, (_, value) in zip(updates, steps, strict=True):
        series.add(int(update), value)
    series.close()
    values = np.array([value for _, value in steps])
    for k, value in enumerate(smoothed(series.points(), window).value_K):
        inside = values[(updates > updates[k] - window) & (updates <= updates[k])]
        if math.isnan(values[k]):
            assert math.isnan(value)
        else:
            assert value == pytest.approx(np.nanmean(inside), abs=1e-9)


# ---- logs ----


@settings(deadline=None, max_examples=100)
@given(updates=st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_where_a_log_goes_back_its_later_entries_count(
    updates: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_log(
        tmp_path_factory.mktemp("log") / "log.jsonl", ({"update": u, "loss": float(i)} for i, u in enumerate(updates))
    )
    log = read_log(path)
    kept = [i for i, u in enumerate(updates) if all(later >= u for later in updates[i:])]
    expected = {updates[i]: float(i) for i in kept}  # of equal updates the last
    points = log.series["loss", ""].points()
    assert dict(zip(points.update_K.tolist(), points.value_K.tolist(), strict=True)) == expected
    assert (log.entries, log.replaced) == (len(kept), len(updates) - len(kept))
    assert (log.first_update, log.last_update) == (min(updates), updates[-1])


def test_the_verification_of_an_update_may_come_before_its_training_entry(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path / "log.jsonl", [entry(5), verification(6, "val", 0.75), entry(6), entry(7)]))
    assert log.replaced == 0
    assert log.series["accuracy", "val"].last == (6, 0.75)


BROKEN = [
    '{"update": 6, "lo',
    "nonsense",
    "[1]",
    "null",
    '{"loss": 1.0}',
    '{"update": "7"}',
    '{"update": true}',
    '{"update": -1}',
    '{"update": 1.5}',
    '{"update": 99999999999999999999999}',
    '{"update": 1' + "0" * 5000 + "}",
    "[" * 20_000,
    '{"update": 8, "loss": "' + "x" * (3 << 20) + '"}',
    "\x00\x01",
]


def test_broken_lines_are_counted_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [entry(1), *(line + "\n" for line in BROKEN), "\n", entry(2), '{"update": 3, "loss"']
    path = write_log(tmp_path / "toy" / "log.jsonl", lines)
    path.write_bytes(path.read_bytes() + b"\xff\xfe")
    log = read_log(path)
    assert (log.entries, log.broken, log.last_update) == (2, len(BROKEN) + 1, 2)
    points = log.series["loss", ""].points()
    assert points.value_K.tolist() == [20.0, 40.0 / 3]
    assert f"{len(BROKEN) + 1} broken lines are passed over" in remarks(Run("toy", log, {"seed": 1}))[0]


def test_a_single_broken_line_is_told_of_and_the_rest_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ({"update": update, "loss": 3.0 - update} for update in (1, 2))
    path = write_log(tmp_path / "toy" / "log.jsonl", [*few, '{"update": 3, "los'])
    assert main([str(path), "--output", str(tmp_path / "out")]) == 0
    told = "1 broken line is passed over (cut short by a kill, or still being written)"
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {told}"]
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'index.html'}, and 1 PNG file beside it\n"
    page = Elements((tmp_path / "out" / "index.html").read_text())
    assert told in page.text and "Not in the log: accuracy, speed, " in page.text


def test_what_is_no_finite_number_interrupts_the_line(tmp_path: Path) -> None:
    lines = [
        *(entry(1), entry(2, loss=None, skipped=2), '{"update": 3, "loss": NaN}\n'),
        *('{"update": 4, "loss": -Infinity}\n', '{"update": 5, "loss": 1' + "0" * 400 + "}\n"),
        *(entry(6, loss="0.5"), entry(7, loss=[1]), entry(8, skipped=1)),
    ]  # fmt: skip
    runs = one_run(write_log(tmp_path / "log.jsonl", lines))
    figure = make_figures(runs)[0]
    (line,) = figure.panels[0].lines
    assert np.isfinite(line.points.value_K).tolist() == [True, *6 * [False], True]
    assert line.marks_M.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert figure.mark == "skipped update, or no finite loss"
    assert "the loss is not finite in 6 of 8 entries" in remarks(runs[0])
    assert {row.name: row.cells for row in last_figures(runs)}["skipped updates"] == ["3"]
    assert len(draw_png(figure)) > 1000


def test_a_log_without_one_finite_loss_is_drawn(tmp_path: Path) -> None:
    figures = make_figures(one_run(write_log(tmp_path / "log.jsonl", [entry(u, loss=None, skipped=1) for u in (1, 2)])))
    assert figures[0].panels[0].lines[0].marks_M.tolist() == [1, 2]
    assert decoded(draw_png(figures[0])).std() > 0
    assert "var(--alarm)" in draw_svg(figures[0], PHONE)


def test_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    odd = {"sample_rate": 0.1, "nested": {"a": [1, {}]}, "milliseconds": 7, "verification": {"lfw": 3}, "epoch": "x"}
    runs = one_run(write_log(tmp_path / "log.jsonl", [entry(1), entry(2) | odd, {"update": 3, "verification": []}]))
    assert [figure.name for figure in make_figures(runs)] == [
        *("loss", "images-per-second", "milliseconds", "learning-rate", "loss-scale")
    ]


def test_no_more_names_are_kept_than_can_be_drawn(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path / "log.jsonl", (verification(u, f"set{u}", 0.5) for u in range(3 * MAX_NAMES))))
    assert log.names("accuracy") == [f"set{u}" for u in range(MAX_NAMES)]
    assert "accuracy" in log.left_out


def test_the_memory_for_a_log_does_not_grow_with_it(tmp_path: Path) -> None:
    path, count = tmp_path / "log.jsonl", 3 * MAX_POINTS
    with path.open("w") as file:
        for update in range(1, count + 1):
            file.write(json.dumps({"update": update, "loss": 1.0 / update, "more": "x" * 4000}) + "\n")
    tracemalloc.start()
    log = read_log(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    points = log.series["loss", ""].points()
    assert (log.entries, points.entries_K.sum()) == (count, count)
    assert len(points.update_K) == MAX_POINTS and points.is_thinned
    assert 10 * peak < path.stat().st_size


# ---- a real run ----


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the program itself, Partial FC and F²C, with two verification sets."""
    directory = tmp_path_factory.mktemp("models")
    write_tiny_faces(directory, identities=11, images_per_identity=6)
    shutil.copy(directory / "val.bin", directory / "agedb.bin")
    common = [
        *("--rec", str(directory / "train.rec"), "--models-root", str(directory), "--network", "toy"),
        *("--image-size", "24", "--embedding-size", "16", "--batch-size", "8", "--max-update", "6", "--lr", "0.01"),
        *("--log-every-updates", "1", "--verify-every-updates", "3"),
        *("--val", str(directory / "val.bin"), str(directory / "agedb.bin")),
    ]
    name = directory.name
    assert train.main(common) == 0
    assert train.main([*common, "--head", "f2c", "--lr-steps", "2,4"]) == 0
    (directory / f"toy-cosface-{name}").rename(directory / "partial")
    (directory / f"toy-cosface-{name}-f2c").rename(directory / "f2c")
    return directory


@pytest.fixture(scope="module")
def single(models: Path) -> Path:
    assert main([str(models / "partial")]) == 0
    return models / "partial" / "plots"


@pytest.fixture(scope="module")
def several(models: Path) -> Path:
    output = models / "both"
    runs = [str(models / "partial"), f"<F²C> & $a_b$={models / 'f2c' / 'log.jsonl'}"]
    title = "a </title><script>alert(1)</script>"
    assert main([*runs, "--output", str(output), "--smooth", "3", "--title", title]) == 0
    return output


def values_of(path: Path, *names: str) -> dict[int, float]:
    """What a log says, read without the code under test."""
    found = {}
    for line in path.read_text().splitlines():
        value = record = json.loads(line)
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[record["update"]] = value
    return found


def drawn(figure: FigureContent, panel: int = 0, line: int = 0) -> dict[int, float]:
    points = figure.panels[panel].lines[line].points
    return dict(zip(points.update_K.tolist(), points.value_K.tolist(), strict=True))


FIELDS = {
    "loss": [("loss",)],
    "images-per-second": [("images_per_second",)],
    "learning-rate": [("learning_rate",)],
    "loss-scale": [("loss_scale",)],
    "milliseconds": [("milliseconds", part) for part in ("data", "backbone", "head", "communication")],
}


@pytest.mark.parametrize("name", ["partial", "f2c"])
def test_what_is_drawn_of_a_run_is_what_its_log_says(models: Path, name: str) -> None:
    path = models / name / "log.jsonl"
    figures = {figure.name: figure for figure in make_figures(one_run(path))}
    for figure, fields in FIELDS.items():
        assert len(figures[figure].panels[0].lines) == len(fields)
        for number, field in enumerate(fields):
            expected = values_of(path, *field)
            assert len(expected) == 6 and drawn(figures[figure], line=number) == pytest.approx(expected)
    assert [name for name, _ in figures["accuracy"].legend] == ["val", "agedb"]
    for number, name in enumerate(("val", "agedb")):
        expected = values_of(path, "verification", name, "accuracy")
        percent = {update: 100 * accuracy for update, accuracy in expected.items()}
        assert list(percent) == [3, 6] and drawn(figures["accuracy"], line=number) == pytest.approx(percent)


def test_several_runs_are_the_lines_of_a_panel_for_each_part(models: Path) -> None:
    figures = {figure.name: figure for figure in make_figures(one_run(models / "partial", models / "f2c"))}
    for figure in figures.values():
        assert [name for name, _ in figure.legend] == ["partial", "f2c"]
        assert all([line.style for line in panel.lines] == [Style(0), Style(1)] for panel in figure.panels)
    assert [panel.title for panel in figures["accuracy"].panels] == ["val", "agedb"]
    assert [panel.title for panel in figures["milliseconds"].panels] == ["data", "backbone", "head", "communication"]
    for number, name in enumerate(("partial", "f2c")):
        expected = values_of(models / name / "log.jsonl", "milliseconds", "head")
        assert drawn(figures["milliseconds"], panel=2, line=number) == pytest.approx(expected)


def test_the_settings_are_those_of_the_newest_whole_checkpoint(models: Path, tmp_path: Path) -> None:
    own = read_settings(models / "f2c")
    assert (own["ranks"], own["identities"], own["head"], own["max_update"]) == (1, 11, "f2c", 6)
    run = tmp_path / "run"
    shutil.copytree(models / "f2c", run)
    for update, content in ((7, "{"), (8, "[" * 9999), (9, "[]"), (10, '{"config": 3}')):
        (run / f"update-{update:08d}").mkdir()
        (run / f"update-{update:08d}" / "manifest.json").write_text(content)
    assert read_settings(run) == own
    assert read_settings(tmp_path / "nowhere") == {}


def test_the_table_says_what_the_log_ends_with(models: Path) -> None:
    rows = {row.name: row.cells[0] for row in last_figures(one_run(models / "partial"))}
    log = models / "partial" / "log.jsonl"
    assert rows["updates"] == "6 of 6"
    assert rows["loss"].split(" ")[0] == f"{values_of(log, 'loss')[6]:.4g}"
    last = json.loads(log.read_text().splitlines()[-1])["verification"]["agedb"]
    agedb = rows["accuracy on agedb"].replace("\N{NO-BREAK SPACE}", " ")
    assert agedb.startswith(f"{100 * last['accuracy']:.2f} % ± {100 * last['accuracy_std']:.2f}")
    shares = [float(re.search(r"\((\d+)\s%\)", rows[f"{part}, ms a step"])[1]) for _, part in FIELDS["milliseconds"]]
    assert sum(shares) == pytest.approx(100, abs=2)


def test_a_run_whose_settings_are_not_known_differs_in_none(models: Path, tmp_path: Path) -> None:
    copied = write_log(tmp_path / "copied" / "log.jsonl", [entry(1)])
    runs = one_run(copied, models / "partial", models / "f2c")
    assert [bool(run.settings) for run in runs] == [False, True, True]
    first, others = ({row.name: row for row in rows} for rows in settings_rows(runs))
    assert first["head"].cells == ["?", "partial_fc", "f2c"] and first["head"].differs
    assert not first["network"].differs and first["network"].common == "toy"
    page = make_page(runs[:2], make_figures(runs[:2]), "two")
    assert "Settings in common" in page and "Settings that differ" not in page


# ---- files ----


def decoded(content: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[:, :, ::-1]


def count_colour(pixels_HWC: np.ndarray, colour: str) -> int:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels_HWC.astype(int) - rgb).max(axis=2) <= 3).sum())


def test_the_pictures_show_their_lines(single: Path, several: Path) -> None:
    for directory, lines in ((single, 1), (several, 2)):
        assert {path.name for path in directory.iterdir()} == PNGS | {"index.html"}
        for name in PNGS:
            pixels_HWC = decoded((directory / name).read_bytes())
            assert pixels_HWC.shape[1] == 2 * HALF.width
            for number in range(lines):
                # The last line may cover the others; their entries in the legend are drawn all the same.
                visible = count_colour(pixels_HWC, Style(number).colour)
                assert visible > 60 or (lines == 1 and name == "accuracy.png"), (directory.name, name, number)


def path_vertices(svg: str, variable: str) -> np.ndarray:
    """The vertices of the longest path of that colour, (K, 2)."""
    paths = re.findall(r'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(' + variable + r"\)", svg)
    numbers = [[float(number) for number in re.findall(r"-?\d+\.?\d*", path)] for path in paths]
    return np.array(max(numbers, key=len)).reshape(-1, 2)


def test_a_line_goes_through_the_values_of_the_log(tmp_path: Path) -> None:
    losses = {1: 40.0, 4: 31.5, 5: 36.25, 9: 12.0, 17: 14.5, 18: 2.125, 30: 7.0}
    path = write_log(tmp_path / "log.jsonl", [entry(update, loss=loss) for update, loss in losses.items()])
    for layout in (HALF, PHONE):
        drawn_K2 = path_vertices(draw_svg(make_figures(one_run(path))[0], layout), "--line-0")
        assert len(drawn_K2) == len(losses)
        for values, pixels in ((list(losses), drawn_K2[:, 0]), (list(losses.values()), drawn_K2[:, 1])):
            slope, offset = np.polyfit(values, pixels, 1)
            assert np.abs(np.polyval((slope, offset), values) - pixels).max() < 0.01
            assert abs(slope) * (max(values) - min(values)) > 100  # pixels
    assert slope < 0, "larger values are higher"


def test_the_same_log_gives_the_same_files(models: Path, tmp_path: Path) -> None:
    figure = make_figures(one_run(models / "f2c"))[0]
    assert draw_svg(figure, HALF) == draw_svg(figure, HALF)
    assert draw_png(figure) == draw_png(figure)


class Elements(HTMLParser):
    """What a page is made of."""

    VOID = {"meta"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID | {"wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_runs_nothing(single: Path, several: Path) -> None:
    for directory in (single, several):
        text = (directory / "index.html").read_text(encoding="utf-8")
        page = Elements(text)
        assert page.open == []
        assert "http:" not in text and "https:" not in text and "//" not in text.replace("https:", "")
        assert {"script", "link", "img", "iframe", "object", "a"}.isdisjoint(tag for tag, _ in page.elements)
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        references = re.findall(r'(?:href|src)="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
        assert references and all(one.startswith("#") and one[1:] in ids for one in references)
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert "default-src 'none'; style-src 'unsafe-inline'" in text
        assert set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) <= set(re.findall(r"(--[a-z0-9-]+):", text))
        svgs = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
        assert len(svgs) >= 2 * len(PNGS)


def test_names_are_text(several: Path) -> None:
    text = (several / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<F²C>" not in text
    page = Elements(text)
    assert "<F²C> & $a_b$" in page.text and "a </title><script>alert(1)</script>" in page.text
    assert "Lines are means over the last 3 updates" in page.text


def test_odd_names_are_drawn(tmp_path: Path) -> None:
    names = ["_set", "$\\frac{", "人脸", "\ud800\x00\x1b[31m\u202e", "x" * 500, "</svg><b>", ""]
    records = [verification(1, name, 0.5 + number / 20) for number, name in enumerate(names)]
    path = tmp_path / "_$run$" / "log.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    other = write_log(tmp_path / "other" / "log.jsonl", [verification(1, "_set", 0.5), verification(2, "_set", 0.75)])
    assert main([str(path), str(other), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Elements(text)
    assert page.open == [] and "_$run$" in page.text and "accuracy on 人脸" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    assert decoded((tmp_path / "out" / "accuracy.png").read_bytes()).std() > 0


def test_a_single_accuracy_has_an_axis_of_possible_ones(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", [{"update": 3, "verification": {"val": {"accuracy": 0.875}}}])
    drawing = draw_svg(make_figures(one_run(path))[0], HALF)
    ticks = [float(text) for text in re.findall(r">(\d+\.?\d*)</text>", drawing)]
    assert len(ticks) > 3 and max(ticks) < 100


def test_one_entry_is_one_point(tmp_path: Path) -> None:
    figures = make_figures(one_run(write_log(tmp_path / "log.jsonl", [entry(7)])))
    assert drawn(figures[0]) == {7: 5.0}
    assert count_colour(decoded(draw_png(figures[0])), LINES[0][0]) > 20


# ---- what the user can mend ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not there: name a run's directory, or its log.jsonl"),
        (["name=nowhere"], "name=nowhere is not there|nowhere is not there: name a run's directory"),
        (["bare"], "bare has no log.jsonl: name a run's directory, or a log"),
        (["empty"], "empty/log.jsonl has no entry: there is nothing to draw"),
        (["cut"], "cut/log.jsonl has no entry, and 2 broken lines: there is nothing to draw"),
        (["empty", "cut"], "none of the 2 logs has an entry"),
        (["silent"], "no entry of silent/log.jsonl has a number that is drawn: is it a log of training"),
        (["good", "--smooth", "0"], "--smooth must be at least 1 update, but is 0"),
        (["good", "good/log.jsonl"], "each run must be named once, but good/log.jsonl is named twice"),
        (["a=good", "a=silent"], "each run must have a name of its own .* a, a"),
        (["good=silent", "good"], "each run must have a name of its own .* good, good"),
        (["good"] * 33, "at most 32 runs can be told apart, but 33 are named"),
        (["good", "--output", "good/log.jsonl"], "good/log.jsonl is a file: --output names the directory"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    write_log(tmp_path / "empty" / "log.jsonl", [])
    write_log(tmp_path / "cut" / "log.jsonl", ["{\n", '{"update": 1'])
    write_log(tmp_path / "good" / "log.jsonl", [{"update": 1, "loss": 2.0}])
    write_log(tmp_path / "silent" / "log.jsonl", [{"update": 1}, {"update": 2, "loss_": 1}])
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and output.err.count("\n") == 1
    assert re.search(says, output.err)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_of_several_runs_an_empty_one_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = one_run(write_log(tmp_path / "a" / "log.jsonl", [entry(1)]), write_log(tmp_path / "b" / "log.jsonl", []))
    assert [run.name for run in runs] == ["a"]
    assert "log.jsonl has no entry: it is left out" in caplog.text


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loss.png").write_bytes(b"old")
    monkeypatch.setattr("partial_fc.plot.__main__.draw_png", lambda figure: b"new")
    monkeypatch.setattr("partial_fc.plot.__main__.make_page", lambda *_: "new")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("partial_fc.data.whole_file.os.fsync", full)
    assert main([str(models / "partial"), "--output", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"loss.png": b"old"}


# ---- names, colours ----


def test_runs_are_called_by_the_shortest_paths_that_differ() -> None:
    paths = [Path("/m/mon/toy"), Path("/m/tue/toy"), Path("/m/tue/r50")]
    assert labels_of(paths) == ["mon/toy", "tue/toy", "r50"]
    assert clean("a\nb\x00") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert len(clean("x" * 1000)) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1,500"), (65536, "65,536"), (25e3, "25k"), (1.2e6, "1.2M"), (-3, "-3"),
     (1e-5, "1e-05"), (1e20, "1e+20"), (1e300, "1e+300")],
)  # fmt: skip
def test_ticks(value: float, text: str) -> None:
    assert format_value(value) == text


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_lines_and_text_stand_out_in_both_themes() -> None:
    for theme in (0, 1):
        ground = luminance(GROUND[theme])
        for pair, least in [*((line, 3.0) for line in LINES), (TEXT, 7.0)]:
            darker, lighter = sorted((ground, luminance(pair[theme])))
            assert (lighter + 0.05) / (darker + 0.05) >= least, pair
    light = [pair[0] for pair in variables().values()]
    assert len(light) == len(set(light)), "a colour of the drawing must stand for one variable"


def test_drawing_needs_no_mxnet() -> None:
    program = "import sys, partial_fc.plot.__main__; sys.exit('mxnet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
