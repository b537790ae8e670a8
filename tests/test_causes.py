"""The words that Ansible prints when a door is shut, as they were recorded, and the cause that each is turned into."""

import pytest
from winfleet.causes import CONNECTION, describe_failed, describe_unreachable, explain

POOL = "Task failed: ntlm: HTTPSConnectionPool(host='10.77.0.12', port=5986): Max retries exceeded with url: /wsman (Caused by "
RECORDED = {
    "password": "Task failed: ntlm: the specified credentials were rejected by the server",
    "filtered-token": (
        "Task failed: ntlm: Access is denied. (extended fault data: {'transport_message': 'Bad HTTP response returned "
        "from server. Code 500', 'http_status_code': 500, 'wsmanfault_code': 5, 'fault_subcode': 'w:AccessDenied'})"
    ),
    "refused": POOL + 'NewConnectionError("…: Failed to establish a new connection: [Errno 111] Connection refused"))',
    "off": POOL + 'NewConnectionError("…: Failed to establish a new connection: [Errno 113] No route to host"))',
    "firewalled": POOL
    + "ConnectTimeoutError(<… at 0x7f>, 'Connection to 10.77.0.12 timed out. (connect timeout=30)'))",
    "name-unknown": POOL
    + "NameResolutionError(\"…: Failed to resolve 'pc9' ([Errno -2] Name or service not known)\"))",
    "certificate-other": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "self-signed certificate (_ssl.c:1006)')))"
    ),
    "certificate-address": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP "
        "address mismatch, certificate is not valid for '10.77.0.12'. (_ssl.c:1006)')))"
    ),
    "certificate-expired": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "certificate has expired (_ssl.c:1006)')))"
    ),
    "clock-skew": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "certificate is not yet valid (_ssl.c:1006)')))"
    ),
    "certificate-file": (
        "Task failed: ntlm: Could not find a suitable TLS CA certificate bundle, invalid path: /x/certificates/lab/pc2.pem"
    ),
    "dropped": (
        "Task failed: winrm connection error: HTTPSConnectionPool(host='10.77.0.12', port=5986): Read timed out. (read timeout=10)"
    ),
    "wrong-protocol": POOL + "SSLError(SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)')))",
    "ssh-unreachable": (
        "Task failed: Data could not be sent to remote host '127.0.0.2'. Make sure this host can be reached over SSH: "
        "[Errno 32] Broken pipe"
    ),
    "ssh-key": "Failed to connect to the host via ssh: alice@10.0.0.2: Permission denied (publickey).",
}


def test_every_row_has_a_recorded_text() -> None:
    assert set(RECORDED) == {row.code for row in CONNECTION}


@pytest.mark.parametrize(("code", "text"), RECORDED.items(), ids=RECORDED.keys())
def test_recorded_words_are_turned_into_their_cause(code: str, text: str) -> None:
    found = explain(text, "연구실-2")
    assert found is not None
    assert found.code == code
    said = describe_unreachable("연구실-2", text)
    assert said.startswith(f"did not answer: {found.cause} [{code}]\n  hint: ")
    assert "{host}" not in said


def test_http_spoken_to_an_https_port_is_told_too() -> None:
    text = "ntlm: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))"
    assert describe_unreachable("pc2", text).startswith("did not answer: http and https were mixed up")


def test_unknown_words_are_shown_as_they_are() -> None:
    assert (
        describe_unreachable("pc2", "something new")
        == "did not answer: something new\n  hint: try `ansible pc2 -m ping`"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"Task failed: {POOL.partition('ntlm: ')[2]}ConnectTimeoutError(<…>, 'Connection to 10.77.0.12 timed out. (connect timeout=10)'))",
        "WinRM was not set up: Task failed: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
        RECORDED["dropped"],
    ],
)
def test_a_task_that_failed_of_its_connection_says_that_it_broke_off(text: str) -> None:
    said = describe_failed("pc2", text)
    assert said.startswith("did not answer: the connection broke off in the middle of a task: ")
    assert said.endswith(
        "[dropped]\n  hint: check pc2 and its network, then run the same command again: what is done stays done"
    )


def test_a_task_that_failed_of_something_else_has_its_own_words() -> None:
    assert describe_failed("pc2", "no such file: timed out") == "no such file: timed out"
