"""Annotations as source text for a stub file, with the imports that the text needs.

An annotation has two texts: what callers pass as an argument, and what they receive as a result. They
differ because objects of data classes travel as maps, tuples as lists, and members of enums as values.
"""

from __future__ import annotations

import builtins
import math
import sys
import types
import typing
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum, Flag
from typing import Final, final

from spear._arrays import Array
from spear._codecs import codec_of
from spear._segments import Segment
from spear._tagged import names_of, tagged_type
from spear._unfolding import unfold_of

from ._build import unwrapped
from ._containers import LIST_CLASSES, MAP_CLASSES, SET_CLASSES
from ._fields import is_named_tuple, structure_of

MAX_DEFAULT: Final = 60
"""Characters of a default in a stub; a longer one is shown as ``...``."""

MAX_VALUES: Final = 20
"""Values of an enum that are listed in the type of a result."""

_SCALARS: Final = (str, int, float, bool, complex)
_BYTES: Final = (bytes, bytearray, memoryview)
_MISSING: Final = (typing.Any, object)


@final
class TypeTexts:
    """A writer of annotations, which collects imports and remarks.

    Attributes:
        remarks: what a reader of the stub should know about the texts written since the list was emptied.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.remarks: list[str] = []
        self._taken = {*taken}  # names that mean something else inside of the stub's class
        self._imports: dict[tuple[str, str], str] = {}
        self._inside: list[object] = []  # the aliases and classes whose parts are being written

    def import_lines(self) -> list[str]:
        """Return the imports of all texts so far, in order."""
        return [
            f"from {module} import {name}" + (f" as {alias}" if alias != name else "")
            for (module, name), alias in sorted(self._imports.items())
        ]

    def name(self, module: str, name: str) -> str:
        """Return the name by which the stub refers to a name of a module."""
        top, dot, rest = name.partition(".")
        if (module, top) not in self._imports:
            if module == "builtins" and top not in self._taken:
                return name
            alias = top
            while alias in self._taken or (module != "builtins" and hasattr(builtins, alias)):
                alias += "_"
            self._taken.add(alias)
            self._imports[module, top] = alias
        return self._imports[module, top] + dot + rest

    # -- arguments ----------------------------------------------------------------------------------

    def argument(self, hint: object) -> str:
        """Return the type of the arguments for a parameter; ``object`` if they are not checked."""
        return self._argument(hint, self.name("builtins", "object"))

    def _argument(self, hint: object, anything: str | None = None) -> str:
        is_alias = type(hint).__name__ == "TypeAliasType"
        if is_alias and getattr(hint, "__name__", "_")[0] != "_" and (text := self._imported(hint)):
            return text  # it may be recursive
        hint = unwrapped(hint)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint in _MISSING:
            return anything or self.name("typing", "Any")
        if hint in (None, types.NoneType):
            return "None"
        if origin in (typing.Union, types.UnionType):
            return self._union(self._argument(each) for each in arguments)
        if origin is typing.Literal:
            return self._literal(arguments)
        cls = origin or hint
        if cls in (bytearray, memoryview):
            return self._union(self.name("builtins", each.__name__) for each in _BYTES)
        if not isinstance(cls, type) or any(isinstance(each, list) for each in arguments):
            return self._unknown(f"{_shown(hint)} cannot be resolved", anything)
        text = self._imported(cls)
        if text is None:
            return self._unknown(f"{_shown(cls)} cannot be imported", anything)
        if origin is None:
            return text + self._open_brackets(cls)
        inner = ("..." if each is ... else self._argument(each) for each in arguments)
        return f"{text}[{', '.join(inner) or '()'}]"

    def _unknown(self, why: str, anything: str | None) -> str:
        self.remarks.append(f"{why}, so type checkers know nothing about it")
        return anything or self.name("typing", "Any")

    def _open_brackets(self, cls: type) -> str:
        """Return the brackets that a generic class needs if its types are not known; mostly none."""
        if cls is tuple:
            return f"[{self.name('typing', 'Any')}, ...]"
        count = len(getattr(cls, "__parameters__", ()))
        if cls in LIST_CLASSES or cls in SET_CLASSES:
            count = 1
        elif cls in MAP_CLASSES:
            count = 2
        return f"[{', '.join([self.name('typing', 'Any')] * count)}]" if count else ""

    @staticmethod
    def _union(texts: Iterable[str]) -> str:
        return " | ".join(dict.fromkeys(part for each in texts for part in each.split(" | ")))

    def _literal(self, values: Iterable[object]) -> str:
        return f"{self.name('typing', 'Literal')}[{', '.join(map(self._value, values))}]"

    def _value(self, value: object) -> str:
        if isinstance(value, Enum) and (text := self._imported(type(value))):
            return f"{text}.{value.name}"
        text = repr(value)
        is_plain = isinstance(value, str) and not {'"', "\\"} & {*text}
        return f'"{value}"' if is_plain else text

    def _imported(self, thing: object) -> str | None:
        """Return the name of a class or a type alias in the stub; None if no module has it."""
        module: str = getattr(thing, "__module__", "")
        name: str = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
        parts = module.split(".")
        for count in range(1, len(parts) + 1):  # the shortest path, which is the public one
            place = ".".join(parts[:count])
            found: object = sys.modules.get(place)
            for each in name.split("."):
                found = getattr(found, each, None)
            if found is thing and not place.startswith(("spear_function_", "__")):
                return self.name(place, name)
        return None

    def default(self, value: object) -> str:
        """Return the default of a parameter; ``...`` if it has no short text."""
        if isinstance(value, Enum) and not isinstance(value, Flag):
            return self._value(value)
        if value is None or type(value) in (bool, int, str, bytes):
            text = self._value(value)
            return text if len(text) <= MAX_DEFAULT else "..."
        return repr(value) if type(value) is float and math.isfinite(value) else "..."

    # -- results ------------------------------------------------------------------------------------

    def result(self, hint: object) -> str:
        """Return the type of the values that callers receive; ``Result`` if it is not known."""
        if hint in self._inside:  # it is recursive
            return self._argument(hint) if typing.is_typeddict(hint) else self._any_result()
        self._inside.append(hint)
        try:
            return self._result(unwrapped(hint))
        finally:
            self._inside.pop()

    def _result(self, hint: object) -> str:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint in _MISSING:
            return self._any_result()
        if hint in (None, types.NoneType):
            return "None"
        if origin in (typing.Union, types.UnionType):
            return self._union(self.result(each) for each in arguments)
        if origin is typing.Literal:
            return self._literal(
                each.value if isinstance(each, Enum) else each for each in arguments
            )
        cls = origin or hint
        if not isinstance(cls, type):
            return self._unknown(
                f"the result {_shown(hint)} cannot be resolved", self._any_result()
            )
        return self._container(cls, arguments) or self._object(cls, arguments)

    def _any_result(self) -> str:
        return self.name("spear", "Result")

    def _container(self, cls: type, arguments: tuple[object, ...]) -> str:
        """Return the type of a received list, set or map; empty for another class."""
        if cls is not tuple and cls not in (*LIST_CLASSES, *SET_CLASSES, *MAP_CLASSES):
            return ""
        inner = [self.result(each) for each in arguments if each is not ...]
        if cls is tuple or cls in LIST_CLASSES:
            return f"{self.name('builtins', 'list')}[{self._union(inner) or self._any_result()}]"
        if cls in SET_CLASSES:
            item = inner[0] if inner else self._any_result()
            return f"{self._imported(cls)}[{item}]"
        return self._map(*inner)

    def _map(self, key: str = "", value: str = "") -> str:
        any_result = self._any_result()
        return f"{self.name('builtins', 'dict')}[{key or any_result}, {value or any_result}]"

    def _object(self, cls: type, arguments: tuple[object, ...]) -> str:
        if cls in _BYTES:
            return self.name("builtins", "bytes")
        if issubclass(cls, Segment):
            return self.name("builtins", "memoryview")
        if cls is Array or "numpy.ndarray" in names_of(cls):
            return self.name("spear", "Array")
        if cls in _SCALARS or codec_of(cls) is not None or tagged_type(cls) is not None:
            return self._imported(cls) or self._any_result()
        if typing.is_typeddict(cls) and self._arrives_as_it_is(cls, arguments):
            return self._argument(cls[arguments] if arguments else cls)  # type: ignore[index]  # generic
        return self._unfolded(cls)

    def _arrives_as_it_is(self, cls: type, arguments: tuple[object, ...]) -> bool:
        """Return whether the fields of a ``TypedDict`` arrive with the types that they were sent with."""
        structure = structure_of(cls, arguments)
        probe = TypeTexts(())
        probe._inside = self._inside
        hints = structure.hints.values() if structure is not None else ()
        return not any(probe.result(each) != probe.argument(each) for each in hints)

    def _unfolded(self, cls: type) -> str:
        """Return the type of the form in which objects of a class travel."""
        text = self.name("builtins", "str")
        if issubclass(cls, Enum):
            values = [each.value for each in cls]
            if not values or not {*map(type, values)} <= {str, int}:
                return self._any_result()
            if len(values) <= MAX_VALUES and not issubclass(cls, Flag):
                return self._literal(values)
            return self._union(self.name("builtins", type(each).__name__) for each in values)
        is_list = getattr(getattr(cls, "__struct_config__", None), "array_like", False)
        if is_named_tuple(cls) or is_list:
            self._advise(cls, "list")
            return f"{self.name('builtins', 'list')}[{self._any_result()}]"
        unfold = unfold_of(cls)
        if unfold is None and not typing.is_typeddict(cls):
            return self._unknown(f"the result {_shown(cls)} cannot be sent", self._any_result())
        if unfold is None or {"numpy.generic", "pydantic._BaseUrl"}.isdisjoint(names_of(cls)):
            self._advise(cls, "map")
            return self._map(text)
        with suppress(TypeError):  # an address has no value without arguments, and is sent as text
            return self._imported(type(unfold(cls()))) or text
        return text

    def _advise(self, cls: type, form: str) -> None:
        name = cls.__qualname__
        if TypeTexts(())._imported(cls) is not None:
            self.remarks.append(
                f"{name} arrives as a {form}, and as an object with .options(returns={name})"
            )


def _shown(hint: object) -> str:
    """Return an annotation for a remark, on one line."""
    text = hint.__qualname__ if isinstance(hint, type) else str(hint)
    return " ".join(text.split())[:MAX_DEFAULT]
