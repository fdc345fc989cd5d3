"""Links, pictures, options: what README and guides say of other places is there."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from pages import PAGES, PROJECT, anchors_of, links_of  # noqa: E402

from partial_fc.config import OPTIONS  # noqa: E402


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", PROJECT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_and_anchor_is_there(page: Path) -> None:
    for line, target in links_of(page):
        path, _, anchor = target.partition("#")
        if re.match("https?:", path):
            continue
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page}, line {line}: there is no {target}"
        inside = page.name == "README.md" or PROJECT / "docs" in place.parents
        assert inside, f"{page}, line {line}: {target} is outside of docs/: name the file in code"
        if anchor:
            assert anchor in anchors_of(place), f"{page}, line {line}: {place.name} has no heading #{anchor}"


def test_the_options_page_is_that_of_the_programs() -> None:
    """After a change of an option: `python docs/options.py`."""
    assert module_of("options").page() == (PROJECT / "docs/options.md").read_text()


def test_every_option_of_training_is_on_the_options_page() -> None:
    text = (PROJECT / "docs/options.md").read_text()
    for name in (*OPTIONS, "--dataset", "--network", "--loss", "--head"):
        assert re.search(rf"`{name}[ `]", text), name


def test_the_site_needs_nothing_from_elsewhere() -> None:
    text = (PROJECT / "mkdocs.yml").read_text()
    assert re.search(r"^ +font: false", text, re.M) and "http" not in text
    assert "@import" not in (PROJECT / "docs/site.css").read_text()


def test_formulas_become_mathml() -> None:
    made = module_of("site_hooks").format_math(r"\frac{a}{b} \\ x_n")
    assert made.count("<math") == 2 and "<mfrac>" in made and "\\" not in made


def test_the_drawing_is_readable_as_it_is() -> None:
    """An SVG that needs nothing else, with text as text, and nothing outside of its frame."""
    root = ElementTree.parse(PROJECT / "docs/step.svg").getroot()
    width, height = map(float, root.get("viewBox").split()[2:])
    space = "{http://www.w3.org/2000/svg}"
    words = [element for element in root.iter(f"{space}text")]
    assert len(words) > 20
    for element in [*words, *root.iter(f"{space}rect")]:
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        assert 0 <= x + float(element.get("width", 0)) <= width and 0 <= y + float(element.get("height", 0)) <= height
    assert not list(root.iter(f"{space}image")) and "href" not in (PROJECT / "docs/step.svg").read_text()


def test_requirements_of_the_site_are_pinned_and_named_once() -> None:
    names = re.findall(r"^([\w-]+)==", (PROJECT / "requirements-test.txt").read_text(), re.M)
    assert {"mkdocs", "mkdocs-material", "latex2mathml"} <= set(names) and len(names) == len({n.lower() for n in names})


def paths_in(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [path for part in (entry.values() if isinstance(entry, dict) else entry) for path in paths_in(part)]


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    listed = yaml.load((PROJECT / "mkdocs.yml").read_text(), Loader)["nav"]
    assert sorted(paths_in(listed)) == sorted(page.name for page in PAGES if page.name != "README.md")
