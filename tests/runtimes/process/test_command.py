"""Commands that start agents: invalid ones."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

import attrs
import pytest

from spear import ConfigurationError, InstanceId
from spear.channels import open_communication_factory
from spear.runtimes import (
    InstanceSpec,
    InstanceTemplate,
    Runtime,
    RuntimeSettings,
    TemplateSpec,
    launch_command,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from spear import InstanceTimeouts
    from spear.channels import Endpoint
    from spear.runtimes import InstanceBody, LogBook


@attrs.frozen(kw_only=True)
class LaunchSettings(RuntimeSettings):
    command: Sequence[str]


class Launched(InstanceTemplate):
    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        assert isinstance(self.spec.settings, LaunchSettings)
        return launch_command(self.spec.settings.command, self.spec, endpoint, book, timeouts)


@attrs.define(eq=False, kw_only=True)
class Launcher(Runtime):
    name: ClassVar[str] = "launcher"
    settings_class: ClassVar[type[RuntimeSettings]] = LaunchSettings

    @asynccontextmanager
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[InstanceTemplate]:
        yield Launched(self, spec)


@pytest.mark.parametrize(
    ("command", "fault"),
    [([], "command must not be empty"), ("sleep 3", "command must be a list, such as")],
    ids=["empty", "text"],
)
async def test_a_command_that_is_no_list_with_a_program_is_refused(
    command: Sequence[str], fault: str
) -> None:
    async with (
        open_communication_factory() as factory,
        Launcher().open_template(LaunchSettings(command=command), factory) as template,
    ):
        with pytest.raises(ConfigurationError, match=fault):
            async with template.open_instance(
                InstanceSpec(instance_id=InstanceId("launcher", "a"))
            ):
                pass
