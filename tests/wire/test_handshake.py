"""Logging in: the messages, the proofs, and the effects of a stranger's bytes."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from spear import (
    AuthenticationFailed,
    InstanceId,
    LocalProtocolError,
    RemoteProtocolError,
    WireLimits,
)
from spear._ids import Secret
from spear._limits import KIB
from spear.testing import ConnectionPair, Cut
from spear.wire import (
    NONCE_BYTES,
    REFUSAL,
    VERSION,
    AuthAccepted,
    AuthRequest,
    Challenge,
    ConnectionState,
    FrameType,
    Head,
    HeadValue,
    Kind,
    agent_text,
    choose_version,
    derive_session,
    encode_head,
    host_text,
)
from spear.wire._handshake import LEAST_FRAGMENT_BYTES, announce_limits, learn_limits_untrusted

from .helpers import SMALL, request
from .test_heads import HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INSTANCE = InstanceId("process", "shop", 3)
NONCE, OTHER_NONCE = b"n" * NONCE_BYTES, b"m" * NONCE_BYTES
SECRET = Secret(b"s" * 32)

CHALLENGE = Challenge(NONCE, features=("a", "b"))
REQUEST = AuthRequest(
    VERSION, INSTANCE, NONCE, b"proof", resumes=True, limits=SMALL, client="test", features=("c",)
)
ACCEPTED = AuthAccepted(b"proof", limits=SMALL, features=("d",))

MESSAGES: list[tuple[Challenge | AuthRequest | AuthAccepted, Callable[[Head | None], object]]] = [
    (CHALLENGE, Challenge.from_head_untrusted),
    (REQUEST, AuthRequest.from_head_untrusted),
    (ACCEPTED, AuthAccepted.from_head_untrusted),
]


def announced(limits: WireLimits) -> WireLimits:
    """Return the limits that a peer learns from these."""
    return attrs.evolve(
        WireLimits(),
        fragment_bytes=limits.fragment_bytes,
        max_message_bytes=limits.max_message_bytes,
        assembly_bytes=limits.assembly_bytes,
        max_calls=limits.max_calls,
        stream_window_bytes=limits.stream_window_bytes,
        connection_window_bytes=limits.connection_window_bytes,
    )


class TestMessages:
    """The contents of the three heads."""

    @pytest.mark.parametrize(("message", "parse"), MESSAGES)
    def test_they_come_back_as_they_went(
        self, message: Challenge | AuthRequest | AuthAccepted, parse: Callable[[Head], object]
    ) -> None:
        expected = message
        if not isinstance(expected, Challenge):
            expected = attrs.evolve(expected, limits=announced(SMALL))
        assert parse(message.to_head()) == expected

    @pytest.mark.parametrize(("message", "parse"), MESSAGES)
    def test_r3_fields_of_the_future_are_ignored(
        self, message: Challenge | AuthRequest | AuthAccepted, parse: Callable[[Head], object]
    ) -> None:
        head = message.to_head()
        more: Head = {**head, "novelty": [1, None], "zzz": b"\0"}
        assert parse(more) == parse(head)

    @pytest.mark.parametrize(("message", "parse"), MESSAGES)
    def test_they_fit_into_the_frame_of_a_stranger(
        self, message: Challenge | AuthRequest | AuthAccepted, parse: object
    ) -> None:
        if isinstance(message, AuthRequest):
            longest = InstanceId("kubernetes", "x" * 63, 2**64 - 1)
            message = attrs.evolve(message, instance=longest, proof=b"p" * 32, client="c" * 256)
        assert len(encode_head(message.to_head())) < WireLimits().handshake_frame_bytes // 2

    @pytest.mark.parametrize("parse", [parse for _, parse in MESSAGES])
    @pytest.mark.parametrize("head", [None, {}])
    def test_an_empty_head_is_refused(
        self, parse: Callable[[Head | None], object], head: Head | None
    ) -> None:
        with pytest.raises(RemoteProtocolError):
            parse(head)

    @pytest.mark.parametrize(
        "versions",
        [
            None,
            1,
            [],
            [1],
            [1, 2, 3],
            [0, 1],
            [2, 1],
            [-1, 1],
            ["1", "2"],
            [1.0, 2.0],
            [True, True],
        ],
    )
    def test_a_challenge_names_a_range_of_versions(self, versions: HeadValue) -> None:
        with pytest.raises(RemoteProtocolError, match="range of versions"):
            Challenge.from_head_untrusted({"versions": versions, "nonce": NONCE})

    @pytest.mark.parametrize("nonce", [None, b"", b"x" * 31, b"x" * 33, "x" * 32, [1] * 32])
    @pytest.mark.parametrize("message", [CHALLENGE, REQUEST])
    def test_a_nonce_is_32_bytes(self, nonce: HeadValue, message: Challenge | AuthRequest) -> None:
        head = {**message.to_head(), "nonce": nonce}
        with pytest.raises(RemoteProtocolError, match="a nonce must have 32 bytes"):
            type(message).from_head_untrusted(head)

    @pytest.mark.parametrize("features", [None, "a", {"a": 1}, [1], ["a", None]])
    @pytest.mark.parametrize(("message", "parse"), MESSAGES)
    def test_features_are_names(
        self,
        features: HeadValue,
        message: Challenge | AuthRequest | AuthAccepted,
        parse: Callable[[Head], object],
    ) -> None:
        with pytest.raises(RemoteProtocolError, match="features must be a list of names"):
            parse({**message.to_head(), "features": features})

    @pytest.mark.parametrize(
        "change",
        [
            {"version": None}, {"version": "1"}, {"version": True}, {"version": 0}, {"version": -1},
            {"version": 2**32}, {"version": 2**64 - 1}, {"proof": None}, {"proof": "text"},
            {"runtime": None}, {"runtime": 1}, {"instance": None},
            {"instance": 1}, {"incarnation": None}, {"incarnation": 1.0}, {"incarnation": True},
            {"client": 1}, {"client": None},
        ],
    )  # fmt: skip
    def test_a_request_lacks_nothing(self, change: Mapping[str, HeadValue]) -> None:
        with pytest.raises(RemoteProtocolError, match="has a missing or invalid field"):
            AuthRequest.from_head_untrusted({**REQUEST.to_head(), **change})

    @pytest.mark.parametrize(
        "change",
        [
            {"instance": ""}, {"instance": "../x"}, {"instance": "x" * 64}, {"incarnation": 0},
            {"incarnation": -1}, {"runtime": ""}, {"runtime": "Docker"}, {"runtime": "x" * 33},
            {"runtime": "a:b"},
        ],
    )  # fmt: skip
    def test_an_instance_id_must_be_possible(self, change: Mapping[str, HeadValue]) -> None:
        with pytest.raises(RemoteProtocolError, match="has an invalid instance id"):
            AuthRequest.from_head_untrusted({**REQUEST.to_head(), **change})

    def test_every_request_that_parses_can_be_checked(self) -> None:
        # A version beyond 32 bits once ended in an OverflowError when the host signed it.
        head = {**REQUEST.to_head(), "version": 2**32 - 1, "incarnation": 2**64 - 1}
        parsed = AuthRequest.from_head_untrusted(head)
        assert agent_text(parsed.version, parsed.instance, NONCE, parsed.nonce)

    def test_only_true_resumes(self) -> None:
        for value in (None, 1, "yes", False):
            head = {**REQUEST.to_head(), "resumes": value}
            assert not AuthRequest.from_head_untrusted(head).resumes

    def test_a_refusal_is_none_whatever_its_reason(self) -> None:
        assert AuthAccepted.from_head_untrusted(REFUSAL) is None
        assert AuthAccepted.from_head_untrusted({"ok": False}) is None

    @pytest.mark.parametrize(
        "change", [{"ok": None}, {"ok": 1}, {"ok": "yes"}, {"proof": None}, {"proof": "p"}]
    )
    def test_a_welcome_lacks_nothing(self, change: Mapping[str, HeadValue]) -> None:
        with pytest.raises(RemoteProtocolError, match="has a missing or invalid field"):
            AuthAccepted.from_head_untrusted({**ACCEPTED.to_head(), **change})

    @pytest.mark.slow
    @given(st.sampled_from(MESSAGES), HEADS, st.data())
    def test_anything_parses_or_raises_remote_protocol_error(
        self,
        case: tuple[Challenge | AuthRequest | AuthAccepted, Callable[[Head], object]],
        head: dict[str, HeadValue],
        data: st.DataObject,
    ) -> None:
        message, parse = case
        whole = dict(message.to_head())
        for value in head.values():
            whole[data.draw(st.sampled_from(sorted(whole)))] = value
        with suppress(RemoteProtocolError):
            parse(whole)  # raises nothing else

    def test_what_is_secret_is_not_shown(self) -> None:
        shown = repr(CHALLENGE) + repr(REQUEST) + repr(ACCEPTED)
        assert repr(NONCE) not in shown
        assert "proof" not in shown.replace("proof=", "")


class TestLimits:
    """The announced limits that each side needs to keep within the other's."""

    def test_they_arrive(self) -> None:
        assert learn_limits_untrusted(announce_limits(SMALL)) == announced(SMALL)

    @pytest.mark.parametrize("said", [None, {}, {"calls": None}, {"novelty": -1}])
    def test_what_is_not_said_is_the_default(self, said: HeadValue) -> None:
        # The class of the limits once stood in for its own defaults.
        assert learn_limits_untrusted(said) == WireLimits()

    def test_some_may_be_said(self) -> None:
        expected = WireLimits(max_calls=7, max_message_bytes=1)
        assert learn_limits_untrusted({"calls": 7, "message": 1}) == expected

    @pytest.mark.parametrize("value", [0, -1, 2**32, 1.0, "1", True, [1]])
    @pytest.mark.parametrize("name", sorted(announce_limits(WireLimits())))
    def test_they_are_positive_numbers(self, name: str, value: HeadValue) -> None:
        with pytest.raises(RemoteProtocolError, match=f"limit '{name}' is not a positive number"):
            learn_limits_untrusted({name: value})

    @pytest.mark.parametrize("said", [[], "many", 5, [1, 2]])
    def test_they_are_a_map(self, said: HeadValue) -> None:
        with pytest.raises(RemoteProtocolError, match="limits must be a map"):
            learn_limits_untrusted(said)

    def test_fragments_have_a_least_size(self) -> None:
        assert LEAST_FRAGMENT_BYTES == 32 * KIB
        assert learn_limits_untrusted({"fragment": 32 * KIB}).fragment_bytes == 32 * KIB
        with pytest.raises(RemoteProtocolError, match="fragments of 32767 bytes; at least"):
            learn_limits_untrusted({"fragment": 32 * KIB - 1})


class TestVersions:
    """The newest version that both sides support."""

    @pytest.mark.parametrize(
        ("oldest", "newest", "chosen"), [(1, 1, 1), (1, 9, 1), (2, 9, None), (9, 9, None)]
    )
    def test_one_is_chosen_or_none(self, oldest: int, newest: int, chosen: int | None) -> None:
        assert choose_version(Challenge(NONCE, newest, oldest)) == chosen


class TestProofs:
    """The signed texts."""

    def test_the_text_is_unambiguous_and_as_documented(self) -> None:
        expected = b"".join(
            len(part).to_bytes(4, "big") + part
            for part in (
                b"spear-agent", b"\0\0\0\1", b"process", b"shop", b"\0" * 7 + b"\3", NONCE, OTHER_NONCE,
            )
        )  # fmt: skip
        assert agent_text(1, INSTANCE, NONCE, OTHER_NONCE) == expected
        proof = hmac.new(b"s" * 32, expected, hashlib.sha256).digest()
        assert SECRET.prove(expected) == proof

    def test_each_part_matters(self) -> None:
        texts = {
            agent_text(1, INSTANCE, NONCE, OTHER_NONCE),
            host_text(1, INSTANCE, NONCE, OTHER_NONCE),
            agent_text(2, INSTANCE, NONCE, OTHER_NONCE),
            agent_text(1, INSTANCE.next_incarnation(), NONCE, OTHER_NONCE),
            agent_text(1, InstanceId("wasm", "shop", 3), NONCE, OTHER_NONCE),
            agent_text(1, InstanceId("process", "shop2", 3), NONCE, OTHER_NONCE),
            agent_text(1, INSTANCE, OTHER_NONCE, NONCE),
            agent_text(1, INSTANCE, NONCE, NONCE),
        }
        assert len(texts) == 8

    def test_a_session_key_depends_on_the_secret_and_both_nonces(self) -> None:
        keys = {
            derive_session(secret, one, other).reveal()
            for secret in (SECRET, Secret(b"t" * 32))
            for one, other in ((NONCE, OTHER_NONCE), (OTHER_NONCE, NONCE), (NONCE, NONCE))
        }
        assert len(keys) == 6
        assert SECRET.reveal() not in keys


class TestConversation:
    """The handshake over two real connections."""

    def test_it_opens_both_ends(self, cut: Cut) -> None:
        pair = ConnectionPair(host_limits=SMALL, agent_limits=WireLimits(max_calls=7), cut=cut)
        for end in pair.ends:
            assert end.connection.state is ConnectionState.OPEN
            assert end.error is None
        assert pair.host.connection.peer == WireLimits(max_calls=7)
        assert pair.agent.connection.peer == announced(SMALL)

    def test_s3_an_agent_with_the_wrong_secret_is_refused(self, cut: Cut) -> None:
        with pytest.raises(AuthenticationFailed, match="the agent does not know"):
            ConnectionPair(agent_secret=Secret(bytes(32)), cut=cut)

    def test_each_frame_is_below_the_cap_of_strangers(self) -> None:
        pair = ConnectionPair(records=True)
        for end in pair.ends:
            assert end.sent is not None
            assert 0 < len(end.sent) < 2 * KIB

    def test_s9_traffic_before_the_end_is_refused(self) -> None:
        pair = ConnectionPair(is_connected=False)
        pair.host.connection.send_control(Kind.CHALLENGE, head=CHALLENGE.to_head())
        pair.host.feed(request(2))
        assert str(pair.host.error) == "received frames in state CHALLENGED"
        assert pair.host.events == []

    def test_a_refusal_closes_both_ends(self, cut: Cut) -> None:
        pair = ConnectionPair(is_connected=False)
        host, agent = pair.host.connection, pair.agent.connection
        host.send_control(Kind.CHALLENGE, head=CHALLENGE.to_head())
        agent.receive_control_untrusted(Kind.CHALLENGE)
        agent.send_control(Kind.AUTH_REQUEST, head=REQUEST.to_head())
        host.receive_control_untrusted(Kind.AUTH_REQUEST)
        pair.host.take_bytes()
        host.send_control(Kind.AUTH_REFUSED, head=REFUSAL)
        frames = [
            frame
            for piece in cut(pair.host.take_bytes())
            for frame in pair.agent.receiver.receive_data(piece)
        ]
        assert [(frame[0], frame[5]) for frame in frames] == [(FrameType.AUTH_RESPONSE, REFUSAL)]
        agent.receive_control_untrusted(Kind.AUTH_REFUSED)
        assert host.state is agent.state is ConnectionState.CLOSED

    def test_frames_out_of_order_change_nothing(self) -> None:
        pair = ConnectionPair(is_connected=False)
        host, agent = pair.host.connection, pair.agent.connection
        for act in (
            partial(host.send_control, Kind.AUTH_ACCEPTED),
            partial(agent.send_control, Kind.AUTH_REQUEST, head=REQUEST.to_head()),
        ):
            with pytest.raises(LocalProtocolError, match="in state START"):
                act()
        with pytest.raises(RemoteProtocolError, match="AUTH_REQUEST in state START"):
            host.receive_control_untrusted(Kind.AUTH_REQUEST)
        assert host.state is agent.state is ConnectionState.START
        assert not pair.host.outbox
        assert not pair.agent.outbox

    def test_a_pair_can_be_connected_by_hand(self) -> None:
        pair = ConnectionPair(is_connected=False)
        before = pair.host.connection.state
        pair.connect()
        assert before is not pair.host.connection.state is ConnectionState.OPEN
