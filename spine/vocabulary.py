"""One vocabulary for the consent side and the data side: purposes, categories, bases, sensitivity.

Made of the policy data that governance adopted and, for each category, its sensitivity, one of the
three labels of Icebreaker One's open framework. A version of the policy is a version of the
vocabulary; it never changes under its number. A code that is not in it is a no.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from spine.catalogue import Label
from spine.policy_data import POLICY_DATA

# What is read of a meter is somebody's: it is given to those who are let, and to nobody else.
_LABELS: Final[Mapping[str, Label]] = {
    "HH_CONSUMPTION": Label.SHARED,
    "DAILY": Label.SHARED,
    "REGISTER": Label.SHARED,
    "TARIFF": Label.SHARED,
    "EXPORT": Label.SHARED,
    "ASSET": Label.SHARED,
    "METERING_POINT": Label.SHARED,
    "CONSENTS": Label.SHARED,
}
SENSITIVITY: Final[Mapping[int, Mapping[str, Label]]] = {1: _LABELS, 2: _LABELS}


@dataclass(frozen=True, slots=True)
class BasisTerms:
    """What a lawful basis is good for."""

    code: str
    roles: tuple[str, ...]
    purposes: tuple[str, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The codes of one version, all in order. `categories` are pairs of code and sensitivity."""

    version: int
    purposes: tuple[str, ...]
    categories: tuple[tuple[str, str], ...]
    bases: tuple[BasisTerms, ...]
    sensitivities: tuple[str, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 of it as canonical JSON: what two sides compare."""
        said = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(said.encode()).digest()


def vocabulary(version: int) -> Vocabulary | None:
    """The vocabulary of a version of the policy; None for a version this build does not know."""
    data = POLICY_DATA.get(version)
    if data is None:
        return None
    bases: Any = data["bases"]
    terms = tuple(
        BasisTerms(
            code,
            tuple(sorted(bases[code]["roles"])),
            tuple(sorted(bases[code]["purposes"])),
            tuple(sorted(bases[code]["categories"])),
        )
        for code in sorted(bases)
    )
    categories = sorted({category for one in terms for category in one.categories})
    labels = SENSITIVITY[version]
    return Vocabulary(
        version,
        tuple(sorted({purpose for one in terms for purpose in one.purposes})),
        tuple((category, str(labels[category])) for category in categories),
        terms,
        tuple(sorted(str(label) for label in Label)),
    )
