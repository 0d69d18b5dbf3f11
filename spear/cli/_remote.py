"""HTTP client for a running host: over its control socket, or over TCP to a remote one.

It is blocking and uses only the standard library: a command with one request must not load an event loop.
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

from spear._errors import ConfigurationError, HostLost, NoHost, SpearError
from spear._places import CONNECT_SECONDS, find

from ._failures import NoSuchPath, failure_of
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

    from ._documents import Document
    from ._parser import CommandParser

ANSWER_SECONDS: Final = 60.0
"""Seconds that a host has for requests it answers itself. Calls have their own timeouts."""

USUAL: Final = -1.0
"""A marker for the default timeout."""

MAX_SECONDS: Final = 1e9
"""Longest timeout, thirty years. Longer ones mean none, as the system accepts no much larger value."""

MAX_ANSWER_BYTES: Final = 64 << 20
"""Maximum bytes of a response: more than any message, so a server that sends more is no host."""

PIECE_BYTES: Final = 64 << 10

HOST_HELP: Final = "the host: a name, a socket's path, or an http(s):// URL (or SPEAR_HOST)"


def define_host(parser: CommandParser) -> None:
    """Define the options that select the host."""
    parser.add("--host", metavar="HOST", help=HOST_HELP)
    parser.add(
        "--token-file",
        metavar="FILE",
        help="file with the token for a URL (or SPEAR_TOKEN_FILE; SPEAR_TOKEN is the token itself)",
    )


class HostResponse:
    """A host's response, whose body is read as it arrives.

    Attributes:
        status: the HTTP status.
        headers: headers by lower-case name.
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
        """The content type of the body, such as ``application/json``."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def read(self) -> bytes:
        """Return the whole body."""
        with reporting(self._where, does_something=self._does_something):
            body = self._response.read(MAX_ANSWER_BYTES + 1)
            if self._response.length and len(body) <= MAX_ANSWER_BYTES:
                raise http.client.IncompleteRead(body, self._response.length)
        if len(body) > MAX_ANSWER_BYTES:
            raise NoHost(f"{self._where} sent a response of more than {MAX_ANSWER_BYTES} bytes")
        return body

    def json(self) -> object:
        """Return the body parsed as JSON. Raises NoHost if it is not JSON."""
        body = self.read()
        try:
            return json.loads(body)
        except ValueError as error:
            raise NoHost(_invalid_response(self._where)) from error

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body as they arrive."""
        begun = bytearray()  # an incomplete line
        while piece := self._piece():
            *ends, rest = piece.split(b"\n")
            for end in ends:
                yield bytes(begun) + end + b"\n"
                begun.clear()
            begun += rest
            if len(begun) > MAX_ANSWER_BYTES:
                raise NoHost(f"{self._where} sent a line of more than {MAX_ANSWER_BYTES} bytes")
        if begun:
            yield bytes(begun)

    def _piece(self) -> bytes:
        """Return the next bytes of the body; empty at its end."""
        with reporting(self._where, does_something=self._does_something):
            # Not readline(): it takes a broken connection for the end.
            piece = self._response.read1(PIECE_BYTES)
            if not piece and self._response.length:
                raise http.client.IncompleteRead(piece, self._response.length)
        return piece

    def documents(self) -> Iterator[Document]:
        """Yield the JSON objects, one a line, as they arrive. Blank lines are keep-alives."""
        for line in self.lines():
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except ValueError as error:  # the last line may be incomplete
                raise NoHost(f"{self._where} ended its response within a line") from error
            if isinstance(document, dict):
                yield document


class Remote:
    """A client of one host.

    Attributes:
        where: description of the host, for messages.
    """

    def __init__(self, options: argparse.Namespace, *, seconds: float = ANSWER_SECONDS) -> None:
        self._seconds = seconds  # default timeout for responses
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
                f"--host {url} is not a valid URL: use http://HOST:PORT or https://HOST:PORT"
            ) from None
        self._token = token
        self._path = parts.path.rstrip("/")
        self.where = f"{parts.scheme}://{parts.netloc}"

    def _expect_a_socket(self, host: str) -> None:
        try:
            mode = os.stat(self._socket).st_mode
        except OSError as error:
            raise NoHost(
                f"{self.where} is not running: {error.strerror}; --host NAME finds a spearlet by its name"
            ) from error
        except ValueError:  # a NUL
            mode = 0
        if not stat.S_ISSOCK(mode):
            raise ConfigurationError(f"--host {printable(host)} is not a socket")

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
        """Send a request; the response can be read while the block runs.

        Args:
            method: the HTTP method.
            path: path relative to the host's address.
            body: body of the request.
            headers: headers of the request.
            seconds: timeout for each step of the response, if not the default; None for no timeout.

        Raises:
            NoHost: no host is running, or it does not answer.
            HostLost: the host no longer answers, but may have done what was requested.
            SpearError: the host responds with an error.
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
                # A host may refuse a request, with a reason, before it has read all of it.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, self._path + path, body, every)
                response = connection.getresponse()
                answer = HostResponse(response, self.where, does_something=does_something)
            if answer.status >= 400:
                failure = failure_of(answer.status, answer.kind, answer.read(), answer.headers)
                if self._path and isinstance(failure, NoSuchPath):
                    raise ConfigurationError(
                        f"{self.where} has nothing at {self._path}: remove this path from --host"
                    )
                raise failure
            yield answer
        finally:
            connection.close()

    def get(self, path: str) -> object:
        """Return the JSON response of a GET request. Raises as :meth:`request`."""
        with self.request("GET", path) as answer:
            return answer.json()

    def post(self, path: str, content: object, *, seconds: float | None = USUAL) -> object:
        """Return the JSON response of a POST request. Raises as :meth:`request`."""
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
        # With Python's timeout, connecting would fail at once if the host's backlog is full.
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
            raise ConfigurationError(f"{file} contains no valid token") from error
    token = token.strip()
    if (file is not None and not token) or not token.isprintable() or not token.isascii():
        raise ConfigurationError(f"{what} contains no valid token")
    return token or None


def _invalid_response(where: str) -> str:
    return f"{where} sent an invalid response: it may not be a spearlet"


@contextmanager
def reporting(where: str, *, does_something: bool = False) -> Iterator[None]:
    """Convert errors of the connection to SpearErrors.

    Args:
        where: description of the host, for messages.
        does_something: whether the request changes something, and may have been carried out.
    """

    def lost(what: str) -> SpearError:
        if does_something:
            return HostLost(f"{where} {what}: the request may have been carried out")
        return NoHost(f"{where} {what}")

    try:
        yield
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoHost(
            f"{where} is not running: no process listens at its address; start it with `spear serve`"
        ) from error
    except (BlockingIOError, TimeoutError) as error:
        raise lost("did not respond in time") from error
    except http.client.InvalidURL as error:
        raise SpearError(f"the request cannot be sent: {error}") from error
    except http.client.HTTPException as error:
        if isinstance(error, http.client.RemoteDisconnected):
            hint = "; if it uses TLS, use https://" if where.startswith("http://") else ""
            raise lost(f"closed the connection before it responded{hint}") from error
        if isinstance(error, http.client.IncompleteRead):
            raise lost("closed the connection in the middle of its response") from error
        raise NoHost(_invalid_response(where)) from error
    except ConnectionError as error:
        raise lost("closed the connection") from error
    except OSError as error:
        why = error.strerror or str(error)
        has_tls = getattr(error, "reason", "") != "WRONG_VERSION_NUMBER"  # an SSLError has a reason
        hint = "" if has_tls else "; if it does not use TLS, use http://"
        raise NoHost(f"{where} cannot be reached: {why}{hint}") from error
    except ValueError as error:  # OSError first: some errors of TLS are ValueErrors, too
        raise SpearError(f"the request cannot be sent: {error}") from error


def part_of_path(name: str, what: str) -> str:
    """Return a name quoted as one part of a URL path.

    Raises:
        ConfigurationError: the name is empty, or not UTF-8.
    """
    if not name:
        raise ConfigurationError(f"the name of {what} must not be empty")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"'{printable(name)}' is not the name of {what}: it is not UTF-8"
        ) from None
