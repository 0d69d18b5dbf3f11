"""A directory for configuration files, and the results of reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import attrs
import pytest

from spear.config import (
    Configuration,
    Faults,
    Flags,
    FunctionConfiguration,
    check_configuration,
    load_configuration,
)


@attrs.frozen
class Outcome:
    """A configuration, and its faults."""

    configuration: Configuration
    faults: Faults

    @property
    def lines(self) -> list[str]:
        return list(self.faults.lines)

    @property
    def shop(self) -> FunctionConfiguration:
        return self.configuration.functions["shop"]


class Read(Protocol):
    """A function that writes a file, if given, reads the configuration, and checks it on request."""

    def __call__(
        self,
        text: str | None = None,
        /,
        *,
        environment: dict[str, str] | None = None,
        flags: Flags | None = None,
        check: bool = False,
    ) -> Outcome: ...


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)

    def read(
        text: str | None = None,
        /,
        *,
        environment: dict[str, str] | None = None,
        flags: Flags | None = None,
        check: bool = False,
    ) -> Outcome:
        if text is not None:
            (tmp_path / "spear.toml").write_text(text)
        file = None if text is None else "spear.toml"
        loaded, faults = load_configuration(file, environment or {}, flags or Flags())
        if check:
            check_configuration(loaded.configuration, faults)
        return Outcome(loaded.configuration, faults)

    return read
