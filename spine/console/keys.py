"""The keys that an audit has at hand for answers that showed what is sealed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from domains.consumers.erasure import Erasure, Standing
from spine import trust
from spine.errors import Invalid, Refused
from spine.event import Sealed
from spine.log import LogReader
from spine.runtime import Runtime
from spine.sealing import VAULT_FILE, Opened, Vault
from spine.verdict import ERASED, KEYS_NOT_AT_HAND, RESTRICTED, unread


class KeysAtHand:
    """Opens what an audited answer showed, as far as that may still be done.

    What the log says of the subject comes first: an old copy of the vault opens nothing of who was
    erased, nor, for an audit, of who is restricted.
    """

    def __init__(self, this: Runtime, vault: Path | None) -> None:
        """`vault`: its file; None is the data folder's own, if there is one that can be read.

        Invalid(FILE_UNREADABLE) if the file named is no vault.
        """
        self._vault = _own(this) if vault is None else Vault.look_into(vault)
        self._erasures = this.memory_fold(trust.ERASURES_TOPIC, 0)
        self._open_reader = this.reader
        self._reader: LogReader | None = None

    def __call__(self, subject: str, sealed: Sequence[Sealed]) -> Opened | str:
        """What the sealed fields of a subject say; or why that cannot be told.

        The log is read on each time: who is erased while an audit lasts is erased for it as well.
        """
        self._read_on()
        if why := self._why_not(subject):
            return why
        if (opened := self._opened(subject, sealed)) is not None:
            return opened
        self._read_on()  # it may have been erased since
        return self._why_not(subject) or KEYS_NOT_AT_HAND

    def close(self) -> None:
        """Let go of the vault and the log."""
        if self._reader is not None:
            self._reader.close()
        if self._vault is not None:
            self._vault.close()

    def _opened(self, subject: str, sealed: Sequence[Sealed]) -> Opened | None:
        """None without the very keys with which these were sealed: others make another digest."""
        if self._vault is None:
            return None
        try:
            opened = self._vault.open_for(subject, sealed)
        except (Refused, sqlite3.Error):
            return None
        return None if opened is None or opened.strange else opened

    def _read_on(self) -> None:
        if self._reader is None:
            self._reader = self._open_reader()
        head = self._erasures.head
        begin = 0 if head is None else head.next_offset
        for record in self._reader.read(trust.ERASURES_TOPIC, 0, begin):
            self._erasures.apply(record)

    def _why_not(self, subject: str) -> str:
        if unknown := unread(self._erasures, subject):
            return unknown
        erasure: Erasure = self._erasures.subject(subject).state
        standings = {Standing.ERASED: ERASED, Standing.RESTRICTED: RESTRICTED}
        return standings.get(Standing(erasure.standing), "")


def _own(this: Runtime) -> Vault | None:
    """The data folder's own vault. One that cannot be read opens nothing, and ends no audit."""
    path = this.settings.data_dir / VAULT_FILE
    try:
        return Vault.look_into(path) if path.exists() else None
    except Invalid:
        return None
