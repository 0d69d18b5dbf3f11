"""The wire protocol without I/O: bytes, frames, handshake, calls, credit.

Nothing here knows a socket, a clock, a task or a random number, so every rule can be driven by tests
and used by an agent in any concurrency style. ``docs/wire.md`` is the normative text.
"""

from ._calls import Call as Call
from ._calls import CalleeSide as CalleeSide
from ._calls import CallerSide as CallerSide
from ._connection import Accepts as Accepts
from ._connection import Connection as Connection
from ._connection import Event as Event
from ._convention import NO_ARGUMENTS as NO_ARGUMENTS
from ._convention import NONE as NONE
from ._convention import decode_result as decode_result
from ._convention import encode_arguments as encode_arguments
from ._convention import encode_call as encode_call
from ._convention import encode_result as encode_result
from ._convention import encode_sendable as encode_sendable
from ._credit import ITEM_OVERHEAD_BYTES as ITEM_OVERHEAD_BYTES
from ._credit import ReceiveWindow as ReceiveWindow
from ._credit import SendWindow as SendWindow
from ._credit import Windows as Windows
from ._failures import FAILURE_NUMBERS as FAILURE_NUMBERS
from ._failures import decode_failure_untrusted as decode_failure_untrusted
from ._failures import encode_failure as encode_failure
from ._frames import CBOR as CBOR
from ._frames import LAST as LAST
from ._frames import NO_DEADLINE as NO_DEADLINE
from ._frames import REPLY_STREAM as REPLY_STREAM
from ._frames import SHARED as SHARED
from ._frames import STREAM as STREAM
from ._frames import Buffer as Buffer
from ._frames import Frame as Frame
from ._frames import FrameType as FrameType
from ._frames import Payload as Payload
from ._frames import Received as Received
from ._frames import pack_prefix as pack_prefix
from ._handshake import NONCE_BYTES as NONCE_BYTES
from ._handshake import REFUSAL as REFUSAL
from ._handshake import SEGMENTS as SEGMENTS
from ._handshake import VERSION as VERSION
from ._handshake import AuthAccepted as AuthAccepted
from ._handshake import AuthRequest as AuthRequest
from ._handshake import Challenge as Challenge
from ._handshake import agent_text as agent_text
from ._handshake import choose_version as choose_version
from ._handshake import derive_session as derive_session
from ._handshake import host_text as host_text
from ._heads import Head as Head
from ._heads import HeadRefused as HeadRefused
from ._heads import HeadValue as HeadValue
from ._heads import decode_head_untrusted as decode_head_untrusted
from ._heads import encode_head as encode_head
from ._outbox import Outbox as Outbox
from ._outgoing import LendingFrame as LendingFrame
from ._receiver import FrameTooLarge as FrameTooLarge
from ._receiver import Receiver as Receiver
from ._sink import Sink as Sink
from ._states import CallState as CallState
from ._states import ConnectionState as ConnectionState
from ._states import Kind as Kind
from ._states import Role as Role
from ._strikes import RateLimit as RateLimit
from ._values import TooManyItems as TooManyItems
from ._values import Value as Value
from ._values import decode_value_untrusted as decode_value_untrusted
from ._values import encode_value as encode_value
