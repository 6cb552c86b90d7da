"""The keys that an audit has at hand for answers that showed what is sealed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from domains.consumers.erasure import Erasure, Standing
from spine import trust
from spine.errors import Refused
from spine.event import Sealed
from spine.runtime import Runtime
from spine.sealing import VAULT_FILE, Opened, Vault
from spine.verdict import ERASED, KEYS_NOT_AT_HAND, RESTRICTED, unread


class KeysAtHand:
    """Opens what an audited answer showed, as far as that may still be done.

    What the log says of the subject comes first: an old copy of the vault opens nothing of who was
    erased, nor, for an audit, of who is restricted.
    """

    def __init__(self, this: Runtime, vault: Path | None) -> None:
        """`vault`: its file; None is the data folder's own, if there is one.

        Invalid(FILE_UNREADABLE) if the file named is no vault.
        """
        own = this.settings.data_dir / VAULT_FILE
        path = own if vault is None and own.exists() else vault
        self._vault = None if path is None else Vault.look_into(path)
        self._this = this
        self._erasures = this.memory_fold(trust.ERASURES_TOPIC, 0)
        self._read = False

    def __call__(self, subject: str, sealed: Sequence[Sealed]) -> Opened | str:
        """What the sealed fields of a subject say; or why that cannot be told."""
        if not self._read:
            self._read_on()
        if why := self._why_not(subject):
            return why
        if self._vault is not None:
            try:
                opened = self._vault.open_for(subject, sealed)
            except Refused:
                opened = None
            if opened is not None:
                return opened
            self._read_on()  # it may have been erased since
        return self._why_not(subject) or KEYS_NOT_AT_HAND

    def close(self) -> None:
        """Let go of the vault."""
        if self._vault is not None:
            self._vault.close()

    def _read_on(self) -> None:
        head = self._erasures.head
        with closing(self._this.reader()) as reader:
            begin = 0 if head is None else head.next_offset
            for record in reader.read(trust.ERASURES_TOPIC, 0, begin):
                self._erasures.apply(record)
        self._read = True

    def _why_not(self, subject: str) -> str:
        if unknown := unread(self._erasures, subject):
            return unknown
        erasure: Erasure = self._erasures.subject(subject).state
        standings = {Standing.ERASED: ERASED, Standing.RESTRICTED: RESTRICTED}
        return standings.get(Standing(erasure.standing), "")
