"""Codecs: how values of types that Spear does not know travel. A leaf module.

A codec turns a value of one type into a value that can be sent, and back. On the wire such a value is a
tag over the codec's name and the encoded content (``spear.wire``), in JSON a map
``{"$codec": [name, content]}`` (``spear._json``). A process finds a codec by the type when it sends, and
by the name when it receives, so both processes register it. A name from a peer is looked up in the table
of this process. No module is imported for it, except those of Spear's own codecs.

Tables and data frames have codecs of Spear's own (``spear._arrow``), which are loaded with the first one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar, cast, final

from ._errors import ConfigurationError, UnexpectedResult
from ._tagged import BY_CLASS, CONTAINERS
from ._util import MissingPackage, summary_of

T = TypeVar("T")

MAX_CODEC_NAME: Final = 200
"""Characters of the name of a codec."""

FRAMES: Final = frozenset(
    {
        "pandas.DataFrame", "pandas.Series", "polars.DataFrame", "polars.Series",
        "pyarrow.RecordBatch", "pyarrow.Table",
    }
)  # fmt: skip
"""The names of the codecs of :mod:`spear._arrow`: those of their types, after the package."""

_PLAIN: Final = frozenset({type(None), bool, int, float, str, object, type}) | CONTAINERS
_BYTES: Final = (bytes, bytearray, memoryview)


@final
class CodecFault(ValueError):
    """A received value cannot be decoded by a codec.

    Attributes:
        code: ``no_codec`` if the codec, or a package that it needs, is missing; else ``codec_failed``.
        name: the name of the codec, which is usually that of the type.
    """

    def __init__(self, message: str, *, code: str, name: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name

    def of_result(self, what: str) -> UnexpectedResult:
        """Return the error for the receiver of a result, described by ``what``."""
        return UnexpectedResult(f"{what}: {self}", got=self.name, code=self.code)


@final
class Codec:
    """A registered codec.

    Attributes:
        name: the name on the wire.
        type_name: the module and the name of the type.
        encode: returns the content for a value of the type.
        decode: returns the value for a content that a peer has sent.
    """

    __slots__ = ("decode", "encode", "name", "type_name")

    def __init__(
        self,
        name: str,
        type_name: str,
        encode: Callable[[object], object],
        decode: Callable[[object], object],
    ) -> None:
        self.name = name
        self.type_name = type_name
        self.encode = encode
        self.decode = decode

    def split(self, value: object) -> tuple[str, object]:
        """Return the name and the content of a value. Raises as the user's function does."""
        return self.name, self.encode(value)


@final
class CodedValue:
    """A value that this process passes on without decoding it.

    Attributes:
        name: the name of its codec.
        content: the encoded content.
    """

    __slots__ = ("content", "name")

    def __init__(self, name: str, content: object) -> None:
        self.name = name
        self.content = content


@final
class _Passing:
    """The codec of a :class:`CodedValue`, which has been encoded."""

    def split(self, value: object) -> tuple[str, object]:
        """Return the name and the content of a value."""
        assert isinstance(value, CodedValue)
        return value.name, value.content


AnyCodec: TypeAlias = "Codec | _Passing"
"""A codec, or that of values which are encoded already."""

_by_type: Final[dict[type, AnyCodec | None]] = {CodedValue: _Passing()}
_by_name: Final[dict[str, Codec]] = {}


def codec(  # type: ignore[explicit-any]  # decode() takes any content
    type: type[T],  # noqa: A002  # the best name for the argument, which is given by position
    encode: Callable[[T], object],
    decode: Callable[..., T],
    *,
    name: str | None = None,
) -> None:
    """Let values of a type be arguments, results and items, also inside of lists and dicts.

    Call it once for each type, in a module that the caller and the function both import. Values of
    subclasses are refused: each class needs its own codec.

    Args:
        type: the type, which is neither one that Spear sends itself, nor a subclass of ``bytes``.
        encode: returns a value that can be sent, for a value of the type.
        decode: called with one argument, what ``encode`` has returned, but with lists for tuples; returns
            the value. The argument comes from another process, so check it.
        name: the name on the wire, the same in both processes; by default the module and the name of the
            type.

    Raises:
        ConfigurationError: the type or the name has a codec, or the type can have none.
    """
    if not all(map(callable, (encode, decode))):
        raise ConfigurationError("a codec needs two functions: encode and decode")
    home = _expect_unknown(type)
    chosen: object = _default_name(type) if name is None else name
    if not isinstance(chosen, str) or not _is_name(chosen):
        raise ConfigurationError(
            f"the name of a codec must be printable text of 1 to {MAX_CODEC_NAME} characters, not "
            f"{chosen!r:.60}"
        )
    other = _by_name.get(chosen)
    if chosen in FRAMES or (other is not None and other.type_name != home):
        whose = f"of {other.type_name}" if other and chosen not in FRAMES else "of Spear's own"
        raise ConfigurationError(
            f"the name {chosen!r} is that of the codec {whose}: give the codec of {home} another one, as "
            "in name='...'"
        )
    made = Codec(
        chosen,
        home,
        cast("Callable[[object], object]", encode),
        cast("Callable[[object], object]", decode),
    )
    # A class of the same module and name is the same class, made again: by a reload, or in a notebook.
    _by_name[chosen] = _by_type[type] = made


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_CODEC_NAME and text.isprintable()


def _expect_unknown(cls: object) -> str:
    """Return the module and the name of a class. Raises ConfigurationError if it can have no codec."""
    if not isinstance(cls, type):
        raise ConfigurationError(f"{cls!r:.60} can have no codec: pass a class")
    home = f"{cls.__module__}.{cls.__qualname__}"
    is_sent = _package_name(cls) in (*BY_CLASS, *FRAMES) or home.startswith("spear.")
    if issubclass(cls, _BYTES):
        raise ConfigurationError(f"{home} can have no codec: bytes travel as they are")
    if cls in _PLAIN or is_sent:
        raise ConfigurationError(f"{home} can have no codec: Spear sends its values itself")
    if _by_type.get(cls) is not None:
        raise ConfigurationError(f"{home} has a codec already: call spear.codec() once for a type")
    return home


def _default_name(cls: type) -> str:
    """Return the module and the name of a class. A file that is run has the name of its module."""
    module = cls.__module__
    if module in ("__main__", "__mp_main__"):
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = os.path.basename(getattr(main, "__file__", None) or "")
        module = spec.name if spec is not None else file.removesuffix(".py") or module
    return f"{module.removeprefix('spear_function_')}.{cls.__qualname__}"


def is_frame(cls: type) -> bool:
    """Return whether a class is one of the tables and data frames of :data:`FRAMES`."""
    return _package_name(cls) in FRAMES


def _package_name(cls: type) -> str:
    """Return the name of a class after that of its package: ``pandas.DataFrame``."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


MAX_KNOWN_TYPES: Final = 1000
"""Types without a codec that are remembered; a program may make classes without end."""


def codec_of(cls: type) -> AnyCodec | None:
    """Return the codec of exactly this class; None if it has none."""
    try:
        return _by_type[cls]
    except KeyError:
        name = _package_name(cls)
        found = _frame_codec(name) if name in FRAMES else None
        if found is not None or len(_by_type) < MAX_KNOWN_TYPES:
            _by_type[cls] = found
        return found


def _frame_codec(name: str) -> Codec:
    if name not in _by_name:
        from ._arrow import decode_frame, encode_frame

        def decode(content: object) -> object:
            return decode_frame(name, content)

        _by_name[name] = Codec(name, name, encode_frame, decode)
    return _by_name[name]


# -- values of peers ------------------------------------------------------------------------------

_passes_on = False


@contextmanager
def values_passed_on() -> Iterator[None]:
    """Let this process decode no coded values while the block runs: it passes them on.

    For commands, which show results, and never import the modules of functions.
    """
    global _passes_on
    before, _passes_on = _passes_on, True
    try:
        yield
    finally:
        _passes_on = before


def restore_coded(content: object, *, passes_on: bool = False) -> object:
    """Return the value for the content of a tag: the name of a codec, and the encoded content.

    Args:
        content: the list of both.
        passes_on: whether to return a :class:`CodedValue`, whatever the name.

    Raises:
        CodecFault: no codec has the name, or the codec has raised.
        ValueError: the content is no such list.
    """
    match content:
        case [str() as name, inner] if 0 < len(name) <= MAX_CODEC_NAME:
            pass
        case _:
            raise ValueError("not a coded value: a list of a codec's name and a content")
    if passes_on or _passes_on:
        return CodedValue(name, inner)
    found = _frame_codec(name) if name in FRAMES else _by_name.get(name)
    if found is None:
        raise CodecFault(
            f"a value of type {name!r} has arrived, which has no codec in this process: import the "
            "module that calls spear.codec() for the type, both where the value is made and here",
            code="no_codec",
            name=name,
        )
    try:
        return found.decode(inner)
    except MissingPackage as error:
        raise CodecFault(f"a {name} has arrived: {error}", code="no_codec", name=name) from error
    except Exception as error:  # the user's code
        message = f"decode() of the codec {name!r} has raised {summary_of(error)}"
        raise CodecFault(message, code="codec_failed", name=name) from error
