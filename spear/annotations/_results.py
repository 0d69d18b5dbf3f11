"""Checks of the values that functions return, before they are sent.

A result fits its annotation if it arrives as a value that an argument with this annotation could have: a
tuple fits ``list[int]``, and a dict with the right fields fits a data class. Nothing is converted, except
that an object of a data class is read field by field. The packages of constraints check them (pydantic,
msgspec), and what they make of the value is dropped.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from spear._segments import Segment
from spear._unfolding import unfold_of

from ._build import build_check, inside_of
from ._check import Check, NeverExact, named
from ._constraints import constraints_of
from ._containers import LIST_CLASSES, MAP_CLASSES, SET_CLASSES, check_key
from ._fields import is_named_tuple, structure_of
from ._mismatch import Mismatch
from ._structures import key_of, missing_field, unknown_field

_TEXT_OR_BYTES: Final = (str, bytes, bytearray, memoryview)
_BUFFERS: Final = (bytes, bytearray, memoryview, Segment)
Kinds: TypeAlias = "type | tuple[type, ...]"
_structures: Final[dict[object, Check]] = {}


def build_result_check(hint: object) -> Check | None:
    """Return the check for a result with an annotation; None if the annotation allows every value.

    The check returns the value as it is, and raises Mismatch. A class whose objects cannot be sent allows
    every value: the encoder refuses them.
    """
    while (inside := inside_of(hint)) is not hint:
        if typing.get_origin(hint) is typing.Annotated:
            return _constrained(hint, build_result_check(inside))
        hint = inside
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    cls = origin or hint
    if cls in LIST_CLASSES or cls in SET_CLASSES:
        is_sequence = isinstance(cls, type) and issubclass(cls, Sequence)
        return _items(arguments[:1], Sequence if is_sequence else (Sequence, AbstractSet))
    if cls is tuple:
        is_open = not arguments or arguments[-1] is ...
        return _items(arguments[:1], Sequence) if is_open else _tuple(arguments)
    if cls in MAP_CLASSES:
        return _map(arguments)
    if isinstance(cls, type) and (check := _structure(cls, arguments)) is not None:
        return check
    return _value(hint, cls)


def _checking(check: Check, verify: Callable[[object], object]) -> Check:
    """Return the check with a function that raises Mismatch."""

    def convert(value: object) -> object:
        verify(value)
        return value

    check.complete(convert)
    return check


def _constrained(hint: object, base: Check | None) -> Check | None:
    """Return the check for an ``Annotated[...]``; ``base`` is the check without the metadata."""
    checks, _ = constraints_of(hint)
    if not checks:
        return base

    def verify(value: object) -> None:
        if base is not None:
            base(value)
        for each in checks:
            try:
                each(value)
            except Mismatch:  # the package may not know the types that this value consists of
                each(_plain_inside(value))

    return _checking(Check("Any" if base is None else base.text), verify)


def _plain_inside(value: object) -> object:
    """Return a value as it arrives, with all values in it."""
    value = _plain(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain_inside(each) for key, each in value.items()}
    if _is_list(value):
        return [_plain_inside(each) for each in value]  # type: ignore[attr-defined]  # mypy does not follow _is_list
    return value


def _value(hint: object, cls: object) -> Check | None:
    """Return the check for a value that is not made of others."""
    base = build_check(hint)
    if base is None or base.impossible is not None:
        return None
    # An instance of bool is one of int, and fits float as little as an argument would.
    kind = cls if isinstance(cls, type) and cls not in (int, float) else NeverExact
    takes_buffers = cls in _BUFFERS

    def verify(value: object) -> None:
        if not (isinstance(value, kind) or (takes_buffers and isinstance(value, _BUFFERS))):
            base(_plain(value))

    return _checking(Check(base.text, base.exact), verify)


def _plain(value: object) -> object:
    """Return a single value as it arrives."""
    unfold = unfold_of(type(value))
    if unfold is not None:
        return _plain(unfold(value))
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    return value


def _union(arguments: tuple[object, ...]) -> Check | None:
    checks = [build_result_check(each) for each in arguments]
    known = [check for check in checks if check]
    if len(known) < len(checks):
        return None
    whole = Check(" | ".join(check.text for check in known))
    exact = frozenset(check.exact for check in known)
    values = [check for check in known if check.exact is not types.NoneType]

    def verify(value: object) -> None:
        if type(value) in exact:
            return
        deepest: Mismatch | None = None
        for check in known:
            try:
                check(value)
            except Mismatch as mismatch:
                if mismatch.is_detailed and values == [check]:  # or None
                    raise
                if mismatch.path and (deepest is None or len(mismatch.path) > len(deepest.path)):
                    deepest = mismatch
            else:
                return
        raise deepest or whole.mismatch(value)

    return _checking(whole, verify)


def _is_list(value: object, kinds: Kinds = Sequence) -> bool:
    return isinstance(value, kinds) and not isinstance(value, _TEXT_OR_BYTES)


def _items(arguments: tuple[object, ...], kinds: Kinds) -> Check:
    each = build_result_check(arguments[0]) if arguments else None
    check = Check(named("list", [each] if each else []), list if each is None else NeverExact)

    def verify(value: object) -> None:
        if not _is_list(value, kinds):
            raise check.mismatch(value)
        items: Collection[object] = value  # type: ignore[assignment]  # mypy does not follow _is_list
        if each is not None and not set(map(type, items)) <= {each.exact}:
            for index, item in enumerate(items):
                each.at(item, f"[{index}]")

    return _checking(check, verify)


def _tuple(arguments: tuple[object, ...]) -> Check:
    checks = [build_result_check(each) for each in (() if arguments == ((),) else arguments)]
    check = Check(named("list", checks))

    def verify(value: object) -> None:
        if not _is_list(value):
            raise check.mismatch(value)
        items: Sequence[object] = value  # type: ignore[assignment]  # likewise
        if len(items) != len(checks):
            raise Mismatch(f"expected {len(checks)} items, got {len(items)}")
        for index, (item, each) in enumerate(zip(items, checks, strict=True)):
            if each is not None:
                each.at(item, f"[{index}]")

    return _checking(check, verify)


def _map(arguments: tuple[object, ...]) -> Check:
    keys, values = [build_result_check(each) for each in arguments] or (None, None)
    is_plain = keys is None and values is None
    check = Check(
        named("dict", [] if is_plain else [keys, values]), dict if is_plain else NeverExact
    )

    def verify(value: object) -> None:
        if not isinstance(value, Mapping):
            raise check.mismatch(value)
        for key, item in value.items():
            step = f"[{key!r:.60}]"
            check_key(keys, key, step)
            if values is not None:
                values.at(item, step)

    return _checking(check, verify)


def _structure(cls: type, arguments: tuple[object, ...]) -> Check | None:
    """Return the check for an object of a data class, or a map with its fields, or None."""
    key = key_of(cls, arguments)
    if key in _structures:
        return _structures[key]
    structure = structure_of(cls, arguments)
    if structure is None:
        return None
    is_object = not typing.is_typeddict(cls)
    is_tuple = is_named_tuple(cls)
    check = _structures[key] = Check(cls.__name__)  # a class may contain itself
    try:
        fields = {name: build_result_check(hint) for name, hint in structure.hints.items()}
        attributes = {
            name: fields[name] if structure.hints.get(name) is hint else build_result_check(hint)
            for name, hint in structure.attributes.items()
        }
    except BaseException:
        del _structures[key]
        raise
    checked = [(name, each) for name, each in attributes.items() if each is not None]

    def verify(value: object) -> None:
        if is_object and isinstance(value, cls):
            for name, each in checked:
                if type(item := getattr(value, name)) is not each.exact:
                    each.at(item, f".{name}")
            return
        if is_tuple and _is_list(value):
            value = dict(zip(fields, value, strict=False))  # type: ignore[call-overload]  # likewise
        if not isinstance(value, Mapping):
            raise check.mismatch(value)
        for name, item in value.items():
            if name not in fields:
                if name not in structure.ignored:
                    raise unknown_field(cls, name, fields)
            elif (inner := fields[name]) is not None:
                inner.at(item, f".{name}")
        for name in structure.required:
            if name not in value:
                raise missing_field(cls, name)

    return _checking(check, verify)
