"""A witness: somebody else, who saw every head of a log and cosigns only what goes on from it.

It keeps the last head it cosigned and the heads of all partitions under it. A new one must continue
both, or it is a fork: refused, and both heads are kept as evidence. What it cosigns is on its disk
before the answer leaves. C2SP tlog-witness says how; the request here also carries what shows that
the partitions have grown, because a checkpoint alone says it of the epochs only.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spine.errors import Invalid, Reason, Refused, SpineError
from spine.files import write_whole
from spine.identity import load_or_create_signing_key
from spine.ledger import continued, verifier
from spine.ledger.note import COSIGNATURE, Checkpoint, Note, VerifierKey, cosign
from spine.signing import public_bytes, verify

KEY_FILE: Final = "witness.key"
STATE_FILE: Final = "state.json"
DIGEST: Final = "sha256"
# The size of the head that the digest was taken at: builds that know of neither carry both along.
DIGEST_AT: Final = "sha256_at"
EVIDENCE: Final = "evidence"
UNPROVEN: Final = "unproven"
UNPROVEN_MAX: Final = 1_000
RECENT_MAX: Final = 10_000
# What a request that is none of ours may end in.
NONSENSE: Final = (KeyError, TypeError, AttributeError, struct.error, ValueError, OverflowError)
_log = structlog.get_logger()

Json = dict[str, Any]


class NotNow(SpineError):
    """The head does not begin where this witness stands; `size` says where that is."""

    grpc_code = "ABORTED"

    def __init__(self, reason: Reason, message: str, *, size: int = 0) -> None:
        super().__init__(reason, message)
        self.size = size

    @classmethod
    def at(cls, size: int) -> Self:
        """What a witness that stands there answers."""
        return cls(Reason.POSITION_INVALID, f"this witness stands at {size}", size=size)


class Fork(Refused):
    """Two heads that the log signed and that cannot both be true: an alarm."""


class Unproven(Refused):
    """A head without a proof that it goes on. No alarm: anybody can send a head a wrong proof."""


class Unfit(Refused):
    """What the witness keeps is not what it last signed by, as far as it can tell."""

    @classmethod
    def because(cls, why: str) -> Self:
        """It signs nothing, and this is why."""
        return cls(Reason.WITNESS_UNFIT, f"this witness signs nothing: {why}")


class Unusable(Unfit):
    """Its folder cannot be used, or written, as things are: to open it later may do."""

    @classmethod
    def after(cls, error: OSError) -> Self:
        """What the disk says is why."""
        return cls.because(f"its folder cannot be used: {error.strerror}")


class Witness:
    """One witness of one log, in a folder of its own. One caller at a time; blocking."""

    def __init__(
        self,
        folder: Path,
        name: str,
        log_key: VerifierKey,
        now: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        """Open or begin it. Unfit unless its key and what it has seen are there, whole and of one
        another, or neither is: a key that may have signed more might cosign a second history.
        Unusable if the disk does not let it tell.
        """
        self._folder, self._log_key, self._now = folder, log_key, now
        try:
            self._state, self._private = self._opened()
            self.alarms = len(list((folder / EVIDENCE).glob("*.json")))
        except OSError as error:
            raise Unusable.after(error) from error
        self.key = VerifierKey(name, COSIGNATURE, public_bytes(self._private))
        self._recent = {self.size: Note.parse(self.note)} if self.note else {}

    @property
    def size(self) -> int:
        """Epochs in the last head that it cosigned."""
        return int(self._state["size"])

    @property
    def note(self) -> str:
        """The last head that it cosigned; empty before the first."""
        return str(self._state["note"])

    def add(self, request: Json) -> str:
        """Check a new head and cosign it; the signature line.

        Invalid(FIELD_INVALID) for what is no head of the log; NotNow if it begins elsewhere; Fork
        for a head that contradicts one it has cosigned; Unproven if it is not shown to go on.
        """
        try:
            note, head = self._head_of(request)
            seen = self._recent.get(head.size)
            if seen is not None and seen.text != note.text:
                raise self._fork(note, seen, "another head of the same size was cosigned before")
            if int(request["old"]) != self.size:
                raise NotNow.at(self.size)
            if head.size < self.size:
                raise NotNow.at(self.size)
            heads = self._check(request, note, head)
        except NONSENSE as error:
            message = f"no head: {type(error).__name__}"
            raise Invalid(Reason.FIELD_INVALID, message, field="note") from error
        self._remember(note, head, heads)
        signature = cosign(note.text, self._now(), self.key, self._private.sign)
        return signature.line()

    def _head_of(self, request: Json) -> tuple[Note, Checkpoint]:
        note = Note.parse(request["note"])
        head = Checkpoint.parse(note.text)
        if head.origin != self._log_key.name or note.signed_by(self._log_key, verify) is None:
            message = "the log of this witness did not sign that"
            raise Invalid(Reason.FIELD_INVALID, message, field="note")
        return note, head

    def _check(self, request: Json, note: Note, head: Checkpoint) -> list[Json]:
        """The heads of the partitions under it; Fork or Unproven unless it continues the last one,
        in every partition too.
        """
        before = Note.parse(self.note) if self.note else None
        root = Checkpoint.parse(before.text).root if before else verifier.root_of(())
        if head.size == self.size and head.root != root:
            raise self._fork(note, before, "another head of the same size was cosigned before")
        path = verifier.hashes_of(request["path"])
        signed = verifier.SignedHead(head.origin, head.size, head.root)
        try:
            continued.check_consistency(self.size, root, head.size, head.root, path)
            super_root, count = verifier.check_epoch(request["epoch"], signed)
            listed = [_head(each) for each in request["heads"]]
            heads = {(each["topic"], each["partition"]): each for each in listed}
            leaves = [verifier.leaf_of(verifier.head_entry(heads[p])) for p in sorted(heads)]
            once = len(listed) == len(heads) == count
            if not once or verifier.root_of(leaves) != super_root:
                raise verifier.Wrong("the heads are not those of the epoch")
            # From here on the heads are known to be the log's own.
            for old in self._state["heads"]:
                if why := _contradicts(old, heads.get((old["topic"], old["partition"]))):
                    raise self._fork(note, before, why)
                _check_growth(old, heads, request["growth"])
        except verifier.Wrong as wrong:
            _log.warning("witness.unproven", size=head.size, stands_at=self.size, why=str(wrong))
            if head.size > self.size:
                self._keep_unproven(note, before, str(wrong))
            raise Unproven(Reason.LOG_DIFFERS, f"not shown to go on: {wrong}") from None
        return listed

    def _fork(self, note: Note, before: Note | None, why: str) -> Fork:
        """Keep both heads: each is signed by the log, and they cannot both be true.

        Never an OSError: a fork is told also where a full disk cannot keep it.
        """
        self.alarms += 1
        # In order of time, and never the name of one that is there.
        name = f"fork-{time.time_ns()}-{secrets.token_hex(4)}.json"
        evidence = {"why": why, "cosigned": str(before or ""), "refused": str(note)}
        _log.error("witness.fork", evidence=name, **evidence)
        try:
            write_whole(
                self._folder / EVIDENCE / name, json.dumps(evidence, indent=1).encode(), sync=True
            )
        except OSError as error:
            _log.error("witness.not_kept", evidence=name, reason=error.strerror)
        return Fork(Reason.LOG_DIFFERS, f"a fork: {why}")

    def _keep_unproven(self, note: Note, before: Note | None, why: str) -> None:
        """Keep a head that the log signed and that was not shown to go on: it may be a fork's.

        Or an honest one with a wrong proof: then it goes when it is cosigned. No more than some are
        kept, for anybody can send them, and a full disk stops nothing.
        """
        path = self._unproven(note)
        said = {"why": why, "cosigned": str(before or ""), "unproven": str(note)}
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() and len(list(path.parent.iterdir())) < UNPROVEN_MAX:
                write_whole(path, json.dumps(said, indent=1).encode(), sync=True)

    def _unproven(self, note: Note) -> Path:
        digest = hashlib.sha256(note.text.encode()).hexdigest()
        return self._folder / UNPROVEN / f"{digest}.json"

    def _remember(self, note: Note, head: Checkpoint, heads: list[Json]) -> None:
        self._recent[head.size] = note  # also where it cannot be kept: another one is a fork
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]
        self._save(self._state | {"size": head.size, "note": str(note), "heads": heads})
        self._unproven(note).unlink(missing_ok=True)

    def _opened(self) -> tuple[Json, Ed25519PrivateKey]:
        """What it has seen, and its key. What it has seen is there before there is a key."""
        path = self._folder / KEY_FILE
        begun, seen = path.exists(), (self._folder / STATE_FILE).exists()
        if begun and not seen:
            raise Unfit.because("it has its key but not what it has seen")
        new: Json = {"log": str(self._log_key), "size": 0, "note": "", "heads": []}
        self._state = self._seen() if seen else new
        signs = self._state["size"] or "key" in self._state
        if signs and not begun:  # a new key here would hide that the old one is gone
            raise Unfit.because("it has what it has seen but not its key")
        if not seen:
            self._save(self._state)
        try:
            private = load_or_create_signing_key(path)
        except (ValueError, TypeError, AssertionError, UnsupportedAlgorithm) as error:
            raise Unfit.because("its key is damaged") from error
        public = public_bytes(private).hex()
        if "key" not in self._state:
            self._save(self._state | {"key": public})
        if self._state["key"] != public:
            raise Unfit.because("its key is not the one that signed what it has seen")
        return self._state, private

    def _seen(self) -> Json:
        """What is kept of what it has seen, if it is whole."""
        try:
            state: Json = json.loads((self._folder / STATE_FILE).read_bytes())
            said = state.pop(DIGEST, None)  # none from builds that kept none
            # An earlier build has cosigned since: what it carried along says nothing of its head.
            since = state["size"] > state.get(DIGEST_AT, state["size"])
            damaged = not (since or said in (None, _digest(state))) or not _is_whole(state)
            log = state["log"]
            note = Note.parse(state["note"]) if state["note"] else None
        except NONSENSE as error:
            raise Unfit.because("what it has seen is damaged") from error
        if not damaged and log != str(self._log_key):
            raise Unfit.because("it is of another log")
        if damaged or (note is not None and note.signed_by(self._log_key, verify) is None):
            raise Unfit.because("what it has seen is damaged")
        return state

    def _save(self, state: Json) -> None:
        """Go by it once it is on the disk, and not before."""
        state = state | {DIGEST_AT: state["size"]}
        kept = state | {DIGEST: _digest(state)}
        write_whole(self._folder / STATE_FILE, json.dumps(kept).encode(), sync=True)
        self._state = state


def _digest(state: Json) -> str:
    """By which a disk that changed a byte of what was seen is found out."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _is_whole(state: Json) -> bool:
    """Whether it says all that a witness goes by. NONSENSE if it says nothing like that."""
    size, note, heads = state["size"], state["note"], state["heads"]
    if [_head(each) for each in heads] != heads:
        return False
    return bool(Checkpoint.parse(Note.parse(note).text).size == size if note else size == 0)


def _head(said: Json) -> Json:
    """What a partition's head says, and nothing else that was sent; `true` is a number, too."""
    numbers = {name: int(said[name]) for name in ("partition", "size")}
    return {"topic": said["topic"], **numbers, "root": said["root"]}


def _contradicts(old: Json, new: Json | None) -> str:
    """How a partition's head cannot follow an earlier one, whatever proof there is."""
    where = f"{old['topic']}-{old['partition']}"
    if new is None:
        return f"{where} is gone"
    if new["size"] < old["size"]:
        return f"{where} has shrunk"
    if new["size"] == old["size"] and new["root"] != old["root"]:
        return f"{where} has another root at the same size"
    return ""


def _check_growth(old: Json, heads: dict[tuple[str, int], Json], growth: Json) -> None:
    where = f"{old['topic']}-{old['partition']}"
    new = heads[old["topic"], old["partition"]]
    if new == old and where not in growth:  # as most of them are from one head to the next
        return
    roots = [verifier.unbase64(each["root"]) for each in (old, new)]
    path = verifier.hashes_of(growth.get(where, ()))
    both = (old["size"], roots[0], new["size"], roots[1])
    verifier.within(where, continued.check_consistency, *both, path)
