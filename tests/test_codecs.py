"""Codecs: what may have one, how its values travel, and what a peer may claim of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, cast

import cbor2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import spear
from spear._codecs import (
    MAX_CODEC_NAME,
    MAX_KNOWN_TYPES,
    CodecFault,
    CodedValue,
    codec_of,
    values_passed_on,
)
from spear._json import dump_json, load_json
from spear._sendable import MAX_LEVELS, CannotSend, check_sendable
from spear.wire import (
    CODED_TAG,
    Bundle,
    TaggedBytes,
    decode_result,
    decode_value_untrusted,
    encode_alone,
    encode_call,
    encode_sendable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


class Money:
    """A class that Spear does not know."""

    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount = amount
        self.currency = currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.currency)


class Purse(Money):
    """A subclass, which has no codec."""


class Grid:
    """A class whose content is an array and a dict with integer keys."""

    def __init__(self, cells: object, names: object) -> None:
        self.cells = cells
        self.names = names


class Box:
    """A class whose content may be any value."""

    def __init__(self, inner: object) -> None:
        self.inner = inner


class Word(str):
    """Text with a codec."""

    __slots__ = ()


@dataclass
class Order:
    item: str
    price: Money


@dataclass
class Receipt:
    item: str


def money_of(content: list[object]) -> Money:
    amount, currency = content
    if currency == "XXX":
        raise ValueError("no such currency")
    return Money(cast("Decimal", amount), cast("str", currency))


def content_of(money: Money) -> tuple[Decimal, str]:
    if money.currency == "":
        raise ValueError("a currency must have a name")
    return money.amount, money.currency


spear.codec(Money, content_of, money_of, name="tests.Money")
spear.codec(
    Grid, lambda grid: {"cells": grid.cells, "names": grid.names}, lambda kept: Grid(**kept)
)
spear.codec(Box, lambda box: box.inner, Box)
spear.codec(Word, lambda word: [str(word)], lambda content: Word(content[0]))
spear.codec(Receipt, lambda receipt: receipt.item, Receipt)

TEA = Money(Decimal("3.50"), "EUR")


def sent(value: object) -> object:
    payload, is_cbor = encode_sendable(value)
    return decode_result(bytes(cast("bytes", payload)), is_cbor)


def coded(name: object, content: object = 1) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(CODED_TAG, [name, content]))


# -- what may have a codec ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (int, "builtins.int can have no codec: Spear sends its values itself"),
        (dict, "builtins.dict can have no codec"),
        (type(None), "NoneType can have no codec"),
        (date, "datetime.date can have no codec: Spear sends its values itself"),
        (Decimal, "decimal.Decimal can have no codec"),
        (type("Blob", (bytes,), {}), "Blob can have no codec: bytes travel as they are"),
        (type("DataFrame", (), {"__module__": "pandas"}), "pandas.DataFrame can have no codec"),
        (list[int], r"list\[int\] can have no codec: pass a class"),
        (Money, "Money has a codec already: call spear.codec"),
    ],
    ids=str,
)
def test_a_type_that_can_have_no_codec_is_refused(cls: type, said: str) -> None:
    with pytest.raises(spear.ConfigurationError, match=said):
        spear.codec(cls, repr, lambda content: content, name=f"tests.{said[:40]}")


def test_a_name_is_that_of_one_type() -> None:
    with pytest.raises(
        spear.ConfigurationError, match=r"'tests\.Money' is that of the codec of .*Money"
    ):
        spear.codec(Fraction, str, Fraction, name="tests.Money")
    with pytest.raises(spear.ConfigurationError, match="that of the codec of Spear's own"):
        spear.codec(Fraction, str, Fraction, name="pandas.DataFrame")
    for name in ("", "x" * (MAX_CODEC_NAME + 1), "a\n", 1):
        with pytest.raises(spear.ConfigurationError, match="printable text of 1 to 200 characters"):
            spear.codec(Fraction, str, Fraction, name=name)  # type: ignore[arg-type]  # what users do
    with pytest.raises(spear.ConfigurationError, match="two functions: encode and decode"):
        spear.codec(Fraction, str, "decode")  # type: ignore[arg-type]  # what users do
    assert codec_of(Fraction) is None


def test_a_class_that_a_reload_has_made_again_replaces_the_old_one() -> None:
    names = {"__module__": "tests.reloaded"}
    for _ in range(2):
        cls = type("Reloaded", (), names)
        spear.codec(cls, lambda value: 1, lambda content, cls=cls: cls())
        assert type(sent(cls())) is cls


@pytest.mark.parametrize(
    ("main", "name"),
    [
        ({"__spec__": None, "__file__": "/srv/shop.py"}, "shop.Thing"),
        ({"__spec__": SimpleNamespace(name="company.shop")}, "company.shop.Thing"),
        ({"__spec__": None}, "__main__.Thing"),
    ],
)
def test_a_class_of_a_file_that_is_run_has_the_name_of_its_module(
    main: dict[str, object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("__main__")
    vars(module).pop("__spec__")
    vars(module).update(main)
    monkeypatch.setitem(sys.modules, "__main__", module)
    cls = type("Thing", (), {"__module__": "__main__"})
    spear.codec(cls, lambda value: name, lambda content: cls())
    passed = decode_value_untrusted(encode_alone(cls()), passes_on=True)
    assert cast("CodedValue", passed).name == name


def test_types_without_a_codec_are_remembered_up_to_a_limit() -> None:
    for _ in range(MAX_KNOWN_TYPES + 10):
        assert codec_of(type("Fleeting", (), {})) is None
    late = type("Late", (), {"__module__": "tests.late"})
    assert codec_of(late) is None
    spear.codec(late, lambda value: 1, lambda content: late())
    assert type(cast("list[object]", sent([late()]))[0]) is late


# -- values -------------------------------------------------------------------------------------------


def test_values_come_back_wherever_they_stand() -> None:
    for value in (TEA, [TEA, 1], {"a": {"b": [TEA]}}, {1: TEA}, {TEA}, (TEA,), [{TEA, 1}] * 2):
        back = sent(value)
        assert back == (list(value) if isinstance(value, tuple) else value)
    payload, is_cbor = encode_call("f", [TEA], {"tip": TEA})
    assert isinstance(payload, TaggedBytes)
    assert decode_result(payload, is_cbor) == [[TEA], {"tip": TEA}]


def test_a_codec_has_precedence_over_fields_and_over_text() -> None:
    back = sent([Receipt("tea"), Word("tea"), Order("tea", TEA)])
    assert back == [Receipt("tea"), "tea", {"item": "tea", "price": TEA}]
    assert type(cast("list[object]", back)[1]) is Word


def test_a_content_may_hold_arrays_dates_and_other_coded_values() -> None:
    numbers = spear.Array(bytes(80_000), "<f8", (100, 100))
    payload, is_cbor = encode_sendable({"grid": Grid(numbers, {1: TEA, 2: date(2026, 1, 31)})})
    assert isinstance(payload, Bundle)
    grid = cast("dict[str, Grid]", decode_result(bytes(payload), is_cbor))["grid"]
    assert cast("spear.Array", grid.cells).shape == (100, 100)
    assert grid.names == {1: TEA, 2: date(2026, 1, 31)}


def test_a_subclass_has_no_codec() -> None:
    with pytest.raises(CannotSend, match=r"type Purse: send .* or an object with a codec"):
        encode_sendable(Purse(Decimal(1), "EUR"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            Money(Decimal(1), ""),
            "type Money, whose codec has raised ValueError: a currency must have",
        ),
        (Box([object()]), r"type Box, whose codec has made a value of type object at \[0\]: send"),
        (Box(object()), "type Box, whose codec has made a value of type object: send"),
    ],
)
def test_a_codec_that_fails_is_named(value: object, said: str) -> None:
    with pytest.raises(CannotSend, match=said) as caught:
        encode_sendable([{"a": value}])
    assert caught.value.path == "[0]['a']"
    with pytest.raises(spear.InvalidArguments, match=r"f\(argument 1\): cannot send a value of"):
        encode_call("f", [value], {})


def test_a_codec_takes_two_levels() -> None:
    inner: object = TEA
    for _ in range(MAX_LEVELS - 5):  # tag, list, list, and two of the decimal
        inner = [inner]
    sent(inner)  # raises nothing
    with pytest.raises(CannotSend, match="levels"):
        encode_sendable([inner])
    endless = Box(None)
    endless.inner = endless
    with pytest.raises(CannotSend, match="more than 64 levels"):
        encode_sendable(endless)


# -- from a peer --------------------------------------------------------------------------------------


def fault_of(payload: bytes) -> CodecFault:
    with pytest.raises(CodecFault) as caught:
        decode_value_untrusted(payload)
    return caught.value


def test_a_name_that_is_not_registered_is_no_codec() -> None:
    for payload in (
        coded("os.system", "true"),
        cbor2.dumps([{"a": cbor2.CBORTag(CODED_TAG, ["os.system", "true"])}]),
        cbor2.dumps(cbor2.CBORTag(258, [cbor2.CBORTag(CODED_TAG, ["os.system", "true"])])),
        cbor2.dumps(
            cbor2.CBORTag(CODED_TAG, ["tests.Money", cbor2.CBORTag(CODED_TAG, ["os.system", 1])])
        ),
    ):
        fault = fault_of(payload)
        assert (fault.code, fault.name) == ("no_codec", "os.system")
        assert "import the module that calls spear.codec()" in str(fault)


def test_a_codec_that_refuses_a_content_is_named() -> None:
    fault = fault_of(coded("tests.Money", [1, "XXX"]))
    assert (fault.code, fault.name) == ("codec_failed", "tests.Money")
    assert str(fault) == (
        "decode() of the codec 'tests.Money' has raised ValueError: no such currency"
    )
    assert isinstance(fault.__cause__, ValueError)
    assert fault_of(coded("tests.Money", 1)).code == "codec_failed"


@pytest.mark.parametrize(
    "content",
    [1, [], ["tests.Money"], [1, 1], ["", 1], ["x" * (MAX_CODEC_NAME + 1), 1], ["tests.Money", 1, 2],
     {"tests.Money": 1}],
)  # fmt: skip
def test_s6_a_tag_without_name_and_content_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="not a coded value"):
        decode_value_untrusted(cbor2.dumps(cbor2.CBORTag(CODED_TAG, content)))


def test_s6_no_codec_sees_what_no_value_may_be() -> None:
    for odd in (cbor2.undefined, cbor2.CBORSimpleValue(99)):
        for content in (odd, [odd], {"a": [odd]}):
            with pytest.raises(ValueError, match=r"not a valid value|not supported"):
                decode_value_untrusted(coded("test_codecs.Box", content))


CONTENTS = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["tests.Money", "EUR", "XXX"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=100)
@given(CONTENTS)
def test_s6_any_content_is_refused_or_decoded(content: object) -> None:
    for tagged in (content, ["tests.Money", content]):
        try:
            back = decode_value_untrusted(cbor2.dumps(cbor2.CBORTag(CODED_TAG, tagged)))
        except ValueError:
            continue
        assert isinstance(cast("object", back), Money)


# -- values that are passed on ------------------------------------------------------------------------


def passed(value: object) -> object:
    with values_passed_on():
        return decode_value_untrusted(encode_alone(value))


def test_a_value_that_is_passed_on_is_not_decoded() -> None:
    through = passed([TEA, {"a": Money(Decimal(1), "XXX")}])
    assert encode_alone(through) == encode_alone([TEA, {"a": Money(Decimal(1), "XXX")}])
    explicit = decode_value_untrusted(coded("os.system", "true"), passes_on=True)
    assert encode_alone(explicit) == coded("os.system", "true")
    assert decode_value_untrusted(encode_alone(TEA)) == TEA  # after the block


def test_json_has_a_form_for_coded_values_and_reads_it() -> None:
    form = '{"$codec": ["tests.Money", [{"$decimal": "3.50"}, "EUR"]]}'
    for value in (TEA, passed(TEA)):
        assert dump_json([value]) == f"[{form}]"
    back = load_json(form)
    assert isinstance(back, CodedValue)
    assert sent(back) == TEA


def test_json_keeps_the_types_of_a_content() -> None:
    numbers = spear.Array(bytes(8), "<f8")
    text = dump_json(passed(Grid([numbers, (1,)], {1: b"x"})))
    assert text == (
        f'{{"$codec": ["{Grid.__module__}.Grid", {{"cells": [{{"$array": ["<f8", [1], "C", '
        '"AAAAAAAAAAA="]}, [1]], "names": {"$map": [[1, {"$bytes": "eA=="}]]}}]}'
    )
    grid = sent(load_json(text))
    assert isinstance(grid, Grid)
    assert cast("list[spear.Array]", grid.cells)[0].dtype == "<f8"
    assert grid.names == {1: b"x"}


def test_json_of_the_users_objects_in_a_content() -> None:
    assert dump_json(Box(Order("tea", TEA))).endswith(
        '{"item": "tea", "price": {"$codec": ["tests.Money", [{"$decimal": "3.50"}, "EUR"]]}}]}'
    )
    with pytest.raises(ValueError, match="a value of type Money: ValueError: a currency must have"):
        dump_json(Money(Decimal(1), ""))
    with pytest.raises(TypeError, match="object"):
        dump_json(Box(object()))


@pytest.mark.parametrize("text", ['{"$codec": []}', '{"$codec": "x"}', '{"$codec": ["", 1]}'])
def test_s6_json_that_names_no_codec_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$codec is not the name of a codec and a content"):
        load_json(text)


def test_plain_values_never_ask_for_a_codec() -> None:
    values: Iterable[object] = [
        None,
        True,
        1,
        1.5,
        "a",
        b"a",
        [1],
        {"a": [1]},
        (1,),
        bytearray(b"x"),
    ]
    for value in values:
        check_sendable(value)  # raises NotPlain for a value that a codec might have
        payload, _ = encode_sendable(value)
        assert not isinstance(payload, TaggedBytes)
