"""Frames of pandas keep what Arrow alone would change: columns of objects, the frequency of an index.

A leaf module, which is loaded with the first frame of pandas. Arrow gives each column one type, and
pyarrow converts the objects of a column to it, often without an error: a large integer beside None to a
float, a date and time beside a date to a date. The sender therefore restores each column of objects as
the receiver will, and compares. A frame that would change is refused.

What the receiver has to know beyond Arrow travels in the metadata of the schema, under :data:`NOTES`: a
JSON map of ``objects``, the positions of columns of objects, and ``freq``, the frequency of the index.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime, time
from typing import TYPE_CHECKING, Final

from ._scalars import Unsuitable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

NOTES: Final = b"spear"
"""The key of Spear's entry in the metadata of a schema."""

MAX_FREQUENCY: Final = 64
"""Characters of the text of a frequency."""

_EXACT: Final = frozenset({str, bytes, bool, int})
"""Types of which Arrow keeps every value, with and without None, or refuses the column."""

_ADVICE: Final = (
    "values of one type, as frame[{0!r}].infer_objects() or .astype(str) may make them, or a list of "
    "dicts, such as .to_dict('records')"
)


# -- the sender -------------------------------------------------------------------------------------


def notes_of(frame: ModuleType, table: ModuleType, kind: str) -> dict[str, object]:
    """Return the notes for the receiver of a frame of pandas.

    Args:
        frame: the frame.
        table: the table that pyarrow has made of the frame.
        kind: the name of the class that the user sends: ``DataFrame`` or ``Series``.

    Raises:
        Unsuitable: a part of the frame would arrive changed, or not at all.
    """
    objects = []
    for index, dtype in enumerate(frame.dtypes):
        if dtype.kind != "O":
            continue
        if dtype.name == "object":
            if _is_restored(frame, table, index, kind):
                objects.append(index)
        elif dtype.name != "str":
            _expect_kept_type(frame, index, kind)
    _expect_kept_names(frame, table, kind)
    notes: dict[str, object] = {"objects": objects} if objects else {}
    text = getattr(frame.index, "freqstr", None)
    if text is not None and frame.index.dtype.kind in "mM":
        with suppress(ValueError):  # a frequency that has no text of its own
            if sys.modules["pandas"].tseries.frequencies.to_offset(text) == frame.index.freq:
                notes["freq"] = text
    return notes


def _is_restored(frame: ModuleType, table: ModuleType, index: int, kind: str) -> bool:
    """Return whether the receiver has to restore a column of objects. Raises Unsuitable."""
    values = frame.iloc[:, index].to_numpy().tolist()  # a third of the time of list()
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) <= 1 and kinds <= _EXACT:
        return True
    column = table.column(index)
    made = column.to_pylist()
    if (row := _first_change(values, made)) is None:
        return True
    if _first_change(values, list(column.to_pandas())) is None:
        return False  # arrays of numpy
    was, becomes = type(values[row]).__qualname__, type(made[row]).__qualname__
    raise Unsuitable(
        f"a {kind} whose {_column(frame, index, kind)} would change: the {was} in row {row} would "
        f"arrive as {'another' if was == becomes else 'a'} {becomes}",
        _ADVICE.format(frame.columns[index]),
    )


def _column(frame: ModuleType, index: int, kind: str) -> str:
    return "content" if kind == "Series" else f"column {frame.columns[index]!r:.80}"


def _expect_kept_type(frame: ModuleType, index: int, kind: str) -> None:
    """Refuse a column of a type that pyarrow does not read back, such as categories of intervals."""
    dtype = frame.dtypes.iloc[index]
    try:
        table = sys.modules["pyarrow"].Table.from_pandas(
            frame.iloc[:0, [index]], preserve_index=False
        )
        back = table.to_pandas().dtypes.iloc[0]
        kept = back == dtype
        if kept and hasattr(dtype, "categories"):
            kept = _first_change(list(dtype.categories), list(back.categories)) is None
    except Exception:  # of a library
        kept = False
    if not kept:
        raise Unsuitable(
            f"a {kind} whose {_column(frame, index, kind)} has a type that Arrow does not keep "
            f"({dtype!s:.60})",
            f"another one, such as frame[{frame.columns[index]!r:.80}].astype(str)",
        )


def _expect_kept_names(frame: ModuleType, table: ModuleType, kind: str) -> None:
    """Refuse names of rows or columns that would change."""
    pandas = sys.modules["pandas"]
    for axis in (frame.columns, frame.index):
        is_index = axis is frame.index
        if _is_plain(axis, pandas, is_index=is_index):
            continue
        try:
            if is_index:
                made = sys.modules["pyarrow"].Table.from_pandas(frame.iloc[:, :0]).to_pandas().index
            else:
                made = table.slice(0, 0).to_pandas().columns
            kept = list(made.names) == list(axis.names)
            kept = kept and _first_change(list(axis), list(made)) is None
        except Exception:  # of a library
            kept = False
        if not kept:
            what, instead = (
                ("index", ".reset_index()")
                if is_index
                else ("names of columns", ".columns.map(str)")
            )
            raise Unsuitable(
                f"a {kind} whose {what} Arrow would change", f"a frame with others, as of {instead}"
            )


def _is_plain(axis: ModuleType, pandas: ModuleType, *, is_index: bool) -> bool:
    """Return whether Arrow certainly keeps the names of rows or columns."""
    if not all(name is None or type(name) is str for name in axis.names):
        return False
    if not is_index:
        return type(axis) in (pandas.Index, pandas.RangeIndex) and set(map(type, axis)) <= {
            str,
            int,
        }
    levels = axis.levels if axis.nlevels > 1 else [axis]
    return all(
        each.dtype.kind != "O"
        or each.dtype.name == "str"
        or (each.dtype.name == "object" and set(map(type, each)) <= {str})
        for each in levels
    )


def _first_change(values: Sequence[object], made: Sequence[object]) -> int | None:
    """Return the position of the first value that is not the same in both; None if all are."""
    for row, (one, other) in enumerate(zip(values, made, strict=True)):
        if one is not other and not _is_same(one, other):
            return row
    return None


def _is_same(one: object, other: object) -> bool:
    """Return whether a value has arrived as it was. All missing values count as the same."""
    numpy, pandas = sys.modules["numpy"], sys.modules["pandas"]
    if isinstance(one, numpy.generic):
        one = one.item()
    if type(one) is numpy.ndarray:
        return (
            type(other) is numpy.ndarray
            and one.dtype == other.dtype  # type: ignore[attr-defined]  # an array
            and numpy.array_equal(one, other)
        )
    if one is None or one is pandas.NA or one is pandas.NaT or one != one:
        return other is None or other is pandas.NA or other is pandas.NaT or other != other
    if type(one) is not type(other):
        return False
    if type(one) is list:
        return len(one) == len(other) and _first_change(one, other) is None  # type: ignore[arg-type]  # a list, too
    if type(one) is dict:
        return _is_same([*one, *one.values()], [*other, *other.values()])  # type: ignore[attr-defined,misc]  # likewise
    if isinstance(one, datetime | time) and one.utcoffset() != other.utcoffset():  # type: ignore[attr-defined]  # likewise
        return False
    return one == other


# -- the receiver -----------------------------------------------------------------------------------


def restore_frame(table: ModuleType) -> ModuleType:
    """Return the frame of pandas for a table, as its sender's notes say.

    Raises:
        ValueError: the notes are not valid.
        Exception: pyarrow or pandas cannot make the frame.
    """
    frame: ModuleType = table.to_pandas()
    metadata = table.schema.metadata
    if not metadata or NOTES not in metadata:
        return frame
    match json.loads(metadata[NOTES]):
        case {**notes}:
            objects, text = notes.get("objects", []), notes.get("freq")
        case _:
            objects, text = None, None
    if type(objects) is not list or not all(
        type(each) is int and 0 <= each < frame.shape[1] for each in objects
    ):
        raise ValueError("not a frame: its notes are no map with positions of columns")
    for index in sorted(set(objects)):
        _restore_objects(frame, table.column(index), index)
    if type(text) is str and len(text) <= MAX_FREQUENCY:
        with suppress(ValueError, AttributeError):  # releases of pandas have different texts
            frame.index.freq = text
    return frame


def _restore_objects(frame: ModuleType, column: ModuleType, index: int) -> None:
    """Make a column one of objects again: those that Python has for the elements of Arrow."""
    types = sys.modules["pyarrow"].types
    is_nested = types.is_list(column.type) or types.is_struct(column.type)
    if frame.dtypes.iloc[index].name == "object" and not is_nested:
        return
    if not is_nested and (types.is_dictionary(column.type) or types.is_nested(column.type)):
        raise ValueError("not a frame: its notes name a column without objects")
    values = column.to_numpy() if types.is_string(column.type) else column.to_pylist()
    pandas = sys.modules["pandas"]
    frame.isetitem(index, pandas.Series(values, frame.index, dtype=object))
