"""R7: every transport passes the public suite, and the suite detects faulty ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spear.testing import TRANSPORT_CASES, TransportSubject

if TYPE_CHECKING:
    from .helpers import Carrier


@pytest.mark.parametrize("case", TRANSPORT_CASES)
async def test_r7_every_transport_passes_the_suite(
    transport: Carrier, case: str, private_directory: str
) -> None:
    subject = TransportSubject(transport.transport, lambda: private_directory, transport.tls_client)
    await TRANSPORT_CASES[case](subject)  # raises nothing
