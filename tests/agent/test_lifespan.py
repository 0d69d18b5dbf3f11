"""Invalid lifespans are refused, with the kind of mistake."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING

import pytest
import trio

from spear import Agent, ConfigurationError

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

RULE = "a lifespan is an `async def` without parameters and with one `yield`"


async def no_yield() -> None:
    raise AssertionError


async def like_start(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    raise AssertionError


def plain() -> Iterator[None]:
    yield


async def takes(app: object) -> AsyncIterator[None]:
    yield


async def takes_by_name(*, app: object) -> AsyncIterator[None]:
    yield


async def good(more: int = 1, *rest: int, **others: int) -> AsyncIterator[None]:
    yield


class Resources:
    def __init__(self, url: str) -> None:
        raise AssertionError

    async def __aenter__(self) -> None:
        raise AssertionError

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("lifespan", "fault"),
    [
        (no_yield, "no_yield() has no `yield`"),
        (like_start, "like_start() has no `yield`"),
        (plain, "plain() is a plain `def`: make it an `async def`"),
        (takes, "takes() requires 'app', but gets no arguments"),
        (takes_by_name, "takes_by_name() requires 'app', but gets no arguments"),
        (asynccontextmanager(takes), "takes() requires 'app', but gets no arguments"),
        (asynccontextmanager(no_yield), "no_yield() has no `yield`"),  # type: ignore[arg-type]  # the mistake
        (contextmanager(plain), "plain() is a plain `def`: make it an `async def`"),
        (Resources, "Resources() requires 'url', but gets no arguments"),
        (None, "None is not a function"),
        ("resources", "'resources' is not a function"),
    ],
)
def test_a_lifespan_that_cannot_be_one_is_told_its_mistake(lifespan: object, fault: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Agent().lifespan(lifespan)  # type: ignore[type-var]  # that is the point
    assert str(raised.value) == f"{fault}; {RULE}"


def test_a_lifespan_that_was_called_is_told_so() -> None:
    for called, name in [
        (no_yield(), "no_yield"), (plain(), "plain"), (good(), "good"),
        (asynccontextmanager(good)(), "_AsyncGeneratorContextManager"),
    ]:  # fmt: skip
        with pytest.raises(ConfigurationError) as raised:
            Agent().lifespan(called)  # type: ignore[type-var]  # that is the point
        assert str(raised.value) == f"{name}() was called: pass the function itself; {RULE}"


async def nothing(way: str) -> AsyncIterator[None]:
    if way != "none":
        yield
    if way == "twice":
        yield


@pytest.mark.parametrize(
    ("lifespan", "fault"),
    [
        (lambda: nothing("none"), "<lambda>() ended before its `yield`"),
        (lambda: nothing("twice"), "<lambda>() reached a second `yield`"),
        (dict, "dict() returned {}, which is not an async context manager"),
        (lambda: None, "<lambda>() returned None, which is not an async context manager"),
        (
            lambda: contextmanager(plain)(),
            "<lambda>() returned a plain context manager: use asynccontextmanager",
        ),
        (
            asynccontextmanager(lambda: nothing("none")),
            "<lambda>() ended before its `yield`",
        ),
        (
            asynccontextmanager(lambda: nothing("twice")),
            "<lambda>() reached a second `yield`",
        ),
        (lambda: no_yield(), "<lambda>() returned a coroutine, which has no `yield`"),
    ],
)
async def test_a_lifespan_that_turns_out_to_be_none_is_told_its_mistake(
    lifespan: Callable[[], AsyncIterator[None]], fault: str
) -> None:
    app = Agent()
    app.lifespan(lifespan)
    with pytest.raises(ConfigurationError) as raised:
        async with app.running():
            pass
    assert str(raised.value) == f"{fault}; {RULE}"


async def test_a_lifespan_that_goes_on_after_a_failure_is_told_its_mistake() -> None:
    app, ended = Agent(), False

    @app.lifespan
    async def resources() -> AsyncIterator[None]:
        nonlocal ended
        try:
            yield
        except ValueError:
            try:
                yield
            finally:
                ended = True

    with pytest.raises(ConfigurationError, match="reached a second `yield`"):
        async with app.running():
            raise ValueError
    assert ended


async def test_a_lifespan_hears_of_a_failure_and_may_replace_or_swallow_it() -> None:
    app, seen = Agent(), [""]

    @app.lifespan
    async def resources() -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(str(error))
            if str(error) == "replace":
                raise KeyError("replaced") from error
            if str(error) == "through":
                raise

    with pytest.raises(ValueError, match="through"):
        async with app.running():
            raise ValueError("through")
    with pytest.raises(KeyError, match="replaced"):
        async with app.running():
            raise ValueError("replace")
    async with app.running():
        raise ValueError("swallow")
    assert seen == ["", "through", "replace", "swallow"]


async def test_a_wrapper_may_give_a_lifespan_what_it_takes() -> None:
    @wraps(takes)
    def wrapper() -> AsyncIterator[None]:
        return takes("app")

    block = asynccontextmanager(good)
    for lifespan in (wrapper, good, block, lambda: block()):
        app = Agent()
        app.lifespan(lifespan)
        async with calling(app):
            pass  # raises nothing


@pytest.mark.slow
async def test_a_mistake_in_a_lifespan_is_one_line_of_its_process(tmp_path: Path) -> None:
    path = tmp_path / "mistaken.py"
    path.write_text(
        "import spear\napp = spear.Agent()\n@app.lifespan\nasync def resources(app): ...\n"
    )
    command = ["python", "-m", "spear.agent", str(path)]
    import sys

    command[0] = sys.executable
    environment = {
        "SERVICE_ADDR": "unix:/nowhere",
        "SECRET": "00" * 32,
        "SPEAR_INSTANCE": "process:x#1",
    }
    run = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, env=environment
    )
    assert run.returncode == 2
    text = run.stderr.decode()
    assert text.splitlines()[-1].startswith("spear: mistaken.py, line 3: ConfigurationError: ")
    assert f"resources() has no `yield`; {RULE}" in text
    assert "spear/agent" not in text


def test_a_health_check_takes_no_arguments() -> None:
    async def health(database: object) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match=r"health\(\) requires 'database'"):
        Agent().health(health)
