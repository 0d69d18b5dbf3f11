"""A runtime in a distribution of its own: it starts instances by a command such as ``docker run -i``.

A deployment names its program and the command in front of it::

    [functions.shop]
    runtime = "prefix"
    source = "/srv/shop.py"                    # the path at which the command finds the program
    prefix = ["docker", "run", "-i", "--rm", "--network", "host", "-v", "/srv:/srv", "shop-image"]

or, in Python and for ``spear call``, ``"nice -n 5 -- shop.py"``. The agent gets two addresses: a Unix
socket, and TCP on this machine, which a container reaches with ``--network host``. For instances on other
machines (``ssh host``), give the host a communication strategy with TCP and TLS.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs

from spear import ConfigurationError, InstanceTimeouts
from spear.channels import CommunicationStrategy, Endpoint
from spear.runtimes import (
    InstanceBody,
    InstanceTemplate,
    LogBook,
    ProcessSettings,
    Runtime,
    RuntimeSettings,
    TemplateSpec,
    find_command,
    launch_command,
)
from spear.transports import Reach


@attrs.frozen(kw_only=True)
class PrefixSettings(RuntimeSettings):
    """The settings of a deployment: a program, and the command in front of its interpreter."""

    target: str
    prefix: tuple[str, ...]
    python: str = "python3"
    environment: Mapping[str, str] = attrs.field(factory=dict, metadata={"secret": True})

    @property
    def title(self) -> str:
        """The deployment's program, as shown to operators."""
        return self.target

    def problems(self) -> Iterator[ConfigurationError]:
        """Yield an error if the prefix's command is not found on this machine; check nothing else."""
        if find_command(self.prefix) is None:
            yield ConfigurationError.about("prefix", f"{self.prefix} was not found on PATH")


@attrs.define(eq=False, kw_only=True)
class PrefixRuntime(Runtime):
    """A runtime that runs each instance as ``PREFIX python -m spear.agent TARGET --bootstrap-fd 0``."""

    name = "prefix"
    settings_class = PrefixSettings
    # The command may lead to another file system, without the socket: the agent tries both addresses.
    strategy = CommunicationStrategy(("unix", "tcp"), reach=Reach.MACHINE)

    python: str = "python3"

    def takes(self, target: object) -> RuntimeSettings | None:
        """Return settings for a text ``PREFIX -- TARGET``; return :class:`PrefixSettings` unchanged."""
        prefix, separator, program = str(target).partition(" -- ")
        if not isinstance(target, str) or not separator:
            return super().takes(target)
        target = ProcessSettings(target=program).made_absolute().target or program
        try:
            words = tuple(shlex.split(prefix))
        except ValueError as error:  # a quotation mark without its counterpart
            raise ConfigurationError.about("prefix", f"{prefix!r}: {error}") from error
        return PrefixSettings(target=target, prefix=words, python=self.python)

    @asynccontextmanager
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[InstanceTemplate]:
        """Open a template without preparing anything: each instance is a command of its own."""
        yield PrefixTemplate(self, spec)


class PrefixTemplate(InstanceTemplate):
    """A template that starts the commands of one deployment."""

    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        """Start a command. The command must pass its standard input on to the agent."""
        settings = self.spec.settings
        assert isinstance(settings, PrefixSettings)  # open_template has checked the type
        agent = (settings.python, "-m", "spear.agent", settings.target, "--bootstrap-fd", "0")
        words = settings.prefix + agent
        variables = settings.environment
        return launch_command(words, self.spec, endpoint, book, timeouts, environment=variables)
