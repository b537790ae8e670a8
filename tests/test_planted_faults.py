"""Faults planted on Windows PCs of the lab: one preflight names each on its host, with its fix, before anything is changed."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_place import LAB, NET
from windows_cluster import ONE, TWO, Cluster, added, errors, stranger
from windows_lab import Lab, in_the_lab

pytestmark = in_the_lab

NOBODY = f"{NET}.77"
# What goes wrong on the first PC, by its owner's hand; nothing of it keeps WinRM out.
PLANT = """
$windows = 'HKLM:\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update\\RebootRequired'
$null = New-Item -Path $windows -Force
$policy = 'HKLM:\\SYSTEM\\CurrentControlSet\\Control\\CI\\Policy'
$null = New-Item -Path $policy -Force
$null = New-ItemProperty -Path $policy -Name VerifiedAndReputablePolicyState -Value 1 -PropertyType DWord -Force
$updates = 'HKLM:\\SOFTWARE\\Microsoft\\WindowsUpdate\\UX\\Settings'
$null = New-Item -Path $updates -Force
$null = New-ItemProperty -Path $updates -Name ActiveHoursStart -Value 8 -PropertyType DWord -Force
$null = New-ItemProperty -Path $updates -Name ActiveHoursEnd -Value 17 -PropertyType DWord -Force
$null = New-NetFirewallRule -Name old-python -DisplayName '파이썬' -Direction Inbound -Action Block -Protocol TCP -Program C:\\Python310\\python.exe
$state = Read-LabState
$state.dynamicport = '1024 64511'
$state.firewalls = @('노턴 360')
Write-LabState $state
"""
GPU = "NVIDIA GeForce RTX 3060, {driver}, 12288, GPU-1, 5100, 8.6\n"
GAME = "GPU-1, 4242, C:\\games\\게임.exe, 7000\n"
EXPECTED = (
    "controller: fleet_project: no folder /nowhere",
    "controller: fleet_data: no folder /no/data",
    rf"{ONE}: it goes to sleep after 30 minutes on mains (power plan Balanced)",
    rf"{ONE}: a restart is pending (Windows Update)",
    rf"{ONE}: Smart App Control is on and blocks the unsigned libraries of Python's packages",
    rf'{ONE}: the rule "파이썬" blocks C:\Python310\python.exe and beats every rule that allows',
    rf"{ONE}: another firewall is registered there, and Windows' rules may not count: 노턴 360",
    rf"{ONE}: its range of dynamic ports, 1024-65534, holds ours",
    rf"{ONE}: GPU 0 (NVIDIA GeForce RTX 3060) is used by 게임.exe (pid 4242, 7000 MiB), 5100 of 12288 MiB are free",
    rf"{ONE}: fleet_processes is 2, but it has 1 GPUs",
    rf"{TWO}: GPU 0 (NVIDIA GeForce RTX 3060): driver 472.12 is too old for every CUDA build of the locked torch",
    rf"{TWO}: {NOBODY} is not one of its own addresses (AddressNotAvailable)",
    rf"{TWO}: fleet_home Q:\winfleet cannot be written",
    rf"{TWO}: 0 GB free below Q:\winfleet, 2 GB wanted",
    rf" on {ONE} · 3.12.4 on {TWO}",
    rf"{TWO}: its clock is 7 minutes behind this machine's",
    rf"{TWO}: the service of Windows' firewall (mpssvc) does not run: no rule can be made, and none guards its ports",
)  # fmt: skip


@pytest.fixture
def planted(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    """Two PCs with faults, those of PLANT among them; both have an nvidia-smi.exe that says what the test wrote."""
    with added(lab, "lab-faults") as inventory:
        program, script = tmp_path / "nvidia-smi.exe", tmp_path / "plant.ps1"
        source = LAB.parent / "windows" / "nvidia_smi.c"
        subprocess.run(["x86_64-w64-mingw32-gcc", "-O2", "-s", "-o", program, source], check=True)
        for host, driver, users in ((ONE, "580.88", GAME), (TWO, "472.12", "")):
            drive = lab.prefix(host.lower())
            shutil.copy(program, drive / "windows" / "system32" / "nvidia-smi.exe")
            (drive / "lab" / "query-gpu.csv").write_text(GPU.format(driver=driver), "utf-8")
            (drive / "lab" / "query-compute-apps.csv").write_text(users, "utf-8")
        (drive / "lab" / "clock").write_text("-420")
        (drive / "Python312").mkdir()
        (drive / "Python312" / "python.cmd").write_text("@echo 3.12.4\n")
        script.write_text(PLANT, "utf-8-sig")
        assert lab.run(ONE.lower(), script) == ""
        lab.do("run", TWO.lower(), "net", "stop", "mpssvc")
        cluster = Cluster(lab, tmp_path, inventory)
        python = "C:\\Python312\\python.cmd"
        cluster.hosts[ONE] = {"fleet_processes": 2}
        cluster.hosts[TWO] = {"fleet_address": NOBODY, "fleet_home": "Q:\\winfleet", "uv_env_interpreter": python}
        yield cluster


def test_each_planted_fault_is_named_on_its_host_before_anything_is_changed(planted: Cluster) -> None:
    with stranger(planted, ONE, 29500) as pid:
        done = planted.play("deploy_and_train.yml", "fleet_project=/nowhere", "fleet_data=/no/data")
    assert done.returncode != 0, done.stdout
    taken = f"{ONE}: port 29500 (the ranks' store) on {planted.lab.address(ONE.lower())} is taken by python (pid {pid})"
    missing = [line for line in (*EXPECTED, taken) if not re.search(rf"{re.escape(line)}.*\n  hint: ", done.stdout)]
    assert missing == [], done.stdout
    assert errors(done.stdout) == 1
    assert f"{TWO}: port " not in done.stdout
    assert f"{TWO}: another firewall" not in done.stdout
    assert f"{ONE}: the service of Windows' firewall" not in done.stdout
    assert "To go on in spite of that: -e fleet_warnings=" in done.stdout
    assert "Driver" in done.stdout, "the table of the hosts"
    assert f"580.88: {ONE} · 472.12: {TWO}" in done.stdout
    assert f"pending, by updates from 17:00 to 8:00: {ONE}" in done.stdout
    assert not any(planted.home(host).exists() for host in planted.hosts)
