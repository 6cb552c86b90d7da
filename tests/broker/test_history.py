"""A readings process that handed its old days over goes on, and the DSI answers as before."""

from __future__ import annotations

from datetime import date

from domains.metering import READINGS
from domains.metering.rows import ROW_PREFIX
from spine import rocks, trust
from spine.config import Settings
from spine.dsi.process import start_readings
from spine.log import Kafka
from spine.store import Store
from tests.helpers.town import DAY, MPAN, at_least, open_dsi, query, settle

LINE = (DAY.date() - date(1970, 1, 1)).days + 5  # five days of the seven


async def test_answers_stay_the_same_when_old_days_are_handed_over(
    own_log: tuple[Settings, Kafka],
) -> None:
    async with settle(*own_log) as town, open_dsi(town) as dsi:
        first = await town.record()
        await town.grant("consent-1")
        judged, before = await dsi.reads.read_one(query(), MPAN, at_least(first))
        assert judged.permitted and before.rows == 7 * 48
        await town.readings.stop()
        path = town.runtime.stores("readings") / f"{trust.READINGS_TOPIC}-{town.partition}"
        store = Store(path, READINGS.history)
        moved = store.move_to_history(LINE)
        assert moved is not None and moved.rows == 5
        left = rocks.scan(store._db, path, ROW_PREFIX, ROW_PREFIX + b"\xff")
        assert sum(1 for _ in left) == 2
        store.close()
        town.readings = await start_readings(town.runtime)
        _, after = await dsi.reads.read_one(query(), MPAN, at_least(first))
        assert (after.digest, after.rows) == (before.digest, before.rows)
        # A correction of a day that was handed over counts like any other.
        second = await town.record(days=1, wh=333, reference="corrected")
        _, corrected = await dsi.reads.read_one(query(), MPAN, at_least(second))
        values = [row.recorded.value_wh for row in corrected.half_hours if row.recorded]
        assert values == [333] * 48 + [100] * 6 * 48
