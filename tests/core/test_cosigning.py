"""Witnesses are asked all at once, and what they are shown is made once for those that agree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from spine.ledger.book import Sealed
from spine.ledger.cosigning import Witnesses
from spine.ledger.library import Library
from spine.ledger.witness import Witness
from spine.ledger.witnessing import WitnessServer
from tests.helpers.ledger import KEY, open_book, record, sealed


async def test_what_witnesses_are_shown_is_made_once_for_each_place_where_they_stand(
    tmp_path: Path,
) -> None:
    book = open_book(tmp_path / "ledger")
    library, asked = Library(book.public), Counter[int]()

    def growth(size: int, head: Sealed) -> dict[str, Any]:
        asked[size] += 1
        return library.growth(size, head.note, head.heads)

    listed, runners = dict[str, str](), []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        witness = Witness(tmp_path / name, f"example.com/{name}", KEY)
        runner = web.AppRunner(WitnessServer(witness).app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        listed[str(witness.key)] = f"http://127.0.0.1:{runner.addresses[0][1]}"
    witnesses = Witnesses(lambda: listed, quorum=3)
    for offset in range(3):
        made = sealed(book, [record(offset)])
        said = await witnesses.cosign(made, growth)
        assert len(said.signatures) == 3 and not said.forks and not said.ahead
    assert asked == {0: 1, 1: 1, 2: 1}
    anew = Witnesses(lambda: listed, quorum=3)  # it does not know yet where they stand
    assert len((await anew.cosign(sealed(book, [record(3)]), growth)).signatures) == 3
    assert asked == {0: 2, 1: 1, 2: 1, 3: 1}
    for each in (witnesses, anew):
        await each.close()
    for runner in runners:
        await runner.cleanup()
