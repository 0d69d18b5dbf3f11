"""The transport of examples/seqpacket, installed as a distribution."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli.serving import serving
from installing import code_lines, install_example

from spear import ProcessSettings, open_spearlet
from spear.channels import CommunicationStrategy
from spear.testing import TransportSubject, check_channel, check_transport
from spear.transports import TransportRegistry, make_private_directory

if TYPE_CHECKING:
    from spear.transports import Transport

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "seqpacket"
PATIENCE_SECONDS = 50.0

SHOP = """
import spear

app = spear.Agent()


@app.function
async def price(item: str) -> int:
    return len(item)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package from a copy, without the network; return the directory."""
    return install_example("seqpacket", tmp_path_factory)


@pytest.fixture
def transport(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Transport:
    monkeypatch.syspath_prepend(str(installed))
    return TransportRegistry().find("seqpacket")


def test_it_is_short() -> None:
    assert code_lines(EXAMPLE / "spear_seqpacket.py") <= 95


@pytest.mark.slow
def test_it_is_found_by_its_entry_point(transport: Transport) -> None:
    assert type(transport).__name__ == "SeqpacketTransport"
    (found,) = entry_points(group="spear.transports", name="seqpacket")
    assert found.dist is not None
    assert found.dist.name == "spear-seqpacket"
    assert str(TransportRegistry().parse("seqpacket:/run/x")) == "seqpacket:/run/x"


@pytest.mark.slow
async def test_it_passes_the_suite_of_transports(transport: Transport) -> None:
    await check_transport(transport)  # raises nothing


@pytest.mark.slow
async def test_channels_over_it_pass_their_suite(transport: Transport) -> None:
    with make_private_directory() as directory:
        subject = TransportSubject(transport, lambda: directory)
        await check_channel(subject.open_channels)  # raises nothing


@pytest.mark.slow
async def test_instances_are_reached_over_it(
    transport: Transport, installed: Path, tmp_path: Path
) -> None:
    program = tmp_path / "shop.py"
    program.write_text(SHOP)
    settings = ProcessSettings(target=str(program), python_path=(str(installed),))
    strategies = {"process": CommunicationStrategy(("seqpacket",))}
    async with open_spearlet(strategies=strategies) as spearlet:
        deployment = await spearlet.deploy(settings, replicas=2)
        assert await deployment.price("tea") == 3
        endpoints = spearlet._factory.manager.endpoints
        assert [str(each.address).partition(":")[0] for each in endpoints] == ["seqpacket"] * 2


# -- a host that uses the transport ---------------------------------------------------------------

FUNCTIONS = """
[functions.shop]
source = "shop.py"
pass_environment = ["PYTHONPATH"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "flag", "variable"])
def test_a_host_is_told_by_file_flag_or_variable(installed: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    told = {"file": '\n[runtimes.process]\ntransports = ["seqpacket"]\n', "flag": ""}
    (tmp_path / "spear.toml").write_text(FUNCTIONS + told.get(way, "\n[runtimes.process]\n"))
    flags = ["--set", 'runtimes.process.transports=["seqpacket"]'] if way == "flag" else []
    environment = {"PYTHONPATH": str(installed)}
    if way == "variable":
        environment["SPEAR_RUNTIMES_PROCESS_TRANSPORTS"] = "seqpacket"
    with serving(tmp_path, "--config", "spear.toml", *flags, environment=environment) as host:
        assert [each.suffix for each in tmp_path.rglob("shop-*.*")] == [".packets"]
        with host.invoke("shop.price", "tea") as call:
            assert call.communicate(timeout=PATIENCE_SECONDS)[0].strip() == b"3"
