"""A runtime of another distribution: instances behind a command, as ``docker run -i`` or ``ssh host``.

A deployment names its program and the command in front of it::

    [functions.shop]
    runtime = "prefix"
    source = "/srv/shop.py"                    # where the command finds it
    prefix = ["docker", "run", "-i", "--rm", "-v", "/srv:/srv", "shop-image"]

or, in Python and for ``spear call``, ``"nice -n 5 -- shop.py"``. The agent is offered a Unix socket and
TCP on this machine. Instances on other machines need a strategy of their host's, with TCP and TLS.
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
    """What one deployment is: a program, and the command in front of its interpreter."""

    target: str
    prefix: tuple[str, ...]
    python: str = "python3"
    environment: Mapping[str, str] = attrs.field(factory=dict, metadata={"secret": True})

    @property
    def title(self) -> str:
        """The program."""
        return self.target

    def problems(self) -> Iterator[ConfigurationError]:
        """Yield what is wrong on this machine; what is behind the prefix is not looked at."""
        if find_command(self.prefix) is None:
            yield ConfigurationError.about("prefix", f"{self.prefix} is no program with arguments")


@attrs.define(eq=False, kw_only=True)
class PrefixRuntime(Runtime):
    """Runs each instance as ``PREFIX python -m spear.agent TARGET --bootstrap-fd 0``."""

    name = "prefix"
    settings_class = PrefixSettings
    # Behind a command there may be another file system: the agent tries both.
    strategy = CommunicationStrategy(("unix", "tcp"), reach=Reach.MACHINE)

    python: str = "python3"

    def takes(self, target: object) -> RuntimeSettings | None:
        """Return settings for ``PREFIX -- TARGET``, and settings as they are."""
        prefix, separator, program = str(target).partition(" -- ")
        if not isinstance(target, str) or not separator:
            return super().takes(target)
        target = ProcessSettings(target=program).made_absolute().target or program
        try:
            words = tuple(shlex.split(prefix))
        except ValueError as error:  # a quotation that does not end
            raise ConfigurationError.about("prefix", f"{prefix!r}: {error}") from error
        return PrefixSettings(target=target, prefix=words, python=self.python)

    @asynccontextmanager
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[InstanceTemplate]:
        """Prepare nothing: each instance is a command of its own."""
        yield PrefixTemplate(self, spec)


class PrefixTemplate(InstanceTemplate):
    """Starts the commands of one deployment."""

    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        """Start a command, which hands on its standard input to the agent."""
        settings = self.spec.settings
        assert isinstance(settings, PrefixSettings)  # open_template has seen to it
        agent = (settings.python, "-m", "spear.agent", settings.target, "--bootstrap-fd", "0")
        words = settings.prefix + agent
        variables = settings.environment
        return launch_command(words, self.spec, endpoint, book, timeouts, environment=variables)
