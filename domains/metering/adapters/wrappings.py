"""What files come wrapped in, taken off piece by piece: gzip, UTF-16, and UTF-16 gone wrong.

An adapter sees text, whether the file was packed or in UTF-16. A program that took UTF-16 for
UTF-8 left every second byte NUL; those are dropped. A NUL that merely stands somewhere is left
where it is, and makes its own cell unreadable.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterator

from spine.errors import Invalid, Reason

# A file from its start, as often as it is asked for.
Text = Callable[[], Iterator[str]]
Content = Callable[[], Iterator[bytes]]

# How much of a file is looked at to tell what it is.
HEAD_BYTES = 8192
# The largest piece handed on, however well it was packed.
PIECE_BYTES = 1 << 16

_GZIP = zlib.MAX_WBITS | 16
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MANGLED_MARK = "\ufffd".encode()
# Of a table in UTF-16 half the bytes are NUL; of no other text more than a few.
_NULS_OF_UTF16 = 3


def is_packed(head: bytes) -> bool:
    """Whether a file that starts so is a gzip file."""
    return head.startswith(_GZIP_MAGIC)


def with_head(pieces: Iterator[bytes], size: int = HEAD_BYTES) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, `size` if there are so many, and all the pieces with them."""
    head = b""
    while len(head) < size and (piece := next(pieces, None)) is not None:
        head += piece
    return head, _before(head, pieces)


def _before(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from pieces


def unpacked(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content of a gzip file, or the same pieces; Invalid(FILE_UNREADABLE) where it breaks."""
    head, pieces = with_head(pieces, len(_GZIP_MAGIC))
    if not is_packed(head):
        yield from pieces
        return
    try:
        yield from _inflated(pieces)
    except (zlib.error, EOFError) as error:
        message = f"{name} is a damaged gzip file"
        raise Invalid(Reason.FILE_UNREADABLE, message, field="file") from error


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """One gzip member after the other; NUL bytes behind the last are padding."""
    inflate = zlib.decompressobj(_GZIP)
    begun = False
    for piece in pieces:
        packed = piece
        while packed:
            if inflate.eof:
                inflate, begun = zlib.decompressobj(_GZIP), False
            if not begun and not (packed := packed.lstrip(b"\0")):
                break
            begun = True
            if some := inflate.decompress(packed, PIECE_BYTES):
                yield some
            packed = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    if begun and not inflate.eof:
        raise EOFError


def decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """The text without its mark; what is no UTF-8 becomes U+FFFD, as nothing else may stop."""
    head, pieces = with_head(pieces)
    encoding, mangled = "utf-8-sig", is_mangled(head)
    if head.startswith(_UTF16_MARKS):
        encoding = "utf-16"
    elif mangled:
        pieces = _without_nuls(pieces)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", True):
        yield text


def is_mangled(head: bytes) -> bool:
    """Whether a text that starts so is UTF-16 that some program took for UTF-8."""
    return head.count(0) * _NULS_OF_UTF16 > len(head)


def _without_nuls(pieces: Iterator[bytes]) -> Iterator[bytes]:
    head, pieces = with_head(pieces)
    next(pieces, None)
    head = head.replace(b"\0", b"")
    while head.startswith(_MANGLED_MARK):
        head = head.removeprefix(_MANGLED_MARK)
    yield head
    for piece in pieces:
        yield piece.replace(b"\0", b"")


def head_of(first_bytes: bytes) -> str:
    """The first characters of a file that starts so, unwrapped as far as they go."""
    if is_packed(first_bytes):
        try:
            first_bytes = zlib.decompressobj(wbits=_GZIP).decompress(first_bytes, HEAD_BYTES)
        except zlib.error:
            return ""
    return "".join(decoded(iter([first_bytes[:HEAD_BYTES]])))
