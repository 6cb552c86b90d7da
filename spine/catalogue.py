"""The data domains and their data sets: who coordinates, who owns, how sensitive, on what terms.

Each domain declares its own as pure data (`domains/<domain>/catalogue.py`). Written out as DCAT,
the W3C's vocabulary of data catalogues, in JSON-LD. The sensitivity labels are the three of
Icebreaker One's open framework; nothing of them decides a read, which policy and consent do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from spine.codelist import ListSpec


class Label(StrEnum):
    """Sensitivity: to anybody; to those who are let, under terms; to nobody outside."""

    OPEN = "OPEN"
    SHARED = "SHARED"
    CLOSED = "CLOSED"


class Personal(StrEnum):
    """Whether it is about people: not at all, under a number instead of a name, or by name."""

    NONE = "NONE"
    PSEUDONYMOUS = "PSEUDONYMOUS"
    PERSONAL = "PERSONAL"


class Appointment(StrEnum):
    """How firmly the organisation was appointed to coordinate the domain."""

    APPOINTED = "APPOINTED"
    PROVISIONAL = "PROVISIONAL"
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of a domain. `topics` hold it in the log; `categories` are those of the policy
    under which it is read; `methods` are the gRPC methods that give it out.
    """

    id: str
    title: str
    description: str
    owner: str
    label: Label
    personal: Personal
    access_rights: str
    topics: tuple[str, ...]
    categories: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True, slots=True)
class DataDomain:
    """A data domain: who coordinates it, its data sets, and its lists of standing data."""

    name: str
    title: str
    coordinator: str
    appointment: Appointment
    data_sets: tuple[DataSet, ...]
    reference_topic: str = ""
    lists: Mapping[str, ListSpec] | None = None

    @property
    def code_lists(self) -> Mapping[str, ListSpec]:
        """Its lists of standing data by name."""
        return self.lists or {}


BASE: Final = "urn:energyos"
_CONTEXT: Final = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "energyos": f"{BASE}:terms:",
}


def dcat(domains: Iterable[DataDomain]) -> dict[str, Any]:
    """The catalogue as a JSON-LD document of DCAT 3: one catalogue for each domain in one of all.

    What DCAT has no word for (label, personal, appointment, topics) is under `energyos:`.
    """
    found = tuple(domains)
    return {
        "@context": dict(_CONTEXT),
        "@id": f"{BASE}:catalogue",
        "@type": "dcat:Catalog",
        "dct:title": "Data sets of the EnergyOS spine",
        "dct:description": "The coordinated data domains of the reference platform.",
        "dct:publisher": _agent("EnergyOS spine (reference platform)"),
        "dct:language": "en",
        "dcat:catalog": [_catalog(domain) for domain in found],
    }


def _catalog(domain: DataDomain) -> dict[str, Any]:
    services = sorted({_service(m) for d in domain.data_sets for m in d.methods})
    return {
        "@id": f"{BASE}:domain:{domain.name}",
        "@type": "dcat:Catalog",
        "dct:title": domain.title,
        "dct:description": f"The data domain {domain.name}.",
        "dct:publisher": _agent(domain.coordinator),
        "energyos:appointment": domain.appointment,
        "dcat:dataset": [_dataset(domain, data_set) for data_set in domain.data_sets],
        "dcat:service": [
            {
                "@id": f"{BASE}:service:{domain.name}:{name}",
                "@type": "dcat:DataService",
                "dct:title": name,
                "dct:description": f"gRPC over mutual TLS, service {name}.",
                "dcat:servesDataset": [
                    {"@id": _id(domain, d)}
                    for d in domain.data_sets
                    if name in {_service(m) for m in d.methods}
                ],
            }
            for name in services
        ],
    }


def _dataset(domain: DataDomain, data_set: DataSet) -> dict[str, Any]:
    made: dict[str, Any] = {
        "@id": _id(domain, data_set),
        "@type": "dcat:Dataset",
        "dct:identifier": f"{domain.name}.{data_set.id}",
        "dct:title": data_set.title,
        "dct:description": data_set.description,
        "dct:publisher": _agent(domain.coordinator),
        "dct:rightsHolder": _agent(data_set.owner),
        "dct:accessRights": {"@type": "dct:RightsStatement", "rdfs:label": data_set.access_rights},
        "dct:spatial": "Great Britain",
        "dcat:theme": {"@type": "skos:Concept", "skos:prefLabel": domain.title},
        "dcat:keyword": [domain.name, *data_set.categories],
        "energyos:sensitivityLabel": data_set.label,
        "energyos:personalData": data_set.personal,
        "energyos:topic": list(data_set.topics),
    }
    if data_set.licence:
        made["dct:license"] = {"@type": "dct:LicenseDocument", "rdfs:label": data_set.licence}
    if data_set.methods:
        made["dcat:distribution"] = [
            {
                "@type": "dcat:Distribution",
                "dct:title": method,
                "dct:format": "application/grpc+proto",
                "dcat:accessService": {"@id": f"{BASE}:service:{domain.name}:{_service(method)}"},
            }
            for method in data_set.methods
        ]
    return made


def _service(method: str) -> str:
    """The service of a method: `spine.dsi.v1.Dsi` of `spine.dsi.v1.Dsi/GetReadings`."""
    return method.partition("/")[0]


def _id(domain: DataDomain, data_set: DataSet) -> str:
    return f"{BASE}:dataset:{domain.name}:{data_set.id}"


def _agent(name: str) -> dict[str, str]:
    return {"@type": "foaf:Organization", "foaf:name": name}
