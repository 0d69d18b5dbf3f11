"""The calling convention, and the conversion of arguments by annotations."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    MutableSet,
    Sequence,
)
from collections.abc import Set as AbstractSet
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
)

import attrs
import pytest

from spear import InvalidArguments
from spear.agent._arguments import CALL_OPTIONS, decode_arguments_untrusted, make_binder
from spear.annotations import build_check, resolve_hints
from spear.calls import CallOptions
from spear.wire import (
    NO_ARGUMENTS,
    NONE,
    Value,
    decode_result,
    encode_arguments,
    encode_result,
    encode_value,
)

if TYPE_CHECKING:
    from fractions import Fraction

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


Many = enum.Enum("Many", [f"member_{n}" for n in range(20)])  # type: ignore[misc]  # many of them


@attrs.frozen
class Item:
    sku: str
    count: int = 1


@attrs.define
class Order:
    customer: str
    items: list[Item]
    _secret: str = ""
    total: int = attrs.field(init=False, default=0)


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    scale: dataclasses.InitVar[int] = 1
    norm: float = dataclasses.field(init=False, default=0.0)

    def __post_init__(self, scale: int) -> None:
        if scale < 1:
            raise ValueError("scale must be positive")
        self.norm = abs(self.x) * scale


@dataclasses.dataclass
class Node:
    name: str
    children: list[Node] = dataclasses.field(default_factory=list)


@attrs.frozen
class Box(Generic[T]):
    content: T


class Options(TypedDict):
    depth: int
    name: NotRequired[str]


class Checkable:
    """A class without instances that can be sent."""


class Uncheckable(Protocol):
    """A protocol that isinstance() refuses."""


UserId = NewType("UserId", str)


class TypeAliasType:
    """A stand-in for the objects of the `type` statement of Python 3.12."""

    __value__ = list[float]


# -- to bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [b"abc", bytearray(b"abc"), memoryview(b"abc"), b""])
def test_one_bytes_argument_is_raw_and_not_copied(buffer: bytes) -> None:
    payload, is_cbor = encode_arguments([buffer], {})
    assert payload is buffer
    assert not is_cbor
    assert decode_arguments_untrusted(bytes(payload), False) == ([bytes(buffer)], {})


def test_a_view_of_larger_items_is_sent_as_its_bytes() -> None:
    view = memoryview(b"abcdefgh").cast("I")
    assert encode_arguments([view], {}) == (b"abcdefgh", False)
    assert encode_arguments([memoryview(b"abcdef")[::2]], {}) == (b"ace", False)


@pytest.mark.parametrize(
    ("positional", "keywords"),
    [
        ([], {}),
        (["tea"], {}),
        ([b"a", b"b"], {}),
        ([b"a"], {"key": 1}),
        ([], {"data": b"a"}),
        ([[1, {"a": None}], 2.5, True, 2**70], {"x": "y"}),
    ],
)
def test_everything_else_is_two_items_of_cbor(
    positional: list[object], keywords: dict[str, object]
) -> None:
    payload, is_cbor = encode_arguments(positional, keywords)
    assert is_cbor
    assert payload == encode_value([positional, keywords])
    assert decode_arguments_untrusted(bytes(payload), True) == (positional, keywords)


def test_no_arguments_and_none_need_no_encoder() -> None:
    assert encode_arguments([], {}) == (NO_ARGUMENTS, True)
    assert encode_result(None) == (NONE, True)
    assert decode_result(NONE, True) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        encode_value(None),
        encode_value([]),
        encode_value([[]]),
        encode_value([[], {}, 1]),
        encode_value([{}, []]),
        encode_value([[], {b"key": 1}]),
        NO_ARGUMENTS + b"\0",
    ],
)
def test_anything_but_two_items_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a valid value|the payload must be a list"):
        decode_arguments_untrusted(payload, True)


@pytest.mark.parametrize("result", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_a_result_of_bytes_is_raw_and_not_copied(result: bytes) -> None:
    payload, is_cbor = encode_result(result)
    assert payload is result
    assert decode_result(bytes(payload), is_cbor) == b"abc"


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        ({"a": [1, 2.5, "x", None, True, b"raw"]}, {"a": [1, 2.5, "x", None, True, b"raw"]}),
        ((1, 2), [1, 2]),
        (Color.RED, "red"),
        (Level.HIGH, 2),
        (Item("tea", 2), {"sku": "tea", "count": 2}),
        (
            [Order("Ada", [Item("tea")], "s")],
            [
                {
                    "customer": "Ada",
                    "items": [{"sku": "tea", "count": 1}],
                    "secret": "s",
                    "total": 0,
                }
            ],
        ),
        (Point(3, scale=2), {"x": 3, "y": 0.0, "norm": 6.0}),
        (Box(Color.BLUE), {"content": "blue"}),
    ],
)
def test_objects_unfold(result: object, seen: Value) -> None:
    for _ in range(2):  # the second time from the cache
        payload, is_cbor = encode_result(result)
        assert decode_result(bytes(payload), is_cbor) == seen


@pytest.mark.parametrize("odd", [object(), pathlib.Path("x"), Checkable(), int, print])
def test_what_cannot_be_sent_is_named(odd: object) -> None:
    with pytest.raises(TypeError, match="cannot send a "):
        encode_result([odd])


def test_what_was_unfolded_folds_again() -> None:
    order = Order("Ada", [Item("tea", 2)], "s")
    payload, is_cbor = encode_result(order)
    check = build_check(Order)
    assert check is not None
    assert check(decode_result(bytes(payload), is_cbor)) == order


# -- parameters -------------------------------------------------------------------------------------


def bound(function: object, *positional: object, **keywords: object) -> object:
    """Return the result of ``function`` for arguments that were encoded and decoded."""
    assert callable(function)
    binder, _ = make_binder(getattr(function, "__name__", "f"), function)  # type: ignore[arg-type]  # any function
    decoded = decode_arguments_untrusted(encode_value([list(positional), keywords]), True)
    binder.bind(*decoded)
    result: object = function(*decoded[0], **decoded[1])
    return result


def price(item: str, count: int = 1, *, currency: str = "EUR") -> tuple[str, int, str]:
    return item, count, currency


def only(item: str, /, key: int = 0) -> tuple[str, int]:
    return item, key


def rest(first: int, *prices: float, **names: str) -> tuple[object, ...]:
    return first, prices, names


def loose(item, *more, **others):  # type: ignore[no-untyped-def]  # that is the point
    return item, more, others


def keyed(*, needed: int) -> int:
    return needed


@dataclasses.dataclass
class Carton:
    sizes: list[int]


def pack(box: Carton | None) -> None:
    raise AssertionError


def nothing() -> None:
    return None


@pytest.mark.parametrize(
    ("function", "positional", "keywords", "seen"),
    [
        (price, ["tea"], {}, ("tea", 1, "EUR")),
        (price, ["tea", 2], {"currency": "GBP"}, ("tea", 2, "GBP")),
        (price, [], {"item": "tea", "count": 3}, ("tea", 3, "EUR")),
        (only, ["tea"], {"key": 1}, ("tea", 1)),
        (only, ["tea", 1], {}, ("tea", 1)),
        (rest, [1], {}, (1, (), {})),
        (rest, [1, 2, 2.5], {"a": "b"}, (1, (2.0, 2.5), {"a": "b"})),
        (loose, [None, 1, "x"], {"y": [2]}, (None, (1, "x"), {"y": [2]})),
        (keyed, [], {"needed": 1}, 1),
        (nothing, [], {}, None),
    ],
)
def test_arguments_find_their_parameters(
    function: object, positional: list[object], keywords: dict[str, object], seen: object
) -> None:
    assert bound(function, *positional, **keywords) == seen


@pytest.mark.parametrize(
    ("function", "positional", "keywords", "message"),
    [
        (price, [], {}, "price() requires the argument 'item'"),
        (price, [], {"count": 1}, "price() requires the argument 'item'"),
        (price, ["tea", 1, 2], {}, "price() takes 2 arguments by position, not 3"),
        (price, ["tea"], {"item": "x"}, "price() got 'item' twice, by position and by name"),
        (price, ["tea"], {"colour": 1}, "price() takes no argument 'colour'"),
        (
            price,
            ["tea"],
            {"curency": "EUR"},
            "price() takes no argument 'curency'; did you mean 'currency'?",
        ),
        (price, [3], {}, "price(item=...): expected str, got int"),
        (price, [None], {}, "price(item=...): expected str, got None"),
        (price, ["tea", True], {}, "price(count=...): expected int, got bool"),
        (price, ["tea"], {"currency": b"x"}, "price(currency=...): expected str, got bytes"),
        (only, [], {"item": "x"}, "only() takes 'item' by position only"),
        (only, ["x"], {"item": "x"}, "only() takes 'item' by position only"),
        (only, [], {}, "only() requires the argument 'item'"),
        (rest, [1, 2.5, "x"], {}, "rest(prices[1]=...): expected float, got str"),
        (rest, [1], {"a": 1}, "rest(a=...): expected str, got int"),
        (rest, [], {"first": "x"}, "rest(first=...): expected int, got str"),
        (keyed, [], {}, "keyed() requires the argument 'needed'"),
        (keyed, [1], {}, "keyed() takes no arguments by position, not 1"),
        (nothing, [1], {}, "nothing() takes no arguments by position, not 1"),
        (nothing, [], {"x": 1}, "nothing() takes no argument 'x'"),
        (
            nothing,
            [],
            {"timout": 3},
            "nothing() takes no argument 'timout'; did you mean the option 'timeout' of the call?",
        ),
        (
            pack,
            [],
            {"sizes": [1]},
            (
                "pack() takes no argument 'sizes'; send the fields of its Carton as "
                '{"box": {"sizes": ...}}'
            ),
        ),
        (pack, [], {"bok": {}}, "pack() takes no argument 'bok'; did you mean 'box'?"),
    ],
)
def test_wrong_arguments_are_named(
    function: object, positional: list[object], keywords: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        bound(function, *positional, **keywords)
    assert str(caught.value) == message
    assert caught.value.delivered == "no"


def test_all_options_of_calls_are_known_to_agents() -> None:
    assert set(CALL_OPTIONS) == {each.name for each in attrs.fields(CallOptions)}


# -- annotations ------------------------------------------------------------------------------------

CONVERSIONS: list[tuple[object, object, object]] = [
    (str, "x", "x"),
    (bool, True, True),
    (int, 2**70, 2**70),
    (float, 2, 2.0),
    (float, 2.5, 2.5),
    (float, 2**53, 2.0**53),
    (float, -(10**22), -1e22),
    (float, 2**1023, 2.0**1023),
    (None, None, None),
    (bytes, b"x", b"x"),
    (bytearray, b"x", bytearray(b"x")),
    (memoryview, b"x", memoryview(b"x")),
    (list, [1, "x"], [1, "x"]),
    (list[int], [1, 2], [1, 2]),
    (list[float], [1, 2.5], [1.0, 2.5]),
    (list[Any], [1, "x"], [1, "x"]),
    (Sequence[str], ["x"], ["x"]),
    (Iterable[str], [], []),
    (tuple, [1, "x"], (1, "x")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[int, object, float], [1, "x", 2], (1, "x", 2.0)),
    (tuple[()], [], ()),
    (set[int], [1, 1, 2], {1, 2}),
    (set[float], [1, 1.0, 2], {1.0, 2.0}),
    (set, [1, 1, "1", b"1"], {1, "1", b"1"}),
    (frozenset[str], ["x"], frozenset("x")),
    (AbstractSet[str], ["x"], frozenset("x")),
    (MutableSet[str], ["x"], {"x"}),
    (dict, {"a": 1}, {"a": 1}),
    (dict[str, object], {"a": 1}, {"a": 1}),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (Mapping[str, list[int]], {"a": [1]}, {"a": [1]}),
    (dict[int, str], {"1": "a", "-2": "b", "0": "c"}, {1: "a", -2: "b", 0: "c"}),
    (dict[pathlib.Path, int], {"a": 1, "b": 2}, {pathlib.Path("a"): 1, pathlib.Path("b"): 2}),
    (dict[Any, int], {"a": 1, b"b": 2}, {"a": 1, b"b": 2}),
    (dict[Color, int], {"red": 1}, {Color.RED: 1}),
    (Optional[int], None, None),  # noqa: UP045  # as in old code
    (int | None, 3, 3),
    (Union[float, int], 3, 3),  # noqa: UP007  # as in old code
    (int | str, "x", "x"),
    (float | None, 3, 3.0),
    (Color | int, "red", Color.RED),
    (int | Any, object, object),
    (Literal["a", 1], 1, 1),
    (Literal[Color.RED], "red", Color.RED),
    (Color, "blue", Color.BLUE),
    (Level, 2, Level.HIGH),
    (pathlib.Path, "/tmp/x", pathlib.Path("/tmp/x")),
    (Item, {"sku": "tea"}, Item("tea")),
    (Order, {"customer": "A", "items": [], "secret": "s"}, Order("A", [], "s")),
    (Order, {"customer": "A", "items": [], "total": 9}, Order("A", [])),
    (Point, {"x": 3, "scale": 2}, Point(3.0, scale=2)),
    (Node, {"name": "a", "children": [{"name": "b"}]}, Node("a", [Node("b")])),
    (Box, {"content": [1]}, Box([1])),
    (Box[int], {"content": 1}, Box(1)),
    (Item | None, {"sku": "tea"}, Item("tea")),
    (dict[str, Item], {"a": {"sku": "tea"}}, {"a": Item("tea")}),
    (Options, {"depth": 1}, {"depth": 1}),
    (Options, {"depth": 1, "name": "x"}, {"depth": 1, "name": "x"}),
    (UserId, "x", "x"),
    (Annotated[int, "positive"], 1, 1),
    (Annotated[list[Annotated[float, "x"]], "y"], [1], [1.0]),
    (Any, [object], [object]),
    (object, None, None),
    (T, 1, 1),
    (type[int], 1, 1),
    (Uncheckable, 1, 1),
    ("not resolved", 1, 1),
    (TypeAliasType(), [1], [1.0]),
]


@pytest.mark.parametrize(("annotation", "value", "seen"), CONVERSIONS)
def test_values_become_what_the_annotation_says(
    annotation: object, value: object, seen: object
) -> None:
    check = build_check(type(None) if annotation is None else annotation)
    found = check(value) if check else value
    assert found == seen
    assert type(found) is type(seen)


REFUSALS: list[tuple[object, object, str]] = [
    (float, "x", "x=...): expected float, got str"),
    (float, True, "x=...): expected float, got bool"),
    (float, 10**400, "x=...): expected float, got an int"),
    (float, 2**53 + 1, "x=...): expected float, got an int that no float represents exactly"),
    (float, -(10**23), "x=...): expected float, got an int that no float represents exactly"),
    (list[float], [1, 2**53 + 1], "x[1]): expected float, got an int that no float"),
    (None, 1, "x=...): expected None, got int"),
    (bytearray, "x", "x=...): expected bytes, got str"),
    (list, {}, "x=...): expected list, got dict"),
    (list[int], {}, "x=...): expected list[int], got dict"),
    (list[int], [1, "x"], "x[1]): expected int, got str"),
    (list[list[int]], [[1], [2, None]], "x[1][1]): expected int, got None"),
    (tuple[int, str], [1], "x=...): expected 2 items, got 1"),
    (tuple[int, str], [1, 2], "x[1]): expected str, got int"),
    (tuple[int, Any], "x", "x=...): expected list[int, Any], got str"),
    (tuple[int, ...], [1, "x"], "x[1]): expected int, got str"),
    (set[int], ["x"], "x[0]): expected int, got str"),
    (set, [[1]], "x=...): the items of a set must not be lists or maps"),
    (dict, [], "x=...): expected dict, got list"),
    (dict[str, int], [], "x=...): expected dict[str, int], got list"),
    (dict[str, int], {"a": "b"}, "x['a']): expected int, got str"),
    (dict[str, int], {b"a": 1}, "x[b'a']): expected str, got bytes"),
    (dict[int, str], {"one": "b"}, "x['one']): expected int, got str"),
    *(
        (dict[int, str], {"1": "a", key: "b"}, f"x[{key!r}]): expected int, got str")
        for key in ["01", "+1", " 1", "1 ", "1_0", "-0", "--1", "\u0661", "1.0", "1e0", "", "1\n"]
    ),
    (dict[int, str], {"9" * 5000: "b"}, f"x['{'9' * 56}...]): expected int, got str"),
    (dict[pathlib.Path, int], {"a//b": 1, "a/b": 2}, "x['a/b']): two keys of the map"),
    (set, [1, True], "x=...): a set cannot hold equal items of different types"),
    (set[object], [0.0, "x", False], "x=...): a set cannot hold equal items of different types"),
    (frozenset[int | float], [1, 1.0], "x=...): a set cannot hold equal items of different types"),
    (set[bytearray], [b"a"], "x=...): the items of a set must not be lists or maps"),
    (int | None, "x", "x=...): expected int | None, got str"),
    (list[int] | Item, {"sku": 1}, "x.sku): expected str, got int"),
    (list[int] | dict[str, list[int]], {"a": [1, "x"]}, "x['a'][1]): expected int, got str"),
    (Literal["a", 1], True, "x=...): expected 'a' or 1, got True"),
    (Literal["a"], 1, "x=...): expected 'a', got 1"),
    (Color, "green", "x=...): expected 'red' or 'blue', got 'green'"),
    (Color, "g" * 99, f"x=...): expected 'red' or 'blue', got '{'g' * 56}..."),
    (Level, True, "x=...): expected 1 or 2, got True"),
    (Many, 99, "x=...): expected 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 or ..., got 99"),
    (pathlib.Path, b"x", "x=...): expected a path, got bytes"),
    (Item, [], "x=...): expected a map (Item), got list"),
    (Item, {}, "x=...): Item requires the field 'sku'"),
    (Item, {"sku": "a", "cnt": 1}, "x.cnt): Item has no field 'cnt'; did you mean 'count'?"),
    (Order, {"customer": "A", "items": [{"sku": 1}]}, "x.items[0].sku): expected str, got int"),
    (
        Order,
        {"customer": "A", "items": [], "_secret": ""},
        "x._secret): Order has no field '_secret'",
    ),
    (Point, {"x": 1, "scale": 0}, "x=...): not a valid Point: scale must be positive"),
    (Point, {"x": 1, "scale": "x"}, "x.scale): expected int, got str"),
    (Node, {"name": "a", "children": [{"name": 1}]}, "x.children[0].name): expected str, got int"),
    (Options, {}, "x=...): Options requires the field 'depth'"),
    (Checkable, "x", "x=...): expected Checkable, got str"),
    (Callable[[], None], "x", "x=...): expected Callable, got str"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), REFUSALS)
def test_other_values_are_refused_where_they_stand(
    annotation: object, value: object, message: str
) -> None:
    def f(x):  # type: ignore[no-untyped-def]  # annotated below
        raise AssertionError

    f.__annotations__["x"] = annotation
    with pytest.raises(InvalidArguments) as caught:
        bound(f, value)
    assert str(caught.value).startswith(f"f({message}")


def test_an_instance_of_a_class_passes() -> None:
    check = build_check(Checkable)
    assert check is not None
    thing = Checkable()
    assert check(thing) is thing


def test_a_failed_conversion_leaves_the_value_for_the_next_one() -> None:
    check = build_check(list[pathlib.Path | int] | list[str | float])
    assert check is not None
    assert check(["a", 2.5]) == ["a", 2.5]


def test_a_class_whose_constructor_cannot_be_seen_is_not_remembered() -> None:
    class Odd:
        __attrs_attrs__ = ()
        __signature__ = "nonsense"

    for _ in range(2):
        with pytest.raises((TypeError, ValueError)):
            build_check(Odd)


def test_one_unresolvable_annotation_leaves_the_others_checked() -> None:
    def f(x: int, y: Fraction) -> None:
        """Annotated with a name that exists for the type checker only."""

    assert resolve_hints(f) == {"x": int, "return": type(None)}
    with pytest.raises(InvalidArguments, match=r"f\(x=\.\.\.\): expected int"):
        bound(f, "x", "anything")


def test_one_unresolvable_field_leaves_the_others_checked() -> None:
    @attrs.frozen
    class Half:
        whole: int
        part: Fraction

    check = build_check(Half)
    assert check is not None
    assert check({"whole": 1, "part": "1/2"}) == Half(1, "1/2")  # type: ignore[arg-type]  # unchecked
    with pytest.raises(Exception, match="expected int, got str"):
        check({"whole": "1", "part": 2})


def test_functions_written_in_c_can_be_bound() -> None:
    assert bound(len, [1, 2]) == 2
    with pytest.raises(InvalidArguments, match="len"):
        bound(len)
