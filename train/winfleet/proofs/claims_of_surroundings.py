"""Claims about what stands around a PC: other firewalls, virtual adapters, ways to sign in. A new one goes into this group."""

from __future__ import annotations

from typing import Final

from .claims import Claim

SURROUNDINGS: Final = (
    Claim(
        name="other-firewalls",
        text="Another firewall than Windows' own is named with the ports that it must let in; a Windows Server has no list of them and is silent",
        here=(
            "`test_other_firewalls_are_named_with_the_ports_and_a_server_is_silent`, "
            "`test_the_role_names_other_firewalls_and_a_service_that_is_off`, `test_one_fault_is_one_line_with_its_fix`"
        ),
        proved=("lab", "linux"),
        real=(
            r"with Norton or ESET installed, `scripts\worker_setup.ps1 -WhatIf` and `ansible-playbook preflight.yml -i inventories/NAME` name it; "
            "with Windows' own alone, and on a Server, nothing is said"
        ),
        needs=("windows",),
    ),
    Claim(
        name="lasting-addresses",
        text="Addresses of WSL, the Default Switch and VPNs, which change, are in no certificate; the one that faces the master is",
        here=(
            "`test_addresses_that_change_are_not_in_the_certificate_and_it_stays_when_they_do`, "
            "`test_a_certificate_of_the_role_has_no_address_that_changes_either`"
        ),
        proved=("lab",),
        real=(
            "with WSL, Hyper-V and a VPN up, `worker_setup.cmd -MasterIP A.B.C.D`, restart, again: those addresses are marked `virtual, not in the "
            "certificate`, and the second run says `changes: 0`; `Get-NetAdapter -Physical` does not list the adapter of OpenVPN or Tailscale; "
            "with an external Hyper-V switch `ansible workers -i inventories/NAME -m ansible.windows.win_ping` says `pong`"
        ),
        needs=("windows",),
    ),
    Claim(
        name="hidden-account",
        text="Administrator protection's hidden account, which no master can sign in with, is named",
        here="`test_the_hidden_account_of_administrator_protection_is_named`",
        proved=("lab",),
        real=(
            "with it on and the PC restarted, `worker_setup.cmd -WhatIf`: the warning names the account that elevated `whoami` shows; then "
            "`worker_setup.cmd -CreateUser`, worker_setup.yml and DEPLOY: no `Access is denied`, and the run finishes"
        ),
        needs=("windows",),
    ),
    Claim(
        name="no-window",
        text="A task of `launch_logon: interactive` shows no window that somebody may close, and its end is that of all its processes",
        here=(
            "`test_a_task_of_who_is_signed_in_shows_no_window_to_be_closed`, "
            "`test_what_runs_without_a_window_has_a_console_and_its_end_is_told`, `test_an_interactive_task_runs_by_pythonw_and_its_end_is_known`"
        ),
        proved=("lab", "linux"),
        real=(
            r"sign in, DEPLOY with `-e launch_logon=interactive`: no console appears, and the run finishes; `Stop-ScheduledTask -TaskPath \winfleet\ "
            "-TaskName launcher` while it trains: `tasklist` shows no python.exe and no pythonw.exe of the run"
        ),
        needs=("windows",),
    ),
    Claim(
        name="firewall-service",
        text="A Windows Firewall whose service is off is named, with the fix, before anything is changed",
        here="`test_a_firewall_without_its_service_is_named_before_anything_is_changed`",
        proved=("lab",),
        real=(
            r"`Set-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Services\mpssvc Start 4`, restart, `worker_setup.cmd`: that error; `Test-NetConnection "
            "A.B.C.D -Port 5986` from another PC tells what is let in then; after the hint and a restart it sets up"
        ),
        needs=("windows",),
    ),
    Claim(
        name="certificate-signin",
        text="Where NTLM is off, a master signs in by a certificate, by the lines of the guide",
        here="`test_the_guides_lines_sign_in_by_a_certificate_without_a_password`",
        proved=("lab",),
        real=(
            "the guide's lines, then `ansible workers -i inventories/NAME -m ansible.windows.win_ping` without WINFLEET_PASSWORD: `pong`; the same with "
            "the policy `Network security: Restrict NTLM: Incoming NTLM traffic` at `Deny all accounts`, and worker_setup.yml runs"
        ),
        needs=("windows",),
    ),
    Claim(
        name="compiler-temp",
        text="That Windows PowerShell cannot compile Ansible's C# in a TEMP with Korean letters is named as a cause",
        here="row `virus-compiler`, `test_a_recorded_failure_finds_its_cause`; the lab's engine needs no csc.exe",
        proved=("linux",),
        real=(
            "as a user with a Korean name, `ansible workers -i inventories/NAME -m ansible.windows.win_ping`: `pong`; where it says CS2001, the same with the "
            "account of `worker_setup.cmd -CreateUser`"
        ),
        needs=("windows",),
    ),
    Claim(
        name="dev-drive",
        text="`fleet_home` may lie on a Dev Drive: files are copied where it takes no links",
        here="`link_file` in train/winfleet/runs/work.py; WinError 448 by row `untrusted-link`",
        real=r"DEPLOY with `fleet_home: D:\winfleet` on a Dev Drive, twice: both runs finish, and the second sends nothing",
        needs=("windows",),
    ),
)  # fmt: skip
