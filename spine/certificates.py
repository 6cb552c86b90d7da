"""A certificate with its key, as they were found in an identity's folder, and if they serve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from spine.errors import Invalid, Reason, Unauthenticated
from spine.identity import CA_ALIAS, Caller, Identity, caller_in, is_due


@dataclass(frozen=True, slots=True)
class Pair:
    """What the three files of an identity held when they were read, PEM."""

    cert: bytes
    key: bytes
    ca: bytes
    caller: Caller
    not_before: datetime
    not_after: datetime

    @classmethod
    def read(cls, identity: Identity) -> Self:
        """What is in the folder now, in date or not.

        Invalid(IDENTITY_MISSING) if a file is missing or damaged, if the key is another
        certificate's, or if the certificate is not one for a caller of the spine.
        """
        name = identity.folder.name
        try:
            cert, key, ca = identity.cert, identity.key, identity.ca
            certificate = x509.load_pem_x509_certificate(cert)
            belongs = load_pem_private_key(key, None).public_key() == certificate.public_key()
            x509.load_pem_x509_certificates(ca)
            caller = caller_in(cert)
        except OSError as error:
            raise _unfit(f"a file of the identity {name} is missing or cannot be read") from error
        except (ValueError, TypeError) as error:
            raise _unfit(f"a file of the identity {name} is damaged") from error
        except Unauthenticated as error:
            raise _unfit(f"the identity {name}: {error.message}") from error
        if not belongs:
            raise _unfit(f"the key of the identity {name} is not that of its certificate")
        span = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return cls(cert, key, ca, caller, *span)

    def check_follows(self, before: Pair, now: datetime) -> None:
        """Invalid(IDENTITY_MISSING) unless it may take the place of that one."""
        if str(self.caller) != str(before.caller):
            raise _unfit(f"the certificate names {self.caller} in the place of {before.caller}")
        if not self.not_before <= now <= self.not_after:
            raise _unfit(f"the certificate of {self.caller} is not valid at this time")

    def standing(self, authority: x509.Certificate | None, now: datetime) -> str:
        """How it stands: valid, due (to be renewed), ended, not yet valid, or of another authority
        than that one.
        """
        if not self.not_before <= now:
            return "not yet valid"
        if now > self.not_after:
            return "ended"
        if authority is not None and not _issued_by(authority, self.cert):
            return "of another authority"
        return "due" if is_due(self.not_before, self.not_after, now) else "valid"


def authority_of(identities: Path) -> x509.Certificate | None:
    """The certificate of the authority of that folder, whether its key is at hand or not."""
    try:
        return x509.load_pem_x509_certificate(Identity(identities / CA_ALIAS).cert)
    except (OSError, ValueError):
        return None


def _issued_by(authority: x509.Certificate, pem: bytes) -> bool:
    try:
        x509.load_pem_x509_certificate(pem).verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _unfit(message: str) -> Invalid:
    return Invalid(Reason.IDENTITY_MISSING, message)
