"""All that an operator can set, in one frozen object.

`cli.py` builds `Settings` once and passes values down; no other module reads the environment, so a
process does what its command line and these variables say and nothing else. Each setting is the
variable `SPINE_<NAME>`; any other of that kind is refused, for a misspelt one would quietly not
hold. The defaults run everything on one machine with an embedded broker; a port of 0 means a free
one, which the data folder remembers so that the next run finds it again.
"""

import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, FilePath, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from spine.crowd import CALLS_UNDER_WAY, STREAMS_OPEN
from spine.errors import Invalid, Reason
from spine.webhook import networks

Port = Annotated[int, Field(ge=0, le=65535)]
MemberName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
PREFIX: Final = "SPINE_"
# What the tests read, and the processes that they start inherit.
OF_THE_TESTS: Final = frozenset({"SPINE_REWRITE_GOLDEN", "SPINE_TEST_QUESTIONS"})
LogId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Settings(BaseSettings):
    """The settings of one process; frozen, so that what was checked at the start stays true."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(
        Path(".spine"), description="Folder of everything a run keeps: broker, stores, ports, keys."
    )

    archive_dir: Path | None = Field(
        None,
        description="Archived segments of the log, read where the broker no longer holds them.",
    )

    # The log
    kafka_bootstrap: str | None = Field(
        None,
        min_length=1,
        description="host:port[,host:port] of an external Kafka cluster; unset: the embedded one.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How clients speak to an external cluster."
    )
    kafka_ssl_cafile: FilePath | None = Field(
        None, description="Authorities that sign the brokers' certificates (PEM)."
    )
    kafka_ssl_certfile: FilePath | None = Field(
        None, description="Our client certificate for the brokers (PEM)."
    )
    kafka_ssl_keyfile: FilePath | None = Field(
        None, description="Private key of our client certificate (PEM)."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism; needed with the two SASL protocols."
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user name.")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password.")
    kafka_port: Port = Field(0, description="Port of the embedded broker; 0: a free one.")
    kafka_jar_dir: Path | None = Field(
        None,
        description="Where the embedded broker's jars are kept; unset: in the Python environment.",
    )
    replication_factor: int = Field(
        1, ge=1, description="Copies of each topic; 3 on a production cluster."
    )
    min_insync_replicas: int = Field(
        1, ge=1, description="Copies that must hold a record before it counts; 2 where there are 3."
    )
    partitions: int = Field(
        4,
        ge=1,
        le=1024,
        description="Partitions of each meter-keyed topic; fixed when the log is created.",
    )
    identifiers_key: FilePath | None = Field(
        None,
        description="Key of pairwise identifiers, the same for every process; unset: "
        "keys/identifiers.key of the data folder, made on first use.",
    )
    log_id: LogId | None = Field(
        None, description="The log's id in hex; pinned, so that no other log is taken for it."
    )

    # The services
    listen_host: str = Field("127.0.0.1", description="Address the gRPC services listen on.")
    dsi_port: Port = Field(0, description="Port of the DSI query surface; 0: a free one.")
    readings_port: Port = Field(0, description="Port of the readings process; 0: a free one.")
    governance_port: Port = Field(0, description="Port of the governance coordinator.")
    consumers_port: Port = Field(0, description="Port of the consumers coordinator.")
    metering_port: Port = Field(0, description="Port of the metering coordinator.")
    assets_port: Port = Field(0, description="Port of the btm_assets coordinator.")
    member: MemberName | None = Field(
        None,
        description="Which of several dsi or readings processes this is, such as 2: it names the "
        "stores, the port file and the place in the consumer group. Unset: the first.",
    )
    supervisor_pid: int | None = Field(
        None,
        description="The process that started this one; when it is gone, this one stops. Set by "
        "`spine up`.",
    )
    dsi_peers: str | None = Field(
        None,
        description="host:port[,host:port] of further DSI servers that share no data folder with "
        "this one; its own address may be among them.",
    )
    readings_peers: str | None = Field(
        None,
        description="The same for processes that fold readings; the metering coordinator asks them "
        "for what they quarantine.",
    )
    consumers_peers: str | None = Field(
        None,
        description="host:port[,host:port] of consumers coordinators that share no data folder "
        "with a DSI server, which has them open what a consumer asks to see of itself.",
    )
    governance_peers: str | None = Field(
        None,
        description="host:port[,host:port] of governance coordinators that share no data folder "
        "with this process, which tells them whom it holds.",
    )
    reflection: bool = Field(True, description="Whether the services describe themselves to tools.")
    max_deadline_s: float = Field(
        30.0,
        gt=0,
        description="Longest deadline of a unary call; a call that asks for more is refused.",
    )
    max_request_bytes: int = Field(65_536, ge=1024, description="Largest request message.")
    max_metadata_bytes: int = Field(8_192, ge=1024, description="Largest metadata of a call.")
    handshake_timeout_ms: int = Field(
        5_000, ge=100, description="Time a client has to finish the TLS handshake."
    )

    # What one server takes on, and what one party may ask of it
    calls_under_way: int = Field(
        CALLS_UNDER_WAY,
        ge=1,
        description="Calls with one answer that a server has under way at once.",
    )
    streams_open: int = Field(
        STREAMS_OPEN, ge=1, description="Streams that a server has open at once."
    )
    party_cost_per_s: float = Field(
        2_000,
        gt=0,
        description="What a party's calls may cost each second: one for each meter they name.",
    )
    party_burst: float = Field(
        10_000, ge=1_000, description="What a party that was quiet may spend at once."
    )
    party_meters_per_hour: int = Field(
        200_000, ge=1_000, description="How many different meters a party may name within an hour."
    )
    anomaly_reads_per_hour: int = Field(
        1_000_000, ge=1, description="Reads, counted in meters, past which a party is held."
    )
    anomaly_commands_per_hour: int = Field(
        200_000, ge=1, description="Commands, counted in meters, past which a party is held."
    )
    anomaly_refusals_per_hour: int = Field(
        10_000, ge=1, description="Reads of meters not its own, past which a party is held."
    )

    # Reads
    permit_ttl_s: float = Field(
        2.0, gt=0, le=2.0, description="Life of a permit, from before its request was appended."
    )
    fence: bool = Field(
        True,
        description="Whether a read waits for its place in the log. Off only in the test that "
        "shows what happens without: reads then leak after a revocation.",
    )

    # Webhooks
    webhook_networks: str | None = Field(
        None,
        description="Networks with commas, such as 10.0.0.0/8, that webhooks may reach although "
        "they are not public; unset: none, and loopback of what `spine up` runs on one machine.",
    )
    webhook_ca: FilePath | None = Field(
        None,
        description="Authorities that sign the certificates of webhooks, besides the system's "
        "(PEM); unset: none, and the development authority where `spine up` runs the broker too.",
    )

    # Aggregates
    aggregate_meters_min: int = Field(
        5, ge=5, description="How few meters a published aggregate may be the sum of."
    )

    # Faust
    faust_session_timeout_s: float = Field(
        6.0, gt=0, description="Silence after which a group gives a worker's partitions away."
    )
    faust_heartbeat_s: float = Field(
        2.0, gt=0, description="How often a worker tells its group that it lives."
    )

    # The ledger
    ledger_port: Port = Field(0, description="Port of the ledger's gRPC service; 0: a free one.")
    ledger_http_port: Port = Field(
        0, description="Port on which the ledger serves checkpoint and tiles; 0: a free one."
    )
    ledger_epoch_s: float = Field(
        0.5, gt=0, le=1.0, description="Least time between two heads of the ledger."
    )
    ledger_witnesses: str | None = Field(
        None,
        description="Witnesses as key@address, with commas; unset: those of this data folder.",
    )
    ledger_quorum: int = Field(
        2, ge=0, description="Witnesses that must have cosigned a head before it is published."
    )
    witness_port: Port = Field(0, description="Port of a witness; 0: a free one.")
    witness_log_key: str | None = Field(
        None, description="Of a witness: the key of the ledger that it watches over."
    )

    # Telemetry
    telemetry: Literal["none", "console", "otlp"] = Field(
        "none", description="Where traces and metrics go."
    )
    otlp_endpoint: str = Field(
        "http://127.0.0.1:4318", description="OTLP/HTTP collector, used when telemetry is otlp."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe message that is logged."
    )

    @model_validator(mode="after")
    def _settings_that_need_each_other(self) -> Self:
        """Refuse at the start what would otherwise fail, or quietly not hold, later on."""
        sasl = (self.kafka_sasl_mechanism, self.kafka_sasl_username, self.kafka_sasl_password)
        if self.kafka_security_protocol.startswith("SASL") and None in sasl:
            raise ValueError("SASL needs kafka_sasl_mechanism, _username and _password")
        if self.kafka_bootstrap is None and self.kafka_security_protocol != "PLAINTEXT":
            raise ValueError("the embedded broker speaks PLAINTEXT on loopback only")
        if (self.kafka_ssl_certfile is None) != (self.kafka_ssl_keyfile is None):
            raise ValueError("kafka_ssl_certfile and kafka_ssl_keyfile belong together")
        if self.kafka_bootstrap is None and self.replication_factor != 1:
            raise ValueError("the embedded broker is one broker: replication_factor must be 1")
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError("min_insync_replicas is larger than replication_factor")
        if self.replication_factor >= 3 and self.min_insync_replicas < 2:
            raise ValueError("with 3 replicas, min_insync_replicas must be at least 2")
        try:
            networks(self.webhook_networks or "")
        except ValueError:
            raise ValueError("webhook_networks names networks, such as 10.0.0.0/8") from None
        if self.faust_heartbeat_s * 3 > self.faust_session_timeout_s:
            raise ValueError("three heartbeats must fit into faust_session_timeout_s")
        return self


def from_environment() -> Settings:
    """The settings of the environment; Invalid(FIELD_INVALID) if a variable there is no setting."""
    wrong = list(unknown(os.environ))
    if wrong:
        raise Invalid(Reason.FIELD_INVALID, "; ".join(wrong), field="environment")
    return Settings()


def unknown(names: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable of the spine that is no setting; case counts for nothing."""
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(names):
        spelt = name.upper()
        if not spelt.startswith(PREFIX) or spelt in OF_THE_TESTS:
            continue
        bare = spelt.removeprefix(PREFIX)
        if bare not in known:
            nearest = get_close_matches(bare, known, 1)
            meant = f": is {PREFIX}{nearest[0]} meant?" if nearest else ""
            yield f"{name} is no setting{meant}"
