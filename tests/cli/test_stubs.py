"""``spear stubs``: the file of a typed client; ``tests/test_typed_clients.py`` runs type checkers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import spear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .helpers import Run

OUTPUT = ("--output", "till_client.pyi")

TILL = '''
print("the program prints")
import spear

app = spear.Agent()


@app.function
async def pay(amount: float) -> bool:
    """Take money."""
    return True
'''

CLIENT = '''\
"""A typed client of till, written by ``spear stubs``. Do not edit it: run the command again."""

from spear.spearlet import DeployedProgram
from spear.spearlet import typed_function

class Till(DeployedProgram):
    @typed_function
    def pay(self, amount: float, *, timeout: float | None = None) -> bool:
        """Take money."""
'''


@pytest.fixture(autouse=True)
def till(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The program till.py, which this process loads."""
    path = here / "till.py"
    path.write_text(TILL, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield path
    for name in {"till", "bare"} - before:
        sys.modules.pop(name, None)


def test_the_stub_goes_to_standard_output_and_what_the_program_prints_does_not(run: Run) -> None:
    done = run("stubs", "till.py")
    assert (done.status, done.output.decode()) == (0, CLIENT)
    assert done.errors == "the program prints\n"


def test_a_file_is_written_and_checked(run: Run, till: Path) -> None:
    file = till.with_name("till_client.pyi")
    done = run("stubs", "till.py", *OUTPUT, "--check")
    assert (done.status, file.exists()) == (1, False)
    assert "spear: till_client.pyi does not exist: write it with the same command" in done.errors
    assert run("stubs", "till.py", *OUTPUT).status == 0
    assert file.read_text() == CLIENT
    assert run("stubs", "till.py", *OUTPUT, "--check").status == 0
    till.write_text(TILL.replace("amount", "sum_"), encoding="utf-8")
    done = run("stubs", "till.py", *OUTPUT, "--check")
    assert (done.status, file.read_text()) == (1, CLIENT)
    assert "spear: till_client.pyi is out of date" in done.errors
    assert run("stubs", "till.py", *OUTPUT).status == 0
    assert "sum_: float" in file.read_text()


def test_a_program_may_be_a_module(run: Run, till: Path) -> None:
    assert run("stubs", "till").output.decode() == CLIENT


def test_an_agent_without_functions_has_an_empty_client(run: Run, here: Path) -> None:
    (here / "bare.py").write_text("import spear\none = spear.Agent('my-till')\n", encoding="utf-8")
    assert (
        run("stubs", "bare.py:one")
        .output.decode()
        .endswith("\n\nclass MyTill(DeployedProgram):\n    ...\n")
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("till.py", "--check"), "--check compares a file: name it with --output FILE.pyi"),
        (("no.py",), "no.py does not exist"),
        (("till.py", "--output", "till.pyi"), "read till.pyi instead of till.py: choose another"),
        (("till.py", "--output", "no/x.pyi"), "cannot write no/x.pyi: No such file or directory"),
        (("till.py", "--output", "."), "cannot read .: "),
        (("till.py", "--for", "curio"), "argument --for: invalid choice: 'curio'"),
    ],
)
def test_wrong_command_lines(run: Run, words: tuple[str, ...], message: str) -> None:
    done = run("stubs", *words)
    assert (done.status, done.output) == (2, b"")
    assert message in done.errors


async def test_functions_named_like_an_attribute_of_a_deployment_are_left_out(
    run: Run, here: Path
) -> None:
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(spear.Agent("bare"))
    taken = sorted(each for each in dir(deployment) if each[0] != "_")
    text = "import spear\n\napp = spear.Agent()\n"
    text += "".join(f"app.function(name={name!r})(lambda: 1)\n" for name in taken)
    (here / "bare.py").write_text(text, encoding="utf-8")
    stub = run("stubs", "bare.py").output.decode()
    assert stub.count("the client has no such attribute") == len(taken) > 15
