r"""The Windows firewall of a lab PC, enforced: its rules (the double keeps them in C:\lab\state.json) become nftables rules of the PC's namespace.

As on Windows, block rules beat allow rules, what no rule allows is dropped, and answers, loopback and outbound traffic pass. A closed port
never says so (stealth mode). A rule for a program opens the ports on which that very program listens. What WFP has and this has not:
connections that are there stay when their rule goes, outbound rules for a program, rules for users and IPsec.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
INBOUND, OUTBOUND = 1, 2
BLOCK, ALLOW = 0, 1
TCP, UDP, ANY = 6, 17, 256
PROFILES = {
    "DomainAuthenticated": ("Domain", 1),
    "Domain": ("Domain", 1),
    "Private": ("Private", 2),
    "Public": ("Public", 4),
}
KNOWN_PORTS = {"RPC-EPMap": "135", "IPHTTPSIn": "443"}
# from the start Windows allows what IPv6 and path discovery cannot do without (its "core networking" rules)
CORE = (
    (
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, mld-listener-query, mld-listener-report, "
        "mld-listener-done, mld2-listener-report, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept"
    ),
    "icmp type destination-unreachable icmp code frag-needed accept",
    "meta l4proto igmp accept",
)
# a port where nobody listens refuses (a RST without a sequence number, answering what opens a connection), and Windows keeps silent
STEALTH = (
    'oifname != "lo" tcp flags & (rst | syn) == rst tcp sequence 0 drop',
    'oifname != "lo" icmp type destination-unreachable icmp code port-unreachable drop',
    'oifname != "lo" icmpv6 type destination-unreachable icmpv6 code port-unreachable drop',
)


Held = frozenset[tuple[int, int]]  # protocol and port of sockets that wait for others


@dataclass
class Firewall:
    """Keeps the namespace's rules what the PC's state says; the caller is in that namespace."""

    drive: Path
    sockets: Callable[[], str]  # asks Windows: PORT PID PROGRAM, a line for each socket
    always: frozenset[int] = frozenset()  # ports that the lab itself keeps open
    applied: str = ""
    seen: Held = frozenset()
    owners: dict[str, set[tuple[int, int]]] = field(default_factory=dict)  # by program

    def follow(self, state: Mapping[str, Any]) -> None:
        """Brings the rules up to date. Raises OSError if nft cannot."""
        local = local_networks() if any("LocalSubnet" in str(rule) for rule in rules_of(state)) else []
        rules = ruleset(state, self.ports_of(state), local, self.always)
        if rules == self.applied:
            return
        done = subprocess.run(["nft", "-f", "-"], input=rules, check=False, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"nft refused the firewall's rules: {done.stderr.strip()}\n{rules}")
        self.applied = rules

    def ports_of(self, state: Mapping[str, Any]) -> dict[str, dict[int, set[int]]]:
        """For each program that a rule names: the ports on which it listens, by protocol."""
        named = {
            str(rule["ApplicationName"])
            for rule in rules_of(state)
            if rule.get("ApplicationName") and rule.get("Enabled")
        }
        if not named:
            return {}
        system, others = listening()
        if not others:
            self.seen, self.owners = others, {}
        elif others != self.seen:
            self.seen, self.owners = others, owners_of(self.sockets(), others, self.drive)
        ports: dict[str, dict[int, set[int]]] = {}
        for name in named:
            held = system if name.lower() == "system" else self.owners.get(full_name(name), set())
            ports[name] = {protocol: {port for kind, port in held if kind == protocol} for protocol in (TCP, UDP)}
        return ports


def rules_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [rule for rule in state.get("firewall") or [] if rule]


def ruleset(
    state: Mapping[str, Any],
    programs: Mapping[str, dict[int, set[int]]],
    local: list[Network],
    always: Iterable[int] = (),
) -> str:
    """A whole nft script: what the firewall of a PC in this state lets through."""
    profile, bit = PROFILES.get(state.get("netprofile") or "Public", PROFILES["Public"])
    settings = state.get("fwprofile_settings") or {}
    on = (state.get("fwprofiles") or {}).get(str(bit), True)
    lines = ["table inet windows", "delete table inet windows"]
    if not on:
        return "\n".join(lines) + "\n"
    chains: dict[tuple[int, int], list[str]] = {
        (way, action): [] for way in (INBOUND, OUTBOUND) for action in (BLOCK, ALLOW)
    }
    if settings.get(f"{profile}/AllowLocalFirewallRules") != "False":
        for rule in rules_of(state):
            if applies(rule, bit):
                verdict = "accept" if rule["Action"] == ALLOW else "drop"
                chains[rule["Direction"], rule["Action"]] += [
                    f"{match} {verdict}".strip() for match in matches(rule, programs, local)
                ]
    shields_up = settings.get(f"{profile}/AllowInboundRules") == "False"
    default_in = "accept" if settings.get(f"{profile}/DefaultInboundAction") == "Allow" and not shields_up else "drop"
    default_out = "drop" if settings.get(f"{profile}/DefaultOutboundAction") == "Block" else "accept"
    inbound = [
        'iifname "lo" accept', "ct state established,related accept", *CORE, *(f"tcp dport {port} accept" for port in sorted(always)),
        *chains[INBOUND, BLOCK], *([] if shields_up else chains[INBOUND, ALLOW]),
    ]  # fmt: skip
    outbound = [
        'oifname "lo" accept',
        *STEALTH,
        "ct state established,related accept",
        *chains[OUTBOUND, BLOCK],
        *chains[OUTBOUND, ALLOW],
    ]
    lines += [
        "table inet windows {",
        f"chain input {{ type filter hook input priority 0; policy {default_in};", *inbound, "}",
        f"chain output {{ type filter hook output priority 0; policy {default_out};", *outbound, "}",
        "}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def applies(rule: Mapping[str, Any], profile: int) -> bool:
    """Is the rule one for this PC as it is now? Its adapter is a wired one; nobody speaks IPsec."""
    kinds = {kind.strip() for kind in str(rule.get("InterfaceTypes") or "All").split(",")}
    service = rule.get("ServiceName")
    return bool(
        rule.get("Enabled")
        and rule.get("Profiles", 0x7FFFFFFF) & profile
        and kinds & {"All", "Lan"}
        and not (rule.get("SecureFlags") and rule.get("Action") == ALLOW)
        and (not service or str(service).lower() in ("*", "any", "winrm"))
    )


def matches(rule: Mapping[str, Any], programs: Mapping[str, dict[int, set[int]]], local: list[Network]) -> list[str]:
    """What a rule matches, as the beginnings of nft rules; none if nothing can match."""
    inbound = rule["Direction"] == INBOUND
    remote, own = ("saddr", "daddr") if inbound else ("daddr", "saddr")
    remote_port, own_port = ("sport", "dport") if inbound else ("dport", "sport")
    program = rule.get("ApplicationName")
    addresses = []
    for family, version in (("ip", 4), ("ip6", 6)):
        parts = []
        for name, side in (("RemoteAddresses", remote), ("LocalAddresses", own)):
            wanted = networks(str(rule.get(name) or "*"), local)
            if wanted is None:
                continue
            chosen = [str(network) for network in wanted if network.version == version]
            parts.append(f"{family} {side} {{ {', '.join(chosen)} }}" if chosen else "")
        if all(parts):
            addresses.append(" ".join(parts))
    if addresses == ["", ""]:
        addresses = [""]
    protocol = int(rule.get("Protocol", ANY))
    if program and not inbound:
        return []  # who sends cannot be told from a packet
    if program and protocol == ANY:
        kinds = [port_match(number, rule, own_port, remote_port, programs.get(program)) for number in (TCP, UDP)]
    elif protocol in (TCP, UDP):
        kinds = [
            port_match(
                protocol, rule, own_port, remote_port, programs.get(program) if program else None, bound=bool(program)
            )
        ]
    else:
        kinds = [icmp_match(protocol, str(rule.get("IcmpTypesAndCodes") or "*"))]
    return [f"{address} {kind}".strip() for address in addresses for kind in kinds if kind is not None]


def port_match(
    protocol: int,
    rule: Mapping[str, Any],
    own: str,
    remote: str,
    program: dict[int, set[int]] | None,
    *,
    bound: bool = True,
) -> str | None:
    name = "tcp" if protocol == TCP else "udp"
    parts = []
    for key, side in (("LocalPorts", own), ("RemotePorts", remote)):
        wanted = ports(str(rule.get(key) or "*"))
        if side == own and bound and rule.get("ApplicationName"):
            held = (program or {}).get(protocol, set())
            wanted = [
                (port, port)
                for port in sorted(held)
                if wanted is None or any(low <= port <= high for low, high in wanted)
            ]
        if wanted is None:
            continue
        if not wanted:
            return None
        parts.append(
            f"{name} {side} {{ {', '.join(f'{low}-{high}' if low < high else str(low) for low, high in wanted)} }}"
        )
    return " ".join(parts) or f"meta l4proto {name}"


def icmp_match(protocol: int, types: str) -> str | None:
    if protocol == ANY:
        return ""
    if protocol not in (1, 58):
        return f"meta l4proto {protocol}"
    name, family = ("icmp", "icmp") if protocol == 1 else ("icmpv6", "icmpv6")
    numbers = sorted({int(found) for found in re.findall(r"(?:^|,)\s*(\d+)", types)})
    return f"{name} type {{ {', '.join(map(str, numbers))} }}" if numbers else f"meta l4proto {family}"


def ports(text: str) -> list[tuple[int, int]] | None:
    """The ranges of a rule's ports, merged; None for all. Words such as RPC stand for ports that nothing here has."""
    if text.strip() in ("", "*", "Any"):
        return None
    found = []
    for part in text.split(","):
        word = KNOWN_PORTS.get(part.strip(), part.strip())
        if match := re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", word):
            found.append((int(match[1]), int(match[2] or match[1])))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def networks(text: str, local: list[Network]) -> list[Network] | None:
    """The networks of a rule's addresses; None for all."""
    found: list[Network] = []
    for part in (word.strip() for word in text.split(",")):
        if part in ("", "*", "Any"):
            return None
        if part.lower() == "localsubnet":
            found += local
        elif "-" in part:
            first, last = (ipaddress.ip_address(side.strip()) for side in part.split("-"))
            found += ipaddress.summarize_address_range(first, last)
        elif part[0].isdigit() or ":" in part:
            found.append(ipaddress.ip_network(part, strict=False))
    four = [network for network in found if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in found if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def local_networks() -> list[Network]:
    """The subnets that this namespace is in."""
    said = subprocess.run(["ip", "-j", "address", "show"], check=False, capture_output=True, text=True).stdout
    return [
        ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for link in json.loads(said or "[]")
        if link.get("ifname") != "lo"
        for address in link.get("addr_info", [])
    ]


def listening() -> tuple[Held, Held]:
    """The sockets of this namespace that wait for others: the lab's own server's, which is http.sys and so `System` on Windows, and the rest."""
    own = set()
    for handle in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{handle}"))
    system: set[tuple[int, int]] = set()
    others: set[tuple[int, int]] = set()
    for name, protocol, state in (("tcp", TCP, "0A"), ("tcp6", TCP, "0A"), ("udp", UDP, "07"), ("udp6", UDP, "07")):
        try:
            table = Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in table:
            fields = line.split()
            if fields[3] == state:
                (system if f"socket:[{fields[9]}]" in own else others).add(
                    (protocol, int(fields[1].rpartition(":")[2], 16))
                )
    return frozenset(system), frozenset(others)


def owners_of(said: str, waiting: Held, drive: Path) -> dict[str, set[tuple[int, int]]]:
    """Which program waits at which ports, from what Windows said of all sockets."""
    owners: dict[str, set[tuple[int, int]]] = {}
    for line in said.splitlines():
        port, _pid, program = line.split(" ", 2)
        held = {(protocol, int(port)) for protocol in (TCP, UDP)} & waiting
        owners.setdefault(base_interpreter(program, drive), set()).update(held)
    return owners


def base_interpreter(program: str, drive: Path) -> str:
    """An environment's python.exe starts the one that it was made from on Windows, and that one has the sockets; here it stands in for it."""
    configuration = drive.joinpath(*program.replace("\\", "/").split("/")[1:-2], "pyvenv.cfg")
    if program.lower().endswith("python.exe") and configuration.is_file():
        home = re.search(r"^home\s*=\s*(.+?)\s*$", configuration.read_text("utf-8", errors="replace"), re.MULTILINE)
        if home:
            program = f"{home[1]}\\python.exe"
    return full_name(program)


def full_name(program: str) -> str:
    """A program's path as it is compared: without variables, and capitals do not count."""
    variables = {
        "systemroot": r"C:\windows", "windir": r"C:\windows", "systemdrive": "C:",
        "programfiles": r"C:\Program Files", "programdata": r"C:\ProgramData",
    }  # fmt: skip
    expanded = re.sub("%([^%]+)%", lambda found: variables.get(found[1].lower(), found[0]), program)
    return expanded.replace("/", "\\").lower()
