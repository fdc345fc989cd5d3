"""Reports print any result: as a table, Markdown, CSV, JSON and pictures, with published numbers beside them."""

import csv
import io
import json

import cv2
import numpy as np
import pytest

from partial_fc.evaluation.published import ROWS, rows_for
from partial_fc.evaluation.report import Evaluated, csv_report, json_report, markdown_report, tables, text_report
from partial_fc.evaluation.report_files import write_report
from partial_fc.evaluation.targets import Curve, Metric, ScoreHistogram, TargetResult


def result(target, kind, shift=0.0, **more):
    metrics = (
        Metric("accuracy", 0.9975 - shift, deviation=0.0031),
        Metric("TAR@FAR=1e-06", 0.5, is_resolved=False, details={"far": 0.0}),
        Metric("XNorm", 11.126, is_rate=False),
    )
    counts = {"pairs": 6000, "images": 7701}
    return TargetResult(target, kind, "10 folds; by hand", counts, metrics, details={"fold_accuracies": [1.0]}, **more)


def other(target):
    metrics = (Metric("TAR@FAR=1e-04", 0.9612), Metric("Rank-1", 0.9))
    return TargetResult(target, "ijbc", "templates", {"templates": 23124}, metrics)


@pytest.fixture
def evaluated():
    return [
        Evaluated(
            "small", (result("lfw", "lfw"), result("mine", "pairs", 0.1), other("ijbc")), {"embedding_size": 128}
        ),
        Evaluated("large", (result("lfw", "lfw", 0.002), result("mine", "pairs"), other("ijbc"))),
    ]


def test_the_table_of_one_model(evaluated):
    assert text_report(evaluated[:1]).splitlines() == [
        "target  pairs       accuracy  TAR@FAR=1e-06   XNorm",
        "lfw      6000  99.75 ± 0.31          50.00*  11.13",
        "mine     6000  89.75 ± 0.31          50.00*  11.13",
        "",
        "target  templates  TAR@FAR=1e-04  Rank-1",
        "ijbc        23124         96.12   90.00",
        "* without a single false accept: the set has too few pairs of two people for this rate",
    ]


def test_models_and_published_numbers_side_by_side(evaluated):
    first, second = tables(evaluated, rows_for({"lfw", "ijbc", "pairs"}))
    assert [row[:3] for row in first.rows] == [
        ["target", "model", "pairs"],
        ["lfw", "small", "6000"],
        ["lfw", "large", "6000"],
        ["lfw", "Partial FC (paper)", ""],
        ["mine", "small", "6000"],
        ["mine", "large", "6000"],
    ]
    assert first.rows[3][3:] == ["99.83 ", "", ""]
    assert [row[1] for row in second.rows[3:]] == ["Glint360K", "MS1MV2", "Partial FC (listing)"]
    assert [row[3].strip() for row in second.rows[3:]] == ["97.30", "96.40", "94.40"]


def test_published_numbers_are_the_issues():
    numbers = {(row.model, *key): value for row in ROWS for key, value in row.percent.items()}
    assert len(numbers) == 8 + 6 + 20 + 1
    paper = {kind: value for (model, kind, _), value in numbers.items() if model == "Partial FC (paper)"}
    assert paper == {
        "lfw": 99.83, "cfp_fp": 98.51, "agedb30": 98.20, "calfw": 96.20, "cplfw": 93.10, "ytf": 97.76, "ijbb": 96.1,
        "megaface": 99.13,
    }  # fmt: skip
    assert numbers["R124, MS1M-V3", "ifrt", "Asian"] == 38.40
    assert numbers["R100, Glint360K, r = 0.1", "ifrt", "ALL"] == 88.23
    assert rows_for({"sllfw"}) == []


def test_csv(evaluated):
    rows = list(csv.DictReader(io.StringIO(csv_report(evaluated, rows_for({"lfw"})))))
    assert len(rows) == 2 * (3 + 3 + 2) + 1
    assert (rows[-1]["model"], rows[-1]["target"], rows[-1]["value"]) == ("Partial FC (paper)", "lfw", "0.9983")
    assert rows[0] == {
        "model": "small", "target": "lfw", "kind": "lfw", "metric": "accuracy", "value": "0.9975",
        "deviation": "0.0031", "is_rate": "true", "is_resolved": "true", "source": "measured",
    }  # fmt: skip


def test_json(evaluated):
    report = json.loads(json.dumps(json_report(evaluated, rows_for({"lfw"})), allow_nan=False))
    assert list(report["models"]) == ["small", "large"]
    target = report["models"]["small"]["targets"]["lfw"]
    assert target["counts"] == {"pairs": 6000, "images": 7701}
    assert target["metrics"]["accuracy"] == {
        "value": 0.9975, "deviation": 0.0031, "is_rate": True, "is_resolved": True
    }  # fmt: skip
    assert target["metrics"]["TAR@FAR=1e-06"]["far"] == 0.0
    assert report["published"][0]["values"][0] == {"kind": "lfw", "metric": "accuracy", "value": 0.9983}


def test_markdown(evaluated):
    lines = markdown_report(evaluated, rows_for({"lfw"}), [("ROC: lfw", "roc-lfw.png")]).splitlines()
    assert "| target | model | pairs | accuracy | TAR@FAR=1e-06 | XNorm |" in lines
    assert "| --- | --- | ---: | ---: | ---: | ---: |" in lines
    assert "**lfw** (lfw): 10 folds; by hand. 6,000 pairs, 7,701 images." in lines
    assert "![ROC: lfw](roc-lfw.png)" in lines


def test_files_and_pictures(evaluated, tmp_path):
    curve = Curve("roc", np.array([0, 0, 1e-3, 1.0]), np.array([0, 0.5, 0.9, 1.0]))
    histogram = ScoreHistogram(np.linspace(-1, 1, 11), np.arange(10), np.arange(10)[::-1])
    more = {"curves": (curve,), "histogram": histogram, "pictures": {"worst pairs": np.zeros((9, 7, 3), np.uint8)}}
    cmc = Curve("cmc", np.array([1.0, 5.0]), np.array([0.8, 0.9]))
    models = [
        Evaluated(model, (result("lfw", "lfw", **more), result("b/1", "pairs", curves=(cmc,))))
        for model in ("x", "y/z")
    ]
    files = write_report(tmp_path / "new" / "report", models, rows_for({"lfw"}))
    assert sorted(file.name for file in files) == sorted(
        [
            *("report.json", "report.csv", "report.md", "roc-lfw.png", "roc-lfw.csv", "cmc-b-1.png", "cmc-b-1.csv"),
            *(f"{what}-lfw-{model}.png" for what in ("scores", "worst-pairs") for model in ("x", "y-z")),
        ]
    )
    assert sorted(path.name for path in (tmp_path / "new" / "report").iterdir()) == sorted(file.name for file in files)
    for file in files:
        if file.suffix == ".png":
            assert cv2.imread(str(file)) is not None
    plot = cv2.imread(str(tmp_path / "new" / "report" / "roc-lfw.png"))
    assert plot.shape[0] > 400 and plot.std() > 10, "something is drawn"
    rows = (tmp_path / "new" / "report" / "roc-lfw.csv").read_text().splitlines()
    assert rows[0] == "model,far,tar" and rows[3] == "x,0.001,0.9" and len(rows) == 9
    text = (tmp_path / "new" / "report" / "report.md").read_text()
    assert "![Worst pairs: lfw, y/z](worst-pairs-lfw-y-z.png)" in text
