"""A small file of columns or of groups of records that becomes gigabytes is refused before it is unpacked."""

import contextlib
import io
import struct

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from file_formats import WRITTEN

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.records import pages, unpacked

LONG, TIMES = 3_000_000, 300
SLACK = 600_000_000
"""Bytes of Arrow's memory for what is unpacked at one time; each bomb would take more."""
REFUSED = r": this record has more than [\d,]+ bytes, .*--max-record-mb"


def read(path, **how):
    files = records.Files([path], records.Reading(**how))
    for block in records.blocks(files):
        for _, record, _ in records.read_block(block):
            yield record


def pointed(times, text="x" * LONG):
    """A column of which every value points to one text."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(times, np.int32)), [text])


def in_lists(times, text="x" * LONG):
    return pyarrow.ListArray.from_arrays([0, times], pointed(times, text))


def write(path, column, **how):
    table = pyarrow.table({"id": [f"{n}" for n in range(len(column))], "text": column})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, store_schema=False, compression="zstd")
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(path), **how)
    else:
        options = pyarrow.ipc.IpcWriteOptions(compression=how.get("compression"))
        with pyarrow.ipc.new_stream(path, table.schema, options=options) as file:
            file.write_table(table)


@pytest.mark.parametrize("name", ["a.parquet", "b.feather", "c.arrow"])
def test_a_text_that_many_rows_point_to_is_unpacked_for_a_few_rows_at_a_time(tmp_path, name):
    write(tmp_path / name, pointed(TIMES), compression="zstd")
    assert (tmp_path / name).stat().st_size < 100_000
    before = pyarrow.default_memory_pool().max_memory()
    assert sum(len(record["text"]) for record in read(tmp_path / name)) == TIMES * LONG
    assert pyarrow.default_memory_pool().max_memory() - before < SLACK


@pytest.mark.parametrize("name", ["a.parquet", "b.feather", "c.arrow"])
def test_a_list_that_points_to_one_text_again_and_again_is_a_record_that_is_too_long(tmp_path, name):
    write(tmp_path / name, in_lists(900))
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(DataError, match=rf"{name}:1{REFUSED}"):
        list(read(tmp_path / name))
    assert pyarrow.default_memory_pool().max_memory() - before < SLACK


def test_a_dictionary_of_parquet_may_have_as_many_bytes_as_a_record(tmp_path):
    write(tmp_path / "a.parquet", pointed(400))
    with pytest.raises(DataError, match=r"a\.parquet:1, row group 0" + REFUSED):
        next(read(tmp_path / "a.parquet", max_bytes=LONG - 1))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("name", ["b.feather", "c.arrow"])
def test_a_compressed_buffer_that_says_it_is_huge_is_not_unpacked(tmp_path, name, codec):
    path, size = tmp_path / name, 1_234_567
    write(path, ["x" * size], compression=codec)
    data = path.read_bytes()
    assert len(next(read(path))["text"]) == size
    offsets, _, packed = data.rpartition(struct.pack("<q", size))
    path.write_bytes(offsets + struct.pack("<q", 3 << 30) + packed)
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(DataError, match=rf"{name}:1{REFUSED}"):
        list(read(path))
    assert pyarrow.default_memory_pool().max_memory() - before < 100_000_000


def test_a_batch_of_many_rows_has_a_limit_too(tmp_path):
    write(tmp_path / "b.feather", ["x" * 39_000] * 1000, compression="zstd")
    assert len(list(read(tmp_path / "b.feather", max_bytes=2_000_000))) == 1000  # 39 MB in one batch
    with pytest.raises(DataError, match=rf"b\.feather:1{REFUSED}"):
        list(read(tmp_path / "b.feather", max_bytes=1_000_000))


def test_a_group_of_an_array_record_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    from array_record.python import array_record_module

    path = tmp_path / "a.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:3")
    for text in ("short",) * 30_000 + ("x" * LONG,) * 3:
        writer.write(b'{"text": "%s"}' % text.encode())
    writer.close()
    assert sum(len(record["text"]) for record in read(path)) == 3 * LONG + 150_000
    monkeypatch.setattr(array_record_module, "ArrayRecordReader", None)
    with pytest.raises(DataError, match=rf"a\.array_record:30001{REFUSED}"):
        next(read(path, max_bytes=1_000_000))


def varint(number):
    """A whole number as a field of a page's header holds it."""
    number, out = number << 1, b""
    while number > 127:
        number, out = number >> 7, out + bytes([number & 127 | 128])
    return out + bytes([number])


SIZE, LIE = 1_300_000, 134_000_000
"""Both have as many bytes as a varint."""


def lying(path, which, lie, **how):
    """A Parquet file of two texts of SIZE bytes, in which a number of the first header of the texts' pages lies."""
    table = pyarrow.table({"id": ["a", "b"], "text": ["x" * SIZE, "y" * SIZE]})
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False, **how)
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data = path.read_bytes()
    header, end = data[start : start + 60], start + column.total_compressed_size
    first = pages._Struct(header).struct()
    said = {"unpacked": first[2], "packed": first[3]}[which]
    assert len(varint(said)) == len(varint(lie)) and header.count(varint(said)) and end <= len(data)
    path.write_bytes(data[:start] + header.replace(varint(said), varint(lie), 1) + data[start + 60 :])
    return path


PAGES = {
    "data": {"use_dictionary": False},
    "data 2": {"use_dictionary": False, "data_page_version": "2.0"},
    "words": {},
}


@pytest.mark.parametrize("how", PAGES.values(), ids=PAGES)
def test_a_page_of_parquet_that_says_it_is_huge_is_not_unpacked(tmp_path, how):
    path = lying(tmp_path / "a.parquet", "unpacked", LIE, **how)
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(
        DataError, match=r"a\.parquet:1, row group 0: the header of a page of column 'text' .*footer says"
    ):
        list(read(path))
    assert pyarrow.default_memory_pool().max_memory() - before < 50_000_000


def test_a_page_of_parquet_that_says_it_goes_on_behind_the_file_is_damage(tmp_path):
    path = lying(tmp_path / "a.parquet", "packed", 8_000, use_dictionary=False)
    with pytest.raises(
        DataError, match=r"of column 'text' is damaged, .*: its page of 8,000 bytes goes on behind the end"
    ):
        list(read(path))


def test_a_dictionary_of_parquet_has_no_more_entries_than_bytes(tmp_path):
    small = pyarrow.table({"text": [f"{n % 100}" for n in range(200)]})
    pyarrow.parquet.write_table(small, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    data = (tmp_path / "a.parquet").read_bytes()
    own = b"\x4c\x15" + varint(100)  # the struct of a dictionary, and its first field
    assert data.count(own) == 1
    (tmp_path / "a.parquet").write_bytes(data.replace(own, b"\x4c\x15" + varint(8_000)))
    with pytest.raises(DataError, match=r"it gives 8,000 entries to a dictionary of \d+ bytes"):
        list(read(tmp_path / "a.parquet"))


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_pages_of_honest_files_hold_all_their_values_and_bytes(tmp_path, compression, version):
    rows = [
        {"a": None if n % 3 else f"t{n}", "b": [n] * (n % 4), "c": {"d": 0.5 * n, "e": n % 2 == 0}} for n in range(900)
    ]
    how = {"compression": compression, "data_page_version": version, "data_page_size": 200, "row_group_size": 400}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", write_batch_size=50, **how)
    said = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata
    size = (tmp_path / "a.parquet").stat().st_size
    with open(tmp_path / "a.parquet", "rb") as file:
        for group in range(said.num_row_groups):
            for place in range(said.num_columns):
                column = said.row_group(group).column(place)
                found = list(pages.pages(file, column, size))
                data = [page for page in found if page.kind != pages.DICTIONARY]
                assert sum(page.values for page in data) == column.num_values and len(data) > (place == 0)
                assert sum(page.unpacked for page in found) <= column.total_uncompressed_size
    assert sum(1 for _ in read(tmp_path / "a.parquet")) == 900


def test_no_damage_of_a_header_takes_long_or_is_a_traceback(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"{n % 9}" for n in range(30)]}), path)
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0)
    good, start = path.read_bytes(), column.dictionary_page_offset
    for at in range(start, start + 40):
        for byte in (0, 0x15, 0x1C, 0x19, 0x7F, 0x80, 0xFF):
            harmed = good[:at] + bytes([byte]) + good[at + 1 :]
            with contextlib.suppress(pages.Damaged):
                assert len(list(pages.pages(io.BytesIO(harmed), column, len(harmed)))) < 10


def test_the_records_of_a_tfds_dataset_have_the_limit(tmp_path):
    folder = tmp_path / "tiger/1.0.0"
    folder.parent.mkdir()
    WRITTEN["tiger/1.0.0"](folder)
    assert list(read(folder))
    with pytest.raises(DataError, match=REFUSED):
        list(read(folder, max_bytes=20))


RUNS = pyarrow.RunEndEncodedArray.from_arrays([3, 5, 9], ["aaaa", "b", "cc"])
ARRAYS = {
    "dictionary": (
        pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 0, None], pyarrow.int32()), ["x" * 40, "y"]),
        81,
    ),
    "runs": (RUNS, 22),
    "part of runs": (RUNS.slice(2, 5), 4 + 2 + 4),
    "views": (pyarrow.array(["x" * 100, "y", None], pyarrow.string_view()), 101),
    "part of views": (pyarrow.array(["x" * 100, "y", "zz"], pyarrow.string_view()).slice(1), 3),
    "lists": (in_lists(5, "x" * 10), 50),
    "objects": (pyarrow.StructArray.from_arrays([pointed(4, "x" * 10)], ["a"]), 40),
    "maps": (pyarrow.MapArray.from_arrays([0, 3], pyarrow.array(["a", "b", "c"]), pointed(3, "x" * 10)), 33),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_the_bytes_of_an_array_are_those_of_its_values(name):
    array, want = ARRAYS[name]
    [(start, _, size)] = unpacked.pieces(pyarrow.record_batch({"a": array}), 100, 1 << 30)
    assert start == 0 and want <= size <= want + 32 * len(array)


def test_pieces_are_all_rows_in_order():
    batch = pyarrow.record_batch({"a": ["x" * n for n in range(100)]})
    parts = list(unpacked.pieces(batch, 32, 400))
    assert [row for _, part, _ in parts for row in part.to_pylist()] == batch.to_pylist()
    assert [start for start, *_ in parts] == list(np.cumsum([0, *(part.num_rows for _, part, _ in parts)])[:-1])
    assert all(size <= 400 or part.num_rows == 1 for _, part, size in parts)


FORMS = (
    {},
    {"version": "1.0"},
    {"data_page_version": "2.0", "row_group_size": 7},
    {"write_statistics": False},
    {"write_page_index": True},
)


@pytest.mark.parametrize("how", FORMS)
def test_the_columns_of_a_footer_are_those_that_pyarrow_reads(tmp_path, how):
    """pyarrow 25 ends the process for the metadata of a column that contradicts itself, so the footer is read here."""
    turns = [[{"role": "user", "content": f"text {n}"}] for n in range(40)]
    table = pyarrow.table({"id": [str(n) for n in range(40)], "messages": turns, "n": [0.5] * 40, "b": [True] * 40})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, **how)
    theirs = pyarrow.parquet.ParquetFile(path).metadata
    with path.open("rb") as file:
        ours = pages.columns(file, path.stat().st_size)
    assert [len(group) for group in ours] == [len(theirs.schema)] * theirs.num_row_groups
    for number, group in enumerate(ours):
        for place, column in enumerate(group):
            their = theirs.row_group(number).column(place)
            assert column == tuple(getattr(their, name) for name in column._fields)


@pytest.mark.parametrize("name", [b"zzzq", b"yyyq"])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_column_whose_name_is_not_utf_8_is_one_line(tmp_path, form, name):
    """Found by `make fuzz`. The second is the name of a field inside a column."""
    table, path = pyarrow.table({"id": ["a"], "text": ["x"], "zzzq": [{"yyyq": 1}]}), tmp_path / f"a.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    path.write_bytes(path.read_bytes().replace(name, b"\xec" + name[1:]))
    with pytest.raises(DataError, match=r"the name of a column is not UTF-8 .*; copy the file or write it again"):
        [*records.documents(path)]
