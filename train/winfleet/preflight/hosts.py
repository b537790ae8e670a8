"""May this host train? One function a check, from what the host told and what the run wants, yields its problems. Pure.

What a host could not tell is no problem of it: the rehearsal and the environment's own proof come later.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from winfleet.core.plan import PROBE_PORT, RANKS_PORT
from winfleet.preflight.found import Adapter, BlockRule, Found, Gpu
from winfleet.preflight.problems import Problem

PORT_MEANINGS: Final[Mapping[str, str]] = {
    "29500": "the ranks' store", "29501": "the launchers' rendezvous", "29502": "status", "29503": "files",
    "29504": "link probes",
}  # fmt: skip
OUR_PORTS: Final = (RANKS_PORT, PROBE_PORT)
WINDOWS_DYNAMIC: Final = (49152, 65535)
SET_UP: Final = "ansible-playbook worker_setup.yml -i INVENTORY"
START_FIREWALL: Final = (  # Windows lets nobody start or configure it, but for its registry
    "there, as administrator: Set-ItemProperty HKLM:\\SYSTEM\\CurrentControlSet\\Services\\mpssvc Start 2, then restart the PC"
)

SKEW_SECONDS: Final = 30  # what a slow task cannot measure comes off before
FREE_MEMORY_GIB: Final = 2  # torch and one small model
SLOW_MBIT: Final = 1000
STRANGER_MIB: Final = 1024  # below it is a desktop
FREE_GPU_SHARE: Final = 0.7
NOT_A_LAN: Final = ("VPN", "WSL", "Docker", "virtual", "Bluetooth")
DOUBTFUL: Final[Mapping[str, str]] = {
    "Wi-Fi": "it is slower than a cable and stalls", "mobile": "it is slow", "Hyper-V": "it is right only for a switch of the LAN",
}  # fmt: skip

# First driver that runs a build of that CUDA major version, on Linux and Windows: table 1 of
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
FIRST_DRIVER: Final[Mapping[int, int]] = {11: 450, 12: 525, 13: 580}
OLDEST_CUDA: Final = 12  # of the builds of the locked torch
# CUDA 13 has no code for GPUs before Turing: its release notes, "Deprecated and Dropped Features".
CUDA_13_CAPABILITY: Final = (7, 5)
# With CUDA 12, torch 2.12 and newer come as cu126 alone, which ends with Hopper: https://github.com/pytorch/pytorch/pull/182849
CUDA_12_CAPABILITY: Final = (9, 0)

RUNTIME: Final = "https://aka.ms/vs/17/release/vc_redist.x64.exe"
MAX_PATH: Final = 259  # characters, without the terminating zero
LONGEST_MEMBER: Final = 207  # of an environment with torch 2.13.0 for Windows, below fleet_home


def check_host(name: str, found: Found, *, free_disk_gb: float, processes: int, torch_backend: str) -> list[Problem]:
    """All that is wrong with one host that answered."""
    return [
        *(problem for check in CHECKS_OF_A_HOST for problem in check(name, found)),
        *check_disk(name, found, free_disk_gb),
        *check_processes(name, found, processes),
        *check_driver(name, found, torch_backend),
    ]


def check_address(name: str, found: Found) -> Iterator[Problem]:
    """The address must be one of the host's own."""
    if not found.address:
        what, hint = "its fleet_address resolves to nothing", f"set fleet_address of {name} to an IPv4 address"
        yield Problem(where=name, check="address", what=what, hint=hint)
    elif found.address_error:
        what = f"{found.address} is not one of its own addresses ({found.address_error})"
        hint = f"set fleet_address of {name} to {_better(found) or 'the address of its network adapter'}"
        yield Problem(where=name, check="address", what=what, hint=hint)


def check_adapter(name: str, found: Found) -> Iterator[Problem]:
    """The address must be that of a cable; Wi-Fi and slow cables are said."""
    adapter = found.adapter
    if adapter is None or adapter.kind == "loopback":
        return
    hint = f"set fleet_address of {name} to {_better(found) or 'the address of a network cable'}"
    what = f"{found.address} is the address of {adapter.name}, a {adapter.kind} adapter"
    if adapter.kind in NOT_A_LAN:
        yield Problem(where=name, check="adapter", what=what, hint=hint)
    elif adapter.kind in DOUBTFUL:
        what = f"{what}: {DOUBTFUL[adapter.kind]}"
        yield Problem(where=name, check="adapter", what=what, hint=hint, warning=True)
    elif adapter.mbit is not None and adapter.mbit < SLOW_MBIT:
        what = f"{adapter.name} runs at {adapter.mbit} Mbit/s"
        hint = "use a cable of category 5e or better and a port of 1 Gbit/s or more"
        yield Problem(where=name, check="adapter", what=what, hint=hint, warning=True)


def _better(found: Found) -> str:
    """Addresses of other adapters that may be meant: "192.168.0.21 (Ethernet)"; "" where there are none."""
    rest = [
        (adapter, address) for adapter in found.adapters for address in adapter.addresses if _is_lan(adapter, address)
    ]
    return " or ".join(f"{address} ({adapter.name})" for adapter, address in rest if address != found.address)


def _is_lan(adapter: Adapter, address: str) -> bool:
    try:
        meant = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return adapter.kind in ("cable", "Wi-Fi", "Hyper-V") and not meant.is_link_local and not meant.is_loopback


def check_name(name: str, found: Found) -> Iterator[Problem]:
    """Gloo by itself takes the address that the host's own name resolves to; winfleet's ranks are given theirs."""
    own = {address for adapter in found.adapters for address in adapter.addresses}
    if found.loopback or not found.resolves or found.address in found.resolves or not own.isdisjoint(_lan(found)):
        return
    what = f"its own name {found.name} resolves to {', '.join(found.resolves)}, not to {found.address}"
    hint = "ranks bind their address all the same; a script that makes gloo groups of its own needs the name in the hosts file"
    yield Problem(where=name, check="name", what=what, hint=hint, warning=True)


def _lan(found: Found) -> set[str]:
    return {
        address for address in found.resolves if not address.startswith(("127.", "169.254.")) and ":" not in address
    }


def check_home(name: str, found: Found) -> Iterator[Problem]:
    """fleet_home must be writable."""
    if found.writable is False:
        what, hint = f"fleet_home {found.home} cannot be written", f"set fleet_home of {name} to a folder of its user"
        yield Problem(where=name, check="home", what=what, hint=hint)


def check_paths(name: str, found: Found) -> Iterator[Problem]:
    """Windows' limit of 260 characters, where LongPathsEnabled is off."""
    length, longest = len(found.home), MAX_PATH - LONGEST_MEMBER - 1
    if found.long_paths is False and length > longest:
        what = f"fleet_home {found.home} has {length} characters, and paths below it get longer than Windows allows"
        hint = f"set fleet_home of {name} to one of {longest} at most, as C:\\winfleet, or switch LongPathsEnabled on"
        yield Problem(where=name, check="paths", what=what, hint=hint)


def check_disk(name: str, found: Found, free_disk_gb: float) -> Iterator[Problem]:
    """Free space below fleet_home."""
    if found.disk_free_gb is not None and found.disk_free_gb < free_disk_gb:
        what = f"{found.disk_free_gb:.12g} GB free below {found.home}, {free_disk_gb:.12g} GB wanted"
        hint = "make room there, set fleet_home to another disk, or lower fleet_free_disk_gb"
        yield Problem(where=name, check="disk", what=what, hint=hint)


def check_memory(name: str, found: Found) -> Iterator[Problem]:
    """Free memory for torch itself."""
    if found.memory_free_gib is not None and found.memory_free_gib < FREE_MEMORY_GIB:
        total = f" of {found.memory_gib:.12g}" if found.memory_gib is not None else ""
        what, hint = (
            f"{found.memory_free_gib:.12g}{total} GiB of memory are free",
            "end programs there that are not needed",
        )
        yield Problem(where=name, check="memory", what=what, hint=hint, warning=True)


def check_processes(name: str, found: Found, processes: int) -> Iterator[Problem]:
    """No more ranks than GPUs, where there are GPUs."""
    gpus = len(found.gpus)
    if processes < 0:
        what, hint = f"fleet_processes is {processes}", "0 for one a GPU, or a number from 1 on"
        yield Problem(where=name, check="settings", what=what, hint=hint)
    elif gpus and processes > gpus:
        what, hint = f"fleet_processes is {processes}, but it has {gpus} GPUs", f"set it to {gpus} or less"
        yield Problem(where=name, check="processes", what=what, hint=hint)


def check_ports(name: str, found: Found) -> Iterator[Problem]:
    """Our ports must be free, unless a run of ours has them: that is said by its name."""
    for port, owner in found.ports_taken.items() if not found.going_on else ():
        kept = next(
            (each for each in found.excluded_ports if port.isdecimal() and each[0] <= int(port) <= each[1]), None
        )
        meaning, who = PORT_MEANINGS.get(port, "ours"), owner or "another process"
        what = f"port {port} ({meaning}) on {found.address} is taken by {who}"
        hint = "end that process, or wait for its end"
        if kept:
            what = f"port {port} is in a range that Windows keeps for others, {kept[0]}-{kept[1]} (excludedportrange)"
            hint = _default_range("Windows")
        yield Problem(where=name, check="ports", what=what, hint=hint)


def check_dynamic_ports(name: str, found: Found) -> Iterator[Problem]:
    """Ports that the system hands out by chance must not be ours."""
    first, last = found.dynamic_ports or WINDOWS_DYNAMIC
    if not found.loopback and first <= OUR_PORTS[1] and last >= OUR_PORTS[0]:
        what = f"its range of dynamic ports, {first}-{last}, holds ours, so any program may be given one of {OUR_PORTS[0]}-{OUR_PORTS[1]}"
        yield Problem(where=name, check="ports", what=what, hint=_default_range(found.os), warning=True)


def _default_range(system: str) -> str:
    if system == "Windows":
        return "take Windows' own range: netsh int ipv4 set dynamicport tcp start=49152 num=16384, then restart the PC"
    return 'take Linux\' own range: sysctl -w net.ipv4.ip_local_port_range="32768 60999"'


def check_clock(name: str, found: Found) -> Iterator[Problem]:
    """Certificates, logs and leases need clocks that agree about as well as people's do."""
    if found.skew_seconds is not None and abs(found.skew_seconds) - found.skew_error_seconds > SKEW_SECONDS:
        yield say_skew(name, found.skew_seconds, "this machine's")


def say_skew(where: str, seconds: float, others: str) -> Problem:
    """A clock that is so many seconds ahead of another one, or behind it."""
    far = f"{abs(seconds) / 60:.0f} minutes" if abs(seconds) >= 120 else f"{abs(seconds):.0f} s"
    what = f"its clock is {far} {'ahead of' if seconds > 0 else 'behind'} {others}"
    hint = "set it (Windows: Settings, Time, Sync now, or `w32tm /resync`; Linux: `timedatectl set-ntp true`)"
    return Problem(where=where, check="clock", what=what, hint=hint)


def check_power(name: str, found: Found) -> Iterator[Problem]:
    """A PC that sleeps ends the run."""
    if found.power.sleep_seconds:
        minutes, plan = found.power.sleep_seconds / 60, found.power.name or "unknown"
        what = f"it goes to sleep after {minutes:.12g} minutes on mains (power plan {plan})"
        yield Problem(where=name, check="power", what=what, hint=f"{SET_UP}, or set sleep to never there")


def check_reboot(name: str, found: Found) -> Iterator[Problem]:
    """Windows restarts by itself once it waits for it; Linux only where it was told to."""
    if found.reboot:
        what, hint = f"a restart is pending ({', '.join(found.reboot)})", f"restart {name}, then go on"
        yield Problem(where=name, check="reboot", what=what, hint=hint, warning=found.os != "Windows")


def check_security(name: str, found: Found) -> Iterator[Problem]:
    """Smart App Control blocks unsigned programs and libraries, as Python's packages have them."""
    if found.app_control == 1:
        what = "Smart App Control is on and blocks the unsigned libraries of Python's packages"
        hint = "switch it off: Settings, Privacy & security, Windows Security, App & browser control"
        yield Problem(where=name, check="security", what=what, hint=hint)


def check_runtime(name: str, found: Found) -> Iterator[Problem]:
    """What torch needs of the Visual C++ runtime. uv's own Python is given it, one of the user's is not touched."""
    if found.python_lacks:
        there = ", ".join(f"{each} {version}" for each, version in sorted(found.runtime.items()) if version)
        what = f"its Python {found.python} does not find {', '.join(found.python_lacks)}, which torch needs; Windows has {there or 'none of that runtime'}"
        hint = f"install Microsoft's Visual C++ runtime there, {RUNTIME}, or leave uv_env_interpreter and uv_env_python empty"
        yield Problem(where=name, check="runtime", what=what, hint=hint)


def check_firewall(name: str, found: Found) -> Iterator[Problem]:
    """What beats the rules that worker_setup.yml makes: Block rules, policies that ignore rules, other firewalls."""
    first, last = found.dynamic_ports or WINDOWS_DYNAMIC
    if found.firewall.running is False:
        what = "the service of Windows' firewall (mpssvc) does not run: no rule can be made, and none guards its ports"
        yield Problem(where=name, check="firewall", what=what, hint=START_FIREWALL, warning=True)
    if others := ", ".join(filter(None, found.firewall.others)):
        what = f"another firewall is registered there, and Windows' rules may not count: {others}"
        hint = f"let TCP 5986 and {OUR_PORTS[0]}-{OUR_PORTS[1]} in there, and {first}-{last} from the other workers"
        yield Problem(where=name, check="firewall", what=what, hint=hint, warning=True)
    for rule in found.firewall.blocks:
        if _in_the_way(rule, (OUR_PORTS, (first, last))):
            what = f'the rule "{rule.title}" blocks {_blocked(rule)} and beats every rule that allows'
            yield Problem(where=name, check="firewall", what=what, hint=f"Disable-NetFirewallRule -Name '{rule.name}'")
    for profile in found.firewall.profiles:
        if profile.inbound_rules is False:
            what = f"the firewall's {profile.name} profile lets nothing in, whatever rules say (AllowInboundRules is False)"
            hint = f"Set-NetFirewallProfile -Name {profile.name} -AllowInboundRules True, or ask who set the policy"
            yield Problem(where=name, check="firewall", what=what, hint=hint)
        if profile.local_rules is False:
            what = f"a policy ignores local rules in the firewall's {profile.name} profile (AllowLocalPolicyMerge is false)"
            hint = "ask for the rules of the group winfleet in that policy"
            yield Problem(where=name, check="firewall", what=what, hint=hint)


def _is_python(program: str) -> bool:
    return re.search(r"(^|\\)python[^\\]*\.exe$", program, re.IGNORECASE) is not None


def _blocked(rule: BlockRule) -> str:
    return rule.program if _is_python(rule.program) else f"TCP {rule.ports}"


def _in_the_way(rule: BlockRule, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether a Block rule hits Python, or every program on ports of ours. Words such as RPC are no port of ours."""
    if rule.protocol.upper() not in ("TCP", "6", "ANY", ""):
        return False
    every_port = rule.ports in ("", "*", "Any")
    meets = any(
        int(first) <= upper and int(last or first) >= lower
        for first, last in re.findall(r"(?<![\w-])(\d{1,5})(?:-(\d{1,5}))?(?![\w-])", rule.ports)
        for lower, upper in ranges
    )
    if _is_python(rule.program):
        return every_port or meets
    return rule.program in ("", "Any") and meets


def check_gpu(name: str, found: Found) -> Iterator[Problem]:
    """GPUs must be free: another program's memory is missing in the training."""
    for index, gpu in enumerate(found.gpus) if not found.going_on else ():
        where = f"GPU {index} ({gpu.name})"
        strangers = [each for each in gpu.processes if (each.mib or 0) >= STRANGER_MIB or "python" in each.name.lower()]
        free = gpu.free_mib / gpu.memory_mib if gpu.memory_mib and gpu.free_mib is not None else 1.0
        left = f", {gpu.free_mib} of {gpu.memory_mib} MiB are free" if free < 1 else ""
        if strangers:
            what = f"{where} is used by {', '.join(map(str, strangers))}{left}"
            yield Problem(where=name, check="gpu", what=what, hint="end that program, or wait for its end")
        elif free < FREE_GPU_SHARE:
            users = f", used by {', '.join(map(str, gpu.processes))}" if gpu.processes else ""
            what, hint = f"{where}: {gpu.free_mib} of {gpu.memory_mib} MiB are free{users}", "end what draws there"
            yield Problem(where=name, check="gpu", what=what, hint=hint, warning=True)


def check_driver(name: str, found: Found, torch_backend: str) -> Iterator[Problem]:
    """The driver must be new enough for the build, and the build new enough for the GPU. See FIRST_DRIVER."""
    for index, gpu in enumerate(found.gpus):
        driver, asked = driver_major(gpu), cuda_major(torch_backend)
        if driver is None:
            continue
        where, needed, cuda = (
            f"GPU {index} ({gpu.name})",
            FIRST_DRIVER.get(asked or OLDEST_CUDA, 0),
            asked or cuda_of(driver),
        )
        what = f"{where} has compute capability {gpu.capability}, for which builds with CUDA"
        if driver < needed:
            build = torch_backend if asked else f"every CUDA build of the locked torch (CUDA {OLDEST_CUDA})"
            what, hint = f"{where}: driver {gpu.driver} is too old for {build}", f"install a driver from {needed} on"
            yield Problem(where=name, check="driver", what=what, hint=hint)
        elif cuda >= 13 and gpu.compute and gpu.compute < CUDA_13_CAPABILITY:
            hint = "take a build that has: -e uv_env_torch_backend=cu126, or leave the host out"
            yield Problem(where=name, check="driver", what=f"{what} 13 have no code", hint=hint)
        elif cuda < 13 and gpu.compute and gpu.compute > CUDA_12_CAPABILITY:
            what = f"{what} 12 have no code from torch 2.12 on"
            hint = f"install a driver from {FIRST_DRIVER[13]} on, and leave uv_env_torch_backend at auto or cu130"
            yield Problem(where=name, check="driver", what=what, hint=hint, warning=True)


def driver_major(gpu: Gpu) -> int | None:
    """The number before the first dot of a driver's version."""
    major = gpu.driver.partition(".")[0]
    return int(major) if major.isascii() and major.isdecimal() and len(major) < 6 else None


def cuda_major(torch_backend: str) -> int | None:
    """13 of "cu130"; None of "auto", "cpu" or "rocm6.3"."""
    known = re.fullmatch(r"cu(\d\d)\d", torch_backend)
    return int(known[1]) if known else None


def cuda_of(driver: int) -> int:
    """The newest CUDA major version that a driver runs, which is the build that `auto` takes; 0 where it is older than all."""
    return max((cuda for cuda, first in FIRST_DRIVER.items() if driver >= first), default=0)


CHECKS_OF_A_HOST: Final[Sequence[Callable[[str, Found], Iterator[Problem]]]] = (
    check_address, check_adapter, check_name, check_home, check_paths, check_memory, check_ports, check_dynamic_ports, check_clock,
    check_power, check_reboot, check_security, check_runtime, check_firewall, check_gpu,
)  # fmt: skip
