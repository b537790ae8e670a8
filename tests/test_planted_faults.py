"""Faults planted on Windows PCs of the lab: one preflight names each on its host, with its fix, before anything is changed."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, SCRIPTS
from windows_lab import LAB, NET, PREFIX, SETTINGS, Lab, in_the_lab

pytestmark = in_the_lab

NAME = "lab-faults"  # of the cluster, a folder below inventories/
ONE, TWO = f"{PREFIX}1".upper(), f"{PREFIX}2".upper()
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
Write-LabState $state
"""
GPU = "NVIDIA GeForce RTX 3060, {driver}, 12288, GPU-1, 5100, 8.6\n"
STRANGER = "GPU-1, 4242, C:\\games\\게임.exe, 7000\n"
EXPECTED = (
    rf"{ONE}: it goes to sleep after 30 minutes on mains (power plan Balanced)",
    rf"{ONE}: a restart is pending (Windows Update)",
    rf"{ONE}: Smart App Control is on and blocks the unsigned libraries of Python's packages",
    rf'{ONE}: the rule "파이썬" blocks C:\Python310\python.exe and beats every rule that allows',
    rf"{ONE}: its range of dynamic ports, 1024-65534, holds ours",
    rf"{ONE}: GPU 0 (NVIDIA GeForce RTX 3060) is used by 게임.exe (pid 4242, 7000 MiB), 5100 of 12288 MiB are free",
    rf"{ONE}: fleet_processes is 2, but it has 1 GPUs",
    rf"{TWO}: GPU 0 (NVIDIA GeForce RTX 3060): driver 472.12 is too old for every CUDA build of the locked torch",
    rf"{TWO}: {NOBODY} is not one of its own addresses (AddressNotAvailable)",
    rf"{TWO}: fleet_home Q:\winfleet cannot be written",
    rf"{TWO}: 0 GB free below Q:\winfleet, 2 GB wanted",
    rf" on {ONE} · 3.12.4 on {TWO}",
    rf"{TWO}: its clock is 7 minutes behind this machine's",
)  # fmt: skip


@pytest.fixture
def planted(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """The inventory of two PCs with faults, those of PLANT among them; both have an nvidia-smi.exe that says what the test wrote."""
    lab.do("down")
    names = lab.up(2)
    settings = {**SETTINGS, **{name: ENVIRONMENT[name] for name in ("PATH", "ANSIBLE_CONFIG")}, "LAB_CLUSTER": NAME}
    done = subprocess.run([LAB.with_name("ready"), *names], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    program = tmp_path / "nvidia-smi.exe"
    source = LAB.parent / "windows" / "nvidia_smi.c"
    subprocess.run(["x86_64-w64-mingw32-gcc", "-O2", "-s", "-o", program, source], check=True)
    for name, driver, users in ((names[0], "580.88", STRANGER), (names[1], "472.12", "")):
        drive = lab.prefix(name)
        shutil.copy(program, drive / "windows" / "system32" / "nvidia-smi.exe")
        (drive / "lab" / "query-gpu.csv").write_text(GPU.format(driver=driver), "utf-8")
        (drive / "lab" / "query-compute-apps.csv").write_text(users, "utf-8")
    (drive / "lab" / "clock").write_text("-420")
    (drive / "Python312").mkdir()
    (drive / "Python312" / "python.cmd").write_text("@echo 3.12.4\n")
    script = tmp_path / "plant.ps1"
    script.write_text(PLANT, "utf-8-sig")
    assert lab.run(names[0], script) == ""
    inventory = ROOT / "inventories" / NAME
    second = {"fleet_address": NOBODY, "fleet_home": "Q:\\winfleet", "uv_env_interpreter": "C:\\Python312\\python.cmd"}
    for host, values in ((ONE, {"fleet_processes": 2}), (TWO, second)):
        (inventory / "host_vars").mkdir(exist_ok=True)
        (inventory / "host_vars" / f"{host}.yml").write_text(yaml.safe_dump(values), "utf-8")
    yield inventory
    for folder in (inventory, ROOT / "inventories" / "certificates" / NAME):
        shutil.rmtree(folder, ignore_errors=True)


def test_each_planted_fault_is_named_on_its_host_before_anything_is_changed(planted: Path, lab: Lab) -> None:
    settings = [f"fleet_project={SCRIPTS}", "fleet_command=bare.py", "fleet_data=", "fleet_config="]
    command = ["ansible-playbook", "deploy_and_train.yml", "-i", str(planted)]
    command += [word for setting in settings for word in ("-e", setting)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert [line for line in EXPECTED if not re.search(rf"{re.escape(line)}.*\n  hint: ", said)] == [], said
    assert "To go on in spite of that: -e fleet_warnings=" in said
    assert "Driver" in said, "the table of the hosts"
    assert f"580.88: {ONE} · 472.12: {TWO}" in said
    assert f"pending, by updates from 17:00 to 8:00: {ONE}" in said
    assert not any((lab.prefix(host.lower()) / "winfleet").exists() for host in (ONE, TWO))
