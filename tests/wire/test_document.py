"""docs/wire.md agrees with the code, and recordings of version 1 are still understood."""

from __future__ import annotations

import re
from pathlib import Path

import cbor2
import pytest

from spear.testing import Cut
from spear.wire import (
    AuthAccepted,
    AuthRequest,
    BootstrapRecord,
    Challenge,
    FrameType,
    Role,
    agent_text,
    choose_version,
    host_text,
)

from .conversation import (
    AGENT_NONCE,
    HOST_NONCE,
    INSTANCE,
    PARTS,
    SECRET,
    Said,
    converse,
    derived_session,
    from_text,
    handshake,
    in_other_shapes,
    replay,
    to_text,
    with_segments,
)
from .document import DOCUMENT, RECORD, explained, parts, remade
from .helpers import BOTH_STREAMS, open_end, open_receiver, plain, receive, start

CORPUS = Path(__file__).parent / "corpus"

TEXT = DOCUMENT.read_text(encoding="utf-8")
GOLDEN_FRAME = re.compile(r"((?:^[0-9a-f]+\n)+)((?:^ +.*\n)+)", re.MULTILINE)
EVERYTHING = [*handshake(), *converse(), *in_other_shapes(), *with_segments()]


def recorded(name: str) -> list[Said]:
    return from_text((CORPUS / f"version-1-{name}.txt").read_text(encoding="utf-8"))


def test_the_document_is_up_to_date() -> None:
    assert remade(TEXT) == TEXT, "run: python -m tests.wire.document"


@pytest.mark.parametrize("name", parts())
def test_the_document_has_every_part(name: str) -> None:
    assert f"<!-- made: {name} -->\n{parts()[name]}\n<!-- end -->" in TEXT


def test_a_part_that_was_changed_by_hand_is_found() -> None:
    text = "<!-- made: diagram of the host -->\nnonsense\n<!-- end -->\n"
    assert parts()["diagram of the host"] in remade(text)
    assert remade(remade(text)) == remade(text)


def test_golden_frames_are_those_of_the_code_and_plain_cbor() -> None:
    golden = TEXT[TEXT.index("## Golden frames") :]
    shown = [
        (bytes.fromhex(found[1]), " ".join(found[2].split()))
        for found in GOLDEN_FRAME.finditer(golden)
    ]
    made = [each for said in EVERYTHING for each in said.frames]
    assert [each for each, _ in shown] == made
    for each, text in shown:
        assert int.from_bytes(each[:8], "little") == len(each) - 8
        first, *rest = cbor2.loads(each[8:])
        assert len(rest) == 5
        assert type(first) is int
        # A wrapped line lost nothing but its line break.
        assert text.replace(" ", "") == f"={explained(each)}".replace(" ", "")


def test_the_bootstrap_record_of_the_document_is_read_by_an_agent() -> None:
    """A change that makes it unreadable for this version needs a new version of the record."""
    (shown,) = re.findall(r"<!-- made: bootstrap record -->\n```text\n((?:[0-9a-f]+\n)+)", TEXT)
    data = bytes.fromhex(shown)
    assert int.from_bytes(data[:4], "little") == len(data) - 4
    assert BootstrapRecord.decode(data[4:]) == RECORD
    assert (CORPUS / "bootstrap-record-1.hex").read_text(encoding="ascii") == shown


def test_golden_frames_show_every_type() -> None:
    seen = {each[10] for said in EVERYTHING for each in said.frames}
    assert set(FrameType) <= seen


def test_golden_frames_are_read_by_a_receiver(cut: Cut) -> None:
    for said in (*handshake(), *converse()):
        for each in said.frames:
            (frame,) = receive(open_receiver(), cut(each))
            first, call_id, a, b, head, payload = cbor2.loads(each[8:])
            assert frame == (first >> 8, first & 0xFF, call_id, a, b, head, payload)


def test_r3_the_bytes_of_version_1_are_settled() -> None:
    """A change of these bytes needs a new version, with a corpus of its own beside this one."""
    assert recorded("handshake") == handshake()
    assert recorded("conversation") == converse()
    assert recorded("variants") == in_other_shapes()
    assert recorded("segments") == with_segments()


def test_r3_a_recorded_handshake_is_understood(cut: Cut) -> None:
    heads = []
    for said in recorded("handshake"):
        (frame,) = receive(open_receiver(), cut(said.frames[0]))
        heads.append(frame[5])
    challenge = Challenge.from_head_untrusted(heads[0])
    assert choose_version(challenge) == 1
    assert challenge.nonce == HOST_NONCE
    request = AuthRequest.from_head_untrusted(heads[1])
    assert (request.instance, request.nonce) == (INSTANCE, AGENT_NONCE)
    assert SECRET.verify(agent_text(1, INSTANCE, HOST_NONCE, AGENT_NONCE), request.proof)
    accepted = AuthAccepted.from_head_untrusted(heads[2])
    assert accepted is not None
    assert SECRET.verify(host_text(1, INSTANCE, HOST_NONCE, AGENT_NONCE), accepted.proof)
    assert accepted.limits == request.limits
    assert AuthAccepted.from_head_untrusted(heads[3]) is None
    assert derived_session().reveal().hex() in TEXT


@pytest.mark.parametrize("role", [Role.HOST, Role.AGENT])
def test_r3_a_recorded_conversation_is_understood(role: Role) -> None:
    replay(role, recorded("conversation"))


def test_r3_recorded_variants_are_understood(cut: Cut) -> None:
    in_parts, of_call, of_all, refused, unknown = (
        b"".join(said.frames) for said in recorded("variants")
    )
    agent = open_end(Role.AGENT)
    for piece in cut(in_parts + unknown):
        agent.feed(piece)
    assert plain(agent.take_events()) == [(7, FrameType.EXECUTION_REQUEST, 0, 1, 0, None, PARTS)]
    assert agent.connection.unknown_frames == 1
    assert agent.error is None

    host = open_end(Role.HOST)
    calls = [start(host, flags=BOTH_STREAMS) for _ in range(4)]
    host.connection.send_item(calls[2], bytes(600_000), 0)
    for piece in cut(of_call + of_all + refused):
        host.feed(piece)
    assert host.error is None
    message = {"message": "100 calls are open"}
    assert plain(host.events) == [
        (5, FrameType.CREDIT, 0, 131_072, 0, None, b""),
        (None, FrameType.CREDIT, 0, 524_288, 0, None, b""),
        (7, FrameType.ERROR, 0, 5, 100, message, b""),
    ]


def test_a_conversation_survives_being_written_down() -> None:
    assert from_text("# a remark\n" + to_text(EVERYTHING)) == EVERYTHING
