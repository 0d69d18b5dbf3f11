"""Decorated functions: the wrapper's parameters are checked, and the arguments it passes on converted."""

from __future__ import annotations

import functools
import inspect
import logging
from contextlib import nullcontext
from functools import partial, update_wrapper, wraps
from typing import TYPE_CHECKING, cast

import attrs
import pytest
import trio

import spear
from spear import Agent, FunctionRaised, InvalidArguments, Items
from spear.agent._wrappers import what_it_takes
from spear.wire import decode_result, encode_arguments

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from .helpers import Caller

    AsyncCallable = Callable[..., Awaitable[object]]  # type: ignore[explicit-any]  # of any kind
    AnyCallable = Callable[..., object]  # type: ignore[explicit-any]  # of any kind


logger = logging.getLogger(__name__)


class Database:
    name = "database"


DATABASE = Database()


@attrs.frozen
class Item:
    name: str


async def price(db: Database, item: str, count: int = 1, *, factor: float = 1) -> list[object]:
    return [db.name, item, count, factor]


async def buy(item: Item, count: int = 1, *more: int, gift: bool = False) -> list[object]:
    return [item.name, count, *more, gift]


def transparent(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        try:
            result: object = await function(*args, **kwargs)
            return result
        except NotImplementedError:
            return await function(*args, **kwargs)

    return wrapper


def telling(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        logger.debug("%s is given %s and %s", function, args, kwargs)
        return await function(*args, **kwargs)

    return wrapper


def with_db(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await function(DATABASE, *args, **kwargs)

    return wrapper


def with_db_by_name(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await function(*args, db=DATABASE, **kwargs)

    return wrapper


def in_helper(function: AsyncCallable) -> AsyncCallable:
    async def helper(function: AsyncCallable, *args: object, count: int = 0) -> object:
        return await function(*args)

    @wraps(function)
    async def wrapper(*args: object) -> object:
        return await helper(function, DATABASE, *args, count=5)

    return wrapper


def in_partial(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await partial(function, DATABASE, *args, factor=2, **kwargs)()

    return wrapper


def with_own(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(item: object, *args: int, times: int = 1, **kwargs: object) -> object:
        return [await function(item, *args, **kwargs)] * times

    return wrapper


def telling_own(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(item: object, *args: int, times: int = 1) -> object:
        logger.debug("%s is given %s", function, item)
        return [await function(item, *args)] * times

    return wrapper


def making(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(item: str, /, *, count: int) -> object:
        item = Item(item)  # type: ignore[assignment]  # that is the point
        return await function(item, count=count)

    return wrapper


def by_name_only(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(**kwargs: object) -> object:
        return await function(DATABASE, **kwargs)

    return wrapper


def silent(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return [*args, kwargs]

    return wrapper


def unreadable(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        args = (DATABASE, *args)
        return await function(*args, **kwargs)

    return wrapper


def unreadable_by_name(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        kwargs.setdefault("db", DATABASE)
        return await function(*args, **kwargs)

    return wrapper


def unreadable_by_index(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        kwargs["db"] = DATABASE
        return await function(*args, **kwargs)

    return wrapper


def unreadable_stars(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await function(*[DATABASE], *args, **{"factor": 3, **kwargs})

    return wrapper


def two_ways(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        if args[0] == "tea":
            return await function(DATABASE, *args, **kwargs)
        return await function(*args, **kwargs)

    return wrapper


def helper_adds(function: AsyncCallable) -> AsyncCallable:
    async def in_transaction(function: AsyncCallable, *args: object) -> object:
        return await function(DATABASE, *args)

    @wraps(function)
    async def wrapper(*args: object) -> object:
        return await in_transaction(function, *args)

    return wrapper


def inner_adds(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        async def attempt(*args: object, **kwargs: object) -> object:
            return await function(*args, **kwargs)

        return await attempt(DATABASE, *args, **kwargs)

    return wrapper


def passed_to_another(function: AsyncCallable) -> AsyncCallable:
    def add_to(keywords: dict[str, object]) -> None:
        keywords["db"] = DATABASE

    @wraps(function)
    async def wrapper(**kwargs: object) -> object:
        add_to(kwargs)
        return await function(**kwargs)

    return wrapper


def known_by_another_name(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(**kwargs: object) -> object:
        keywords = kwargs
        keywords["db"] = DATABASE
        return await function(**kwargs)

    return wrapper


def adding_pattern(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        match (DATABASE, *args):
            case (*args,):  # type: ignore[misc]  # a list now
                return await function(*args)

    return wrapper


def partial_goes_on(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(item: str, **kwargs: object) -> object:
        return await partial(function, **kwargs)(DATABASE, item)

    return wrapper


class Object:
    """A decorator that is a class."""

    def __init__(self, function: AsyncCallable) -> None:
        self.function = function
        update_wrapper(self, function)

    async def __call__(self, *args: object) -> object:
        return await self.function(DATABASE, *args)


def runs_by_helper(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        (DATABASE, *args)[-1].upper()  # type: ignore[attr-defined]  # looked at
        return await helper_adds(partial(function))(*args)

    return wrapper


class Caching:
    """A decorator that keeps the function in an unexpected place."""

    def __init__(self, function: AsyncCallable) -> None:
        self.function = function

    def wrapper(self) -> AsyncCallable:
        @wraps(self.function)
        async def wrapper(*args: object, **kwargs: object) -> object:
            return await self.function(DATABASE, *args, **kwargs)

        return wrapper


def signed(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return [await function(DATABASE, *args), *kwargs.values()]

    parameters = [
        inspect.Parameter("what", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str),
        inspect.Parameter("why", inspect.Parameter.KEYWORD_ONLY),
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # PEP 362
    return wrapper


async def call(
    caller: Caller, name: str, arguments: tuple[object, ...], keywords: dict[str, object]
) -> object:
    payload, is_cbor = encode_arguments(arguments, keywords)
    response = await caller.channel.request(name, payload, is_cbor=is_cbor)
    return decode_result(response.payload, response.is_cbor)


TEA = ["database", "tea", 1, 1.0]


@pytest.mark.parametrize(
    ("decorator", "arguments", "keywords", "result"),
    [
        (with_db, ("tea",), {}, TEA),
        (with_db, ("tea", 2), {}, ["database", "tea", 2, 1.0]),
        (with_db, (), {"item": "tea"}, TEA),
        (with_db, ("tea",), {"factor": 2}, ["database", "tea", 1, 2.0]),
        (with_db, (5,), {}, "item=...): expected str, got int"),
        (with_db, ("tea", "two"), {}, "count=...): expected int, got str"),
        (with_db, (), {}, "requires the argument 'item'"),
        (with_db, ("tea", 1, 1), {}, "takes 2 arguments by position, not 3"),
        (with_db, ("tea",), {"db": 1}, "takes no argument 'db'"),
        (with_db_by_name, (), {"item": "tea"}, TEA),
        (with_db_by_name, (), {"item": 5}, "expected str, got int"),
        (in_helper, ("tea", 2), {}, ["database", "tea", 2, 1]),
        (in_partial, ("tea",), {"count": 2}, ["database", "tea", 2, 2]),
        (by_name_only, (), {"item": "tea"}, TEA),
        (by_name_only, ("tea",), {}, "takes no arguments by position"),
        (by_name_only, (), {"item": 5}, "expected str, got int"),
        (signed, ("tea",), {"why": 3}, [TEA, 3]),
        (signed, ("tea",), {}, "requires the argument 'why'"),
        (signed, (5,), {"why": 3}, "what=...): expected str"),
        # Their passed-on arguments cannot be determined, so they are not converted.
        (helper_adds, ("tea", 2), {}, ["database", "tea", 2, 1]),
        (inner_adds, ("tea",), {}, TEA),
        (passed_to_another, (), {"item": "tea"}, TEA),
        (known_by_another_name, (), {"item": "tea"}, TEA),
        (adding_pattern, ("tea",), {}, TEA),
        (partial_goes_on, ("tea",), {}, TEA),
        (runs_by_helper, ("tea",), {}, TEA),
        (lambda function: transparent(Object(function)), ("tea",), {}, TEA),
        (lambda function: transparent(partial(unreadable(function), count=3)), ("tea",), {},
         ["database", "tea", 3, 1]),
        (unreadable, ("tea", 2), {}, ["database", "tea", 2, 1]),
        (unreadable_by_name, (), {"item": "tea"}, TEA),
        (unreadable_by_index, (), {"item": "tea"}, TEA),
        (unreadable_stars, ("tea",), {}, ["database", "tea", 1, 3]),
        (two_ways, ("tea",), {}, TEA),
        (silent, ("tea", 5), {"x": 1}, ["tea", 5, {"x": 1}]),
        (lambda function: Caching(function).wrapper(), ("tea",), {}, TEA),
    ],
)  # fmt: skip
async def test_a_wrapper_is_given_what_it_takes(
    decorator: Callable[[AsyncCallable], AsyncCallable],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    result: object,
) -> None:
    app = Agent()
    app.function(name="price")(decorator(price))
    async with calling(app) as caller:
        if isinstance(result, str):
            with pytest.raises(InvalidArguments) as raised:
                await call(caller, "price", arguments, keywords)
            assert result in str(raised.value)
        else:
            assert await call(caller, "price", arguments, keywords) == result


SCONE = {"name": "scone"}


@pytest.mark.parametrize(
    ("decorator", "arguments", "keywords", "result"),
    [
        (transparent, (SCONE,), {}, ["scone", 1, False]),
        (transparent, (SCONE, 2, 3, 4), {"gift": True}, ["scone", 2, 3, 4, True]),
        (transparent, ({},), {}, "Item requires the field 'name'"),
        (transparent, (SCONE, 2, "x"), {}, "more[0]=...): expected int"),
        (transparent, (SCONE,), {"gifts": True}, "takes no argument 'gifts'; did you mean 'gift'?"),
        (telling, (SCONE, 2, 3, 4), {"gift": True}, ["scone", 2, 3, 4, True]),
        (telling, (), {"item": SCONE}, ["scone", 1, False]),
        (with_own, (SCONE, 2), {"times": 2, "gift": True}, [["scone", 2, True]] * 2),
        (with_own, (), {"item": SCONE}, [["scone", 1, False]]),
        (with_own, ("scone",), {}, "item=...): expected a map (Item), got str"),
        (making, ("scone",), {"count": 3}, ["scone", 3, False]),
        (making, ("scone",), {}, "requires the argument 'count'"),
        (making, ("scone",), {"count": "x"}, "count=...): expected int, got str"),
        (lambda function: transparent(with_own(transparent(function))), (SCONE,), {"times": 1},
         [["scone", 1, False]]),
        (telling_own, ({"name": "scone"}, 2), {"times": 2}, [["scone", 2, False]] * 2),
        (lambda function: update_wrapper(lambda *a, **k: function(*a, **k), function), (SCONE,), {},
         ["scone", 1, False]),
    ],
)  # fmt: skip
async def test_what_a_wrapper_passes_on_is_converted_for_the_function_inside(
    decorator: Callable[[AsyncCallable], AsyncCallable],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    result: object,
) -> None:
    app = Agent()
    app.function(decorator(buy))
    async with calling(app) as caller:
        if isinstance(result, str):
            with pytest.raises(InvalidArguments) as raised:
                await call(caller, "buy", arguments, keywords)
            assert result in str(raised.value)
        else:
            assert await call(caller, "buy", arguments, keywords) == result


def answering(function: AsyncCallable) -> AsyncCallable:
    """Return a wrapper with other parameters than the function."""

    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        if not args or args[0] is None or "nothing" in kwargs or kwargs.get("dry"):
            return "nothing"
        return await function(*args, **kwargs)

    return wrapper


def answering_own(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(item: object = None, **kwargs: object) -> object:
        if item is None:
            return "nothing"
        return await function(item)

    return wrapper


@pytest.mark.parametrize("decorator", [answering, answering_own])
async def test_a_wrapper_may_take_what_the_function_inside_refuses(
    decorator: Callable[[AsyncCallable], AsyncCallable],
) -> None:
    app = Agent()
    app.function(decorator(buy))
    async with calling(app) as caller:
        assert await caller.call("buy", SCONE) == ["scone", 1, False]
        assert await caller.call("buy") == "nothing"
        assert await caller.call("buy", None) == "nothing"
        assert await caller.call("buy", nothing=True) == "nothing"
        assert await caller.call("buy", dry=True) == "nothing"


async def test_a_function_in_a_thread_is_given_what_its_async_wrapper_takes() -> None:
    def write(db: Database, item: str, *, count: int = 1) -> list[object]:
        return [db.name, item, count]

    label: AnyCallable = write

    @wraps(label)
    async def in_thread(*args: object) -> object:
        return await trio.to_thread.run_sync(label, DATABASE, *args, abandon_on_cancel=False)

    @wraps(label)
    async def of_another(*args: object) -> object:
        await trio.to_thread.run_sync(partial(repr, *args))
        return await trio.to_thread.run_sync(partial(label, DATABASE, *args))

    @wraps(label)
    async def in_partial(**kwargs: object) -> object:
        return await trio.to_thread.run_sync(functools.partial(label, db=DATABASE, **kwargs))

    app = Agent()
    app.function(name="thread")(in_thread)
    app.function(name="partial")(in_partial)
    app.function(name="another")(of_another)
    async with calling(app) as caller:
        assert await caller.call("thread", "tea") == ["database", "tea", 1]
        assert await caller.call("another", "tea") == ["database", "tea", 1]
        assert await caller.call("partial", item="tea", count=2) == ["database", "tea", 2]
        assert await caller.call("thread", 5) == ["database", 5, 1]  # not refused


async def test_a_method_behind_a_wrapper_without_wraps_is_given_what_it_takes() -> None:
    def bare(function: AsyncCallable) -> AsyncCallable:
        async def wrapper(*args: object, **kwargs: object) -> object:
            return await function(*args, **kwargs)

        return wrapper

    class Shop:
        @bare
        async def price(self, item: str) -> str:
            return item

        @classmethod
        @bare
        async def total(cls, item: str) -> str:
            return item

    app = Agent()
    app.function(name="price")(Shop().price)
    app.function(name="total")(Shop.total)
    async with calling(app) as caller:
        assert await caller.call("price", "tea") == "tea"
        assert await caller.call("total", "tea") == "tea"


def test_a_wrapper_whose_file_was_replaced_is_not_read_there(tmp_path: Path) -> None:
    source = (
        "import functools\ndef with_db(function):\n    @functools.wraps(function)\n"
        "    async def wrapper(*args):\n        return await function(DATABASE, *args)\n"
        "    return wrapper\n"
    )
    file = tmp_path / "decorators.py"
    file.write_text(source)
    namespace: dict[str, AsyncCallable] = {"DATABASE": cast("AsyncCallable", DATABASE)}
    exec(compile(source, str(file), "exec"), namespace)
    decorated = cast("Callable[[AsyncCallable], AsyncCallable]", namespace["with_db"])(price)
    assert names_of(decorated) == ["item", "count"]
    assert what_it_takes(decorated).is_certain
    for old, new in [
        ("DATABASE, *args", "*args"),
        ("await function", "await functiox"),
        ("    @", "\n    @"),
        ("import", "\nimport"),
    ]:
        file.write_text(source.replace(old, new))
        assert not what_it_takes(decorated).is_certain


def test_a_wrapper_with_a_default_before_what_is_needed_is_described() -> None:
    def default(function: AsyncCallable) -> AsyncCallable:
        @wraps(function)
        async def wrapper(item: str = "tea", *args: object) -> object:
            return await function(item, *args)

        return wrapper

    async def order(item: str, count: int, factor: float = 1) -> None:
        raise AssertionError

    app = Agent()
    app.function(default(order))
    (described,) = app.describe()
    assert described["signature"] == "order(item: str, count: int, factor: float = 1, /) -> None"


async def test_a_method_whose_wrapper_adds_an_argument_is_given_what_it_takes() -> None:
    class Shop:
        @with_db
        async def price(db: Database, self: Shop, item: str) -> list[object]:  # noqa: N805  # in this order
            return [db.name, type(self).__name__, item]

        @transparent
        async def label(self, item: str) -> str:
            return item.title()

    app = Agent()
    app.function(Shop().price)
    app.function(Shop().label)
    async with calling(app) as caller:
        assert await caller.call("price", "tea") == ["database", "Shop", "tea"]
        assert await caller.call("label", "tea") == "Tea"
        with pytest.raises(InvalidArguments, match=r"label\(item=...\): expected str, got int"):
            await caller.call("label", 5)


async def test_a_wrapper_passes_on_the_items_of_the_caller() -> None:
    async def add(db: Database, items: Items[int], factor: int = 1) -> int:
        return sum([item async for item in items]) * factor

    app = Agent()
    app.function(with_db(add))
    async with calling(app) as caller:
        assert await caller.feed("add", [1, 2], 3) == 9
        with pytest.raises(InvalidArguments, match=r"items\[1\]"):
            await caller.feed("add", [1, "x"])


async def test_a_parameter_that_the_wrapper_supplies_may_be_of_any_class() -> None:
    """Agents once refused such functions at the start, because no sendable value is a Database."""
    for decorator in (with_db, unreadable):
        app = Agent()
        app.function(decorator(price))
        async with calling(app) as caller:
            assert await caller.call("price", "tea") == TEA
    (described,) = app.describe()
    app = Agent()
    app.function(with_db(price))
    (described,) = app.describe()
    assert described["signature"] == (
        "price(item: str, count: int = 1, *, factor: float = 1) -> list[object]"
    )


async def test_a_misspelled_annotation_behind_a_wrapper_is_told() -> None:
    async def due(day) -> None:  # type: ignore[no-untyped-def]  # annotated below
        raise AssertionError

    due.__annotations__["day"] = "Databse"
    app = Agent()
    app.function(transparent(due))
    with pytest.raises(
        spear.ConfigurationError, match=r"'Databse' is not defined; did you mean 'Database'\?"
    ):
        async with app.running():
            raise AssertionError


# -- the plain case --------------------------------------------------------------------------------------


def in_nested(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        async def attempt(name: str = "") -> object:
            return name or await (lambda: function(DATABASE, *args, factor=2))()

        return await attempt()

    return wrapper


def rebinding(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(db: str, *args: object, **kwargs: object) -> object:
        db = Database() if db else DATABASE  # type: ignore[assignment]  # that is the point
        return await function(db, *args, **kwargs)

    return wrapper


def ignoring(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await function(DATABASE, "tea")

    return wrapper


def dropping(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        if args:
            return "nothing"
        return await function(DATABASE, **kwargs)

    return wrapper


def as_one_argument(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(**kwargs: object) -> object:
        return await function(kwargs, "tea")

    return wrapper


def in_front(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        return await function(*args, "tea")

    return wrapper


def twice(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        return await function(*args, *args)

    return wrapper


def of_another(function: AsyncCallable) -> AsyncCallable:
    more = {"db": DATABASE}

    @wraps(function)
    async def wrapper(**kwargs: object) -> object:
        return await function(**more, **kwargs)

    return wrapper


def importing(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        import sys as args  # type: ignore[assignment]  # that is the point

        return await function(*args)

    return wrapper


def catching(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        try:
            return await function(*args)
        except NotImplementedError as args:
            return str(args)

    return wrapper


def shadowing(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        return [await function(*args) for function in (partial(function, DATABASE),)]

    return wrapper


def hiding(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(item: str, *args: object) -> object:
        return [item, await function(DATABASE, *args)]

    return wrapper


def differing(function: AsyncCallable) -> AsyncCallable:
    @wraps(function)
    async def wrapper(*args: object) -> object:
        return await function(DATABASE, *args) or await function(Database(), *args)

    return wrapper


def in_lambda(function: AsyncCallable) -> AsyncCallable:
    with nullcontext(lambda *args: function(DATABASE, *args)) as wrapper:
        return update_wrapper(wrapper, function)


@pytest.mark.parametrize(
    "decorator", [transparent, with_db, with_db_by_name, in_nested, rebinding, ignoring]
)
def test_a_plain_wrapper_is_certain(decorator: Callable[[AsyncCallable], AsyncCallable]) -> None:
    assert what_it_takes(decorator(price)).is_certain


@pytest.mark.parametrize(
    "decorator",
    [
        telling, telling_own, in_helper, in_partial, silent, unreadable, unreadable_by_name,
        unreadable_by_index, unreadable_stars, two_ways, inner_adds, passed_to_another,
        known_by_another_name, adding_pattern, dropping, as_one_argument, in_front, twice, of_another,
        importing, catching, shadowing, hiding, differing, in_lambda,
    ],
)  # fmt: skip
def test_a_wrapper_that_is_not_plain_is_uncertain(
    decorator: Callable[[AsyncCallable], AsyncCallable],
) -> None:
    assert not what_it_takes(decorator(price)).is_certain


async def test_a_parameter_of_the_wrapper_hides_one_of_its_name() -> None:
    app = Agent()
    app.function(hiding(price))
    async with calling(app) as caller:
        assert await caller.call("price", "why", "tea", 2) == ["why", ["database", "tea", 2, 1]]


async def test_the_wrapper_and_the_function_inside_may_use_the_same_names() -> None:
    async def collect(*args: int, **kwargs: int) -> list[object]:
        return [*args, kwargs]

    app = Agent()
    app.function(transparent(collect))
    async with calling(app) as caller:
        assert await caller.call("collect", 1, 2, three=3) == [1, 2, {"three": 3}]
        with pytest.raises(InvalidArguments, match=r"args\[1\]=...\): expected int, got str"):
            await caller.call("collect", 1, "x")


def test_a_cache_takes_what_the_function_inside_takes() -> None:
    cached = what_it_takes(functools.lru_cache(transparent(price)))
    assert cached.is_certain
    assert not what_it_takes(functools.lru_cache(telling(price))).is_certain


def names_of(function: AnyCallable) -> list[str]:
    return [each.name for each in what_it_takes(function).parameters]


def test_what_cannot_be_given_by_name_is_not_taken_by_name() -> None:
    async def count(db: Database, item: str, /, number: int, *, factor: float) -> None:
        raise AssertionError

    assert names_of(by_name_only(count)) == ["number", "factor"]


def test_a_name_in_a_wrapper_need_not_have_a_value() -> None:
    def odd(function: AsyncCallable) -> AsyncCallable:
        later = function

        @wraps(function)
        async def wrapper(*args: object) -> object:
            return await function(*args), later  # noqa: F821  # that is the point

        del later
        return wrapper

    assert names_of(odd(buy)) == ["item", "count", "more"]


def test_what_cannot_be_read_is_not_known() -> None:
    namespace: dict[str, AsyncCallable] = {}
    exec(  # without source code
        "import functools\ndef make(function):\n @functools.wraps(function)\n async def wrapper(*a):\n"
        "  return await function(*a)\n return wrapper\n"
        "def own(function):\n @functools.wraps(function)\n async def wrapper(item, times=1):\n"
        "  return await function(item)\n return wrapper",
        namespace,
    )
    make = cast("Callable[[AsyncCallable], AsyncCallable]", namespace["make"])
    assert not what_it_takes(make(price)).is_certain
    own = cast("Callable[[AsyncCallable], AsyncCallable]", namespace["own"])
    assert what_it_takes(own(price)).is_certain
    assert names_of(own(price)) == ["item", "times"]
    assert what_it_takes(transparent(price)).is_certain
    of_partial = what_it_takes(transparent(partial(price, DATABASE)))
    assert [each.name for each in of_partial.parameters] == ["item", "count", "factor"]


# -- plain wrappers -------------------------------------------------------------------------------------


def logged(function: AnyCallable) -> AnyCallable:
    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return wrapper


def run_by_itself(function: AsyncCallable) -> AnyCallable:
    @functools.wraps(function)
    def wrapper(*args: object) -> object:
        return trio.run(function, *args)

    return wrapper


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    assert spear.context().function
    return 2 * number


async def test_a_plain_wrapper_of_an_async_function_works() -> None:
    app = Agent()
    app.function(logged(double))
    app.function(name="asyncio_double", asyncio=True)(logged(asyncio_double))
    app.function(name="itself")(run_by_itself(alone))
    app.function(name="no_wraps")(lambda number: double(number))
    app.health(logged(healthy))
    async with calling(app) as caller:
        assert await caller.call("double", 2) == 4
        assert await caller.call("asyncio_double", 2) == 4
        assert await caller.call("itself", 2) == 4
        assert await caller.call("no_wraps", 2) == 4
        assert await caller.call("spear.health") is None
        with pytest.raises(InvalidArguments, match="expected int, got str"):
            await caller.call("double", "x")
    assert (
        app.limits().max_calls == spear.WireLimits().max_calls
    )  # none of them needs a thread for long


async def alone(number: int) -> int:
    await trio.sleep(0)
    return 2 * number


async def healthy() -> None:
    await trio.lowlevel.checkpoint()


async def asyncio_double(number: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return 2 * number


async def test_a_plain_wrapper_of_an_async_function_is_cancelled_as_that() -> None:
    begun, ended = trio.Event(), trio.Event()

    async def wait() -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    app = Agent()
    app.function(logged(wait))
    async with calling(app) as caller, trio.open_nursery() as nursery:
        nursery.start_soon(caller.call, "wait")
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert ended.is_set()


async def test_a_plain_wrapper_of_a_stream_is_told_how_to_be_one() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    def plain_items() -> Iterator[int]:
        yield 1

    app = Agent()
    app.function(logged(items))
    app.function(logged(plain_items))
    async with calling(app) as caller:
        for name in ("items", "plain_items"):
            with pytest.raises(
                FunctionRaised, match="returned a generator: a stream function must contain"
            ):
                await caller.call(name)
