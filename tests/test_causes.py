"""The table of causes: every row is found by real words, and no row stands in another's way.

Words are provoked here where that takes a moment on Linux; the others were recorded. docs/testing.md says which is which.
"""

import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import pcs
from conftest import ROOT, SCRIPTS
from counter_causes import NOT_CONNECTIONS, NOT_FAILURES, SPAWNED
from made_files import write_wheel
from programs import call, output_of
from recorded_causes import CONNECTIONS, OTHERS, POOL, RECORDED
from servers import answering
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from uv import find_uv_bin
from winfleet.core.causes import (
    advise,
    describe_failed,
    describe_unreachable,
    explain,
    fill_in,
    name_exit_code,
)
from winfleet.core.causes_table import CONNECTION, FAILURE, Row
from winfleet.core.errors import HostError
from winfleet.core.plan import Plan
from winfleet.core.status import Cause, describe_failure
from winfleet.environments import environment
from winfleet.launcher.agent import as_cause
from winfleet.launcher.joining import join_failure
from winfleet.launcher.rendezvous import PlanRendezvous
from winfleet.machine.windows import task_result

# code -> the test that has the failure happen
FAILURES_IN_A_SCRIPT = (
    "nccl-missing", "port-taken", "store-unreachable", "address-foreign", "gloo-adapter", "shapes-differ", "all-reduce-timeout", "memory",
    "cuda-build", "disk-full", "path-long", "file-denied", "file-missing", "module-missing", "code-page", "loader-ended", "loader-pickle",
    "loader-main", "checkpoint-other", "rank-missing", "compiler-missing", "ddp-wrapped", "ready-twice", "unused-parameters",
    "ranks-race", "fp16-weights", "device-ids", "gloo-type", "dtypes-differ", "no-grad", "lengths-differ", "index-range",
    "weights-only", "file-damaged",
)  # fmt: skip
UV_FAILURES = (
    "hash-mismatch", "index-refused", "index-proxy", "index-timeout", "index-unreachable", "python-missing", "no-wheel", "torch-differs",
)  # fmt: skip
PROVOKED = {
    "test_a_failure_in_a_script_finds_its_cause": FAILURES_IN_A_SCRIPT,
    "test_a_failure_of_uv_finds_its_cause": UV_FAILURES,
    "test_a_rank_that_is_ended_finds_its_cause": ("killed", "crashed"),
    "test_a_host_that_does_not_come_is_named": ("host-missing",),
    "test_a_closed_way_is_named_with_its_direction": ("pair-closed",),
}


def code_of(text: str, rows: Sequence[Row] = FAILURE, around: str = "") -> str:
    """The code of the row that the text finds, "" where it finds none."""
    found = explain(text, rows=rows, around=around)
    return found.code if found else ""


def code_in(said: str) -> str:
    """The code that stands in what a user is shown, "" where there is none."""
    found = re.search(r" \[([\w-]+)\]\n  hint: ", said)
    return found[1] if found else ""


def words_of(text: str) -> set[str]:
    """What a text has in common with one that is near."""
    return {word.lower() for word in re.findall(r"[^\W_]{4,}", text)}


def test_every_row_was_seen() -> None:
    assert set(CONNECTIONS) == {row.code for row in CONNECTION}
    provoked = [code for codes in PROVOKED.values() for code in codes]
    assert sorted([*RECORDED, *provoked]) == sorted(row.code for row in FAILURE), "once each"


@pytest.mark.parametrize("row", [*CONNECTION, *FAILURE], ids=lambda row: row.code)
def test_a_row_is_whole(row: Row) -> None:
    rows = CONNECTION if row in CONNECTION else FAILURE
    assert code_of(row.shows, rows) == row.code, "what it shows finds another row first"
    assert re.search(r"[가-힣]", row.cause_ko)
    assert re.search(r"[가-힣]", row.fix_ko)
    assert (row.cause + row.fix).isascii(), "consoles have code pages"
    assert not row.cause.endswith(".")
    assert not row.fix.endswith(".")


RECORDS = [*RECORDED.items(), *((code, text) for code, texts in OTHERS.items() for text in texts)]


@pytest.mark.parametrize(("code", "text"), RECORDS, ids=[code for code, _ in RECORDS])
def test_a_recorded_failure_finds_its_cause(code: str, text: str) -> None:
    said = advise(text, "연구실-2")
    assert re.fullmatch(rf"\n  cause: [^\n]+ \[{code}\]\n  hint: [^\n]+", said), said
    assert "{host}" not in said
    assert "  " not in said.replace("\n  ", "")


@pytest.mark.parametrize("row", [*CONNECTION, *FAILURE], ids=lambda row: row.code)
def test_a_row_does_not_take_what_is_near_to_it(row: Row) -> None:
    rows, counters = (CONNECTION, NOT_CONNECTIONS) if row in CONNECTION else (FAILURE, NOT_FAILURES)
    for text, right in counters[row.code].items():
        assert right != row.code
        assert code_of(text, rows) == right, text
    assert any(words_of(text) & words_of(row.shows) for text in counters[row.code]), "that is not near"


@pytest.fixture(scope="module")
def in_a_script(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What tests/scripts/failures.py got to hear."""
    folder = tmp_path_factory.mktemp("failures")
    said: dict[str, str] = json.loads(output_of(sys.executable, SCRIPTS / "failures.py", folder=folder))
    return said


@pytest.mark.parametrize("code", FAILURES_IN_A_SCRIPT)
def test_a_failure_in_a_script_finds_its_cause(code: str, in_a_script: dict[str, str]) -> None:
    of_cuda = torch.version.cuda and code in ("nccl-missing", "cuda-build")  # that build has other words without a GPU
    assert code_of(in_a_script[code]) == ("no-gpu" if of_cuda else code), in_a_script[code]


@pytest.fixture(scope="module")
def indexes() -> Iterator[dict[str, dict[str, str]]]:
    """What leads uv to an index that wants a sign-in, that never answers, and that lies behind a proxy which refuses."""
    with answering(b"HTTP/1.0 403 Forbidden\r\n\r\n") as (port, _), socket.create_server(("127.0.0.1", 0)) as silent:
        yield {
            "index-refused": {"UV_INDEX_URL": f"http://127.0.0.1:{port}/simple"},
            "index-timeout": {
                "UV_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple", "UV_HTTP_TIMEOUT": "1",
            },
            "index-proxy": {"UV_INDEX_URL": "https://pypi.org/simple", "HTTPS_PROXY": f"http://127.0.0.1:{port}"},
        }  # fmt: skip


@pytest.mark.parametrize("code", UV_FAILURES)
def test_a_failure_of_uv_finds_its_cause(
    code: str, tmp_path: Path, indexes: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "six", "six", "1.17.0")
    (tmp_path / "none").mkdir()
    given = {
        "uv": find_uv_bin(), "base": sys.executable, "python_version": "3.11", "wheels": "", "torch_backend": "", "torch": "2.13.0",
        "requirements": f"six==1.17.0 --hash=sha256:{'0' * 64}\n", "digest": "0" * 64, "python": "", "refuse": False, "direct": {},
    }  # fmt: skip
    for name, value in indexes.get(code, {"UV_INDEX_URL": "http://127.0.0.1:9/simple"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    changed: dict[str, dict[str, Any]] = {
        "hash-mismatch": {"wheels": str(tmp_path / "six")},
        "no-wheel": {"wheels": str(tmp_path / "none")},
        "python-missing": {"base": "3.99"},
        "torch-differs": {"python": sys.executable, "direct": {"torch": ["2.12.1"]}},
    }
    with pytest.raises(HostError) as raised:
        environment.ensure(tmp_path / "home", {**given, **changed.get(code, {})}, check=False)
    assert code_of(str(raised.value)) == code, raised.value
    assert code == "torch-differs" or f"[{code}]\n  hint: " in str(raised.value)
    assert ("set uv_env_wheels" in str(raised.value)) == code.startswith("index-")


HOSTS = pcs(1, 1, network="127.0.0")


@pytest.mark.parametrize(("code", "signal"), [("killed", 9), ("crashed", 6)])
def test_a_rank_that_is_ended_finds_its_cause(code: str, signal: int, tmp_path: Path) -> None:
    done = call(sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal})")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=done.returncode, error_file="")
    (tmp_path / "rank0.log").write_text(
        "Connection closed by peer is what a log may say, long before\n" * (signal == 9)
    )
    assert f"[{code}]\n  hint: " in describe_failure(as_cause(0, failure, HOSTS[0], tmp_path))


def test_a_host_that_does_not_come_is_named() -> None:
    alone = PlanRendezvous(run_id="r", machine_rank=0, num_machines=2, address="127.0.8.1", ranks_port=29590,
                           start_timeout=0.5, names={0: "pc1", 1: "pc2"})  # fmt: skip
    with pytest.raises(Exception, match="pc2 did not come") as raised:
        alone.next_rendezvous()
    assert "[host-missing]\n  hint: look at that host's launcher.log" in advise(str(raised.value))


def test_a_closed_way_is_named_with_its_direction() -> None:
    text = join_failure([1], HOSTS[1], Plan(run="r", command=("x.py",), hosts=HOSTS))
    said = describe_failure(Cause(host="pc1", text=text))
    assert "cause: packets from pc2 to pc1 do not arrive, so gloo waits: a firewall or antivirus on pc1, " in said
    assert "what else guards pc1 (127.0.0.1)" in said


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause(host="pc1", rank=0, exit_code=0xC0000005, text="ended without an exception"), "crashed"),
        (Cause(host="pc1", rank=0, exit_code=-1073741819, text="ended without an exception"), "crashed"),
        (Cause(host="pc1", rank=0, exit_code=0xC0000135, text="ended without an exception"), "dll-missing"),
        (Cause(host="pc1", rank=0, exit_code=1, text="ended without an exception"), "ended"),
        (Cause(host="pc1", rank=0, exit_code=1, text="ended without an exception", lines=("[WinError 1455]",)), "paging-file"),
        (Cause(host="pc1", rank=0, exit_code=-6, text="Signal 6 (SIGABRT) received by PID 1", lines=("op.preamble.length <= op.nbytes",)), "shapes-differ"),
        (Cause(host="pc1", rank=0, exit_code=1, text="ValueError: no", lines=("[WinError 1455]",)), ""),
        (Cause(host="pc1", text="FileNotFoundError: [Errno 2] No such file or directory: 'code/0'"), ""),
        (Cause(host="pc1", text="OSError: [Errno 28] No space left on device"), "disk-full"),
        (Cause(host="pc1", rank=0, text="OutOfMemoryError: CUDA out of memory"), "cuda-out-of-memory"),
        (Cause(host="pc1", rank=0, text="OutOfMemoryError: CUDA out of memory\nno smaller batch: it is 1\nhint: a smaller model"), ""),
    ],
)  # fmt: skip
def test_what_a_rank_said_decides_then_its_log_then_its_exit_code(cause: Cause, code: str) -> None:
    said = describe_failure(cause)
    assert code_in(said) == code, said


@pytest.mark.parametrize(
    "text",
    [
        # https://github.com/huggingface/accelerate/issues/2468
        "torch.distributed.DistNetworkError: The client socket has failed to connect to any network address of (10.0.0.11, 1040).",
        "DistNetworkError: The client socket has timed out after 60000ms while trying to connect to (10.0.0.11, 29500).",
    ],
)
def test_a_store_that_does_not_answer_is_named_by_its_address(text: str) -> None:
    assert "cause: the first host's store does not answer 10.0.0.11: " in advise(text)


def test_an_error_beside_a_warning_of_torch_is_found() -> None:
    [warning] = NOT_FAILURES["address-foreign"]
    error = "OSError: [WinError 10049] The requested address is not valid in its context"
    assert code_of(f"{warning}\n{error}") == "address-foreign"


BROKEN_PIPE = "BrokenPipeError: [Errno 32] Broken pipe"


@pytest.mark.parametrize(
    ("text", "log", "code"),
    [
        (BROKEN_PIPE, SPAWNED, "loader-start"),
        (BROKEN_PIPE, 'File "train.py", line 9, in main\n    print(loss)', ""),
        ("EOFError: Ran out of input", 'File "train.py", line 9\n    rows = pickle.load(f)', "file-damaged"),
        ("RuntimeError: [gloo/transport/tcp/pair.cc:553] writev [10.0.0.12]:40123: Broken pipe", SPAWNED, "peer-gone"),
    ],
)  # fmt: skip
def test_an_exception_is_judged_with_its_frames(text: str, log: str, code: str) -> None:
    cause = Cause(host="pc1", rank=0, exit_code=1, text=text, lines=tuple(log.splitlines()))
    assert code_in(describe_failure(cause)) == code
    assert cause.is_echo == (code == "peer-gone"), "whoever has no ended peer may be the first failure"


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        (RECORDED["virus-script"], "", "virus-script"),
        ("Module result deserialization failed.", RECORDED["app-control-script"], "app-control-script"),
        (RECORDED["virus-compiler"], "", "virus-compiler"),
        (CONNECTIONS["virus-remote"], "", "virus-remote"),
        (CONNECTIONS["proxy"], "", "proxy"),
        ("Access is denied.", "", ""),
        ("no such file: timed out", "", ""),
        ("no room\n  hint: make some", "No space left on device", ""),
        ("HTTPSConnectionPool(host='pypi.org', port=443): Read timed out.", "", ""),
    ],
)  # fmt: skip
def test_a_task_that_failed_asks_the_table_too(text: str, said: str, code: str) -> None:
    told = describe_failed("pc2", text, said)
    assert re.findall(r"\[([a-z-]+)\]\n  hint: ", told) == [code] * bool(code), told
    assert "{host}" not in told
    assert told.startswith(text if code != "proxy" else "did not answer: the request for pc2 went to a proxy")


def test_exit_codes_of_windows_are_named_as_windows_does() -> None:
    assert [name_exit_code(code) for code in (0, 1, -9, 0xC0000409, -1073740791)] == [
        "0", "1", "-9", "0xC0000409", "0xC0000409",
    ]  # fmt: skip


def test_a_name_without_a_value_leaves_no_gap() -> None:
    assert (
        fill_in("the store {address}{where} of {host}", {"address": "", "where": "", "host": "pc1"})
        == "the store of pc1"
    )


@pytest.mark.parametrize(
    "text", ["[Errno 111] Input/output error (os error 5)", "Broken pipe (os error 32)", "No such process (os error 3)"]
)
def test_numbers_of_linux_are_not_those_of_windows(text: str) -> None:
    assert code_of(text) in ("", "peer-gone")


def test_both_documents_are_those_of_the_table(tmp_path: Path) -> None:
    output_of(sys.executable, "docs/troubleshooting.py", tmp_path)
    for name in ("troubleshooting.md", "troubleshooting.en.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert text == (ROOT / "docs" / name).read_text("utf-8"), "run `make docs`"
        assert sorted(re.findall("(?m)^### (.+)$", text)) == sorted(row.code for row in (*CONNECTION, *FAILURE))


def test_the_document_on_tests_tells_which_causes_were_provoked() -> None:
    text = (ROOT / "docs" / "testing.md").read_text("utf-8")
    for test, codes in PROVOKED.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{test}` |"))
        assert re.findall(r"`([a-z\d-]+)`", line.partition("|")[2].partition("|")[2]) == list(codes), (
            "in docs/testing.md"
        )


@pytest.mark.parametrize(("code", "text"), CONNECTIONS.items(), ids=CONNECTIONS.keys())
def test_recorded_words_are_turned_into_their_cause(code: str, text: str) -> None:
    found = explain(text, "연구실-2", CONNECTION)
    assert found is not None
    assert found.code == code
    said = describe_unreachable("연구실-2", text)
    assert said.startswith(f"did not answer: {found.cause} [{code}]\n  hint: ")
    assert "{host}" not in said


def test_http_spoken_to_an_https_port_is_told_too() -> None:
    text = "ntlm: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))"
    assert describe_unreachable("pc2", text).startswith("did not answer: http and https were mixed up")


@pytest.mark.parametrize(
    ("printed", "result", "code"),
    [
        ("2147943785\r\n", "0x80070569 of its scheduled task: this account may not sign in as a batch job", "task-batch"),
        ("2147943726", "0x8007052E of its scheduled task: the user name or password is wrong", "task-password"),
        ("267011", "0x00041303 of its scheduled task: it was not run yet", "task-waits"),
        ("-1073741515", "0xC0000135 of its scheduled task: a DLL that its program needs is missing", "dll-missing"),
        ("267009", "0x00041301 of its scheduled task: it is running", ""),
        ("1", "0x00000001 of its scheduled task", ""),
        ("Get-ScheduledTaskInfo : The system cannot find the file specified.", "", ""),
    ],
)  # fmt: skip
def test_what_windows_says_of_a_task_finds_its_cause(
    printed: str, result: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "powershell.exe").write_text(f"#!/bin/sh\nprintf '%s' '{printed}'\n")
    (tmp_path / "powershell.exe").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = f"the launcher said nothing within 60 s{task_result('launcher')}"
    assert said == f"the launcher said nothing within 60 s{f', and Windows says {result}' if result else ''}"
    assert code_of(said) == code


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
        CONNECTIONS["dropped"],
    ],
)
def test_a_task_that_failed_of_its_connection_says_that_it_broke_off(text: str) -> None:
    said = describe_failed("pc2", text)
    assert said.startswith("did not answer: the connection broke off in the middle of a task: ")
    assert said.endswith(
        "[dropped]\n  hint: check pc2 and its network, then run the same command again: what is done stays done"
    )


BOOK = """
- name: Fail
  hosts: all
  gather_facts: false
  any_errors_fatal: false
  tasks:
    - name: Be stopped by an antivirus
      ansible.builtin.fail: {msg: "{{ said }}"}
      when: inventory_hostname == "pc1"
    - name: Be stopped item by item
      ansible.builtin.fail: {msg: "{{ item }}"}
      loop: ["{{ said }}"]
"""


@pytest.mark.ansible
def test_ansible_shows_the_cause_of_a_task_that_failed(tmp_path: Path) -> None:
    book, given = tmp_path / "book.yml", tmp_path / "given.json"
    book.write_text(BOOK)
    given.write_text(json.dumps({"said": RECORDED["app-control-script"], "ansible_connection": "local"}))
    done = call("ansible-playbook", "-i", "pc1,pc2,", book, "-e", f"@{given}")
    said = [line for line in done.stderr.splitlines() if "language mode" in line]
    assert [line.partition(":")[2].partition(":")[0].strip() for line in said if line.startswith("error")] == [
        "pc1", "pc2",
    ], done.stderr  # fmt: skip
    assert len(re.findall(r"^  cause: PowerShell on (pc\d) runs in constrained", done.stderr, re.MULTILINE)) == 2
