"""Environments: the build of torch that fits a host's GPUs, and one that is made while nobody is connected.

torch is a wheel of some lines here, whose build and number of GPUs a test says; uv, the interpreter and pip are real.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, patience, wait_until
from made_files import write_wheel
from servers import free_port
from uv import find_uv_bin
from winfleet.core.errors import HostError
from winfleet.environments import environment, making
from winfleet.environments.interpreters import fits
from winfleet.environments.lock import LockError
from winfleet.environments.making_watch import Making, ask, parse, watch
from winfleet.environments.wheels import Environment, check_build, download

ADDRESS = "127.0.0.9"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TORCH = """
__version__ = {version!r}
class cuda:
    device_count = staticmethod(lambda: {gpus})
class ones:
    def __init__(self, *size, device):
        assert device in ("cpu", "cuda:0", "cuda:1")
    __matmul__ = lambda self, other: self
    sum = lambda self: 64.0**3
"""


def torch_wheel(folder: Path, version: str = "2.13.0+cpu", gpus: int = 0, tag: str = "py3-none-any") -> None:
    write_wheel(folder, "torch", version, tag, TORCH.format(version=version, gpus=gpus))


class Host:
    """A host whose environment comes from a folder of wheels."""

    def __init__(self, folder: Path) -> None:
        self.home, self.wheels = folder / "home", folder / "wheels"
        self.port = free_port(ADDRESS)
        self.given: dict[str, Any] = {
            "digest": hashlib.sha256(b"lock").hexdigest(), "torch": "2.13.0", "direct": {"torch": ["2.13.0"]}, "python": "",
            "base": sys.executable, "requirements": "", "python_version": VERSION, "torch_backend": "auto", "uv": find_uv_bin(),
            "wheels": str(self.wheels), "refuse": False, "gpus": 0, "address": ADDRESS, "limit_minutes": 2, "logon": "s4u",
            "secrets": {"task_password": "hidden"},
        }  # fmt: skip
        self.folder = making.folder_of(self.home, self.given)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, job: Path) -> None:
        """As the scheduled task does on Windows."""
        words = ["-m", "winfleet.environments.making", "--job", str(job), "--port", str(self.port)]
        self.started.append(subprocess.Popen([sys.executable, *words], env=ENVIRONMENT))

    def begin(self) -> None:
        making.begin(self.home, self.given, self.start)

    def watch(self, seen: Callable[[str], None] = lambda _: None) -> Making:
        """Follows it until it has ended; `seen` is called with what is shown meanwhile."""
        known = watch(
            {"pc1": ADDRESS}, lambda all_: seen(str(all_["pc1"])), interval=0.1, silent_seconds=patience(15), port=self.port
        )  # fmt: skip
        return known["pc1"]

    def ensure(self) -> Mapping[str, Any]:
        return environment.ensure(self.home, self.given, check=False)


@pytest.fixture
def host(tmp_path: Path) -> Any:
    """A host; who makes something there is ended."""
    made = Host(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def test_an_environment_is_made_by_itself_and_found_afterwards(host: Host) -> None:
    torch_wheel(host.wheels, "2.13.0+cu130", gpus=2)
    host.given["gpus"] = 2
    seen: list[str] = []
    host.begin()
    host.begin()  # a rerun, in whatever moment it comes
    assert host.watch(seen.append).state == "made"
    assert seen[-1] == "made"
    made = host.ensure()
    assert made["changed"] is False
    assert made["versions"]["torch"] == "2.13.0+cu130"
    assert [process.wait(patience(20)) for process in host.started] in ([0], [0, 0])
    assert "hidden" not in "".join(path.read_text() for path in host.folder.parent.iterdir() if path.is_file())
    assert making.being_made(host.home) == []
    metadata = next(host.folder.rglob("torch-*.dist-info/METADATA"))
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n")  # as who installs by hand leaves it
    said = f"torch is 2.9.1, the lock says 2.13.0\nhint: remove {host.folder}, then run again"
    with pytest.raises(HostError, match=re.escape(said)):
        host.ensure()


def test_an_environment_of_another_lock_does_not_count_and_is_named_with_both_digests(host: Host) -> None:
    mark, wanted = host.folder / "winfleet.json", host.given["digest"][:12]
    host.given["refuse"] = True
    hint = "; none is made with fleet_skip_deploy\nhint: run deploy_and_train.yml without it once"
    with pytest.raises(HostError, match=f"^it has no environment, this controller's lock is {wanted}{hint}"):
        host.ensure()
    mark.parent.mkdir(parents=True)
    mark.write_text('{"digest": "' + 64 * "7" + '"}')
    other = host.folder.with_name("8" * 12) / mark.name
    other.parent.mkdir()
    other.write_text('{"digest": "' + 64 * "8" + '"}')
    os.utime(other, (1, 1))
    there = "its environment is of the lock 777777777777 and 888888888888, "
    with pytest.raises(HostError, match=f"^{there}this controller's lock is {wanted}{hint}"):
        host.ensure()
    mark.write_text('{"digest": "' + host.given["digest"] + '"}')
    with pytest.raises(HostError, match="cannot be used"):  # it is taken, and has no Python
        host.ensure()


def slow_uv(folder: Path) -> str:
    """A program that is at the download of torch for a long time."""
    program = folder / "uv"
    program.write_text("#!/bin/sh\necho Downloading torch >&2\nexec sleep 60\n")
    program.chmod(0o755)
    return str(program)


def test_while_it_is_made_nobody_else_begins_and_an_end_without_a_word_is_told(host: Host, tmp_path: Path) -> None:
    host.given["uv"] = slow_uv(tmp_path)
    host.begin()
    said = wait_until(lambda: (told := ask(ADDRESS, host.port)) and told.line and told, 15, "its progress")
    assert (said.state, said.step, said.line) == ("making", "Python", "Downloading torch")
    assert str(said).startswith("Python ")
    host.begin()
    assert len(host.started) == 1
    assert making.being_made(host.home) == [host.folder.name]
    assert making.explain(host.home, host.given).startswith("its environment is still being made\nhint: run again")
    with pytest.raises(
        HostError, match=f"another environment, {host.folder.name}, is being made here\nhint: run again"
    ):
        making.begin(host.home, {**host.given, "digest": "0" * 64}, host.start)
    host.started[0].send_signal(signal.SIGKILL)
    host.started[0].wait()
    wait_until(lambda: not making.being_made(host.home), 5, "that its lock is free")
    assert making.explain(host.home, host.given) == (
        f"making {host.folder} ended without a word:\nDownloading torch\nhint: run again; what was downloaded is kept"
    )


def test_uvs_last_words_are_told_and_the_next_try_begins_anew(host: Host) -> None:
    host.wheels.mkdir()
    host.begin()
    assert host.watch().state == "failed"
    why = making.explain(host.home, host.given)
    assert why.startswith(f"`{find_uv_bin()} pip install` failed with 1:\n")
    assert "torch" in why
    assert "\n  cause: a package of the lock has no build for this Python or system" in why
    assert "[no-wheel]\n  hint: " in why
    assert not (host.folder / "winfleet.json").exists()
    torch_wheel(host.wheels)
    host.begin()
    assert making.explain(host.home, host.given) != why
    assert host.watch().state == "made"


def test_variables_of_uv_reach_it_and_secrets_among_them_stay_nowhere(host: Host, tmp_path: Path) -> None:
    program = tmp_path / "uv"
    program.write_text('#!/bin/sh\necho "$UV_HTTP_TIMEOUT by $HTTPS_PROXY: hush" >&2\nexit 1\n')
    program.chmod(0o755)
    host.given.update(uv=str(program), environment={"UV_HTTP_TIMEOUT": "601", "HTTPS_PROXY": "http://other"})
    host.given["secrets"]["uv"] = {"HTTPS_PROXY": "http://me:hush@proxy:8080"}
    host.begin()
    assert host.watch().state == "failed"
    assert "601 by ***: ***" in making.explain(host.home, host.given)
    left = [path for path in host.home.rglob("*") if path.is_file()]
    assert left
    assert not [path for path in left if "hush" in path.read_text()]

    def fail(_: Path) -> None:
        raise OSError("no task")

    with pytest.raises(OSError, match="no task"):
        making.begin(host.home, host.given, fail)
    assert not list(host.home.rglob("*.secrets.json"))
    making.begin(host.home, host.given, lambda _: None)  # a task that never comes
    assert making.explain(host.home, host.given)
    assert not list(host.home.rglob("*.secrets.json"))


def test_on_windows_uv_trusts_the_systems_certificates_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    def found(inherited: Mapping[str, str], *, windows: bool = True, **users: str) -> dict[str, str]:
        secrets = {"uv": {"https_proxy": "http://me:hush@proxy"}}
        given = {"environment": {"HTTPS_PROXY": "http://other", **users}, "secrets": secrets}
        return environment.variables(tmp_path, given, inherited, windows=windows)

    plain = found({"HTTPS_PROXY": "http://old", "UV_HTTP_TIMEOUT": "30"}, ssl_cert_file="C:\\ca.pem")
    assert plain["UV_SYSTEM_CERTS"] == "true"
    assert (plain["HTTPS_PROXY"], plain["SSL_CERT_FILE"]) == ("http://me:hush@proxy", "C:\\ca.pem")
    assert plain["UV_HTTP_TIMEOUT"] == "30"
    assert "https_proxy" not in plain, "Windows' names have no case, and two would be left to chance"
    for own in (found({"UV_NATIVE_TLS": "0"}), found({}, UV_NATIVE_TLS="0"), found({}, windows=False)):
        assert "UV_SYSTEM_CERTS" not in own
    assert found({}, UV_SYSTEM_CERTS="false")["UV_SYSTEM_CERTS"] == "false"


def test_a_python_of_the_system_is_taken_where_uv_has_none_but_never_condas(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda, plain = tmp_path / "conda" / "bin", tmp_path / "plain" / "bin"
    for folder in (conda, plain):
        folder.mkdir(parents=True)
        (folder / f"python{VERSION}").symlink_to(Path(sys.base_prefix, "bin", f"python{VERSION}"))
    (conda.parent / "conda-meta").mkdir()
    torch_wheel(host.wheels)
    host.given["base"] = ""
    monkeypatch.setenv("PATH", str(conda))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostError, match=f"No interpreter found for Python {VERSION} in managed"):
        host.ensure()
    monkeypatch.setenv("PATH", f"{conda}{os.pathsep}{plain}")
    made = host.ensure()
    assert made["note"].startswith(
        f"uv has no Python {VERSION} of its own and could not fetch one (No interpreter found for "
    )
    assert f"; {plain / f'python{VERSION}'} ({VERSION}." in made["note"]
    assert host.ensure()["note"] == "", "said once"


@pytest.mark.parametrize(
    ("path", "values", "wanted"),
    [
        (r"C:\Python311\python.exe", {}, True), (r"C:\Users\홍길동\Python311\python.exe", {}, False),
        (r"C:\Python311-32\python.exe", {"arch": "x86"}, False), (r"C:\pypy\python.exe", {"implementation": "pypy"}, False),
        (r"C:\Python313t\python.exe", {"variant": "freethreaded"}, False), (None, {}, False),
    ],
)  # fmt: skip
def test_which_pythons_of_a_windows_pc_may_be_taken(path: str | None, values: dict[str, str], wanted: bool) -> None:
    entry = {"path": path, "implementation": "cpython", "variant": "default", "arch": "x86_64", **values}
    assert fits(entry, windows=True) is wanted


def test_a_gpu_without_a_torch_for_it_is_refused_unless_cpu_is_asked_for(host: Host) -> None:
    torch_wheel(host.wheels)
    assert host.ensure()["changed"] is True
    assert host.ensure()["changed"] is False
    host.given["gpus"] = 1  # its driver came later
    with pytest.raises(
        HostError, match=r"torch 2.13.0\+cpu sees none of the 1 GPUs .*\nhint: the wheels hold torch's CPU build"
    ):
        host.ensure()
    assert not (host.folder / "winfleet.json").exists()
    host.given["torch_backend"] = "cpu"
    assert host.ensure()["changed"] is True


def test_making_it_has_a_limit(host: Host, tmp_path: Path) -> None:
    host.given.update(uv=slow_uv(tmp_path), limit_minutes=0.01)
    with pytest.raises(
        HostError, match=r"not done after 0.01 minutes:\nDownloading torch\nhint: run again, .* uv_env_limit_minutes"
    ):
        host.ensure()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""), ("[1]", ""), ('{"state": "rm -rf"}', ""), ('{"state": "making", "step": "a\\u001bb", "seconds": "x"}', "ab 0 s"),
        ('{"state": "making", "step": "torch", "seconds": 61.4, "line": "Downloading\\ntorch"}', "torch 61 s (Downloading torch)"),
        ('{"state": "failed", "line": "' + "x" * 99 + '"}', "failed"),
    ],
)  # fmt: skip
def test_what_a_host_says_is_data(text: str, wanted: str) -> None:
    assert str(parse(text)) == (wanted or "waiting")


# --- wheels for hosts without internet


def asked(**values: Any) -> Environment:
    return Environment(
        **{"requirements": "", "torch": "2.13.0", "python_version": VERSION, "platform": "win_amd64", **values}
    )


TAG = f"cp{VERSION.replace('.', '')}"


@pytest.mark.index
def test_a_torch_of_the_users_is_taken_and_the_cpu_build_is_refused_for_gpus(tmp_path: Path) -> None:
    own = tmp_path / "own"
    torch_wheel(own, "2.13.0+cpu", tag=f"{TAG}-{TAG}-win_amd64")
    cpu = asked(own=own)
    for version, tag in (("2.14.0+cu130", "win_amd64"), ("2.13.0+cu130", "manylinux_2_28_x86_64")):
        torch_wheel(own, version, tag=f"{TAG}-{TAG}-{tag}")
    assert cpu.own_torch == "2.13.0+cpu"
    folder = cpu.folder(tmp_path)
    download(folder, cpu)
    check_build(folder, cpu, {"pc1": []})
    with pytest.raises(LockError) as refused:
        check_build(folder, cpu, {"pc1": [], "pc2": ["NVIDIA GeForce RTX 3060"]})
    assert str(refused.value) == (
        "torch 2.13.0+cpu for workers without internet is the build without GPUs, and pc2 has NVIDIA GeForce RTX 3060\n"
        "hint: set uv_env_torch_backend to the build for the driver, as cu130; or put torch-2.13.0+cu130-*.whl for the workers "
        "into a folder here and set uv_env_own_wheels to it; or train on CPUs: uv_env_torch_backend=cpu"
    )
    torch_wheel(own, "2.13.0+cu130", tag=f"{TAG}-{TAG}-win_amd64")
    cuda = asked(own=own)
    assert cuda.folder(tmp_path) != folder
    download(cuda.folder(tmp_path), cuda)
    assert [path.name for path in cuda.folder(tmp_path).iterdir()] == [f"torch-2.13.0+cu130-{TAG}-{TAG}-win_amd64.whl"]
    check_build(cuda.folder(tmp_path), cuda, {"pc2": ["NVIDIA GeForce RTX 3060"]})


def test_a_build_that_is_asked_for_by_name_comes_from_pytorchs_index(tmp_path: Path) -> None:
    cuda = asked(torch_backend="cu130")
    assert cuda.index == ["--extra-index-url", "https://download.pytorch.org/whl/cu130"]
    folders = {asked(torch_backend=name).folder(tmp_path) for name in ("", "auto", "cu130", "cu129", "cpu")}
    assert len(folders) == 4


def test_pypis_torch_has_gpus_on_linux_alone() -> None:
    assert [environment.is_cpu_build(version, windows=True) for version in ("2.13.0", "2.13.0+cpu", "2.13.0+cu130", "")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [environment.is_cpu_build(version, windows=False) for version in ("2.13.0", "2.13.0+cpu")] == [False, True]
