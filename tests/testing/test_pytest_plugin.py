"""The pytest plugin, in runs of pytest with and without the plugins that run async tests."""

from __future__ import annotations

import sys
from textwrap import dedent
from typing import Protocol

import pytest
from entry_points import install_own_plugin

pytest_plugins = ["pytester"]


class Run(Protocol):
    """A function that runs modules of tests, with options of pytest."""

    def __call__(self, *options: str, **modules: str) -> pytest.RunResult: ...


AGENT = """
import pytest, spear, trio
import trio.testing

app = spear.Agent("stock")

@app.function
async def left(item: str) -> int:
    return {"tea": 3}[item]

@app.function
async def order(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Return a function that runs tests with the plugin, every warning being an error."""
    install_own_plugin(pytester.path)

    def run(*options: str, **modules: str) -> pytest.RunResult:
        pytester.makepyfile(**{name: AGENT + dedent(text) for name, text in modules.items()})
        return pytester.runpytest_subprocess("-W", "error", *options)

    return run


ANY_RUNNER = """
async def test_function(spear_deploy):
    stock = await spear_deploy(app, name="shop")
    assert (stock.name, await stock.left("tea")) == ("shop", 3)
    assert spear_deploy.spearlet.deployments == {"shop": stock}

class TestMethod:
    async def test_method(self, spear_deploy, tmp_path):
        assert await (await spear_deploy(app)).left("tea") == 3

async def test_nothing_is_deployed(spear_deploy):
    pass

async def test_skipped(spear_deploy):
    pytest.skip("not now")

async def test_failure_has_the_traceback_of_the_function(spear_deploy):
    stock = await spear_deploy(app)
    await stock.left("coffee")

async def test_left_call(spear_deploy):
    stock = await spear_deploy(app)
    stock.order.submit(1000)

async def test_cancelled_call(spear_deploy):
    stock = await spear_deploy(app)
    stock.order.submit(1000).cancel()
"""


def expect_any_runner(result: pytest.RunResult) -> None:
    """Check the messages of the failures of ANY_RUNNER."""
    result.stdout.fnmatch_lines(
        [
            '*    return {"tea": 3}*item]*',
            "*KeyError: 'coffee'*",
            "*the submitted call of stock.order has not ended with the test: await or cancel it*",
        ]
    )


@pytest.mark.slow
def test_pytest_trio_and_anyio_run_async_tests_with_the_fixture_without_settings(run: Run) -> None:
    result = run(
        test_any=ANY_RUNNER,
        test_pytest_trio="""
        @pytest.fixture
        async def stock(spear_deploy):
            stock = await spear_deploy(app)
            yield stock
            assert await stock.left("tea") == 3

        async def test_fixture(stock, spear_deploy, autojump_clock):
            assert await stock.order(10_000, timeout=20_000) == 10_000
            assert trio.current_time() > 9_999

        @pytest.mark.trio
        async def test_marked(stock):
            assert await stock.left("tea") == 3

        async def test_processes(spear_deploy, autojump_clock):
            with pytest.raises(spear.ConfigurationError, match="virtual time does not wait"):
                await spear_deploy("stock.py")
        """,
        test_anyio="""
        @pytest.fixture(params=["trio", "asyncio", ("trio", {})])
        def anyio_backend(request):
            return request.param

        @pytest.fixture
        async def stock(spear_deploy):
            return await spear_deploy(app)

        @pytest.mark.anyio
        async def test_fixture(stock):
            assert await stock.left("tea") == 3
        """,
    )
    result.assert_outcomes(passed=4 + 3 + 2, skipped=1, failed=2, errors=1)
    result.stdout.fnmatch_lines("*the fixture anyio_backend returns 'trio'*")
    expect_any_runner(result)


@pytest.mark.slow
def test_without_them_the_plugin_runs_async_tests_with_the_fixture(run: Run) -> None:
    result = run(
        "-p",
        "no:trio",
        "-p",
        "no:anyio",
        test_any=ANY_RUNNER,
        test_own="""
        @pytest.fixture
        def clock():
            return trio.testing.MockClock(autojump_threshold=0)

        @pytest.fixture
        def spear_deploy(spear_deploy):
            return spear_deploy

        async def test_clock(spear_deploy, clock):
            stock = await spear_deploy(app)
            assert await stock.order(10_000, timeout=20_000) == 10_000

        bad = spear.Agent("bad")

        @bad.lifespan
        async def lifespan():
            yield
            raise ValueError("at the end")

        @bad.function
        async def sleep():
            with trio.CancelScope(shield=True):
                await trio.sleep(6)

        async def test_bad_end(spear_deploy, clock):
            await spear_deploy(bad)

        async def test_left_function(spear_deploy, clock):
            slow = await spear_deploy(bad)
            with trio.move_on_after(0.5):
                await slow.sleep()

        async def test_too_late(spear_deploy):
            global kept
            kept = spear_deploy

        def test_kept():
            trio.run(kept, app)

        def test_plain(spear_deploy):
            stock = spear_deploy(app)
            assert spear_deploy.spearlet.deployments.keys() == {"stock"}
            assert stock.left("tea") == 3

        def test_plain_without_use(spear_deploy):
            pass

        def test_plain_left_call(spear_deploy):
            spear_deploy(app).order.submit(1000)
        """,
    )
    result.assert_outcomes(passed=4 + 5, skipped=1, failed=2 + 3, errors=1)
    expect_any_runner(result)
    result.stdout.fnmatch_lines(
        [
            "*memory:bad-1#1 has failed: ValueError: at the end*",
            "*calls of bad have not ended with the test*",
            "*ConfigurationError: spear_deploy works while its test runs*",
        ]
    )
    left = "*the submitted call of stock.order has not ended with the test: await or cancel it"
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_plain_left_call*", left])


@pytest.mark.slow
def test_a_run_without_the_fixture_imports_next_to_nothing_and_warns_of_nothing(
    pytester: pytest.Pytester,
) -> None:
    """The program has imported Spear before it runs pytest, and a wheel has installed Spear."""
    metadata = install_own_plugin(pytester.path)
    (metadata / "RECORD").write_text("spear/__init__.py,,\n")  # pytest rewrites what a wheel lists
    pytester.makepyfile(
        """
        import sys

        def test_imports():
            ours = {each for each in sys.modules if each.partition(".")[0] == "spear"}
            assert ours == {
                "spear", "spear._lazy", "spear._version", "spear.testing",
                "spear.testing._pytest_plugin",
            }
            assert not {"attrs", "cbor2", "trio"} & sys.modules.keys()
        """
    )
    options = ["-Werror", *(f"-pno:{name}" for name in ("anyio", "hypothesispytest", "trio"))]
    program = f"import spear, pytest; pytest.main({options})"
    result = pytester.run(sys.executable, "-W", "error", "-c", program)
    result.assert_outcomes(passed=1)
