"""TOML files: reading with the line of each key, and writing for people.

The standard library's parser reports no lines. A scanner therefore finds the line of each key, in a text
that the parser has already accepted, so it need not be strict. A key that the scanner does not find, such
as one in an inline table, gets the line of its table.
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
"""Largest configuration file. No real one is so large; a wrong file may have any size."""

_BYTE_ORDER_MARK: Final = "\ufeff"

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEYS: Final = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*")
_ONE_KEY: Final = re.compile(_PART)
_TOKEN: Final = re.compile(
    r"""'''.*?'''|\"{3}(?:[^\\]|\\.)*?\"{3}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[\[\]{}\n]""",
    re.DOTALL,
)


def load_toml(text: str) -> dict[str, object]:
    """Parse a TOML text.

    Raises:
        tomllib.TOMLDecodeError: the text is not TOML.
        ValueError: the text has a number that Python cannot represent.
    """
    return tomllib.loads(text, parse_float=_read_float)


def _read_float(text: str) -> float:
    if text.lstrip("+-") in ("inf", "nan"):
        return float(text)
    return read_float(text.replace("_", ""))  # TOML allows underscores between digits


def read_file(path: str, here: str | None) -> Said:
    """Read a TOML file. Messages show its path relative to ``here`` if it is below ``here``.

    Raises:
        ConfigurationError: the file cannot be read, or is not TOML; the message has the line.
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
        # int() raises a plain ValueError, whose advice is for the author of the program.
        reason = too_many_digits() if type(error) is ValueError else str(error)
        line, key = _find_unusable(text)
        raise ConfigurationError(
            f"{shown}:{line}: {key}: this number cannot be used: {reason}"
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{shown} is nested too deeply") from error
    return Said(tables, {key: f"{shown}:{line}" for key, line in find_lines(text)})


def _fault_in(text: str, error: tomllib.TOMLDecodeError) -> tuple[str, int]:
    """Return (what is wrong, line).

    Before CPython 3.14, TOMLDecodeError has no attributes, and this function has to read the message, as
    in ``Expected '=' (at line 3, column 5)`` or ``(at end of document)``. No other part of Spear depends
    on a message.
    """
    if hasattr(error, "lineno"):  # pragma: no cover  # since CPython 3.14
        return str(getattr(error, "msg", error)), int(error.lineno)
    what, _, where = str(error).partition(" (at ")
    found = re.search(r"line (\d+)", where)
    return what, int(found[1]) if found else text.count("\n") + 1


def _find_unusable(text: str) -> tuple[int, str]:
    """Return the line and the key of the first number that Python cannot represent."""
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
    """Yield each table and key of a TOML text with its line."""
    return ((path, line) for path, line, _ in _statements(text))


def _statements(text: str) -> Iterator[tuple[KeyPath, int, str]]:
    """Yield each table and key of a TOML text with its line and the text of its statement."""
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
    """Return the position after the next line end that is not inside a string or brackets."""
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
    """Write tables as TOML. Values of None cannot be written in TOML and are left out."""
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
    # The escapes of JSON are valid in TOML, except for this control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def show_toml_value(value: object) -> str:
    """Write one value as TOML: a string, a number, a boolean, or a list of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if isfinite(value) else str(value)
    if isinstance(value, int):
        try:
            return str(value)
        except ValueError:  # str() refuses more than 4,300 digits
            return hex(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(show_toml_value(each) for each in value)}]"
    return _show_text(str(value))
