"""Signed notes, checkpoints and cosignatures, as C2SP has them."""

from __future__ import annotations

import contextlib
from base64 import b64decode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from spine.ledger import verifier
from spine.ledger.note import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    MalformedNote,
    Note,
    VerifierKey,
    cosign,
    sign,
)
from spine.signing import public_bytes, verify

# The example of golang.org/x/mod/sumdb/note, which the format comes from.
PUBLISHED_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PUBLISHED_NOTE = """\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNX\
gKvqfqdngotpRZb6KE6RyyBwJnAM=
"""
LOG = Ed25519PrivateKey.from_private_bytes(bytes(32))
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
LOG_KEY = VerifierKey("example.com/log", ED25519, public_bytes(LOG))
WITNESS_KEY = VerifierKey("example.com/w", COSIGNATURE, public_bytes(WITNESS))
HEAD = Checkpoint("example.com/log", 7, bytes(range(32)))
TEXT = HEAD.text()
NOTE = Note(
    TEXT,
    (
        sign(TEXT, LOG_KEY, LOG.sign),
        cosign(TEXT, 1_679_315_147, WITNESS_KEY, WITNESS.sign),
    ),
)


def test_the_published_note_is_signed_by_the_published_key() -> None:
    key = VerifierKey.parse(PUBLISHED_KEY)
    note = Note.parse(PUBLISHED_NOTE)
    assert note.signed_by(key, verify) == 0
    assert str(note) == PUBLISHED_NOTE and str(key) == PUBLISHED_KEY
    assert replace(note, text=note.text.replace("your", "my")).signed_by(key, verify) is None


def test_a_signature_is_written_one_way_though_base64_has_bits_to_spare() -> None:
    """Read naively, another last character is the same signature."""
    first, second = (line.split(" ")[2] for line in str(NOTE).splitlines()[-2:])
    for encoded in (first, second):
        last = encoded.rstrip("=")[-1]
        other = encoded.replace(f"{last}=", f"{chr(ord(last) + 1)}=")
        assert other != encoded and b64decode(other) == b64decode(encoded)
        with pytest.raises(MalformedNote):
            Note.parse(str(NOTE).replace(encoded, other))


def test_a_checkpoint_is_signed_and_cosigned() -> None:
    again = Note.parse(str(NOTE))
    assert again == NOTE
    assert Checkpoint.parse(again.text) == HEAD
    assert again.signed_by(LOG_KEY, verify) == 0
    assert again.signed_by(WITNESS_KEY, verify) == 1_679_315_147


def test_the_log_cannot_cosign_for_a_witness_nor_the_other_way() -> None:
    as_witness = replace(LOG_KEY, kind=COSIGNATURE)
    assert NOTE.signed_by(as_witness, verify) is None
    assert NOTE.signed_by(replace(WITNESS_KEY, kind=ED25519), verify) is None
    assert NOTE.signed_by(replace(WITNESS_KEY, name="example.com/v"), verify) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/log\n7\n",
        TEXT + "more\n",
        TEXT.replace("\n7\n", "\n07\n"),
        TEXT.replace("\n7\n", "\n-7\n"),
        TEXT.replace("\n7\n", "\n+7\n"),
        "example.com/log\n7\nAAAA\n",
        TEXT.rstrip("\n"),
    ],
)
def test_nothing_else_is_a_checkpoint(text: str) -> None:
    with pytest.raises(MalformedNote):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\nno mark\n",
        f"{TEXT}\n\u2014 a b+c\n",
        str(NOTE).replace("\n7\n", "\n\x007\n"),
        f"{TEXT}\n" + NOTE.signatures[0].line() * 65,
    ],
)
def test_nothing_else_is_a_note(raw: str) -> None:
    with pytest.raises(MalformedNote):
        Note.parse(raw)


@given(st.text())
def test_whatever_comes_is_a_note_or_malformed(raw: str) -> None:
    with contextlib.suppress(MalformedNote):
        assert str(Note.parse(raw)) == raw


def test_a_key_that_does_not_match_its_id_is_none() -> None:
    for wrong in ("", "a+b", PUBLISHED_KEY.replace("c74f", "c74e"), PUBLISHED_KEY[:-4]):
        with pytest.raises(MalformedNote):
            VerifierKey.parse(wrong)


def test_the_verifier_wants_the_log_and_enough_witnesses() -> None:
    keys = verifier.Keys(str(LOG_KEY), (str(WITNESS_KEY),), 1)
    head = verifier.check_note(str(NOTE), keys)
    assert (head.size, head.root, head.cosigned_by) == (7, HEAD.root, ("example.com/w",))
    alone = Note(TEXT, NOTE.signatures[:1])
    verifier.check_note(str(alone), replace(keys, quorum=0))
    with pytest.raises(verifier.Wrong, match="0 of 1 witnesses"):
        verifier.check_note(str(alone), keys)
    with pytest.raises(verifier.Wrong, match="the log did not sign"):
        verifier.check_note(str(Note(TEXT, NOTE.signatures[1:])), keys)
    with pytest.raises(verifier.Wrong, match=r"1 of 1 witnesses .*, 2 must have"):
        twice = replace(keys, witnesses=(str(WITNESS_KEY),) * 2, quorum=2)
        verifier.check_note(str(NOTE), twice)
