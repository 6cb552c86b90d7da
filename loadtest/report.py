"""What is kept of runs: `results.json`, and `RESULTS.md` and its plots made from it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from loadtest import scenarios, sizing
from loadtest.country import RATES
from loadtest.results import Bound, Result, percentile

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "results.json"
PAGE: Final = HERE / "RESULTS.md"
NOTES: Final = HERE / "NOTES.md"
LIBRARIES: Final = (
    "aiokafka",
    "confluent-kafka",
    "cryptography",
    "fastavro",
    "faust-streaming",
    "grpcio",
    "kafka-python",
    "numpy",
    "rocksdict",
)
WIDTH, HEIGHT, MARGIN = 640, 300, 56
# Of meter-days that are sent, those whose meter is registered and whose sender appointed.
RECORDED: Final = 1 - (RATES.unregistered + RATES.misdirected) / 10_000
# What sizes count, where that is not meters.
UNITS: Final = {"cut": "streams"}
# The cost of a meter-day is to be the same from that size up, in runs that last so long.
GROWTH_FROM, GROWTH_MOST, GROWTH_S_LEAST = 100_000, 1.15, 20
# File, scenario, what it shows, and the figures it shows it by.
PLOTS: Final = (
    (
        "throughput",
        "growth",
        "Meter-days a second",
        ("fold_meter_days_per_s", "ceiling_meter_days_per_s"),
    ),
    (
        "cost",
        "growth",
        "Microseconds for one meter-day",
        ("fold_us_per_meter_day", "fold_cpu_us_per_meter_day"),
    ),
    (
        "latency",
        "reads",
        "Milliseconds for one meter-week, alone and at half the rate it bears",
        ("alone_p50_ms", "p50_ms", "p99_ms"),
    ),
)


def keep(result: Result) -> None:
    """Put a result beside those kept, in the place of one of the same scenario and size."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"runs": []}
    place = (result.scenario, result.size)
    runs = [run for run in kept["runs"] if (run["scenario"], run["size"]) != place]
    runs.append(
        {
            "scenario": result.scenario,
            "size": result.size,
            "meters": result.meters,
            "days": result.days,
            "date": datetime.now(UTC).date().isoformat(),
            "figures": result.figures,
            "targets": [_target(target, result) for target in result.targets],
            "notes": result.notes,
        }
    )
    kept["runs"] = sorted(runs, key=lambda run: (run["scenario"], run["size"]))
    kept["machine"] = machine()
    # The largest run of each scenario speaks for it in the sizing.
    kept["figures"] = {run["scenario"]: run["figures"] for run in kept["runs"]}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


def _target(target: Bound, result: Result) -> dict[str, Any]:
    reached = target.holds(result.figures)
    return {"target": str(target), "value": result.figures[target.figure], "reached": reached}


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    said = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    model = next((x.split(":")[1].strip() for x in said.splitlines() if "Model name" in x), "")
    return {
        "processor": model or platform.processor(),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def write() -> None:
    """Make RESULTS.md, its plots and the chapter in DESIGN.md from what is kept."""
    kept = json.loads(KEPT.read_text())
    PAGE.write_text(page(kept, NOTES.read_text() if NOTES.exists() else ""))
    for name, scenario, title, fields in PLOTS:
        runs = [run for run in kept["runs"] if run["scenario"] == scenario]
        if len(runs) > 1:
            lines = {field: [run["figures"][field] for run in runs] for field in fields}
            (HERE / f"{name}.svg").write_text(plot(title, [run["size"] for run in runs], lines))
    if {"access", "gb-day", "reads", "registry", "rebuild"} <= set(kept["figures"]):
        sizing.main()


def page(kept: Any, notes: str) -> str:
    """RESULTS.md."""
    out = [
        "# Results",
        "",
        "Made from `results.json` by `python -m loadtest full`; with each run stands the command",
        "that repeats it. Every answer was compared with what must come of it; a wrong one ends a",
        "run without a result.",
        "",
        "| on | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in kept["machine"].items()),
        "",
    ]
    for run in kept["runs"]:
        unit = UNITS.get(run["scenario"], "meters")
        out += [f"## {run['scenario']}, {run['size']:,} {unit}", ""]
        out += [f"{run['date']}, `{command(run)}`", ""]
        out += ["| figure | value |", "|---|---|"]
        out += [f"| {name} | {_text(value)} |" for name, value in run["figures"].items()]
        out += ["", *(_verdict(target) for target in run["targets"])]
        out += [f"- {note}" for note in run["notes"]]
        out.append("")
    out += growth([run for run in kept["runs"] if run["scenario"] == "growth"])
    for name, _, title, _ in PLOTS:
        if (HERE / f"{name}.svg").exists():
            out += [f"![{title}, against size]({name}.svg)", ""]
    return "\n".join(out) + notes


def command(run: Any) -> str:
    """What repeats a run. Of one kept by an earlier build the days follow from its meter-days."""
    days = run.get("days")
    if days is None and run["scenario"] in scenarios.BY_DAYS:
        days = round(run["figures"]["meter_days"] / (run["size"] * RECORDED))
    meters = run.get("meters", run["size"])
    over = f" --days {days}" if days and days > 1 else ""
    return f"spine loadtest {run['scenario']} --meters {meters}{over} --json"


def growth(runs: Sequence[Any]) -> list[str]:
    """Whether a meter-day costs the same at every size, of runs that last; nothing of one size."""
    alike = {run["size"]: run["figures"] for run in runs if run["size"] >= GROWTH_FROM}
    if len(alike) < 2:
        return []
    costs = [figures["fold_us_per_meter_day"] for figures in alike.values()]
    short = [
        f"{figures['fold_s']:.3g} s at {size:,}"
        for size, figures in alike.items()
        if figures["fold_s"] < GROWTH_S_LEAST
    ]
    ratio = max(costs) / min(costs)
    said = [
        _said(
            f"fold_us_per_meter_day from {GROWTH_FROM:,} up, most to least ≤ {GROWTH_MOST}",
            ratio <= GROWTH_MOST,
            f"at {_text(ratio)}",
        ),
        _said(
            f"each of these runs folds for {GROWTH_S_LEAST} s or longer",
            not short,
            ", ".join(short) if short else "all",
        ),
    ]
    return ["## growth, all sizes", "", *said, ""]


def _verdict(target: Any) -> str:
    return _said(target["target"], target["reached"], f"at {_text(target['value'])}")


def _said(target: str, reached: bool, found: str) -> str:
    return f"- {target}: {'reached' if reached else '**missed**'}, {found}"


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.3g}"


def plot(title: str, sizes: Sequence[int], lines: dict[str, list[float]]) -> str:
    """Lines against size, both from 0 up but sizes by their logarithm, as SVG."""
    top = 1.1 * max(percentile(values, 100) for values in lines.values())
    colours = ("#1b6ca8", "#c0392b", "#27825a")

    def at(place: int, value: float) -> tuple[float, float]:
        across = MARGIN + place * (WIDTH - 2 * MARGIN) / max(1, len(sizes) - 1)
        return across, HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN)

    parts = [_words(WIDTH / 2, 22, title, "middle", 15)]
    base = HEIGHT - MARGIN
    parts.append(
        f'<path d="M{MARGIN} {MARGIN}V{base}H{WIDTH - MARGIN}" fill="none" stroke="#555"/>'
    )
    for place, size in enumerate(sizes):
        parts.append(_words(at(place, 0)[0], base + 18, f"{size:,} meters", "middle", 11))
    for share in (0.5, 1.0):
        parts.append(_words(MARGIN - 6, at(0, top * share)[1] + 4, _text(top * share), "end", 11))
    for number, (name, values) in enumerate(lines.items()):
        points = [at(place, value) for place, value in enumerate(values)]
        colour = colours[number % len(colours)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(_words(MARGIN + 8, MARGIN + 14 * number, name, "start", 11, colour))
    return _svg(parts)


def _words(x: float, y: float, text: str, anchor: str, size: int, colour: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}>{text}</text>"


def _svg(parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
    body = "\n".join(parts)
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'{head}font-family="sans-serif">{ground}\n{body}\n</svg>\n'
