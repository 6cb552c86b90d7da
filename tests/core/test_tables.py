"""What a table for people does with what is too long for it."""

from __future__ import annotations

from spine.console.output import TABLE_WIDTH, table, wide


def test_what_may_be_long_is_wrapped_and_anything_else_is_seen_to_be_cut() -> None:
    long = "x" * (2 * TABLE_WIDTH)
    with wide.capture() as shown:
        table("Said", ("said",), [(long,)], wrapped="said")
    assert shown.get().count("x") == len(long)
    with wide.capture() as shown:
        table("Said", ("said",), [(long,)])
    assert shown.get().count("x") < len(long) and "…" in shown.get()
