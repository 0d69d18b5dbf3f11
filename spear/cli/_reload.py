"""Applying a configuration to a spearlet, at the start and at each reload.

A reload touches a deployment only if its part of the configuration, or its source, has changed. Then its
instances are replaced one after the other, and no call fails. If only the number of replicas has changed,
the deployment is scaled. A change that cannot be applied leaves the deployment as it is, and is tried
again at the next reload.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import NotFound, SpearError
from spear._program_files import files_of
from spear._util import did_you_mean
from spear.config import (
    Configuration,
    Faults,
    FunctionConfiguration,
    Loaded,
    deployment_settings,
    source_file,
    target_settings,
)
from spear.spearlet import DeploymentState

if TYPE_CHECKING:
    from spear.spearlet import Deployment, Spearlet

logger: Final = logging.getLogger("spear.cli")

MAX_FILES: Final = 10_000
"""Maximum number of files of a source directory that are checked for changes."""

LOAD_SECONDS: Final = 10.0
"""Seconds for reading a configuration and all files it names: one may be a pipe, or on a lost disk."""

FileState: TypeAlias = tuple[str, int, tuple[int, int, int]]
"""A file's path; its size; and its modification time, change time and inode."""

FileStates: TypeAlias = tuple[FileState, ...]


@final
@attrs.frozen
class Part:
    """The configuration that a deployment was made from.

    Attributes:
        function: the deployment's table.
        state: state of the source's files at that time.
    """

    function: FunctionConfiguration
    state: FileStates

    @classmethod
    def of(cls, function: FunctionConfiguration) -> Part:
        """Return the part for a table, with the present state of its files."""
        return cls(function, tuple(_look_at(source_file(function))))

    def differs_only_in_replicas(self, other: Part) -> bool:
        """Return whether scaling is enough to change from this part to the other."""
        return attrs.evolve(
            self, function=attrs.evolve(self.function, replicas=other.function.replicas)
        ) == other  # fmt: skip


def _look_at(source: Path | None) -> Iterator[FileState]:
    if source is None:
        return
    if not source.is_dir():
        for file in files_of(source):
            yield from _entry(file)
        return
    count = 0
    for place, directories, names in os.walk(source):
        directories[:] = sorted(each for each in directories if each != "__pycache__")
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                return
            yield from _entry(Path(place, name))


def _entry(file: Path) -> Iterator[FileState]:
    try:
        found = file.stat()
    except OSError:  # the file was removed meanwhile
        return
    # The change time matters: a build may set all modification times alike, but not change times.
    yield str(file), found.st_size, (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@final
class Applied:
    """The deployments of a spearlet, and the configuration from which each was made.

    Attributes:
        spearlet: the spearlet with the deployments.
        parts: the part of each deployment, by name; None if a reload replaced only some of its replicas.
        unsettled: deployments that were scaled but could not start all of their instances.
    """

    def __init__(self, spearlet: Spearlet) -> None:
        self.spearlet = spearlet
        self.parts: dict[str, Part | None] = {}
        self.unsettled: set[str] = set()

    def is_applied(self, name: str, part: Part) -> bool:
        """Return whether a deployment runs as ``part`` specifies."""
        return self.parts.get(name) == part and name not in self.unsettled

    async def deploy(self, name: str, part: Part) -> None:
        """Start a new deployment. Raises the errors of :meth:`Spearlet.deploy`."""
        await self.spearlet.deploy(
            target_settings(part.function), name=name, settings=deployment_settings(part.function)
        )
        self.parts[name] = part
        self.unsettled.discard(name)

    async def change(self, deployment: Deployment, part: Part) -> str:
        """Scale or restart a deployment to match ``part``; return what was done."""
        name = deployment.name
        before = self.parts.get(name)
        settings = deployment_settings(part.function)
        if before is not None and before.differs_only_in_replicas(part):
            self.parts[name] = part  # also if a start fails: it is retried
            self.unsettled.add(name)
            await deployment.scale(settings.replicas)
            self.unsettled.discard(name)
            return "scaled"
        instances = {each.id for each in deployment.instances}
        try:
            await deployment.restart(target_settings(part.function), settings)
        except BaseException:
            if {each.id for each in deployment.instances} - instances:
                self.parts[name] = None
            raise
        self.parts[name] = part
        self.unsettled.discard(name)
        return "restarted"

    async def stop(self, deployment: Deployment) -> None:
        """Stop a deployment that is no longer configured."""
        await deployment.stop(self.spearlet.limits.shutdown_seconds)
        self.forget(deployment.name)

    def forget(self, name: str) -> None:
        """Remove the records of a deployment that no longer exists."""
        self.parts.pop(name, None)
        self.unsettled.discard(name)


@final
class Reloader:
    """The application of configurations to a spearlet: at the start, and at each reload."""

    def __init__(
        self, applied: Applied, load: Callable[[], tuple[Loaded, Faults]], loaded: Loaded
    ) -> None:
        self._applied = applied
        self._load = load
        self._loaded = loaded
        self._loading = trio.CapacityLimiter(1)  # its own: a read may hang
        self._changing = trio.Lock()  # held while deployments are started and changed

    @property
    def loaded(self) -> Loaded:
        """The configuration that was applied last."""
        return self._loaded

    async def start(self) -> None:
        """Start all deployments. If cancelled, deployments already started are left to the spearlet.

        Raises:
            SpearError: a deployment cannot be started.
        """
        failures: list[SpearError] = []
        async with trio.open_nursery() as nursery:

            async def start(name: str, function: FunctionConfiguration) -> None:
                try:
                    await self._applied.deploy(name, Part.of(function))
                except SpearError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for name, function in self._loaded.configuration.functions.items():
                nursery.start_soon(start, name, function)
        if failures:
            raise failures[0]

    async def start_again(self, name: str) -> None:
        """Start a deployment that an operator stopped, as it is configured. A running one is unchanged.

        If the deployment is still stopping, it starts again when it has stopped.

        Raises:
            NotFound: the configuration has no such deployment.
            SpearError: as :meth:`Spearlet.deploy`.
        """
        async with self._changing:
            functions = self._loaded.configuration.functions
            if name not in functions:
                hint = did_you_mean(name, functions) or f"; deployments: {', '.join(functions)}"
                raise NotFound(f"the configuration has no deployment {name[:100]!r}{hint}")
            deployment = self._applied.spearlet.deployments.get(name)
            if deployment is not None:
                if deployment.health().state is not DeploymentState.STOPPING:
                    return
                await deployment.stop()  # wait for its end
            await self._applied.deploy(name, Part.of(functions[name]))

    async def reload(self) -> None:
        """Read the configuration again, and apply the changes. Errors are logged."""
        async with self._changing:
            await self._reload()

    async def _reload(self) -> None:
        try:
            loaded, parts = await self._read()
        except SpearError as error:
            logger.error("reload failed; nothing was changed:\n%s", error)
            return
        except Exception:  # a bug of ours must not end what is running
            logger.exception("reload failed because of a bug in Spear; nothing was changed")
            return
        is_all = not _warn_of_the_rest(self._loaded.configuration, loaded.configuration)
        done: list[str] = []
        failed: list[str] = []
        async with trio.open_nursery() as nursery:
            for name, part in parts.items():
                nursery.start_soon(self._apply, name, part, done, failed)
            for name in self._applied.parts.keys() - parts.keys():
                nursery.start_soon(self._remove, name, done)
        self._loaded = attrs.evolve(
            loaded,
            configuration=attrs.evolve(
                loaded.configuration,
                spearlet=self._loaded.configuration.spearlet,
                gateway=self._loaded.configuration.gateway,
                limits=self._loaded.configuration.limits,
                runtimes=self._loaded.configuration.runtimes,
            ),
        )
        if not failed:
            nothing = "nothing has changed" if is_all else "no deployment has changed"
            logger.info("reloaded: %s", ", ".join(sorted(done)) or nothing)
        else:
            rest = ", ".join(sorted(done)) or "nothing"
            logger.error("reloaded: %s; failed (see above): %s", rest, ", ".join(sorted(failed)))

    async def _read(self) -> tuple[Loaded, dict[str, Part]]:
        """Load the configuration, and return it with the part of each deployment.

        Raises:
            SpearError: the configuration has faults, or reading takes too long.
        """

        def read() -> tuple[Loaded, dict[str, Part]]:
            loaded, faults = self._load()
            faults.raise_if_any()
            functions = loaded.configuration.functions
            return loaded, {name: Part.of(function) for name, function in functions.items()}

        # A file may be a pipe without a writer: then the thread is abandoned, and the host continues.
        with trio.move_on_after(LOAD_SECONDS):
            return await trio.to_thread.run_sync(
                read, abandon_on_cancel=True, limiter=self._loading
            )
        raise SpearError(
            f"the configuration, or a file that it names, cannot be read within {LOAD_SECONDS:g} s"
        )

    async def _apply(self, name: str, part: Part, done: list[str], failed: list[str]) -> None:
        applied = self._applied
        deployment = applied.spearlet.deployments.get(name)
        if deployment is not None and applied.is_applied(name, part):
            return
        try:
            if deployment is None:
                await applied.deploy(name, part)
                done.append(f"{name} deployed")
            else:
                done.append(f"{name} {await applied.change(deployment, part)}")
        except SpearError as error:
            left = "the deployment is unchanged" if deployment else "the deployment was not started"
            if deployment and applied.parts.get(name) is None:
                left = "only some instances were replaced"
            logger.error("reload: %s: %s [%s]; %s", name, error, error.code, left)
            failed.append(name)

    async def _remove(self, name: str, done: list[str]) -> None:
        deployment = self._applied.spearlet.deployments.get(name)
        if deployment is not None:
            await self._applied.stop(deployment)
        self._applied.forget(name)
        done.append(f"{name} stopped")


def _warn_of_the_rest(before: Configuration, after: Configuration) -> bool:
    """Warn of changed keys that need a restart of the host; return whether there are any."""
    count = 0
    for section in ("spearlet", "gateway", "limits"):
        for key in _changed(section, getattr(before, section), getattr(after, section)):
            count += 1
            logger.warning("reload: %s takes effect when the host is started again", key)
    for name in {**before.runtimes, **after.runtimes}:
        if before.runtimes.get(name) != after.runtimes.get(name):
            count += 1
            logger.warning("reload: runtimes.%s takes effect when the host is started again", name)
    return count > 0


def _changed(path: str, before: object, after: object) -> Iterator[str]:
    """Yield the keys of a table, and of the tables in it, whose values differ."""
    kind = type(before)
    if not attrs.has(kind):
        if before != after:
            yield path
        return
    for each in attrs.fields(kind):
        yield from _changed(
            f"{path}.{each.name}", getattr(before, each.name), getattr(after, each.name)
        )
