"""Each check of the preflight: facts as a real PC tells them, and the line that a user reads."""

import json
from typing import Any

import pytest
from test_preflight import wanted
from winfleet.preflight.comparisons import compare_hosts, name_odd, table
from winfleet.preflight.deployed import find_lacking, interpreter_path
from winfleet.preflight.found import Found, adapter_kind, read
from winfleet.preflight.hosts import check_host
from winfleet.preflight.judge import find_problems, say_late
from winfleet.preflight.problems import CHECKS, Problem

GPU = "NVIDIA GeForce RTX 3060"
RTX = {"name": GPU, "driver": "580.88", "memory_mib": 12288, "free_mib": 11000, "capability": "8.6"}
OLD = {**RTX, "name": "NVIDIA GeForce GTX 1080", "capability": "6.1"}
NEW = {**RTX, "name": "NVIDIA GeForce RTX 5060 Ti", "capability": "12.0"}


def adapter(name: str, description: str, address: str, mbit: int = 1000, kind: str = "Ethernet") -> dict[str, Any]:
    return {"name": name, "description": description, "type": kind, "mbit": mbit, "addresses": [address]}


CABLE = adapter("이더넷", "Realtek PCIe GbE", "192.168.0.21")
WSL = adapter("vEthernet (WSL)", "Hyper-V Virtual Ethernet Adapter", "172.20.0.1", 10000)
WIFI = adapter("Wi-Fi", "Intel(R) Wi-Fi 6 AX200", "192.168.0.99", 866, "Wireless80211")


def windows(**values: Any) -> dict[str, Any]:
    """What winfleet_host.ps1 tells of a PC on which nothing is wrong."""
    return {
        "os": "Windows", "release": "Windows 11 Pro 22631.4317", "python": None, "memory_gib": 31.9, "memory_free_gib": 24.1,
        "disk_free_gb": 812.4, "home": "C:\\winfleet", "writable": True, "name": "PC1", "resolves": ["fe80::1%5", "192.168.0.21"],
        "address": "192.168.0.21", "address_error": "", "adapters": [CABLE, WSL], "gpus": [RTX], "clock": 0,
        "skew_seconds": 1.2, "skew_error_seconds": 1.5,
        "power": {"plan": "8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c", "sleep_seconds": 0}, "reboot": [], "active_hours": [],
        "firewall": {
            "running": True, "others": [], "blocks": [],
            "profiles": [{"name": "Private", "inbound_rules": True, "local_rules": True}],
        },
        "app_control": 0, "long_paths": False, "dynamic_ports": [49152, 65535], "excluded_ports": [], "ports_taken": {},
        "going_on": [], "run_state": "none", "there": {"code": [], "data": [], "agent": [], "env": []}, **values,
    }  # fmt: skip


def judge(told: dict[str, Any], **given: Any) -> list[Problem]:
    """What the checks of one host say."""
    settings: dict[str, Any] = {"free_disk_gb": 2.0, "processes": 0, "torch_backend": "auto", **given}
    return check_host("pc1", read(told), **settings)


def block(**values: str) -> dict[str, Any]:
    rule = {"name": "{1234}", "title": "python.exe", "program": "C:\\Python311\\python.exe", "protocol": "TCP"}
    return {"firewall": {"blocks": [{**rule, "ports": "Any", **values}], "profiles": []}}


def stranger(**values: Any) -> dict[str, Any]:
    """A GPU with a process of somebody else."""
    return {**RTX, "free_mib": 5100, "processes": [{"name": "game.exe", "pid": 4242, "mib": 7000, **values}]}


def test_nothing_is_said_of_a_good_pc() -> None:
    assert judge(windows()) == []


# (what is told, the settings, the check, whether it only warns, what is said, a part of the fix)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, bool, str, str]] = {
    "no address": ({"address": ""}, {}, "address", False, "its fleet_address resolves to nothing", "to an IPv4 address"),
    "another's address": (
        {"address": "192.168.0.77", "address_error": "AddressNotAvailable"}, {}, "address", False,
        "192.168.0.77 is not one of its own addresses (AddressNotAvailable)", "to 192.168.0.21 (이더넷)",
    ),
    "WSL": (
        {"address": "172.20.0.1", "resolves": []}, {}, "adapter", False,
        "172.20.0.1 is the address of vEthernet (WSL), a WSL adapter", "to 192.168.0.21 (이더넷)",
    ),
    "VPN": (
        {"adapters": [{**CABLE, "name": "Tailscale", "description": "Tailscale Tunnel"}]}, {}, "adapter", False,
        "192.168.0.21 is the address of Tailscale, a VPN adapter", "the address of a network cable",
    ),
    "Wi-Fi": (
        {"address": "192.168.0.99", "resolves": [], "adapters": [CABLE, WIFI]}, {}, "adapter", True,
        "192.168.0.99 is the address of Wi-Fi, a Wi-Fi adapter: it is slower than a cable and stalls", "192.168.0.21 (이더넷)",
    ),
    "slow cable": (
        {"adapters": [{**CABLE, "mbit": 100}]}, {}, "adapter", True, "이더넷 runs at 100 Mbit/s", "category 5e",
    ),
    "own name": (
        {"resolves": ["127.0.1.1"]}, {}, "name", True, "its own name PC1 resolves to 127.0.1.1, not to 192.168.0.21", "hosts file",
    ),
    "home": ({"writable": False}, {}, "home", False, "fleet_home C:\\winfleet cannot be written", "a folder of its user"),
    "paths": (
        {"home": "C:\\" + "a" * 80}, {}, "paths", False,
        f"fleet_home C:\\{'a' * 80} has 83 characters, and paths below it get longer than Windows allows", "to one of 51 at most",
    ),
    "disk": (
        {"disk_free_gb": 812.4}, {"free_disk_gb": 10000}, "disk", False,
        "812.4 GB free below C:\\winfleet, 10000 GB wanted", "lower fleet_free_disk_gb",
    ),
    "memory": ({"memory_free_gib": 0.9}, {}, "memory", True, "0.9 of 31.9 GiB of memory are free", "end programs there"),
    "too many ranks": ({}, {"processes": 2}, "processes", False, "fleet_processes is 2, but it has 1 GPUs", "1 or less"),
    "port": (
        {"ports_taken": {"29500": "jupyter (pid 99)"}}, {}, "ports", False,
        "port 29500 (the ranks' store) on 192.168.0.21 is taken by jupyter (pid 99)", "end that process",
    ),
    "kept port": (
        {"ports_taken": {"29503": "Windows itself (error 10013)"}, "excluded_ports": [[5357, 5357], [29480, 29579]]}, {}, "ports", False,
        "port 29503 is in a range that Windows keeps for others, 29480-29579 (excludedportrange)", "netsh int ipv4 set dynamicport",
    ),
    "dynamic range": (
        {"dynamic_ports": [1024, 65535]}, {}, "ports", True,
        "its range of dynamic ports, 1024-65535, holds ours, so any program may be given one of 29500-29504", "start=49152 num=16384",
    ),
    "clock ahead": ({"skew_seconds": 301.0}, {}, "clock", False, "its clock is 5 minutes ahead of this machine's", "w32tm /resync"),
    "clock behind": ({"skew_seconds": -63.0}, {}, "clock", False, "its clock is 63 s behind this machine's", "timedatectl"),
    "sleep": (
        {"power": {"plan": "381b4222-f694-41f0-9685-ff5bb260df2e", "sleep_seconds": 1800}}, {}, "power", False,
        "it goes to sleep after 30 minutes on mains (power plan Balanced)", "ansible-playbook worker_setup.yml",
    ),
    "restart": ({"reboot": ["Windows Update"]}, {}, "reboot", False, "a restart is pending (Windows Update)", "restart pc1"),
    "restart on Linux": (
        {"os": "Linux", "reboot": "linux-image-6.8"}, {}, "reboot", True, "a restart is pending (linux-image-6.8)", "restart pc1",
    ),
    "Smart App Control": ({"app_control": 1}, {}, "security", False, "Smart App Control is on and blocks the unsigned", "switch it off"),
    "no Visual C++ runtime": (
        {"python": "3.11.9", "python_lacks": ["msvcp140", "vcruntime140_1"], "runtime": {"msvcp140": "", "vcruntime140": "14.29.30133.0"}},
        {}, "runtime", False, "its Python 3.11.9 does not find msvcp140, vcruntime140_1, which torch needs; Windows has vcruntime140 14.29.30133.0",
        "https://aka.ms/vs/17/release/vc_redist.x64.exe",
    ),
    "block rule for python": (
        block(), {}, "firewall", False,
        'the rule "python.exe" blocks C:\\Python311\\python.exe and beats every rule that allows', "Disable-NetFirewallRule -Name '{1234}'",
    ),
    "block rule for ports": (
        block(title="no", program="Any", ports="80,29000-29999"), {}, "firewall", False,
        'the rule "no" blocks TCP 80,29000-29999 and beats every rule that allows', "Disable-NetFirewallRule",
    ),
    "policy: nothing in": (
        {"firewall": {"profiles": [{"name": "Public", "inbound_rules": False, "local_rules": True}]}}, {}, "firewall", False,
        "the firewall's Public profile lets nothing in, whatever rules say (AllowInboundRules is False)", "-AllowInboundRules True",
    ),
    "policy: no local rules": (
        {"firewall": {"profiles": {"name": "Domain", "local_rules": False}}}, {}, "firewall", False,
        "a policy ignores local rules in the firewall's Domain profile (AllowLocalPolicyMerge is false)", "in that policy",
    ),
    "the firewall's service is off": (
        {"firewall": {"running": False}}, {}, "firewall", True,
        "the service of Windows' firewall (mpssvc) does not run: no rule can be made", "Services\\mpssvc Start 2, then restart the PC",
    ),
    "another firewall": (
        {"firewall": {"running": True, "others": "노턴 360"}, "dynamic_ports": [40000, 49999]}, {}, "firewall", True,
        "another firewall is registered there, and Windows' rules may not count: 노턴 360",
        "let TCP 5986 and 29500-29504 in there, and 40000-49999 from the other workers",
    ),
    "stranger": (
        {"gpus": [RTX, stranger()]}, {}, "gpu", False,
        "GPU 1 (NVIDIA GeForce RTX 3060) is used by game.exe (pid 4242, 7000 MiB), 5100 of 12288 MiB are free", "end that program",
    ),
    "a Python that does not tell": (
        {"gpus": [{**stranger(name="python.exe", mib=None), "free_mib": None}]}, {}, "gpu", False,
        "GPU 0 (NVIDIA GeForce RTX 3060) is used by python.exe (pid 4242)", "end that program",
    ),
    "a full GPU": (
        {"gpus": [stranger(name="dwm.exe", mib=None)]}, {}, "gpu", True,
        "GPU 0 (NVIDIA GeForce RTX 3060): 5100 of 12288 MiB are free, used by dwm.exe (pid 4242)", "end what draws there",
    ),
    "old driver": (
        {"gpus": [{**RTX, "driver": "472.12"}]}, {}, "driver", False,
        "GPU 0 (NVIDIA GeForce RTX 3060): driver 472.12 is too old for every CUDA build of the locked torch (CUDA 12)",
        "install a driver from 525 on",
    ),
    "driver too old for the build": (
        {"gpus": [{**RTX, "driver": "552.44"}]}, {"torch_backend": "cu130"}, "driver", False,
        "GPU 0 (NVIDIA GeForce RTX 3060): driver 552.44 is too old for cu130", "install a driver from 580 on",
    ),
    "old GPU": (
        {"gpus": [OLD]}, {}, "driver", False,
        "GPU 0 (NVIDIA GeForce GTX 1080) has compute capability 6.1, for which builds with CUDA 13 have no code", "cu126",
    ),
    "new GPU, old driver": (
        {"gpus": [{**NEW, "driver": "572.83"}]}, {}, "driver", True,
        "GPU 0 (NVIDIA GeForce RTX 5060 Ti) has compute capability 12.0, for which builds with CUDA 12 have no code from torch 2.12 on",
        "install a driver from 580 on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_fault_is_one_line_with_its_fix(case: str) -> None:
    told, given, check, warning, what, fix = CASES[case]
    (problem,) = judge(windows(**told), **given)
    assert (problem.where, problem.check, problem.warning) == ("pc1", check, warning)
    assert problem.what.startswith(what)
    assert fix in problem.hint


@pytest.mark.parametrize(
    "told",
    [
        {"skew_seconds": 40.0, "skew_error_seconds": 12.0},  # a task took 24 s, so it may be 28
        {"gpus": [{**OLD, "driver": "560.94"}]},  # whose newest build is cu126
        {"gpus": [NEW]},
        {"gpus": [stranger(mib=900)], "going_on": ["r"]},
        {"gpus": [{**RTX, "processes": [{"name": "explorer.exe", "pid": 4, "mib": None}]}]},
        {"ports_taken": {"29500": "python (pid 1)"}, "going_on": ["r"]},
        block(protocol="UDP"), block(ports="3389"), block(program="C:\\game.exe"), block(program="Any", ports="RPC"),
        block(program="Any", ports="129500"), {"firewall": {"others": [""]}},
        {"address": "127.0.0.1", "dynamic_ports": [1024, 65535], "resolves": ["127.0.1.1"], "adapters": []},
        {"home": "C:\\" + "a" * 80, "long_paths": True},
        {"app_control": 2}, {"runtime": {"msvcp140": "", "vcruntime140": ""}},  # uv's own Python is given them
    ],
)  # fmt: skip
def test_what_is_all_right_is_no_line(told: dict[str, Any]) -> None:
    assert judge(windows(**told)) == []


@pytest.mark.parametrize(
    ("name", "description", "system", "kind"),
    [
        ("이더넷", "Realtek PCIe GbE Family Controller", "Ethernet", "cable"), ("eth0", "", "", "cable"), ("bond0", "", "bond", "cable"),
        ("Wi-Fi", "Intel(R) Wi-Fi 6", "Wireless80211", "Wi-Fi"), ("wlp3s0", "", "wlan", "Wi-Fi"),
        ("vEthernet (WSL (Hyper-V firewall))", "Hyper-V Virtual Ethernet Adapter", "Ethernet", "WSL"),
        ("vEthernet (Default Switch)", "Hyper-V Virtual Ethernet Adapter", "Ethernet", "virtual"),
        ("vEthernet (LAN)", "Hyper-V Virtual Ethernet Adapter #2", "Ethernet", "Hyper-V"),
        ("docker0", "", "bridge", "Docker"), ("VMware Network Adapter VMnet8", "VMware Virtual Ethernet Adapter", "Ethernet", "virtual"),
        ("로컬 영역 연결 2", "TAP-Windows Adapter V9", "Ethernet", "VPN"), ("wg0", "", "wireguard", "VPN"), ("tun0", "", "tun", "VPN"),
        ("회사", "Cisco AnyConnect Virtual Miniport Adapter for Windows x64", "Ethernet", "VPN"), ("Telekom", "WAN Miniport", "Ppp", "VPN"),
        ("Bluetooth 네트워크 연결", "Bluetooth Device (Personal Area Network)", "Ethernet", "Bluetooth"), ("lo", "", "loopback", "loopback"),
    ],
)  # fmt: skip
def test_an_adapter_is_known_by_its_words(name: str, description: str, system: str, kind: str) -> None:
    assert adapter_kind(name, description, system) == kind


def cluster(**values: dict[str, Any]) -> dict[str, Found]:
    """Hosts with addresses of their own."""
    made = {}
    for number, (name, told) in enumerate(values.items()):
        address = told.get("address", f"192.168.0.{number + 1}")
        made[name] = read(windows(**{"address": address, "adapters": [{**CABLE, "addresses": [address]}], **told}))
    return made


def compare(wanted_python: str = "", **values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(found.where, found.what) for found in compare_hosts(cluster(**values), python_version=wanted_python)]


def test_the_odd_host_is_named_against_the_majority() -> None:
    good: dict[str, Any] = {"python": "3.11.9"}
    assert compare(pc1=good, pc2=good, pc3={"python": "3.12.1"}, pc4={"python": "3.11.7"}) == [
        ("pc3", "Python 3.12.1, the other 3 have 3.11.9 and 3.11.7")
    ]
    assert compare(pc1=good, pc2={"python": "3.12.1"}) == [("pc1, pc2", "Python 3.11.9 on pc1 · 3.12.1 on pc2")]
    assert compare("3.11", pc1=good, pc2=good, pc3={}) == []
    assert compare("3.12", pc1=good, pc2={}) == [("pc1", "Python 3.11.9, wanted is 3.12")]
    assert compare(pc1=good) == []
    three = {"a": "1", "b": "1", "c": "2", "d": "3"}
    assert [(found.where, found.what) for found in name_odd(three, check="versions", thing="torch", hint="")] == [
        ("c", "torch 2, 2 of 4 hosts have 1"), ("d", "torch 3, 2 of 4 hosts have 1"),
    ]  # fmt: skip


def test_what_else_differs_between_hosts() -> None:
    linux = {"os": "Linux", "release": "Linux-6.8", "power": None}
    assert ("pc3", "system Linux-6.8, the other 2 have Windows 11 Pro 22631.4317") in compare(pc1={}, pc2={}, pc3=linux)
    for changed, said in (
        ({"driver": "560.94"}, "driver 560.94, the other 2 have 580.88"),
        ({"name": "A"}, f"GPU A, the other 2 have {GPU}"),
    ):
        assert compare(pc1={}, pc2={}, pc3={"gpus": [{**RTX, **changed}]}) == [("pc3", said)]
    said = "127.0.0.1 is of the loopback, and no other host reaches it"
    assert compare(pc1={}, pc2={"address": "127.0.0.1"}) == [("pc2", said)]
    assert compare(pc1={"address": "127.0.0.1"}, pc2={"address": "127.0.0.2"}) == []
    warnings = {found.check: found.warning for found in compare_hosts(cluster(a={}, b={"gpus": []}), python_version="")}
    assert warnings == {"gpu": True}


def test_the_table_groups_hosts_by_equal_value() -> None:
    good = {"python": "3.11.9"}
    said = table(cluster(pc1=good, pc2=good, pc3={"python": "3.12.1", "skew_seconds": 301.0}))
    rows = dict(line.split("  ", 1) for line in said.splitlines())
    assert rows["Python"].strip() == "3.11.9: pc1 pc2 · 3.12.1: pc3"
    assert rows["Clock"].strip() == "as here: pc1 pc2 · +301 s: pc3"
    assert rows["GPUs"].strip() == "NVIDIA GeForce RTX 3060 12 GiB: pc1 pc2 pc3"
    assert "Run" not in rows, "a row that nobody can fill is left out"
    hours = table(cluster(pc1={"active_hours": [8, 17]}, pc2={"active_hours": [8, 99]}, pc3={"active_hours": 8}))
    assert "Restart      none pending: pc2 pc3 · none pending, by updates from 17:00 to 8:00: pc1" in hours.splitlines()


HOSTILE: list[Any] = [
    None, True, -1, float("nan"), float("inf"), 10**400, "\x1b[31mred\x07\r\nnew line", "x" * 5_000_000, [], {}, [[]], [None] * 9_999,
    {"name": "\x1b]0;title\x07"}, [{"name": {"a": []}, "addresses": {}}], {"\x1b[2J": "\x1b[2J"}, [[1], [2, "3"], [4, 5, 6]],
]  # fmt: skip


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_host_is_judged_without_a_crash_and_cannot_draw_on_the_terminal(bad: Any) -> None:
    told = windows()
    for name in told:
        hosts = {"pc1": read({**told, name: bad}), "pc2": read(windows(address="192.168.0.22"))}
        said = table(hosts) + "\n".join(map(str, find_problems(hosts, {}, wanted())))
        assert all(char.isprintable() or char == "\n" for char in said), name
        assert len(said) < 60_000, name
    deep = json.loads("[" * 900 + "]" * 900)
    inside = {"gpus": deep, "firewall": {"blocks": deep, "profiles": deep}, "there": {"code": deep}}
    assert table({"pc1": read(deep), "pc2": read(inside)})


def test_a_host_that_is_late_or_silent_is_named_with_what_to_do() -> None:
    silent = {"pc1": say_late(120), "pc2": "Connection to 10.0.0.2 timed out. (connect timeout=10)"}
    late, firewalled = find_problems({}, silent, wanted(warnings=["disk"]))
    assert str(late) == (
        "pc1: did not answer: it is there, but gave no answer within 120 s\n"
        "  hint: see what keeps pc1 busy, or wait longer: -e fleet_answer_seconds=600"
    )
    assert "a firewall drops the connection" in firewalled.what
    assert {late.check, firewalled.check} == {"reachable"}


def test_what_a_host_lacks_is_seen_from_what_it_told() -> None:
    found = read(windows(there={"code": "0123456789ab", "data": ["aaaaaaaaaaaa"], "env": ["eeeeeeeeeeee"]}))
    wanted_digests = {"code": "0123456789abcdef", "data": "bbbbbbbbbbbbbbbb"}
    assert find_lacking(found, wanted_digests, "eeeeeeeeeeeeffff") == ["data"]
    assert find_lacking(found, {}, "ffffffffffffffff") == ["environment"]
    assert find_lacking(found, {"agent": "cccc"}, "") == ["agent"]
    assert interpreter_path(found, "e" * 64) == "C:\\winfleet\\env\\eeeeeeeeeeee\\Scripts\\python.exe"
    assert interpreter_path(read({"os": "Linux", "home": "/h"}), "e" * 64) == "/h/env/eeeeeeeeeeee/bin/python"


def test_every_check_that_judges_hosts_is_provoked_here() -> None:
    of_the_cluster = {"links", "data", "system", "versions", "command"}  # the rehearsal's, and the comparisons above
    assert set(CHECKS) - of_the_cluster == {case[2] for case in CASES.values()} - {"home"}
