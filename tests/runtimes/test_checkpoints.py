"""R6: async functions are checkpoints, and other functions are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

from spear import ChannelBroken, InstanceId
from spear.runtimes import InstanceSpec, ProcessSettings, ProcessTemplate

from .helpers import PATIENCE_SECONDS, open_host, worker

if TYPE_CHECKING:
    from pathlib import Path

    from spear.runtimes import Instance


async def _end(instance: Instance) -> None:
    with assert_checkpoints():
        await instance.stop()
    with assert_checkpoints():
        await instance.stop()
    with assert_checkpoints():
        await instance.wait_exited()
    with assert_checkpoints():
        await instance.explain_loss(ChannelBroken("the connection is gone"))


async def test_r6_instances() -> None:
    async with open_host() as host:
        spec = InstanceSpec(instance_id=InstanceId("process", "worker"))
        with assert_no_checkpoints():
            host.runtime.validate(worker())
            host.runtime.capabilities()
            host.runtime.takes("shop.py")
            preparing = host.runtime.open_template(worker(), host.factory)
        with assert_checkpoints():
            template = await preparing.__aenter__()
        assert isinstance(template, ProcessTemplate)
        with assert_no_checkpoints():
            template.refresh()
            template.statistics()
            opening = template.open_instance(spec)
        with assert_checkpoints():
            instance = await opening.__aenter__()
        for _ in range(2):
            with assert_checkpoints(), trio.fail_after(PATIENCE_SECONDS):
                await instance.wait_ready()
        with assert_no_checkpoints():
            host.runtime.statistics()
            repr(instance)
            instance.health()
            instance.logs()
            assert instance.stderr_tail == ""
            assert instance.exit_status is None
        with assert_checkpoints():
            await instance.metrics()
        await _end(instance)
        with assert_checkpoints():
            await instance.kill()
        with assert_checkpoints():
            await instance.metrics()
        with assert_checkpoints():
            await opening.__aexit__(None, None, None)
        await preparing.__aexit__(None, None, None)


async def test_r6_zygotes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import spear\napp = spear.Agent()\n")
    async with open_host() as host:
        with assert_no_checkpoints():
            settings = ProcessSettings(target=str(program))
            opening = host.runtime.open_template(settings, host.factory, several=True)
        with assert_checkpoints():
            template = await opening.__aenter__()
        assert isinstance(template, ProcessTemplate)
        with assert_no_checkpoints():
            template.refresh()
            template.statistics()
        with assert_checkpoints():
            await opening.__aexit__(None, None, None)
