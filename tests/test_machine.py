"""What a machine is and has, asked in one place each: its driver's program, and who has a port."""

import os
import shutil
import socket

import pytest
from winfleet.machine.nvidia_smi import find
from winfleet.machine.ports import bind_error, owner_of

ENVIRON = {"PATH": "/opt/driver/bin", "SystemRoot": r"D:\Windows", "ProgramFiles": r"C:\Program Files"}


@pytest.mark.parametrize(
    ("windows", "place"),
    [
        (False, "/opt/driver/bin"),
        (False, "/usr/lib/wsl/lib"),  # WSL's, which a task's PATH may lack
        (True, "/opt/driver/bin"),
        (True, r"D:\Windows\System32"),
        (True, r"C:\Program Files\NVIDIA Corporation\NVSMI"),  # of drivers before 2019
    ],
)
def test_nvidia_smi_is_found_wherever_a_driver_puts_it(
    windows: bool, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: f"{place}|{name}" if place in path else None)
    assert find(ENVIRON, windows=windows) == f"{place}|nvidia-smi{'.exe' if windows else ''}"


def test_without_a_driver_nvidia_smi_is_its_bare_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert find(ENVIRON) == "nvidia-smi"


def test_a_port_is_had_by_who_listens_on_its_address_or_on_all() -> None:
    me = f"(pid {os.getpid()})"
    with socket.create_server(("127.0.7.1", 0)) as server:
        port = server.getsockname()[1]
        assert owner_of("127.0.7.1", port).endswith(me)
        assert str(bind_error("127.0.7.1", port)) == "[Errno 98] Address already in use"
        assert (owner_of("127.0.7.2", port), bind_error("127.0.7.2", port)) == ("", None)
    assert bind_error("127.0.7.1", port) is None
    for family in (socket.AF_INET, *([socket.AF_INET6] if socket.has_dualstack_ipv6() else [])):
        with socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as server:
            assert owner_of("127.0.7.1", server.getsockname()[1]).endswith(me)
    assert str(bind_error("192.0.2.99", 1)) == "[Errno 99] Cannot assign requested address"
