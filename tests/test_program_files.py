"""The files of a program, as its imports name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spear import _program_files
from spear._program_files import files_of


def write(place: Path, **files: str) -> None:
    for name, text in files.items():
        path = place / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names_of(place: Path, program: str) -> list[str]:
    return sorted(str(each.relative_to(place)) for each in files_of(place / program))


def test_modules_beside_a_program_and_their_own_imports(tmp_path: Path) -> None:
    write(
        tmp_path,
        shop="import json, prices\ndef late():\n    from stock import shelves",
        prices="import trio\nimport rates as r",
        rates="import shop",
        stock__shelves="",
        unused="",
    )
    assert names_of(tmp_path, "shop.py") == ["prices.py", "rates.py", "shop.py", "stock/shelves.py"]


def test_modules_of_a_package_and_beside_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        company__shop="from . import prices\nfrom .deep.rates import R\nimport beside, up.x",
        company__prices="from company import names",
        company__deep__rates="from ... import nowhere\nfrom ..names import N",
        company__names="",
        beside="",
        up__x="",
    )
    for each in ("company", "company/deep"):
        (tmp_path / each / "__init__.py").touch()
    assert names_of(tmp_path, "company/shop.py") == [
        "beside.py", "company/__init__.py", "company/deep/__init__.py", "company/deep/rates.py",
        "company/names.py", "company/prices.py", "company/shop.py", "up/x.py",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["def (", "\0", "from " + 200 * "." + " import x", ""])
def test_a_file_that_cannot_be_parsed_has_no_imports(text: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(text)
    assert names_of(tmp_path, "shop.py") == ["shop.py"]
    assert files_of(tmp_path / "missing.py") == [tmp_path / "missing.py"]


def test_the_number_of_modules_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a="import b", b="import c", c="import d", d="")
    monkeypatch.setattr(_program_files, "MAX_MODULES", 2)
    assert names_of(tmp_path, "a.py") == ["a.py", "b.py"]
