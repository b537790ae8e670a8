r"""A WinRM (WS-Management) server for a Windows PC that is a Wine prefix, so that Ansible's stock `winrm` connection works on Linux.

The PC decides what is served: while its WinRM service runs, each listener in its configuration (C:\lab\state.json, written by the doubles
in powershell/src/doubles.psm1) has a port, HTTPS with exactly the certificate the listener names. A fresh PC has neither. NTLM (with
message encryption over HTTP), Basic only where the PC's configuration allows it, no Kerberos, no PSRP. Python 3.11; NTLM needs pyspnego.

    wsman_server.py --prefix PREFIX --powershell /path/powershell.exe --user lab:lab [--bind 127.0.0.1] [--open]

Protocol: [MS-WSMV] (Microsoft's Web Services Management Protocol Extensions for Windows Vista), sections 3.1.4.5.2 and 3.1.4.10 to 3.1.4.14.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from firewall import Firewall
from wine_pc import Command, Shell, Silence, Wine

try:
    import spnego
    from spnego.channel_bindings import GssChannelBindings
    from spnego.exceptions import BadBindingsError, SpnegoError
except ImportError:
    spnego = None  # Basic only

SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
RESOURCE = f"{SHELL}/cmd"
NAMESPACES = (
    'xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
    'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" '
    f'xmlns:rsp="{SHELL}" xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"'
)
ACCESS_DENIED, TIMED_OUT, NO_SHELL, BAD_REQUEST = 5, 2150858793, 2150858843, 2150858752
BOUNDARY = b"--Encrypted Boundary"
MUTUAL = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
# 1.3.6.1.4.1.311.20.2.3 in a certificate, and the length of the text behind it
UPN = re.compile(rb"\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03\xa0.\x0c(.)", re.DOTALL)


class Fault(Exception):
    """A WSMan fault: `code` is the number that clients look at."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Service:
    """The shells of one Windows PC."""

    def __init__(self, runner: Wine) -> None:
        self.runner = runner
        self.shells: dict[str, Shell] = {}

    def handle(self, envelope: ET.Element, elevated: bool) -> str:
        """One request envelope to the body of its answer; `elevated` is a user whose token Windows does not filter. Raises Fault."""
        action = text(envelope, "Action") or ("Identify" if find(envelope, "Identify") is not None else "")
        name = action.rsplit("/", 1)[-1]
        if name == "Identify":
            return identify()
        if name == "Create":
            return self.create(envelope, elevated)
        shell_id = next((s.text or "" for s in every(envelope, "Selector") if s.get("Name") == "ShellId"), "")
        shell = self.shells.get(shell_id)
        if shell is None:
            raise Fault(
                NO_SHELL,
                f"The request for the Windows Remote Shell with ShellId {shell_id} failed because the shell was not found on the server.",
            )
        operation = {"Command": self.command, "Send": self.send, "Receive": self.receive, "Signal": self.signal}.get(
            name
        )
        if operation:
            return operation(shell, envelope)
        if name == "Delete":
            self.shells.pop(shell_id).end()
            return ""
        raise Fault(BAD_REQUEST, f"unknown action {action}")

    def end_all(self) -> None:
        while self.shells:
            self.shells.popitem()[1].end()

    def create(self, envelope: ET.Element, elevated: bool) -> str:
        shell_id = str(uuid.uuid4()).upper()
        job, unfiltered = self.runner.open_job(shell_id)
        variables = {v.get("Name", ""): v.text or "" for v in every(envelope, "Variable")}
        shell = Shell(shell_id, variables, text(envelope, "WorkingDirectory"), job)
        if not (elevated or unfiltered):
            shell.end()
            raise Fault(ACCESS_DENIED, "Access is denied. ")
        self.shells[shell_id] = shell
        return (
            f"<x:ResourceCreated><a:Address>http://localhost/wsman</a:Address><a:ReferenceParameters><w:ResourceURI>{RESOURCE}</w:ResourceURI>"
            f'<w:SelectorSet><w:Selector Name="ShellId">{shell_id}</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>'
            f"<rsp:Shell><rsp:ShellId>{shell_id}</rsp:ShellId></rsp:Shell>"
        )

    def command(self, shell: Shell, envelope: ET.Element) -> str:
        line = " ".join(
            [text(envelope, "Command") or "", *(a.text or "" for a in every(envelope, "Arguments"))]
        ).strip()
        command_id = str(uuid.uuid4()).upper()
        shell.commands[command_id] = Command(self.runner.start(line, shell))
        return f"<rsp:CommandResponse><rsp:CommandId>{command_id}</rsp:CommandId></rsp:CommandResponse>"

    def send(self, shell: Shell, envelope: ET.Element) -> str:
        for stream in every(envelope, "Stream"):
            stdin = self.find_command(shell, stream.get("CommandId")).process.stdin
            assert stdin
            try:
                stdin.write(base64.b64decode(stream.text or ""))
                stdin.flush()
                if (stream.get("End") or "").lower() == "true":
                    stdin.close()
            except (BrokenPipeError, ValueError):
                pass  # the program has ended or closed its input; its exit code will tell
        return "<rsp:SendResponse/>"

    def receive(self, shell: Shell, envelope: ET.Element) -> str:
        desired = find(envelope, "DesiredStream")
        command_id = desired.get("CommandId") if desired is not None else None
        try:
            output, exit_code = self.find_command(shell, command_id).receive(operation_timeout(envelope))
        except Silence:
            raise Fault(
                TIMED_OUT,
                "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.",
            ) from None
        streams = "".join(
            f'<rsp:Stream Name="{name}" CommandId="{command_id}">{base64.b64encode(data).decode()}</rsp:Stream>'
            for name, data in output.items()
            if data
        )
        state = "Running" if exit_code is None else "Done"
        code = "" if exit_code is None else f"<rsp:ExitCode>{exit_code}</rsp:ExitCode>"
        return (
            f'<rsp:ReceiveResponse>{streams}<rsp:CommandState CommandId="{command_id}" State="{SHELL}/CommandState/{state}">'
            f"{code}</rsp:CommandState></rsp:ReceiveResponse>"
        )

    def signal(self, shell: Shell, envelope: ET.Element) -> str:
        request = find(envelope, "Signal")
        self.find_command(shell, request.get("CommandId") if request is not None else None).end()
        return "<rsp:SignalResponse/>"

    @staticmethod
    def find_command(shell: Shell, command_id: str | None) -> Command:
        try:
            return shell.commands[command_id or ""]
        except KeyError:
            raise Fault(BAD_REQUEST, f"no command {command_id}") from None


def identify() -> str:
    return (
        '<i:IdentifyResponse xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd">'
        "<i:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</i:ProtocolVersion>"
        "<i:ProductVendor>Microsoft Corporation</i:ProductVendor><i:ProductVersion>OS: 0.0.0 SP: 0.0 Stack: 3.0</i:ProductVersion></i:IdentifyResponse>"
    )


def every(root: ET.Element, name: str) -> list[ET.Element]:
    """All elements of this local name, whatever their namespace."""
    return [e for e in root.iter() if e.tag.rsplit("}", 1)[-1] == name]


def find(root: ET.Element, name: str) -> ET.Element | None:
    return next(iter(every(root, name)), None)


def text(root: ET.Element, name: str) -> str | None:
    element = find(root, name)
    return element.text if element is not None else None


def operation_timeout(envelope: ET.Element) -> float:
    """Seconds in an OperationTimeout such as PT20S or PT1M30S; 60 when there is none."""
    match = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", text(envelope, "OperationTimeout") or "PT60S")
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 1, 0)
    return hours * 3600 + minutes * 60 + seconds


def envelope_of(body: str, action: str, relates_to: str) -> bytes:
    return (
        f'<?xml version="1.0"?><s:Envelope {NAMESPACES} xml:lang="en-US"><s:Header><a:Action>{escape(action)}</a:Action>'
        f"<a:MessageID>uuid:{uuid.uuid4()}</a:MessageID><a:RelatesTo>{escape(relates_to)}</a:RelatesTo>"
        f"<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def fault_of(fault: Fault) -> str:
    message = escape(str(fault))
    code, subcode = ("Sender", "AccessDenied") if fault.code == ACCESS_DENIED else ("Receiver", "Fault")
    return (
        f"<s:Fault><s:Code><s:Value>s:{code}</s:Value><s:Subcode><s:Value>w:{subcode}</s:Value></s:Subcode></s:Code>"
        f'<s:Reason><s:Text xml:lang="en-US">{message}</s:Text></s:Reason><s:Detail>'
        f'<f:WSManFault Code="{fault.code}" Machine="localhost"><f:Message>{message}</f:Message></f:WSManFault></s:Detail></s:Fault>'
    )


@dataclass(frozen=True)
class Listener:
    """One listener of the PC's WinRM configuration; `always` is the lab's own open door (--open)."""

    port: int
    certificate: str | None = None  # a PEM file with the key: HTTPS
    always: bool = False


@dataclass
class Accounts:
    """The PC's local administrators. The built-in Administrator alone has a full token over the network."""

    passwords: dict[str, str]

    def __post_init__(self) -> None:
        # pyspnego's acceptor reads its accounts from a file; a client may or may not name the PC as domain
        with tempfile.NamedTemporaryFile("w", prefix="wsman-", delete=False, encoding="utf-8") as file:
            file.writelines(
                f"{domain}:{user}:{password}\n"
                for user, password in self.passwords.items()
                for domain in ("", ".", socket.gethostname())
            )
        self.file = os.environ["NTLM_USER_FILE"] = file.name

    def basic(self, value: str) -> str | None:
        """The user whom an `Authorization: Basic` value proves."""
        user, _, password = base64.b64decode(value).decode(errors="replace").partition(":")
        user = user.rpartition("\\")[2].lower()
        return user if hmac.compare_digest(self.passwords.get(user, "\0").encode(), password.encode()) else None


class Handler(BaseHTTPRequestHandler):
    """One connection: authenticates it once, then answers its requests."""

    protocol_version = "HTTP/1.1"
    server: Front
    context: Any = None  # the connection's NTLM context
    user: str | None = None

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(30)
            self.request.do_handshake()
            self.request.settimeout(None)
        super().setup()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        challenge = self.authenticate()
        if challenge is not None:
            return self.answer(401, b"", [("WWW-Authenticate", c) for c in challenge])
        sealed = (self.headers.get("Content-Type") or "").startswith("multipart/encrypted")
        if sealed:
            body = self.unseal(body)
        elif not body:
            return self.answer(200, b"", [])
        elif not self.server.plain_allowed():
            return self.answer(500, b"", [])
        relates_to, started, action = "", time.monotonic(), f"{SHELL}/fault"
        try:
            root = ET.fromstring(body)
            relates_to, asked = text(root, "MessageID") or "", text(root, "Action") or ""
            elevated = self.server.listener.always or self.user == "administrator"
            status, answer, action = 200, self.server.pc.service.handle(root, elevated), asked + "Response"
        except ET.ParseError as error:
            status, answer = 500, fault_of(Fault(BAD_REQUEST, f"not XML: {error}"))
        except Fault as fault:
            status, answer = 500, fault_of(fault)
        if self.server.pc.log:
            print(
                f"{self.client_address[0]} {action.rsplit('/', 1)[-1]} {status} {len(body)} bytes {time.monotonic() - started:.2f} s",
                flush=True,
            )
        envelope = envelope_of(answer, action, relates_to)
        if sealed:
            self.answer(status, *self.seal(envelope))
        else:
            self.answer(status, envelope, [("Content-Type", "application/soap+xml;charset=UTF-8")])
        return None

    def authenticate(self) -> list[str] | None:
        """None once the connection has a user, else what to demand."""
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        demand = ["Negotiate"] if spnego else []
        if self.server.basic_allowed():
            demand.append('Basic realm="WSMAN"')
        if not scheme:
            return None if self.user else demand
        self.user = None
        if scheme == MUTUAL:
            self.user = self.server.mapped(self.request)
        elif scheme == "Basic" and len(demand) > bool(spnego):
            self.user = self.server.pc.accounts.basic(value)
        elif scheme == "Negotiate" and spnego:
            try:
                token = self.negotiate(base64.b64decode(value))
            except (SpnegoError, ValueError) as error:
                print(f"{self.client_address[0]} refused: {error}", flush=True)
                self.context = None
                return demand
            if not self.context.complete:
                return [f"Negotiate {base64.b64encode(token or b'').decode()}"]
            self.user = self.context.client_principal.rpartition("\\")[2].lower()
        return None if self.user else demand

    def negotiate(self, token: bytes) -> bytes | None:
        if self.context is None or self.context.complete:
            self.context = spnego.server(
                protocol="ntlm" if token.startswith(b"NTLMSSP") else "negotiate",
                options=spnego.NegotiateOptions.use_ntlm,
            )
        answer: bytes | None
        try:
            answer = self.context.step(token, channel_bindings=self.server.bindings)
        except BadBindingsError as error:
            if "not present" not in str(error):
                raise
            answer = self.context.step(token)  # CbtHardeningLevel Relaxed: a client may leave them out
        return answer

    def unseal(self, body: bytes) -> bytes:
        data = body.split(BOUNDARY)[2].split(b"application/octet-stream\r\n", 1)[1]
        length = int.from_bytes(data[:4], "little")
        return bytes(self.context.unwrap_winrm(data[4 : 4 + length], data[4 + length :]))

    def seal(self, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
        protocol = "application/HTTP-SPNEGO-session-encrypted"
        sealed = self.context.wrap_winrm(body)
        parts = (
            BOUNDARY
            + f"\r\n\tContent-Type: {protocol}\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length={len(body)}\r\n".encode()
            + BOUNDARY
            + b"\r\n\tContent-Type: application/octet-stream\r\n"
            + len(sealed.header).to_bytes(4, "little")
            + sealed.header
            + sealed.data
            + BOUNDARY
            + b"--\r\n"
        )
        return parts, [("Content-Type", f'multipart/encrypted;protocol="{protocol}";boundary="Encrypted Boundary"')]

    def answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


class Front(ThreadingHTTPServer):
    """One open port."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None
    bindings: Any = None

    def __init__(self, pc: PC, listener: Listener) -> None:
        self.pc, self.listener = pc, listener
        self.connections: set[socket.socket] = set()
        if listener.certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(listener.certificate)
            if spnego:
                pem = Path(listener.certificate).read_text()
                digest = hashlib.sha256(
                    ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") : pem.index("-----END CERT") + 25])
                ).digest()
                self.bindings = GssChannelBindings(application_data=b"tls-server-end-point:" + digest)
        super().__init__((pc.bind, listener.port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls:
            self.ask_for_certificates()
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.connections.add(connection)
        return connection, address

    def ask_for_certificates(self) -> None:
        """Clients may show a certificate that the machine's Root trusts, where the PC takes that for a sign-in."""
        assert self.tls
        roots = self.pc.certificates("Root") if self.pc.setting("Service\\Auth\\Certificate") else {}
        if roots:
            self.tls.load_verify_locations(cadata="\n".join(roots.values()))
        self.tls.verify_mode = ssl.CERT_OPTIONAL if roots else ssl.CERT_NONE

    def mapped(self, connection: Any) -> str | None:
        """The account to which the PC has mapped the certificate that a client shows; None where there is none."""
        shown = connection.getpeercert(binary_form=True) if self.tls else None
        if not shown or not self.pc.setting("Service\\Auth\\Certificate"):
            return None
        # self-signed, it is its own issuer
        thumbprint, name = hashlib.sha1(shown, usedforsecurity=False).hexdigest().upper(), UPN.search(shown)
        if not name or thumbprint not in self.pc.certificates("TrustedPeople"):
            return None
        subject = shown[name.end() : name.end() + name[1][0]].decode("utf-8", "replace")
        for entry in self.pc.state.get("clientcertificates") or []:
            if entry["Enabled"] and (entry["Issuer"], entry["Subject"]) == (thumbprint, subject):
                user = str(entry["UserName"]).rpartition("\\")[2].lower()
                return user if self.pc.accounts.passwords.get(user) == entry["Password"] else None
        return None

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        print(f"{client_address[0]} {sys.exception()!r}", flush=True)

    def basic_allowed(self) -> bool:
        return self.listener.always or (
            self.pc.setting("Service\\Auth\\Basic") and (bool(self.tls) or self.plain_allowed())
        )

    def plain_allowed(self) -> bool:
        return bool(self.tls) or self.listener.always or self.pc.setting("Service\\AllowUnencrypted")

    def close(self, cut: bool) -> None:
        """Closes the port, and with `cut` also the connections that came in through it."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections) if cut else []:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class PC:
    """Keeps the open ports what the PC's own configuration says, and reboots it when it asks."""

    def __init__(
        self, wine: Wine, accounts: Accounts, bind: str, always: set[Listener], log: bool, firewall: Firewall | None
    ) -> None:
        self.wine, self.accounts, self.bind, self.always, self.log = wine, accounts, bind, always, log
        self.service = Service(wine)
        self.lab = wine.drive / "lab"
        self.fronts: dict[Listener, Front] = {}
        self.state: dict[str, Any] = {}
        self.read_at = 0
        self.stopping = threading.Event()
        self.firewall, self.filter_error = firewall, ""

    def setting(self, name: str) -> bool:
        return bool(self.state.get("wsman", {}).get(name) == "true")

    def certificates(self, store: str) -> dict[str, str]:
        """Those in a store of the machine's, as PEM, by their thumbprints."""
        found = {}
        for path in (self.lab / "certs" / "LocalMachine" / store).glob("*.pem"):
            pem = path.read_text("utf-8")
            found[path.stem.upper()] = pem[pem.index("-----BEGIN CERT") : pem.index("-----END CERT") + 25]
        return found

    def wanted(self) -> set[Listener]:
        try:
            if (changed := (self.lab / "state.json").stat().st_mtime_ns) != self.read_at:
                self.state, self.read_at = json.loads((self.lab / "state.json").read_bytes()), changed
        except FileNotFoundError:
            self.state = {}
        if not (self.lab / "winrm.running").exists():
            return set()
        store = self.lab / "certs" / "LocalMachine" / "My"
        found = set()
        for entry in self.state.get("listeners", []):
            certificate = store / f"{entry['CertificateThumbprint']}.pem" if entry["Transport"] == "HTTPS" else None
            if entry["Enabled"] == "true" and (not certificate or certificate.exists()):
                found.add(Listener(int(entry["Port"]), str(certificate) if certificate else None))
        return found

    def run(self) -> None:
        self.wanted()
        self.filter()
        self.wine.boot()
        print("booted", flush=True)
        while not self.stopping.wait(0.2):
            self.follow(self.wanted() | self.always)
            self.filter()
            request = self.lab / "reboot"
            if request.exists() and time.time() > request.stat().st_mtime + int(request.read_text() or 0):
                self.follow(set())
                self.wine.halt()
                self.wine.boot()
        self.follow(set())

    def filter(self) -> None:
        """Makes the firewall's rules those of the PC's state."""
        if self.firewall:
            try:
                self.firewall.follow(self.state)
            except (OSError, ValueError, KeyError, TypeError) as error:
                if self.filter_error != str(error):
                    self.filter_error = str(error)
                    print(f"firewall: {error!r}", flush=True)

    def follow(self, wanted: set[Listener]) -> None:
        for listener in self.fronts.keys() - wanted:
            self.fronts.pop(listener).close(cut=not wanted)
            print(f"closed {listener.port}", flush=True)
        if not wanted:
            self.service.end_all()
        for listener in sorted(wanted - self.fronts.keys(), key=lambda entry: not entry.always):
            if not any(listener.port == open_one.port for open_one in self.fronts):
                self.fronts[listener] = Front(self, listener)
                print(f"open {listener.port} {'HTTPS' if listener.certificate else 'HTTP'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--prefix", required=True, help="the Wine prefix: one Windows PC")
    parser.add_argument("--powershell", required=True, help="the Windows powershell.exe to run with Wine")
    parser.add_argument("--wine", default="wine")
    parser.add_argument(
        "--user", required=True, action="append", metavar="NAME:PASSWORD", help="a local administrator; may be repeated"
    )
    parser.add_argument(
        "--open", action="store_true", help="port 5985 with Basic from the start, whatever the PC's configuration"
    )
    parser.add_argument("--log", action="store_true", help="one line a request")
    parser.add_argument(
        "--firewall",
        action="store_true",
        help="make the PC's firewall rules those of the network namespace that this runs in",
    )
    arguments = parser.parse_args()
    accounts = Accounts(
        {name.lower(): password for name, _, password in (user.partition(":") for user in arguments.user)}
    )
    always = {Listener(5985, always=True)} if arguments.open else set()
    wine = Wine(arguments.prefix, arguments.powershell, arguments.wine)
    firewall = (
        Firewall(wine.drive, wine.sockets, frozenset(listener.port for listener in always))
        if arguments.firewall
        else None
    )
    pc = PC(wine, accounts, arguments.bind, always, arguments.log, firewall)
    signal.signal(signal.SIGTERM, lambda *_: pc.stopping.set())
    try:
        pc.run()
    finally:
        os.unlink(accounts.file)


if __name__ == "__main__":
    main()
