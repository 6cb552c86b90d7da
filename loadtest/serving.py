"""A country whose readings can be read: registers, tenancies, consents, some days of readings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest.country import Country, day_number
from loadtest.deliveries import expected
from loadtest.direct import wait_until_folded
from loadtest.gb_day import ORDINARY_DAYS, Day, ingest, load_registers
from loadtest.installation import Installation, Note, expect, installation
from loadtest.loading import Loader
from spine import trust
from spine.console.client import interval
from spine.dsi.v1 import dsi_pb2
from spine.policy import Basis

DAYS: Final = ORDINARY_DAYS[:7]
# The tag of `rows`, the first field of an answer, as protobuf writes it before each of them.
ROW_FOLLOWS: Final = b"\x0a"


@dataclass
class Served:
    """An installation that answers reads, and what it must answer."""

    spine: Installation
    country: Country
    mpans: list[str]
    # Indexes of meters that have readings, and so an answer with values.
    known: list[int]
    # By meter, the serialised rows of its answer, once they were compared value by value.
    rows: dict[int, bytes] = field(default_factory=dict)

    def request(self, index: int) -> Any:
        """An adviser's question for the week of one meter."""
        return dsi_pb2.GetReadingsRequest(
            mpxn=self.mpans[index],
            purpose="ENERGY_ADVICE",
            basis=Basis.CONSENT,
            interval=WEEK,
        )

    def adviser(self, index: int) -> int:
        """Which adviser the meter's occupier lets read."""
        return index % len(self.spine.advisers)

    def check(self, index: int, rows: Sequence[Any], days: Sequence[date]) -> None:
        """WrongAnswer unless these half hours are those that were sent of the meter."""
        said: list[Any] = list(rows)
        expect(len(said) == 48 * len(days), f"{len(said)} half hours for {len(days)} days")
        for place, on in enumerate(days):
            (right,) = expected(self.country, [index], on)
            of_day = said[place * 48 : place * 48 + 48]
            first = day_number(on) * 86_400
            expect(of_day[0].start.seconds == first, "the half hours begin at another time")
            found = {
                n: (row.value_wh, row.quality)
                for n, row in enumerate(of_day)
                if row.WhichOneof("reading") == "value_wh"
            }
            expect(found == right, f"the meter of index {index} reads otherwise than sent")

    def learn(self, index: int, raw: bytes) -> None:
        """Compare an answer value by value; from then on its rows are known byte by byte."""
        answer = dsi_pb2.GetReadingsResponse.FromString(raw)
        self.check(index, answer.rows, DAYS)
        rows = dsi_pb2.GetReadingsResponse(rows=answer.rows).SerializeToString()
        expect(raw.startswith(rows), "the rows do not come first in an answer")
        self.rows[index] = rows

    def right(self, index: int, raw: bytes) -> None:
        """WrongAnswer unless the answer holds exactly the rows that are known of the meter."""
        rows = self.rows[index]
        more = raw[len(rows) : len(rows) + 1] == ROW_FOLLOWS
        right = raw.startswith(rows) and not more
        expect(right, f"the meter of index {index} reads otherwise")


def _week() -> Any:
    start = datetime(DAYS[0].year, DAYS[0].month, DAYS[0].day, tzinfo=UTC)
    return interval(start, start + timedelta(days=len(DAYS)))


WEEK: Final = _week()


@contextmanager
def served(meters: int, folder: Path, note: Note) -> Iterator[Served]:
    """A country in an installation of its own, ready to be read."""
    country = Country(meters)
    with installation(folder, ["metering"], lambda text: note(text, 0, 0), meters=meters) as spine:
        populate(spine, country, note)
        day = Day()
        asyncio.run(ingest(spine, country, DAYS, day, note))
        wait_until_folded(spine, "readings", [trust.READINGS_TOPIC], note)
        block = country.block(0, meters)
        known = np.flatnonzero(block.registered).tolist()
        yield Served(spine, country, [mpan.decode() for mpan in block.mpans.tolist()], known)


def populate(spine: Installation, country: Country, note: Note) -> None:
    """Registers, tenancies and consents of a country, and then the processes that answer reads."""
    load_registers(spine, country, note)
    loader = Loader(spine, country)
    asyncio.run(loader.occupy(lambda n: note("tenancies", n, country.meters)))
    asyncio.run(loader.consent(lambda n: note("consents", n, country.meters)))
    spine.start("readings", "dsi")
