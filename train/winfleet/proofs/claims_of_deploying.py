"""Claims about what comes before a training: the preflight, packages, files. A new one goes into its group."""

from __future__ import annotations

from typing import Final

from .claims import Claim

PREFLIGHT: Final = (
    Claim(
        name="smart-app-control",
        text=(
            "Smart App Control, which blocks unsigned .pyd files, is named before anything is sent. It does not touch setting "
            "up, which writes small notes and loads nothing"
        ),
        here=(
            "`check_security` in train/winfleet/preflight/hosts.py: in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_one_fault_is_one_line_with_its_fix`"
        ),
        proved=("lab", "linux"),
        real="DEPLOY to a PC that has it on names it before anything is sent",
        needs=("windows",),
    ),
    Claim(
        name="reserved-ports",
        text="One of our ports that WinNAT, Hyper-V or Docker keep (error 10013) is named by the preflight",
        here="`check_ports` in train/winfleet/preflight/hosts.py, `test_one_fault_is_one_line_with_its_fix`",
        proved=("linux",),
        real="`netsh int ipv4 add excludedportrange protocol=tcp startport=29500 numberofports=5`, then DEPLOY names ports and range",
        needs=("windows",),
    ),
    Claim(
        name="taken-ports",
        text="Another program that has one of our ports is named",
        here=(
            "`Find-Owner` in plugins/windows/winfleet_host.ps1; in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_all_bad_input_is_one_error_before_anything_is_changed`"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="dynamic-range-ours",
        text="A range of dynamic ports that holds ours is named",
        here=(
            "`check_dynamic_ports` in train/winfleet/preflight/hosts.py: in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_one_fault_is_one_line_with_its_fix`"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="adapters",
        text="An address of a VPN, WSL, Hyper-V or Docker adapter, or of Wi-Fi, is named",
        here=(
            "`check_adapter` in train/winfleet/preflight/hosts.py, `test_an_adapter_is_known_by_its_words`, "
            "`test_one_fault_is_one_line_with_its_fix`"
        ),
        proved=("linux",),
        real="with other products: `ansible-playbook preflight.yml -i inventories/NAME` shows each adapter",
        needs=("windows",),
    ),
    Claim(
        name="own-name",
        text="A host's own name that resolves to 127.0.0.1 or to WSL's address is named; ranks bind by address",
        here="`check_name` in train/winfleet/preflight/hosts.py, `test_one_fault_is_one_line_with_its_fix`",
        proved=("linux",),
    ),
    Claim(
        name="host-faults",
        text="A restart that is pending, sleep on mains, and a clock that is off by more than half a minute are named",
        here=(
            "`check_reboot`, `check_power`, `check_clock` in train/winfleet/preflight/hosts.py: in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_one_fault_is_one_line_with_its_fix`; the rehearsal's own look at clocks from numbers alone, "
            "`test_a_clock_that_is_off_is_named_and_the_controllers_own_too`"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="odd-hosts",
        text="Deployed PCs that differ in data or torch, and one direction between two that is closed, are named",
        here="by the rehearsal and by `preflight.yml`: `test_odd_data_odd_torch_and_a_closed_direction_are_named_on_their_pc`",
        proved=("lab",),
    ),
    Claim(
        name="old-driver",
        text="A driver that is too old for torch's CUDA build, or of another family than the others', is named",
        here=(
            "`check_driver` in train/winfleet/preflight/hosts.py: in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_one_fault_is_one_line_with_its_fix`; `check_drivers` in train/winfleet/preflight/comparisons.py"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="used-gpu",
        text="Somebody else's use of a GPU is named, its memory alone where the driver does not tell processes",
        here=(
            "`check_gpu` in train/winfleet/preflight/hosts.py: in the lab "
            "`test_each_planted_fault_is_named_on_its_host_before_anything_is_changed`, on Linux "
            "`test_one_fault_is_one_line_with_its_fix`"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="mixed-systems",
        text="Windows and Linux workers in one run are refused by name",
        here="`Plan`, tests/test_plan.py",
        proved=("linux",),
    ),
    Claim(
        name="reused-pid",
        text=(
            "A pid that is given out anew after a crash is not taken for the launcher, in part: the preflight "
            "(`Get-RunState`) takes any python of that pid for it and may say `running` of a run that is lost. DEPLOY with "
            "another `fleet_run` is refused until that process ends"
        ),
        here="train/winfleet/runs/control.py compares the command line",
    ),
)

PACKAGES: Final = (
    Claim(
        name="store-python",
        text="The Store's python.exe, a stub, does not count as Python",
        here="what lies in WindowsApps does not count: `Get-PythonVersion` in scripts/worker_setup.ps1",
        real="on a PC with the stub worker_setup says `Python none`",
        needs=("windows",),
    ),
    Claim(
        name="agent-python",
        text=(
            "A PC without a Python to use, or with the Store's stub, conda's, one below a Korean user's folder, or one of "
            "another user alone, gets one"
        ),
        here=(
            r"uv's own Python comes first, fetched from GitHub to `agent\interpreters`; else one of the PC's that may be taken "
            "is named: `test_the_agents_python_is_never_condas_and_has_windows_certificates` in the lab, "
            "`test_a_python_of_the_system_is_taken_where_uv_has_none_but_never_condas`; the fetching is unproven"
        ),
        proved=("lab", "linux"),
        real=r"DEPLOY to a PC without Python, and to one with conda: `home` in `C:\winfleet\agent\python\pyvenv.cfg` names that folder",
        needs=("windows",),
    ),
    Claim(
        name="cpp-runtime",
        text="A PC without Visual C++ runtime gets it with uv's own Python; for a given Python it is named",
        here="`test_a_host_on_which_uv_fails_is_named_and_nothing_half_made_counts` lays it",
        proved=("lab",),
        real=(
            r"on a new Windows, where `dir C:\Windows\System32\msvcp140.dll` finds nothing, DEPLOY: "
            r"`agent\interpreters\cpython-*\msvcp140.dll` is there, and the run finishes; with `uv_env_interpreter` the "
            "preflight names it"
        ),
        needs=("windows",),
    ),
    Claim(
        name="proxy",
        text="Packages come through a proxy, and past a company's certificate",
        here="`uv_env_environment`, `uv_env_secrets`: `test_a_proxy_an_index_and_a_mirror_reach_uv_on_the_workers_and_a_password_stays_nowhere`",
        proved=("linux",),
        real=(
            """behind a proxy that opens TLS: DEPLOY with `-e '{"uv_env_environment": {"HTTPS_PROXY": "http://proxy:8080"}}'` """
            'makes the environment; with `"UV_SYSTEM_CERTS": "false"` in it too it fails with `[index-certificate]`'
        ),
        needs=("windows",),
    ),
    Claim(
        name="no-internet",
        text="PCs without internet train",
        here=(
            "`uv_env_offline` and `uv_env_interpreter`; the lab's PCs have none. Without the interpreter the error asks for "
            "it (`Install-Agent` in plugins/windows/winfleet_host.ps1)"
        ),
        proved=("lab",),
    ),
    Claim(
        name="no-internet-gpu",
        text="PCs without internet get torch for their GPU; PyPI's torch is refused",
        here="`check_build` in train/winfleet/environments/wheels.py, tests/test_making.py; the build is unproven",
        proved=("linux",),
        real="DEPLOY with `-e uv_env_offline=true -e uv_env_torch_backend=cu130`; `versions` in `status.json` says `+cu130`",
        needs=("windows", "gpu"),
    ),
    Claim(
        name="torch-build",
        text="`--torch-backend=auto` chooses torch's build for the driver",
        real=(
            "`ansible-playbook deploy_and_train.yml -i inventories/lab` with a PC that has a driver: `versions` in "
            "`logs/<run>/<host>/status.json` says `+cu…`"
        ),
        needs=("gpu",),
    ),
    Claim(
        name="source-packages",
        text="Packages that are published as source alone are built here into wheels, whose hashes stand in the lock",
        here=(
            "train/winfleet/environments/building.py, `test_requirements_reach_the_workers_with_what_was_built_here` (online "
            "and offline), `test_windows_workers_without_internet_get_what_was_built_here_and_uv_takes_it_there` (uv for "
            "Windows, on Linux)"
        ),
        proved=("linux",),
        real=(
            "DEPLOY with a `requirements.txt` of `torch` and `antlr4-python3-runtime==4.9.3`, and again with `-e "
            "uv_env_offline=true`: it says `built here from source: antlr4_…`, and on each PC "
            r'`C:\winfleet\env\…\Scripts\python.exe -c "import antlr4"` ends with 0'
        ),
        needs=("windows",),
    ),
    Claim(
        name="requirements-on-one-pc",
        text="A `requirements.txt` of a user's is resolved on one PC, with internet and from a folder of wheels",
        here="train/winfleet/environments/alone.py, tests/test_alone.py",
        proved=("linux",),
        real=(
            "in a folder with `requirements.txt` (`torch`, `tqdm`) and a script that imports both, "
            r"`scripts\launch_distributed.ps1 -Auto -- my_train.py` says `Packages: requirements.txt resolved for Windows` and "
            "exits with 0; the same with `-Wheels` and the folder that `-e uv_env_offline=true` made of this project"
        ),
        needs=("windows",),
    ),
    Claim(
        name="public-index",
        text="uv makes an environment from the public index",
        real="`ansible-playbook deploy_and_train.yml -i inventory -e uv_env_python=`: `~/.winfleet/worker1/env/` has one folder, and the run finishes",
        needs=("linux",),
    ),
    Claim(
        name="long-environment",
        text="An environment may take longer than WinRM likes, and survives a connection that breaks",
        here="a scheduled task makes it, train/winfleet/environments/making.py; on Linux tests/test_making.py",
        proved=("lab", "linux"),
        real="pull the master's cable while it is made: the next DEPLOY says how far it is or finds it",
        needs=("windows",),
    ),
    Claim(
        name="one-pc",
        text="One PC trains by a double-click, with uv and Python from the internet and Windows PowerShell 5.1",
        here="with both given: tests/test_launch_distributed.py",
        proved=("lab",),
        real=r"double-click `scripts\launch_distributed.cmd`: it prints losses, and `echo %ERRORLEVEL%` says 0",
        needs=("windows",),
    ),
)

FILES: Final = (
    Claim(
        name="korean-names",
        text="A script, data and output may have Korean names and blanks",
        here=(
            "Korean data: `test_an_own_script_on_one_and_two_ranks_is_seen_refused_stopped_and_continued`; on Linux "
            "`test_korean_and_long_names_and_links_arrive_as_content`"
        ),
        proved=("lab", "linux"),
        needs=("windows",),
    ),
    Claim(
        name="names-of-windows",
        text="Names that Windows cannot hold are named, and paths above 259 characters without LongPathsEnabled",
        here="train/winfleet/transfer/names.py, tests/test_names.py",
        proved=("linux",),
    ),
    Claim(
        name="long-paths",
        text=(
            "Data whose longest path just fits arrives: Windows' limit, which Wine does not have, is the one that we count "
            "with. Setting up needs no long path"
        ),
        here="`test_the_longest_path_is_what_unpacking_and_the_work_folder_leave`",
        proved=("linux",),
        needs=("windows",),
    ),
    Claim(
        name="long-home",
        text="A `fleet_home` that is too long for 260 characters below it, where LongPathsEnabled is not set, is named",
        here=(
            "`test_one_fault_is_one_line_with_its_fix`; folders have 12 hex digits of a digest (`SHORT` in "
            "train/winfleet/transfer/folders.py, molecule/data_sync/verify.yml)"
        ),
        proved=("linux",),
        real=(
            """DEPLOY with `-e '{"fleet_home": "C:/winfleet/a/folder/with/a/name/of/eighty/characters"}'` names it, and with """
            "LongPathsEnabled set the run finishes"
        ),
        needs=("windows",),
    ),
    Claim(
        name="home-rights",
        text=r"`C:\winfleet` is the account's alone, although `C:\` hands Modify to all users of the PC on folders made there. Setting up makes none",
        here="`Install-Agent` in plugins/windows/winfleet_host.ps1 breaks the inheritance where it makes the folder (Wine's icacls does nothing)",
        real=r"after a deployment `icacls C:\winfleet` must list SYSTEM, Administrators and the account alone",
        needs=("windows",),
    ),
    Claim(
        name="home-without-rights",
        text=r"A user who is no administrator gets `C:\winfleet`, or a folder below %LOCALAPPDATA%",
        real=(
            r"`launch_distributed.ps1 -Auto` as one, on a PC without that folder: `icacls C:\winfleet` names the user, and the "
            "run finishes; else it is below %LOCALAPPDATA%"
        ),
        needs=("windows",),
    ),
    Claim(
        name="temporary-files",
        text=(
            "Temporary files and models of Hugging Face lie below `fleet_home` and not below the user's folder, unless "
            "`fleet_environment` (or for HF_HOME the PC) says another"
        ),
        here=(
            "`temp` and `huggingface`, for ranks and all that makes or packs something on a host: `prepare_environment` in "
            "train/winfleet/runs/environment.py, "
            "`test_on_windows_temporary_files_and_models_lie_below_fleet_home_unless_the_user_says_where`; models are "
            "unproven"
        ),
        proved=("lab", "linux"),
        real=r"DEPLOY with a script that loads a model of Hugging Face, then `dir C:\winfleet\huggingface` lists it",
        needs=("windows",),
    ),
    Claim(
        name="wandb-folder",
        text="The default trainer's files of wandb do not lie below the user's folder",
        here="train/train.py writes to its own output: `test_the_first_deploy_trains_and_brings_all_home`",
        proved=("lab",),
    ),
    Claim(
        name="held-files",
        text="A file that Defender or an indexer holds open is replaced all the same. Setting up writes small notes and loads nothing",
        here="retries in `replace` (train/winfleet/core/files.py), which all renames go through",
    ),
    Claim(
        name="cut-transfers",
        text=(
            "A disk that fills up or a PC that goes away in the middle of a transfer, a spoiled wheel, and uv that fails on "
            "one PC are named, and the next run sends only what is missing"
        ),
        here="`test_transfers_and_uv_that_fail_are_named_and_the_next_run_goes_on`",
        proved=("lab",),
    ),
    Claim(
        name="hard-links",
        text="Large files of data are hard links, or copies where the disk has none",
        here="train/winfleet/runs/work.py, `test_large_data_is_no_second_copy_and_what_a_script_writes_never_changes_it`; the lab has none",
        proved=("linux",),
    ),
    Claim(
        name="results-come",
        text="Results come home faster than WinRM reads",
        here="HTTP on port 29503 with a token, `hand_over` in train/winfleet/host/outputs.py",
        proved=("lab",),
    ),
    Claim(
        name="swarm-windows",
        text=(
            "The swarm brings folders to Windows PCs, where scanners hold files open and antivirus may block BitTorrent: then "
            "the host stalls or is lost, by name; no other way is tried"
        ),
        here="tests/test_swarm.py, on addresses of one machine",
        proved=("linux",),
        real="`python -m winfleet.transfer.swarm --job job.json` on two PCs, `winfleet.transfer.seeding.seed` here: both results say `whole`",
        needs=("windows",),
    ),
    Claim(
        name="swarm-flat",
        text="The swarm takes as long for 16 hosts as for few, on links of 100 Mbit/s",
        real="`.venv/bin/python bench/swarm_against_copies.py` on an idle machine with 8 cores or more: its table says that the goal is met",
        needs=("linux",),
    ),
)
