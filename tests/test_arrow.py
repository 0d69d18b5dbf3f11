"""Tables and data frames: each arrives as it was; a stream that would fill the memory is refused."""

from __future__ import annotations

import datetime
import struct
import sys
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, cast

import cbor2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import spear
from spear import Array
from spear._arrow import check_stream
from spear._codecs import CodecFault, values_passed_on
from spear._json import MAX_ELEMENTS, dump_json
from spear._sendable import CannotSend
from spear.annotations import Mismatch, build_check
from spear.wire import (
    CODED_TAG,
    Bundle,
    decode_result,
    decode_value_untrusted,
    encode_alone,
    encode_sendable,
)

if TYPE_CHECKING:
    import numpy
    import pandas
    import polars
    import polars.testing
    import pyarrow
else:
    REASON = "installed under the main interpreter only"
    numpy = pytest.importorskip("numpy", reason=REASON)
    pyarrow = pytest.importorskip("pyarrow", reason=REASON)
    pandas = pytest.importorskip("pandas", reason=REASON)
    polars = pytest.importorskip("polars", reason=REASON)
    pytest.importorskip("polars.testing", reason=REASON)


def sent(value: object) -> object:
    payload, is_cbor = encode_sendable(value)
    return decode_result(bytes(cast("bytes", payload)), is_cbor)


def passed(value: object) -> object:
    with values_passed_on():
        return sent(value)


def stream_of(table: object, compression: str | None = None) -> bytes:
    """Return the bytes of a table's stream, as a peer would send them."""
    sink = pyarrow.BufferOutputStream()
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:  # type: ignore[attr-defined]  # a table
        writer.write(table)
    return bytes(sink.getvalue())


def coded(content: object, name: str = "pyarrow.Table") -> bytes:
    return cbor2.dumps(cbor2.CBORTag(CODED_TAG, [name, content]))


def fault_of(payload: bytes) -> CodecFault:
    with pytest.raises(CodecFault) as caught:
        decode_value_untrusted(payload)
    return caught.value


def pandas_frame() -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "count": [1, 2, 3],
            "small": pandas.array([1, 2, 3], dtype="uint8"),
            "some": pandas.array([1, None, 3], dtype="Int64"),
            "price": [1.5, float("nan"), 2.5],
            "item": ["tea", None, "coffee"],
            "kind": pandas.Categorical(["a", "b", "a"], categories=["b", "a", "c"], ordered=True),
            "when": pandas.date_range("2026-01-31", periods=3, tz="Europe/Berlin"),
            "naive": pandas.date_range("2026-01-31", periods=3),
            "took": pandas.to_timedelta([1, 2, 3], unit="s"),
            "month": pandas.period_range("2026-01", periods=3, freq="M"),
            "cost": [Decimal("1.50"), None, Decimal("2.25")],
            "is_on": [True, False, True],
        },
        index=pandas.Index([10, 20, 30], name="id"),
    )


# -- pandas -------------------------------------------------------------------------------------------


def test_a_frame_of_pandas_keeps_types_index_times_and_categories() -> None:
    frame = pandas_frame()
    pandas.testing.assert_frame_equal(sent(frame), frame)
    back = sent({"frames": [frame, 1]})
    pandas.testing.assert_frame_equal(cast("dict[str, list[object]]", back)["frames"][0], frame)


@pytest.mark.parametrize(
    "index",
    [
        lambda: pandas.RangeIndex(5, 2, -1),
        lambda: pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["x", "y"]),
        lambda: pandas.date_range("2026-01-31", periods=3, freq="D"),
        lambda: pandas.Index(["a", "b", "c"]),
    ],
    ids=["range", "multi", "dates", "text"],
)
def test_an_index_of_pandas_is_kept(index: object) -> None:
    assert callable(index)
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": [1.0, 2.0, 3.0]}, index=index())
    pandas.testing.assert_frame_equal(sent(frame), frame)


def test_an_empty_frame_of_pandas() -> None:
    for frame in (pandas.DataFrame(), pandas.DataFrame({"a": []}), pandas.DataFrame(index=[1, 2])):
        pandas.testing.assert_frame_equal(sent(frame), frame)


@pytest.mark.parametrize("name", ["price", None, 7, ("a", 1)])
def test_a_series_of_pandas_keeps_name_and_index(name: object) -> None:
    series = pandas.Series([1.5, 2.5], index=["a", "b"], name=name)
    pandas.testing.assert_series_equal(sent(series), series)


def test_a_frame_that_arrow_cannot_express_is_refused_with_what_to_send_instead() -> None:
    frame = pandas.DataFrame({"a": [1, "x", object()]})
    with pytest.raises(CannotSend, match=r"type DataFrame \(Arrow.*send a list of dicts") as caught:
        encode_sendable([frame])
    assert caught.value.path == "[0]"
    with pytest.raises(CannotSend, match="its columns have names of several types"):
        encode_sendable(pandas.DataFrame({"a": [1], 7: [1]}))
    numbered = pandas.DataFrame({7: [1], 8: [2]})
    pandas.testing.assert_frame_equal(sent(numbered), numbered)


def test_subclasses_are_refused() -> None:
    class Places(pandas.DataFrame):  # type: ignore[misc]  # mypy does not see pandas
        pass

    with pytest.raises(CannotSend, match="Places: send a list of dicts"):
        encode_sendable(Places({"a": [1]}))
    with pytest.raises(CannotSend, match=r"send a DataFrame, such as \.collect\(\)"):
        encode_sendable(polars.LazyFrame({"a": [1]}))
    with pytest.raises(CannotSend, match="send a table, such as"):
        encode_sendable(pyarrow.array([1]))


def objects(*values: object) -> pandas.DataFrame:
    """Return a frame with one column of objects."""
    column = pandas.Series([None] * len(values), dtype=object)
    for row, value in enumerate(values):
        column.at[row] = value
    return pandas.DataFrame({"a": [1] * len(values), "o": column})


BERLIN = datetime.timezone(datetime.timedelta(hours=1))
DAY = datetime.datetime(2026, 1, 31, 12)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2], [2**53 + 1, None], [1.5, None], ["a", None], ["a", "b"], [True, None], [b"a", None],
        [DAY.date(), None], [DAY, None], [DAY.replace(tzinfo=BERLIN)], [DAY.time()],
        [datetime.timedelta(1), None], [Decimal("1.5")], [uuid.UUID(int=5)], [[1], [2, 3]], [None],
        [{"a": 1}, {"a": 2}], [{"a": [1.5]}],
    ],
    ids=str,
)  # fmt: skip
def test_objects_in_a_column_arrive_as_they_were(values: list[object]) -> None:
    back = cast("pandas.DataFrame", sent(objects(*values)))
    assert back["o"].dtype == object
    assert back["o"].tolist() == values
    assert list(map(type, back["o"])) == list(map(type, values))
    (series,) = cast("list[pandas.Series]", sent([objects(*values)["o"]]))
    assert series.dtype == object
    assert series.tolist() == values


def test_missing_objects_arrive_as_none_and_scalars_of_numpy_as_numbers() -> None:
    for missing in (float("nan"), pandas.NA, pandas.NaT):
        assert sent(objects("a", missing))["o"].tolist() == ["a", None]  # type: ignore[index]  # a frame
    nothing = sent(objects(1.5, float("nan")))["o"].tolist()  # type: ignore[index]  # likewise
    assert nothing == [1.5, None]
    numbers = sent(objects(numpy.float64(1.5)))["o"].tolist()  # type: ignore[index]  # likewise
    assert type(numbers[0]) is float


def test_arrays_in_a_column_arrive_as_arrays() -> None:
    back = cast("pandas.DataFrame", sent(objects(numpy.array([1.5, 2]), numpy.array([3.0, 4]))))
    assert [each.tolist() for each in back["o"]] == [[1.5, 2], [3, 4]]
    assert type(back["o"][0]) is numpy.ndarray


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([DAY.date(), DAY], "the datetime in row 1 would arrive as a date"),
        ([{"a": 1}, {"b": 2}], "the dict in row 0 would arrive as another dict"),
        (
            [DAY, DAY.replace(tzinfo=BERLIN)],
            "would arrive as another datetime",
        ),
        ([DAY.replace(tzinfo=BERLIN), DAY.replace(tzinfo=datetime.UTC)], "as another datetime"),
        ([pandas.Timestamp(1500)], "the Timestamp in row 0 would arrive as a datetime"),
        ([pandas.Timedelta(5, "ns")], "the Timedelta in row 0 would arrive as a timedelta"),
        ([(1, 2)], "the tuple in row 0 would arrive as a list"),
        ([{1, 2}], "the set in row 0 would arrive as a list"),
        ([[1], [1.5]], "the list in row 0 would arrive as another list"),
    ],
    ids=str,
)
def test_objects_that_arrow_would_change_are_refused(values: list[object], said: str) -> None:
    with pytest.raises(CannotSend) as caught:
        encode_sendable([objects(*values)])
    assert "a DataFrame whose column 'o' would change: " in str(caught.value)
    assert said in str(caught.value)
    assert "frame['o'].infer_objects() or .astype(str)" in str(caught.value)
    assert caught.value.path == "[0]"
    with pytest.raises(CannotSend, match="a Series whose content would change"):
        encode_sendable(objects(*values)["o"])


@pytest.mark.parametrize(
    "column",
    [
        lambda: pandas.cut(pandas.Series([1, 2, 3]), 2),
        lambda: pandas.Categorical(pandas.period_range("2026-01", periods=2, freq="M")),
        lambda: pandas.Categorical(pandas.date_range("2026-01-01", periods=2, tz="Europe/Berlin")),
        lambda: pandas.Categorical([(1, 2)]),
    ],
    ids=["intervals", "periods", "zone", "tuples"],
)
def test_categories_that_arrow_does_not_keep_are_refused(column: object) -> None:
    assert callable(column)
    with pytest.raises(
        CannotSend, match=r"column 'c' has a type that Arrow does not keep .*\['c'\].astype\(str\)"
    ):
        encode_sendable(pandas.DataFrame({"c": column()}))


def test_categories_of_dates_and_columns_of_intervals_are_kept() -> None:
    frame = pandas.DataFrame(
        {
            "day": pandas.Categorical([DAY.date()] * 2),
            "size": pandas.interval_range(0, 2),
            "short": pandas.array(["a", None], dtype="string"),
        }
    )
    pandas.testing.assert_frame_equal(sent(frame), frame)


def test_nanoseconds_and_missing_times_beside_frames_are_refused() -> None:
    with pytest.raises(CannotSend, match=r"Timedelta .* has nanoseconds: send text") as caught:
        encode_sendable({"took": pandas.Timedelta(1500, "ns")})
    assert caught.value.path == "['took']"
    assert sent(pandas.Timedelta(1, "us")) == datetime.timedelta(microseconds=1)
    with pytest.raises(ValueError, match="has nanoseconds"):
        dump_json(pandas.Timedelta(1500, "ns"))
    with pytest.raises(CannotSend, match="the NaTType NaT: send None instead"):
        encode_sendable(pandas.NaT)


def test_a_row_is_refused_with_the_advice_to_send_a_dict() -> None:
    with pytest.raises(CannotSend, match=r"\.tolist\(\), or a dict, such as \.to_dict\(\)"):
        encode_sendable(pandas.DataFrame({"a": [1], "b": ["x"]}).iloc[0])


def test_names_that_arrow_would_change_are_refused() -> None:
    for columns in ([True, False], pandas.period_range("2026-01", periods=2, freq="M")):
        with pytest.raises(CannotSend, match="whose names of columns Arrow would change"):
            encode_sendable(pandas.DataFrame([[1, 2]], columns=columns))
    for index in ([2**53 + 1, None], [DAY.date(), DAY]):
        frame = pandas.DataFrame({"a": [1, 2]}, index=pandas.Index(index, dtype=object))
        with pytest.raises(CannotSend, match=r"whose index Arrow would change.*\.reset_index\(\)"):
            encode_sendable(frame)
    intervals = pandas.DataFrame(
        {"a": [1, 2]}, index=pandas.Categorical(pandas.interval_range(0, 2))
    )
    with pytest.raises(CannotSend, match="whose index Arrow would change"):
        encode_sendable(intervals)
    numbered = pandas.DataFrame([[1, 2]], columns=pandas.Index(["a", "b"], name=7))
    pandas.testing.assert_frame_equal(sent(numbered), numbered)
    dates = pandas.DataFrame([[1, 2]], columns=pandas.date_range("2026-01-31", periods=2))
    pandas.testing.assert_frame_equal(sent(dates), dates, check_freq=False, check_column_type=False)
    days = pandas.DataFrame({"a": [1]}, index=pandas.Index([DAY.date()], dtype=object))
    pandas.testing.assert_frame_equal(sent(days), days)


def test_a_frequency_without_a_text_is_not_kept() -> None:
    days = pandas.offsets.CustomBusinessDay(holidays=["2026-01-30"])
    index = pandas.date_range("2026-01-29", periods=2, freq=days)
    back = sent(pandas.DataFrame({"a": [1, 2]}, index=index))
    assert cast("pandas.DataFrame", back).index.tolist() == index.tolist()


# -- polars -------------------------------------------------------------------------------------------


def test_a_frame_of_polars_keeps_its_types() -> None:
    frame = polars.DataFrame(
        {
            "item": ["tea", None, "coffee"],
            "kind": polars.Series(["a", "b", "a"], dtype=polars.Enum(["b", "a"])),
            "word": polars.Series(["a", "b", "a"], dtype=polars.Categorical),
            "small": polars.Series([1, 2, 3], dtype=polars.UInt8),
            "when": [datetime.datetime(2026, 1, 31)] * 3,
            "many": [[1], [], [2, 3]],
            "pair": [{"x": 1}, {"x": 2}, {"x": 3}],
        }
    )
    back = sent(frame)
    polars.testing.assert_frame_equal(back, frame)
    assert cast("polars.DataFrame", back).schema == frame.schema
    series = polars.Series("price", [1.5, None])
    polars.testing.assert_series_equal(sent([series])[0], series)  # type: ignore[index]  # a list


def test_objects_in_a_frame_of_polars_are_refused() -> None:
    frame = polars.DataFrame({"a": [1], "o": polars.Series([object()], dtype=polars.Object)})
    with pytest.raises(CannotSend, match="column 'o' has Python objects"):
        encode_sendable(frame)


# -- pyarrow ------------------------------------------------------------------------------------------


def test_a_table_and_a_batch_of_pyarrow() -> None:
    table = pyarrow.table({"a": pyarrow.chunked_array([[1, 2], [3]]), "b": ["x", None, "z"]})
    table = table.replace_schema_metadata({"by": "me"})
    back = sent(table)
    assert cast("pyarrow.Table", back).equals(table, check_metadata=True)
    batch = pyarrow.record_batch({"a": [1, 2], "b": [None, "x"]})
    assert cast("pyarrow.RecordBatch", sent(batch)).equals(batch)
    empty = pyarrow.table({"a": pyarrow.array([], pyarrow.int64())})
    assert cast("pyarrow.Table", sent(empty)).equals(empty)


def test_a_large_table_is_a_view_of_the_payload() -> None:
    payload, is_cbor = encode_sendable([pyarrow.table({"a": list(range(100_000))})])
    assert isinstance(payload, Bundle)
    received = bytearray(bytes(payload))
    (table,) = cast("list[pyarrow.Table]", decode_result(memoryview(received), is_cbor))
    at = received.index(struct.pack("<3q", 0, 1, 2))
    received[at : at + 8] = struct.pack("<q", 99)
    assert table["a"][0].as_py() == 99


# -- from a peer --------------------------------------------------------------------------------------


def test_bytes_are_accepted_as_a_content() -> None:
    table = pyarrow.table({"a": [1]})
    back = decode_value_untrusted(coded(stream_of(table)))
    assert cast("pyarrow.Table", back).equals(table)


def message(*, kind: int = 1, rows: int | None = None, back: int = 12) -> bytes:
    """Return the head of a message: a root, places of fields, a table of them, and perhaps a batch."""
    places = struct.pack("<6H", 12, 12, 0, 4, 0 if rows is None else 8, 0)
    data = struct.pack("<I", 16) + places + struct.pack("<iB3xI", back, kind, 12)
    if rows is not None:
        data += struct.pack("<3H2xiq", 6, 12, 4, 8, rows)
    return struct.pack("<Ii", 0xFFFFFFFF, len(data)) + data


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (1, "pyarrow.Table", "the bytes of an Arrow IPC stream"),
        (b"", "pyarrow.Table", "incomplete"),
        (b"ARROW1\0\0", "pandas.DataFrame", "not an Arrow IPC stream"),
        (b"\xff" * 8, "polars.DataFrame", "not an Arrow IPC stream"),
        (
            b"\xff" * 4 + b"\x10\0\0\0" + bytes(16),
            "pyarrow.Table",
            "not an Arrow IPC stream|incomplete",
        ),
        (message(kind=3), "pyarrow.Table", "a message without a content"),
        (message(kind=3, rows=-1), "pyarrow.Table", "a negative number of rows"),
        (message(back=1 << 20), "pyarrow.Table", "a table without fields"),
        (b"", "pandas.Series", "not a series: a list of a stream and a name"),
    ],
)
def test_s6_bytes_that_are_no_stream_are_refused(content: object, name: str, said: str) -> None:
    fault = fault_of(coded(content, name))
    assert (fault.code, fault.name) == ("codec_failed", name)
    assert any(each in str(fault) for each in said.split("|"))


def test_s7_a_compressed_stream_is_refused() -> None:
    table = pyarrow.table({"a": pyarrow.repeat(0, 1_000_000)})
    stream = stream_of(table, compression="zstd")
    assert len(stream) < 20_000
    for name in "pyarrow.Table", "pandas.DataFrame", "polars.DataFrame":
        assert "compressed" in str(fault_of(coded(stream, name)))
    words = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 9, "int32"), ["x" * 100_000])
    stream = stream_of(pyarrow.table({"a": words}), compression="zstd")
    assert "compressed" in str(fault_of(coded(stream)))
    assert (
        type(decode_value_untrusted(coded(stream_of(pyarrow.table({"a": words}))))) is pyarrow.Table
    )


def test_s6_rows_that_take_no_bytes_are_refused() -> None:
    table = pyarrow.table({"a": pyarrow.nulls(1 << 25)})
    stream = stream_of(table)
    assert len(stream) < 1000
    assert "far more rows than bytes" in str(fault_of(coded(stream)))
    few = pyarrow.table({"a": pyarrow.nulls(1000)})
    assert cast("pyarrow.Table", decode_value_untrusted(coded(stream_of(few)))).equals(few)


def test_s6_rows_inside_of_lists_that_take_no_bytes_are_refused() -> None:
    inner = pyarrow.nulls(1 << 28)
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1 << 28], "int32"), inner)
    stream = stream_of(pyarrow.table({"a": lists}))
    assert len(stream) < 1000
    assert "far more rows than bytes" in str(fault_of(coded(stream)))


def noted(notes: str, frame: pandas.DataFrame | None = None) -> bytes:
    """Return a frame of pandas with these notes for its receiver."""
    table = pyarrow.Table.from_pandas(pandas.DataFrame({"a": ["x"]}) if frame is None else frame)
    table = table.replace_schema_metadata({**table.schema.metadata, "spear": notes})
    return coded(stream_of(table), "pandas.DataFrame")


@pytest.mark.parametrize(
    "notes", ["1", "{", '{"objects": 1}', '{"objects": [1]}', '{"objects": [-1]}', '{"objects": [true]}']
)  # fmt: skip
def test_s6_notes_that_do_not_fit_are_refused(notes: str) -> None:
    assert fault_of(noted(notes)).code == "codec_failed"


def test_s6_notes_do_not_make_a_text_once_for_each_row() -> None:
    words = pandas.DataFrame({"a": pandas.Categorical(["x" * 1000] * 3)})
    assert "a column without objects" in str(fault_of(noted('{"objects": [0]}', words)))


def test_a_frequency_that_does_not_fit_is_not_set() -> None:
    frame = pandas.DataFrame({"a": [1, 2]}, index=pandas.date_range("2026-01-31", periods=2))
    for text in ('"h"', '"no such"', "1", f'"{"D" * 100}"'):
        back = decode_value_untrusted(noted(f'{{"freq": {text}}}', frame))
        assert cast("pandas.DataFrame", back).index.freq is None
    text_index = pandas.DataFrame({"a": [1]}, index=["x"])
    assert type(decode_value_untrusted(noted('{"freq": "D"}', text_index))) is pandas.DataFrame


def test_s6_more_batches_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear._arrow.MAX_BATCHES", 100)  # so many take a quarter of a second
    head = stream_of(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}))[:-8]
    with pytest.raises(ValueError, match="more than 100 batches"):
        check_stream(memoryview(head * 101))


def test_s6_offsets_beyond_the_memory_are_refused() -> None:
    table = pyarrow.table({"a": ["tea"] * 8})
    stream = bytearray(stream_of(table))
    at = stream.index(struct.pack("<4i", 0, 3, 6, 9))
    stream[at + 8 : at + 12] = struct.pack("<i", 1 << 30)
    assert fault_of(coded(bytes(stream))).code == "codec_failed"


STREAM = stream_of(pyarrow.Table.from_pandas(pandas_frame()))
CLASSES = ["pyarrow.Table", "pyarrow.RecordBatch", "pandas.DataFrame", "polars.DataFrame"]


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_s6_a_changed_stream_is_refused_or_decoded(data: st.DataObject) -> None:
    stream = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    name = data.draw(st.sampled_from(CLASSES))
    for content in (bytes(stream), bytes(stream[:cut])):
        try:
            back = decode_value_untrusted(coded(content, name))
        except CodecFault:
            continue
        assert type(back).__name__ in name


def test_s6_metadata_that_lets_polars_panic_is_refused() -> None:
    kinds = polars.Series("a", ["x"], dtype=polars.Enum(["x"])).to_frame()
    stream = stream_of(kinds.to_arrow())
    assert b"1;x" in stream
    fault = fault_of(coded(stream.replace(b"1;x", b"z;x"), "polars.DataFrame"))
    assert "polars cannot make a frame of it" in str(fault)


# -- without the packages -----------------------------------------------------------------------------


def test_without_pyarrow_a_frame_is_refused_at_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pandas.DataFrame({"a": [1]})
    payload = encode_alone(frame)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = r"type DataFrame \(it needs pyarrow.*pip install 'pyarrow'\): send a list of dicts"
    with pytest.raises(CannotSend, match=said):
        encode_sendable(frame)
    fault = fault_of(payload)
    assert (fault.code, fault.name) == ("no_codec", "pandas.DataFrame")
    assert "pip install 'pyarrow'" in str(fault)
    check = build_check(pandas.DataFrame)
    assert check is not None
    assert check.impossible is pandas.DataFrame
    with pytest.raises(CannotSend, match="it needs pyarrow"):
        encode_sendable(polars.DataFrame({"a": [1]}))


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_without_its_package_a_frame_cannot_arrive(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = (pandas if package == "pandas" else polars).DataFrame({"a": [1]})
    payload = encode_alone(frame)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install '{package}'" in str(fault_of(payload))


def test_an_old_pyarrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyarrow, "__version__", "14.0.0")
    with pytest.raises(CannotSend, match="pip install 'pyarrow>=15'"):
        encode_sendable(pyarrow.table({"a": [1]}))


# -- other forms --------------------------------------------------------------------------------------


def test_json_has_rows() -> None:
    rows = '[{"a": 1, "b": "x"}, {"a": 2, "b": null}]'
    table = pyarrow.table({"a": [1, 2], "b": ["x", None]})
    for frame in (table, table.to_pandas(), polars.from_arrow(table), table.to_batches()[0]):
        assert dump_json(frame) == dump_json(passed(frame)) == rows
    for series in (pandas.Series([1, 2]), polars.Series([1, 2])):
        assert dump_json(passed([series])) == "[[1, 2]]"
    day = pandas.DataFrame({"day": pandas.to_datetime(["2026-01-31"])}, index=["x"])
    assert dump_json(day) == (
        '[{"day": {"$datetime": "2026-01-31T00:00:00"}, "__index_level_0__": "x"}]'
    )


def test_json_of_a_large_frame_is_refused() -> None:
    table = pyarrow.table({"a": pyarrow.nulls(MAX_ELEMENTS // 2 + 1, pyarrow.int8())})
    table = table.append_column("b", table["a"])
    with pytest.raises(ValueError, match="a frame of 1048578 cells; at most 1048576 become JSON"):
        dump_json(passed(table))


def converted(annotation: object, value: object) -> object:
    check = build_check(annotation)
    assert check is not None
    return check(value)


def test_an_annotation_takes_frames_of_every_kind_and_rows() -> None:
    table = pyarrow.table({"a": [1, 2], "b": ["x", None]})
    in_pandas, in_polars = table.to_pandas(), polars.from_arrow(table)
    rows = [{"a": 1, "b": "x"}, {"a": 2}]
    for value in (table, table.to_batches()[0], in_pandas, in_polars, rows):
        assert (
            cast("pyarrow.Table", converted(pyarrow.Table, value)).to_pydict() == table.to_pydict()
        )
        polars.testing.assert_frame_equal(converted(polars.DataFrame, value), in_polars)
        made = cast("pandas.DataFrame", converted(pandas.DataFrame, value))
        assert made["a"].tolist() == [1, 2]
        assert made["b"].isna().tolist() == [False, True]
    assert cast("pandas.Series", converted(pandas.Series, [1, 2])).tolist() == [1, 2]
    assert cast("polars.Series", converted(polars.Series, [1, 2])).to_list() == [1, 2]


@pytest.mark.parametrize("value", [1, "a", [1], [{"a": 1}, 1], pandas.Series([1])], ids=str)
def test_what_is_no_frame_does_not_fit(value: object) -> None:
    with pytest.raises(Mismatch, match="expected DataFrame, got"):
        converted(pandas.DataFrame, value)
    with pytest.raises(Mismatch, match="expected RecordBatch, got"):
        converted(pyarrow.RecordBatch, value)


def test_a_frame_is_no_series_and_no_batch() -> None:
    table, wanted = pyarrow.table({"a": [1]}), "send a {} of {}, or a list"
    for cls in (pandas.Series, polars.Series, pyarrow.RecordBatch):
        package, name = cls.__module__.partition(".")[0], cls.__name__
        with pytest.raises(Mismatch, match=wanted.format(name, package)):
            converted(cls, table)
    with pytest.raises(Mismatch, match="send a Series of polars, or a list"):
        converted(polars.Series, pandas.Series([1]))


def test_rows_become_the_class_that_is_wanted() -> None:
    for cls in (pyarrow.RecordBatch, pyarrow.Table):
        made = converted(cls, [{"a": 1}, {"b": "x"}])
        assert type(made) is cls
        assert cast("pyarrow.Table", made).to_pydict() == {"a": [1, None], "b": [None, "x"]}


async def test_a_function_that_takes_and_gives_frames() -> None:
    app = spear.Agent("frames")

    @app.function
    def total(frame: pandas.DataFrame) -> pandas.DataFrame:
        return frame.groupby("item").sum()

    frame = pandas.DataFrame({"item": ["a", "b", "a"], "price": [1.5, 2.5, 3.5]})
    async with spear.open_spearlet() as spearlet:
        deployed = await spearlet.deploy(app)
        for value in (frame, polars.from_pandas(frame)):
            pandas.testing.assert_frame_equal(
                await deployed.total(value), frame.groupby("item").sum()
            )
        typed = deployed.total.options(returns=polars.DataFrame)
        result: object = await typed(frame)
        assert type(result) is polars.DataFrame
        with pytest.raises(
            spear.InvalidArguments, match=r"total\(frame=\.\.\.\): expected DataFrame"
        ):
            await deployed.total(1)


def test_columns_of_pandas_hold_the_numbers_of_an_array() -> None:
    made = sent(numpy.arange(3.0))
    assert type(made) is Array
    frame = pandas.DataFrame({"a": [1, 2, 3]})
    frame["z"] = made
    assert frame["z"].tolist() == [0, 1, 2]
    assert frame["z"].dtype == "float64"
    assert pandas.Series(made).tolist() == pyarrow.array(made).to_pylist() == [0, 1, 2]


def test_an_array_of_other_elements_is_no_stream() -> None:
    array = Array(stream_of(pyarrow.table({"a": [1]})), "|u1")
    assert type(decode_value_untrusted(encode_alone(array))) is Array
