"""Values that can be sent can be decoded; an error names a value that cannot, with its place."""

from __future__ import annotations

import enum
import io
import ipaddress
import re
import uuid
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import InitVar, dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, cast
from zoneinfo import ZoneInfo

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spear import InvalidArguments
from spear._sendable import (
    MAX_LEVELS,
    MAX_PATH,
    CannotSend,
    NotPlain,
    check_arguments,
    check_sendable,
    check_text,
)
from spear.wire import (
    decode_result,
    decode_value_untrusted,
    encode_arguments,
    encode_call,
    encode_result,
    encode_sendable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen
class Line:
    item: object
    _count: object = 1


@dataclass
class Order:
    lines: object
    currency: ClassVar[object] = date.today()
    seed: InitVar[object] = None


class Colour(enum.Enum):
    RED = "red"


class Odd(enum.Enum):
    DAY = date(2024, 2, 29)


class Number(enum.IntEnum):
    ONE = 1


class Group(enum.Enum):
    EVEN = frozenset({2, 4})
    ODD = {1, 3}  # noqa: RUF012  # a member that cannot be hashed


class Word(enum.StrEnum):
    WORD = "word"


class Text(str):
    __slots__ = ()


ODD = object()

Point = namedtuple("Point", "x y")  # noqa: PYI024  # the untyped one, as users write it


def arrives(value: object) -> bool:
    """Return whether a value can be encoded without a check, and decoded again."""
    try:
        decode_result(*cast("tuple[bytes, bool]", encode_result(value)))
    except (TypeError, ValueError):
        return False
    return True


def nested(levels: int, inner: object = 1) -> object:
    for level in range(levels):
        inner = [inner] if level % 2 else {"x": inner}
    return inner


KEYS = (
    st.text(max_size=2)
    | st.binary(max_size=2)
    | st.integers()
    | st.sampled_from([*Colour, *Odd, *Number, True])
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from([date(1, 1, 1), Decimal(1), uuid.UUID(int=1), *Colour, *Odd, *Number, *Word])
    | st.sampled_from([1j, {1}, {Colour.RED}, object(), Text("x"), bytearray(b"x"), range(2)])
    | st.sampled_from([Fraction(1), Decimal("1E+7000"), {Line(1)}, {"red", Colour.RED}]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, min_size=17, max_size=20)
        | st.tuples(inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(Line, inner)
        | st.builds(Order, inner)
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400)
@given(VALUES)
def test_what_passes_arrives_and_nothing_else_does(value: object) -> None:
    try:
        payload, is_cbor = encode_sendable(value)
    except CannotSend:
        assert not arrives(value)
    else:
        decode_result(bytes(cast("bytes", payload)), is_cbor)  # raises nothing


@pytest.mark.parametrize(
    "value",
    [
        deque([1]), OrderedDict(a=1), defaultdict(int, a=1), MappingProxyType({"a": 1}), Point(1, 2),
        range(3), [bytearray(b"x")], Line("tea"), Order([Line("tea")]), Number.ONE,
        {Word.WORD: 1}, {Colour.RED: 1}, {b"key": 1}, [1.5] * 100, nested(MAX_LEVELS),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_odd_but_fine(value: object) -> None:
    assert arrives(value)
    check_sendable(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Fraction(1, 2), "type Fraction: send text, such as str(value)"),
        (ipaddress.ip_address("::1"), "type IPv6Address: send text, such as str(value)"),
        ({}.values(), "type dict_values: send a list"),
        (iter([]), "type list_iterator: send a list"),
        (object(), "type object: send numbers, text, bytes, lists, dicts, attrs or dataclass objects"),
        (re.compile(""), "type Pattern: send numbers"),
        ({None: 2}, "a dict with a key of type NoneType: send one with text or integer keys"),
        ({True: 2}, "a dict with a key of type bool: send one with text or integer keys"),
        ({1.0: 2}, "a dict with a key of type float: send one with text or integer keys"),
        ({Odd.DAY: 2}, "a dict with a key of type date: send one with text or integer keys"),
        ({2**64: 2}, "a dict with a key of more than 64 bits: send one with text keys"),
        ({-(2**63) - 1: 2}, "a dict with a key of more than 64 bits: send one with text keys"),
        ({"red": 1, Colour.RED: 2, 3: 4}, "a dict with equal keys: send one whose keys differ"),
        ({"red", Colour.RED}, "a set with equal members: send a list"),
        ({Line(1)}, "a set with a member of type Line: send a list"),
        ({(1, Line(1))}, "a set with a member of type tuple: send a list"),
        ({Group.ODD}, "a set with a member of type Group: send a list"),
        ({(Group.ODD, 1)}, "a set with a member of type tuple: send a list"),
        (time(1, tzinfo=ZoneInfo("Europe/Berlin")),
         "a time of day whose zone has no fixed offset: send a datetime"),
        (Decimal("1E+6145"), "a decimal number with the exponent 6145 (at most 6144): send text"),
        (Decimal(10**300), "a decimal number of 301 digits: send text, such as str(value)"),
        (Path("x" * 40_000), "a path of 40000 characters: send text, such as str(value)"),
        (Path("\ud800"), "text that is not Unicode: send bytes, such as os.fsencode()"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_sent_is_named_with_what_to_send_instead(value: object, said: str) -> None:
    assert not arrives(value)
    with pytest.raises(CannotSend, match=re.escape(said)):
        encode_sendable(value)


def foreign(*names: str, **attributes: object) -> object:
    """Return an object of the last of these classes, whose package need not be installed."""
    cls: type = object
    for name in names:
        module, _, name = name.rpartition(".")
        cls = type(name, (cls,), {"__module__": module, **attributes})
    return cls()


def items(self: object) -> Iterator[object]:
    raise AssertionError


ARRAY = {"__iter__": items, "tolist": items}
FRAME = {"__iter__": items, "to_dict": items}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (foreign("pandas.core.generic.NDFrame", "pandas.core.frame.DataFrame", **FRAME),
         ": send a list of dicts, such as .to_dict('records')"),
        (foreign("pandas.core.frame.DataFrame", "geopandas.geodataframe.GeoDataFrame", **FRAME),
         "type GeoDataFrame: send a list of dicts, such as .to_dict('records')"),
        (foreign("pandas.core.series.Series", **ARRAY), "such as .tolist(), or a dict, such as"),
        (foreign("pandas._libs.missing.NAType"), "type NAType: send None"),
        (foreign("polars.dataframe.frame.DataFrame", __iter__=items, to_dicts=items),
         ": send the result of .to_dicts()"),
        (foreign("pyarrow.lib.Table", to_pylist=items), "send the result of .to_pylist()"),
        (foreign("torch.Tensor", **ARRAY), "type Tensor: send an array, such as .numpy()"),
        (foreign("pydantic.types._SecretBase", "pydantic.types.SecretStr"),
         "type SecretStr: send the secret itself, such as .get_secret_value()"),
        (foreign("numpy.ndarray", **ARRAY), "send a list, such as .tolist()"),
        (foreign("numpy.ndarray", "numpy.MaskedArray", **ARRAY), "a mask, such as .filled(), or data"),
        (foreign("numpy.generic", "numpy.datetime64"), "type datetime64: send text, such as str(value)"),
        (foreign("numpy.generic", "numpy.timedelta64"), "type timedelta64: send a number, such as value"),
        (foreign("numpy.generic", "numpy.complexfloating"), "send a list of two numbers"),
        (foreign("numpy.generic", "numpy.void"), "type void: send a list, such as .item()"),
        (foreign("numpy.generic", "numpy.longdouble"), "send a number, such as float(value)"),
        # Classes of other packages with the same names.
        (foreign("shop.date"), "type date: send numbers, text"),
        (foreign("shop.generic"), "type generic: send numbers, text"),
        (foreign("shop.date", isoformat=items), "type date: send the result of .isoformat()"),
        (foreign("shop.DataFrame", __iter__=items), "type DataFrame: send a list"),
        (foreign("shop.Orders", __aiter__=items), "type Orders: send a list"),
        (list, "type type: send numbers, text"),
        (ValueError("x"), "type ValueError: send text, such as str(value)"),
        (io.StringIO("x"), "type StringIO: send the file's content, such as .read()"),
    ],
)  # fmt: skip
def test_things_of_well_known_packages_are_told_by_which_method_they_can_be_sent(
    value: object, said: str
) -> None:
    with pytest.raises(CannotSend, match=re.escape(said)):
        encode_sendable(value)


def test_a_view_is_sent_by_itself_and_in_nothing_else() -> None:
    assert arrives(memoryview(b"x"))
    with pytest.raises(CannotSend, match=r"memoryview: send bytes, such as .tobytes\(\)") as caught:
        check_sendable({"x": [memoryview(b"x")]})
    assert caught.value.path == "['x'][0]"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, object()], "[1]"),
        ([0] * 20 + [object()], "[20]"),
        ({"a": [{"b": (1, object())}]}, "['a'][0]['b'][1]"),
        (Order([Line("tea"), Line("tea", object())]), ".lines[1]._count"),
        ({"k" * 100: object()}, "['" + "k" * 56 + "...]"),
        ([{None: 2}], "[0]"),
    ],
)
@pytest.mark.parametrize("first", [1, 1j], ids=["plain", "tagged"])
def test_its_place_is_told(value: object, path: str, first: object) -> None:
    with pytest.raises(CannotSend) as caught:
        encode_sendable([first, value])
    assert caught.value.path.startswith(f"[1]{path}")


def test_the_place_in_a_set_or_a_map_with_integer_keys_is_told() -> None:
    for value, path in (
        ({1: [object()]}, "[1][0]"),
        ({frozenset({object()})}, "{...}{...}"),
        ([{"x": {Line(1)}}], "[0]['x']"),
    ):
        with pytest.raises(CannotSend) as caught:
            encode_sendable(value)
        assert caught.value.path == path


def test_of_a_long_way_the_beginning_is_told() -> None:
    with pytest.raises(CannotSend) as caught:
        check_sendable(nested(40, object()))
    assert re.fullmatch(r"(\[0\]\['x'\]){9}.*\.\.\.", caught.value.path)
    assert len(caught.value.path) == MAX_PATH


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MAX_NUMBERS", set(range(1001)), "more than 1000 numbers in sets and keys: send lists"),
        ("MAX_NUMBERS", [set(range(501))] * 2, "more than 1000 numbers in sets and keys: send lists"),
        ("MAX_NUMBERS", dict.fromkeys(range(1001)), "more than 1000 numbers in sets and keys"),
        ("MAX_TAGS", [1j] * 1001, "more than 1000 dates, sets and other tagged values: send a stream"),
    ],
)  # fmt: skip
def test_s6_what_would_take_its_receiver_too_long_is_refused(
    limit: str, value: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_sendable(value)
    monkeypatch.setattr("spear._tagged.SMALL_TABLE", 500)
    monkeypatch.setattr(f"spear._tagged.{limit}", 1000)
    with pytest.raises(CannotSend, match=said):
        encode_sendable(value)


def test_the_check_of_plain_values_stops_at_the_first_that_is_not_plain() -> None:
    for value in {1}, 1j, date.today(), {1: 2}, {Number.ONE: 2}, [{"x": timedelta(1)}], Odd.DAY:
        with pytest.raises(NotPlain):
            check_sendable(value)


def circle() -> object:
    circle: list[object] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_LEVELS + 1), nested(MAX_LEVELS, Line(1)), nested(5000), circle(),
        nested(MAX_LEVELS, {1}), nested(MAX_LEVELS - 1, set()), nested(MAX_LEVELS - 1, {1: 1}),
        nested(MAX_LEVELS - 1, {"x": {1}}), nested(MAX_LEVELS - 2, {1: [1]}),
        nested(MAX_LEVELS - 2, {(1,)}),
    ],
    ids=[
        "one more", "an object", "many", "circle", "a tag", "a set", "a map", "a tag in a map",
        "a list in a map", "a tuple in a set",
    ],
)  # fmt: skip
def test_what_is_nested_too_deeply_is_refused(value: object) -> None:
    with pytest.raises(
        CannotSend, match="more than 64 levels of lists and maps: send fewer levels"
    ):
        encode_sendable(value)


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_LEVELS - 1, date.today()), nested(MAX_LEVELS - 2, {1}), nested(MAX_LEVELS - 2, {1: 1}),
        nested(MAX_LEVELS - 3, {(1,)}), nested(MAX_LEVELS - 3, {1: [1]}), nested(MAX_LEVELS - 2, 1j),
    ],
    ids=["a tag", "a set", "a map", "a tuple in a set", "a list in a map", "a complex number"],
)  # fmt: skip
def test_tags_are_levels_too(value: object) -> None:
    payload, is_cbor = encode_sendable(value)
    assert decode_result(bytes(cast("bytes", payload)), is_cbor) == value


@pytest.mark.parametrize(
    ("value", "path"),
    [("\ud800", ""), (["ok", "\ud800"], "[1]"), (["ok"] * 20 + ["\ud800"], "[20]"), ({"\ud800": 1}, ""),
     ([{"ok": Text("\ud800")}], "[0]['ok']"), (Line("\ud800"), ".item")],
)  # fmt: skip
def test_text_that_is_not_unicode_is_found_when_it_is_looked_for(value: object, path: str) -> None:
    assert not arrives(value)
    with pytest.raises(CannotSend, match="text that is not Unicode: send bytes") as caught:
        check_text(value)
    assert caught.value.path == path


def test_good_text_is_found_to_be_good() -> None:
    check_text([None, 1, "größe", {"a": "b"}, b"", ("c",)])  # raises nothing


@pytest.mark.parametrize(
    ("positional", "keywords", "path"),
    [
        ((1, ODD), {}, "argument 2"),
        (([1, ODD],), {}, "argument 1[1]"),
        ((1,), {"a": "ok", "b": ODD}, "b=..."),
        ((1,), {"b": {"c": ODD}}, "b['c']"),
    ],
)
def test_of_arguments_the_one_that_is_wrong_is_named(
    positional: tuple[object, ...], keywords: dict[str, object], path: str
) -> None:
    with pytest.raises(CannotSend, match="type object") as caught:
        check_arguments(positional, keywords)
    assert caught.value.path == path
    for plain in (positional, keywords), ((*positional, {1}), keywords):
        with pytest.raises(InvalidArguments) as refused:
            encode_call("f", *plain)
        assert (refused.value.parameter, refused.value.code) == (path, "argument_not_sendable")


@pytest.mark.parametrize(
    ("positional", "keywords", "path"),
    [
        (("ok", "\ud800"), {}, "argument 2"),
        (("ok",), {"b": ["\ud800"]}, "b[0]"),
        (("ok",), {"a": "ok", "b": "\ud800"}, "b=..."),
        (("ok",), {"\ud800": "ok"}, ""),
    ],
)
def test_so_is_the_one_that_is_not_unicode(
    positional: tuple[object, ...], keywords: dict[str, object], path: str
) -> None:
    check_arguments(positional, keywords)
    with pytest.raises(CannotSend, match="not Unicode") as caught:
        check_arguments(positional, keywords, text=True)
    assert caught.value.path == path


def test_arguments_that_are_fine() -> None:
    check_arguments((1, [2]), {"a": 3, "b": [4]})  # raises nothing


def test_arguments_have_two_levels_less() -> None:
    for levels in (MAX_LEVELS - 2, MAX_LEVELS - 1):
        value = nested(levels)
        payload = encode_arguments((value,), {})[0]
        if levels == MAX_LEVELS - 2:
            check_arguments((value,), {"x": value})
            decode_value_untrusted(bytes(payload))
        else:
            with pytest.raises(ValueError, match="depth"):
                decode_value_untrusted(bytes(payload))
            with pytest.raises(CannotSend, match="levels"):
                check_arguments((value,), {})
            with pytest.raises(CannotSend, match="levels"):
                check_arguments((), {"x": value})
