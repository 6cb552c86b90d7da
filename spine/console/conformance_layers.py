"""The checks of two layers, accreditation and standards, in the order they are run."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from spine.console.conformance import (
    SCHEME_OF,
    Check,
    Ends,
    Fails,
    NotRun,
    Question,
    Subject,
)
from spine.errors import Reason
from spine.governance.v1 import governance_pb2
from spine.policy import Role
from spine.reference.v1 import reference_pb2
from spine.server import error_from
from spine.trust import Identifiers

NOBODY: Final = "conformance-nobody"
NO_CODE: Final = "CONFORMANCE_NO_SUCH_CODE"
LISTED: Final = ("purposes", "categories", "lawful_bases", "sensitivity_labels")


# -- accreditation --------------------------------------------------------------------------------


def _table(subject: Subject) -> str:
    table = subject.table
    if not table.version:
        raise NotRun("none was adopted yet: until then an accreditation of any scheme counts")
    return f"version {table.version}, {len(table.rows)} rows"


def _same_table(subject: Subject) -> str:
    wanted = subject.table
    for end, said in subject.described.items():
        if (said.table.version, list(said.table.rows)) != (wanted.version, list(wanted.rows)):
            came = f"{end}: version {said.table.version}, {len(said.table.rows)} rows"
            raise Fails(came, f"governance adopted version {wanted.version}")
        if said.table.digest != _table_digest(said.table):
            raise Fails(f"{end}: {said.table.digest.hex()}", "that is no digest of these rows")
    return f"version {wanted.version} on both sides"


def _table_digest(table: Any) -> bytes:
    names = [one.name for one in governance_pb2.EquivalenceRow.DESCRIPTOR.fields]
    rows = [{name: getattr(row, name) for name in names} for row in table.rows]
    return _digest({"version": table.version, "rows": rows}) if table.version else b""


def _digest(said: object) -> bytes:
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).digest()


def _judged_right(*by: str) -> Callable[[Subject], str]:
    """A check of the questions whose answer follows so."""

    def work(subject: Subject) -> str:
        asked = 0
        for end in SCHEME_OF:
            for question, said in subject.judged(end):
                if question.by not in by:
                    continue
                asked += 1
                if said.counts is not question.right:
                    came = f"{end}: {question}: {'yes' if said.counts else said.reason or 'no'}"
                    raise Fails(came, f"it had to be {_had_to(question)}")
        if not asked:
            raise NotRun(f"no organisation is there to try it on ({' or '.join(by)})")
        return f"{asked} questions, answered right"

    return work


def _had_to(question: Question) -> str:
    return f"{'yes' if question.right else 'no'}: {question.by}"


def _nobody(subject: Subject) -> str:
    asked = [Question(NOBODY, "data_user", "ENERGY_ADVICE", "not held")]
    for end in SCHEME_OF:
        (said,) = subject.ask(end, asked)
        if said.counts:
            raise Fails(f"{end}: yes", "that party was never admitted")
    return "no on both sides"


def _identifiers(subject: Subject) -> str:
    """For information; it fails only where governance says something else of one."""
    given: dict[str, list[str]] = {str(each): [] for each in Identifiers}
    for one in subject.participants:
        if any(held.role == Role.DATA_USER for held in one.accreditations):
            if one.identifiers not in given:
                raise Fails(f"{one.party}: {one.identifiers!r}", "it is MPXN or PAIRWISE")
            given[one.identifiers].append(one.party)
    return "; ".join(f"{kind}: {', '.join(of) or 'none'}" for kind, of in given.items())


def _suspension(subject: Subject) -> str:
    sandbox = subject.sandbox
    if not sandbox.data_user:
        raise NotRun("it needs --data-user, which is suspended for a moment")
    asked = [Question(sandbox.data_user, "data_user", sandbox.purpose, "suspended")]
    before = [end for end in SCHEME_OF if subject.ask(end, asked)[0].counts]
    if not before:
        raise NotRun(f"{asked[0]} counts on neither side as it is")
    with _suspended(subject.ends, sandbox.data_user):
        for end in SCHEME_OF:
            (judged,) = subject.ask(end, asked)
            if judged.counts:
                raise Fails(f"{end}: yes", "it was suspended a moment ago")
    return f"no on both sides; before, yes to {' and '.join(before)}"


@contextmanager
def _suspended(ends: Ends, party: str) -> Iterator[None]:
    """A party suspended and, whatever happens, reinstated; never from another's suspension.

    Asked again under the same key, governance says whether the suspension in force began with it.
    """
    key, said = uuid.uuid4().hex, {"party": party, "reason": "CONFORMANCE"}
    suspend = governance_pb2.SuspendParticipantRequest(idempotency_key=f"s-{key}", **said)
    reinstate = governance_pb2.ReinstateParticipantRequest(idempotency_key=f"r-{key}", **said)
    failed: grpc.RpcError | None = None
    try:
        ends.governance("SuspendParticipant", suspend)
    except grpc.RpcError as error:
        if error_from(error).reason == Reason.ROLE_NOT_ALLOWED:
            raise NotRun(f"{ends.asker} may suspend nobody: name one who may with --as") from None
        failed = error
    if not ends.governance("SuspendParticipant", suspend).replayed:
        raise NotRun(f"{party} was suspended by somebody else meanwhile, and stays so")
    try:
        if failed is not None:
            raise failed
        yield
    finally:
        try:
            ends.governance("ReinstateParticipant", reinstate)
        except grpc.RpcError as error:
            came = error_from(error).reason or str(error_from(error).code)
            raise Fails(came, f"{party} is still suspended: reinstate it") from error


# -- standards ------------------------------------------------------------------------------------


def _same_policy(subject: Subject) -> str:
    said = {(one.policy_version, one.policy_hash) for one in subject.described.values()}
    if len(said) > 1:
        came = ", ".join(f"version {version} {digest.hex()[:16]}" for version, digest in said)
        raise Fails(came, "the two sides judge by different policies")
    ((version, _),) = said
    return f"version {version} on both sides"


def _same_vocabulary(subject: Subject) -> str:
    digests = {}
    for end, said in subject.described.items():
        digests[end] = said.vocabulary.digest
        if said.vocabulary.digest != _vocabulary_digest(said.vocabulary):
            raise Fails(f"{end}: {digests[end].hex()[:16]}", "that is no digest of these codes")
    if len(set(digests.values())) > 1:
        came = ", ".join(f"{end} {digest.hex()[:16]}" for end, digest in digests.items())
        raise Fails(came, f"they differ in {', '.join(_differing(subject)) or 'their version'}")
    return str(next(iter(digests.values())).hex()[:16])


def _differing(subject: Subject) -> list[str]:
    here, there = (one.vocabulary for one in subject.described.values())
    return [
        name
        for name in ("purposes", "categories", "bases", "sensitivities")
        if list(getattr(here, name)) != list(getattr(there, name))
    ]


def _vocabulary_digest(said: Any) -> bytes:
    bases = [
        {
            "code": basis.code,
            "roles": list(basis.roles),
            "purposes": list(basis.purposes),
            "categories": list(basis.categories),
        }
        for basis in said.bases
    ]
    return _digest(
        {
            "version": said.version,
            "purposes": list(said.purposes),
            "categories": [[one.code, one.sensitivity] for one in said.categories],
            "bases": bases,
            "sensitivities": list(said.sensitivities),
        }
    )


def _listed(subject: Subject) -> str:
    listed, classes = {}, {}
    for name in LISTED:
        page = subject.ends.reference(reference_pb2.ListCodesRequest(list=name))
        listed[name] = {code.code for code in page.codes}
        for code in page.codes:
            said_of_it = {one.name: one.value for one in code.attributes}
            if "sensitivity" in said_of_it:
                classes[code.code] = said_of_it["sensitivity"]
    if not any(listed.values()):
        raise NotRun("nothing was loaded into the standing data of governance")
    for end, said in subject.described.items():
        spoken = {
            "purposes": set(said.vocabulary.purposes),
            "categories": {one.code for one in said.vocabulary.categories},
            "lawful_bases": {one.code for one in said.vocabulary.bases},
            "sensitivity_labels": set(said.vocabulary.sensitivities),
        }
        for name, codes in spoken.items():
            if codes != listed[name]:
                other = ", ".join(sorted(codes ^ listed[name]))
                raise Fails(f"{end}: {name} {other}", "in one and not in the other")
        for one in said.vocabulary.categories:
            if classes.get(one.code, one.sensitivity) != one.sensitivity:
                came = f"{end}: {one.code} is {one.sensitivity}"
                raise Fails(came, f"it is listed as {classes[one.code]}")
    return f"{sum(map(len, listed.values()))} codes, the same as listed"


def _sensitivity(subject: Subject) -> str:
    for end, said in subject.described.items():
        for category in said.vocabulary.categories:
            if category.sensitivity not in said.vocabulary.sensitivities:
                came = f"{end}: {category.code} is {category.sensitivity or 'nothing'}"
                raise Fails(came, "every category has a class of the vocabulary")
    return f"{len(said.vocabulary.categories)} categories"


def _unknown_code(subject: Subject) -> str:
    held = [(p.party, a.role) for p in subject.participants for a in p.accreditations]
    if not held:
        raise NotRun("no organisation is accredited")
    asked = [Question(party, role, NO_CODE, "not held") for party, role in held[:100]]
    for end in SCHEME_OF:
        for question, said in zip(asked, subject.ask(end, asked), strict=True):
            if said.counts:
                raise Fails(f"{end}: {question}: yes", "an unknown purpose is a no")
    return f"{len(asked)} questions to each side, all no"


ACCREDITATION: Final = (
    Check("accreditation.table", "is an equivalence table in force?", _table),
    Check("accreditation.same-table", "do both sides hold it?", _same_table),
    Check(
        "accreditation.own-scheme",
        "does each side count what is held under its own scheme?",
        _judged_right("own"),
    ),
    Check(
        "accreditation.row",
        "does each side count what a row makes equal?",
        _judged_right("row"),
    ),
    Check(
        "accreditation.missing-row",
        "is what no row makes equal a no on each side?",
        _judged_right("no row"),
    ),
    Check(
        "accreditation.not-held",
        "is what nobody accredited a no on each side?",
        _judged_right("not held"),
    ),
    Check(
        "accreditation.suspended",
        "is who is suspended a no on each side, whatever the scheme?",
        _judged_right("suspended"),
    ),
    Check("accreditation.nobody", "is who was never admitted a no on each side?", _nobody),
    Check("accreditation.identifiers", "which data users are given MPxNs?", _identifiers),
    Check("accreditation.suspension", "does a suspension reach both sides?", _suspension),
)

STANDARDS: Final = (
    Check("standards.policy", "do both sides judge by one policy?", _same_policy),
    Check("standards.vocabulary", "do both sides speak one vocabulary?", _same_vocabulary),
    Check("standards.listed", "is it what the standing data lists?", _listed),
    Check("standards.sensitivity", "has every category a sensitivity?", _sensitivity),
    Check("standards.unknown-code", "is an unknown purpose a no on each side?", _unknown_code),
)
