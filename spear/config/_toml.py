"""TOML files: read, with the line of each key; and written, for people to read.

The reader of the standard library says no lines. So a scanner finds where each key stands, in a text that
the reader has found to be TOML: it need not be strict, and what it does not find, such as a key inside an
inline table, counts as standing where its table does.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Final

from spear._errors import ConfigurationError
from spear._json import read_float, too_many_digits

from ._faults import KeyPath, Said, show_path

MAX_FILE_BYTES: Final = 1 << 20
"""Of a configuration. Nobody writes so much; a wrong file may have any size."""

_BYTE_ORDER_MARK: Final = "\ufeff"

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEYS: Final = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*")
_ONE_KEY: Final = re.compile(_PART)
_TOKEN: Final = re.compile(
    r"""'''.*?'''|\"{3}(?:[^\\]|\\.)*?\"{3}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[\[\]{}\n]""",
    re.DOTALL,
)


def load_toml(text: str) -> dict[str, object]:
    """Return what a text says.

    Raises:
        tomllib.TOMLDecodeError: it is not TOML.
        ValueError: it is, with a number that Python cannot hold.
    """
    return tomllib.loads(text, parse_float=_read_float)


def _read_float(text: str) -> float:
    if text.lstrip("+-") in ("inf", "nan"):
        return float(text)
    return read_float(text.replace("_", ""))  # which TOML allows between digits


def read_file(path: str, here: str | None) -> Said:
    """Read a TOML file. Messages show its path relative to ``here`` if it is below ``here``.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML; the message has the line.
    """
    relative = os.pardir if here is None else os.path.relpath(path, here)
    shown = path if relative.startswith(os.pardir) else relative
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigurationError(
                f"{shown} has more than {MAX_FILE_BYTES} bytes: is it the right file?"
            )
        text = content.decode()
        if text.startswith(_BYTE_ORDER_MARK):
            raise ConfigurationError(
                f"{shown}:1: begins with a byte order mark: save the file as UTF-8 without one"
            )
        tables = load_toml(text)
    except OSError as error:
        raise ConfigurationError(f"cannot read {shown}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{shown}:{line}: this is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        what, line = _fault_in(text, error)
        raise ConfigurationError(f"{shown}:{line}: this is not TOML: {what}") from error
    except ValueError as error:
        # int() raises a plain one, whose advice is for the author of this program.
        reason = too_many_digits() if type(error) is ValueError else str(error)
        line, key = _find_unusable(text)
        raise ConfigurationError(
            f"{shown}:{line}: {key}: this number cannot be used: {reason}"
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{shown} is nested too deeply") from error
    return Said(tables, {key: f"{shown}:{line}" for key, line in find_lines(text)})


def _fault_in(text: str, error: tomllib.TOMLDecodeError) -> tuple[str, int]:
    """(what is wrong, line).

    The one place in Spear that reads a message. Before CPython 3.14, TOMLDecodeError has no attributes,
    and only its text names the line: ``Expected '=' (at line 3, column 5)`` or ``(at end of document)``.
    """
    what, _, where = str(error).partition(" (at ")
    found = re.search(r"line (\d+)", where)
    return what, int(found[1]) if found else text.count("\n") + 1


def _find_unusable(text: str) -> tuple[int, str]:
    """The line and the key of the first number in a TOML text that Python cannot hold."""
    found = (
        (line, show_path(path))
        for path, line, statement in _statements(text)
        if _is_unusable(statement)
    )
    return next(found, (1, "a key"))


def _is_unusable(statement: str) -> bool:
    try:
        load_toml(statement)
    except ValueError:
        return True
    return False


def find_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Each table and key of a TOML text, and its line."""
    return ((path, line) for path, line, _ in _statements(text))


def _statements(text: str) -> Iterator[tuple[KeyPath, int, str]]:
    """Each table and key of a TOML text, its line, and the text of it alone."""
    table: KeyPath = ()
    position, line = 0, 1
    while position < len(text):
        header = re.compile(r"[ \t]*\[\[?").match(text, position)
        keys = _KEYS.match(text, header.end() if header else position)
        if keys:
            path = tuple(_unquote(each) for each in _ONE_KEY.findall(keys[1]))
            where = line + text.count("\n", position, keys.start(1))
            end = _end_of_statement(text, keys.end())
            if header:
                table = path
                yield path, where, text[position:end]
            else:
                yield table + path, where, text[position:end]
            position = end
        else:
            position = _end_of_statement(text, position)
        line = text.count("\n", 0, position) + 1


def _unquote(part: str) -> str:
    if part.startswith("'"):
        return part[1:-1]
    if part.startswith('"'):
        return str(tomllib.loads(f"key = {part}")["key"])
    return part


def _end_of_statement(text: str, position: int) -> int:
    """Behind the next line's end that is not inside a text or a bracket."""
    depth = 0
    for token in _TOKEN.finditer(text, position):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        elif token[0] == "\n" and depth <= 0:
            return token.end()
    return len(text)


# -- writing ----------------------------------------------------------------------------------


def show_toml(tables: Mapping[str, object]) -> str:
    """Tables as TOML. What is None has no TOML, and is left out."""
    return "\n".join(_show_table((), tables)).strip() + "\n"


def _show_table(path: KeyPath, table: Mapping[str, object]) -> Iterator[str]:
    plain = {name: each for name, each in table.items() if not isinstance(each, Mapping)}
    inner = {name: each for name, each in table.items() if isinstance(each, Mapping)}
    if path and (plain or not inner):
        yield ""
        yield f"[{'.'.join(_show_key(each) for each in path)}]"
    for name, value in plain.items():
        if value is not None:
            yield f"{_show_key(name)} = {show_toml_value(value)}"
    for name, each in inner.items():
        yield from _show_table((*path, name), each)


def _show_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _show_text(key)


def _show_text(text: str) -> str:
    # JSON's escapes are TOML's, but for this control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def show_toml_value(value: object) -> str:
    """One value: a text, a number, a truth, or a list of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if isfinite(value) else str(value)
    if isinstance(value, int):
        try:
            return str(value)
        except ValueError:  # of more than 4,300 digits
            return hex(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(show_toml_value(each) for each in value)}]"
    return _show_text(str(value))
