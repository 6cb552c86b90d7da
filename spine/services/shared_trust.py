"""The SharedTrust service of `proto/spine/shared_trust/v1`, the same on both sides, and the tokens.

A side is what its own folds say: of keys, accreditations, the equivalence table, the policy, and
each consent. A check first waits until the folds it asks have all that was acknowledged before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from domains.consumers import receipts, tokens
from domains.consumers.evolve import find_consent
from spine import trust
from spine.access import AccessLog
from spine.accreditation import CCS, DSI, accreditation_refusal, row_for
from spine.coordinator import Coordinator
from spine.domain import Actor
from spine.errors import Invalid, NotPermitted, Pushback, Reason
from spine.event import NO_PREDECESSOR, DataPosition, from_epoch_ms
from spine.governance.v1 import governance_pb2
from spine.in_force import policy_in_force
from spine.murmur2 import murmur2_partition
from spine.partition import PartitionFold
from spine.server import Service
from spine.services import terms, wire
from spine.services.equivalence import table_shown
from spine.shared_trust.v1 import shared_trust_pb2, shared_trust_pb2_grpc
from spine.signing import Signer, verify
from spine.vocabulary import Vocabulary, vocabulary
from spine.writer import wall_clock_ms

ASKED_MAX: Final = 1_000
# Any meter-keyed partition knows what governance said; this subject names the first to ask.
ANY: Final = ""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. `scheme`: the one it judges in; `fold` gives the fold that knows a meter;
    `level` returns once that fold has all that was acknowledged before.
    """

    scheme: str
    log_id: bytes
    fold: Callable[[str], PartitionFold]
    level: Callable[[str], Awaitable[None]]

    def positions(self, *folds: PartitionFold) -> Any:
        """The places that an answer from these folds is as of."""
        places = (DataPosition(f.topic, f.partition, _offset(f)) for f in folds)
        return wire.position_token(self.log_id, places)


class SharedTrustService(shared_trust_pb2_grpc.SharedTrustServicer):
    """Answers for one side. Pushback(FOLD_BEHIND, INDETERMINATE) if its folds cannot be level."""

    def __init__(self, side: Side) -> None:
        self._side = side

    async def DescribeTrust(self, request: Any, context: Any) -> Any:
        """What this side goes by."""
        fold = self._side.fold(ANY)
        policy = fold.standing(trust.POLICY_SUBJECT).policy
        if policy is None:
            raise Pushback(Reason.STARTING, "no policy was adopted yet")
        return shared_trust_pb2.DescribeTrustResponse(
            scheme=self._side.scheme,
            policy_version=policy.version,
            policy_hash=policy.data_hash,
            vocabulary=_shown(vocabulary(policy.version)),
            table=table_shown(fold.equivalence()),
            token_lifetime_s=int(tokens.LIFETIME.total_seconds()),
            positions=self._side.positions(fold),
        )

    async def JudgeAccreditations(self, request: Any, context: Any) -> Any:
        """Whether organisations count here."""
        if not 1 <= len(request.asked) <= ASKED_MAX:
            raise Invalid(Reason.REQUEST_TOO_LARGE, "1 to 1,000 questions", field="asked")
        for question in request.asked:
            wire.identifier(question.party, "party")
        await self._side.level(ANY)
        fold = self._side.fold(ANY)
        now, table = _now(fold), fold.equivalence()
        return shared_trust_pb2.JudgeAccreditationsResponse(
            scheme=self._side.scheme,
            table_version=0 if table is None else table.version,
            judgements=[self._judged(fold, question, now) for question in request.asked],
            positions=self._side.positions(fold),
        )

    def _judged(self, fold: PartitionFold, question: Any, now: datetime) -> Any:
        scheme, table = self._side.scheme, fold.equivalence()
        version = policy_in_force(fold)
        role, purpose = question.role, question.purpose
        participant = fold.participant(question.party)
        refusal = (
            fold.closed(ANY)
            or _unknown(fold, role, purpose)
            or accreditation_refusal(participant, role, now, purpose, table, scheme, version)
        )
        if refusal is not None:
            return shared_trust_pb2.Judgement(reason=refusal)
        row = None
        if participant is not None and table is not None:
            live = [a for a in participant.accreditations if a.role == role and a.live_at(now)]
            if not any(a.scheme == scheme and a.is_for(purpose) for a in live):
                rows = (row_for(a, purpose, table, scheme, version) for a in live)
                row = next((found for found in rows if found is not None), None)
        shown = None if row is None else governance_pb2.EquivalenceRow(**asdict(row))
        return shared_trust_pb2.Judgement(counts=True, row=shown)

    async def CheckConsentToken(self, request: Any, context: Any) -> Any:
        """Whether a token is genuine and its consent live now."""
        raw, by, side = request.token, wire.caller(), self._side
        if not raw:
            raise Invalid(Reason.FIELD_MISSING, "token is required", field="token")
        if len(raw) > tokens.TOKEN_CHARS_MAX:
            raise Invalid(Reason.REQUEST_TOO_LARGE, "the token is too long", field="token")
        token, refusal = self._genuine(raw, by, side.fold(ANY))
        if token is None:
            return shared_trust_pb2.CheckConsentTokenResponse(reason=refusal)
        folds = {mpxn: side.fold(mpxn) for mpxn in token.mpxns}
        of_partition = {fold.partition: mpxn for mpxn, fold in folds.items()}
        await asyncio.gather(*map(side.level, of_partition.values()))
        # The time may have run out meanwhile, and the key been revoked.
        token, refusal = self._genuine(raw, by, next(iter(folds.values())))
        if token is None:
            return shared_trust_pb2.CheckConsentTokenResponse(reason=refusal)
        refusals = [_leg(side.scheme, token, mpxn, fold) for mpxn, fold in folds.items()]
        legs = [
            _shown_leg(token, mpxn, fold, refusal)
            for (mpxn, fold), refusal in zip(folds.items(), refusals, strict=True)
        ]
        reason = next((refusal for refusal in refusals if refusal is not None), "")
        return shared_trust_pb2.CheckConsentTokenResponse(
            valid=not reason,
            reason=reason,
            legs=legs,
            positions=side.positions(*{f.partition: f for f in folds.values()}.values()),
        )

    def _genuine(
        self, raw: str, by: Actor, fold: PartitionFold
    ) -> tuple[tokens.ConsentToken | None, Reason | None]:
        checker = tokens.Checker(self._side.log_id, fold.key, verify)
        return checker.token(raw, by.role, by.party, _now(fold))


def _leg(scheme: str, token: tokens.ConsentToken, mpxn: str, fold: PartitionFold) -> Reason | None:
    row, now = fold.subject(mpxn), _now(fold)
    access = None if row.offset == NO_PREDECESSOR else row.state
    participant, table = fold.participant(token.data_user), fold.equivalence()
    return tokens.leg_refusal(token, access, fold.closed(mpxn), now) or tokens.reader_refusal(
        participant, token.purpose, now, table, scheme, policy_in_force(fold)
    )


def _shown_leg(
    token: tokens.ConsentToken, mpxn: str, fold: PartitionFold, refusal: Reason | None
) -> Any:
    """The answer for one meter: of a valid leg, how this side's own fold identifies the consent."""
    if refusal is not None:
        return shared_trust_pb2.LegCheck(mpxn=mpxn, reason=refusal)
    consent = find_consent(fold.subject(mpxn).state, token.consent_id)
    assert consent is not None
    return shared_trust_pb2.LegCheck(
        mpxn=mpxn,
        valid=True,
        consent_id=consent.consent_id,
        version=consent.version,
        data_user=consent.data_user,
    )


class ConsentTokensService(shared_trust_pb2_grpc.ConsentTokensServicer):
    """Issues tokens, at the coordinator."""

    def __init__(self, side: Side, signer: Signer) -> None:
        self._side, self._signer = side, signer

    async def IssueConsentToken(self, request: Any, context: Any) -> Any:
        """A token for a consent that is live after all that was acknowledged before."""
        by, mpxns = wire.caller(), terms.mpxns(request)
        consent_id = wire.identifier(request.consent_id, "consent_id")
        folds = [self._side.fold(mpxn) for mpxn in mpxns]
        of_partition = {fold.partition: mpxn for mpxn, fold in zip(mpxns, folds, strict=True)}
        await asyncio.gather(*map(self._side.level, of_partition.values()))
        for mpxn, fold in zip(mpxns, folds, strict=True):
            if (closed := fold.closed(mpxn)) is not None:
                raise Pushback(closed, "what stands of the meter cannot be read here yet")
        legs = [self._leg(mpxn, fold) for mpxn, fold in zip(mpxns, folds, strict=True)]
        signed_by = receipts.SignedBy(self._signer.public_key, self._signer.private.sign)
        token, text = tokens.issue(consent_id, legs, by.role, by.party, wire.now(), signed_by)
        for fold in folds:
            _check_reader(token, fold, self._side.scheme)
        return shared_trust_pb2.IssueConsentTokenResponse(
            token=text,
            good_until=wire.stamp(token.good_until),
            positions=self._side.positions(*folds),
        )

    def _leg(self, mpxn: str, fold: PartitionFold) -> tokens.Leg:
        row = fold.subject(mpxn)
        place = receipts.Place(self._side.log_id, fold.topic, fold.partition, row.offset, row.entry)
        return tokens.Leg(mpxn, row.state, place)


def _check_reader(token: tokens.ConsentToken, fold: PartitionFold, scheme: str) -> None:
    """NotPermitted unless the data user of a token counts in that scheme."""
    participant, table = fold.participant(token.data_user), fold.equivalence()
    refusal = tokens.reader_refusal(
        participant, token.purpose, token.issued_at, table, scheme, policy_in_force(fold)
    )
    if refusal is not None:
        raise NotPermitted(refusal, "the data user does not count here")


def _unknown(fold: PartitionFold, role: str, purpose: str) -> Reason | None:
    """Whether the vocabulary in force has no basis on which that role acts for that purpose."""
    policy = fold.standing(trust.POLICY_SUBJECT).policy
    known = None if policy is None else vocabulary(policy.version)
    bases = () if known is None else known.bases
    fits = any(role in basis.roles and purpose in basis.purposes for basis in bases)
    return None if fits else Reason.PURPOSE_UNKNOWN


def _now(fold: PartitionFold) -> datetime:
    """This machine's time, and never before what the log has seen."""
    assert fold.head is not None
    return from_epoch_ms(max(wall_clock_ms(), fold.head.now_ms))


def _offset(fold: PartitionFold) -> int:
    assert fold.head is not None
    return fold.head.next_offset


def _shown(known: Vocabulary | None) -> Any:
    """A vocabulary as a message; none for a policy that this build does not know."""
    if known is None:
        return None
    return shared_trust_pb2.Vocabulary(
        version=known.version,
        purposes=known.purposes,
        categories=[
            shared_trust_pb2.Category(code=code, sensitivity=label)
            for code, label in known.categories
        ],
        bases=[shared_trust_pb2.Basis(**asdict(basis)) for basis in known.bases],
        sensitivities=known.sensitivities,
        digest=known.digest,
    )


# -- the two sides --------------------------------------------------------------------------------


def consent_side(meters: Coordinator, log_id: bytes) -> Side:
    """The consumers coordinator: the CCS side."""
    return Side(CCS, log_id, lambda mpxn: meters.live(mpxn).stored.fold, meters.level)


def data_side(access: Mapping[int, AccessLog], log_id: bytes) -> Side:
    """A DSI server; every one of them folds the whole consumer log."""

    def of(mpxn: str) -> AccessLog:
        return access[murmur2_partition(mpxn.encode(), len(access))]

    return Side(DSI, log_id, lambda mpxn: of(mpxn).live.stored.fold, lambda mpxn: of(mpxn).level())


def shared_trust(side: Side) -> Service:
    """The service that both sides serve."""
    return Service(
        shared_trust_pb2.DESCRIPTOR.services_by_name["SharedTrust"].full_name,
        shared_trust_pb2_grpc.add_SharedTrustServicer_to_server,
        SharedTrustService(side),
    )


def consent_trust(meters: Coordinator, log_id: bytes, signer: Signer) -> list[Service]:
    """What the consumers coordinator serves of it: the same, and the tokens."""
    side = consent_side(meters, log_id)
    issuing = Service(
        shared_trust_pb2.DESCRIPTOR.services_by_name["ConsentTokens"].full_name,
        shared_trust_pb2_grpc.add_ConsentTokensServicer_to_server,
        ConsentTokensService(side, signer),
    )
    return [shared_trust(side), issuing]
