"""The seeded edits: one line that keeps a promise, as it would be without the promise.

Each names the smallest set of tests that has to notice. `old` stands exactly once in its file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One edit: what it breaks, where, and which tests must fail because of it."""

    breaks: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


PARTITION = ("tests/core/test_partition.py",)
CODEC = ("tests/core/test_codec.py",)
SIGNING = ("tests/core/test_signing.py",)
STORE = ("tests/core/test_store.py",)
POLICY = ("tests/core/test_policy.py",)
AUDIT = ("tests/core/test_audit.py",)
CONSENT = ("tests/domains/consumers",)
EQUIVALENCE = ("tests/core/test_accreditation.py",)
OF_TOKENS = ("tests/domains/consumers/test_tokens.py",)
HOLDS = ("tests/domains/governance/test_holds.py",)
IDENTITY = ("tests/server/test_identity.py",)
SERVER = ("tests/server/test_server.py",)
DRIFT = ("tests/core/test_drift.py",)
ADMISSION = ("tests/server/test_admission.py", "tests/core/test_limits.py")
FENCE = "tests/broker/test_fence.py::"
LOG = "tests/broker/test_log.py::"

AGGREGATES = ("tests/domains/metering/test_aggregates.py",)
PUBLISHED = ("tests/domains/metering/test_publications.py",)
SUMS, PUBLICATIONS = "domains/metering/aggregates.py", "domains/metering/publications.py"

CHANGES = "domains/consumers/changes.py"
REGISTER, READS = "spine/ledger/register.py", ("tests/core/test_register.py",)
ORIGINS, CAME_FROM = "spine/ledger/provenance_check.py", ("tests/core/test_provenance.py",)
HISTORY = ("tests/core/test_history.py",)
PUSHING, TOLD = "spine/services/pushing.py", ("tests/server/test_pushing.py",)
MESSAGE = ("tests/core/test_webhook.py",)
VIEW, FOLD, ACCESS = "spine/view.py", "spine/partition.py", "spine/access.py"
RULES, REPLAY = "spine/policy.py", "spine/replay.py"
ACCREDITED, TOKENS = "spine/accreditation.py", "domains/consumers/tokens.py"

MUTANTS: tuple[Mutant, ...] = (
    # The fence
    Mutant(
        "a read waits for its place in the log",
        ACCESS,
        "        if not self._fence:\n",
        "        if True:\n",
        (FENCE + "test_no_read_passes_after_a_revocation_and_without_the_fence_some_do",),
    ),
    Mutant(
        "a permit ends after two seconds",
        ACCESS,
        "return time.monotonic() >= self.expires_at",
        "return False",
        (FENCE + "test_a_permit_that_ran_out_releases_nothing",),
    ),
    Mutant(
        "an open stream is judged again when a fact is folded, and once a second",
        "spine/dsi/watch.py",
        "            if isinstance(decision, Refuse):\n",
        "            if False:\n",
        (FENCE + "test_a_suspension_cuts_streams_and_refuses_reads",),
    ),
    Mutant(
        "'already so' is said only by a fold that is level with the log",
        "spine/coordinator.py",
        "if not events and self._tightens(order.command):",
        "if False:",
        (FENCE + "test_already_so_is_not_said_from_a_fold_that_is_behind",),
    ),
    # Who signed it
    Mutant(
        "an unsigned record is quarantined",
        VIEW,
        "        if kid is None or record.header(SIGNATURE_HEADER) is None:\n"
        "            raise Quarantine(Reason.RECORD_UNSIGNED)\n",
        "        if kid is None or record.header(SIGNATURE_HEADER) is None:\n"
        "            return SignerRole.CONSUMERS\n",
        PARTITION,
    ),
    Mutant(
        "a signature is checked",
        VIEW,
        "if key is None or not self.signed_by(key.public_key, record):",
        "if key is None:",
        PARTITION,
    ),
    Mutant(
        "what a revoked key signs is void",
        VIEW,
        "        if key.revoked:\n",
        "        if False:\n",
        PARTITION,
    ),
    Mutant(
        "a key of the root role is checked too",
        VIEW,
        "if not self.signed_by(self.head.root_key, record):",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "the signature covers the log it is for",
        "spine/event.py",
        "    return SIGNED_TAG + log_id + _framed(",
        "    return SIGNED_TAG + bytes(32) + _framed(",
        (*SIGNING, *PARTITION),
    ),
    Mutant(
        "the signature covers the topic",
        "spine/event.py",
        "    name = topic.encode()\n",
        '    name = b"topic"\n',
        SIGNING,
    ),
    Mutant(
        "the signature covers every header",
        "spine/event.py",
        "signed = [(header, content) for header, content in headers if header != SIGNATURE_HEADER]",
        "signed: list[tuple[str, bytes]] = []",
        SIGNING,
    ),
    Mutant(
        "the signature covers the value",
        "spine/event.py",
        "parts.append(hashlib.sha256(value).digest() if value is not None else bytes(32))",
        "parts.append(bytes(32))",
        SIGNING,
    ),
    Mutant(
        "a role writes only what is its own",
        FOLD,
        "if role not in trust.MAY_WRITE.get((self.topic, record_type), frozenset()):",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "a fact of another domain is void",
        FOLD,
        'if not fact_type.startswith(domain.name + "."):',
        "if False:",
        PARTITION,
    ),
    Mutant(
        "the root key says nothing but keys",
        FOLD,
        "if role is SignerRole.ROOT and not isinstance(",
        "if False and not isinstance(",
        PARTITION,
    ),
    Mutant(
        "a copy is judged on the signature of its home",
        FOLD,
        "        role = self.verified_role(home)\n",
        "        role = self.verified_role(record)\n",
        PARTITION,
    ),
    Mutant(
        "only a DSI server's requests are decided",
        VIEW,
        "if role is not SignerRole.DSI or not isinstance(value, AccessRequests):",
        "if not isinstance(value, AccessRequests):",
        PARTITION,
    ),
    Mutant(
        "a second opening under the root key closes the partition",
        FOLD,
        "            self.head = replace(self.head, closed=str(Reason.OPENING_DIFFERS))\n",
        "",
        PARTITION,
    ),
    Mutant(
        "an opening under anybody's key closes nothing",
        FOLD,
        "            if value.root_key != self.head.root_key:\n",
        "            if False:\n",
        PARTITION,
    ),
    # Where it stands
    Mutant(
        "a key belongs to its partition",
        VIEW,
        "        return home != self.partition\n",
        "        return False\n",
        PARTITION,
    ),
    Mutant(
        "content names the place it is for",
        FOLD,
        "        if (facts.topic, facts.partition) != (self.topic, self.partition):\n",
        "        if False:\n",
        PARTITION,
    ),
    Mutant(
        "a record's key is that of its content",
        FOLD,
        "if record.key is not None and record.key != command.subject.encode():",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "requests name the partition they are for",
        VIEW,
        "        if (value.topic, value.partition) != (self.topic, self.partition):\n"
        "            return ()\n",
        "",
        PARTITION,
    ),
    Mutant(
        "the root over the entries is checked",
        VIEW,
        "if record.header(ENTRIES_ROOT_HEADER) != merkle.salted_root(value.salt_seed, entries):",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "each command follows on its meter's last",
        FOLD,
        "if (command.previous_offset, command.previous_entry) != (before.offset, before.entry):",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "the chain names the entry too",
        FOLD,
        "if (command.previous_offset, command.previous_entry) != (before.offset, before.entry):",
        "if command.previous_offset != before.offset:",
        PARTITION,
    ),
    Mutant(
        "an applied command is applied once",
        FOLD,
        "if self.rows.get(APPLIED_PREFIX + prefix + command.id) is not None:",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "copies come without a gap",
        FOLD,
        "if copy.previous_home_offset != self.head.last_copy:",
        "if False:",
        PARTITION,
    ),
    Mutant(
        "a copy counts once",
        FOLD,
        "if copy.home_offset <= self.head.last_copy:",
        "if False:",
        PARTITION,
    ),
    # What is not understood, and the balance
    Mutant(
        "what this build cannot read closes its meter",
        FOLD,
        "        if subject:\n            self.rows.put(CLOSED_PREFIX",
        "        if False:\n            self.rows.put(CLOSED_PREFIX",
        PARTITION,
    ),
    Mutant(
        "a closed meter takes no facts",
        FOLD,
        "        if self.closed(command.subject) is not None:\n",
        "        if False:\n",
        PARTITION,
    ),
    Mutant(
        "what is quarantined is counted",
        "spine/rows.py",
        '            counts.quarantined + tally["quarantined"],\n',
        "            counts.quarantined,\n",
        PARTITION,
    ),
    Mutant(
        "a closed meter or partition is read by nobody",
        RULES,
        "    if situation.closed is not None:\n",
        "    if False:\n",
        (*POLICY, *PARTITION),
    ),
    Mutant(
        "policy is judged only by the data that was adopted",
        VIEW,
        "if POLICY_HASHES[policy.version] != policy.data_hash:",
        "if False:",
        (*PARTITION, *AUDIT),
    ),
    # Time
    Mutant(
        "time never goes back",
        FOLD,
        "        if record.append_ms > self.head.now_ms:\n",
        "        if True:\n",
        PARTITION,
    ),
    Mutant(
        "a record of an unsure clock moves no time",
        VIEW,
        "return abs(produced_ms - record.append_ms) <= CLOCK_TOLERANCE_MS",
        "return True",
        PARTITION,
    ),
    Mutant(
        "a read is judged at its own append time, or later",
        VIEW,
        "        now_ms = max(self.head.now_ms, at_ms)\n",
        "        now_ms = self.head.now_ms\n",
        PARTITION,
    ),
    Mutant(
        "a fold trusts no wall clock",
        VIEW,
        "        now_ms = max(self.head.now_ms, at_ms)\n",
        "        now_ms = __import__('time').time_ns() // 1_000_000\n",
        PARTITION,
    ),
    # Bytes
    Mutant(
        "a value is written in one way only",
        "spine/codec.py",
        "if rewritten.getvalue() != framed[_FRAME.size :]:",
        "if False:",
        CODEC,
    ),
    Mutant(
        "a number fits its type",
        "spine/codec.py",
        "if not validate(plain, schema.parsed, raise_errors=False):",
        "if False:",
        CODEC,
    ),
    Mutant(
        "a fact is of the type it says",
        "spine/codec.py",
        "        if type(decoded) is not cls:\n",
        "        if False:\n",
        CODEC,
    ),
    # Stores
    Mutant(
        "a store stands on a record that the log holds",
        REPLAY,
        "if last is None or last.digest() != position.record_digest:",
        "if last is None:",
        STORE,
    ),
    Mutant(
        "a store of another log is discarded",
        REPLAY,
        "if (position.log_id, position.topic, position.partition) != here:",
        "if False:",
        STORE,
    ),
    Mutant(
        "a store beyond the end of the log is discarded",
        REPLAY,
        "        if not start <= position.offset < end:\n",
        "        if not start <= position.offset:\n",
        STORE,
    ),
    Mutant(
        "another version of the reducers folds anew",
        REPLAY,
        'if build.split(b".")[:2] != self._build.split(b".")[:2]:',
        "if False:",
        STORE,
    ),
    Mutant(
        "what was held is folded anew by a build that may understand it",
        REPLAY,
        "if held is not None and build != self._build:",
        "if False:",
        STORE,
    ),
    Mutant(
        "what is behind the position is not folded again",
        REPLAY,
        "        if record.offset < self.next_offset:\n            return None\n",
        "",
        STORE,
    ),
    Mutant(
        "rows and position are one write",
        "spine/store.py",
        "        batch.put(POSITION_ROW, pack(position))\n",
        "",
        STORE,
    ),
    Mutant(
        "an iterator that ends at a damaged block is no end",
        "spine/rocks.py",
        "        rows.status()\n",
        "        pass\n",
        STORE,
    ),
    Mutant(
        "a gap in delivery is read from the log",
        "spine/fold.py",
        "        if record.offset > live.next_offset:\n",
        "        if False:\n",
        (LOG + "test_a_gap_in_delivery_is_read_from_the_log",),
    ),
    Mutant(
        "what no rule foresaw ends the process",
        "spine/fold.py",
        "            except BaseException as error:\n                self._on_failure(error)\n",
        "            except BaseException:\n                pass\n",
        (LOG + "test_what_no_rule_foresaw_ends_the_process_and_is_never_passed_over",),
    ),
    # Who may read
    Mutant(
        "a consent that ended by an event opens nothing",
        RULES,
        "    if consent.state in _ENDED_BY_EVENT:\n",
        "    if False:\n",
        POLICY,
    ),
    Mutant(
        "a consent expires on its day, not after",
        RULES,
        "    if now >= consent.expires:\n",
        "    if now > consent.expires:\n",
        POLICY,
    ),
    Mutant(
        "a consent ends with its tenancy",
        RULES,
        "    if tenancy is None or not tenancy.live_at(now):\n",
        "    if tenancy is None:\n",
        POLICY,
    ),
    Mutant(
        "a suspended consent opens nothing",
        RULES,
        "    if consent.state is ConsentState.SUSPENDED:\n",
        "    if False:\n",
        POLICY,
    ),
    Mutant(
        "a consent is for its purpose and its categories",
        RULES,
        "if consent.purpose != request.purpose or not _covers(consent, request.category):",
        "if False:",
        POLICY,
    ),
    Mutant(
        "a consent is for its data user",
        RULES,
        "        if c.data_user == request.party\n        and (",
        "        if (",
        POLICY,
    ),
    Mutant(
        "a consent opens no day before its history or the tenancy",
        RULES,
        "max(consent.history_from, tenancy.effective_from)",
        "min(consent.history_from, tenancy.effective_from)",
        POLICY,
    ),
    Mutant(
        "a suspended participant reads nothing",
        ACCREDITED,
        "    if participant.suspended:\n",
        "    if False:\n",
        POLICY,
    ),
    Mutant(
        "an accreditation is for its role and its time",
        ACCREDITED,
        " if a.role == role and a.live_at(now)]",
        "]",
        POLICY,
    ),
    Mutant(
        "a role claims only its own bases",
        RULES,
        '    if request.role not in terms["roles"]:\n',
        "    if False:\n",
        POLICY,
    ),
    Mutant(
        "a read of an unsure clock is refused",
        RULES,
        "    if not situation.clock_sure:\n",
        "    if False:\n",
        POLICY,
    ),
    Mutant(
        "to a stranger every refusal looks the same",
        RULES,
        "return self.reason if self.concerned else Reason.NOT_PERMITTED",
        "return self.reason",
        POLICY,
    ),
    # Consents as facts
    Mutant(
        "what ended a consent bars it where it was never seen",
        "domains/consumers/evolve.py",
        "        return Consent(consent_id, 0, state,",
        "        return Consent(consent_id, 0, ConsentState.REQUESTED,",
        CONSENT,
    ),
    Mutant(
        "only an open request is granted",
        "domains/consumers/evolve.py",
        "    if earlier.state is not ConsentState.REQUESTED:\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "a consent that is over stays over",
        "domains/consumers/evolve.py",
        "    if consent.state in FINAL:\n"
        '        raise Refused(FINAL[consent.state], "the consent is over")\n'
        "    return replace(",
        "    return replace(",
        CONSENT,
    ),
    Mutant(
        "nobody speaks for somebody else's consent",
        "domains/consumers/commands.py",
        "    if by.party != own.get(Role(by.role), by.party):\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "a role commands only what is its own",
        "domains/consumers/commands.py",
        "    if by.role not in MAY_COMMAND[command]:\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "a consent is narrowed, never widened",
        "domains/consumers/consent.py",
        "    if scope_is_wider(*scope, consent):\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "a party is released by two people",
        "domains/governance/holds.py",
        "    if len(state.approved_by) + 1 < PEOPLE:\n",
        "    if False:\n",
        HOLDS,
    ),
    Mutant(
        "nobody approves a release twice",
        "domains/governance/holds.py",
        "    if person in (command.party, *state.approved_by):\n",
        "    if person == command.party:\n",
        HOLDS,
    ),
    Mutant(
        "a release that two did not approve counts for no fold",
        "domains/governance/holds.py",
        "            if len(state.approved_by) < PEOPLE:\n",
        "            if False:\n",
        HOLDS,
    ),
    # The edge
    Mutant(
        "a certificate is checked against the time of each call",
        "spine/identity.py",
        "    if not checked.not_before <= now <= checked.not_after:\n",
        "    if False:\n",
        IDENTITY,
    ),
    Mutant(
        "a certificate has exactly one URI name",
        "spine/identity.py",
        "    if len(uris) != 1:\n",
        "    if not uris:\n",
        IDENTITY,
    ),
    Mutant(
        "an authority's certificate is no caller's",
        "spine/identity.py",
        "return ExtendedKeyUsageOID.CLIENT_AUTH in usage and not constraints.ca",
        "return ExtendedKeyUsageOID.CLIENT_AUTH in usage",
        IDENTITY,
    ),
    Mutant(
        "a certificate is for clients",
        "spine/identity.py",
        "return ExtendedKeyUsageOID.CLIENT_AUTH in usage and not constraints.ca",
        "return not constraints.ca",
        IDENTITY,
    ),
    Mutant(
        "a call has an end",
        "spine/server.py",
        "        if left_s is None or left_s > self.deadline_max_s * DEADLINE_ROUNDING:\n",
        "        if False:\n",
        SERVER,
    ),
    Mutant(
        "what went wrong inside is told to nobody",
        "spine/server.py",
        '_status("INTERNAL", INTERNAL_TEXT, Reason.BUG))',
        '_status("INTERNAL", str(error), Reason.BUG))',
        SERVER,
    ),
    Mutant(
        "a party has its share and no more",
        "spine/limits.py",
        "        if self.level >= wanted:\n",
        "        if True:\n",
        ADMISSION,
    ),
    Mutant(
        "a party goes through so many meters and no more",
        "spine/limits.py",
        "        if new and len(self.seen) + new > self.limit:\n",
        "        if False:\n",
        ADMISSION,
    ),
    Mutant(
        "a party that is held gets nothing",
        "spine/admission.py",
        "        if self.holds(caller.party):\n",
        "        if False:\n",
        ADMISSION,
    ),
    # The audit and its proofs
    Mutant(
        "an answer that differs is found",
        "spine/verdict.py",
        "    if rebuilt.digest != outcome.digest:\n",
        "    if False:\n",
        AUDIT,
    ),
    Mutant(
        "a decision that differs is found",
        "spine/verdict.py",
        "    if recorded != expected:\n",
        "    if False:\n",
        AUDIT,
    ),
    Mutant(
        "an outcome names the place of its decision",
        "spine/audit_pass.py",
        "if _place(outcome) == place]",
        "]",
        AUDIT,
    ),
    Mutant(
        "leaves and nodes of a tree are told apart",
        "spine/merkle.py",
        'hashlib.sha256(b"\\x01" + left + right)',
        'hashlib.sha256(b"\\x00" + left + right)',
        ("tests/core/test_merkle.py",),
    ),
    Mutant(
        "what is sealed is bound to where it belongs",
        "spine/sealing.py",
        "encrypt(nonce, plaintext, context.encode())",
        "encrypt(nonce, plaintext, None)",
        ("tests/core/test_sealing.py",),
    ),
    Mutant(
        "names cannot be tried on a digest that stays in the log",
        "spine/sealing.py",
        'hmac.digest(self._key_for(subject)[1], b"digest\\0" + digest, sha256)',
        'hmac.digest(b"", b"digest\\0" + digest, sha256)',
        ("tests/core/test_sealing.py",),
    ),
    # The drift of what is served
    Mutant(
        "rows that differ are found",
        "spine/drift.py",
        "        if mine != its and key != BUILD_ROW:\n",
        "        if False:\n",
        DRIFT,
    ),
    Mutant(
        "a row that one side has not is a difference",
        "spine/drift.py",
        "        mine = ours[1] if ours[0] == key else None\n",
        "        mine = ours[1]\n",
        DRIFT,
    ),
    Mutant(
        "a store that says it stands elsewhere than in the log has drifted",
        "spine/drift.py",
        "record.digest() == position.record_digest",
        "True",
        DRIFT,
    ),
    Mutant(
        "a replay is held against a store at the same position only",
        "spine/drift.py",
        "        if replayed.next_offset != offset + 1:\n",
        "        if False:\n",
        DRIFT,
    ),
    Mutant(
        "what has drifted raises an alarm",
        "spine/drift.py",
        "        if not compared.drifted or store in self._alarmed:\n",
        "        if True:\n",
        DRIFT,
    ),
    # What became of a consent, told until it is acknowledged
    Mutant(
        "only the receiver acknowledges",
        CHANGES,
        "    if not change.is_for(by):\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "a party is told in each role what is for that role",
        CHANGES,
        "by.party == self.receiver and as_role == self.told_as",
        "by.party == self.receiver",
        CONSENT,
    ),
    Mutant(
        "what was asked for and never granted is no data service's concern",
        CHANGES,
        "        if state in SHUT and consent.answer_by is None:\n",
        "        if state in SHUT:\n",
        CONSENT,
    ),
    Mutant(
        "a data service is told that a consent is over",
        CHANGES,
        "        ShownState.REVOKED,\n",
        "",
        CONSENT,
    ),
    Mutant(
        "what is not acknowledged stays outstanding",
        CHANGES,
        "        if not acknowledged(change.id):\n",
        "        if False:\n",
        CONSENT,
    ),
    Mutant(
        "a later state of a consent is told under a new id",
        CHANGES,
        "str(version), state, changed_at)",
        "str(version))",
        CONSENT,
    ),
    # Webhooks, deletions and notices
    Mutant(
        "one item at a time at a meter",
        PUSHING,
        "            if mpxn in line.under_way:\n",
        "            if False:\n",
        TOLD,
    ),
    Mutant(
        "a silent receiver has but one sending under way",
        PUSHING,
        "        if line.under_way or now < line.silent.again_at or",
        "        if now < line.silent.again_at or",
        TOLD,
    ),
    Mutant(
        "a receiver takes so many places and no more",
        PUSHING,
        "        places = min(EACH_MAX - len(line.under_way), ANSWERING_MAX",
        "        places = min(ANSWERING_MAX, ANSWERING_MAX",
        TOLD,
    ),
    Mutant(
        "what is connected to is checked itself",
        "spine/services/courier.py",
        "        if not may_reach(str(address[0]), self._also):\n",
        "        if False:\n",
        ("tests/server/test_courier.py",),
    ),
    Mutant(
        "no redirect is followed",
        "spine/services/courier.py",
        "allow_redirects=False",
        "allow_redirects=True",
        ("tests/server/test_courier.py",),
    ),
    Mutant(
        "an address that leads to another of IPv4 is no way around",
        "spine/webhook.py",
        "        found = found.ipv4_mapped\n",
        "        return True\n",
        MESSAGE,
    ),
    Mutant(
        "the time of a message is signed with it",
        "spine/webhook.py",
        'f"{message_id}.{sent_at}.".encode() + body',
        'f"{message_id}.".encode() + body',
        MESSAGE,
    ),
    Mutant(
        "what is played back later is found",
        "spine/webhook.py",
        "    if now_s is not None and abs(now_s - int(sent_at)) > TOLERANCE_S:\n",
        "    if False:\n",
        MESSAGE,
    ),
    Mutant(
        "a consumer is told what became of its consents",
        CHANGES,
        "        receivers = {(consent.consumer_ref, Role.CONSUMER)}\n",
        "        receivers: set[tuple[str, Role]] = set()\n",
        CONSENT,
    ),
    Mutant(
        "no consumer has to acknowledge",
        CHANGES,
        "        return not self.is_notice and self.told_as is not Role.CONSUMER\n",
        "        return not self.is_notice\n",
        CONSENT,
    ),
    Mutant(
        "what waits for consumers is not kept",
        "spine/services/outstanding.py",
        "    return tuple(change for change in found if change.told_as is not Role.CONSUMER)\n",
        "    return found\n",
        CONSENT,
    ),
    Mutant(
        "a tightening that is completed is sent no more",
        "domains/consumers/fan_out.py",
        "                tuple(_completed(order, event) for order in state.tightenings),\n",
        "                state.tightenings,\n",
        CONSENT,
    ),
    Mutant(
        "no two orders of a consent have one number",
        "domains/consumers/fan_out.py",
        "        len(state.every) + 1,\n",
        "        len(state.orders) + 1,\n",
        CONSENT,
    ),
    Mutant(
        "nobody orders in another's name",
        "domains/consumers/tightenings.py",
        "    if not tightens(leg) or leg.by != command.by:\n",
        "    if not tightens(leg):\n",
        CONSENT,
    ),
    Mutant(
        "a side that names a consent anew is found",
        "spine/console/conformance_tokens.py",
        "        if found != granted:\n",
        "        if False:\n",
        ("tests/server/test_conformance.py",),
    ),
    Mutant(
        "nobody removes another's webhook",
        "domains/consumers/webhooks.py",
        "            if by != of and by.role != Role.COORDINATOR:\n",
        "            if False:\n",
        CONSENT,
    ),
    Mutant(
        "an address that is gone takes no newer one with it",
        "domains/consumers/webhooks.py",
        "or (url and url != state.url):\n",
        "or False:\n",
        CONSENT,
    ),
    Mutant(
        "who is held is sent nothing",
        "spine/services/webhooks.py",
        "        return {} if waiting and self._withheld(to.receiver) else waiting\n",
        "        return waiting\n",
        CONSENT,
    ),
    Mutant(
        "who is accredited no more is sent nothing",
        "domains/consumers/webhooks.py",
        "    return any(each.role == receiver.role and each.live_at(now) for each in held)\n",
        "    return True\n",
        CONSENT,
    ),
    Mutant(
        "of an endless answer little is read",
        "spine/services/courier.py",
        "BEFORE_ANSWER_BYTES_MAX: Final = 16_384\n",
        "BEFORE_ANSWER_BYTES_MAX: Final = 1 << 30\n",
        ("tests/server/test_courier.py",),
    ),
    Mutant(
        "a notice holds up no change",
        CHANGES,
        "        return each.receiver, each.is_notice, each.since,",
        "        return each.receiver, each.since,",
        CONSENT,
    ),
    Mutant(
        "only the data user confirms a deletion",
        "domains/consumers/deletions.py",
        "    if by.party != owed.data_user:\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "an end by time alone obliges to delete",
        "domains/consumers/deletions.py",
        "    yield consent.expires\n",
        "    yield consent.expires.replace(year=9_999)\n",
        CONSENT,
    ),
    Mutant(
        "a term of deletion is of its purpose",
        "domains/consumers/deletion_terms.py",
        'data["purposes"].get(purpose, data["default_days"])',
        'data["default_days"]',
        CONSENT,
    ),
    Mutant(
        "each recipient is told of the end",
        CHANGES,
        "            receivers |= {(recipient, Role.DATA_USER) for recipient in recipients}\n",
        "",
        CONSENT,
    ),
    Mutant(
        "no category is finer than the granularity",
        "domains/consumers/record.py",
        "    if record.granularity and any(\n",
        "    if False and any(\n",
        CONSENT,
    ),
    Mutant(
        "recipients need onward sharing",
        "domains/consumers/record.py",
        "    if named and not record.onward_sharing:\n",
        "    if False:\n",
        CONSENT,
    ),
    Mutant(
        "a version of a record names the one before",
        "domains/consumers/chain.py",
        "        previous=before.hash,\n",
        "",
        CONSENT,
    ),
    Mutant(
        "a record is only of the command beside it",
        "domains/consumers/chain.py",
        "    if consent.changed_at != event.decided_at or (",
        "    if (",
        CONSENT,
    ),
    Mutant(
        "a notice of the consumer is the consumer's",
        "domains/consumers/notices.py",
        "        consumer = (consent.consumer_ref, Role.CONSUMER)\n",
        "        consumer = (consent.consumer_ref, Role.DATA_USER)\n",
        CONSENT,
    ),
    Mutant(
        "a key stands for one request everywhere",
        "spine/claims.py",
        "        if claimed != digest:\n",
        "        if False:\n",
        ("tests/core/test_claims.py",),
    ),
    # One trust
    Mutant(
        "another scheme counts by a row of its tier",
        ACCREDITED,
        "(row.from_scheme, row.from_tier) == (held.scheme, held.tier)",
        "row.from_scheme == held.scheme",
        EQUIVALENCE,
    ),
    Mutant(
        "a row counts for the purpose it names",
        ACCREDITED,
        "(row.to_scheme, row.to_purpose) == (scheme, purpose)",
        "row.to_scheme == scheme",
        EQUIVALENCE,
    ),
    Mutant(
        "a missing row is a no",
        ACCREDITED,
        "    if any(a.scheme == scheme and a.is_for(asked) for a in held):\n",
        "    if any(a.is_for(asked) for a in held):\n",
        EQUIVALENCE,
    ),
    Mutant(
        "a version of the table follows the one before",
        "spine/trust.py",
        "    if event.version != before + 1:\n",
        "    if False:\n",
        ("tests/domains/governance/test_equivalence.py",),
    ),
    Mutant(
        "a token is signed by a key that counts",
        TOKENS,
        "            and not known.revoked\n",
        "",
        OF_TOKENS,
    ),
    Mutant(
        "a token is signed",
        TOKENS,
        "            and note.signed_by(token.key, self.verify) is not None\n",
        "",
        OF_TOKENS,
    ),
    Mutant(
        "a token ends",
        TOKENS,
        "if now < token.good_until else",
        "if True else",
        OF_TOKENS,
    ),
    Mutant(
        "a token names the consent as it is now",
        TOKENS,
        "return None if _terms(consent) == said else Reason.TOKEN_OUTDATED",
        "return None",
        OF_TOKENS,
    ),
    Mutant(
        "a check waits for what was acknowledged before",
        "spine/services/shared_trust.py",
        "        await asyncio.gather(*map(side.level, of_partition.values()))\n",
        "",
        ("tests/broker/test_shared_trust.py",),
    ),
    # Aggregates
    Mutant(
        "a new bundle has enough meters that were in none before",
        SUMS,
        "        fresh = [mpxn for mpxn in mpxns if mpxn not in before.bundled]\n",
        "        fresh = list(mpxns)\n",
        AGGREGATES,
    ),
    Mutant(
        "a bundle that lacks a meter's day is left out of it",
        SUMS,
        "    return all(there[mpxn].values_wh is not None",
        "    return any(there[mpxn].values_wh is not None",
        AGGREGATES,
    ),
    Mutant(
        "newcomers wait until they are enough",
        SUMS,
        "        count = min(len(fresh), room) // meters_min\n",
        "        count = -(-min(len(fresh), room) // meters_min)\n",
        AGGREGATES,
    ),
    Mutant(
        "a feeder's figure has whole bundles of its meters only",
        SUMS,
        "    return feeders.pop() if len(feeders) == 1 else NO_FEEDER\n",
        "    return feeders.pop()\n",
        AGGREGATES,
    ),
    Mutant(
        "every fold holds a publication against the one before it",
        PUBLICATIONS,
        "    if (record.previous, record.first_bundle) != _tip(rows):\n",
        "    if record.first_bundle != _tip(rows)[1]:\n",
        PUBLISHED,
    ),
    Mutant(
        "a day is published once",
        PUBLICATIONS,
        "    if rows.get(_published_row(record.gsp_group, record.day)) is not None:\n",
        "    if False:\n",
        PUBLISHED,
    ),
    Mutant(
        "every fold counts the new meters of a bundle",
        PUBLICATIONS,
        "    if sum(stored is None for stored in last) < least:\n",
        "    if len(last) < least:\n",
        PUBLISHED,
    ),
    Mutant(
        "the least may be raised and never lowered",
        PUBLICATIONS,
        "    if least < METERS_MIN or min(sizes, default=least) < least:\n",
        "    if min(sizes, default=least) < least:\n",
        PUBLISHED,
    ),
    Mutant(
        "an estimate is no meter's reading",
        "domains/metering/feeders.py",
        "    if ESTIMATED in ",
        "    if None in ",
        ("tests/domains/metering/test_feeders.py",),
    ),
    # Who read what, and where it came from
    Mutant(
        "a former occupier stays unseen by the next",
        REGISTER,
        "        if request.role == Role.CONSUMER or request.category == Category.CONSENTS:\n",
        "        if False:\n",
        READS,
    ),
    Mutant(
        "a line belongs to whoever lived there at the time asked about",
        REGISTER,
        "            stay.effective_from < end"
        " and (stay.effective_to is None or begin < stay.effective_to)\n",
        "            True\n",
        READS,
    ),
    Mutant(
        "what is recorded as released counts as disclosed",
        REGISTER,
        "            if known is None or outcome.release == Release.RELEASED:\n",
        "            if known is None:\n",
        READS,
    ),
    Mutant(
        "a consent is named to whom it is of",
        REGISTER,
        "        return any(self.party in (c.consumer_ref, c.data_user) for c in named)\n",
        "        return True\n",
        READS,
    ),
    Mutant(
        "a step is the record that the proof leads to",
        ORIGINS,
        '        if leaves[step.place].hex() != step.said["leaf"]:\n',
        "        if False:\n",
        CAME_FROM,
    ),
    Mutant(
        "a step names a record of its own topic",
        ORIGINS,
        "    if len(partitions) != 1 or topics != [STEPS[kind] for kind in kinds]:\n",
        "    if False:\n",
        CAME_FROM,
    ),
    Mutant(
        "an answer has the digest that was released",
        ORIGINS,
        '    if v.sha256(canonical(mpxn, rows)).hex() != transfer.said["sha256"]:\n',
        "    if False:\n",
        CAME_FROM,
    ),
    # History
    Mutant(
        "a file that is not as it was written is no history",
        "spine/history.py",
        "path.stat().st_size != file.size or sha256(_footer(path)).digest() != file.footer_sha256",
        "False",
        HISTORY,
    ),
    Mutant(
        "every page of a file is checked",
        "spine/history.py",
        "page_checksum_verification=True",
        "page_checksum_verification=False",
        HISTORY,
    ),
    Mutant(
        "a store reads what it handed over",
        "spine/rocks.py",
        "    return merged(stored, _sound(history.scan(start, end), path))\n",
        "    return stored\n",
        HISTORY,
    ),
    Mutant(
        "rows go only once their file is named",
        "spine/store.py",
        "        self._db.put(HISTORY_ROW, pack(files))\n",
        "",
        HISTORY,
    ),
)
