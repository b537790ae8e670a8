"""The front door of a Windows worker: scripts/worker_setup.ps1 on a PC of the lab, and its text."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import wait_until
from lab_place import NET
from made_files import certificate
from windows_lab import MASTER, PASSWORD, SCRIPT, NewPc, in_the_lab, windows

OTHER = f"{NET}.9"  # another master


BY_PASSWORD = {"ansible_winrm_transport": "ntlm", "ansible_password": PASSWORD}


@in_the_lab
def test_a_new_pc_is_opened_to_the_master_alone_once_and_all_is_taken_back(pc: NewPc) -> None:
    output = pc.setup("-MasterIP", MASTER, "-CreateUser", "-WhatIf")
    assert output.count("What if: ") == 9
    assert "changes: 0" in output
    assert pc.state() == pc.before
    assert not pc.file.exists()

    output = pc.setup_by_itself("-MasterIP", MASTER)
    assert "changes: 7 service, remoting, http, certificate, listener, rule, trust" in output
    assert "준비되었습니다" in output
    assert "on the master" in output
    pc.assert_open()
    trust, other = pc.folder / "pc1.pem", certificate(pc.folder, pc.name.upper())
    trust.write_text(pc.worker()["certificate"])
    assert "pong" in pc.win_ping(trust, BY_PASSWORD)
    trust.write_text(other)
    assert "certificate verify failed" in pc.win_ping(trust, BY_PASSWORD)
    opened, raw, worker = pc.state(), pc.raw(), pc.worker()
    assert (opened["service"], opened["policy"], opened["sessions"]) == ("Running Automatic", 1, True)
    assert opened["wsman"]["Client\\TrustedHosts"] == MASTER
    rule = opened["firewall"]["winfleet-winrm-https"]
    assert (rule["LocalPorts"], rule["Protocol"], rule["Profiles"], rule["Grouping"]) == (
        "5986", 6, 0x7FFFFFFF, "winfleet",
    )  # fmt: skip
    assert rule["RemoteAddresses"].split("/")[0] == MASTER

    output = pc.setup("-MasterIP", MASTER)
    assert "changes: 0" in output
    assert "error" not in output
    assert pc.raw() == raw
    again = pc.worker()
    worker["facts"]["disk_free_gb"] = again["facts"]["disk_free_gb"]  # the disk is not ours
    assert again == worker

    assert "changes: 0" in pc.setup("-Remove", "-WhatIf")
    assert pc.state() == opened
    assert pc.file.exists()
    output = pc.setup_by_itself("-Remove")
    assert "error" not in output
    assert pc.state() == pc.before
    assert not pc.file.exists()
    assert not pc.door(5986)
    assert "changes: 0" in pc.setup("-Remove")


COUNTED = "    $script:changes += $Change\n"
CHANGES = ["user", "service", "remoting", "http", "certificate", "listener", "rule", "trust"]


def cut(pc: NewPc, condition: str) -> None:
    """Puts a script in place that ends after a change, before it could do any more: as by a power cut."""
    whole = SCRIPT.read_text("utf-8-sig")
    assert whole.count(COUNTED) == 1
    pc.script.write_text(
        whole.replace(COUNTED, f"    if ({condition}) {{ throw 'power cut' }}\n{COUNTED}"), "utf-8-sig"
    )


@in_the_lab
def test_a_run_that_was_cut_off_anywhere_is_taken_back(pc: NewPc) -> None:
    for change in CHANGES:
        cut(pc, f"$Change -eq '{change}'")
        assert "error: power cut" in pc.setup("-MasterIP", MASTER, "-CreateUser"), change
        assert pc.notes.exists(), change
        pc.script.write_bytes(SCRIPT.read_bytes())
        assert "error" not in pc.setup("-Remove"), change
        assert pc.state() == pc.before, change


@pytest.mark.proof
@in_the_lab
def test_runs_that_are_cut_off_after_every_change_come_to_the_same_end(pc: NewPc) -> None:
    arguments = ("-MasterIP", MASTER, "-CreateUser")
    cut(pc, "$true")
    runs = 1
    while "power cut" in pc.setup(*arguments):
        runs += 1
    assert runs > len(CHANGES)
    pc.assert_open()
    pc.script.write_bytes(SCRIPT.read_bytes())
    assert "changes: 0" in pc.setup(*arguments)
    cut(pc, "$true")
    runs = 1
    while "power cut" in pc.setup("-Remove"):
        runs += 1
    assert runs > len(CHANGES)
    assert pc.state() == pc.before


@pytest.mark.proof
@in_the_lab
def test_a_note_without_a_door_is_completed_and_taken_back(pc: NewPc) -> None:
    pc.setup("-MasterIP", MASTER)
    pc.do(
        "Remove-WSManInstance winrm/config/Listener -SelectorSet @{ Address = '*'; Transport = 'HTTPS' }\n"
        "Get-ChildItem Cert:\\LocalMachine\\My | Remove-Item; Remove-NetFirewallRule -Name winfleet-winrm-https"
    )
    assert "changes: 3 certificate, listener, rule" in pc.setup("-MasterIP", MASTER)
    pc.assert_open()
    pc.do("Get-ChildItem Cert:\\LocalMachine\\My | Remove-Item; Stop-Service WinRM")
    assert "error" not in pc.setup("-Remove")
    assert pc.state() == pc.before


@contextlib.contextmanager
def taken_back(pc: NewPc) -> Iterator[dict[str, Any]]:
    """Yields what the PC remembers, and finds it there again after -Remove."""
    before = pc.state()
    yield before
    assert "error" not in pc.setup("-Remove")
    assert pc.state() == before


@in_the_lab
def test_what_the_user_had_before_stays(pc: NewPc) -> None:
    pc.do(
        "Enable-PSRemoting -Force -SkipNetworkProfileCheck; Set-Item WSMan:\\localhost\\Client\\TrustedHosts 'nas, tv' -Force"
    )
    wait_until(lambda: pc.door(5985), 5, "an open port 5985")
    with taken_back(pc) as before:
        assert "changes: 4 certificate, listener, rule, trust" in pc.setup("-MasterIP", MASTER)
        assert pc.door(5985)
        assert pc.raw()["wsman"]["Client\\TrustedHosts"] == f"nas, tv,{MASTER}"
        assert pc.state()["firewall"]["WINRM-HTTP-In-TCP"] == before["firewall"]["WINRM-HTTP-In-TCP"]
    assert pc.door(5985)


@pytest.mark.proof
@in_the_lab
def test_local_administrators_get_their_rights_where_remoting_was_on(pc: NewPc) -> None:
    pc.do(
        "Enable-PSRemoting -Force -SkipNetworkProfileCheck\n"
        "Remove-ItemProperty HKLM:\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies\\System LocalAccountTokenFilterPolicy"
    )
    with taken_back(pc) as before:
        assert before["policy"] is None
        assert "changes: 5 policy, certificate, listener, rule, trust" in pc.setup("-MasterIP", MASTER)
        assert pc.state()["policy"] == 1


@pytest.mark.proof
@in_the_lab
def test_a_sleeping_listener_for_http_stays_asleep(pc: NewPc) -> None:
    pc.do(
        "Enable-PSRemoting -Force -SkipNetworkProfileCheck; Stop-Service WinRM; Set-Service WinRM -StartupType Disabled"
    )
    with taken_back(pc):
        assert "closed so far, stays closed" in pc.setup("-MasterIP", MASTER)
        pc.assert_open()
        assert "changes: 0" in pc.setup("-MasterIP", MASTER)


USERS_OWN = """
$c = New-SelfSignedCertificate -Subject CN=PC1 -FriendlyName mine -TextExtension '2.5.29.17={{text}}IPAddress={address}'
Set-Service WinRM -StartupType Automatic; Start-Service WinRM
$null = New-WSManInstance winrm/config/Listener -SelectorSet @{{ Address = '*'; Transport = 'HTTPS' }} -ValueSet @{{ CertificateThumbprint = $c.Thumbprint; Port = '{port}' }}
"""


@pytest.mark.proof
@in_the_lab
@pytest.mark.parametrize(("address", "port", "kept"), [("", 5986, True), ("1.2.3.4", 5986, False), ("", 8443, False)])
def test_a_listener_of_the_user(pc: NewPc, address: str, port: int, kept: bool) -> None:
    pc.do(USERS_OWN.format(address=address or pc.address, port=port))
    with taken_back(pc) as before:
        output = pc.setup("-MasterIP", MASTER)
        pc.assert_open()
        assert ("stays as it is" in output) is kept
        assert ("-Remove gives them back" in output) is not kept
        assert (pc.raw()["listeners"] == before["listeners"]) is kept
        assert "changes: 0" in pc.setup("-MasterIP", MASTER)


@in_the_lab
def test_a_rule_of_our_name_made_by_hand_is_left_alone(pc: NewPc) -> None:
    pc.do(
        "$null = New-NetFirewallRule -Name winfleet-winrm-https -DisplayName mine -Protocol TCP -LocalPort 5986 -Action Block"
    )
    with taken_back(pc) as before:
        output = pc.setup("-MasterIP", MASTER)
        assert "winfleet-winrm-https was made by hand: it stays as it is, and ours is winfleet-winrm-https-2" in output
        after = pc.state()["firewall"]
        assert after["winfleet-winrm-https"] == before["firewall"]["winfleet-winrm-https"]
        assert after["winfleet-winrm-https-2"]["RemoteAddresses"].split("/")[0] == MASTER
        assert "changes: 0" in pc.setup("-MasterIP", MASTER)


@pytest.mark.proof
@in_the_lab
def test_a_rule_of_our_group_is_adopted_with_a_sentence(pc: NewPc) -> None:
    pc.do(
        "$null = New-NetFirewallRule -Name winfleet-winrm-https -DisplayName w -Group winfleet -Protocol TCP -LocalPort 5986"
    )
    output = pc.setup("-MasterIP", MASTER)
    assert "winfleet-winrm-https was here before, in our group: it is used, and -Remove takes it away" in output
    assert pc.state()["firewall"]["winfleet-winrm-https"]["RemoteAddresses"].split("/")[0] == MASTER
    pc.setup("-Remove")
    assert pc.state() == pc.before


@in_the_lab
def test_the_master_may_be_unknown_change_and_is_remembered(pc: NewPc) -> None:
    def remote() -> str:
        return str(pc.state()["firewall"]["winfleet-winrm-https"]["RemoteAddresses"]).split("/")[0]

    assert "the whole local subnet may connect" in pc.setup()
    assert (remote(), pc.raw()["wsman"]["Client\\TrustedHosts"]) == ("LocalSubnet", "")
    pc.assert_open()
    assert "changes: 0" in pc.setup()
    assert "changes: 2 rule, trust" in pc.setup("-MasterIP", MASTER)
    assert "changes: 2 rule, trust" in pc.setup("-MasterIP", OTHER)
    assert (remote(), pc.raw()["wsman"]["Client\\TrustedHosts"]) == (OTHER, OTHER)
    output = pc.setup()
    assert f"The master of the last run, {OTHER}, still holds" in output
    assert "changes: 0" in output
    assert remote() == OTHER
    assert "is this PC itself" in pc.setup("-MasterIP", pc.address, "-WhatIf")
    pc.setup("-Remove")
    assert pc.state() == pc.before


@in_the_lab
@pytest.mark.parametrize(
    "days", [20, pytest.param(400, marks=pytest.mark.proof)]
)  # nearly expired; for another address
def test_a_certificate_that_no_longer_fits_is_renewed(pc: NewPc, days: int) -> None:
    pc.setup("-MasterIP", MASTER)
    first = pc.worker()["certificate_sha256"]
    address = pc.address if days == 20 else f"{NET}.250"
    pc.do(
        "Get-ChildItem Cert:\\LocalMachine\\My | Remove-Item\n"
        f"$c = New-SelfSignedCertificate -Subject CN=PC1 -FriendlyName winfleet -NotAfter (Get-Date).AddDays({days}) "
        f"-TextExtension '2.5.29.17={{text}}DNS={pc.name}&IPAddress={address}'\n"
        "$null = Set-WSManInstance winrm/config/Listener -SelectorSet @{ Address = '*'; Transport = 'HTTPS' } "
        "-ValueSet @{ CertificateThumbprint = $c.Thumbprint }"
    )
    assert "changes: 3 certificate, listener, old certificate" in pc.setup("-MasterIP", MASTER)
    pc.assert_open()
    assert pc.worker()["certificate_sha256"] != first
    assert len(pc.state()["certificates"]) == 1


@in_the_lab
def test_bad_masters_and_a_damaged_note_are_one_clear_error_before_anything_is_changed(pc: NewPc) -> None:
    for bad in ["1.2.3", "256.1.1.1", "192.168.1.100/24", "fe80::1", "master", "0.0.0.0", "127.0.0.1", "224.0.0.1",
                "255.255.255.255", "192.168.01.1", "1.2.3.4,5.6.7.8", "*"]:  # fmt: skip
        output = pc.setup("-MasterIP", bad)
        assert output.count("\n") == 1, output
        assert output.startswith(f'error: -MasterIP "{bad}" is not the IPv4 address of a PC'), output
    assert pc.state() == pc.before
    pc.notes.mkdir()
    (pc.notes / "setup.json").write_text('{"service"')
    before = pc.state()
    for arguments in [("-MasterIP", MASTER), ("-Remove",)]:
        output = pc.setup(*arguments)
        assert output.startswith("error: C:\\ProgramData\\winfleet\\setup.json is damaged")
        assert output.count("\n") == 1
    assert pc.state() == before


@in_the_lab
def test_an_account_for_the_master_is_made_and_removed(pc: NewPc) -> None:
    output = pc.setup("-MasterIP", MASTER, "-CreateUser")
    shown = re.search(r"shown only now .*: (\S+)", output)
    assert shown is not None
    assert re.fullmatch(r"Wf7-\w{20}", shown[1])
    assert (pc.worker()["user"], pc.raw()["administrators"]) == ("winfleet", ["winfleet"])
    assert shown[1] not in pc.file.read_text("utf-8") + (pc.notes / "setup.json").read_text("utf-8")
    again = pc.setup("-MasterIP", MASTER, "-CreateUser")
    assert "changes: 0" in again
    assert "Wf7-" not in again
    pc.setup()
    assert pc.worker()["user"] == "winfleet"
    pc.setup("-Remove")
    assert pc.state() == pc.before


@in_the_lab
def test_accounts_that_cannot_sign_in_are_named(pc: NewPc) -> None:
    state = pc.lab.prefix(pc.name) / "lab" / "state.json"
    accounts: list[tuple[dict[str, Any], str]] = [
        ({"PrincipalSource": "MicrosoftAccount"}, "is a Microsoft account"),
        ({"PasswordLastSet": None}, "seems to have no password"),
        ({"PasswordRequired": False}, "needs no password here"),
        ({}, ""),
    ]
    for account, warning in accounts:
        state.write_text(json.dumps({**pc.raw(), "account": account}))
        output = pc.setup("-WhatIf")
        assert ("-CreateUser makes one" in output) is bool(warning), account
        assert warning in output, account
    state.write_text(json.dumps({**pc.raw(), "account": accounts[0][0]}))
    assert "-CreateUser makes one" not in pc.setup("-WhatIf", "-CreateUser")


@in_the_lab
def test_the_file_may_lie_elsewhere_and_has_the_facts(pc: NewPc) -> None:
    output = pc.setup("-OutFile", "C:\\none\\of\\these.yml")
    assert "these.yml cannot be written" in output
    assert sorted(path.name for path in pc.notes.iterdir()) == [pc.file.name, "setup.json"]
    raw = (pc.notes / pc.file.name).read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    facts = yaml.safe_load(raw)["facts"]
    assert facts["network_category"] == "Public"
    assert (facts["windows"][:3], facts["edition"]) == ("10.", "Microsoft Windows 11 Pro")
    assert min(facts["ram_gib"], facts["disk_free_gb"]) > 0
    assert [one["address"] for one in facts["adapters"]] == [pc.address]
    assert [sorted(one) for one in facts["gpus"]] == [["driver", "memory_mib", "name"]]
    for shown in (
        pc.name.upper(),
        pc.address,
        "Windows 11 Pro",
        f"{facts['ram_gib']} GiB",
        facts["gpus"][0]["name"],
        "Python",
    ):
        assert shown in output
    pc.setup("-OutFile", windows(pc.folder / "of my own.yml"))
    assert yaml.safe_load((pc.folder / "of my own.yml").read_text("utf-8"))["facts"]["edition"] == facts["edition"]


NASTY = [
    "이더넷",
    "한글 PC's 'eth': #1",
    "- {a: b}",
    'say "hi" \\n',
    "yes",
    "0x10",
    "~",
    "RTX 4090, x",
    "&a *b",
    "tab\there",
    "",
]


@in_the_lab
def test_any_name_survives_the_file(pc: NewPc) -> None:
    probe = pc.folder / "probe.ps1"
    words = ", ".join("('" + word.replace("'", "''").replace("\t", "'+[char]9+'") + "')" for word in NASTY)
    probe.write_text(
        "param([string]$Script, [string]$Out)\n"
        "$tree = [Management.Automation.Language.Parser]::ParseFile($Script, [ref]$null, [ref]$null)\n"
        "$is = { $args[0] -is [Management.Automation.Language.FunctionDefinitionAst] -and $args[0].Name -eq 'ConvertTo-Quoted' }\n"
        "Invoke-Expression $tree.Find($is, $true).Extent.Text\n"
        f"$lines = @({words}) | ForEach-Object {{ '- {{name: ' + (ConvertTo-Quoted $_) + ', n: 1}}' }}\n"
        "[IO.File]::WriteAllText($Out, ($lines -join [char]10))\n",
        "utf-8-sig",
    )  # fmt: skip
    out = pc.folder / "out.yml"
    output = pc.lab.run(pc.name, probe, windows(SCRIPT), windows(out))
    assert output == ""
    read = [one["name"] for one in yaml.safe_load(out.read_text("utf-8"))]
    assert read == [word.replace("\t", " ") or None for word in NASTY]


def test_the_script_is_strict_and_stands_alone() -> None:
    text = SCRIPT.read_text("utf-8-sig")
    strict = ("[CmdletBinding(SupportsShouldProcess)]", "Set-StrictMode -Version 2", "$ErrorActionPreference = 'Stop'")
    assert [line for line in ("#Requires -Version 5.1", *strict) if line not in text] == []
    assert not re.search(
        r"(?i)import-module|using module|\. \S+\.ps1|invoke-webrequest|\birm\b|\biwr\b|downloadstring", text
    )
    assert not re.search(
        r"(?i)Basic.{0,20}'?true|AllowUnencrypted.{0,20}'?true'? *}|TrustedHosts.*-Value '?\*",
        text.replace("-eq 'true'", ""),
    )
