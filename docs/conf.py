"""Settings of the documentation site, which `make docs` builds with Sphinx.

The source directory is the root of the repository, so that a link between two pages is the same on a
forge and in the site. This module adds three parts that no page contains: the navigation, read from the
sections of ``docs/README.md``; the pages of the API reference, one for each public package; and the
pictures of Mermaid diagrams.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import spear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parent.parent

project = "Spear"
author = project_copyright = "the authors of Spear"
version = release = spear.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/*.md", "docs/how-to/*.md", "docs/reference/*.rst"]
exclude_patterns = [".*", "bench", "build", "examples", "spear", "tests"]

html_theme = "furo"
html_title = f"Spear {release}"
html_static_path: list[str] = []
html_show_sourcelink = html_copy_source = False

myst_heading_anchors = 6  # as deep as a forge makes them

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore_regex = [
    # Other projects: lists of their names would have to be fetched from the network.
    (
        r"py:\w+",
        r"(abc|collections\.abc|contextlib|enum|hypothesis|logging|os|pathlib|random|socket|ssl|trio)\.[\w.]+",
    ),
    # Names that are not public, which the reference leaves out.
    (r"py:\w+", r"spear\.(\w+\.)*_\w+(\.\w+)*"),
    (r"py:\w+", r"Alarm|CASES|INHERITED|closed_by"),
]

PACKAGES = (
    "spear", "spear.agent", "spear.annotations", "spear.spearlet", "spear.calls", "spear.channels",
    "spear.runtimes", "spear.transports", "spear.gateway", "spear.telemetry", "spear.testing",
    "spear.wire",
)  # fmt: skip
"""Packages with public names, in the order of the reference."""


# -- the API reference ----------------------------------------------------------------------------


@functools.cache
def homes(package: str) -> dict[str, str]:
    """Return each public name of a package, and the module that defines it.

    Read from the imports of ``__init__.py``: packages that load names lazily list the same imports
    for type checkers.
    """
    path = ROOT / package.replace(".", "/") / "__init__.py"
    return {
        alias.name: importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def section(package: str, name: str) -> tuple[str, str]:
    """Return the section and the directive that show a public name."""
    value = getattr(importlib.import_module(package), name)
    if inspect.isclass(value):
        is_error = issubclass(value, BaseException)
        return ("Exceptions", "autoexception") if is_error else ("Classes", "autoclass")
    return ("Functions", "autofunction") if inspect.isroutine(value) else ("Data", "autodata")


def has_inner_base(package: str, name: str) -> bool:
    """Return whether a class has methods from a base that has no entry of its own on the page."""
    value = getattr(importlib.import_module(package), name)
    public = homes(package)
    return inspect.isclass(value) and any(
        base.__module__.startswith("spear.") and base.__name__ not in public
        for base in value.__mro__[1:]
    )


def page(package: str) -> str:
    """Return the page of a package: each public name, by kind.

    A name that ``spear`` has, too, is described there only, so that a link has one target.
    """
    main = homes("spear") if package != "spear" else {}
    sections: dict[str, list[str]] = {"Functions": [], "Classes": [], "Exceptions": [], "Data": []}
    elsewhere = []
    for name in sorted(homes(package), key=str.lower):
        if name in main:
            elsewhere.append(f"* :py:obj:`{package}.{name} <spear.{name}>`")
        else:
            title, directive = section(package, name)
            option = "\n   :inherited-members:" if has_inner_base(package, name) else ""
            sections[title].append(f".. {directive}:: {package}.{name}{option}")
    text = f"{package}\n{'=' * len(package)}\n\n.. automodule:: {package}\n   :no-members:\n"
    for title, entries in sections.items():
        if entries:
            text += f"\n{title}\n{'-' * len(title)}\n\n" + "\n\n".join(entries) + "\n"
    if elsewhere:
        title = "Described in spear"
        text += f"\n{title}\n{'-' * len(title)}\n\n" + "\n".join(elsewhere) + "\n"
    return text


def pages() -> dict[str, str]:
    """Return the name and the text of each page of the API reference."""
    listed = "".join(f"   {each}\n" for each in PACKAGES)
    index = f"API reference\n=============\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}"
    return {"index": index, **{package: page(package) for package in PACKAGES}}


def write_pages(_app: Sphinx) -> None:
    """Write the pages that have changed."""
    folder = ROOT / "docs" / "reference"
    folder.mkdir(exist_ok=True)
    texts = {folder / f"{name}.rst": text for name, text in pages().items()}
    for path in set(folder.glob("*.rst")) - set(texts):
        path.unlink()
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def adapt_docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Turn a docstring from Google's style into reST, as ``sphinx.ext.napoleon`` does.

    Two differences. The docstring of a constant comes from the module that defines the constant: autodoc
    reads the package that re-exports it, and else takes the docstring of the constant's class. The text
    before a colon in the docstring of an attribute remains text, where napoleon takes it for a type.
    """
    from sphinx.ext.napoleon import Config, GoogleDocstring
    from sphinx.pycode import ModuleAnalyzer

    package, _, attribute = name.rpartition(".")
    if what == "data" and package in PACKAGES:
        analyzer = ModuleAnalyzer.for_module(homes(package)[attribute])
        lines[:] = analyzer.find_attr_docs().get(("", attribute), [])
    if what in ("data", "attribute", "property"):
        what = "object"
    lines[:] = GoogleDocstring(lines, Config(), app, what, name, value, options).lines()


def skip_field(
    _app: Sphinx, _what: str, _name: str, value: object, _skip: bool, _options: object
) -> bool | None:
    """Leave out the fields of a named tuple, which the docstring of the class describes."""
    return True if type(value).__name__ == "_tuplegetter" else None


def find_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Resolve a name that Sphinx has not found in the package that mentions it.

    The name becomes a link if exactly one public name of Spear ends in it. Other names in annotations
    remain text: type variables, private names, names of other projects. mypy checks annotations.
    """
    from docutils import nodes
    from sphinx.util.nodes import make_refnode

    if node.get("refdomain") != "py":
        return None
    known = env.domains.python_domain.objects
    parts = node["reftarget"].split(".")
    for start in range(len(parts)):
        suffix = "." + ".".join(parts[start:])
        places = {
            (entry.docname, entry.node_id)
            for name, entry in known.items()
            if name.endswith(suffix) and not entry.aliased
        }
        if len(places) == 1:
            docname, anchor = places.pop()
            source = node.get("refdoc", env.docname)
            return make_refnode(app.builder, source, docname, anchor, content)
    return None if isinstance(content, nodes.literal) else content


# -- navigation -----------------------------------------------------------------------------------


def sections(index: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the title, the text and the pages of each section of the index."""
    for text in re.split(r"^(?=## )", index, flags=re.MULTILINE)[1:]:
        title = text.splitlines()[0].removeprefix("## ")
        yield title, text, re.findall(r"^\| \[[^]]+\]\(([\w./-]+)\.md\)", text, re.MULTILINE)


def add_navigation(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Make each section of the index a part of the navigation."""
    if docname != root_doc:
        return
    text = source[0].partition("\n## ")[0]
    for title, body, links in sections(source[0]):
        text += f"\n{body}\n"
        if links:
            entries = [*links, "reference/index"] if title == "Reference" else links
            listed = "\n".join(entries)
            text += f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"
    source[0] = text


def write_start_page(app: Sphinx, exception: Exception | None) -> None:
    """Make ``index.html`` lead to the index, whose address is that of its source."""
    if exception is None and app.builder.format == "html":
        target = app.builder.get_target_uri(root_doc)
        text = f'<!doctype html><meta http-equiv="refresh" content="0; url={target}">\n'
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


# -- diagrams -------------------------------------------------------------------------------------


def draw_diagrams(_app: Sphinx, doctree: nodes.document) -> None:
    """Replace each Mermaid block by a picture, drawn once for each text of a block."""
    from docutils import nodes

    for block in list(doctree.findall(nodes.literal_block)):
        if block.get("language") != "mermaid":
            continue
        text = block.astext()
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = ROOT / "build" / "diagrams" / f"{name}.svg"
        if not path.exists():
            import mermaidx

            path.parent.mkdir(parents=True, exist_ok=True)
            drawing = mermaidx.render(text).svg()
            drawing = drawing.replace("background-color: transparent", "background-color: white", 1)
            path.write_text(drawing, encoding="utf-8")  # the lines are dark, the page may be, too
        title = block.parent[0] if isinstance(block.parent[0], nodes.title) else doctree[0][0]
        alternative = f"Diagram: {title.astext()}"
        block.replace_self(nodes.image(uri=f"/build/diagrams/{name}.svg", alt=alternative))


def setup(app: Sphinx) -> None:
    """Connect the functions of this module to Sphinx's events."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", adapt_docstring)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("missing-reference", find_name)
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", draw_diagrams, priority=400)  # before images are collected
    app.connect("build-finished", write_start_page)
