"""add_workers.yml: clusters are made and extended from worker files, and a changed certificate is refused."""

import json
from pathlib import Path

import pytest
import yaml
from made_files import certificate
from programs import call, output_of
from winfleet.controller.clusters import (
    ClusterError,
    Worker,
    add,
    certificate_file,
    check_fingerprint,
    fingerprint,
    load,
    read_worker,
)  # fmt: skip


@pytest.fixture
def workers(tmp_path: Path) -> list[Worker]:
    return [
        Worker(name=f"연구실-{n}", address=f"192.168.0.2{n}", certificate=certificate(tmp_path, f"pc{n}"), user="lab")
        for n in (1, 2)
    ]


def test_a_cluster_is_made_extended_and_keeps_the_users_comments(tmp_path: Path, workers: list[Worker]) -> None:
    folder = tmp_path / "inventories" / "lab"
    assert add(folder, workers[:1], replace=False, dry_run=False)["changed"]
    hosts = folder / "hosts.yml"
    hosts.write_text(hosts.read_text("utf-8").replace("workers:", "# 우리 연구실\nworkers:"), "utf-8")
    done = add(folder, workers[1:], replace=False, dry_run=False)
    assert done == {"changed": True, "hosts": ["연구실-1", "연구실-2"]}
    assert "# 우리 연구실" in hosts.read_text("utf-8")
    assert not add(folder, workers, replace=False, dry_run=False)["changed"], "twice is the same as once"
    entry = yaml.safe_load(hosts.read_text("utf-8"))["workers"]["hosts"]["연구실-2"]
    assert entry["ansible_host"] == "192.168.0.22"
    pinned = Path(entry["ansible_winrm_ca_trust_path"].replace("{{ inventory_dir }}", str(folder)))
    assert fingerprint(pinned.read_text()) == workers[1].fingerprint


def test_a_changed_certificate_is_refused_by_name_until_it_is_said_to_be_right(
    tmp_path: Path, workers: list[Worker]
) -> None:
    folder = tmp_path / "lab"
    add(folder, workers, replace=False, dry_run=False)
    changed = Worker(name=workers[0].name, address=workers[0].address, certificate=certificate(tmp_path, "new"))
    with pytest.raises(ClusterError, match="연구실-1: its certificate has changed: SHA-256") as error:
        add(folder, [changed], replace=False, dry_run=False)
    assert "-e fleet_replace_certificates=true" in str(error.value)
    assert add(folder, [changed], replace=True, dry_run=False)["changed"]


def test_two_workers_of_one_address_are_refused_before_anything_is_written(
    tmp_path: Path, workers: list[Worker]
) -> None:
    twin = Worker(name="twin", address=workers[0].address, certificate=workers[1].certificate)
    with pytest.raises(ClusterError, match=r"hosts 연구실-1 and twin have the same address 192\.168\.0\.21"):
        add(tmp_path / "lab", [workers[0], twin], replace=False, dry_run=False)
    assert not (tmp_path / "lab").exists()


def test_check_mode_writes_nothing(tmp_path: Path, workers: list[Worker]) -> None:
    assert add(tmp_path / "lab", workers, replace=False, dry_run=True)["changed"]
    assert not (tmp_path / "lab").exists()
    assert list(load(tmp_path / "lab")) == ["workers", "windows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certificate": "no PEM"}, "is no worker file"),
        ({"address": "pc1.local"}, "is no worker file"),
        ({"name": "../../etc/passwd"}, "cannot be used"),
        ({"user": "{{ lookup('pipe', 'id') }}"}, "cannot be used"),
        ({"certificate_sha256": "AA:BB"}, "the file says AA:BB"),
        ({"port": "many"}, "is no worker file"),
    ],
)
def test_a_worker_file_is_data_and_never_trusted(
    tmp_path: Path, workers: list[Worker], change: dict[str, str], message: str
) -> None:
    values = {"name": "pc1", "address": "192.168.0.21", "user": "lab", "certificate": workers[0].certificate, **change}
    path = tmp_path / "pc1.worker.yml"
    path.write_text(yaml.safe_dump(values), "utf-8-sig")
    with pytest.raises(ClusterError, match=message) as error:
        read_worker(path)
    assert "\nhint: " in str(error.value)


def test_a_given_fingerprint_must_be_the_certificates(workers: list[Worker]) -> None:
    check_fingerprint(workers[0], workers[0].fingerprint.lower().replace(":", " "))
    with pytest.raises(ClusterError, match="somebody else answers"):
        check_fingerprint(workers[0], workers[1].fingerprint)


class Added:
    """add_workers.yml on one worker's file, in a folder that stands for the repository's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cluster = folder, folder / "inventories" / "lab"
        self.vault, self.keys = self.cluster / "group_vars" / "windows" / "vault.yml", {}
        values = {"name": "pc1", "address": "192.168.0.21", "user": "", "certificate": certificate(folder, "pc1")}
        (folder / "pc1.worker.yml").write_text(yaml.safe_dump(values))
        for name in ("right", "wrong"):
            self.keys[name] = folder / f"{name}.key"
            self.keys[name].write_text(f"{name}\n")

    def run(self, environment: dict[str, str], *arguments: str | Path, fails: bool = False) -> str:
        """What Ansible shows."""
        settings = ["-e", f"fleet_root={self.folder}", "-e", f"fleet_worker_files={self.folder}"]
        done = call("ansible-playbook", "add_workers.yml", *settings, *arguments, environment=environment)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def key(self, name: str) -> dict[str, str]:
        """How Ansible is given a vault password."""
        return {"ANSIBLE_VAULT_PASSWORD_FILE": str(self.keys[name])}

    def variable(self, name: str) -> str:
        """What a playbook has on the host."""
        words = ("-i", self.cluster, "-m", "debug", "-a", f"var={name}")
        shown = output_of("ansible", "pc1", *words, environment=self.key("right"))
        return str(json.loads(shown[shown.index("{") :])[name])


@pytest.fixture
def added(tmp_path: Path) -> Added:
    return Added(tmp_path)


PASSWORD = "암호 {{ 1 }} '\"\\ #:x"


@pytest.mark.ansible
def test_with_a_vault_password_the_workers_password_is_kept_encrypted(added: Added) -> None:
    secret = {"WINFLEET_PASSWORD": PASSWORD, "WINFLEET_USER": "lab", **added.key("right")}
    added.run(secret, "--check")
    assert not added.vault.exists()
    shown = added.run(secret, "-vvv")
    assert added.vault.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    assert added.vault.stat().st_mode & 0o777 == 0o600
    everywhere = [shown.encode(), *(path.read_bytes() for path in added.folder.rglob("*") if path.is_file())]
    for form in (PASSWORD, PASSWORD[:2], json.dumps(PASSWORD)[1:-1]):
        assert not [text for text in everywhere if form.encode() in text]
    assert (added.variable("ansible_password"), added.variable("ansible_user")) == (PASSWORD, "lab")

    before = added.vault.read_bytes()
    again = added.run(secret)
    assert "Keep the password" not in again
    assert "--vault-password-file FILE" in again
    assert added.vault.read_bytes() == before
    words = ("--vault-password-file", added.keys["right"])
    assert "Keep the password" in added.run({"WINFLEET_PASSWORD": "new"}, *words)
    assert added.variable("ansible_password") == "new"


@pytest.mark.ansible
def test_without_a_vault_password_or_a_password_no_vault_is_made(added: Added) -> None:
    assert "Next: export WINFLEET_PASSWORD=…; " in added.run({"WINFLEET_PASSWORD": PASSWORD})
    added.run(added.key("right"))
    assert not added.vault.parent.exists()


@pytest.mark.ansible
def test_another_vault_password_and_a_file_that_would_be_hidden_are_refused(added: Added) -> None:
    right, wrong = ({"WINFLEET_PASSWORD": PASSWORD, **added.key(name)} for name in ("right", "wrong"))
    added.run(right)
    before = added.vault.read_bytes()
    said = added.run(wrong, fails=True)
    assert f"{added.vault} cannot be read: " in said
    assert "  hint: give the vault password that it was made with" in said
    assert added.vault.read_bytes() == before
    added.vault.unlink()
    (added.vault.parent.parent / "windows.yml").write_text("fleet_home: D:/winfleet\n")
    assert "windows.yml would be ignored beside" in added.run(right, fails=True)
    assert not added.vault.exists()


def test_pcs_cloned_from_one_image_are_named_before_anything_is_written(tmp_path: Path, workers: list[Worker]) -> None:
    clone = Worker(name="clone", address="192.168.0.23", certificate=workers[0].certificate)
    same = f"연구실-1 and clone have the same certificate, SHA-256 {clone.fingerprint}: they were cloned from one image"
    with pytest.raises(ClusterError, match=same) as error:
        add(tmp_path / "lab", [*workers, clone], replace=False, dry_run=False)
    assert "hint: run scripts\\worker_setup.cmd again on both" in str(error.value)
    assert not (tmp_path / "lab").exists()
    add(tmp_path / "lab", workers, replace=False, dry_run=False)
    with pytest.raises(ClusterError, match=same):
        add(tmp_path / "lab", [clone], replace=False, dry_run=False)
    new = Worker(name=workers[0].name, address=workers[0].address, certificate=certificate(tmp_path, "new"))
    assert add(tmp_path / "lab", [new, clone], replace=True, dry_run=False)["changed"], "it has one of its own now"


def test_the_preflight_names_clones_and_not_hosts_of_one_authority(tmp_path: Path, workers: list[Worker]) -> None:
    inventory = tmp_path / "inventories" / "lab"
    add(inventory, workers, replace=False, dry_run=False)
    pinned = certificate_file(inventory, workers[1].name)
    pinned.write_text(workers[0].certificate)  # as versions that did not look have written it
    known = f"연구실-1 and 연구실-2 have the same certificate, SHA-256 {workers[0].fingerprint}"
    words = (
        "ansible-playbook",
        "preflight.yml",
        "-i",
        str(inventory),
        "-e",
        "ansible_port=9 ansible_host=127.77.55.1 ansible_password=x",
    )
    assert known in call(*words).stderr
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text("utf-8").replace(workers[1].name + ".pem", workers[0].name + ".pem"), "utf-8")
    assert known not in call(*words).stderr
