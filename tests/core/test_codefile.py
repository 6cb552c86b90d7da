"""Files of standing data: what is read, and what is told of a file that is not right."""

from __future__ import annotations

from datetime import date

import pytest

from spine.codefile import FILE_BYTES_MAX, parse
from spine.codelist import Attribute, CodeListed, CodeWithdrawn
from spine.errors import Invalid

PREAMBLE = """# standing-data: 1
# domain: metering
# list: areas
# source: a document, page 3
# licence: CC-BY-4.0
# A remark: whatever it says.
"""
HEADER = "code,label,effective_from,effective_to,withdrawn,host\n"
ROWS = """_A,"Eastern, mostly",2025-03-01,2025-06-01,,10

_B,Midlands,2025-03-01,,,
_C,,2025-03-01,,a slip of the pen,
"""
GOOD = (PREAMBLE + HEADER + ROWS).encode()


def test_a_file_is_one_list_with_its_source_and_licence() -> None:
    file = parse(GOOD)
    said = (date(2025, 3, 1), date(2025, 6, 1), "a document, page 3", "CC-BY-4.0")
    east = CodeListed("areas", "_A", "Eastern, mostly", (Attribute("host", "10"),), *said)
    assert (file.domain, file.list_name, file.lines) == ("metering", "areas", (8, 10, 11))
    assert (file.listed[0], file.listed[1].attributes) == (east, ())
    assert file.withdrawn == (CodeWithdrawn("areas", "_C", date(2025, 3, 1), "a slip of the pen"),)


@pytest.mark.parametrize("form", ["utf-8-sig", "crlf", "no last newline"])
def test_a_byte_order_mark_and_other_line_ends_do_no_harm(form: str) -> None:
    forms = {
        "utf-8-sig": GOOD.decode().encode("utf-8-sig"),
        "crlf": GOOD.replace(b"\n", b"\r\n"),
        "no last newline": GOOD.rstrip(),
    }
    assert parse(forms[form]) == parse(GOOD)


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        (b"", "FILE_EMPTY", "empty"),
        (b" \n\n", "FILE_EMPTY", "empty"),
        ((PREAMBLE + HEADER).encode(), "FILE_EMPTY", "no code"),
        (PREAMBLE.encode(), "FILE_EMPTY", "no code"),
        (b"\xff\xfe\x00", "FILE_UNRECOGNISED", "UTF-8"),
        (b"PK\x03\x04 a workbook", "FILE_UNRECOGNISED", "standing-data, domain, list"),
        (b"<html></html>", "FILE_UNRECOGNISED", "no file of standing data"),
        (GOOD.replace(b"# licence: CC-BY-4.0\n", b""), "FILE_UNRECOGNISED", "licence"),
        (GOOD.replace(b"CC-BY-4.0", b""), "FILE_UNRECOGNISED", "licence"),
        (GOOD.replace(b"data: 1", b"data: 2"), "FILE_UNRECOGNISED", "format 1"),
        (GOOD.replace(b"code,label", b"label,code"), "FILE_UNRECOGNISED", "columns"),
        (GOOD.replace(b",host", b",code"), "FILE_UNRECOGNISED", "columns"),
        (GOOD.replace(b"_B,", b"_B,,"), "FILE_UNREADABLE", "line 10: 7 cells"),
        (GOOD.replace(b"2025-06-01", b"01/06/2025"), "FILE_UNREADABLE", "line 8: a day"),
        (GOOD.replace(b"2025-03", b"2025-13"), "FILE_UNREADABLE", "line 8: a day is written"),
        (GOOD.replace(b"_B", b'"_B'), "FILE_UNREADABLE", "no CSV"),
        (b"#" * (FILE_BYTES_MAX + 1), "REQUEST_TOO_LARGE", "bytes"),
    ],
)
def test_refusals(data: bytes, reason: str, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse(data)
    assert refusal.value.reason == reason
    assert said in refusal.value.message


def test_every_line_at_fault_is_told_up_to_a_few() -> None:
    with pytest.raises(Invalid) as refusal:
        parse(GOOD.replace(b"2025-03-01", b"soon"))
    assert refusal.value.message.count("line ") == 3
    many = (PREAMBLE + HEADER + "x,x,soon,,,\n" * 20).encode()
    with pytest.raises(Invalid) as refusal:
        parse(many)
    assert refusal.value.message.count("line ") == 5
    assert refusal.value.message.endswith("and 15 more")
