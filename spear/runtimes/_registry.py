"""The runtimes of a host: runtimes passed to it, Spear's own, and runtimes of other distributions.

To find one of Spear's runtimes, the metadata of installed distributions is not read: reading it takes
milliseconds, for which every host would wait.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, final

from spear._entry_points import load_entry_point, names_of_entry_points
from spear._errors import ConfigurationError, UnsupportedRuntime
from spear._limits import expect_several
from spear._util import did_you_mean

from ._abc import Runtime
from ._body import RuntimeSettings
from ._foreign import expect_usable, settings_for
from .memory import MemoryRuntime
from .process import ProcessRuntime, ProcessSettings

logger: Final = logging.getLogger("spear.runtimes")

GROUP: Final = "spear.runtimes"
"""The entry point group of runtimes."""

_OWN: Final[dict[str, type[Runtime]]] = {
    ProcessRuntime.name: ProcessRuntime,
    MemoryRuntime.name: MemoryRuntime,
}


@final
class RuntimeRegistry:
    """A collection of the runtimes that one host can use, by name.

    Args:
        runtimes: runtimes that take precedence over Spear's own and over entry points.

    Raises:
        ConfigurationError: two of the runtimes have the same name, one has the name of a runtime of Spear
            but not its class, or one is not a runtime.
    """

    def __init__(self, runtimes: Iterable[Runtime] = ()) -> None:
        self._by_name: dict[str, Runtime] = {}
        self._left_out: set[str] = set()
        for each in expect_several("runtimes", runtimes):
            if not isinstance(each, Runtime):
                raise ConfigurationError(
                    f"each of runtimes must be a spear.runtimes.Runtime, not {each!r}"
                )
            expect_usable(each)
            own = _OWN.get(each.name)
            if own is not None and not isinstance(each, own) and not each._replaces_own:
                raise ConfigurationError(
                    f"{type(each).__name__} has the name of Spear's own runtime {each.name!r}: choose "
                    "another name"
                )
            if each.name in self._by_name:
                raise ConfigurationError(f"two runtimes have the name {each.name!r}")
            self._by_name[each.name] = each

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all known runtimes, sorted. Entry points are not loaded."""
        return tuple(sorted({*self._by_name, *_OWN, *names_of_entry_points(GROUP)}))

    def find(self, name: str) -> Runtime:
        """Return the runtime of that name. The first call for a name loads the runtime.

        Raises:
            UnsupportedRuntime: no runtime has this name, or its entry point yields a runtime that is
                unusable or has another name.
            BrokenEntryPoint: the runtime's entry point cannot be loaded.
        """
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = self._load(name)
        return found

    def _load(self, name: str) -> Runtime:
        if own := _OWN.get(name):
            return own()
        found = load_entry_point(GROUP, name, Runtime)  # type: ignore[type-abstract]  # never called
        if found is None:
            names = self._usable_names()
            hint = did_you_mean(name, names) or f"; known runtimes are {', '.join(names)}"
            raise UnsupportedRuntime(name, f"no runtime has this name{hint}")
        try:
            expect_usable(found)
        except ConfigurationError as error:
            raise UnsupportedRuntime(name, error.summary) from error
        if found.name != name:
            raise UnsupportedRuntime(name, f"its entry point names the runtime {found.name!r}")
        return found

    def resolve(self, target: object) -> tuple[Runtime, RuntimeSettings]:
        """Return the first runtime that accepts a target, and the settings with which to run it.

        The runtimes passed to the host are asked first, then Spear's, then runtimes of entry points. An
        entry point that cannot be used is skipped, with a warning in the log. A text or path that no
        runtime accepts is passed to the process runtime, whose error says what is missing.

        Raises:
            ConfigurationError: no runtime accepts the target, or the runtime that does cannot use it.
        """
        for runtime in self._candidates():
            settings = settings_for(runtime, target)
            if settings is not None:
                return runtime, settings
        if isinstance(target, str | Path) and str(target):
            runtime = self.find(ProcessRuntime.name)
            # The error of the process runtime says best what is wrong with the text.
            settings = settings_for(runtime, ProcessSettings(target=str(target)))
            if settings is not None:
                return runtime, settings
        raise ConfigurationError(
            f"{target!r} cannot be deployed: no runtime takes it ({', '.join(self._usable_names())}); "
            "pass a file, a module's name, settings of a runtime, or an Agent"
        )

    def _candidates(self) -> Iterator[Runtime]:
        """Yield the runtimes of the host, then Spear's own, then usable runtimes of entry points."""
        first = dict.fromkeys((*self._by_name, *_OWN))
        for name in first:
            yield self.find(name)
        for name in names_of_entry_points(GROUP):
            if name in _OWN:
                self._leave_out(name, "a runtime of Spear has the same name")
            elif name not in first:
                try:
                    found = self.find(name)
                except ConfigurationError as error:
                    self._leave_out(name, error.summary)
                else:
                    yield found

    def _usable_names(self) -> list[str]:
        """Return the names of all runtimes that can be used, sorted. Loads every entry point."""
        return sorted(each.name for each in self._candidates())

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            logger.warning("ignored the entry point %r (%s): %s", name, GROUP, reason)
