"""The documentation site contains each page once, and the API reference each public name.

The tests run the functions of ``docs/conf.py`` that need no Sphinx; ``make docs`` runs the others.
"""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONF = runpy.run_path(str(ROOT / "docs" / "conf.py"))
PAGES: dict[str, str] = CONF["pages"]()
LISTED = re.compile(r"^(?:\.\. auto\w+:: |\* :py:obj:`)([\w.]+)", re.MULTILINE)

REQUIRED = (
    "spear", "spear.calls", "spear.channels", "spear.runtimes", "spear.transports", "spear.telemetry",
    "spear.testing", "spear.spearlet", "spear.gateway", "spear.wire",
)  # fmt: skip


def public_names(package: str) -> set[str]:
    """The names that a package has at run time, without modules and what it imports for itself."""
    module = importlib.import_module(package)
    values = {name: getattr(module, name) for name in dir(module) if name[0] != "_"}
    return {
        name
        for name, value in values.items()
        if not inspect.ismodule(value) and name not in ("TYPE_CHECKING", "annotations", "lazily")
    }


@pytest.mark.parametrize("package", CONF["PACKAGES"])
def test_the_reference_has_each_public_name_of_a_package(package: str) -> None:
    listed = LISTED.findall(PAGES[package])
    assert listed[0] == package
    assert len(set(listed)) == len(listed)
    assert {each.removeprefix(f"{package}.") for each in listed[1:]} >= public_names(package)


def test_the_reference_has_a_page_for_each_public_package() -> None:
    assert set(REQUIRED) <= set(CONF["PACKAGES"])
    assert {*CONF["PACKAGES"], "index"} == set(PAGES)
    assert re.findall(r"^   ([\w.]+)$", PAGES["index"], re.MULTILINE) == list(CONF["PACKAGES"])


def test_each_page_is_in_one_section_of_the_navigation() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    sections = {title: links for title, _, links in CONF["sections"](index) if links}
    assert list(sections) == ["Tutorial", "How-to", "Reference", "Explanation"]
    linked = sorted(link for links in sections.values() for link in links)
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).with_suffix("") for path in docs.rglob("*.md")}
    documents = {page.as_posix() for page in pages} - {"README"}
    outside = {f"../{path.stem}" for path in ROOT.glob("*.md")}
    assert linked == sorted(documents | outside)


def test_the_navigation_of_the_site_has_the_sections_of_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    source = [index]
    CONF["add_navigation"](None, CONF["root_doc"], source)
    captions = re.findall(r"^:caption: (.+)$", source[0], re.MULTILINE)
    assert captions == ["Tutorial", "How-to", "Reference", "Explanation"]
    assert "\nreference/index\n```" in source[0]
    other = [index]
    CONF["add_navigation"](None, "docs/hosting", other)
    assert other == [index]
