"""Tables and data frames as Arrow IPC streams. A leaf module, which is loaded with the first of them.

A frame is sent as one array of bytes, so that a large one travels in shared memory. All streams
are written and read by pyarrow: polars would follow wrong offsets out of the memory. A package is
imported when a frame of it arrives, by a name from the table in ``spear._codecs``, never by one from the
peer.

A stream comes from a peer. Before a library reads it, :func:`check_stream` refuses compressed data, and
rows that take no bytes, which could fill the memory. pyarrow then validates the whole table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, final

from ._arrays import Array, ArrayPieces
from ._scalars import Unsuitable
from ._util import MissingPackage

if TYPE_CHECKING:
    from types import ModuleType

OLDEST_PYARROW: Final = 15
"""The oldest major release of pyarrow: a stream could make those before 14.0.1 unpickle data."""

MAX_BATCHES: Final = 1 << 16
"""Messages of one stream."""

SPARE_CELLS: Final = 1 << 24
"""Cells that a stream may have beyond one for each of its bits."""

_CONTINUES: Final = 0xFFFFFFFF
_DICTIONARY, _RECORDS = 2, 3  # types of messages; the others have no rows


# -- the bytes --------------------------------------------------------------------------------------


def check_stream(data: memoryview) -> None:
    """Refuse a stream that would take much more memory than it has bytes. Raises ValueError.

    Reads the messages of the stream, which are flatbuffers, but not the columns behind them.
    """
    at, cells = 0, 0
    try:
        for _ in range(MAX_BATCHES):
            mark, size = struct.unpack_from("<Ii", data, at)
            if mark != _CONTINUES or size < 0:
                raise ValueError("not an Arrow IPC stream")
            if not size:
                return
            body, more = _read_message(data[at + 8 : at + 8 + size])
            at += 8 + size + body
            cells += more
            if cells > 8 * len(data) + SPARE_CELLS:
                raise ValueError("an Arrow IPC stream has far more rows than bytes")
    except struct.error:
        raise ValueError("an Arrow IPC stream is incomplete") from None
    raise ValueError(f"an Arrow IPC stream has more than {MAX_BATCHES} batches")


def _read_message(data: memoryview) -> tuple[int, int]:
    """Return the bytes of a message's body, and its rows times its columns. Raises ValueError."""
    message = _follow(data, 0)
    kind, header, length = (_field(data, message, index) for index in (1, 2, 3))
    (body,) = struct.unpack_from("<q", data, length) if length else (0,)
    kind = data[kind] if kind else 0
    if body < 0 or (kind in (_DICTIONARY, _RECORDS) and not header):
        raise ValueError("not an Arrow IPC stream: a message without a content")
    if kind not in (_DICTIONARY, _RECORDS):
        return body, 0
    batch = _follow(data, header)
    if kind == _DICTIONARY:
        batch = _follow(data, _field(data, batch, 1))
    rows, nodes, compression = (_field(data, batch, index) for index in (0, 1, 3))
    if compression:
        raise ValueError("an Arrow IPC stream is compressed: send it uncompressed")
    (count,) = struct.unpack_from("<q", data, rows) if rows else (0,)
    at = _follow(data, nodes) if nodes else 0
    (columns,) = struct.unpack_from("<I", data, at) if nodes else (0,)
    # Rows and nulls of each column, those inside of lists included.
    lengths = struct.unpack_from(f"<{2 * columns}q", data, at + 4)[::2] if columns else ()
    if min(count, *lengths, 0) < 0:
        raise ValueError("not an Arrow IPC stream: a negative number of rows")
    return body, max(count * columns, sum(lengths))


def _follow(data: memoryview, at: int) -> int:
    """Return the position that the offset at a position of a flatbuffer points to."""
    (offset,) = struct.unpack_from("<I", data, at)
    return at + int(offset)


def _field(data: memoryview, table: int, index: int) -> int:
    """Return the position of a field of a flatbuffer's table; 0 if the table lacks the field."""
    (back,) = struct.unpack_from("<i", data, table)
    offsets = table - back
    if offsets < 0:
        raise ValueError("not an Arrow IPC stream: a table without fields")
    (size,) = struct.unpack_from("<H", data, offsets)
    place = 4 + 2 * index
    if place + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, offsets + place)
    return table + int(offset) if offset else 0


# -- frames -----------------------------------------------------------------------------------------


def load_pyarrow() -> ModuleType:
    """Return pyarrow. Raises MissingPackage if it is not installed, or too old."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise MissingPackage("pyarrow") from error
    if int(pyarrow.__version__.partition(".")[0]) < OLDEST_PYARROW:
        raise MissingPackage(f"pyarrow>={OLDEST_PYARROW}")
    module: ModuleType = pyarrow
    return module


def _load(package: str) -> ModuleType:
    """Return pandas or polars. Raises MissingPackage."""
    try:
        if package == "pandas":
            import pandas as loaded
        else:
            import polars as loaded
    except ImportError as error:
        raise MissingPackage(package) from error
    module: ModuleType = loaded
    return module


def encode_frame(value: object) -> object:
    """Return the content of a frame: an array of the bytes of a stream; of a series with its name.

    Raises:
        MissingPackage: there is no pyarrow.
        Exception: from the libraries, for a frame that Arrow cannot express.
    """
    kind = type(value)
    if kind.__name__ != "Series":
        return _write(value)
    return [_write(value.to_frame("values"), "Series"), value.name]  # type: ignore[attr-defined]  # a series


@final
class _PieceWriter:
    """A file that keeps what is written to it in pieces, and copies nothing."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []

    def write(self, data: bytes) -> None:
        """Keep a piece, which may be memory of the frame itself."""
        self.pieces.append(memoryview(data).cast("B"))

    def flush(self) -> None:
        """Do nothing."""


def _write(value: object, kind: str = "DataFrame") -> ArrayPieces:
    pyarrow = load_pyarrow()
    frame = value if type(value).__name__ == "RecordBatch" else _table_of(value)
    if type(value).__module__.partition(".")[0] == "pandas":
        frame = _with_notes(value, frame, kind)
    sink = _PieceWriter()
    with pyarrow.ipc.new_stream(pyarrow.PythonFile(sink, "w"), frame.schema) as writer:  # type: ignore[attr-defined]  # of pyarrow
        writer.write(frame)
    return ArrayPieces(sink.pieces)


def _with_notes(frame: object, table: object, kind: str) -> object:
    """Return the table of a frame of pandas, with what its receiver has to know. Raises Unsuitable."""
    import json

    from ._pandas_frames import NOTES, notes_of

    notes = notes_of(frame, table, kind)  # type: ignore[arg-type]  # objects of untyped modules
    if not notes:
        return table
    metadata = {**table.schema.metadata, NOTES: json.dumps(notes).encode()}  # type: ignore[attr-defined]  # a table
    return table.replace_schema_metadata(metadata)  # type: ignore[attr-defined]  # likewise


def decode_frame(name: str, content: object) -> object:
    """Return the frame with a content, of the class with a name of :data:`spear._codecs.FRAMES`.

    Frames of pyarrow use the memory of the content, and so do some columns of pandas.

    Raises:
        MissingPackage: a package is not installed.
        Exception: the content is no valid frame.
    """
    package, _, kind = name.partition(".")
    if kind == "Series":
        match content:
            case [inner, title]:
                content = inner
            case _:
                raise ValueError("not a series: a list of a stream and a name")
    if package == "polars":
        frame = _polars_frame(_read(content))
        return frame.to_series(0).alias(title) if kind == "Series" else frame
    if package == "pandas":
        _load(package)  # first: it teaches pyarrow its own types of columns
        from ._pandas_frames import restore_frame

        frame = restore_frame(_read(content))
        if kind == "DataFrame":
            return frame
        series = frame["values"]  # type: ignore[index]  # a frame
        series.name = tuple(title) if type(title) is list else title
        return series
    return _read(content, is_batch=kind == "RecordBatch")


def _polars_frame(table: object) -> ModuleType:
    """Return the frame of polars with the columns of a table. Raises ValueError if polars panics."""
    polars = _load("polars")
    try:
        frame: ModuleType = polars.from_arrow(table)  # of which mypy knows nothing
    except polars.exceptions.PanicException as error:  # which is no Exception
        raise ValueError(f"polars cannot make a frame of it: {error}") from error
    return frame


def _checked(content: object) -> memoryview:
    """Return the bytes of a stream after a check. Raises ValueError."""
    data = content.data if isinstance(content, Array) else content
    if isinstance(content, ArrayPieces):  # not sent, but shown as JSON
        data = b"".join(content.pieces)
    if not isinstance(data, bytes | memoryview):
        raise ValueError("not a frame: the bytes of an Arrow IPC stream")
    view = memoryview(data).cast("B")
    check_stream(view)
    return view


def _read(content: object, *, is_batch: bool = False) -> ModuleType:
    """Return the table, or the batch, of a stream, of which every value is valid."""
    data = _checked(content)
    pyarrow = load_pyarrow()
    reader = pyarrow.ipc.open_stream(pyarrow.py_buffer(data))
    made = reader.read_next_batch() if is_batch else reader.read_all()
    made.validate(full=True)
    found: ModuleType = made  # of which mypy knows nothing
    return found


# -- other forms ------------------------------------------------------------------------------------


def rows_of(name: str, content: object, most: int) -> list[object]:
    """Return the rows of a frame as maps, or the values of a series.

    Args:
        name: the name of its codec.
        content: its content.
        most: the most cells that it may have.

    Raises:
        ValueError: the content is no valid frame, or there are more cells.
        MissingPackage: there is no pyarrow.
    """
    is_series = name.endswith(".Series")
    if is_series and isinstance(content, list) and content:
        content = content[0]
    table = _read(content)
    cells = table.num_rows * table.num_columns
    if cells > most:
        raise ValueError(f"a frame of {cells} cells; at most {most} become JSON: ask for CBOR")
    rows: list[object] = table.column(0).to_pylist() if is_series else table.to_pylist()
    return rows


def convert_frame(value: object, cls: type) -> object:
    """Return a value of another class as a frame of this class.

    Args:
        value: a frame; or rows, each a map, or the values of a series.
        cls: ``Table``, ``DataFrame`` or ``Series``, of pyarrow, pandas or polars.

    Raises:
        MissingPackage: there is no pyarrow.
        Exception: the libraries cannot convert the value; a TypeError if it is of another type.
    """
    package, name = cls.__module__.partition(".")[0], cls.__name__
    if type(value) is list:
        if name == "Series":
            return cls(value)
        if not all(type(row) is dict for row in value):
            raise TypeError("each row must be a dict")
        names = dict.fromkeys(key for row in value for key in row)
        columns = {key: [row.get(key) for row in value] for key in names}
        return cls.from_pydict(columns) if package == "pyarrow" else cls(columns)  # type: ignore[attr-defined]  # a table
    if name not in ("Table", "DataFrame"):
        raise TypeError(f"send a {name} of {package}, or a list")
    table = _table_of(value)
    if package == "pandas":
        return table.to_pandas()
    return table if package == "pyarrow" else _polars_frame(table)


def _expect_no_objects(frame: object) -> None:
    """Refuse a frame of polars with Python objects, of which Arrow would get the addresses."""
    for column, dtype in frame.schema.items():  # type: ignore[attr-defined]  # a frame
        if str(dtype) == "Object":
            raise Unsuitable(
                f"a DataFrame whose column {column!r:.80} has Python objects",
                "a column of another type, or a list of dicts, such as .to_dicts()",
            )


def _table_of(value: object) -> ModuleType:
    """Return the table of a frame. Raises TypeError for another value."""
    package, name = type(value).__module__.partition(".")[0], type(value).__name__
    pyarrow = load_pyarrow()
    if package == "pandas" and name == "DataFrame":
        if len(set(map(type, value.columns))) > 1:  # type: ignore[attr-defined]  # a frame
            raise ValueError("its columns have names of several types, which would become text")
        made = pyarrow.Table.from_pandas(value)
    elif package == "polars" and name == "DataFrame":
        _expect_no_objects(value)
        made = value.to_arrow()  # type: ignore[attr-defined]  # a frame
    elif package == "pyarrow" and name == "RecordBatch":
        made = pyarrow.Table.from_batches([value])
    elif package == "pyarrow" and name == "Table":
        made = value
    else:
        raise TypeError("it is no frame")
    table: ModuleType = made  # likewise
    return table
