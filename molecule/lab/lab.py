"""Windows PCs on one Linux machine, with Wine: the one command of the lab.

Each PC is a network namespace with an address and a host name of its own, a Wine prefix copied from a template, and a WinRM server in
front (wsman_server.py). As on a new Windows nothing listens, and nothing gets in, until remoting is enabled on the PC.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from wine_pc import PROGRAMS_HOME, WINE_NOISE

HERE = Path(__file__).resolve().parent
# program: the Debian package that has it
PROGRAMS = {
    "wine": "wine wine64",
    "ip": "iproute2",
    "nft": "nftables",
    "unzip": "unzip",
    "xz": "xz-utils",
    "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64",
    "localedef": "locales",
    "faketime": "faketime",
}
DOUBLES = ("powercfg", "winrm", "pwsh", "netsh")  # programs that are copies of powershell.exe, answered by doubles.psm1
BOOT_TIME = 60  # seconds in which a PC must be up
NAMED = ("unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"')  # NAME COMMAND…: with a host name of its own
CONNECT = """
import socket, sys
for port in sys.argv[2:]:
    with socket.socket() as connection:
        connection.settimeout(1)
        try:
            connection.connect((sys.argv[1], int(port)))
            print(port, "open", flush=True)
        except ConnectionRefusedError:
            print(port, "refused", flush=True)
        except OSError:
            print(port, "filtered", flush=True)
"""
STARTS = 3
DRAIN_SECONDS = 2.0  # for what a program that has ended still has in its pipes
NOT_STARTED = b"ShellExecuteEx"  # Wine's word for it in every language
LISTEN = """
import socket, sys
held = [socket.create_server(("0.0.0.0", int(port))) for port in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""


class LabError(Exception):
    """One line: what is missing, and what to do."""


@dataclass(frozen=True)
class Settings:
    """What may be set from outside, and what `up` remembers for the other commands."""

    prefix: str = "pc"  # LAB_PREFIX: the PCs are PREFIX1, PREFIX2, …
    net: str = "10.77.0"  # LAB_NET: the controller is NET.1, the PCs NET.11, NET.12, …
    bridge: str = "winlab0"  # LAB_BRIDGE
    locale: str = "ko_KR"  # LAB_LOCALE: language and code pages, by glibc's name
    user: str = "김연구"  # LAB_USER: who owns the PC
    adapter: str = "이더넷"  # LAB_ADAPTER: what the network adapter is called
    password: str = "lab"  # noqa: S105 - LAB_PASSWORD: of the PCs' accounts, which nobody but this machine reaches
    python: str = sys.executable
    basic: bool = False  # up --basic
    engine: str = ""
    template: str = ""

    def address(self, pc: str) -> str:
        return f"{self.net}.{10 + self.number(pc)}"

    def number(self, pc: str) -> int:
        if not re.fullmatch(f"{re.escape(self.prefix)}[1-9][0-9]*", pc):
            raise LabError(f"no PC {pc}: they are called {self.prefix}1, {self.prefix}2, …")
        return int(pc.removeprefix(self.prefix))

    def core(self, pc: str) -> int:
        """The one of this machine's cores that all of a PC's processes share, another one for each of a pair of PCs.

        A program under Wine asks the wineserver thousands of times as it starts. To wake a process on another core takes the
        kernel of a virtual machine longer than the answer itself: with cores of their own both took twice the processor time.
        """
        cores = sorted(os.sched_getaffinity(0))
        return cores[sum(map(int, self.address(pc).split("."))) % len(cores)]


def folders() -> tuple[Path, Path]:
    """The cache, which outlives the lab, and the folder of the lab that is up."""
    cache = Path(os.environ.get("WINFLEET_CACHE") or "/var/cache/winfleet").absolute()
    return cache, Path(os.environ.get("LAB_DIR") or cache / "run").absolute()


def from_environment() -> Settings:
    names = ("prefix", "net", "bridge", "locale", "user", "adapter", "password", "python")
    return Settings(**{name: value for name in names if (value := os.environ.get(f"LAB_{name.upper()}"))})  # type: ignore[arg-type]


def digest(*parts: Path | str) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.read_bytes() if isinstance(part, Path) else part.encode())
    return found.hexdigest()[:12]


def call(*command: str | Path, quiet: bool = False, environment: dict[str, str] | None = None) -> None:
    """Runs a program; what it said is in the error if it fails, unless failing is all right (`quiet`)."""
    done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode and not quiet:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()[-2000:]
        raise LabError(f"`{' '.join(map(str, command))}` failed with {done.returncode}: {said}")


def answer(*command: str | Path) -> str:
    """What a program prints, nothing if there is no such program."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def need_root() -> None:
    if os.geteuid():
        raise LabError("the lab makes network namespaces, which takes root: run it with sudo")


class Setup:
    """Everything that is made once and kept in the cache, each part under a digest of what it is made from."""

    def __init__(self, cache: Path, settings: Settings) -> None:
        self.cache, self.settings = cache, settings
        power, windows = HERE / "powershell", HERE / "windows"
        self.archive = power / "powershell-win-x64.tar.xz"
        size = str(self.archive.stat().st_size)  # its bytes never change
        snapins = digest(size, power / "build_snapins.sh", *sorted((power / "snapins").iterdir()))
        self.unpacked = cache / f"engine-{size}"
        self.snapins = cache / f"snapins-{snapins}"
        self.engine = cache / f"powershell-{digest(snapins, *DOUBLES, *sorted((power / 'src').glob('*.ps*1')))}"
        self.python = cache / f"python-{digest(windows / 'make_windows_python.sh', windows / 'python_stub.c')}"
        recipe = windows / "make_template.sh"
        runtime = (windows / "make_ucrt.sh", windows / "ucrt_complex.c")
        self.template = cache / f"template-{digest(recipe, *runtime, self.python.name, settings.locale, settings.user)}"

    def run(self) -> None:
        need_root()
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.packages()
            for part, make, what in (
                (self.locale(), self.make_locale, f"the locale {self.settings.locale}"),
                (self.unpacked, self.make_unpacked, "the PowerShell engine"),
                (self.snapins, self.make_snapins, "the engine's snap-ins"),
                (self.engine, self.make_engine, "the doubles"),
                (self.python, self.make_python, "the Windows Python"),
                (self.template, self.make_template, "a new Windows"),
            ):
                if not part.exists():
                    started = time.monotonic()
                    print(f"making {what} …", end="", flush=True)
                    new = part.with_name(f".new-{part.name}")
                    shutil.rmtree(new, ignore_errors=True)
                    make(new)
                    new.rename(part)
                    print(f" {time.monotonic() - started:.0f} s", flush=True)
                    self.forget_old(part)

    def forget_old(self, part: Path) -> None:
        """What the new part replaces goes, unless a lab that is up uses it."""
        kind = part.name.split("-")[0]
        if kind in ("template", "powershell"):
            return  # another lab on this machine may run from it; `lab clean` takes it
        for old in self.cache.glob(f"{kind}-*"):
            if old != part:
                shutil.rmtree(old)

    @staticmethod
    def packages() -> None:
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
        if not missing:
            return
        names = " ".join(missing)
        if not shutil.which("apt-get"):
            raise LabError(
                f"the lab needs {names}, and there is no apt here: install them by hand (Wine 8 is what it was made for)"
            )
        print(f"installing {names} …", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        call("apt-get", "update", quiet=True)
        call("apt-get", "install", "-y", "--no-install-recommends", *names.split(), environment=environment)

    def locale(self) -> Path:
        return self.cache / "locale" / f"{self.settings.locale}.UTF-8"

    def make_locale(self, new: Path) -> None:
        new.parent.mkdir(exist_ok=True)
        call("localedef", "-i", self.settings.locale, "-f", "UTF-8", new)

    def make_unpacked(self, new: Path) -> None:
        new.mkdir()
        call("tar", "-C", new, "-xJf", self.archive)

    def make_snapins(self, new: Path) -> None:
        work = new.with_name(f"{new.name}-work")
        shutil.rmtree(work, ignore_errors=True)
        call("cp", "-al", self.unpacked, work)
        call(HERE / "powershell/build_snapins.sh", work, new)
        shutil.rmtree(work)

    def make_engine(self, new: Path) -> None:
        """The unpacked engine by hard links, and over it what is made here."""
        call("cp", "-al", self.unpacked, new)
        source = HERE / "powershell/src"
        for made in (*self.snapins.iterdir(), source / "doubles.psm1"):
            replace(made, new / made.name)
        (new / "Modules/LabDoubles").mkdir(parents=True, exist_ok=True)
        replace(source / "LabDoubles.psd1", new / "Modules/LabDoubles/LabDoubles.psd1")
        for program in DOUBLES:
            replace(new / "powershell.exe", new / f"{program}.exe")

    def make_python(self, new: Path) -> None:
        call(HERE / "windows/make_windows_python.sh", new)

    def make_template(self, new: Path) -> None:
        # who asks for user 0 by number finds the PC's owner
        home = self.cache / "home"
        home.mkdir(exist_ok=True)
        passwd = self.cache / f"passwd-{digest(self.settings.user)}"
        passwd.write_text(f"{self.settings.user}:x:0:0::{home}:/bin/sh\n{Path('/etc/passwd').read_text()}")
        call(
            HERE / "windows/make_template.sh",
            new,
            self.python,
            passwd,
            environment=windows_environment(self.cache, self.settings),
        )
        shutil.copy(passwd, new / "passwd")


def copy_or_link(source: str, target: str) -> None:
    """Programs, which nobody changes in place, are 95 % of a prefix."""
    if source.lower().endswith((".dll", ".exe", ".pyd", ".drv", ".sys", ".nls", ".ttf", ".fon")):
        with contextlib.suppress(OSError):  # another file system than the cache's
            os.link(source, target)
            return
    shutil.copy2(source, target)


def in_parallel(work: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(len(names) or 1) as pool:
        list(pool.map(work, names))


def replace(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # never write through a hard link
    shutil.copy2(source, target)


def windows_environment(cache: Path, settings: Settings) -> dict[str, str]:
    """What a PC may see of this machine's environment: as good as nothing."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(cache / "home"),
        "LC_ALL": f"{settings.locale}.UTF-8",
        "LOCPATH": str(cache / "locale"),
        "WINEDEBUG": "-all",
    }


@dataclass
class Lab:
    """The lab that is up, or will be."""

    cache: Path
    folder: Path
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def there(cls) -> Lab:
        """The lab that `up` made. Raises LabError if there is none."""
        cache, folder = folders()
        need_root()
        try:
            return cls(cache, folder, Settings(**json.loads((folder / "lab.json").read_text())))
        except FileNotFoundError:
            raise LabError(f"no lab is up in {folder}: make one with `make lab`") from None

    # -- PCs

    def pcs(self) -> list[str]:
        """The PCs that there are: network namespaces of our own name."""
        pattern = f"^{re.escape(self.settings.prefix)}[0-9]+(?= |$)"
        return sorted(re.findall(pattern, answer("ip", "netns", "list"), re.MULTILINE), key=self.settings.number)

    def known(self, pc: str) -> str:
        if pc not in self.pcs():
            raise LabError(f"no PC {pc}: there are {', '.join(self.pcs()) or 'none'}")
        return pc

    def inside(self, pc: str, *command: str | Path) -> list[str]:
        own = ("taskset", "--cpu-list", str(self.settings.core(pc)))
        return ["ip", "netns", "exec", pc, *own, *NAMED, pc, *map(str, command)]

    def environment(self, pc: str) -> dict[str, str]:
        return {
            **windows_environment(self.cache, self.settings),
            "WINEPREFIX": str(self.folder / pc),
            "WINEARCH": "win64",
            "WINEPATH": PROGRAMS_HOME,
        }

    def up(self, count: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "lab.json").write_text(json.dumps(asdict(self.settings), ensure_ascii=False, indent=2))
        bridge = self.settings.bridge
        if not Path(f"/sys/class/net/{bridge}").exists():
            call("ip", "link", "add", bridge, "type", "bridge")
            call("ip", "address", "add", f"{self.settings.net}.1/24", "dev", bridge)
            call("ip", "link", "set", bridge, "up")
        names = [f"{self.settings.prefix}{number}" for number in range(1, count + 1)]
        there = self.pcs()
        for pc in names:
            if pc not in there:
                self.make_namespace(pc)
        in_parallel(self.copy_template, names)
        for pc in names:
            self.start(pc)
        for pc in names:
            self.wait_booted(pc)
        self.write_inventory()

    def make_namespace(self, pc: str) -> None:
        settings, address = self.settings, self.settings.address(pc)
        outer = f"{settings.bridge}-{settings.number(pc)}"
        call("ip", "netns", "add", pc)
        call("ip", "link", "add", outer, "type", "veth", "peer", "name", settings.adapter, "netns", pc)
        call("ip", "link", "set", outer, "master", settings.bridge, "up")
        call("ip", "-n", pc, "address", "add", f"{address}/24", "dev", settings.adapter)
        call("ip", "-n", pc, "link", "set", "lo", "up")
        # Windows' own range: rules for gloo's ports open that one
        call("ip", "netns", "exec", pc, "sysctl", "-qw", "net.ipv4.ip_local_port_range=49152 65535")
        # `ip netns exec` puts these in place of /etc/NAME: the PC's own name must not mean 127.0.0.1, and user 0 is its owner
        own = Path("/etc/netns") / pc
        own.mkdir(parents=True, exist_ok=True)
        (own / "hosts").write_text(f"127.0.0.1 localhost\n{address} {pc}\n")
        shutil.copy(Path(settings.template) / "passwd", own / "passwd")

    def copy_template(self, pc: str) -> None:
        target = self.folder / pc
        if target.exists():
            return
        new = self.folder / f".{pc}.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(self.settings.template, new, symlinks=True, copy_function=copy_or_link)
        new.rename(target)

    def process(self, pc: str) -> int | None:
        """The PC's server, if it runs."""
        try:
            found = int((self.folder / f"{pc}.pid").read_text())
            return found if b"wsman_server" in Path(f"/proc/{found}/cmdline").read_bytes() else None
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None

    def start(self, pc: str) -> None:
        """Switches a PC on."""
        if self.process(pc):
            return
        settings = self.settings
        call("ip", "-n", pc, "link", "set", settings.adapter, "up")
        accounts = [f"--user={user}:{settings.password}" for user in ("lab", "Administrator", settings.user)]
        command = self.inside(
            pc, settings.python, HERE / "wsman_server.py", "--bind=0.0.0.0", f"--prefix={self.folder / pc}",
            f"--powershell={settings.engine}/powershell.exe", *accounts, "--log", "--firewall", *(["--open"] if settings.basic else []),
        )  # fmt: skip
        with (self.folder / f"{pc}.log").open("w") as log:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(pc),
                start_new_session=True,
                cwd="/",
            )
        (self.folder / f"{pc}.pid").write_text(str(server.pid))
        self.children[pc] = server

    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def wait_booted(self, pc: str) -> None:
        log = self.folder / f"{pc}.log"
        end = time.monotonic() + BOOT_TIME
        while time.monotonic() < end:
            if re.search(r"^booted", log.read_text(errors="replace"), re.MULTILINE):
                return
            if pc in self.children and self.children[pc].poll() is not None:
                break
            time.sleep(0.05)
        raise LabError(f"{pc} did not start: {log} says {log.read_text(errors='replace').strip()[-500:] or 'nothing'}")

    def halt(self, pc: str) -> None:
        """Switches a PC off: it is not on the network any more."""
        if server := self.process(pc):
            os.kill(server, signal.SIGTERM)
            end = time.monotonic() + 10
            while self.process(pc) and time.monotonic() < end:
                if pc in self.children:
                    self.children[pc].poll()
                time.sleep(0.05)
        if (self.folder / pc).exists():
            for option in ("-k", "-w"):
                call("wineserver", option, quiet=True, environment=self.environment(pc))
        self.kill_rest(pc)
        call("ip", "-n", pc, "link", "set", self.settings.adapter, "down", quiet=True)
        (self.folder / f"{pc}.pid").unlink(missing_ok=True)

    @staticmethod
    def kill_rest(pc: str) -> None:
        for _ in range(20):
            pids = [int(pid) for pid in answer("ip", "netns", "pids", pc).split()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                return
            time.sleep(0.05)

    def reset(self, pc: str) -> None:
        """Puts a freshly installed PC in this one's place."""
        self.halt(pc)
        self.remove_prefix(pc)
        self.copy_template(pc)
        self.start(pc)
        self.wait_booted(pc)
        self.write_inventory()

    def remove_prefix(self, pc: str) -> None:
        prefix = self.folder / pc
        if prefix.exists():
            # the folder of the wineserver's socket: Debian's Wine notes its name, others make it from the prefix
            note, found = prefix / "wineserver", prefix.stat()
            name = (
                note.read_text().strip()
                if note.exists()
                else f".wine-{os.getuid()}/server-{found.st_dev:x}-{found.st_ino:x}"
            )
            if re.fullmatch(r"wine-\w{6}|\.wine-\d+/server-\w+-\w+", name):
                shutil.rmtree(f"/tmp/{name}", ignore_errors=True)  # noqa: S108
            shutil.rmtree(prefix)
        (self.folder / f"{pc}.pem").unlink(missing_ok=True)

    def down(self) -> None:
        """Takes everything away but the cache."""
        in_parallel(self.halt, self.pcs())
        for pc in self.pcs():
            call("ip", "link", "delete", f"{self.settings.bridge}-{self.settings.number(pc)}", quiet=True)
            call("ip", "netns", "delete", pc, quiet=True)
            shutil.rmtree(f"/etc/netns/{pc}", ignore_errors=True)
            self.remove_prefix(pc)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()
        call("ip", "link", "delete", self.settings.bridge, quiet=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what one does at a PC

    def run(self, pc: str, policy: str | None, command: list[str]) -> int:
        """Runs a script or a program as the person at the PC would; its exit code."""
        name = command[0]
        if Path(name).is_file():
            path = "Z:" + str(Path(name).resolve()).replace("/", "\\")
            if name.lower().endswith(".ps1"):
                command = [
                    "powershell.exe",
                    "-NoProfile",
                    *(["-ExecutionPolicy", policy] if policy else []),
                    "-File",
                    path,
                    *command[1:],
                ]
            elif name.lower().endswith((".cmd", ".bat")):
                command = ["cmd.exe", "/c", path, *command[1:]]
        for _ in range(STARTS):
            code, was_started = self._run(pc, command)
            if was_started:
                break
        return code

    def _run(self, pc: str, command: list[str]) -> tuple[int, bool]:
        """Exit code, and whether anything was started: Wine sometimes cannot start a program just after the boot."""
        folder = self.folder / pc / "drive_c/users" / self.settings.user
        process = subprocess.Popen(
            self.inside(pc, "wine", *command), env=self.environment(pc), cwd=folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        # through pipes: Wine 8 hands some programs an invalid handle when their output is a file
        assert process.stdout
        assert process.stderr
        said: list[bytes] = []
        readers = [
            threading.Thread(target=hand_on, args=(source, target.buffer), daemon=True)
            for source, target in ((process.stdout, sys.stdout), (noted(process.stderr, said), sys.stderr))
        ]
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:  # Wine's desktop, where the program was the first to need one, keeps the other ends
            reader.join(DRAIN_SECONDS)
        return code, code == 0 or not any(NOT_STARTED in line for line in said)

    def open(self, pc: str) -> None:
        """Opens a PC for Ansible as open.ps1 does."""
        certificate = self.folder / f"{pc}.pem"
        code = self.run(
            pc, "Bypass",
            [str(HERE / "open.ps1"), "-CertificateFile", "Z:" + str(certificate).replace("/", "\\"), "-ControllerAddress", f"{self.settings.net}.1"],
        )  # fmt: skip
        if code:
            raise LabError(f"{pc} could not be opened: open.ps1 ended with {code}")
        end = time.monotonic() + 5
        while reach(None, self.settings.address(pc), [5986])[5986] != "open":
            if time.monotonic() > end:
                raise LabError(f"{pc} was opened, and yet port 5986 does not answer: see {self.folder / pc}.log")

    def scan(self, pc: str, ports: list[int], origin: str | None) -> dict[int, str]:
        """What a port scan says: `open`, or `filtered` by the firewall. Where no program listens, a listener that belongs to no program of the PC stands in."""
        address = self.settings.address(pc)
        busy = {int(found) for found in re.findall(r":(\d+)\s", answer("ip", "netns", "exec", pc, "ss", "-Htln"))}
        idle = [str(port) for port in ports if port not in busy]
        listener = subprocess.Popen(
            ["ip", "netns", "exec", pc, sys.executable, "-c", LISTEN, *idle],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert listener.stdout
            listener.stdout.readline()
            return reach(origin, address, ports)
        finally:
            assert listener.stdin
            listener.stdin.close()
            listener.wait()

    def write_inventory(self) -> None:
        """An inventory of the PCs as Ansible reaches them once they are open; JSON is YAML."""
        hosts = {
            pc: {
                "ansible_host": self.settings.address(pc),
                "ansible_winrm_ca_trust_path": str(self.folder / f"{pc}.pem"),
            }
            for pc in self.pcs()
        }
        variables = {
            "ansible_connection": "winrm", "ansible_port": 5986, "ansible_winrm_transport": "ntlm",
            "ansible_winrm_server_cert_validation": "validate", "ansible_user": "lab", "ansible_password": self.settings.password,
        }  # fmt: skip
        text = json.dumps({"workers": {"hosts": hosts, "vars": variables}}, indent=2)
        (self.folder / "inventory.yml").write_text(text + "\n")


def noted(lines: Iterable[bytes], said: list[bytes]) -> Iterator[bytes]:
    """The lines, which are kept in `said` as well."""
    for line in lines:
        said.append(line)
        yield line


def hand_on(source: Iterable[bytes], target: IO[bytes]) -> None:
    """Line by line: programs without a console print in the PC's code page, PowerShell in UTF-8."""
    for line in source:
        try:
            line.decode()
            target.write(WINE_NOISE.sub(b"", line))
        except UnicodeDecodeError:
            target.write(line.decode("cp949", errors="replace").encode())
        target.flush()


def reach(origin: str | None, address: str, ports: list[int]) -> dict[int, str]:
    """What connecting to each port gives, from a PC or (None) from the controller: open, refused or filtered."""
    command = [
        *(["ip", "netns", "exec", origin] if origin else []),
        sys.executable,
        "-c",
        CONNECT,
        address,
        *map(str, ports),
    ]
    return {int(port): state for port, state in (line.split() for line in answer(*command).splitlines())}


def started(folder: Path) -> Iterator[str]:
    """The next steps, for a person."""
    command = os.path.relpath(HERE / "lab")
    lab = Lab.there()
    names = lab.pcs()
    for pc in names:
        yield f"{pc}  {lab.settings.address(pc)}"
    yield ""
    yield f"{len(names)} Windows PCs are up, closed as new ones are: user {lab.settings.user} sits at them, accounts lab and Administrator, password {lab.settings.password}."
    yield f"Run something at a PC    {command} run {names[0]} --policy Bypass SCRIPT.ps1   (or a .cmd, or PROGRAM ARGUMENTS)"
    yield f"Open them for Ansible    {command} open {' '.join(names)}"
    yield f"Then                     ansible workers -i {folder}/inventory.yml -m ansible.windows.win_ping"
    yield f"See what is open         {command} scan {names[0]} 5985 5986"
    yield "Take them away           make lab-down"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="lab", description="Windows PCs on one Linux machine, with Wine. molecule/lab/README.md says what is real."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    command("setup", "installs packages and makes everything that is kept in the cache")
    one = command("up", "makes N PCs and switches them on, those that are there stay as they are")
    one.add_argument("count", type=int, nargs="?", default=2, metavar="N")
    one.add_argument(
        "--basic",
        action="store_true",
        help="port 5985 takes Basic from the start, whatever the PC says: for tests of something else",
    )
    one = command(
        "run",
        "runs a script (.ps1, .cmd) or a program at a PC, as its user would; a .ps1 under the PC's own execution policy",
    )
    one.add_argument("--policy", metavar="POLICY", help="PowerShell's -ExecutionPolicy, such as Bypass")
    one.add_argument("pc")
    one.add_argument("rest", nargs=argparse.REMAINDER, metavar="SCRIPT ARGUMENTS")
    one = command("scan", "which ports of a PC its firewall lets through: open or filtered")
    one.add_argument("--from", dest="origin", metavar="PC", help="from another PC; else from the controller")
    one.add_argument("pc")
    one.add_argument("ports", nargs="+", type=int, metavar="PORT")
    for name, text in (
        ("open", "opens PCs for Ansible: remoting, a certificate, an HTTPS listener, a firewall rule"),
        ("reset", "puts freshly installed PCs in the place of these"),
        ("halt", "switches PCs off; `up` switches them on again"),
    ):
        command(name, text).add_argument("pcs", nargs="+", metavar="PC")
    command("status", "the PCs that there are")
    command("down", "takes the lab away, every trace but the cache")
    command("check", "proves the lab on PCs of its own, which it takes away again")
    commands.add_parser("help")
    options = parser.parse_args()
    try:
        return act(options, parser)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def act(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    cache, folder = folders()
    if options.command == "help":
        parser.print_help()
    elif options.command in ("setup", "up"):
        need_root()
        settings = from_environment()
        setup = Setup(cache, settings)
        setup.run()
        if options.command == "up":
            made = {"engine": str(setup.engine), "template": str(setup.template), "basic": options.basic}
            Lab(cache, folder, Settings(**{**asdict(settings), **made})).up(options.count)
            print("\n".join(started(folder)))
    elif options.command == "down":
        need_root()
        try:
            lab = Lab.there()
        except LabError:
            lab = Lab(cache, folder, from_environment())  # what an interrupted `up` may have left
        lab.down()
    elif options.command == "check":
        need_root()
        return subprocess.run([HERE / "checks/check.sh"], check=False).returncode
    elif options.command == "status":
        lab = Lab.there()
        for pc in lab.pcs():
            print(pc, lab.settings.address(pc), "on" if lab.process(pc) else "off")
    elif options.command == "run":
        lab = Lab.there()
        if options.rest[:1] == ["--policy"]:  # also behind the PC's name
            options.policy, options.rest = options.rest[1], options.rest[2:]
        if not options.rest:
            raise LabError("run what? lab run PC SCRIPT.ps1 ARGUMENTS")
        return lab.run(lab.known(options.pc), options.policy, options.rest)
    elif options.command == "scan":
        lab = Lab.there()
        for port, state in lab.scan(
            lab.known(options.pc), options.ports, options.origin and lab.known(options.origin)
        ).items():
            print(port, state)
    else:
        lab = Lab.there()
        for pc in [lab.known(pc) for pc in options.pcs]:
            getattr(lab, options.command)(pc)
    return 0


if __name__ == "__main__":
    sys.exit(main())
