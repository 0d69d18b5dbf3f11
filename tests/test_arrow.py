"""Tables and data frames: each arrives as it was; a stream that would fill the memory is refused."""

from __future__ import annotations

import datetime
import struct
import sys
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
    import pandas
    import polars
    import polars.testing
    import pyarrow
else:
    REASON = "installed under the main interpreter only"
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
    pandas.testing.assert_frame_equal(sent(frame), frame, check_freq=False)


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


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_s6_a_changed_stream_is_refused_or_decoded(data: st.DataObject) -> None:
    stream = bytearray(stream_of(pyarrow.Table.from_pandas(pandas_frame())))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    for content in (bytes(stream), bytes(stream[:cut])):
        for name in (
            "pyarrow.Table",
            "pyarrow.RecordBatch",
            "pandas.DataFrame",
            "polars.DataFrame",
        ):
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
    for cls in (pandas.Series, polars.Series, pyarrow.RecordBatch):
        with pytest.raises(Mismatch, match="a frame has several columns"):
            converted(cls, pyarrow.table({"a": [1]}))


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


def test_an_array_of_other_elements_is_no_stream() -> None:
    array = Array(stream_of(pyarrow.table({"a": [1]})), "|u1")
    assert type(decode_value_untrusted(encode_alone(array))) is Array
