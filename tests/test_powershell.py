"""Every PowerShell script of the repository is understood by Windows PowerShell 5.1; tests/newer_than_51.ps1 has the lists.

What scripts share is one text: that of a module which is put into those that Ansible sends.
"""

import re
from pathlib import Path

import pytest
from conftest import ROOT
from programs import in_git
from windows_lab import Lab, in_the_lab, windows
from winfleet.controller.scripts import whole

CHECK = ROOT / "tests" / "newer_than_51.ps1"
OF_THE_ENGINE = "molecule/lab/powershell/"  # runs nowhere else
MODULE = ROOT / "plugins" / "module_utils" / "Ansible.ModuleUtils.Winfleet.psm1"
OF_ROLES = sorted(ROOT.glob("roles/*/files/*.ps1"))

# What the check must find in it, line by line.
TOO_NEW = {
    "#Requires -Version 7.2": {"requires"},
    "$a = $true ? 1 : 2": {"token"},
    "$b = $a ?? 3; $b ??= 4; ${b}?.Length": {"token"},
    "Get-Item . && Get-Item ..": {"token"},
    "1..3 | ForEach-Object -Parallel { $_ }": {"parameter"},
    "'{}' | ConvertFrom-Json -AsHashtable": {"parameter"},
    "Join-String 1": {"command"},
    "if ($IsWindows) { $c.ExportCertificatePem() }": {"variable", "method"},
    "Join-Path a b c": {"parameter"},
    "Set-Content x y -Encoding utf8NoBOM": {"encoding"},
    "$d = 0b11; $e = [semver]'1.2.3'": {"number", "type"},
    "Get-Item . &": {"background"},
    "function Frobnicate-It { process { } clean { } }": {"verb", "token"},
    "Get-ChildItem C:\\ -ErrorAction Stop; $f = @{ a = 1 }; if (-not $f) { throw 'x' }": set(),
    "$g = {": {"error"},
}


def scripts() -> list[Path]:
    """All .ps1 and .psm1 that git knows or would take."""
    names = in_git("--cached", "--others", "--exclude-standard", "*.ps1", "*.psm1")
    return [ROOT / name for name in names if not name.startswith(OF_THE_ENGINE) and (ROOT / name).exists()]


def newer(lab: Lab, paths: list[Path], folder: Path) -> list[str]:
    """What the check says of the scripts: FILE KIND LINE: WHAT."""
    listed = folder / "list"
    listed.write_text("\n".join(map(windows, paths)), "utf-8")
    return lab.run(lab.up(1)[0], CHECK, windows(listed)).splitlines()


@in_the_lab
def test_windows_powershell_understands_every_script(lab: Lab, tmp_path: Path) -> None:
    found = scripts()
    assert {"worker_setup.ps1", "firewall.ps1", "look.ps1", "open.ps1", MODULE.name} < {path.name for path in found}
    for path in OF_ROLES:  # as they are sent
        found.append(tmp_path / f"whole_{path.name}")
        found[-1].write_text(whole(path, MODULE.parent), "utf-8")
    assert newer(lab, found, tmp_path) == []
    planted = tmp_path / "planted.ps1"
    planted.write_text("\n".join(TOO_NEW))
    lines: dict[int, set[str]] = {number: set() for number in range(1, len(TOO_NEW) + 1)}
    for line in newer(lab, [planted], tmp_path):
        _, kind, number = line.split(":")[0].split()
        lines[int(number)].add(kind)
    assert dict(zip(TOO_NEW, lines.values(), strict=True)) == TOO_NEW


def functions(path: Path) -> dict[str, str]:
    """The text of each function that begins a line, by its name."""
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    return {
        found[1]: found[0] for found in re.finditer(r"^function ([\w-]+) \{\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    }


def test_what_scripts_share_is_one_text() -> None:
    shared = functions(MODULE)
    assert "Find-NvidiaSmi" in shared
    # worker_setup.ps1 comes on a stick, alone
    assert functions(ROOT / "scripts" / "worker_setup.ps1")["Find-NvidiaSmi"] == shared["Find-NvidiaSmi"]
    again = {(path.name, name) for path in scripts() if path != MODULE for name in functions(path) if name in shared}
    assert again == {("worker_setup.ps1", "Find-NvidiaSmi")}


def test_a_role_s_script_is_sent_with_what_it_requires() -> None:
    assert len(OF_ROLES) == 4
    for path in OF_ROLES:
        text = whole(path, MODULE.parent)
        assert text.count("function Invoke-Native {") == 1, path
        assert "AnsibleRequires" not in text, path
        # PowerShell takes a parameter block before everything else only
        assert text.index("param(") < text.index("function "), path


@pytest.mark.parametrize("script", ["worker_setup", "launch_distributed", "master_deploy"])
def test_files_are_as_windows_powershell_reads_them(script: str) -> None:
    text, door = ((ROOT / "scripts" / f"{script}.{end}").read_bytes() for end in ("ps1", "cmd"))
    assert text.startswith(b"\xef\xbb\xbf"), "5.1 reads a file without BOM in the PC's own code page"
    assert door.isascii(), "cmd.exe knows no BOM"
    for file in (text, door):
        assert file.count(b"\n") == file.count(b"\r\n") == file.count(b"\r")


def test_a_script_for_bash_has_no_carriage_return() -> None:
    assert b"\r" not in (ROOT / "scripts" / "master_deploy.sh").read_bytes()
