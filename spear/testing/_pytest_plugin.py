"""The pytest plugin of Spear: the fixture ``spear_deploy``.

pytest imports this module in each run of an environment in which Spear is installed. Therefore the module
imports nothing but pytest until a test uses the fixture.

An async test that uses the fixture runs under Trio without any setting. If another plugin claims the
test, that plugin runs the test, and the fixture is an async generator like any other. If no plugin claims
the test, pytest-trio gets it; without pytest-trio, this plugin runs the test. In a plain test the fixture
deploys by ``spear.blocking``.
"""

from __future__ import annotations

from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._deploy_fixture import BlockingSpearDeploy, SpearDeploy

FIXTURE: Final = "spear_deploy"

DEPLOY: Final = pytest.StashKey["SpearDeploy"]()
"""The value of the fixture, in the stash of a test that this plugin runs."""

MARKING_PLUGINS: Final = ("asyncio", "trio")
"""Names of plugins that run async tests with a mark of the same name: pytest-asyncio and pytest-trio."""


def runner_of(item: pytest.Item) -> str:
    """Return the name of the plugin that runs an async test: "spear" if no other one does.

    Empty for all other items.
    """
    if not isinstance(item, pytest.Function) or not iscoroutinefunction(item.obj):
        return ""
    if "anyio_backend" in item.fixturenames:
        return "anyio"
    for name in MARKING_PLUGINS:
        if item.config.pluginmanager.has_plugin(name) and item.get_closest_marker(name):
            return name
    return "spear"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave unclaimed tests with the fixture to pytest-trio, if it is installed."""
    if config.pluginmanager.has_plugin("trio"):
        for item in items:
            uses = isinstance(item, pytest.Function) and FIXTURE in item.fixturenames
            if uses and runner_of(item) == "spear":
                item.add_marker("trio")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test with Trio for which the fixture has chosen this plugin."""
    deploy = pyfuncitem.stash.get(DEPLOY, None)
    if deploy is None:
        return None
    from ._deploy_fixture import run_test

    values = {name: pyfuncitem.funcargs[name] for name in signature(pyfuncitem.obj).parameters}
    run_test(pyfuncitem.obj, values, deploy)
    return True


@pytest.fixture
def spear_deploy(request: pytest.FixtureRequest) -> object:
    """Return a function that deploys a program for one test: ``await spear_deploy("shop.py")``.

    In a plain test, omit `await`: the deployment is one of `spear.blocking`. The arguments are those of
    `spear.Spearlet.deploy`. An Agent runs in the process of the test, a file in processes of its own. All
    deployments end with the test, which fails if it has left a call running.
    """
    runner = runner_of(request.node)
    if runner == "spear":
        from ._deploy_fixture import SpearDeploy

        return request.node.stash.setdefault(DEPLOY, SpearDeploy())
    if runner == "anyio":
        backend = request.getfixturevalue("anyio_backend")
        runner = backend if isinstance(backend, str) else backend[0]
    if runner == "asyncio":
        pytest.fail(
            "spear_deploy needs Trio, but asyncio runs this test: open spear.asyncio.open_spearlet() "
            "instead, or let Trio run the test (with anyio, the fixture anyio_backend returns 'trio')",
            pytrace=False,
        )
    return request.getfixturevalue(f"_spear_deploy_{'in_trio' if runner else 'blocking'}")


@pytest.fixture
def _spear_deploy_blocking() -> Iterator[BlockingSpearDeploy]:
    from ._deploy_fixture import BlockingSpearDeploy

    deploy = BlockingSpearDeploy()
    yield deploy
    deploy.close()


@pytest.fixture
async def _spear_deploy_in_trio() -> AsyncIterator[SpearDeploy]:
    from ._deploy_fixture import SpearDeploy

    deploy = SpearDeploy()
    async with deploy.open():
        yield deploy
