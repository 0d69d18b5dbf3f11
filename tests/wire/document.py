"""The parts of docs/wire.md that are generated from the code: diagrams, tables, golden frames.

``python -m tests.wire.document`` writes them into the document; test_document.py fails if they are out of
date. Each part is between two comments that name it.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Final

import attrs
import cbor2

from spear import WireLimits
from spear.wire import (
    FAILURE_NUMBERS,
    ITEM_OVERHEAD_BYTES,
    BootstrapRecord,
    FrameType,
    HeadValue,
    Kind,
    OfferedAddress,
    Role,
)
from spear.wire._handshake import _ANNOUNCED, _ANNOUNCED_SEGMENTS, LEAST_FRAGMENT_BYTES
from spear.wire._heads import MAX_BYTES, MAX_DEPTH, MAX_ITEMS
from spear.wire._states import (
    _TRAFFIC,
    CALL_RECEIVES,
    CALL_SENDS,
    CONNECTION_RECEIVES,
    CONNECTION_SENDS,
    CallTable,
    ConnectionTable,
)

from .conversation import (
    AGENT_NONCE,
    AGENT_TEXT,
    HOST_NONCE,
    HOST_TEXT,
    INSTANCE,
    SECRET,
    Said,
    converse,
    derived_session,
    handshake,
    in_other_shapes,
    with_segments,
)

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "wire.md"

RECORD: Final = BootstrapRecord(
    addresses=(
        OfferedAddress("unix:/run/spear/example-1.sock"),
        OfferedAddress("tls:10.0.0.1:7000", server_name="spear.example.org", ca="-----BEGIN ..."),
    ),
    secret=SECRET,
    instance_id=INSTANCE,
    limits=WireLimits(max_calls=10, heartbeat_seconds=0.5),
)

COLUMNS: Final = 96
"""Length of lines with hexadecimal digits: 48 bytes."""


# -- diagrams -------------------------------------------------------------------------------------


def diagram(sends: ConnectionTable | CallTable, receives: ConnectionTable | CallTable) -> str:
    """Return a table as a Mermaid state diagram: ! before frames sent, ? before frames received."""
    arrows: dict[tuple[str, str], list[str]] = {}
    states = list(sends.items())
    for state, moves in states:
        for mark, table in (("!", moves), ("?", dict(receives.items())[state])):
            for kind, after in table.items():
                arrows.setdefault((state.name, after.name), []).append(f"{mark}{Kind(kind).name}")
    first, last = states[0][0].name, states[-1][0].name
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for (before, after_name), labels in arrows.items():
        if set(labels) >= TRAFFIC:
            labels = ["traffic", *(label for label in labels if label not in TRAFFIC)]
        lines.append(f"    {before} --> {after_name}: {', '.join(labels)}")
    lines += [f"    {last} --> [*]", "```"]
    return "\n".join(lines)


TRAFFIC: Final = {f"{mark}{kind.name}" for mark in "!?" for kind in _TRAFFIC}


def diagrams() -> dict[str, str]:
    parts = {
        f"diagram of the {role.value}": diagram(CONNECTION_SENDS[role], CONNECTION_RECEIVES[role])
        for role in (Role.HOST, Role.AGENT)
    }
    for role in (Role.CALLER, Role.CALLEE):
        parts[f"diagram of the {role.value}"] = diagram(CALL_SENDS[role], CALL_RECEIVES[role])
    return parts


# -- tables ---------------------------------------------------------------------------------------


def table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body))


def number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def type_table() -> str:
    return table(
        ("number", "name"), *((f"`{type_:#04x}`", f"`{type_.name}`") for type_ in sorted(FrameType))
    )


def code_table() -> str:
    rows = [("a", "failure", "what it says")]
    for cls, number in FAILURE_NUMBERS.items():
        said = (cls.__doc__ or "").splitlines()[0]
        rows.append((str(number), f"`{cls.__name__}`", said))
    return table(*rows)


def announced_table() -> str:
    defaults = attrs.asdict(WireLimits())
    return table(
        ("key", "default", "meaning"),
        *(
            (f"`{name}`", number(defaults[field] * unit), MEANINGS[name])
            for name, (field, unit) in _ANNOUNCED.items()
        ),
    )


def announced_segments_table() -> str:
    defaults = attrs.asdict(WireLimits())
    return table(
        ("key", "default", "meaning"),
        *(
            (f"`{name}`", number(defaults[field] * unit), MEANINGS[name])
            for name, (field, unit) in _ANNOUNCED_SEGMENTS.items()
        ),
    )


MEANINGS: Final = {
    "fragment": f"payload of one frame, in bytes; at least {number(LEAST_FRAGMENT_BYTES)}",
    "message": "one payload, all its parts together, in bytes",
    "assembly": "payloads in parts that have begun and not ended, in bytes",
    "calls": "calls that the other end may have open",
    "stream": "window of each stream, in bytes",
    "connection": "window of the whole connection, in bytes",
    "segment": "one payload in a segment, in bytes",
    "segments": "segments that this end holds at a time; their numbers are below that",
    "mapped": "files of all segments that this end holds, together, in bytes",
    "heartbeat": "how often it would like to hear something, in milliseconds",
}


def record_limits_table() -> str:
    return table(
        ("key", "default"),
        *((f"`{name}`", number(value)) for name, value in attrs.asdict(WireLimits()).items()),
    )


def golden_record() -> str:
    encoded = RECORD.encode()
    length = len(encoded).to_bytes(4, "little")
    explained = textwrap.wrap(
        diagnostic(cbor2.loads(encoded)), COLUMNS, initial_indent="  = ", subsequent_indent="    "
    )
    return "\n".join(["```text", *hexadecimal(length + encoded), *explained, "```"])


def fixed_table() -> str:
    limits = WireLimits()

    def rate(per_second: float, burst: int) -> str:
        return f"{number(per_second)} a second, {number(burst)} at once"

    held = f"{number(limits.request_bytes_in_flight)} bytes"
    return table(
        ("what", "limit"),
        ("body of a frame in the handshake", f"{number(limits.handshake_frame_bytes)} bytes"),
        ("the handshake", f"{number(limits.handshake_seconds)} s"),
        ("head", f"{number(MAX_BYTES)} bytes, {MAX_DEPTH} levels, {number(MAX_ITEMS)} items"),
        ("message of an error", f"{number(limits.error_message_bytes)} bytes"),
        ("credit that an item costs beside its bytes", f"{ITEM_OVERHEAD_BYTES}"),
        ("arguments of open calls, and answers not yet read, together", held),
        ("cancels", rate(limits.cancels_per_second, limits.cancel_burst)),
        ("counted frames", rate(limits.control_frames_per_second, limits.control_frame_burst)),
        ("strikes", str(limits.max_strikes)),
    )


# -- golden frames --------------------------------------------------------------------------------


def hexadecimal(data: bytes) -> list[str]:
    return textwrap.wrap(data.hex(), COLUMNS)


def diagnostic(value: HeadValue) -> str:
    """Return a value in CBOR's diagnostic notation (RFC 8949, section 8)."""
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    if isinstance(value, list):
        return f"[{', '.join(map(diagnostic, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {diagnostic(item)}' for key, item in value.items()) + "}"
    return json.dumps(value)


def explained(frame: bytes) -> str:
    """Return a frame's body as a generic CBOR decoder sees it, its first item in hexadecimal."""
    first, *rest = cbor2.loads(frame[8:])
    return f"[0x{first:04x}, {', '.join(map(diagnostic, rest))}]"


def golden(conversation: list[Said]) -> str:
    lines: list[str] = []
    for said in conversation:
        lines += [f"The {said.who} {said.what}:", "", "```text"]
        for frame in said.frames:
            lines += hexadecimal(frame)
            lines += textwrap.wrap(
                explained(frame), COLUMNS, initial_indent="  = ", subsequent_indent="    "
            )
        lines += ["```", ""]
    return "\n".join(lines).rstrip()


def proofs() -> str:
    shown = [
        ("secret", SECRET.reveal()),
        ("host nonce", HOST_NONCE),
        ("agent nonce", AGENT_NONCE),
        ("what the agent signs", AGENT_TEXT),
        ("its proof", SECRET.prove(AGENT_TEXT)),
        ("what the host signs", HOST_TEXT),
        ("its proof", SECRET.prove(HOST_TEXT)),
        ("session key", derived_session().reveal()),
    ]
    lines = [f"instance: {INSTANCE.runtime}, {INSTANCE.name}, incarnation {INSTANCE.incarnation}"]
    for name, data in shown:
        lines += [f"{name}:", *(f"  {line}" for line in hexadecimal(data))]
    return "\n".join(["```text", *lines, "```"])


# -- the document ---------------------------------------------------------------------------------


def parts() -> dict[str, str]:
    """Return all generated parts, by name."""
    return {
        **diagrams(),
        "frame types": type_table(),
        "failures": code_table(),
        "announced limits": announced_table(),
        "fixed limits": fixed_table(),
        "proofs": proofs(),
        "bootstrap limits": record_limits_table(),
        "bootstrap record": golden_record(),
        "golden handshake": golden(handshake()),
        "golden conversation": golden(converse()),
        "golden variants": golden(in_other_shapes()),
        "golden segments": golden(with_segments()),
        "announced segments": announced_segments_table(),
    }


PART: Final = re.compile(r"<!-- made: ([\w ]+) -->\n.*?<!-- end -->", re.DOTALL)


def remade(text: str) -> str:
    """Return the document with all its parts up to date."""
    made = parts()

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- made: {name} -->\n{made[name]}\n<!-- end -->"

    return PART.sub(fill, text)


if __name__ == "__main__":  # pragma: no cover
    DOCUMENT.write_text(remade(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
