"""`moves` and `members`: processes that join and leave under load, and what sharing costs.

`moves` reads at a stated pace while a second readings process and a second DSI server join, and
leave again. A caller may be told to ask again, and how long to wait; a read that has no answer even
so fails the run, and any other failure ends it. `members` folds the same log by one, two and four
readings processes.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from loadtest.asking import week_reader
from loadtest.ceiling import bare_loop
from loadtest.checking import check_stores
from loadtest.country import Country
from loadtest.gb_day import Day, days_of, fold
from loadtest.growing import append
from loadtest.installation import MEMBERS_MAX, Note, expect, installation
from loadtest.results import Bound, Result
from loadtest.serving import Served
from loadtest.traffic import answer_to, at_pace
from spine import trust

READS_PER_S: Final = 20
COME_AND_GO: Final = ("readings-2", "dsi-2")
# How much of the run passes before they come, and before they go again.
QUIET_PART: Final = 0.2

MOVES_TARGETS: Final = (Bound("p99_ms", most=2_000),)
# Reads that moves of partitions cannot disturb are no finding: the one that came had some.
MOVES_GATES: Final = (Bound("unanswered", most=0), Bound("partitions_of_the_second", least=1))
MEMBERS_TARGETS: Final = (
    Bound("cpu_of_2_to_1", most=1.15),
    Bound("cpu_of_4_to_1", most=1.15),
)


def moves(served: Served, seconds: float) -> Result:
    """The scenario on a country that is served."""
    return asyncio.run(_moves(served, seconds))


async def _moves(served: Served, seconds: float) -> Result:
    spine = served.spine
    async with week_reader(served) as ask:

        async def come_and_go() -> None:
            await asyncio.sleep(seconds * QUIET_PART)
            await asyncio.to_thread(spine.start, *COME_AND_GO)
            await asyncio.sleep(seconds * QUIET_PART)
            await asyncio.to_thread(spine.stop, *COME_AND_GO)

        if not served.rows:
            await ask.learn()
        told_before = ask.patience.count

        async def read(number: int) -> None:
            with answer_to("a read"):
                await ask(number)

        moving = asyncio.create_task(come_and_go())
        taken = await at_pace(read, READS_PER_S, seconds)
        expect(moving.done(), "the processes came and went for longer than the load")
        await moving
    return Result(
        "moves",
        len(served.mpans),
        {
            "reads": len(taken.latencies_ms),
            "unanswered": taken.unanswered,
            "told_to_ask_again": ask.patience.count - told_before,
            "p50_ms": taken.at(50),
            "p99_ms": taken.at(99),
            "partitions_of_the_second": taken_over(spine.runtime.stores(COME_AND_GO[0])),
        },
        MOVES_TARGETS,
        MOVES_GATES,
        ["told to ask again: with a hint when; unanswered: after all such hints, within 20 s"],
    )


def taken_over(stores: Path) -> int:
    """How many partitions a readings process had, by the stores that it leaves when it goes."""
    return sum(any(store.glob("*/CURRENT")) for store in stores.glob(f"{trust.READINGS_TOPIC}-*"))


def members(meters: int, folder: Path, note: Note, days: int) -> Result:
    """The same log folded by one, two and four readings processes."""
    figures: dict[str, float] = {}
    country, chosen = Country(meters), days_of(days)
    with installation(folder, [], lambda text: note(text, 0, 0)) as spine:
        spine.stop("consumers", "governance")
        recorded = asyncio.run(append(spine, country, chosen, note))
        bare = bare_loop(spine, folder / "none", store=False)
        expect(bare.rows == recorded, f"the log holds {bare.rows} rows, not {recorded}")
        for count in (1, 2, MEMBERS_MAX):
            names = ["readings", *(f"readings-{n}" for n in range(2, count + 1))]
            day = Day()
            fold(spine, bare, day, note, names)
            spine.stop(*names)
            look = folder / "look"
            check_stores(
                spine, country, chosen, recorded, look, note, corrected=False, members=names
            )
            for name in names:
                shutil.rmtree(spine.runtime.stores(name))
            shutil.rmtree(spine.data_dir / "watch")
            figures[f"cpu_us_per_meter_day_of_{count}"] = day.fold_cpu_us
            figures[f"meter_days_per_s_of_{count}"] = day.fold_rows / day.fold_s
    alone = figures["cpu_us_per_meter_day_of_1"]
    for count in (2, MEMBERS_MAX):
        figures[f"cpu_of_{count}_to_1"] = figures[f"cpu_us_per_meter_day_of_{count}"] / alone
    return Result("members", meters, {"meter_days": recorded, **figures}, MEMBERS_TARGETS)
