"""The first words with a broker, spoken by hand: why it takes us or does not.

The Kafka clients know why a broker hung up and tell nobody: wrong credentials, a certificate that
does not verify and the wrong port all end as "no broker answers", or in waiting without end. So
each client of ours is made only once a broker has answered these questions, and who cannot be
served is told which setting is wrong. Blocking; nothing is said of topics or records.
"""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from socket import create_connection, socket
from typing import Any, Final

from kafka.net.sasl import get_sasl_mechanism

from spine.errors import Pushback, Reason

# How long one broker may take for one word, and how long we pause once all have been asked.
WORD_WITHIN_S: Final = 2.0
PAUSE_S: Final = 0.2
ANSWER_BYTES_MAX: Final = 1 << 16
# The protocol's keys and error codes; these versions are in every broker that we can use.
API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = (18, 0), (17, 1), (36, 0)
NO_ERROR, MECHANISM_UNKNOWN, NO_SASL_HERE = 0, 33, 34
SETTING: Final = "SPINE_KAFKA_SECURITY_PROTOCOL"


def greet(options: Mapping[str, Any], within_s: float) -> None:
    """Return once a broker takes us; `options` are those of the clients (`Kafka.options`).

    Pushback(LOG_CREDENTIALS_REFUSED, LOG_CERTIFICATE_REFUSED or LOG_PROTOCOL_DIFFERS) if none takes
    us and one says why, at once; Pushback(LOG_UNREACHABLE) if none has answered in that time.
    """
    deadline = time.monotonic() + within_s
    while True:
        refused: Pushback | None = None
        for address in options["bootstrap_servers"]:
            try:
                _greet_one(address, options)
            except Pushback as said:
                refused = refused or said
            except (OSError, ValueError):  # it is silent, stops, or speaks something else
                continue
            else:
                return
        if refused is not None:
            raise refused
        if time.monotonic() > deadline:
            raise Pushback(Reason.LOG_UNREACHABLE, "no broker answers")
        time.sleep(PAUSE_S)


def _greet_one(address: str, options: Mapping[str, Any]) -> None:
    protocol = options["security_protocol"]
    with closing(_connected(address)) as plain:
        line = _secured(plain, address, options["ssl_context"]) if "SSL" in protocol else plain
        with closing(line):
            try:
                _ask(line, API_VERSIONS, b"")
            except (OSError, ValueError) as silent:
                raise _why_silent(line, address, silent) from silent
            _say_who_we_are(line, address, options)


def _connected(address: str) -> socket:
    host, _, port = address.strip().rpartition(":")
    return create_connection((host.strip("[]"), int(port)), WORD_WITHIN_S)


def _secured(line: socket, address: str, context: ssl.SSLContext) -> socket:
    host = address.strip().rpartition(":")[0].strip("[]")
    try:
        return context.wrap_socket(line, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of {address} does not verify: {error.verify_message}"
        raise Pushback(Reason.LOG_CERTIFICATE_REFUSED, message) from error
    except OSError as error:
        if not isinstance(error, TimeoutError) and _speaks_in_clear(address):
            raise _differs(f"{address} speaks no TLS") from error
        raise


def _why_silent(line: socket, address: str, silent: Exception) -> Exception:
    """What a broker that does not answer the first question has against us; as it was if nothing.

    In TLS 1.3 it judges our certificate only once we have begun to speak. Of one that says nothing
    at all no more is asked: another may answer.
    """
    if isinstance(silent, TimeoutError):
        return silent
    if isinstance(line, ssl.SSLSocket):
        if not isinstance(silent, ssl.SSLError):
            return silent
        message = f"{address} does not take our certificate: {silent.reason}"
        return Pushback(Reason.LOG_CERTIFICATE_REFUSED, message)
    return _differs(f"{address} speaks TLS") if _speaks_tls(address) else silent


def _say_who_we_are(line: socket, address: str, options: Mapping[str, Any]) -> None:
    """Exchange credentials, if the broker wants them and we have some; else Pushback."""
    mechanism = options.get("sasl_mechanism") if "SASL" in options["security_protocol"] else None
    answer = _ask(line, SASL_HANDSHAKE, _text(mechanism or "PLAIN"))
    (code,) = struct.unpack_from(">h", answer)
    if mechanism is None:
        if code in (NO_ERROR, MECHANISM_UNKNOWN):
            raise _differs(f"{address} wants credentials (SASL)")
        return
    if code == NO_SASL_HERE:
        raise _differs(f"{address} takes no credentials (SASL)")
    if code == MECHANISM_UNKNOWN:
        message = f"{address} does not take credentials by {mechanism}"
        raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message)
    names = ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    exchange = get_sasl_mechanism(mechanism)(**{name: options[name] for name in names})
    while not exchange.is_done():
        token = exchange.auth_bytes()
        answer = _ask(line, SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token)
        code, length = struct.unpack_from(">hh", answer)
        if code != NO_ERROR:
            said = answer[4 : 4 + max(0, length)].decode("utf-8", "replace")[:200]
            message = f"{address} does not take our user name and password: {said}"
            raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message)
        try:
            exchange.receive(answer[8 + max(0, length) :])
        except (ValueError, KeyError) as error:
            message = f"{address} does not prove that it knows our password"
            raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message) from error


def _ask(line: socket, question: tuple[int, int], body: bytes) -> bytes:
    """The answer to one question, without its header. OSError, ValueError if it is none."""
    head = struct.pack(">hhih5s", *question, 1, 5, b"spine")
    line.sendall(struct.pack(">i", len(head + body)) + head + body)
    size, correlation = struct.unpack(">ii", _exactly(line, 8))
    if correlation != 1 or not 6 <= size <= ANSWER_BYTES_MAX:
        raise ValueError("no answer of Kafka")
    return _exactly(line, size - 4)


def _exactly(line: socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = line.recv(count - len(found))
        if not more:
            raise ConnectionResetError("hung up")
        found += more
    return found


def _speaks_in_clear(address: str) -> bool:
    with suppress(OSError, ValueError), closing(_connected(address)) as line:
        _ask(line, API_VERSIONS, b"")
        return True
    return False


def _speaks_tls(address: str) -> bool:
    """Whether TLS is spoken there, whoever it is: nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError), closing(_connected(address)) as line:
        context.wrap_socket(line).close()
        return True
    return False


def _differs(what: str) -> Pushback:
    return Pushback(Reason.LOG_PROTOCOL_DIFFERS, f"{what}: set {SETTING} as the port wants it")


def _text(name: str) -> bytes:
    return struct.pack(">h", len(name)) + name.encode()
