"""The first words with a broker: why it takes us or does not.

The Kafka clients know why a broker hung up and tell nobody: wrong credentials, a certificate that
does not verify and the wrong port all end as "no broker answers", or in waiting without end. So
each client of ours is made only once a broker has answered these questions, and who cannot be
served is told which setting is wrong. All are asked at once, and none for longer than a bound over
all its words, so those that are silent, or drip, hold nobody up. Blocking; nothing is said of
topics or records.
"""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from io import BytesIO
from queue import Empty, SimpleQueue
from socket import create_connection, socket
from threading import Thread
from typing import Any, Final

from kafka.cluster import get_ip_port_afi
from kafka.errors import IllegalSaslStateError, UnsupportedSaslMechanismError
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from spine.errors import Pushback, Reason

# How long the brokers may take for all their words, and how long we pause once all were asked.
WORDS_WITHIN_S: Final = 2.0
PAUSE_S: Final = 0.2
ANSWER_BYTES_MAX: Final = 1 << 16
# An error code of the protocol; the others are of `kafka.errors`.
NO_ERROR: Final = 0
SETTING: Final = "SPINE_KAFKA_SECURITY_PROTOCOL"


def greet(options: Mapping[str, Any], within_s: float) -> None:
    """Return once a broker takes us; `options` are those of the clients (`Kafka.options`).

    Pushback(LOG_CREDENTIALS_REFUSED, LOG_CERTIFICATE_REFUSED or LOG_PROTOCOL_DIFFERS) if none takes
    us and one says why, once all were asked; Pushback(LOG_UNREACHABLE) if none has answered in that
    time. All are asked at least once, so it takes up to `WORDS_WITHIN_S` longer than that.
    """
    deadline = time.monotonic() + within_s
    questions = _Questions(options)
    while True:
        failures: list[Exception] = []
        for said in questions.answers():
            if said is None:
                return
            if not isinstance(said, OSError | ValueError):  # else it is silent, stops, or differs
                failures.append(said)
        if failures:
            raise failures[0]
        if time.monotonic() > deadline:
            raise Pushback(Reason.LOG_UNREACHABLE, "no broker answers")
        time.sleep(PAUSE_S)


class _Questions:
    """Asks all brokers at once, again and again; one that has not answered yet is not asked anew.

    By threads that nobody waits for: a name may be looked up for longer than any bound.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._asked: set[str] = set()
        self._answers: SimpleQueue[tuple[str, Exception | None]] = SimpleQueue()

    def answers(self) -> Iterator[Exception | None]:
        """What each broker has against us as soon as it says so, None from one that takes us; what
        has not come within `WORDS_WITHIN_S` is left for the next time.
        """
        until = time.monotonic() + WORDS_WITHIN_S
        for address in self._options["bootstrap_servers"]:
            if address not in self._asked:
                self._asked.add(address)
                name = f"greeting {address}"
                Thread(target=self._ask, args=(address,), name=name, daemon=True).start()
        while self._asked:
            try:
                address, said = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return
            self._asked.discard(address)
            yield said

    def _ask(self, address: str) -> None:
        try:
            _greet_one(address, self._options)
        except Exception as error:
            self._answers.put((address, error))
        else:
            self._answers.put((address, None))


def _greet_one(address: str, options: Mapping[str, Any]) -> None:
    """Return if this broker takes us. Pushback if it says why not; OSError, ValueError if it says
    nothing of use in time, which begins once there is a line to it.
    """
    secure = "SSL" in options["security_protocol"]
    with closing(_connected(address, WORDS_WITHIN_S)) as plain:
        until = time.monotonic() + WORDS_WITHIN_S
        line = _secured(plain, address, options["ssl_context"], until) if secure else plain
        with closing(line):
            try:
                _ask(line, ApiVersionsRequest(version=0), until)
            except (OSError, ValueError) as silent:
                raise _why_silent(line, address, silent, until) from silent
            _say_who_we_are(line, address, options, until)


def _connected(address: str, within_s: float) -> socket:
    return create_connection(_host_and_port(address), within_s)


def _left(until: float) -> float:
    """The seconds until then. TimeoutError if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for all its words is over")
    return left


def _host_and_port(address: str) -> tuple[str, int]:
    """As the clients read it: without a port it is Kafka's own."""
    host, port, _ = get_ip_port_afi(address)
    return host, port


def _secured(line: socket, address: str, context: ssl.SSLContext, until: float) -> socket:
    try:
        line.settimeout(_left(until))
        return context.wrap_socket(line, server_hostname=_host_and_port(address)[0])
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of {address} does not verify: {error.verify_message}"
        raise Pushback(Reason.LOG_CERTIFICATE_REFUSED, message) from error
    except OSError as error:
        if refused := _refuses_ours(address, error):
            raise refused from error
        if _speaks_in_clear(address, until):
            raise _differs(f"{address} speaks no TLS") from error
        raise


def _why_silent(line: socket, address: str, silent: Exception, until: float) -> Exception:
    """What a broker that does not answer the first question has against us; as it was if nothing.

    In TLS 1.3 it judges our certificate only once we have begun to speak. Of one that says nothing
    at all no more is asked: its time is over.
    """
    if isinstance(line, ssl.SSLSocket):
        return _refuses_ours(address, silent) or silent
    return _differs(f"{address} speaks TLS") if _speaks_tls(address, until) else silent


def _refuses_ours(address: str, error: Exception) -> Pushback | None:
    """What it has against our certificate, or our having none; None if it only hung up.

    It says so by an alert of TLS; in TLS 1.2 by one that is for whatever it does not agree to.
    """
    said = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if "ALERT" not in said or "INTERNAL_ERROR" in said:
        return None
    message = f"{address} does not take our certificate, or our TLS: {said}"
    return Pushback(Reason.LOG_CERTIFICATE_REFUSED, message)


def _say_who_we_are(line: socket, address: str, options: Mapping[str, Any], until: float) -> None:
    """Exchange credentials, if the broker wants them and we have some; else Pushback."""
    mechanism = options.get("sasl_mechanism") if "SASL" in options["security_protocol"] else None
    handshake = SaslHandshakeRequest(version=1, mechanism=mechanism or "PLAIN")
    code = _ask(line, handshake, until).error_code
    if mechanism is None:
        if code in (NO_ERROR, UnsupportedSaslMechanismError.errno):
            raise _differs(f"{address} wants credentials (SASL)")
        return
    if code == IllegalSaslStateError.errno:
        raise _differs(f"{address} takes no credentials (SASL)")
    if code == UnsupportedSaslMechanismError.errno:
        message = f"{address} does not take credentials by {mechanism}"
        raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message)
    names = ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    exchange = get_sasl_mechanism(mechanism)(**{name: options[name] for name in names})
    while not exchange.is_done():
        token = SaslAuthenticateRequest(version=0, auth_bytes=exchange.auth_bytes())
        answer = _ask(line, token, until)
        if answer.error_code != NO_ERROR:
            said = (answer.error_message or "")[:200]
            message = f"{address} does not take our user name and password: {said}"
            raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message)
        try:
            exchange.receive(answer.auth_bytes)
        except (ValueError, KeyError) as error:
            message = f"{address} does not prove that it knows our password"
            raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message) from error


def _ask(line: socket, request: Any, until: float) -> Any:
    """The answer to one request. OSError, ValueError if there is none by then."""
    request.with_header(correlation_id=1, client_id="spine")
    line.settimeout(_left(until))
    line.sendall(request.encode(framed=True, header=True))
    (size,) = struct.unpack(">i", _exactly(line, 4, until))
    if not 0 < size <= ANSWER_BYTES_MAX:
        raise ValueError("no answer of Kafka")
    answer, kind = BytesIO(_exactly(line, size, until)), request.header.get_response_class()
    try:
        kind.parse_header(answer)
        return kind.decode(answer)
    except (struct.error, IndexError) as error:
        raise ValueError("no answer of Kafka") from error


def _exactly(line: socket, count: int, until: float) -> bytes:
    found = b""
    while len(found) < count:
        line.settimeout(_left(until))
        more = line.recv(count - len(found))
        if not more:
            raise ConnectionResetError("hung up")
        found += more
    return found


def _speaks_in_clear(address: str, until: float) -> bool:
    with suppress(OSError, ValueError), closing(_connected(address, _left(until))) as line:
        _ask(line, ApiVersionsRequest(version=0), until)
        return True
    return False


def _speaks_tls(address: str, until: float) -> bool:
    """Whether TLS is spoken there, whoever it is: nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError), closing(_connected(address, _left(until))) as line:
        line.settimeout(_left(until))
        context.wrap_socket(line).close()
        return True
    return False


def _differs(what: str) -> Pushback:
    return Pushback(Reason.LOG_PROTOCOL_DIFFERS, f"{what}: set {SETTING} as the port wants it")
