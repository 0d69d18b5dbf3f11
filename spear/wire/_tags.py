"""Values of the tagged types (``spear._tagged``) as trees that CBOR can encode.

Plain values never come here: a :class:`Lowering` is made for a value in which a tagged type was found. It
checks and converts in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from enum import Enum
from typing import Final, final

from cbor2 import CBORTag

from spear._arrays import Array, ArrayPieces, NotAnArray, as_array, is_array
from spear._codecs import codec_of, is_frame
from spear._scalars import Unsuitable
from spear._sendable import (
    CannotSend,
    cannot_send,
    check_unicode,
    is_buffer,
    is_numpy_integer,
    shown_key,
    too_deep,
    unfolded,
    wrong_key,
)
from spear._tagged import KEY_NUMBERS, MAP, UNHASHABLE_TAGS, TagBudget, TaggedType, tagged_type
from spear._unfolding import unfold_of
from spear._util import MissingPackage, summary_of

from ._bundles import ARRAY_TAG, LEVELS_OF_ARRAY, LEVELS_OF_FIELDS, ArrayMemory, array_content
from ._values import CODED_TAG

_PLAIN: Final = frozenset({type(None), bool, int, float, bytes, bytearray})
_PLAIN_CLASSES: Final = (int, float, bytes, bytearray)


@final
class Lowering:
    """A conversion of one value, with a count of what its tagged values cost the peer.

    Tagged values become tags, values with a codec too, enums their values, data classes maps.

    Args:
        is_alone: whether the memory of arrays has to be a part of the value, however large.

    Attributes:
        memory: the memory of the value's large arrays.
    """

    __slots__ = ("_budget", "_is_alone", "memory")

    def __init__(self, *, is_alone: bool = False) -> None:
        self._is_alone = is_alone
        self.memory = ArrayMemory()
        self._budget = TagBudget()

    def lower(self, value: object, levels: int) -> object:
        """Return the value, or a part of it, as CBOR has it.

        Args:
            value: the value.
            levels: how deep lists, maps and tags may be nested in it.

        Raises:
            CannotSend: the value, or a part of it, cannot be sent.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        if codec_of(kind) is not None:
            return self._coded(value, levels)
        if isinstance(value, str):
            check_unicode(value)
            return value
        if kind is list or kind is tuple:
            return self._items(value, levels)  # type: ignore[arg-type]  # mypy does not follow `kind`
        row = tagged_type(kind)
        if row is not None:
            return self._tagged(row, value, levels)
        if isinstance(value, _PLAIN_CLASSES):
            return value
        if isinstance(value, Mapping):
            return self._map(value, levels)
        if isinstance(value, Sequence) and not is_buffer(value):
            return self._items(value, levels)
        if isinstance(value, Enum):
            return self.lower(value.value, levels)
        unfold = unfold_of(kind)
        if unfold is None:
            return self._array(value, levels)
        if not levels:
            raise too_deep()
        plain, names = unfolded(value, unfold)
        if type(plain) is not dict:
            return self.lower(plain, levels)
        return {
            key: self._part(item, levels - 1, f".{names.get(key, key)}")
            for key, item in plain.items()
        }

    def _part(self, value: object, levels: int, step: str) -> object:
        try:
            return self.lower(value, levels)
        except CannotSend as fault:
            raise fault.inside(step) from None

    def _items(self, items: Sequence[object], levels: int) -> list[object]:
        if not levels:
            raise too_deep()
        if _PLAIN.issuperset(map(type, items)):
            return list(items)
        return [self._part(item, levels - 1, f"[{index}]") for index, item in enumerate(items)]

    def _map(self, entries: Mapping[object, object], levels: int) -> object:
        keys = [key.value if isinstance(key, Enum) else key for key in entries]
        keys = [int(key) if is_numpy_integer(key) else key for key in keys]  # type: ignore[arg-type]  # an integer
        has_numbers = False
        for key in keys:
            if isinstance(key, str):
                check_unicode(key)
            elif isinstance(key, int) and type(key) is not bool:
                has_numbers = True
                if key not in KEY_NUMBERS:
                    raise CannotSend("a dict with a key of more than 64 bits", "one with text keys")
            elif not isinstance(key, bytes):
                raise wrong_key(key)
        levels -= 1 + has_numbers  # the tag is a level, too
        if levels < 0:
            raise too_deep()
        lowered = {
            key: self._part(value, levels, f"[{shown_key(key)}]")
            for key, value in zip(keys, entries.values(), strict=True)
        }
        if len(lowered) < len(keys):
            raise CannotSend("a dict with equal keys", "one whose keys differ")
        if not has_numbers:
            return lowered
        self._spend(lowered)
        return CBORTag(*MAP.lower(lowered))

    def _tagged(self, row: TaggedType, value: object, levels: int) -> CBORTag:
        if not levels:
            raise too_deep()
        try:
            tag, content = row.lower(value)
        except Unsuitable as fault:
            raise CannotSend(fault.what, fault.instead) from None
        if isinstance(value, AbstractSet):
            self._spend(value)
            return CBORTag(tag, self._members(value, levels - 1))
        self._spend()
        return CBORTag(tag, self.lower(content, levels - 1))

    def _coded(self, value: object, levels: int) -> CBORTag:
        """Return a value with a codec as its tag. Raises CannotSend."""
        if levels < 2:  # the tag, and the list of name and content
            raise too_deep()
        found = codec_of(type(value))
        assert found is not None
        kind = type(value).__qualname__
        try:
            name, content = found.split(value)
        except MissingPackage as missing:
            raise cannot_send(value, str(missing)) from None
        except Unsuitable as fault:  # of Spear's own codecs
            raise CannotSend(fault.what, fault.instead) from None
        except Exception as error:  # the user's code, or a library
            if is_frame(type(value)):
                raise cannot_send(value, summary_of(error)) from error
            what = f"a value of type {kind}, whose codec has raised {summary_of(error)}"
            raise CannotSend(what, "one that its codec can encode") from error
        self._spend()
        try:
            return CBORTag(CODED_TAG, [name, self.lower(content, levels - 2)])
        except CannotSend as fault:
            where = f" at {fault.path}" if fault.path else ""
            what = f"a value of type {kind}, whose codec has made {fault.what}{where}"
            raise CannotSend(what, fault.instead) from None

    def _array(self, value: object, levels: int) -> CBORTag:
        """Return a value that is neither plain nor in the table as an array. Raises CannotSend."""
        array: Array | ArrayPieces
        if not isinstance(value, ArrayPieces) and not is_array(value):
            raise cannot_send(value)
        try:
            array = value if isinstance(value, ArrayPieces) else as_array(value)
        except NotAnArray as fault:
            raise cannot_send(value, str(fault), fault.instead) from None
        if levels < LEVELS_OF_FIELDS if array.fields else levels < LEVELS_OF_ARRAY:
            raise too_deep()
        self._spend()
        return CBORTag(ARRAY_TAG, array_content(array, None if self._is_alone else self.memory))

    def _members(self, members: AbstractSet[object], levels: int) -> list[object]:
        if not levels:
            raise too_deep()
        lowered = []
        for each in members:
            member = self._part(each, levels - 1, "{...}")
            if not _may_be_member(member):
                what = f"a set with a member of type {type(each).__qualname__}"
                raise CannotSend(what, "a list")
            lowered.append(member)
        if any(isinstance(each, Enum) for each in members):
            values = [each.value if isinstance(each, Enum) else each for each in members]
            with suppress(TypeError):  # lists, which arrive as tuples
                if len(set(values)) < len(values):
                    raise CannotSend("a set with equal members", "a list")
        return lowered

    def _spend(self, members: Collection[object] | None = None) -> None:
        try:
            self._budget.spend()
            if members is not None:
                self._budget.spend_members(members)
        except Unsuitable as fault:
            raise CannotSend(fault.what, fault.instead) from None


def _may_be_member(lowered: object) -> bool:
    """Return whether a lowered value can be hashed when it arrives; an array arrives as a tuple."""
    if isinstance(lowered, list):
        return all(map(_may_be_member, lowered))
    if isinstance(lowered, CBORTag):
        return lowered.tag not in UNHASHABLE_TAGS
    return not isinstance(lowered, dict)
