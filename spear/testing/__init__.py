"""Tools for the tests of Spear and of programs that use Spear.

Wire protocol: :class:`ConnectionPair` is the two ends of a connection. They exchange real bytes without
any I/O, so that a test can try every order of events and every way of cutting the bytes.

Transports: :func:`check_transport` checks a transport, :func:`check_streams` a byte stream alone. The
cases are Trio's stream suite and the further properties that Spear relies on.

Channels: a channel over a new transport must pass :func:`check_channel`. :class:`RawPeer` is a peer that
a test can make do anything, and :class:`Functions` a service made of handlers. :func:`cancel_sweep` and
:func:`interrupt_sweep` test blocking operations. :class:`TrioStateMachine` tests long-lived objects; it
needs Hypothesis.

Runtimes: a runtime must pass :func:`check_runtime`.

Programs of several instances: :func:`simulate` runs a spearlet, its instances and an unreliable network
in one Trio run. A seed makes the run repeatable.
"""

from __future__ import annotations

from spear._lazy import lazily

TYPE_CHECKING = False

if TYPE_CHECKING:
    from ._batches import check_channel_with_bad_batches as check_channel_with_bad_batches
    from ._calling import DirectCall as DirectCall
    from ._calling import NestedCall as NestedCall
    from ._calling import StandIn as StandIn
    from ._calling import calling as calling
    from ._cancel_sweep import Resources as Resources
    from ._cancel_sweep import Sweep as Sweep
    from ._cancel_sweep import cancel_sweep as cancel_sweep
    from ._channels import CHANNEL_CASES as CHANNEL_CASES
    from ._channels import check_channel as check_channel
    from ._conformance import OpenPair as OpenPair
    from ._deploy_fixture import BlockingSpearDeploy as BlockingSpearDeploy
    from ._deploy_fixture import SpearDeploy as SpearDeploy
    from ._faulty import CallNumbers as CallNumbers
    from ._faulty import Faulty as Faulty
    from ._faulty import FaultyCalls as FaultyCalls
    from ._faulty import InjectedFault as InjectedFault
    from ._interrupt_sweep import InterruptSweep as InterruptSweep
    from ._interrupt_sweep import interrupt_sweep as interrupt_sweep
    from ._misbehaviour import PEER_CASES as PEER_CASES
    from ._misbehaviour import OpenRaw as OpenRaw
    from ._misbehaviour import check_channel_with_bad_peers as check_channel_with_bad_peers
    from ._raw import RawPeer as RawPeer
    from ._runtimes import RUNTIME_CASES as RUNTIME_CASES
    from ._runtimes import RUNTIME_PROGRAM as RUNTIME_PROGRAM
    from ._runtimes import MakeRuntime as MakeRuntime
    from ._runtimes import RuntimeUnderTest as RuntimeUnderTest
    from ._runtimes import check_runtime as check_runtime
    from ._services import CallHandler as CallHandler
    from ._services import Functions as Functions
    from ._simulated_runtime import SimulatedSettings as SimulatedSettings
    from ._simulation import SimulatedEvent as SimulatedEvent
    from ._simulation import SimulatedProgram as SimulatedProgram
    from ._simulation import Simulation as Simulation
    from ._simulation import SimulationReport as SimulationReport
    from ._simulation import simulate as simulate
    from ._stateful import TrioStateMachine as TrioStateMachine
    from ._stateful import in_trio as in_trio
    from ._streams import STREAM_CASES as STREAM_CASES
    from ._streams import OpenStreams as OpenStreams
    from ._streams import check_streams as check_streams
    from ._transports import TRANSPORT_CASES as TRANSPORT_CASES
    from ._transports import TransportSubject as TransportSubject
    from ._transports import check_transport as check_transport
    from ._wire import ConnectionPair as ConnectionPair
    from ._wire import Cut as Cut
    from ._wire import WireEnd as WireEnd
    from ._wire import byte_cuts as byte_cuts
    from ._wire import random_cuts as random_cuts
    from ._wire import uncut as uncut

_HOMES = {
    "BlockingSpearDeploy": "._deploy_fixture",
    "CHANNEL_CASES": "._channels",
    "CallHandler": "._services",
    "CallNumbers": "._faulty",
    "ConnectionPair": "._wire",
    "Cut": "._wire",
    "DirectCall": "._calling",
    "InjectedFault": "._faulty",
    "Faulty": "._faulty",
    "FaultyCalls": "._faulty",
    "Functions": "._services",
    "InterruptSweep": "._interrupt_sweep",
    "MakeRuntime": "._runtimes",
    "NestedCall": "._calling",
    "OpenPair": "._conformance",
    "OpenRaw": "._misbehaviour",
    "OpenStreams": "._streams",
    "PEER_CASES": "._misbehaviour",
    "RUNTIME_CASES": "._runtimes",
    "RUNTIME_PROGRAM": "._runtimes",
    "RawPeer": "._raw",
    "Resources": "._cancel_sweep",
    "RuntimeUnderTest": "._runtimes",
    "STREAM_CASES": "._streams",
    "SimulatedEvent": "._simulation",
    "SimulatedProgram": "._simulation",
    "SimulatedSettings": "._simulated_runtime",
    "Simulation": "._simulation",
    "SimulationReport": "._simulation",
    "SpearDeploy": "._deploy_fixture",
    "StandIn": "._calling",
    "Sweep": "._cancel_sweep",
    "TRANSPORT_CASES": "._transports",
    "TransportSubject": "._transports",
    "TrioStateMachine": "._stateful",
    "WireEnd": "._wire",
    "byte_cuts": "._wire",
    "calling": "._calling",
    "cancel_sweep": "._cancel_sweep",
    "check_channel": "._channels",
    "check_channel_with_bad_batches": "._batches",
    "check_channel_with_bad_peers": "._misbehaviour",
    "check_runtime": "._runtimes",
    "check_streams": "._streams",
    "check_transport": "._transports",
    "in_trio": "._stateful",
    "interrupt_sweep": "._interrupt_sweep",
    "random_cuts": "._wire",
    "simulate": "._simulation",
    "uncut": "._wire",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
