"""The check whether a value can be sent, as an argument, a result or an item. A leaf module.

CBOR libraries encode more than any peer here decodes: fractions and addresses as tags, maps with floats
for keys, views of memory as lists of numbers. The check comes before the encoding, so such a value is
refused where it was made, with an error that names its type and its place. The rules are those of
``spear.wire``; a test compares the two.

Most values are plain. For one that is not, because it holds a value of the table in ``spear._tagged``,
the check stops with :class:`NotPlain`, so that plain values do not pay for the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, TypeAlias, final

from ._arrays import is_array
from ._codecs import codec_of
from ._tagged import names_of, tagged_type
from ._unfolding import Fields, Unfold, unfold_of
from ._util import text_of

MAX_LEVELS: Final = 64
"""Levels of nested lists and maps; a peer's decoder accepts no more."""

MAX_PATH: Final = 80
"""Characters of a path to a place in a value; a longer path is cut at its end."""

Skip: TypeAlias = frozenset[type]
"""Types whose values are not checked; values of their subclasses are."""

_SCALARS: Final[Skip] = frozenset({type(None), bool, int, float, str, bytes, bytearray})
_ALL_BUT_TEXT: Final = _SCALARS - {str}
_SCALAR_CLASSES: Final = (int, float, bytes, bytearray)

_ADVICE: Final = {
    "fractions.Fraction": "text, such as str(value)",
    "ipaddress._IPAddressBase": "text, such as str(value)",
    "builtins.BaseException": "text, such as str(value)",
    "builtins.memoryview": "bytes, such as .tobytes()",
    "_io._IOBase": "the file's content, such as .read()",
    "spear.SharedBuffer": "the buffer as the only argument or as the result",
    "numpy.MaskedArray": "an array without a mask, such as .filled(), or data and mask",
    "numpy.ndarray": "a list, such as .tolist()",
    "numpy.datetime64": "text, such as str(value)",
    "numpy.timedelta64": "a number, such as value / numpy.timedelta64(1, 's')",
    "numpy.complexfloating": "a list of two numbers",
    "numpy.void": "a list, such as .item()",
    "numpy.generic": "a number, such as float(value)",  # of more digits than a float has
    "pandas.DataFrame": "a list of dicts, such as .to_dict('records')",
    "pandas.Series": "a list, such as .tolist(), or a dict, such as .to_dict()",
    "pandas.Index": "an array, such as .to_numpy()",
    "polars.LazyFrame": "a DataFrame, such as .collect()",
    "pyarrow.Array": "a table, such as pyarrow.table({'values': value})",
    "pyarrow.ChunkedArray": "a table, such as pyarrow.table({'values': value})",
    "torch.Tensor": "an array, such as .numpy()",
    "pandas.NAType": "None",
    "pandas.NaTType": "None",
    "pydantic._SecretBase": "the secret itself, such as .get_secret_value()",
}
"""Advice on what to send instead, by the package and the name of a class or one of its bases.

The keys are names, because the packages may not be loaded. They include the package, because other
packages may have classes of the same name."""

_METHODS: Final = ("tolist", "to_list", "to_pylist", "to_dicts", "to_dict", "isoformat")
"""Methods that may convert values of a class that is not in the table."""

_ANYTHING: Final = (
    "numbers, text, bytes, lists, dicts, attrs or dataclass objects, or an object with a codec "
    "(spear.codec)"
)


@final
class CannotSend(Exception):
    """A value, or a part of it, has no representation on the wire.

    Attributes:
        what: a description of the value or part, such as "a value of type date".
        instead: advice on what to send instead.
        path: the place of the part in the value, as in ``['when'][0]``; empty for the value itself.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"cannot send {what}: send {instead} instead")
        self.what = what
        self.instead = instead
        self.path = ""

    def inside(self, step: str) -> CannotSend:
        """Put a step in front of the path, seen from one level further out; returns this exception."""
        path = step + self.path
        self.path = path if len(path) <= MAX_PATH else f"{path[: MAX_PATH - 3]}..."
        return self


class NotPlain(Exception):
    """A value holds one of a tagged type or with a codec, an array, or a map with a number for a key."""


# Written for speed: it takes a quarter of the time of encoding the value.
def check_sendable(value: object, levels: int = MAX_LEVELS, skip: Skip = _SCALARS) -> None:
    """Check that a value can be sent, but not that its text is valid Unicode.

    Args:
        value: the value.
        levels: how deep lists and maps may be nested in it.
        skip: types whose values are not checked.

    Raises:
        NotPlain: the value is not plain; it was not checked otherwise.
        CannotSend: the value, or a part of it, cannot be sent.
    """
    kind = type(value)
    if kind in skip:
        return
    if kind is dict:
        _check_map(value, levels, skip)  # type: ignore[arg-type]  # mypy does not follow `kind`
    elif kind is list or kind is tuple:
        _check_items(value, levels, skip)  # type: ignore[arg-type]  # likewise
    else:
        _check_other(value, levels, skip)


def check_text(value: object, levels: int = MAX_LEVELS) -> None:
    """Check that a value can be sent, its text included, after encoding has failed. Raises CannotSend."""
    check_sendable(value, levels, _ALL_BUT_TEXT)


def check_arguments(
    positional: Sequence[object], keywords: Mapping[str, object], *, text: bool = False
) -> None:
    """Check that the arguments of a call can be sent.

    Args:
        positional: positional arguments.
        keywords: keyword arguments.
        text: whether text is checked, too, as by :func:`check_text`.

    Raises:
        NotPlain: an argument is not plain.
        CannotSend: an argument cannot be sent; the path begins with "argument 1" or with its name.
    """
    check = check_text if text else check_sendable
    for index, value in enumerate(positional):
        if text or type(value) not in _SCALARS:
            try:
                check(value, MAX_LEVELS - 2)  # arguments travel as a list in a list
            except CannotSend as fault:
                raise fault.inside(f"argument {index + 1}") from None
    for name, value in keywords.items():
        if text:
            check_unicode(name)
        if text or type(value) not in _SCALARS:
            try:
                check(value, MAX_LEVELS - 2)  # likewise
            except CannotSend as fault:
                raise fault.inside(name if fault.path else f"{name}=...") from None


def _check_items(items: Sequence[object], levels: int, skip: Skip) -> None:
    if not levels:
        raise too_deep()
    if len(items) > 16 and skip.issuperset(map(type, items)):  # slower for shorter lists
        return
    for index, item in enumerate(items):
        if type(item) not in skip:
            try:
                check_sendable(item, levels - 1, skip)
            except CannotSend as fault:
                raise fault.inside(f"[{index}]") from None


def _check_map(entries: Mapping[object, object], levels: int, skip: Skip) -> None:
    if not levels:
        raise too_deep()
    for key, item in entries.items():
        if type(key) is not str or skip is not _SCALARS:
            _check_key(key)
        if type(item) not in skip:
            try:
                check_sendable(item, levels - 1, skip)
            except CannotSend as fault:
                raise fault.inside(f"[{shown_key(key)}]") from None


def _check_key(key: object) -> None:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        check_unicode(key)
    elif not isinstance(key, bytes):
        if type(key) is not bool and (isinstance(key, int) or is_numpy_integer(key)):
            raise NotPlain
        raise wrong_key(key)


def is_numpy_integer(key: object) -> bool:
    """Return whether a key is an integer of numpy, which is sent as an ``int``."""
    return "numpy.integer" in names_of(type(key))


def wrong_key(key: object) -> CannotSend:
    """Return the error for a map with a key that is neither text, bytes nor an integer."""
    return CannotSend(
        f"a dict with a key of type {type(key).__qualname__}",
        "one with text or integer keys, such as {str(key): value}, or the list of its .items()",
    )


def check_unicode(text: str) -> None:
    """Check that a text is valid Unicode. Raises CannotSend."""
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, as in the names of files
        raise CannotSend("text that is not Unicode", "bytes, such as os.fsencode()") from None


def _check_other(value: object, levels: int, skip: Skip) -> None:
    """Check a value whose exact type is none of the usual ones."""
    if codec_of(type(value)) is not None:
        raise NotPlain
    if isinstance(value, str):
        check_unicode(value)
    elif isinstance(value, _SCALAR_CLASSES) or value is None:
        return
    elif isinstance(value, Mapping):
        _check_map(value, levels, skip)
    elif isinstance(value, Sequence) and not is_buffer(value):
        _check_items(value, levels, skip)
    elif isinstance(value, Enum):
        check_sendable(value.value, levels, skip)
    else:
        _check_object(value, levels, skip)


def is_buffer(value: Sequence[object]) -> bool:
    """Return whether a sequence is a view of memory, or an array of numbers, and not sent as a list."""
    return not isinstance(value, list | tuple) and (
        isinstance(value, memoryview) or is_array(value)
    )


def _check_object(value: object, levels: int, skip: Skip) -> None:
    cls = type(value)
    unfold = unfold_of(cls)
    if unfold is None:
        if tagged_type(cls) is not None or is_array(value):
            raise NotPlain
        raise cannot_send(value)
    if not levels:
        raise too_deep()
    plain, names = unfolded(value, unfold)
    if type(plain) is not dict:
        check_sendable(plain, levels, skip)
        return
    for key, item in plain.items():
        try:
            check_sendable(item, levels - 1, skip)
        except CannotSend as fault:
            raise fault.inside(f".{names.get(key, key)}") from None


def unfolded(value: object, unfold: Unfold) -> tuple[object, dict[str, str]]:
    """Return an object unfolded by one level, and the names of attributes that are not their keys.

    Raises:
        CannotSend: the object's own code has raised.
    """
    try:
        return unfold(value), dict(unfold.pairs) if type(unfold) is Fields else {}
    except Exception as error:
        kind = type(value).__qualname__
        what = f"a value of type {kind}, whose fields cannot be read ({text_of(error)})"
        raise CannotSend(what, "one with all of its fields") from error


def cannot_send(value: object, why: str = "", instead: str = "") -> CannotSend:
    """Return the error for a value that cannot be sent, because of its type or another reason."""
    what = f"a value of type {type(value).__qualname__}{f' ({why})' if why else ''}"
    return CannotSend(what, instead or _advice_for(value))


def _advice_for(value: object) -> str:
    cls = type(value)
    for name in names_of(cls):
        if name in _ADVICE:
            return _ADVICE[name]
    for method in _METHODS:
        if hasattr(cls, method):
            return f"the result of .{method}()"
    # For generators, views of dicts and similar values.
    return "a list" if hasattr(cls, "__iter__") or hasattr(cls, "__aiter__") else _ANYTHING


def too_deep() -> CannotSend:
    """Return the error for a value that is nested too deeply."""
    return CannotSend(f"more than {MAX_LEVELS} levels of lists and maps", "fewer levels")


def shown_key(key: object) -> str:
    """Return a key of a map as a path shows it."""
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."
