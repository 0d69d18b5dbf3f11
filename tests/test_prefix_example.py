"""The runtime of examples/prefix, installed as a distribution."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.serving import serving, wait_until
from installing import code_lines, install_example

from spear.runtimes import RuntimeRegistry
from spear.testing import RUNTIME_CASES, RUNTIME_PROGRAM, RuntimeUnderTest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "prefix"
PATIENCE_SECONDS = 50.0

SHOP = '''import os
import spear

app = spear.Agent()


@app.function
async def price(item: str) -> dict[str, object]:
    """Say what an item costs, and how nice this process is."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    return {"item": item, "nice": nice, "pid": os.getpid(), "colour": os.environ.get("COLOUR", "")}
'''

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package from a copy, without the network; return the directory."""
    return install_example("prefix", tmp_path_factory)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def run(place: Path, installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def spear(place: Path, installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(place, installed, "-m", "spear.cli", *words)


def test_it_is_short() -> None:
    assert code_lines(EXAMPLE / "spear_prefix.py") <= 80


def test_a_quotation_that_does_not_end_is_told(place: Path, installed: Path) -> None:
    done = spear(place, installed, "call", "nice 'n -- shop.py:price", "tea")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'spear: prefix "nice \'n": No closing quotation\n'


def test_its_targets_can_be_called_from_the_command_line(place: Path, installed: Path) -> None:
    # Used in place of python3, which is another interpreter, perhaps without Spear.
    code = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    target = f"nice -n 5 {sys.executable} -c '{code}'"
    done = spear(
        place, installed, "call", f"{target} -- shop.py:price", "tea", "--env", "COLOUR=red"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["item"], answer["nice"], answer["colour"]) == (
        "tea",
        min(os.nice(0) + 5, 19),
        "red",
    )


def configuration(most: int) -> str:
    return f"""
        [runtimes.prefix]
        max_instances = {most}

        [functions.shop]
        runtime = "prefix"
        source = "shop.py"
        prefix = ["nice", "-n", "7"]
        python = "{sys.executable}"
        environment = {{ COLOUR = "blue" }}
        replicas = 2
        """


@pytest.mark.parametrize("case", RUNTIME_CASES)
async def test_it_passes_the_suite_that_every_runtime_must_pass(
    case: str, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))

    def make() -> RuntimeUnderTest:
        runtime = RuntimeRegistry().find("prefix")
        settings = runtime.settings_class(  # a class that only the installed package has
            target=RUNTIME_PROGRAM,
            prefix=("nice", "-n", "3"),
            python=sys.executable,  # type: ignore[call-arg]  # the type checker does not know its class
        )
        return RuntimeUnderTest(runtime=runtime, settings=settings)

    await RUNTIME_CASES[case](make)


def test_a_deployment_of_a_file_can_name_it(place: Path, installed: Path) -> None:
    (place / "spear.toml").write_text(configuration(most=3))
    checked = spear(place, installed, "serve", "--check")
    assert checked.stdout == "no faults found: 1 deployment\n", checked.stderr
    shown = json.loads(spear(place, installed, "serve", "--show-config", "json").stdout)
    assert shown["runtimes"] == {"prefix": {"max_instances": 3}}
    assert shown["functions"]["shop"]["prefix"] == ["nice", "-n", "7"]
    assert shown["functions"]["shop"]["environment"] == {"COLOUR": "<hidden>"}
    assert "memory_bytes" not in shown["functions"]["shop"]


def test_a_host_serves_it_and_warns_of_what_a_reload_cannot_change(
    place: Path, installed: Path
) -> None:
    file = place / "spear.toml"
    file.write_text(configuration(most=3))
    environment = {"PYTHONPATH": str(installed)}
    with serving(place, "--config", "spear.toml", environment=environment) as host:
        with host.invoke("shop.price", "tea") as call:
            answer = json.loads(call.communicate(timeout=PATIENCE_SECONDS)[0])
        assert (answer["nice"], answer["colour"]) == (min(os.nice(0) + 7, 19), "blue")
        file.write_text(configuration(most=4))
        host.send(signal.SIGHUP)
        assert "runtimes.prefix takes effect when the host is started again" in host.hear(
            "runtimes."
        )
        instance = answer["pid"]
        host.process.kill()
        host.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not Path(f"/proc/{instance}").exists())


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ('prefx = ["nice"]', "functions.shop.prefx: there is no such key; did you mean 'prefix'?"),
        ("prefix = 17", "functions.shop.prefix: must be a list of texts, not 17"),
        ('prefix = ["nice"]\nmemory_bytes = 1', "memory_bytes: there is no such key"),
        ("", "functions.shop: needs prefix, which the runtime 'prefix' requires"),
        ('prefix = ["no-such-program"]', "functions.shop.prefix: "),
    ],
)
def test_what_is_wrong_with_its_settings_is_told_by_key(
    said: str, wrong: str, place: Path, installed: Path
) -> None:
    (place / "spear.toml").write_text(
        f'[functions.shop]\nruntime = "prefix"\nsource = "shop.py"\n{said}\n'
    )
    checked = spear(place, installed, "serve", "--check")
    assert checked.returncode == 2
    assert wrong in checked.stderr
