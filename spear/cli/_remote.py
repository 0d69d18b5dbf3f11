"""Talking to a running host: HTTP over its control socket, or over TCP to one elsewhere.

Only the standard library, and blocking: a command that asks one question must not load an event loop.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import quote, urlsplit

from spear._errors import ConfigurationError, SpearError

from ._failures import NoSuchPath, failure_of
from ._places import CONNECT_SECONDS, HostLost, NoHost, find
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

    from ._documents import Document
    from ._parser import CommandParser

ANSWER_SECONDS: Final = 60.0
"""For what a host answers by itself. Calls have their own time."""

USUAL: Final = -1.0
"""Stands for the usual time."""

MAX_SECONDS: Final = 1e9
"""Thirty years. Longer waits have no end: the system takes no timeout that is much larger."""

MAX_ANSWER_BYTES: Final = 64 << 20
"""More than any message; a host that sends more is none."""

PIECE_BYTES: Final = 64 << 10

HOST_HELP: Final = "which one: a name, a socket's path, or an http(s):// URL (or SPEAR_HOST)"


def define_host(parser: CommandParser) -> None:
    """The options that say which host is meant."""
    parser.add("--host", metavar="HOST", help=HOST_HELP)
    parser.add(
        "--token-file",
        metavar="FILE",
        help="a file with the token that a URL needs (or SPEAR_TOKEN_FILE, or SPEAR_TOKEN itself)",
    )


class HostResponse:
    """What a host answers; its body is read as it comes.

    Attributes:
        status: of HTTP.
        headers: by lower-case name.
    """

    def __init__(
        self, response: http.client.HTTPResponse, where: str, *, does_something: bool
    ) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._response = response
        self._where = where
        self._does_something = does_something

    @property
    def kind(self) -> str:
        """What the body is: ``application/json``."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def read(self) -> bytes:
        """All of the body."""
        with reporting(self._where, does_something=self._does_something):
            body = self._response.read(MAX_ANSWER_BYTES + 1)
            if self._response.length and len(body) <= MAX_ANSWER_BYTES:
                raise http.client.IncompleteRead(body, self._response.length)
        if len(body) > MAX_ANSWER_BYTES:
            raise NoHost(f"{self._where} answers with more than {MAX_ANSWER_BYTES} bytes")
        return body

    def json(self) -> object:
        """The body, if it is JSON."""
        body = self.read()
        try:
            return json.loads(body)
        except ValueError as error:
            raise NoHost(f"{self._where} does not answer as a spearlet does") from error

    def lines(self) -> Iterator[bytes]:
        """The body line by line, as they come."""
        begun = bytearray()  # a line that has not ended
        while piece := self._piece():
            *ends, rest = piece.split(b"\n")
            for end in ends:
                yield bytes(begun) + end + b"\n"
                begun.clear()
            begun += rest
            if len(begun) > MAX_ANSWER_BYTES:
                raise NoHost(
                    f"{self._where} answers with a line of more than {MAX_ANSWER_BYTES} bytes"
                )
        if begun:
            yield bytes(begun)

    def _piece(self) -> bytes:
        """What has come of the body; nothing at its end."""
        with reporting(self._where, does_something=self._does_something):
            # Not readline(): it takes a connection that was cut off for the end.
            piece = self._response.read1(PIECE_BYTES)
            if not piece and self._response.length:
                raise http.client.IncompleteRead(piece, self._response.length)
        return piece

    def documents(self) -> Iterator[Document]:
        """The maps that the lines are, as they come. Blank ones are signs of life."""
        for line in self.lines():
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except ValueError as error:  # the last one may have been cut off
                raise NoHost(f"{self._where} has ended in the middle of a line") from error
            if isinstance(document, dict):
                yield document


class Remote:
    """A host that can be asked.

    Attributes:
        where: how people know it.
    """

    def __init__(self, options: argparse.Namespace, *, seconds: float = ANSWER_SECONDS) -> None:
        self._seconds = seconds  # for an answer, if a request does not say
        host = options.host or os.environ.get("SPEAR_HOST") or None
        self._token: str | None = None
        self._path = ""
        self._socket = ""
        if host is not None and "://" in host:
            self._url(host, _token(options.token_file))
        elif host is not None and os.sep in host:
            self._socket = host
            self.where = f"the spearlet at {printable(host)}"
            self._expect_a_socket(host)
        else:
            self._socket = find(host)
            name = os.path.basename(self._socket).removesuffix(".sock")
            self.where = f"the spearlet {name!r}"

    def _url(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError
            self._scheme, self._name, self._port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            raise ConfigurationError(
                f"--host {url}: write a URL as http://HOST:PORT or https://HOST:PORT"
            ) from None
        self._token = token
        self._path = parts.path.rstrip("/")
        self.where = f"{parts.scheme}://{parts.netloc}"

    def _expect_a_socket(self, host: str) -> None:
        try:
            mode = os.stat(self._socket).st_mode
        except OSError as error:
            raise NoHost(
                f"{self.where} does not run: {error.strerror}; `spear ps` finds one by its name"
            ) from error
        except ValueError:  # a NUL
            mode = 0
        if not stat.S_ISSOCK(mode):
            raise ConfigurationError(f"--host {printable(host)}: this is not a socket")

    def _connect(self, seconds: float | None) -> http.client.HTTPConnection:
        if self._socket:
            return _UnixConnection(self._socket, seconds)
        kind = (
            http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        )
        return kind(self._name, self._port, timeout=seconds)

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = USUAL,
    ) -> Iterator[HostResponse]:
        """Ask, and give the answer for as long as the block runs.

        Args:
            method: of HTTP.
            path: behind the host's address.
            body: what to send.
            headers: with it.
            seconds: for each step of the answer, if not the usual; None for as long as it takes.

        Raises:
            NoHost: there is none, or it does not answer.
            HostLost: it may have done what it was asked to, and does not answer any more.
            SpearError: it answers with an error.
        """
        seconds = self._seconds if seconds == USUAL else seconds
        if seconds is not None and seconds > MAX_SECONDS:
            seconds = None
        every = dict(headers or {})
        if self._token is not None:
            every["Authorization"] = f"Bearer {self._token}"
        connection = self._connect(CONNECT_SECONDS if seconds is None else seconds)
        try:
            with reporting(self.where):
                connection.connect()
            does_something = method != "GET"
            with reporting(self.where, does_something=does_something):
                connection.sock.settimeout(seconds)
                # A host may refuse a request before it has read all of it, and say why.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, self._path + path, body, every)
                response = connection.getresponse()
                answer = HostResponse(response, self.where, does_something=does_something)
            if answer.status >= 400:
                failure = failure_of(answer.status, answer.kind, answer.read(), answer.headers)
                if self._path and isinstance(failure, NoSuchPath):
                    raise ConfigurationError(
                        f"{self.where} has nothing at {self._path}: leave that out of --host"
                    )
                raise failure
            yield answer
        finally:
            connection.close()

    def get(self, path: str) -> object:
        """What a path says, as JSON. Raises as :meth:`request`."""
        with self.request("GET", path) as answer:
            return answer.json()

    def post(self, path: str, content: object, *, seconds: float | None = USUAL) -> object:
        """Post JSON, and give the answer's. Raises as :meth:`request`."""
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        with self.request("POST", path, body, headers, seconds) as answer:
            return answer.json()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a timeout of Python's, a host whose queue is full at this moment refuses us at once.
        whole, part = divmod(self.timeout or CONNECT_SECONDS, 1)
        limit = struct.pack("@ll", int(whole), int(part * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.sock.connect(self._socket_path)
        self.sock.settimeout(self.timeout)


def _token(file: str | None) -> str | None:
    if file is None and not os.environ.get("SPEAR_TOKEN"):
        file = os.environ.get("SPEAR_TOKEN_FILE") or None
    if file is None:
        token = os.environ.get("SPEAR_TOKEN", "")
        what = "SPEAR_TOKEN"
    else:
        what = file
        try:
            with open(file, encoding="ascii") as opened:
                token = opened.read(4096)
        except OSError as error:
            raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"{file} has no token in it") from error
    token = token.strip()
    if (file is not None and not token) or not token.isprintable() or not token.isascii():
        raise ConfigurationError(f"{what} has no token in it")
    return token or None


@contextmanager
def reporting(where: str, *, does_something: bool = False) -> Iterator[None]:
    """Say what it means if no answer comes.

    Args:
        where: who was to answer.
        does_something: it has been asked to do what may have been done, though nobody can tell.
    """

    def lost(what: str) -> SpearError:
        if does_something:
            return HostLost(f"{where} {what}: what it was asked to do may have been done")
        return NoHost(f"{where} {what}")

    try:
        yield
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoHost(
            f"{where} does not run: its address is there, but nobody listens; start it with `spear serve`"
        ) from error
    except (BlockingIOError, TimeoutError) as error:
        raise lost("does not answer") from error
    except http.client.InvalidURL as error:
        raise SpearError(f"this cannot be sent: {error}") from error
    except http.client.HTTPException as error:
        if isinstance(error, http.client.RemoteDisconnected):
            hint = "; if it has TLS, write https://" if where.startswith("http://") else ""
            raise lost(f"has ended before it answered{hint}") from error
        if isinstance(error, http.client.IncompleteRead):
            raise lost("has ended in the middle of its answer") from error
        raise NoHost(f"{where} does not answer as a spearlet does") from error
    except ConnectionError as error:
        raise lost("has ended before it answered") from error
    except OSError as error:
        why = error.strerror or str(error)
        has_tls = getattr(error, "reason", "") != "WRONG_VERSION_NUMBER"  # an SSLError has a reason
        hint = "" if has_tls else "; if it has no TLS, write http://"
        raise NoHost(f"{where} cannot be reached: {why}{hint}") from error
    except ValueError as error:  # which some errors of TLS are, too
        raise SpearError(f"this cannot be sent: {error}") from error


def part_of_path(name: str, what: str) -> str:
    """A name as a part of a path.

    Raises:
        ConfigurationError: nothing can have it.
    """
    if not name:
        raise ConfigurationError(f"say the name of {what}: '' is none")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"'{printable(name)}' is not the name of {what}: it is not UTF-8"
        ) from None
