"""Finding transports: a host's own, Spear's, and those of other distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from spear import BrokenEntryPoint, ConfigurationError, UnsupportedTransport
from spear.transports import (
    Address,
    ConnectOptions,
    Listener,
    ListenOptions,
    MemoryAddress,
    MemoryTransport,
    Opening,
    TcpTransport,
    Transport,
    TransportRegistry,
    UnixTransport,
    parse_address,
)

if TYPE_CHECKING:
    from pathlib import Path


class Pigeon(Transport):
    """A transport that cannot connect."""

    name = "secure"

    def parse(self, address: str) -> Address:
        raise NotImplementedError

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        raise NotImplementedError

    def connect(self, address: Address, options: ConnectOptions) -> Opening[trio.abc.Stream]:
        raise NotImplementedError


PIGEONS = """
from spear.transports import MemoryAddress, Transport

class Pigeon(Transport):
    name = "pigeon"

    def parse(self, address):
        return MemoryAddress(address.partition(":")[2])

    def listen(self, options):
        raise NotImplementedError

    def connect(self, address, options):
        raise NotImplementedError

made = Pigeon()

class Unnamed(Pigeon):
    name = "a b"

class Hollow(Transport):
    name = "hollow"

nothing = None
text = str

def leave():
    raise SystemExit(3)
"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a distribution ``spear-pigeons`` as an installer does, with good and bad entry points."""
    (tmp_path / "spear_pigeons.py").write_text(PIGEONS)
    info = tmp_path / "spear_pigeons-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spear-pigeons\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[spear.transports]\n"
        "pigeon = spear_pigeons:Pigeon\n"
        "unnamed = spear_pigeons:Unnamed\n"
        "tame = spear_pigeons:made\n"
        "hollow = spear_pigeons:Hollow\n"
        "text = spear_pigeons:text\n"
        "nothing = spear_pigeons:nothing\n"
        "away = spear_pigeons:Away\n"
        "absent = spear_no_pigeons:Pigeon\n"
        "leaves = spear_pigeons:leave\n"
        "unix = spear_pigeons:Pigeon\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_transports_of_spear_are_found_by_name_and_by_scheme() -> None:
    registry = TransportRegistry()
    for name, kind in ("unix", UnixTransport), ("tcp", TcpTransport), ("memory", MemoryTransport):
        assert isinstance(registry.find(name), kind)
        assert registry.find(name) is registry.find(name)
        assert registry.find(name).name == name
    assert registry.parse("tls:127.0.0.1:1") == parse_address("tls:127.0.0.1:1")
    with pytest.raises(UnsupportedTransport, match=r"known transports are .*memory, .*tcp, .*unix"):
        registry.find("tls")  # a scheme of tcp


def test_a_transport_that_was_given_goes_first(distribution: None) -> None:
    tcp, unix = TcpTransport(host="::1"), UnixTransport()
    registry = TransportRegistry((tcp, unix))
    assert registry.find("tcp") is tcp
    assert registry.find("unix") is unix


def test_a_registry_takes_nothing_but_different_transports() -> None:
    with pytest.raises(ConfigurationError, match="two transports have the name or scheme 'unix'"):
        TransportRegistry((UnixTransport(), UnixTransport()))
    with pytest.raises(ConfigurationError, match="is not a spear"):
        TransportRegistry((UnixTransport,))  # type: ignore[arg-type]  # the mistake

    class Secure(Pigeon):
        schemes = ("tls",)

    with pytest.raises(ConfigurationError, match="two transports have the name or scheme 'tls'"):
        TransportRegistry((TcpTransport(), Secure()))


@pytest.mark.parametrize("name", ["", "a b", "a:b", None, 3, "x" * 300], ids=repr)
def test_a_name_that_no_transport_can_have_is_refused(name: object) -> None:
    class Loft(Pigeon):
        pass

    Loft.name = name  # type: ignore[assignment]  # the mistake
    with pytest.raises(ConfigurationError, match=r"Loft.name must be 1 to 32 letters, digits"):
        TransportRegistry((Loft(),))


@pytest.mark.parametrize("schemes", [3, "secure", ("a b",), ("",), (3,), None], ids=repr)
def test_schemes_that_no_transport_can_have_are_refused(schemes: object) -> None:
    class Loft(Pigeon):
        pass

    Loft.schemes = schemes  # type: ignore[assignment]  # the mistake
    with pytest.raises(ConfigurationError, match=r"Loft.schemes must be a tuple of names"):
        TransportRegistry((Loft(),))


def test_a_transport_without_a_name_is_refused() -> None:
    class Anonymous(Transport):
        parse, listen, connect = Pigeon.parse, Pigeon.listen, Pigeon.connect

    with pytest.raises(ConfigurationError, match=r"Anonymous.name must be .*, not None"):
        TransportRegistry((Anonymous(),))


def test_a_transport_that_reaches_nowhere_is_refused() -> None:
    class Loft(Pigeon):
        farthest = "network"  # type: ignore[assignment]  # the mistake

    with pytest.raises(ConfigurationError, match=r"Loft.farthest must be a Reach, not 'network'"):
        TransportRegistry((Loft(),))


def test_an_installed_transport_is_asked_for_its_name_as_others_are(distribution: None) -> None:
    with pytest.raises(ConfigurationError, match=r"Unnamed.name must be .*, not 'a b'"):
        TransportRegistry().find("unnamed")


def test_an_installed_distribution_can_bring_a_transport(distribution: None) -> None:
    """Its entry point names a class or an object; its addresses are found by their scheme."""
    registry = TransportRegistry()
    pigeon = registry.find("pigeon")
    assert isinstance(pigeon, Transport)
    assert type(pigeon).__name__ == "Pigeon"
    assert registry.find("pigeon") is pigeon
    assert registry.find("tame").name == "pigeon"
    assert registry.parse("pigeon:loft") == MemoryAddress("loft")
    assert isinstance(registry.find("unix"), UnixTransport)  # Spear's own has precedence


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("hollow", "spear_pigeons:Hollow cannot be loaded: TypeError: Can't instantiate abstract"),
        ("text", "spear_pigeons:text must be an instance of Transport, not of str"),
        ("nothing", "spear_pigeons:nothing must be an instance of Transport, not of NoneType"),
        ("away", "spear_pigeons:Away cannot be loaded: AttributeError: .*Away"),
        ("leaves", "spear_pigeons:leave cannot be loaded: SystemExit: 3"),
        ("absent", "spear_no_pigeons:Pigeon cannot be loaded: ModuleNotFoundError: .*no_pigeons"),
    ],
)
def test_an_entry_point_that_cannot_be_used_names_its_distribution(
    distribution: None, name: str, complaint: str
) -> None:
    with pytest.raises(
        BrokenEntryPoint, match=f"of spear-pigeons cannot be used: {complaint}"
    ) as it:
        TransportRegistry().find(name)
    assert (it.value.group, it.value.name) == ("spear.transports", name)
    assert it.value.distribution == "spear-pigeons"
    with pytest.raises(BrokenEntryPoint):
        parse_address(f"{name}:x")


def test_unknown_names_are_told_the_usable_ones(distribution: None) -> None:
    known = "memory, pigeon, tame, tcp, unix"
    # Other installed distributions may be listed between them.
    among = known.replace(", ", ", .*")
    with pytest.raises(UnsupportedTransport, match=f"known transports are .*{among}") as caught:
        TransportRegistry().find("dove")
    assert caught.value.transport == "dove"
    assert "absent" not in str(caught.value)
    assert "unnamed" not in str(caught.value)


@pytest.mark.parametrize("name", ["grpc", "websocket"])
def test_names_of_later_releases_are_known(name: str) -> None:
    with pytest.raises(UnsupportedTransport, match=rf"a later one will provide spearlet\[{name}\]"):
        TransportRegistry().find(name)
    with pytest.raises(UnsupportedTransport, match="not part of this release"):
        parse_address(f"{name}:example.org:443")
