"""The metering point of a file: named by its rows, or given by whoever sends it, never both."""

from __future__ import annotations

import re

from spine.errors import Invalid, Reason
from spine.gb import Mpan, Mprn, Mpxn


def given_mpan(mpxn: Mpxn | None, what: str) -> Mpan:
    """The MPAN given beside a file that names none."""
    if mpxn is None:
        message = f"{what} names no metering point; say which MPAN it is for"
        raise Invalid(Reason.MPXN_REQUIRED, message, field="mpxn")
    if not isinstance(mpxn, Mpan):
        message = f"{what} is electricity and needs an MPAN of 13 digits"
        raise Invalid(Reason.MPAN_FORMAT, message, field="mpxn")
    return mpxn


def given_mprn(mpxn: Mpxn | None, what: str) -> Mprn:
    """The MPRN given beside a file of gas that names none."""
    if mpxn is None:
        message = f"{what} names no metering point; say which MPRN it is for"
        raise Invalid(Reason.MPXN_REQUIRED, message, field="mpxn")
    if not isinstance(mpxn, Mprn):
        message = f"{what} is gas and needs an MPRN of 6 to 10 digits"
        raise Invalid(Reason.MPRN_FORMAT, message, field="mpxn")
    return mpxn


def none_given(mpxn: Mpxn | None, what: str) -> None:
    """Refuse a metering point beside a file that names its own."""
    if mpxn is not None:
        message = f"{what} names its own MPANs; leave the metering point out"
        raise Invalid(Reason.FIELD_INVALID, message, field="mpxn")


def mpan_in(cell: str) -> Mpan:
    """The MPAN of a cell, or Invalid with a sentence that never repeats it."""
    if not cell:
        raise Invalid(Reason.MPAN_FORMAT, "the row names no MPAN", field="mpan")
    if re.fullmatch(r"\d(\.\d+)?[eE]\+?\d+", cell, re.ASCII):
        message = "a spreadsheet has cut the MPAN down to a rounded number"
        raise Invalid(Reason.MPAN_FORMAT, message, field="mpan")
    return Mpan(cell)
