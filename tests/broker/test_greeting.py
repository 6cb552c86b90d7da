"""Who may not speak with the brokers is told which setting is wrong, by whatever connects."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka import KafkaConsumer

from spine import log_client, log_greeting
from spine.embedded import EmbeddedKafka, free_port
from spine.errors import Pushback, Reason
from spine.log import Appender, Kafka, LogReader, create_missing
from spine.log_greeting import greet
from tests.fault.proxy import Proxy

HOST = "127.0.0.1"
SECURED = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
# A port that wants a certificate of ours besides.
MUTUAL = "MUTUAL"


class SecuredKafka(EmbeddedKafka):
    """A broker with a port for each way to speak, told from a settings file of its own."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.ports = {name: free_port() for name in (*SECURED, MUTUAL)}
        self.authority = own_authority(data_dir)
        self._keys = data_dir / "keys.pem"

    def _settings(self, ports: dict[str, int]) -> str:
        more = {
            "listeners=": "".join(f",{p}://{HOST}:{port}" for p, port in self.ports.items()),
            "listener.security.protocol.map=": "".join(f",{p}:{p}" for p in SECURED)
            + f",{MUTUAL}:SSL",
        }
        more["advertised.listeners="] = more["listeners="]
        lines = [
            line + next((text for name, text in more.items() if line.startswith(name)), "")
            for line in super()._settings(ports).splitlines()
        ]
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return "\n".join(
            [
                *lines,
                "ssl.keystore.type=PEM",
                f"ssl.keystore.location={self._keys}",
                f"listener.name.{MUTUAL.lower()}.ssl.client.auth=required",
                "ssl.truststore.type=PEM",
                f"ssl.truststore.location={self.authority}",
                "sasl.enabled.mechanisms=PLAIN",
                *(
                    f'listener.name.{name}.plain.sasl.jaas.config={login} user_spine="right";'
                    for name in ("sasl_plaintext", "sasl_ssl")
                ),
                "",
            ]
        )

    def at(self, protocol: str, port: str = "", password: str = "right", **other: Any) -> Kafka:
        """The way to one of its ports, by default that of the protocol."""
        plain = {"PLAINTEXT": int(self.bootstrap.rpartition(":")[2])}
        sasl = {
            "sasl_mechanism": "PLAIN",
            "sasl_username": "spine",
            "sasl_password": password,
        }
        settings: dict[str, Any] = {
            "bootstrap": f"{HOST}:{(plain | self.ports)[port or protocol]}",
            "ssl_cafile": str(self.authority),
            **(sasl if "SASL" in protocol else {}),
        }
        return Kafka(security_protocol=protocol, **settings | other)


def own_authority(folder: Path) -> Path:
    """A certificate for this host that signs itself; its key stands beside it in `keys.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    host = x509.IPAddress(ipaddress.ip_address(HOST))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "keys.pem").write_bytes(private + certificate)
    (folder / "authority.pem").write_bytes(certificate)
    return folder / "authority.pem"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("secured")) as broker:
        yield broker


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An authority that the broker has nothing to do with."""
    return str(own_authority(tmp_path_factory.mktemp("stranger")))


def as_reader(kafka: Kafka) -> None:
    LogReader(kafka).close()


def as_keeper_of_topics(kafka: Kafka) -> None:
    create_missing(kafka, {}, 1, 1)


def as_writer(kafka: Kafka) -> None:
    async def connect() -> None:
        appender = Appender(kafka)
        await appender.start()
        await appender.stop()

    asyncio.run(connect())


WAYS = (as_reader, as_keeper_of_topics, as_writer)


@pytest.mark.parametrize("connect", WAYS)
@pytest.mark.parametrize("protocol", ["PLAINTEXT", *SECURED])
def test_right_settings_connect(
    secured: SecuredKafka, connect: Callable[[Kafka], None], protocol: str
) -> None:
    connect(secured.at(protocol))


def why(connect: Callable[[Kafka], None], kafka: Kafka) -> tuple[Reason, str]:
    with pytest.raises(Pushback) as refused:
        connect(kafka)
    return refused.value.reason, refused.value.message


@pytest.mark.parametrize("connect", WAYS)
def test_each_wrong_setting_is_named(
    secured: SecuredKafka, stranger: str, connect: Callable[[Kafka], None]
) -> None:
    for protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        said = why(connect, secured.at(protocol, password="wrong-secret"))
        assert said[0] is Reason.LOG_CREDENTIALS_REFUSED
        assert "user name and password" in said[1] and "wrong-secret" not in said[1]
        said = why(connect, secured.at(protocol, sasl_mechanism="SCRAM-SHA-256"))
        assert said[0] is Reason.LOG_CREDENTIALS_REFUSED and "SCRAM-SHA-256" in said[1]
    for kafka in (
        secured.at("SSL", ssl_cafile=stranger),
        secured.at("SASL_SSL", ssl_cafile=stranger),
        secured.at("SSL", bootstrap=f"localhost:{secured.ports['SSL']}"),  # another host's name
    ):
        said = why(connect, kafka)
        assert said[0] is Reason.LOG_CERTIFICATE_REFUSED and "does not verify" in said[1]
    for protocol, port, what in (
        ("SSL", "PLAINTEXT", "speaks no TLS"),
        ("SASL_SSL", "SASL_PLAINTEXT", "speaks no TLS"),
        ("PLAINTEXT", "SSL", "speaks TLS"),
        ("SASL_PLAINTEXT", "SASL_SSL", "speaks TLS"),
        ("PLAINTEXT", "SASL_PLAINTEXT", "wants credentials"),
        ("SSL", "SASL_SSL", "wants credentials"),
        ("SASL_PLAINTEXT", "PLAINTEXT", "takes no credentials"),
        ("SASL_SSL", "SSL", "takes no credentials"),
    ):
        said = why(connect, secured.at(protocol, port))
        assert said[0] is Reason.LOG_PROTOCOL_DIFFERS and what in said[1], (protocol, port)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_broker_that_does_not_take_our_certificate_is_told_from_one_that_hangs_up(
    secured: SecuredKafka, tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    def options(port: int, **ours: str) -> dict[str, Any]:
        found = secured.at("SSL", bootstrap=f"{HOST}:{port}", **ours).options()
        found["ssl_context"].maximum_version = newest
        return found

    own_authority(tmp_path)
    known = str(secured.authority.parent / "keys.pem")
    greet(options(secured.ports[MUTUAL], ssl_certfile=known, ssl_keyfile=known), 30.0)
    strange = str(tmp_path / "keys.pem")
    for ours in ({}, {"ssl_certfile": strange, "ssl_keyfile": strange}):
        with pytest.raises(Pushback) as refused:
            greet(options(secured.ports[MUTUAL], **ours), 30.0)
        assert refused.value.reason is Reason.LOG_CERTIFICATE_REFUSED
        assert "does not take our certificate" in refused.value.message
    with hanging_up(secured.authority.parent / "keys.pem") as port:
        with pytest.raises(Pushback) as gone:
            greet(options(port), 0.0)
        assert gone.value.reason is Reason.LOG_UNREACHABLE


@contextmanager
def hanging_up(keys: Path) -> Iterator[int]:
    """The port of a server that agrees on TLS and then resets every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys)
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError):
                    line = context.wrap_socket(plain, server_side=True)
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    line.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_an_address_without_a_port_is_at_kafkas_own() -> None:
    for address, place in (
        ("broker", ("broker", 9092)),
        (" broker:19092 ", ("broker", 19092)),
        ("::1", ("::1", 9092)),
        ("[::1]", ("::1", 9092)),
        ("[::1]:19092", ("::1", 19092)),
    ):
        assert log_greeting._host_and_port(address) == place


def test_a_file_that_is_no_certificate_is_named(secured: SecuredKafka, tmp_path: Path) -> None:
    file = tmp_path / "authority.pem"
    file.write_text("no certificate")
    reason, said = why(as_reader, secured.at("SSL", ssl_cafile=str(file)))
    assert reason is Reason.LOG_CERTIFICATE_REFUSED and "cannot be read" in said


def test_one_broker_that_takes_us_is_enough(secured: SecuredKafka, stranger: str) -> None:
    """A port that refuses, or nobody there, is not the last word while another answers."""
    places = f"{HOST}:1,{HOST}:{secured.ports['SASL_SSL']},{HOST}:{secured.ports['SSL']}"
    greet(secured.at("SSL", bootstrap=places).options(), 30.0)
    said = why(as_reader, secured.at("SSL", bootstrap=places, ssl_cafile=stranger))
    assert said[0] is Reason.LOG_CERTIFICATE_REFUSED


def test_who_is_no_broker_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client alone would wait for ever, whatever time it is given."""
    monkeypatch.setattr(log_client, "ANSWER_WITHIN_S", 0.5)
    kafka = Kafka(f"{HOST}:1,{HOST}:no-port")
    assert why(as_reader, kafka)[0] is Reason.LOG_UNREACHABLE
    assert why(as_keeper_of_topics, kafka)[0] is Reason.LOG_UNREACHABLE


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_SSL"])
def test_a_silent_broker_is_asked_once(
    secured: SecuredKafka, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_greeting, "WORDS_WITHIN_S", 0.3)
    with socket.create_server((HOST, 0)) as silent:
        silent.setblocking(False)
        kafka = secured.at(protocol, bootstrap=f"{HOST}:{silent.getsockname()[1]}")
        assert refused_by(kafka, 0.0) is Reason.LOG_UNREACHABLE
        wait_for_greetings()
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


_answers = log_greeting._Questions.answers


class InTurn(threading.Thread):
    """The naive way: each broker is asked once the one before has answered or is given up."""

    def start(self) -> None:
        self.run()


def test_all_are_asked_at_once(secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two brokers, the first answers only once the second, which never does, is asked too."""
    plain = secured.at("PLAINTEXT")

    def ask(first: Proxy, within_s: float) -> Reason | None:
        monkeypatch.setattr(log_greeting, "WORDS_WITHIN_S", within_s)
        first.silent = True
        with socket.create_server((HOST, 0)) as second:
            asked = threading.Thread(target=wait_until_asked, args=(first, second))
            asked.start()
            places = f"{HOST}:{first.port},{HOST}:{second.getsockname()[1]}"
            try:
                return refused_by(replace(plain, bootstrap=places), 0.0)
            finally:
                second.shutdown(socket.SHUT_RDWR)
                asked.join()

    def wait_until_asked(first: Proxy, second: socket.socket) -> None:
        with suppress(OSError):
            line, _ = second.accept()
            first.silent = False
            line.close()

    with Proxy(free_port(), int(plain.bootstrap.rpartition(":")[2])) as first:
        assert ask(first, within_s=30.0) is None
        monkeypatch.setattr(log_greeting, "Thread", InTurn)
        assert ask(first, within_s=0.5) is Reason.LOG_UNREACHABLE


def test_a_name_that_is_looked_up_for_longer_than_any_word_takes_is_waited_for(
    secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not begun again with each round: else nobody would ever hear the answer."""
    monkeypatch.setattr(log_greeting, "WORDS_WITHIN_S", 1.0)
    looked_up: list[str] = []

    def slowly(address: tuple[str, int], timeout: float) -> socket.socket:
        looked_up.append(address[0])
        time.sleep(1.5)
        return socket.create_connection(address, timeout)

    monkeypatch.setattr(log_greeting, "create_connection", slowly)
    greet(secured.at("PLAINTEXT").options(), 30.0)
    assert len(looked_up) == 1
    monkeypatch.setattr(log_greeting._Questions, "answers", begun_anew)
    assert refused_by(secured.at("PLAINTEXT"), 5.0) is Reason.LOG_UNREACHABLE
    assert len(looked_up) > 2


def begun_anew(questions: log_greeting._Questions) -> Iterator[Exception | None]:
    """The naive way: whoever has not answered within a round is asked anew."""
    naive = log_greeting._Questions(questions._options)
    return _answers(naive)


def test_what_nobody_foresaw_of_one_broker_is_no_word_on_another(
    secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(address: tuple[str, int], timeout: float) -> socket.socket:
        if address[1] == 1:
            raise ZeroDivisionError
        return socket.create_connection(address, timeout)

    monkeypatch.setattr(log_greeting, "create_connection", connected)
    good = secured.at("PLAINTEXT")
    greet(replace(good, bootstrap=f"{HOST}:1,{good.bootstrap}").options(), 30.0)
    with pytest.raises(ZeroDivisionError):
        greet(replace(good, bootstrap=f"{HOST}:1").options(), 0.0)


def test_who_drips_is_left_in_time(secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte a broker would be listened to for as long as it likes."""
    monkeypatch.setattr(log_greeting, "WORDS_WITHIN_S", 0.5)
    with dripping() as (port, heard_out):
        assert refused_by(secured.at("PLAINTEXT", bootstrap=f"{HOST}:{port}"), 0.0)
        assert not heard_out.get(), "it was listened to for longer than the bound"
        monkeypatch.setattr(log_greeting, "_left", lambda _: 0.5)
        assert refused_by(secured.at("PLAINTEXT", bootstrap=f"{HOST}:{port}"), 0.0)
        assert heard_out.get(), "a naive bound begins anew with each byte"
        wait_for_greetings()


@contextmanager
def dripping(drips: int = 80) -> Iterator[tuple[int, Queue[bool]]]:
    """The port of one that answers by so many bytes, one each 0.1 s, and whether each who asked it
    has heard them all.
    """
    heard_out: Queue[bool] = Queue()

    def serve() -> None:
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                line.settimeout(0.1)
                line.recv(1 << 16)
                heard_out.put(drip(line))
                line.close()

    def drip(line: socket.socket) -> bool:
        with suppress(OSError):
            line.sendall(struct.pack(">i", drips + 1))
            for _ in range(drips):
                line.sendall(b"\0")
                with suppress(TimeoutError):
                    if not line.recv(1):
                        return False
            return True
        return False

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], heard_out
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def refused_by(kafka: Kafka, within_s: float) -> Reason | None:
    try:
        greet(kafka.options(), within_s)
    except Pushback as refused:
        return refused.reason
    return None


def wait_for_greetings() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("greeting"):
            thread.join()


def test_the_client_itself_says_nothing_of_it(
    secured: SecuredKafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Why the greeting is needed: of a password that is wrong the client never speaks to us."""
    caplog.set_level(logging.CRITICAL, "kafka")
    consumer = KafkaConsumer(
        **secured.at("SASL_PLAINTEXT", password="wrong").options(), api_version=(4, 0)
    )
    try:
        assert consumer.poll(timeout_ms=1_500) == {}
    finally:
        consumer.close()


def test_a_command_says_it(secured: SecuredKafka, tmp_path: Path) -> None:
    kafka = secured.at("SASL_SSL", password="wrong-secret")
    environment = {
        "SPINE_DATA_DIR": str(tmp_path),
        "SPINE_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "SPINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "SPINE_KAFKA_SSL_CAFILE": str(secured.authority),
        "SPINE_KAFKA_SASL_MECHANISM": "PLAIN",
        "SPINE_KAFKA_SASL_USERNAME": "spine",
        "SPINE_KAFKA_SASL_PASSWORD": "wrong-secret",
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "spine", "topics", "create"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, (done.stderr, time.monotonic() - started)
    assert Reason.LOG_CREDENTIALS_REFUSED in done.stderr
    assert "wrong-secret" not in done.stderr + done.stdout
