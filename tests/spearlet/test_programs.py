"""Programs of beginners: mistakes, and the error messages for them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import spear
from spear._targets import GUARD, loading

from .helpers import PATIENCE_SECONDS, deployed, write

if TYPE_CHECKING:
    from pathlib import Path

OWN_FILE = """
import os
import spear, trio

with open("loads", "a") as file:
    file.write(f"{os.getpid()}\\n")

app = spear.Agent()

@app.function
async def answer() -> int:
    return 42

async def main() -> None:
    async with spear.open_spearlet() as spearlet:
        own = await spearlet.deploy(__file__)
        print(await own.answer())

"""


def run(place: Path, name: str, code: str) -> subprocess.CompletedProcess[str]:
    path = write(place, name, code)
    return subprocess.run(
        [sys.executable, str(path)],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def loads_of(place: Path) -> int:
    return len((place / "loads").read_text().splitlines())


@pytest.mark.slow
def test_a_program_may_deploy_its_own_file(tmp_path: Path) -> None:
    code = OWN_FILE.replace('"loads"', repr(str(tmp_path / "loads")))
    done = run(tmp_path, "own.py", code + "if __name__ == '__main__':\n    trio.run(main)\n")
    assert (done.returncode, done.stdout, loads_of(tmp_path)) == (0, "42\n", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "loads"),
    [
        ("trio.run(main)\n", 2),
        # A program that catches every exception must not loop forever, either.
        ("try:\n    trio.run(main)\nexcept BaseException:\n    trio.run(main)\n", 3),
    ],
)
def test_without_its_guard_it_does_not_start_itself_for_ever(
    tmp_path: Path, end: str, loads: int
) -> None:
    code = OWN_FILE.replace('"loads"', repr(str(tmp_path / "loads")))
    done = run(tmp_path, "own.py", code + end)
    assert done.returncode == 1
    assert loads_of(tmp_path) == loads
    last = done.stderr.splitlines()[-1]
    line = code.count("\n") + end.count("\n")
    assert last.startswith(
        f"spear: own.py, line {line}: ConfigurationError: own.py opens or uses a spearlet"
    )
    assert last.endswith(GUARD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("app.run()", "ConfigurationError: run() was called while bad.py was being loaded: "),
        (
            "import sys\nsys.exit(0)",
            "SystemExit: 0: the program exited while it was being loaded: ",
        ),
    ],
)
async def test_a_file_that_runs_its_program_when_it_is_loaded(
    tmp_path: Path, end: str, said: str
) -> None:
    path = write(tmp_path, "bad.py", f"import spear\napp = spear.Agent()\n{end}\n")
    with pytest.raises(spear.SpawnFailed) as raised:
        async with deployed(path):
            raise AssertionError
    line = path.read_text().count("\n")
    assert str(raised.value).endswith(f"spear: bad.py, line {line}: {said}{GUARD}")


async def test_a_spearlet_that_is_open_already_deploys_nothing_either() -> None:
    async with spear.open_spearlet() as spearlet:
        with loading("some/shop.py"), pytest.raises(spear.ConfigurationError) as raised:
            await spearlet.deploy(spear.Agent())
        assert str(raised.value) == (
            f"shop.py opens or uses a spearlet while its functions are being loaded: {GUARD}"
        )
        await spearlet.deploy(spear.Agent())  # afterwards it is allowed


def test_asyncio_is_told_from_trio() -> None:
    async def main() -> None:
        async with spear.open_spearlet():
            pass

    with pytest.raises(spear.ConfigurationError, match=r"trio\.run\(main\), not asyncio\.run"):
        asyncio.run(main())
