"""What stands around WinRM on a PC that scripts/worker_setup.ps1 opens: its adapters, its firewalls, Administrator protection."""

import json
import re
from typing import Any

from conftest import ROOT
from programs import output_of
from windows_lab import MASTER, NewPc, in_the_lab, windows
from winfleet.controller.scripts import whole

ROLES = ROOT / "roles"

APPROVAL = """
$key = 'HKLM:\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies\\System'
if (-not (Test-Path $key)) {{ $null = New-Item $key -Force }}
$null = New-ItemProperty $key -Name TypeOfAdminApprovalMode -Value {mode} -PropertyType DWord -Force
"""


def names_in(pem: str) -> list[str]:
    """Names and addresses in a certificate."""
    shown = output_of("openssl", "x509", "-noout", "-ext", "subjectAltName", given=pem)
    return [name.strip().lower() for name in shown.splitlines()[1].split(",")]


@in_the_lab
def test_a_second_address_is_in_the_certificate_and_the_master_gets_its_own_subnets(pc: NewPc) -> None:
    second, others = "192.168.177.11", "192.168.177.1"
    pc.setup("-MasterIP", MASTER)
    pc.lab.join(pc.name, second)
    try:
        assert "changes: 3 certificate, listener, old certificate" in pc.setup("-MasterIP", MASTER)
        pc.assert_open()
        worker = pc.worker()
        assert [one["address"] for one in worker["facts"]["adapters"]] == [pc.address, second]
        assert names_in(worker["certificate"]) == [
            f"dns:{pc.name}", f"ip address:{pc.address}", f"ip address:{second}",
        ]  # fmt: skip
        assert "changes: 2 rule, trust" in pc.setup("-MasterIP", others)
        assert pc.worker()["address"] == second
    finally:
        pc.lab.leave(pc.name, second)


@in_the_lab
def test_addresses_that_change_are_not_in_the_certificate_and_it_stays_when_they_do(pc: NewPc) -> None:
    lasting = [f"dns:{pc.name}", f"ip address:{pc.address}"]
    with pc.lab.switched(pc.name, "vEthernet-WSL", "172.28.16.1"):
        output = pc.setup("-MasterIP", MASTER)
        assert re.search(r"Address +172\.28\.16\.1 .*virtual, not in the certificate", output), output
        assert output.count("not in the certificate") == 1
        pc.assert_open()
        worker = pc.worker()
        assert names_in(worker["certificate"]) == lasting
        assert sorted(one["address"] for one in worker["facts"]["adapters"]) == sorted([pc.address, "172.28.16.1"])
    with pc.lab.switched(pc.name, "vEthernet-WSL", "172.19.32.1"):  # after a restart
        assert "changes: 0" in pc.setup("-MasterIP", MASTER)
        assert pc.worker()["certificate_sha256"] == worker["certificate_sha256"]
    with pc.lab.switched(pc.name, "vEthernet-LAN", "192.168.177.11"):  # a switch of the LAN has the PC's address
        output = pc.setup("-MasterIP", "192.168.177.1")
        assert "changes: 5 certificate, listener, old certificate, rule, trust" in output
        assert names_in(pc.worker()["certificate"]) == [*lasting, "ip address:192.168.177.11"]


@in_the_lab
def test_other_firewalls_are_named_with_the_ports_and_a_server_is_silent(pc: NewPc) -> None:
    state = pc.lab.prefix(pc.name) / "lab" / "state.json"
    plants: list[tuple[dict[str, Any], list[str]]] = [
        ({}, []),
        ({"firewalls": ["노턴 360", "ESET"]}, ["ESET", "노턴 360"]),  # in an order of the PC's language
        ({"firewalls": ["x"], "server": True}, []),
    ]
    ports = r"The firewall (.+) is registered here: .* Let in there TCP 5986 and 29500-29504, and 49152-65535"
    for planted, named in plants:
        state.write_text(json.dumps({**pc.raw(), "firewalls": [], **planted}))
        output = pc.setup("-WhatIf")
        assert sorted(re.findall(ports, output)) == named
        assert "error" not in output
        assert "Invalid namespace" not in output


def run_role(pc: NewPc, role: str, arguments: str, result: str) -> str:
    """What the role's script says on the PC, and then this part of its result."""
    script = pc.folder / f"{role}.ps1"
    script.write_text(whole(ROLES / role / "files" / script.name, ROOT / "plugins" / "module_utils"), "utf-8-sig")
    return pc.do(
        "$Ansible = [pscustomobject]@{ Changed = $false; Diff = $null; Result = $null }\n"
        f"& '{windows(script)}' {arguments}\n$Ansible.Result.{result}"
    )


@in_the_lab
def test_a_certificate_of_the_role_has_no_address_that_changes_either(pc: NewPc) -> None:
    pc.do("Enable-PSRemoting -Force -SkipNetworkProfileCheck")
    with pc.lab.switched(pc.name, "vEthernet-WSL", "172.28.16.1"):
        said = run_role(pc, "winrm_setup", "", "certificate")
    pem = re.search("-----BEGIN CERTIFICATE.*END CERTIFICATE-----\n", said, re.DOTALL)
    assert pem, said
    assert names_in(pem[0]) == [f"dns:{pc.name}", f"ip address:{pc.address}"]


@in_the_lab
def test_the_role_names_other_firewalls_and_a_service_that_is_off(pc: NewPc) -> None:
    state = pc.lab.prefix(pc.name) / "lab" / "state.json"
    named = "the firewall 노턴 360 is registered there, and Windows' rules may not count; let in there TCP 29500-29504 and 49152-65535"
    run = ("firewall", f"-Workers {pc.address} -Controller {MASTER} -WhatIf", "warnings")
    assert "error" not in (said := run_role(pc, *run)), said
    assert "is registered there" not in said
    state.write_text(json.dumps({**pc.raw(), "firewalls": ["노턴 360"]}))
    assert f"{named} from the cluster, and 5986 from here" in run_role(pc, *run)
    pc.do("Stop-Service mpssvc")
    assert (
        "error: the service of Windows' firewall (mpssvc) does not run, and without it no rule can be set\nhint: "
        in run_role(pc, *run)
    )


@in_the_lab
def test_a_firewall_without_its_service_is_named_before_anything_is_changed(pc: NewPc) -> None:
    pc.do("Stop-Service mpssvc")
    assert "no more endpoints" in pc.do("New-NetFirewallRule -Name x -DisplayName x")
    for arguments in (("-MasterIP", MASTER), ("-Remove",), ("-WhatIf",)):
        output = pc.setup(*arguments)
        assert output.startswith("error: the service of Windows' firewall (mpssvc) does not run"), output
        assert output.count("\n") == 2, output
        assert "hint: Set-ItemProperty HKLM:\\SYSTEM\\CurrentControlSet\\Services\\mpssvc Start 2" in output
    assert pc.state() == pc.before
    pc.do("Start-Service mpssvc")
    assert "changes: 7" in pc.setup("-MasterIP", MASTER)


@in_the_lab
def test_the_hidden_account_of_administrator_protection_is_named(pc: NewPc) -> None:
    pc.do(APPROVAL.format(mode=1))  # what User Account Control was before it
    assert "-CreateUser makes one" not in pc.setup("-WhatIf")
    pc.do(APPROVAL.format(mode=2))
    output = pc.setup("-WhatIf")
    assert "is the hidden one that Administrator protection elevates with" in output
    assert "-CreateUser makes one" in output
    assert "Administrator protection" not in pc.setup("-WhatIf", "-CreateUser")
