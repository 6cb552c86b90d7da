"""A certificate with its key, as they were found in an identity's folder, and if they serve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from spine.errors import Invalid, Reason, Unauthenticated
from spine.identity import (
    CA_ALIAS,
    DEV_SERVER_NAME,
    Caller,
    Identity,
    caller_in,
    is_due,
    key_of,
)


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
            belongs = key_of(certificate, key) is not None
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
        """Invalid(IDENTITY_MISSING) unless a server may show it in the place of that one: it names
        the same, is in date, and is one that the other processes of the spine accept.
        """
        if str(self.caller) != str(before.caller):
            raise _unfit(f"the certificate names {self.caller} in the place of {before.caller}")
        if not self.not_before <= now <= self.not_after:
            raise _unfit(f"the certificate of {self.caller} is not valid at this time")
        self._check_accepted()

    def _check_accepted(self) -> None:
        """What callers ask of a server, as far as the three files show it."""
        chain = x509.load_pem_x509_certificates(self.cert)
        extensions = chain[0].extensions
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            raise _unfit(f"the certificate of {self.caller} is not one for a server")
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if DEV_SERVER_NAME not in names.get_values_for_type(x509.DNSName):
            raise _unfit(f"the certificate of {self.caller} does not name {DEV_SERVER_NAME}")
        trusted = x509.load_pem_x509_certificates(self.ca)
        # With intermediates, the path to an authority is for those who check it to find.
        if len(chain) == 1 and not any(_issued_by(one, self.cert) for one in trusted):
            raise _unfit(f"ca.pem does not hold the authority that issued {self.caller}")

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
