"""Symptom -> cause -> fix: what the words of a failure mean. Every command that shows a failure asks here.

The words of Ansible's connections were seen with ansible-core 2.19 and pywinrm 0.5; addresses and line numbers in them
vary, so a symptom is matched by the part that does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One row of the table. {host} in a text is the host's name."""

    code: str  # stable, for documents and tests
    symptom: str  # regular expression
    cause: str
    fix: str


CONNECTION: Final = (
    Explanation(
        code="certificate-expired",
        symptom=r"certificate has expired",
        cause="its certificate has expired, or this machine's clock is ahead",
        fix="compare the clocks; then run scripts\\worker_setup.cmd on {host} again and add its new {host}.worker.yml",
    ),
    Explanation(
        code="clock-skew",
        symptom=r"certificate is not yet valid",
        cause="its certificate is not valid yet: this machine's clock is behind, or that of {host} was ahead",
        fix="set both clocks (on Windows: Settings, Time, Sync now)",
    ),
    Explanation(
        code="certificate-address",
        symptom=r"IP address mismatch|[Hh]ostname mismatch|certificate is not valid for",
        cause="its certificate was made for another address",
        fix="run scripts\\worker_setup.cmd on {host} again: it makes a certificate for today's addresses; add the new file",
    ),
    Explanation(
        code="certificate-other",
        symptom=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        cause="it shows another certificate than the one that was added, or none was added",
        fix="if {host} was set up anew, add its new {host}.worker.yml with add_workers.yml; if not, find out who answers",
    ),
    Explanation(
        code="certificate-file",
        symptom=r"Could not find a suitable TLS CA certificate bundle",
        cause="the file with its certificate is missing on this machine",
        fix="add {host} again: ansible-playbook add_workers.yml",
    ),
    Explanation(
        code="password",
        symptom=r"credentials were rejected by the server",
        cause="user name or password is wrong, or the account has no password (a Microsoft account signs in without one)",
        fix="check WINFLEET_PASSWORD and ansible_user; for such accounts run worker_setup.ps1 -CreateUser on {host}",
    ),
    Explanation(
        code="filtered-token",
        symptom=r"Access is denied",
        cause="Windows filters the rights of local administrators over the network (LocalAccountTokenFilterPolicy)",
        fix="run scripts\\worker_setup.cmd on {host}, and use an account of the group Administrators",
    ),
    Explanation(  # while a task runs there is no "ntlm: " before the words, as there is while it connects
        code="dropped",
        symptom=r"Read timed out|Connection reset|(?<!: \()'Connection aborted|winrm send_input failed|shell was not found on the server",
        cause="the connection broke off in the middle of a task: its network, its WinRM or the PC itself went away",
        fix="check {host} and its network, then run the same command again: what is done stays done",
    ),
    Explanation(
        code="wrong-protocol",
        symptom=r"WRONG_VERSION_NUMBER|Remote end closed connection without response",
        cause="http and https were mixed up: port 5986 speaks https, port 5985 http",
        fix="leave ansible_port and ansible_winrm_scheme of {host} as group_vars/windows.yml has them",
    ),
    Explanation(
        code="name-unknown",
        symptom=r"Failed to resolve|Name or service not known|Temporary failure in name resolution",
        cause="its name resolves to no address",
        fix="set ansible_host of {host} to its IP address",
    ),
    Explanation(
        code="ssh-key",
        symptom=r"Permission denied \(|Host key verification failed",
        cause="SSH does not accept this user's key, or does not know the host's key",
        fix="connect once by hand: ssh USER@ADDRESS",
    ),
    Explanation(
        code="refused",
        symptom=r"Connection refused|Errno 111",
        cause="it is there, but nothing listens: remoting (or SSH) is off",
        fix="run scripts\\worker_setup.cmd on {host} (Linux: install and start an SSH server)",
    ),
    Explanation(
        code="off",
        symptom=r"No route to host|Errno 113|Host is unreachable",
        cause="it is switched off, asleep, or in another network",
        fix="switch {host} on and check its cable and address",
    ),
    Explanation(
        code="ssh-unreachable",
        symptom=r"Data could not be sent to remote host|connect to the host via ssh",
        cause="SSH did not get through: it is off, or has no SSH server",
        fix="connect once by hand: ssh USER@ADDRESS, then run again",
    ),
    Explanation(
        code="firewalled",
        symptom=r"timed out|Timeout",
        cause="it does not answer: a firewall drops the connection, remoting is off, or it is off",
        fix="run scripts\\worker_setup.cmd -MasterIP with this machine's address on {host}",
    ),
)


DROPPED: Final = next(row for row in CONNECTION if row.code == "dropped")
# The words of a connection in a task that failed: it had reached the host before.
BROKEN: Final = re.compile(rf"HTTPS?ConnectionPool\(|'Connection aborted|{DROPPED.symptom}")


def explain(text: str, host: str) -> Explanation | None:
    """The first row whose symptom is in the text, its words about this host; None where nobody knows it yet."""
    for row in CONNECTION:
        if re.search(row.symptom, text):
            return Explanation(
                code=row.code, symptom=row.symptom, cause=row.cause.format(host=host), fix=row.fix.format(host=host)
            )
    return None


def describe_unreachable(host: str, text: str) -> str:
    """Why Ansible could not reach the host, with the fix; the connection's own words where nobody knows them yet."""
    known = explain(text, host)
    if known is None:
        return f"did not answer: {text.strip()}\n  hint: try `ansible {host} -m ping`"
    return f"did not answer: {known.cause} [{known.code}]\n  hint: {known.fix}"


def describe_failed(host: str, text: str) -> str:
    """What a task failed of: its own words, or in place of a connection's words that the connection broke off."""
    if not BROKEN.search(text):
        return text
    return f"did not answer: {DROPPED.cause} [{DROPPED.code}]\n  hint: {DROPPED.fix.format(host=host)}"
