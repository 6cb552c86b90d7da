"""The first words with a broker: why it takes us or does not.

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
from io import BytesIO
from socket import create_connection, socket
from typing import Any, Final

from kafka.cluster import get_ip_port_afi
from kafka.errors import IllegalSaslStateError, UnsupportedSaslMechanismError
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from spine.errors import Pushback, Reason

# How long one broker may take for one word, and how long we pause once all have been asked.
WORD_WITHIN_S: Final = 2.0
PAUSE_S: Final = 0.2
ANSWER_BYTES_MAX: Final = 1 << 16
# An error code of the protocol; the others are of `kafka.errors`.
NO_ERROR: Final = 0
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
                _ask(line, ApiVersionsRequest(version=0))
            except (OSError, ValueError) as silent:
                raise _why_silent(line, address, silent) from silent
            _say_who_we_are(line, address, options)


def _connected(address: str) -> socket:
    return create_connection(_host_and_port(address), WORD_WITHIN_S)


def _host_and_port(address: str) -> tuple[str, int]:
    """As the clients read it: without a port it is Kafka's own."""
    host, port, _ = get_ip_port_afi(address)
    return host, port


def _secured(line: socket, address: str, context: ssl.SSLContext) -> socket:
    try:
        return context.wrap_socket(line, server_hostname=_host_and_port(address)[0])
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of {address} does not verify: {error.verify_message}"
        raise Pushback(Reason.LOG_CERTIFICATE_REFUSED, message) from error
    except OSError as error:
        if refused := _refuses_ours(address, error):
            raise refused from error
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
        return _refuses_ours(address, silent) or silent
    return _differs(f"{address} speaks TLS") if _speaks_tls(address) else silent


def _refuses_ours(address: str, error: Exception) -> Pushback | None:
    """What it has against our certificate, or our having none; None if it only hung up.

    It says so by an alert of TLS; in TLS 1.2 by one that is for whatever it does not agree to.
    """
    said = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if "ALERT" not in said or "INTERNAL_ERROR" in said:
        return None
    message = f"{address} does not take our certificate, or our TLS: {said}"
    return Pushback(Reason.LOG_CERTIFICATE_REFUSED, message)


def _say_who_we_are(line: socket, address: str, options: Mapping[str, Any]) -> None:
    """Exchange credentials, if the broker wants them and we have some; else Pushback."""
    mechanism = options.get("sasl_mechanism") if "SASL" in options["security_protocol"] else None
    code = _ask(line, SaslHandshakeRequest(version=1, mechanism=mechanism or "PLAIN")).error_code
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
        answer = _ask(line, token)
        if answer.error_code != NO_ERROR:
            said = (answer.error_message or "")[:200]
            message = f"{address} does not take our user name and password: {said}"
            raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message)
        try:
            exchange.receive(answer.auth_bytes)
        except (ValueError, KeyError) as error:
            message = f"{address} does not prove that it knows our password"
            raise Pushback(Reason.LOG_CREDENTIALS_REFUSED, message) from error


def _ask(line: socket, request: Any) -> Any:
    """The answer to one request. OSError, ValueError if there is none."""
    request.with_header(correlation_id=1, client_id="spine")
    line.sendall(request.encode(framed=True, header=True))
    (size,) = struct.unpack(">i", _exactly(line, 4))
    if not 0 < size <= ANSWER_BYTES_MAX:
        raise ValueError("no answer of Kafka")
    answer, kind = BytesIO(_exactly(line, size)), request.header.get_response_class()
    try:
        kind.parse_header(answer)
        return kind.decode(answer)
    except (struct.error, IndexError) as error:
        raise ValueError("no answer of Kafka") from error


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
        _ask(line, ApiVersionsRequest(version=0))
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
