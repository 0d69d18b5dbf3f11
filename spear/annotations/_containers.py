"""Checks of lists, tuples, sets, maps and unions."""

from __future__ import annotations

import builtins
import re
import types
from collections import abc
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from spear._arrays import Array
from spear._signatures import LISTS, MAPS, SETS

from ._check import Build, Check, NeverExact, named, shown
from ._mismatch import Mismatch

MakeSet: TypeAlias = Callable[[Iterable[object]], abc.Set[object]]


def _classes(names: Iterable[str]) -> frozenset[object]:
    """Return the classes of these names, from ``builtins`` or ``collections.abc``."""
    found = (getattr(builtins, name, None) or getattr(abc, name, None) for name in names)
    return frozenset(each for each in found if each is not None)


LIST_CLASSES: Final = _classes(LISTS)
MAP_CLASSES: Final = _classes(MAPS)
SET_CLASSES: Final[dict[object, MakeSet]] = {
    cls: set if cls in (set, abc.MutableSet) else frozenset for cls in _classes(SETS)
}
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,999}")  # int() also accepts "01", "+1", " 1", "1_0"


def container_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for a list, tuple, set or map; None for another class."""
    if cls in LIST_CLASSES:
        return _list(arguments, build)
    if cls in MAP_CLASSES:
        return _dict(arguments, build)
    if cls is tuple:
        return _tuple(arguments, build)
    if cls in SET_CLASSES:
        return _set(SET_CLASSES[cls], arguments, build)
    return None


def _list(arguments: tuple[object, ...], build: Build) -> Check:
    each = build(arguments[0]) if arguments else None
    if each is None:
        return Check("list", list)
    check, exact = Check(named("list", [each]), parts=[each]), each.exact

    def convert(value: object) -> object:
        if type(value) is not list:
            raise check.mismatch(value, "send value.tolist()" if type(value) is Array else "")
        if set(map(type, value)) <= {exact}:  # three times as fast as checking one by one
            return value
        return [each.at(item, f"[{index}]") for index, item in enumerate(value)]

    check.complete(convert)
    return check


def _set(make: MakeSet, arguments: tuple[object, ...], build: Build) -> Check:
    as_list = _list(arguments, build)

    def convert(value: object) -> object:
        if isinstance(value, set | frozenset):
            value = list(value)
        items: list[object] = as_list(value)  # type: ignore[assignment]  # a list, if it returns
        try:
            result = make(items)
        except TypeError:
            raise Mismatch("the items of a set must not be lists or maps") from None
        if len(result) < len(items) and len(result) < len({(type(each), each) for each in items}):
            raise Mismatch("a set cannot hold equal items of different types, such as 1 and True")
        return result

    return Check(as_list.text, NeverExact, convert, parts=[as_list])


def _tuple(arguments: tuple[object, ...], build: Build) -> Check:
    if not arguments or arguments[-1] is ...:
        as_list = _list(arguments[:1], build)

        def make(value: object) -> object:
            # A tuple arrives as such only inside of a set.
            return tuple(as_list(list(value) if type(value) is tuple else value))  # type: ignore[arg-type]  # likewise

        return Check(as_list.text, NeverExact, make, parts=[as_list])
    checks = [build(each) for each in (() if arguments == ((),) else arguments)]
    check = Check(named("list", checks), parts=checks)

    def convert(value: object) -> object:
        if type(value) is not list and type(value) is not tuple:
            raise check.mismatch(value)
        if len(value) != len(checks):
            raise Mismatch(f"expected {len(checks)} items, got {len(value)}")
        return tuple(
            item if each is None else each.at(item, f"[{index}]")
            for index, (item, each) in enumerate(zip(value, checks, strict=True))
        )

    check.complete(convert)
    return check


def _dict(arguments: tuple[object, ...], build: Build) -> Check:
    keys, values = [build(each) for each in arguments] or (None, None)
    if keys is None and values is None:
        return Check("dict", dict)
    check = Check(named("dict", [keys, values]), parts=[keys, values])

    def convert(value: object) -> object:
        if type(value) is not dict:
            raise check.mismatch(value)
        result = {}
        for key, item in value.items():
            step = f"[{shown(key)}]"
            if (name := check_key(keys, key, step)) in result:
                raise Mismatch("two keys of the map are equal after conversion").inside(step)
            result[name] = item if values is None else values.at(item, step)
        return result

    check.complete(convert)
    return check


def check_key(check: Check | None, key: object, step: str) -> object:
    """Return the key of a map, converted; text with an int is an int. Raises Mismatch."""
    if check is not None and check.exact is int and type(key) is str and _INTEGER.fullmatch(key):
        key = int(key)  # JSON has only text keys
    return key if check is None else check.at(key, step)


def union_check(arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for the first of several annotations that fits; None if one allows all values."""
    checks = [build(each) for each in arguments]
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
                if mismatch.is_detailed and values == [check]:  # or None
                    raise
                # The alternative whose mismatch lies deepest in the value is the intended one.
                if mismatch.path and (deepest is None or len(mismatch.path) > len(deepest.path)):
                    deepest = mismatch
        raise deepest or whole.mismatch(value)

    whole.complete(convert)
    return whole
