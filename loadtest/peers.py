"""`peers`: the job of `gb-day`'s fold as somebody would write it with Quix Streams and Bytewax.

They read the same records of the same log, on the same machine, into RocksDB: Avro taken apart, the
check digit and the range of every meter-day checked, one row a meter-day. `batched` keeps our
batches; `per record` first writes the log again with one meter-day a record, as the usual way is.
They do none of the rest: no signature, partition, key, version or position is looked at.

They need packages of their own (`loadtest/peers.txt`), in an environment of their own, so that
nothing the spine depends on is held back by what they pin: `make load-gb` builds it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any, Final

from loadtest.ceiling import bare_loop
from loadtest.checking import check_stores
from loadtest.country import Country
from loadtest.gb_day import Day, days_of, fold
from loadtest.growing import append
from loadtest.installation import Installation, Note, expect, installation
from loadtest.results import Bound, Result
from spine import trust

ENVIRONMENT: Final = Path(__file__).parents[1] / ".venv" / "peers" / "bin" / "python"
PEER_S: Final = 600.0
PER_RECORD_MAX: Final = 200_000

TARGETS: Final = (
    Bound("times_quix_per_record", least=15),
    Bound("times_bytewax_per_record", least=5),
    Bound("ratio_to_quix_batched", least=0.7),
)


def run(meters: int, folder: Path, note: Note) -> Result:
    """Our fold and theirs, one after the other, over the same log."""
    expect(ENVIRONMENT.exists(), "the peers are not installed: make load-gb")
    with installation(folder, [], lambda text: note(text, 0, 0)) as spine:
        spine.stop("consumers", "governance")
        country, chosen = Country(meters), days_of(1)
        recorded = asyncio.run(append(spine, country, chosen, note))
        bare = bare_loop(spine, folder / "bare")
        day = Day()
        fold(spine, bare, day, note)
        spine.stop("readings")
        check_stores(spine, country, chosen, recorded, folder / "look", note, corrected=False)
        rate = day.fold_rows / day.fold_s
        figures: dict[str, float] = {"meter_days": recorded, "fold_meter_days_per_s": rate}
        for peer in ("quix", "bytewax"):
            for shape in ("batched", "per_record"):
                note(f"{peer}, {shape}", 0, 0)
                count = recorded if shape == "batched" else min(recorded, PER_RECORD_MAX)
                said = _peer(spine, folder, peer, shape, count)
                expect(said["rows"] == count, f"{peer} {shape} kept {said['rows']} of {count}")
                figures[f"{peer}_{shape}_per_s"] = said["rows"] / said["seconds"]
    for peer in ("quix", "bytewax"):
        figures[f"times_{peer}_per_record"] = rate / figures[f"{peer}_per_record_per_s"]
        figures[f"ratio_to_{peer}_batched"] = rate / figures[f"{peer}_batched_per_s"]
    return Result("peers", meters, figures, TARGETS)


def _peer(spine: Installation, folder: Path, peer: str, shape: str, count: int) -> Any:
    schema = spine.runtime.codec.schemas.named("metering.ReadingsBatch").parsed
    task = {
        "bootstrap": spine.kafka.bootstrap,
        "topic": trust.READINGS_TOPIC,
        "partitions": spine.runtime.partitions,
        "schema": schema,
        "shape": shape,
        "count": count,
        "folder": str(folder / f"{peer}-{shape}"),
    }
    done = subprocess.run(
        [str(ENVIRONMENT), str(Path(__file__).parent / "peer_jobs.py"), peer],
        input=json.dumps(task, default=str),
        capture_output=True,
        text=True,
        timeout=PEER_S,
        check=False,
    )
    expect(done.returncode == 0, f"{peer} {shape}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
