"""A user's requirements.txt, from the playbooks to the workers' environments; and what is wrong with it, before anything is sent."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, Fleet, patience
from small_index import SmallIndex

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


class Cluster:
    """Two workers without an environment, a project with requirements, and an index of this machine."""

    def __init__(self, fleet: Fleet, index: SmallIndex) -> None:
        self.fleet, self.project, place = fleet, fleet.folder / "project", fleet.folder
        self.project.mkdir()
        (self.project / "train.py").touch()
        self.environment = {
            **{name: value for name, value in ENVIRONMENT.items() if not name.startswith(("PIP_", "UV_"))}, "UV_DEFAULT_INDEX": f"{index.url}/simple", "PIP_INDEX_URL": f"{index.url}/simple", "PIP_CONFIG_FILE": os.devnull,
            "UV_CACHE_DIR": str(place / "uv"), "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_NO_CACHE_DIR": "1",
        }  # fmt: skip
        fleet.variables |= {
            "fleet_project": str(self.project), "fleet_command": "train.py", "uv_env_python": "", "uv_env_interpreter": sys.executable,
            "uv_env_python_version": MINOR, "uv_env_torch_backend": "", "uv_env_cache": str(place / "cache"),
        }  # fmt: skip

    def play(self, *playbooks: str) -> "subprocess.CompletedProcess[str]":
        self.fleet.write()
        return subprocess.run(
            ["ansible-playbook", *playbooks, "-i", str(self.fleet.inventory)], cwd=ROOT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=patience(240),
        )  # fmt: skip

    def environments(self, host: str) -> list[Path]:
        return [path for path in (self.fleet.home(host) / "env").glob("*") if path.is_dir()]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallIndex]:
    made = SmallIndex(tmp_path_factory.mktemp("index"))
    made.fill()
    yield made
    made.close()


@pytest.fixture
def cluster(fleet: Fleet, index: SmallIndex) -> Cluster:
    return Cluster(fleet, index)


UNTIL_READY = ("playbooks/preflight.yml", "playbooks/sync.yml", "playbooks/environment.yml")
PASSWORD = "hun-ter.2"
# A worker's Python that has nothing of the controller's environment that uv would take.
BARE = f'#!/bin/sh\nexec env -u HTTP_PROXY -u UV_DEFAULT_INDEX -u UV_PYTHON_DOWNLOADS {sys.executable} "$@"\n'
USE = "import small_a, small_b, pure_source, importlib.metadata as m; print(m.version('small-a'), pure_source.built)"


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_requirements_reach_the_workers_with_what_was_built_here(cluster: Cluster, offline: bool) -> None:
    (cluster.project / "requirements.txt").write_text("small-a==1.0\npure-source\ntorch==2.13.0+cu121\ntriton==3.1.0\n")
    cluster.fleet.variables["uv_env_offline"] = offline
    done = cluster.play(*UNTIL_READY)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Packages: requirements.txt resolved for Linux and Python") == 1, "shown once"
    assert "  small-a 1.0, pure-source 1.5, torch 2.13.0\n" in done.stdout
    assert "left to torch's build: torch==2.13.0+cu121, triton==3.1.0" in done.stdout
    assert "built here from source: pure_source-1.5-py3-none-any.whl" in done.stdout
    for host in cluster.fleet.hosts:
        (folder,) = cluster.environments(host)
        said = subprocess.run([folder / "bin" / "python", "-c", USE], capture_output=True, text=True, check=True).stdout
        assert said == "1.0 True\n"
    again = cluster.play(*UNTIL_READY)
    assert again.returncode == 0, again.stdout
    assert "Make the environment\n" in again.stdout
    assert ": Make the environment" not in again.stdout, "nothing is made anew"


def test_a_proxy_an_index_and_a_mirror_reach_uv_on_the_workers_and_a_password_stays_nowhere(
    cluster: Cluster, index: SmallIndex, tmp_path: Path
) -> None:
    cluster.fleet.hosts.pop("worker2")
    (bare := tmp_path / "python").write_text(BARE)
    bare.chmod(0o755)
    (cluster.project / "requirements.txt").write_text("small-a\n")
    cluster.fleet.variables |= {
        "ansible_python_interpreter": str(bare), "uv_env_interpreter": "", "uv_env_secrets": ["HTTP_PROXY"],
        "uv_env_environment": {
            "UV_DEFAULT_INDEX": "http://packages.example/simple", "UV_PYTHON_INSTALL_MIRROR": f"{index.url}/pythons", "UV_NO_CACHE": "1",
        },
    }  # fmt: skip
    lacking = (
        "error: controller: uv_env_secrets names HTTP_PROXY, which this machine's environment does not have\n  hint: "
    )
    assert lacking in cluster.play("preflight.yml").stdout
    cluster.environment |= {"HTTP_PROXY": index.url.replace("//", f"//me:{PASSWORD}@"), "NO_PROXY": ""}
    index.asked.clear()
    done = cluster.play(*UNTIL_READY)
    assert done.returncode == 0, done.stdout
    who = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert ("http://packages.example/simple/small-a/", who) in index.asked
    assert any("/pythons/" in path for path, _ in index.asked), "uv's own Python comes first"
    note = f"  worker1: uv has no Python {MINOR} of its own and could not fetch one (HTTP status client error (404 Not Found)"
    assert done.stdout.count(note) == 1, done.stdout
    shown = cluster.play("playbooks/environment.yml", "-vvv")
    assert shown.returncode == 0, shown.stdout
    assert PASSWORD not in done.stdout + shown.stdout
    (folder,) = cluster.environments("worker1")
    subprocess.run([folder / "bin" / "python", "-c", "import small_a"], check=True)
    written = [path for path in cluster.fleet.folder.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


def test_what_cannot_be_had_is_said_before_anything_is_sent(cluster: Cluster) -> None:
    (cluster.project / "requirements.txt").write_text("-e .\nsmall-a\n./local\n")
    done = cluster.play("deploy_and_train.yml")
    assert done.returncode != 0
    assert (
        "error: controller: requirements.txt:1: -e .: an editable package is one of this machine\n  hint: "
        in done.stdout
    )
    assert "requirements.txt:3: ./local: the path lies on this machine" in done.stdout
    assert not any(cluster.fleet.home(host).exists() for host in cluster.fleet.hosts)
    (cluster.project / "requirements.txt").write_text("small-a\nsmall-b==2.0\n")
    done = cluster.play("preflight.yml")
    assert done.returncode != 0
    assert "error: controller: requirements.txt:2: small-b==2.0: not to be had for Linux" in done.stdout
    assert not any(cluster.fleet.home(host).exists() for host in cluster.fleet.hosts)
