"""The forms of a program's name, in all places that take one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from spear._targets import (
    being_loaded,
    defines_function,
    file_of,
    is_file,
    loading,
    split_call,
    split_target,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("shop.py", ("shop.py", "")), ("shop.py:app", ("shop.py", "app")),
        ("company.shop:app", ("company.shop", "app")), ("a:b/shop.py", ("a:b/shop.py", "")),
        ("a:b/shop.py:app", ("a:b/shop.py", "app")), ("shop.py:", ("shop.py:", "")), ("", ("", "")),
    ],
)  # fmt: skip
def test_a_target_may_name_an_agent(target: str, parts: tuple[str, str]) -> None:
    assert split_target(target) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("shop.py:price", ("shop.py", "price")), ("shop.py:app:price", ("shop.py:app", "price")),
        ("shop.py:trig.sine", ("shop.py", "trig.sine")), ("shop.py", ("shop.py", "")),
        ("a:b/shop.py", ("a:b/shop.py", "")), ("a:shop.py", ("a:shop.py", "")),
        ("shop.py:", ("shop.py", "")), (":price", ("", "price")),
    ],
)  # fmt: skip
def test_a_call_names_a_function(text: str, parts: tuple[str, str]) -> None:
    assert split_call(text) == parts


def test_what_means_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()  # a package: the name means its module
    (tmp_path / "script").touch()
    files = ("missing.py", "./shop", "/dev/null", "script", "shop", "company.shop")
    assert [is_file(each) for each in files] == [True, True, True, True, False, False]


def test_a_directory_means_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert file_of(f"{tmp_path}/shop/") == f"{tmp_path}/shop/main.py"
    assert file_of(f"{tmp_path}/shop.py") == f"{tmp_path}/shop.py"  # whether the file exists or not


def test_what_is_being_loaded_is_known_while_it_is() -> None:
    assert being_loaded() == ""
    with suppress(ZeroDivisionError), loading("a/shop.py"):
        assert being_loaded() == "shop.py"
        raise ZeroDivisionError
    assert being_loaded() == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def work(item): ...", True), ("async def work(item): ...", True),
        ("\xff\ndef work[T](item: T): ...", True), ("def works(item): ...", False),
        ("class A:\n    def work(self): ...", False), ("work = 1", False), ("# def work(", False),
    ],
)  # fmt: skip
def test_a_function_is_found_in_a_file_that_is_not_loaded(
    tmp_path: Path, text: str, found: bool
) -> None:
    (tmp_path / "a.py").write_text(text, encoding="latin-1")
    assert defines_function(tmp_path / "a.py", "work") is found
    assert not defines_function(tmp_path / "absent.py", "work")
