"""The fast way to read csv gives what the way for all files gives, and leaves to that what it cannot read."""

from __future__ import annotations

import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables import reading
from corefold.tables.reading import read_table
from corefold.tables.unquoted import unquoted_table

FILES = {
    "plain": "a,b\n1,x\n2,y\n",
    "blanks": " a , b\n 1, x \n\n2,y\n",
    "no name": ",b\n1,x\n,y\n",
    "gaps and words": "a,b\n,NA\nnan,\nNone,null\n",
    "no line end at the end": "a,b\n1,x\n2,y",
    "line ends of Windows": "a,b\r\n1,x\r\n\r\n2,y\r\n",
    "a mark": "\ufeffa,b\n1,é\n2,y\n",
    "Excel's line": "sep=;\na;b\n1;x\n2;y,z\n",
    "blank lines first": "\n\na,b\n1,x\n",
    "one column": "a\n1\n\n2\n",
    "semicolons": "a;b\n1,5;x\n2;y\n",
    "apostrophes": "a,b\n'1,x'\n2,y\n",
}
LEFT = {
    "quotes": 'a,b\n"1,5",x\n',
    "a lone return": "a,b\r1,x\r",
    "a zero byte": "a,b\n1,\0\n",
    "a long row": "a,b\n1,x,y\n",
    "a short row": "a,b\n1\n",
    "no rows": "a,b\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.bz2"])
def test_both_ways_read_the_same(tmp_path, monkeypatch, name, ending):
    path = tmp_path / f"t.{ending}"
    with reading_writer(path) as file:
        file.write(FILES[name].encode())
    notes, other_notes = [], []
    table = read_table(str(path), notes=notes)
    fast = unquoted_table(path, reading._dialect(path, ".csv", reading.Reading(), []), str(path))
    assert fast is not None
    monkeypatch.setattr(reading, "unquoted_table", lambda *arguments: None)
    other = read_table(str(path), notes=other_notes)
    pd.testing.assert_frame_equal(table, other)
    assert table.attrs == other.attrs
    assert notes == other_notes


def reading_writer(path):
    from corefold.tables.formats import open_bytes

    return open_bytes(path, "wb")


@pytest.mark.parametrize("name", LEFT)
def test_what_it_cannot_read_is_left_to_the_other_way(tmp_path, monkeypatch, name):
    path = tmp_path / "t.csv"
    path.write_bytes(LEFT[name].encode())
    assert unquoted_table(path, reading.Dialect(","), "t.csv") is None


def test_names_that_stand_twice_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(InputError, match="two columns with the name 'a'"):
        read_table(str(tmp_path / "t.csv"))
