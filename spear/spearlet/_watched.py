"""A call that instruments watch: its record, and the metadata that the record adds to the call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final, final

import attrs

from spear._limits import shown
from spear.channels import notify_all, protected_class

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.calls import AssignmentObserver, CallAttributes, CallTally
    from spear.telemetry import CallRecord, Instruments

logger: Final = logging.getLogger("spear.spearlet")

MAX_ENTRIES: Final = 16
"""Texts of a carrier that are sent: trace context has three, baggage included."""

MAX_ENTRY_BYTES: Final = 2048
"""Bytes of one such text and its key. All of them together leave half of a head for other metadata."""


@final
@protected_class
class WatchedCall:
    """A call with a record for instruments. Notes the instance of the call, also in its execution.

    Attributes:
        record: the record that instruments receive.
        attributes: the call, with the texts that instruments put into the carrier as metadata.
    """

    __slots__ = ("_counters", "_execution", "_instruments", "attributes", "record")

    def __init__(
        self,
        record: CallRecord,
        attributes: CallAttributes,
        execution: AssignmentObserver | None,
        counters: CallTally,
        instruments: Instruments,
    ) -> None:
        self.record = record
        self.attributes = attributes
        self._execution = execution
        self._counters = counters
        self._instruments = instruments
        if record.carrier or type(record.carrier) is not dict:
            self._carry(record)

    def _carry(self, record: CallRecord) -> None:
        attributes, carrier = self.attributes, record.carrier
        if not isinstance(carrier, Mapping):
            logger.error(
                "%r: an instrument's carrier must be a dict, not %s", record, shown(carrier)
            )
            return
        texts = {name: text for name, text in carrier.items() if _is_text(name, text)}
        if len(texts) < len(carrier):
            wrong = next(each for each in carrier.items() if not _is_text(*each))
            logger.error(
                "%r: an instrument's carrier must map text to text, not %s to %s",
                record,
                *map(shown, wrong),
            )
        entries = islice(texts.items(), MAX_ENTRIES)
        carried = {name: text for name, text in entries if _can_travel(name, text)}
        if len(carried) < len(texts):
            logger.error(
                "%r: an instrument's carrier may hold %d texts of %d bytes each; ignored the rest",
                record, MAX_ENTRIES, MAX_ENTRY_BYTES,
            )  # fmt: skip
        if carried:
            metadata = {**(attributes.metadata or {}), **carried}
            self.attributes = attrs.evolve(attributes, metadata=metadata)

    @property
    def is_accepted(self) -> bool:
        """Whether the call was accepted before; see :class:`spear.calls.AssignmentObserver`."""
        return self._execution is not None and self._execution.is_accepted

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance that gets the call."""
        self.record.instance = instance
        if self._execution is not None:
            self._execution.assigned(instance)

    def ended(self, seconds: float, failure: BaseException | None) -> None:
        """Count the call, and notify the instruments of its end."""
        self._counters.ended(seconds, failure)
        record = self.record
        record.seconds, record.failure = seconds, failure
        if hooks := self._instruments.call_ended:
            notify_all(logger, hooks, record)


def _is_text(name: object, text: object) -> bool:
    return isinstance(name, str) and isinstance(text, str)


def _can_travel(name: str, text: str) -> bool:
    try:
        return len(name.encode()) + len(text.encode()) <= MAX_ENTRY_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
