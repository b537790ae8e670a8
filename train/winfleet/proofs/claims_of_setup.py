"""Claims about setting up PCs and the master: worker_setup.ps1, add_workers.yml, worker_setup.yml. A new one goes into its group."""

from __future__ import annotations

from typing import Final

from .claims import Claim

SCRIPTS: Final = (
    Claim(
        name="scripts-are-read",
        text="Windows PowerShell 5.1 reads every script as it was written, although it takes one without byte order mark for code page 949",
        here=(
            "byte order mark and CRLF: `.gitattributes`, tests/test_house.py (`test_text_files_are_tidy`, which asks for a "
            "mark where a script is not ASCII; winfleet_host.ps1 and start_task.ps1 are), tests/test_powershell.py "
            "(`test_files_are_as_windows_powershell_reads_them`)"
        ),
        proved=("linux",),
    ),
    Claim(
        name="windows-powershell",
        text="Windows PowerShell 5.1, which knows less than 7, runs every script, on Windows 10 and 11",
        here="by the parser: `test_windows_powershell_understands_every_script`",
        proved=("lab",),
        real=(
            "the workflow `.github/workflows/windows.yml`, or `worker_setup.cmd` on a PC with Windows 10 and on one with 11: "
            "its steps are green, the PC is set up"
        ),
        needs=("windows",),
    ),
    Claim(
        name="files-without-mark",
        text="What PowerShell writes for others is UTF-8 without byte order mark",
        here="`test_the_file_may_lie_elsewhere_and_has_the_facts`; notes by `[IO.File]::WriteAllText`",
        proved=("lab",),
    ),
    Claim(
        name="call-to-python",
        text="A call of Windows PowerShell 5.1 to Python arrives whole, with a byte order mark or without",
        here="the call is UTF-8 and may begin with a mark, the answer is ASCII: train/winfleet/host/remote.py",
    ),
    Claim(
        name="korean-users",
        text="A user's folder and an adapter may have Korean names",
        here=(
            "the lab is Korean: `make lab-ready` signs in as `김연구`, and every role's module runs below that folder. Ours lies "
            r"in `C:\winfleet` and not in the user's folder: "
            "`test_windows_workers_have_a_home_of_their_own_unless_the_inventory_says_another`; uv's cache and Pythons: "
            "`$variables` in plugins/windows/winfleet_host.ps1"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="localised-words",
        text="The words of netsh and powercfg may be in any language: only GUIDs and numbers are read, power values by the registry",
        real="`WINFLEET_INVENTORY=… molecule test -s firewall`, and `-s power_plan`, on a Korean PC: the scenarios are green",
        needs=("windows",),
    ),
    Claim(
        name="restricted-scripts",
        text="The `.cmd` files start scripts where the execution policy is Restricted, and where a download is marked",
        here="tests/test_doors.py; README says to unblock the zip; the mark is unproven",
        proved=("lab",),
        real="download the zip with a browser, unblock it or not, and double-click: the script runs",
        needs=("windows",),
    ),
    Claim(
        name="constrained-language",
        text="PowerShell in constrained language, by Smart App Control or a policy, is named in one sentence",
        here="`test_constrained_language_is_named_in_one_sentence`; the real policy is unproven",
        proved=("lab",),
        real=r"with Smart App Control on, `scripts\master_deploy.cmd` in cmd.exe prints that sentence",
        needs=("windows",),
    ),
    Claim(
        name="words-arrive",
        text="Words of a user arrive as they were typed: `--`, a colon, `--config`, quotes, Korean, also where PowerShell 7 starts them",
        here="`test_words_arrive_at_the_training_as_they_were_typed`",
        proved=("lab",),
        real=(
            r'with `%`, which Wine takes for a variable: `scripts\launch_distributed.cmd -WhatIf -- --data=D:\x "a & b" 100%` '
            "shows them behind `train_config.yaml`"
        ),
        needs=("windows",),
    ),
    Claim(
        name="elevated-copy",
        text="An elevated process, which inherits no variables and sees no mapped drives, gets every word",
        here="`test_who_is_no_administrator_is_asked_and_the_elevated_copy_gets_every_word`; a real share is unproven",
        proved=("lab",),
        real="`worker_setup.cmd -MasterIP A.B.C.D` from a mapped drive sets up",
        needs=("windows",),
    ),
    Claim(
        name="account-control",
        text="The question of User Account Control is asked, and its answer counts",
        real="double-click worker_setup.cmd as an ordinary administrator: Yes sets up, No ends with `administrator rights were not given`",
        needs=("windows",),
    ),
    Claim(
        name="stands-alone",
        text="A PC without internet is set up from a USB stick: one file without downloads",
        here="`test_the_script_is_strict_and_stands_alone`",
        proved=("linux",),
    ),
)

DOOR: Final = (
    Claim(
        name="public-network",
        text="A PC on a Public network, where remoting refuses, is opened",
        here="`-SkipNetworkProfileCheck`; the lab's PCs are on a Public network",
        proved=("lab",),
    ),
    Claim(
        name="taken-back",
        text="What Enable-PSRemoting opens and sets, port 5985 and LocalAccountTokenFilterPolicy, goes where it was not there before",
        here=(
            "setup.json, `-Remove`: `test_a_new_pc_is_opened_to_the_master_alone_once_and_all_is_taken_back`, "
            "`test_a_run_that_was_cut_off_anywhere_is_taken_back`"
        ),
        proved=("lab",),
    ),
    Claim(
        name="port-scan",
        text="The ports of winfleet are reachable from the other workers, and 5985 is not open",
        here=(
            "5985: `test_a_new_pc_is_opened_to_the_master_alone_once_and_all_is_taken_back`; a closed direction is named: "
            "`test_odd_data_odd_torch_and_a_closed_direction_are_named_on_their_pc`"
        ),
        proved=("lab",),
        needs=("windows",),
    ),
    Claim(
        name="accounts-without-ntlm",
        text="An account that cannot do NTLM is named: of Microsoft, of Entra ID, without a password",
        here="`test_accounts_that_cannot_sign_in_are_named`; `-CreateUser`: `test_an_account_for_the_master_is_made_and_removed`",
        proved=("lab",),
    ),
    Claim(
        name="create-user",
        text="`-CreateUser` makes an account where a password policy holds, and takes it away",
        here="without a policy: `test_an_account_for_the_master_is_made_and_removed`",
        proved=("lab",),
        real="on a PC with a password policy `worker_setup.cmd -CreateUser`, then `-Remove`; `Get-LocalUser winfleet` shows it, and no more",
        needs=("windows",),
    ),
    Claim(
        name="a-password-each",
        text="One password for all PCs, which stolen once opens all, is not needed: each PC may have its own",
        here="README names it; no check can tell, as the master knows one password and not where else it serves",
        real="`ansible-vault create inventories/NAME/host_vars/PC1.yml` with `ansible_password`, for each PC; worker_setup.yml reaches all PCs",
        needs=("windows",),
    ),
    Claim(
        name="by-address",
        text="Without a worker's file at hand a PC is added by its address: its fingerprint is shown and confirmed, or given",
        here="`fleet_worker_addresses`: `test_a_given_fingerprint_must_be_the_certificates`; the question at the terminal is unproven",
        proved=("linux",),
        real="`ansible-playbook add_workers.yml -e fleet_worker_addresses=A.B.C.D` asks at the terminal",
        needs=("windows",),
    ),
    Claim(
        name="notes-are-ours",
        text="A stranger's note below %ProgramData%, where anybody may write, is refused",
        here="the folder's rights, and who owns the note: worker_setup.ps1; real ACLs are unproven",
        real=r"`icacls %ProgramData%\winfleet` lists SYSTEM, Administrators, and Users with RX",
        needs=("windows",),
    ),
    Claim(
        name="certificate-renewal",
        text="A certificate is renewed on a live listener, and the next run reaches the PC",
        here="`test_a_certificate_that_no_longer_fits_is_renewed`, molecule/winrm_setup/verify.yml",
        proved=("lab",),
        needs=("windows",),
    ),
    Claim(
        name="quotas",
        text="Quotas of WinRM that a group policy sets are named",
        here="role winrm_setup warns",
        real="`ansible-playbook worker_setup.yml -i inventories/NAME` on such a PC shows the warning",
        needs=("windows",),
    ),
    Claim(
        name="psrp",
        text="worker_setup.yml runs over psrp, too",
        real="`pip install pypsrp`, then `-e ansible_connection=psrp`: worker_setup.yml runs",
        needs=("windows",),
    ),
)

FIREWALL: Final = (
    Claim(
        name="block-rules",
        text="A Block rule for python.exe or for our ports, which beats every Allow, is named, at setting up and before a training",
        here=(
            "role firewall (`Find-Obstacle`), molecule/firewall/verify.yml; `check_firewall` in "
            "train/winfleet/preflight/hosts.py: in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_one_fault_is_one_line_with_its_fix`"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="inbound-policies",
        text=(
            "AllowInboundRules False and AllowLocalPolicyMerge False, by which a group policy ignores local rules, are named, "
            "at setting up and before a training"
        ),
        here=(
            "`Find-Obstacle` in roles/firewall/files/firewall.ps1; `check_firewall` in train/winfleet/preflight/hosts.py, "
            "`test_one_fault_is_one_line_with_its_fix`; where WinRM still gets in by another profile or a policy's own rule. "
            "Elsewhere the host does not answer, `firewalled` in tests/test_causes.py"
        ),
        proved=("linux",),
        real=(
            "`Set-NetFirewallProfile -Name Private -AllowInboundRules False` on a PC with a second, Public network: "
            "worker_setup.yml and the preflight name it; the same with a policy"
        ),
        needs=("windows",),
    ),
    Claim(
        name="firewall-interpreter",
        text=r"The rule for programs holds the base interpreter, which `Scripts\python.exe` of an environment only starts",
        here="`firewall_programs` takes it, as the role's README says",
    ),
    Claim(
        name="dynamic-range",
        text="The rule for gloo has the PC's range of dynamic ports, also where it is not the default one",
        here="`Get-DynamicPort` asks netsh; with the default one molecule/firewall/tasks/rules.yml, from 49152 on",
        proved=("lab",),
        real="`netsh int ipv4 set dynamicport tcp start=40000 num=10000`, then worker_setup.yml: `winfleet-gloo` has 40000-49999",
        needs=("windows",),
    ),
    Claim(
        name="dynamic-range-rpc",
        text="That the dynamic range also serves RPC is named where it holds WinRM's port; else there is `firewall_programs`",
        here="role firewall",
    ),
    Claim(
        name="master-behind-nat",
        text="A rule lets in the address that the worker sees, also of a master in WSL behind NAT",
        here=(
            "`Find-Controller` in roles/firewall/files/firewall.ps1 takes the peer of the WinRM connection: "
            "molecule/firewall/tasks/rules.yml; WSL is unproven"
        ),
        proved=("lab",),
        real="from WSL worker_setup.yml, then `Get-NetFirewallRule -Name winfleet-ports` lists the Windows PC's address",
        needs=("windows",),
    ),
)

POWER: Final = (
    Claim(
        name="modern-standby",
        text="A PC with Modern Standby, which has no plan High performance, stays awake: the active plan's values change",
        here="role power_plan",
        real="`ansible-playbook worker_setup.yml -i inventories/NAME` on such a PC: the table says `own plan, awake on mains`",
        needs=("windows",),
    ),
    Claim(
        name="battery-plans",
        text="What counts on battery, too, stays on a PC with a battery: plan, hibernation, Fast Startup",
        here="role power_plan leaves them, and takes back what older versions changed: molecule/power_plan/tasks/older.yml",
        proved=("lab",),
        real="on a laptop `powercfg /getactivescheme` says the same before and after worker_setup.yml",
        needs=("windows",),
    ),
    Claim(
        name="lid",
        text="A PC whose lid is closed on mains does not sleep",
        here="role power_plan sets the value, molecule/power_plan/verify.yml; its effect is unproven",
        proved=("lab",),
        real="close it on mains, and the host still answers",
        needs=("windows",),
    ),
    Claim(
        name="power-policy",
        text="A group policy that holds the power plan is named",
        here="role power_plan fails with powercfg's words",
        real="worker_setup.yml on such a PC shows them",
        needs=("windows",),
    ),
    Claim(
        name="network-card",
        text="A network card that Windows may switch off stays on",
        here="Windows does so when the PC sleeps, as Microsoft says of that setting, and role power_plan and the launcher keep the PC awake",
        real=(
            "a USB adapter may suspend when idle: `Get-NetAdapterPowerManagement` says `SelectiveSuspend : Disabled` or "
            "Unsupported, else `Disable-NetAdapterPowerManagement -Name NAME -SelectiveSuspend`"
        ),
        needs=("windows",),
    ),
    Claim(
        name="active-hours",
        text="When Windows Update may restart a PC, outside its active hours, is shown; a restart that is pending stops a training",
        here="the row `Restart` of `ansible-playbook preflight.yml -i inventories/NAME`, as Windows' settings say",
        real=(
            "the row shows the hours of such a PC's settings. Not shown where a policy sets them: `Get-ItemProperty "
            r"HKLM:\SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate`"
        ),
        needs=("windows",),
    ),
    Claim(
        name="keeps-awake",
        text=(
            "A launcher keeps its PC awake while it trains, on battery too: `powercfg /requests` names its python.exe below "
            "SYSTEM. On battery a PC with Modern Standby (`powercfg /a` names S0) may sleep all the same"
        ),
        here="`keep_awake` in train/winfleet/machine/windows.py holds a request as long as the launcher runs: `test_a_launcher_keeps_its_pc_awake`",
        proved=("lab",),
        needs=("windows",),
    ),
)

MASTER: Final = (
    Claim(
        name="master-deploy",
        text="`master_deploy.ps1` sets up WSL's side and names what is missing",
        here="tests/scripts/wsl.c stands in for wsl.exe, and bash on Linux for its other side: tests/test_master_deploy.py",
        proved=("lab",),
        real=(
            r"`.\scripts\master_deploy.ps1 -WorkerIPs A.B.C.D` on a PC with WSL and `WINFLEET_PASSWORD` set, on one without a "
            "distribution, and on one without WSL: `~/winfleet` is there in WSL, the certificate is shown and no password "
            "asked; else the error names `wsl --install` within 20 s"
        ),
        needs=("windows",),
    ),
    Claim(
        name="wsl-trains",
        text="WSL trains by itself",
        real="`make train` in WSL ends with the closing line",
        needs=("linux",),
    ),
    Claim(
        name="wsl-python",
        text="WSL with Ubuntu 22.04, which has Python 3.10, is told",
        here="the Makefile: `Python 3.11 or newer is needed`; behind `master_deploy.ps1`: `test_a_python_that_is_too_old_is_named`",
        proved=("linux",),
    ),
    Claim(
        name="wsl-folder",
        text="That Ansible ignores ansible.cfg below /mnt/c is named",
        here="README",
    ),
    Claim(
        name="wsl-outward",
        text="A master in WSL behind NAT gets status and results: the controller only connects outward",
        here="ports of [the architecture](architecture.md#contracts)",
        real="DEPLOY from WSL brings `logs/<run>/<host>/` home",
        needs=("windows",),
    ),
    Claim(
        name="wsl-mirrored",
        text="The master may be a worker too, in WSL's mirrored mode",
        real="`hostAddressLoopback=true` in .wslconfig, then worker_setup.yml reaches that PC",
        needs=("windows",),
    ),
    Claim(
        name="master-in-swarm",
        text="The swarm serves a master's PC that is a worker too",
        here="`allow_multiple_connections_per_ip` in train/winfleet/transfer/torrents.py",
    ),
)
