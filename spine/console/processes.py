"""Commands that run something: everything (`up`), one process, or the demonstration."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Annotated, Final

import typer

from spine.collecting import collect_less_often
from spine.config import Settings
from spine.console.context import kafka, runtime, settings, use
from spine.console.logs import ensure_log, issue_identities
from spine.console.output import err, out
from spine.embedded import EmbeddedKafka
from spine.errors import Invalid, Pushback, Reason
from spine.identity import CA_ALIAS, CERT_FILE
from spine.ledger.process import ledger_key
from spine.opening import LogIdentity
from spine.runtime import LOG_FILE, Process, Runtime
from spine.stopping import stop_told
from spine.supervise import WITNESSES, Supervisor
from spine.telemetry import set_up_logging, set_up_telemetry
from spine.watched_loop import WatchedLoop
from spine.webhook import LOOPBACK

COORDINATORS: Final = ("governance", "consumers", "metering", "btm_assets")
# The process of a coordinator, where its domain is no name that a host can bear.
PROCESS_OF: Final = {"btm_assets": "assets"}

SHARED_TRUST: Final = (
    "The witnesses run on this machine and share its trust domain: they show how it works, and "
    "prove nothing against whoever runs it."
)


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    app.command()(up)
    app.command()(coordinator)
    app.command()(dsi)
    app.command()(readings)
    app.command()(demo)


Member = Annotated[
    str | None, typer.Option(help="Which of several this is, such as 2; default SPINE_MEMBER.")
]
HowMany = Annotated[int, typer.Option(min=1, max=16, help="How many of them share the work.")]


def up(dsi: HowMany = 1, readings: HowMany = 1) -> None:
    """Start the embedded broker and every process, and keep them running until Ctrl-C."""
    counts = {"dsi": dsi, "readings": readings}
    with running(settings(), lambda text: out.print(f"  [green]●[/] {text}"), counts) as supervisor:
        out.print("Everything is up. Ctrl-C stops it; what was recorded stays.")
        if supervisor.witnesses:
            out.print(SHARED_TRUST)
        supervisor.run(stop_told().is_set)
        out.print("Stopping …")


@contextlib.contextmanager
def running(
    chosen: Settings,
    note: Callable[[str], None] = lambda _: None,
    counts: Mapping[str, int] | None = None,
) -> Iterator[Supervisor]:
    """The whole installation, up for the length of a with block; `counts` as in `processes`."""
    embedded = None
    environment = {"SPINE_DATA_DIR": str(chosen.data_dir)}
    if chosen.kafka_bootstrap is None:
        embedded = EmbeddedKafka(chosen.data_dir, chosen.kafka_port, chosen.kafka_jar_dir)
        embedded.start()
        if not embedded.is_owner:
            raise Pushback(Reason.STARTING, "`spine up` runs in this data folder already")
        note(f"kafka at {embedded.bootstrap}")
    witnesses = WITNESSES if chosen.ledger_witnesses is None else ()
    supervisor = Supervisor(chosen.data_dir, embedded, environment, witnesses, counts)
    try:
        asyncio.run(ensure_log(chosen, kafka()))
        issue_identities(chosen.data_dir)
        if embedded is not None:
            environment |= receivers_here(chosen)
        log_id = LogIdentity.load(chosen.data_dir / LOG_FILE).log_id
        environment["SPINE_WITNESS_LOG_KEY"] = str(ledger_key(chosen.data_dir, log_id))
        supervisor.start(note)
        yield supervisor
    finally:
        supervisor.stop()


def receivers_here(chosen: Settings) -> dict[str, str]:
    """Settings that let webhooks reach who listens on this machine, where everything runs on it."""
    made = {}
    if chosen.webhook_networks is None:
        made["SPINE_WEBHOOK_NETWORKS"] = LOOPBACK
    if chosen.webhook_ca is None:
        made["SPINE_WEBHOOK_CA"] = str(chosen.data_dir / "identities" / CA_ALIAS / CERT_FILE)
    return made


def coordinator(
    domain: Annotated[str, typer.Argument(help=f"One of {', '.join(COORDINATORS)}.")],
) -> None:
    """Run the coordinator of one domain."""
    from spine.services.btm_assets import start_btm_assets
    from spine.services.consumers import start_consumers
    from spine.services.governance import start_governance
    from spine.services.metering import start_metering

    starts = {
        "governance": start_governance,
        "consumers": start_consumers,
        "metering": start_metering,
        "btm_assets": start_btm_assets,
    }
    if domain not in starts:
        raise Invalid(Reason.CODE_UNKNOWN, f"there is no domain called {domain}", field="domain")
    run_process(PROCESS_OF.get(domain, domain), starts[domain])


def dsi(member: Member = None) -> None:
    """Run a DSI query server."""
    from spine.dsi.process import start_dsi

    _as_member(member)
    run_process("dsi", start_dsi)


def readings(member: Member = None) -> None:
    """Run a process that folds readings for the DSI."""
    from spine.dsi.process import start_readings

    _as_member(member)
    run_process("readings", start_readings)


def _as_member(member: str | None) -> None:
    """Go on as that member, by the rule of the setting."""
    if member is not None:
        chosen = settings().model_dump(exclude_unset=True, exclude={"member"})
        use(Settings(member=member, **chosen))


def demo() -> None:
    """The main job on real readings, told in under forty lines."""
    from spine.console.demo import tell

    tell()


def run_process(name: str, start: Callable[[Runtime], Awaitable[Process]]) -> None:
    """Run a process of the spine until it is told to stop."""
    chosen = settings()
    set_up_logging(chosen.log_level)
    set_up_telemetry(f"spine-{name}", chosen.telemetry, chosen.otlp_endpoint)

    async def live() -> None:
        process = await start(runtime(patient=True))
        collect_less_often()
        await process.until_signalled()

    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        runner.run(live())
    err.print(f"{name} stopped")
