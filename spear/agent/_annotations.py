"""Checks made from annotations, which validate a decoded value and convert it.

========================================  ====================================================
annotation                                accepted value → what the function gets
========================================  ====================================================
``str`` ``bool`` ``int`` ``None``         a value of exactly this type (a bool is not an int)
``float``                                 a float, or an int that a float holds exactly
``bytes`` ``bytearray`` ``memoryview``    bytes → as annotated
``list[T]``, ``Sequence[T]`` ...          a list, each item checked
``tuple[...]`` ``set[T]`` ``frozenset``   a list → as annotated
``dict[K, V]``, ``Mapping[K, V]`` ...     a map, each key and value checked; int keys come as text
``X | Y``, ``Optional[X]``                the first that fits, an exact type before a conversion
``Literal[...]``, enum classes            one of the values
attrs class, dataclass, ``TypedDict``     a map with its fields and no others
``pathlib`` paths                         text
another class                             an instance of the class, which no decoded value can be:
                                          see ``_mistakes``
none, ``Any``, ``object``, an annotation  any value
that cannot be resolved
========================================  ====================================================

Checks are built at the first call of a function, and only if it has annotations. This module may
therefore import modules that the rest of the agent avoids at start-up.
"""

from __future__ import annotations

import builtins
import inspect
import re
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from typing import Final, TypeAlias, final

from spear._signatures import ITEMS, LISTS, MAPS, SETS
from spear._util import did_you_mean, text_of

from ._as_written import annotations_of, signature_of
from ._items import Items
from ._mismatch import Mismatch

Convert: TypeAlias = Callable[[object], object]
MakeSet: TypeAlias = Callable[[Iterable[object]], abc.Set[object]]


class _Never:
    """A stand-in for the exact type in a check that has to convert every value."""


def _classes(names: Iterable[str]) -> frozenset[object]:
    """Return the classes of these names, from ``builtins`` or ``collections.abc``."""
    found = (getattr(builtins, name, None) or getattr(abc, name, None) for name in names)
    return frozenset(each for each in found if each is not None)


@final
class Check:
    """A check of values against one annotation, with a conversion to the annotated type.

    Attributes:
        exact: the type whose values are accepted unchanged.
        text: the annotation as error messages show it.
        impossible: a class in the annotation that cannot be sent, so that only an empty list or map
            can fit; None if there is none.
    """

    __slots__ = ("_convert", "exact", "impossible", "text")

    def __init__(
        self,
        text: str,
        exact: type = _Never,
        convert: Convert | None = None,
        *,
        parts: Iterable[Check | None] = (),
    ) -> None:
        self.text = text
        self.exact = exact
        self.impossible: type | None = _first_impossible(parts)
        self._convert = convert

    def complete(self, convert: Convert) -> None:
        """Set the conversion of a check that had to exist before its conversion."""
        self._convert = convert

    def __call__(self, value: object) -> object:
        """Return the value as the function gets it. Raises Mismatch."""
        if type(value) is self.exact:
            return value
        if self._convert is None:
            raise self.mismatch(value)
        return self._convert(value)

    def at(self, value: object, step: str) -> object:
        """Check an inner value; a Mismatch gets ``step`` added to its path."""
        try:
            return self(value)
        except Mismatch as mismatch:
            raise mismatch.inside(step) from None

    def mismatch(self, value: object) -> Mismatch:
        """Return the error for a value that does not fit."""
        return Mismatch.of_type(self.text, value)


def _first_impossible(parts: Iterable[Check | None]) -> type | None:
    return next((part.impossible for part in parts if part and part.impossible), None)


_ITEMS: Final = re.compile(rf"(\w+\.)*({'|'.join(ITEMS)})\b")
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,999}")  # int() also accepts "01", "+1", " 1", "1_0"


def resolve_hints(thing: object) -> dict[str, object]:
    """Return the annotations of a function or class, except the ones that cannot be resolved."""
    with suppress(Exception):  # evaluating a text can raise any exception
        return typing.get_type_hints(thing, include_extras=True)
    hints: dict[str, object] = {}
    # One name that exists only under TYPE_CHECKING must not disable the checks of all other names.
    module = inspect.getmodule(thing)
    scope = getattr(thing, "__globals__", None) or vars(module or typing)
    for name, annotation in annotations_of(thing).items():  # type: ignore[arg-type]  # either
        single = types.SimpleNamespace(__annotations__={name: annotation}, __globals__=scope)
        with suppress(Exception):  # evaluating a text can raise any exception
            hints.update(typing.get_type_hints(single, include_extras=True))
        if name not in hints and isinstance(annotation, str) and _ITEMS.match(annotation):
            hints[name] = Items  # imported under TYPE_CHECKING only
    return hints


def is_items(hint: object) -> bool:
    """Return whether a parameter with this annotation takes the stream of items of the caller."""
    origin = typing.get_origin(hint) or hint
    return origin is Items or origin in _classes(ITEMS)


def item_check(hint: object) -> Check | None:
    """Return the check for each item of an annotated stream; None if the items are not annotated."""
    arguments = typing.get_args(hint)
    return build_check(arguments[0]) if arguments else None


_WRAPPERS: Final = (typing.Annotated, typing.Required, typing.NotRequired)


def build_check(hint: object) -> Check | None:
    """Return the check for an annotation; None if it allows every value."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # the `type` statement of Python 3.12
            hint = getattr(hint, "__value__", None)
        elif type(hint).__name__ == "InitVar":
            hint = getattr(hint, "type", None)
        elif typing.get_origin(hint) in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        else:
            break
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is types.NoneType:
        return Check("None", types.NoneType)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is typing.Literal:
        return _literal(arguments)
    cls = origin or hint
    if not isinstance(cls, type) or cls in (typing.Any, object, type):
        return None
    return _SCALARS.get(cls) or _class_check(cls, arguments)


def _class_check(cls: type, arguments: tuple[object, ...]) -> Check | None:
    if cls in _LISTS:
        return _list(arguments)
    if cls in _MAPS:
        return _dict(arguments)
    if cls is tuple:
        return _tuple(arguments)
    if cls in _SETS:
        return _set(_SETS[cls], arguments)
    if issubclass(cls, Enum):
        return _enum(cls)
    if issubclass(cls, PurePath):
        return _scalar("a path as text", cls, cls, str)
    if (
        hasattr(cls, "__attrs_attrs__")
        or hasattr(cls, "__dataclass_fields__")
        or typing.is_typeddict(cls)
    ):
        return _structure(cls)
    return _instance(cls)


# -- numbers, text, bytes -------------------------------------------------------------------------------


def _scalar(text: str, exact: type, make: Callable[[object], object], *sources: type) -> Check:
    """Return a check that accepts the type ``exact``, and converts values of the types ``sources``."""
    check = Check(text, exact)

    def convert(value: object) -> object:
        if type(value) in sources:
            return make(value)
        raise check.mismatch(value)

    check.complete(convert)
    return check


def _to_float(value: int) -> float:
    with suppress(OverflowError):
        if (number := float(value)) == value:
            return number
    raise Mismatch("expected float, got an int that no float represents exactly")


_SCALARS: Final[dict[type, Check]] = {
    str: Check("str", str),
    bool: Check("bool", bool),
    int: Check("int", int),
    bytes: _scalar("bytes", bytes, bytes, memoryview),  # type: ignore[arg-type]  # with views only
    float: _scalar("float", float, _to_float, int),  # type: ignore[arg-type]  # called with an int only
    bytearray: _scalar("bytes", bytearray, bytearray, bytes, memoryview),  # type: ignore[arg-type]  # likewise
    memoryview: _scalar("bytes", memoryview, memoryview, bytes),  # type: ignore[arg-type]  # likewise
}


def _enum(cls: type[Enum]) -> Check:
    values = [member.value for member in cls]
    check = Check(_one_of(values))

    def convert(value: object) -> object:
        for member in cls:
            # 1, 1.0 and True are equal, but of different types.
            if type(value) is type(member.value) and value == member.value:
                return member
        raise Mismatch(f"expected {check.text}, got {_shown(value)}")

    check.complete(convert)
    return check


def _literal(values: tuple[object, ...]) -> Check:
    by_wire = [(each.value if isinstance(each, Enum) else each, each) for each in values]
    check = Check(_one_of([wire for wire, _ in by_wire]))

    def convert(value: object) -> object:
        for wire, literal in by_wire:
            if type(value) is type(wire) and value == wire:
                return literal
        raise Mismatch(f"expected {check.text}, got {_shown(value)}")

    check.complete(convert)
    return check


def _one_of(values: Sequence[object]) -> str:
    shown = [repr(value) for value in values]
    if len(shown) > 12:
        shown[11:] = ["..."]
    return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- containers -----------------------------------------------------------------------------------------

_LISTS: Final = _classes(LISTS)
_MAPS: Final = _classes(MAPS)
_SETS: Final[dict[object, MakeSet]] = {
    cls: set if cls in (set, abc.MutableSet) else frozenset for cls in _classes(SETS)
}


def _named(text: str, checks: Iterable[Check | None]) -> str:
    inner = ", ".join(check.text if check else "Any" for check in checks)
    return f"{text}[{inner}]" if inner else text


def _list(arguments: tuple[object, ...]) -> Check:
    each = build_check(arguments[0]) if arguments else None
    if each is None:
        return Check("list", list)
    check, exact = Check(_named("list", [each]), parts=[each]), each.exact

    def convert(value: object) -> object:
        if type(value) is not list:
            raise check.mismatch(value)
        if set(map(type, value)) <= {exact}:  # three times as fast as checking one by one
            return value
        return [each.at(item, f"[{index}]") for index, item in enumerate(value)]

    check.complete(convert)
    return check


def _set(make: MakeSet, arguments: tuple[object, ...]) -> Check:
    as_list = _list(arguments)

    def convert(value: object) -> object:
        items: list[object] = as_list(value)  # type: ignore[assignment]  # a list, if it returns
        try:
            result = make(items)
        except TypeError:
            raise Mismatch("the items of a set must not be lists or maps") from None
        if len(result) < len(items) and len(result) < len({(type(each), each) for each in items}):
            raise Mismatch("a set cannot hold equal items of different types, such as 1 and True")
        return result

    return Check(as_list.text, _Never, convert, parts=[as_list])


def _tuple(arguments: tuple[object, ...]) -> Check:
    if not arguments or arguments[-1] is ...:
        as_list = _list(arguments[:1])
        return Check(as_list.text, _Never, lambda value: tuple(as_list(value)), parts=[as_list])  # type: ignore[arg-type]  # likewise
    checks = [build_check(each) for each in (() if arguments == ((),) else arguments)]
    check = Check(_named("list", checks), parts=checks)

    def convert(value: object) -> object:
        if type(value) is not list:
            raise check.mismatch(value)
        if len(value) != len(checks):
            raise Mismatch(f"expected {len(checks)} items, got {len(value)}")
        return tuple(
            item if each is None else each.at(item, f"[{index}]")
            for index, (item, each) in enumerate(zip(value, checks, strict=True))
        )

    check.complete(convert)
    return check


def _dict(arguments: tuple[object, ...]) -> Check:
    keys, values = [build_check(each) for each in arguments] or (None, None)
    if keys is None and values is None:
        return Check("dict", dict)
    check = Check(_named("dict", [keys, values]), parts=[keys, values])

    def convert(value: object) -> object:
        if type(value) is not dict:
            raise check.mismatch(value)
        result = {}
        for key, item in value.items():
            step = f"[{_shown(key)}]"
            if (name := _key(keys, key, step)) in result:
                raise Mismatch("two keys of the map are equal after conversion").inside(step)
            result[name] = item if values is None else values.at(item, step)
        return result

    check.complete(convert)
    return check


def _key(check: Check | None, key: object, step: str) -> object:
    if check is not None and check.exact is int and type(key) is str and _INTEGER.fullmatch(key):
        key = int(key)  # Spear's CBOR has only text keys, like JSON
    return key if check is None else check.at(key, step)


def _union(arguments: tuple[object, ...]) -> Check | None:
    checks = [build_check(each) for each in arguments]
    if None in checks:
        return None
    known = [check for check in checks if check]
    whole = Check(" | ".join(check.text for check in known))
    exact = frozenset(check.exact for check in known)
    values = [check for check in known if check.exact is not types.NoneType]
    if values and all(check.impossible for check in values):
        whole.impossible = values[0].impossible

    def convert(value: object) -> object:
        if type(value) in exact:
            return value
        deepest: Mismatch | None = None
        for check in known:
            try:
                return check(value)
            except Mismatch as mismatch:
                # The alternative whose mismatch lies deepest in the value is the intended one.
                if mismatch.path and (deepest is None or len(mismatch.path) > len(deepest.path)):
                    deepest = mismatch
        if deepest is not None:
            raise deepest
        raise whole.mismatch(value)

    whole.complete(convert)
    return whole


# -- classes --------------------------------------------------------------------------------------------

_structures: Final[dict[type, Check]] = {}


def _structure(cls: type) -> Check:
    """Return a check that passes a map to the constructor of ``cls`` as keyword arguments."""
    known = _structures.get(cls)
    if known is not None:
        return known
    check = _structures[cls] = Check(f"a map ({cls.__name__})")  # a class may contain itself
    try:
        fields, required, ignored = _fields_of(cls)
    except BaseException:
        del _structures[cls]
        raise

    def convert(value: object) -> object:
        if type(value) is not dict:
            raise check.mismatch(value)
        arguments = {}
        for name, item in value.items():
            if name in fields:
                inner = fields[name]
                arguments[name] = item if inner is None else inner.at(item, f".{name}")
            elif name not in ignored:
                hint = did_you_mean(str(name), fields)
                unknown = Mismatch(f"{cls.__name__} has no field {name!r}{hint}")
                raise unknown.inside(f".{name}")
        for name in required:
            if name not in arguments:
                raise Mismatch(f"{cls.__name__} requires the field {name!r}")
        try:
            return cls(**arguments)
        except Exception as error:
            raise Mismatch(f"not a valid {cls.__name__}: {text_of(error)}") from error

    check.impossible = _first_impossible(fields[name] for name in required)
    check.complete(convert)
    return check


def _fields_of(cls: type) -> tuple[dict[str, Check | None], list[str], frozenset[str]]:
    """Return (arguments of the constructor, names of required ones, fields that are no arguments)."""
    hints = resolve_hints(cls)
    if typing.is_typeddict(cls):
        needed: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
        fields = {name: build_check(hint) for name, hint in hints.items()}
        # The set ignores NotRequired in annotations that are text.
        optional = {n for n, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
        return fields, [name for name in fields if name in needed - optional], frozenset()
    attributes = getattr(cls, "__attrs_attrs__", None)
    if attributes is not None:
        aliases = {field.alias or field.name: field.name for field in attributes}
    else:
        aliases = {name: name for name in getattr(cls, "__dataclass_fields__", ())}
    parameters = signature_of(cls).parameters
    fields = {
        name: build_check(hints.get(aliases.get(name, name)))
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    required = [name for name in fields if parameters[name].default is inspect.Parameter.empty]
    return fields, required, frozenset(aliases) - fields.keys()


_SAMPLES: Final[tuple[object, ...]] = (None, True, 0, 0.0, "", b"", [], {})  # of all wire types


def _instance(cls: type) -> Check | None:
    try:
        isinstance(None, cls)
    except TypeError:  # such as a protocol that does not support isinstance()
        return None
    check = Check(cls.__name__)
    if not any(isinstance(each, cls) for each in _SAMPLES):
        check.impossible = cls

    def convert(value: object) -> object:
        if not isinstance(value, cls):
            raise check.mismatch(value)
        return value

    check.complete(convert)
    return check
