"""Every PowerShell script of the repository is understood by Windows PowerShell 5.1; tests/newer_than_51.ps1 has the lists.

What scripts share is one text: that of a module which is put into those that Ansible sends.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from programs import in_git
from windows_lab import Lab, in_the_lab, windows
from winfleet.controller.scripts import whole

CHECK = ROOT / "tests" / "newer_than_51.ps1"
OF_THE_ENGINE = "molecule/lab/powershell/"  # runs nowhere else
MODULE = ROOT / "plugins" / "module_utils" / "Ansible.ModuleUtils.Winfleet.psm1"
PYTHON_MODULE = MODULE.with_name("Ansible.ModuleUtils.WinfleetPython.psm1")
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


NONE = "uv has no Python 3.11 of its own and could not fetch one"
AGENT = r"""
$uv = 'C:\lab\python\uv.exe'
$ours = @{ UV_CACHE_DIR = 'C:\agent\cache'; UV_PYTHON_INSTALL_DIR = 'C:\agent\interpreters' }
$settings = Get-UvVariable -Ours $ours -Users @{ uv_http_timeout = '600'; HTTPS_PROXY = 'http://other' } -Secrets @{ HTTPS_PROXY = 'http://me:hush@proxy' }
$own = Get-UvVariable -Ours $ours -Users @{ UV_NATIVE_TLS = 'false' }
$found = @{ certificates = $settings.UV_SYSTEM_CERTS; own = $own.ContainsKey('UV_SYSTEM_CERTS'); timeout = $settings.UV_HTTP_TIMEOUT; proxy = $settings.HTTPS_PROXY }
$found.hidden = Remove-Secret -Text 'of http://me:hush@proxy: hush' -Secrets @{ HTTPS_PROXY = 'http://me:hush@proxy' }
foreach ($name in 'conda', 'both') {
    $env:PATH = @{ conda = 'C:\conda'; both = 'C:\conda;C:\lab\python' }[$name]
    $found[$name] = New-AgentPython -Uv $uv -Target 'C:\agent\python' -Version '3.11' -Offline $true -Variables $settings
}
$found.python = Get-Python -Program 'C:\agent\python\Scripts\python.exe'
Rename-Item -LiteralPath C:\windows\system32\msvcp140.dll -NewName msvcp140.away
$found.bare = Get-Python -Program 'C:\conda\python.exe'
$found.without = Get-CRuntime
Rename-Item -LiteralPath C:\windows\system32\msvcp140.away -NewName msvcp140.dll
$found.system = Get-CRuntime
[IO.Directory]::CreateDirectory('C:\beside').FullName | Out-Null
[IO.File]::WriteAllText('C:\beside\msvcp140.dll', 'an old one')
Copy-CRuntime -From 'C:\lab\python' -Folder 'C:\beside'
[IO.File]::SetLastWriteTimeUtc('C:\beside\vcruntime140.dll', [DateTime]'2020-01-01')
Copy-CRuntime -From 'C:\lab\python' -Folder 'C:\beside'
$found.laid = "$(Get-FileVersion -Path 'C:\beside\msvcp140.dll')"
$found.kept = [IO.File]::GetLastWriteTimeUtc('C:\beside\vcruntime140.dll').Year
'FOUND' + (ConvertTo-Json -InputObject $found -Depth 4 -Compress)
"""


@in_the_lab
def test_the_agents_python_is_never_condas_and_has_windows_certificates(lab: Lab, tmp_path: Path) -> None:
    (pc,) = lab.up(1)
    drive, script = lab.prefix(pc), tmp_path / "agent.ps1"
    shutil.copytree(drive / "lab" / "python", drive / "conda", copy_function=os.symlink)
    (drive / "conda" / "conda-meta").mkdir()
    (drive / "conda" / "msvcp140.dll").unlink()
    (drive / "agent").mkdir()
    script.write_text(PYTHON_MODULE.read_text("utf-8") + AGENT, "utf-8")
    found = json.loads(lab.run(pc, script).partition("FOUND")[2])
    assert {name: found[name] for name in ("certificates", "own", "timeout", "proxy", "hidden")} == {
        "certificates": "true", "own": False, "timeout": "600", "proxy": "http://me:hush@proxy", "hidden": "of ***: ***",
    }  # fmt: skip
    assert (found["conda"]["code"], found["conda"]["note"]) == (2, "")
    assert found["both"]["note"].startswith(f"{NONE} (No interpreter found for Python 3.11 in managed installations); ")
    assert "; C:\\lab\\python\\python.exe (3.11." in found["both"]["note"]
    assert found["python"] == {"version": found["python"]["version"], "lacks": []}
    assert found["python"]["version"].startswith("3.11.")
    assert found["bare"]["lacks"] == ["msvcp140"]
    assert found["without"] == {**found["system"], "msvcp140": ""}
    assert found["system"]["msvcp140"]
    assert found["laid"].startswith("14.")
    assert found["kept"] == 2020


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
    own = functions(ROOT / "scripts" / "worker_setup.ps1")
    copied = {"Find-NvidiaSmi", "Get-OtherFirewall", "Test-FirewallService"}
    assert {name: own[name] for name in copied} == {name: shared[name] for name in copied}
    again = {(path.name, name) for path in scripts() if path != MODULE for name in functions(path) if name in shared}
    assert again == {("worker_setup.ps1", name) for name in copied}


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
