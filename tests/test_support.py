"""The zip for a person who helps: what is in it, and that no secret and no name of an account is."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import Fleet
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.support import archive, gather
from winfleet.support.redaction import Redactor, accounts_in, secrets_in, spellings, without_secrets

WANDB = "0123456789abcdef" * 2 + "01234567"
HF = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
PASSWORD = "p4ss w'ord\"&<한>"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"

TEXTS = {
    f"wandb: {WANDB}.": "wandb: <secret>.",
    f"sha256:{'a' * 64} code 0c0de0c0de00": f"sha256:{'a' * 64} code 0c0de0c0de00",
    f"login({HF})": "login(<secret>)",
    "git+https://x-token:abc@host/a.git http://proxy:8080/": "git+https://<secret>@host/a.git http://proxy:8080/",
    "https://ghp_token@github.com/x": "https://<secret>@github.com/x",
    "Authorization: Bearer abc.def-ghi": "Authorization: Bearer <secret>",
    f"a\n{KEY}\nb": "a\n<secret>\nb",
    '{"api_key": "abc", "max_tokens": 2048, "tokenizer": "gpt2"}': '{"api_key": "<secret>", "max_tokens": 2048, "tokenizer": "gpt2"}',
    "train.py --token abc --epochs 3": "train.py --token <secret> --epochs 3",
    "DB_PASSWORD=12345 NAME=x": "DB_PASSWORD=<secret> NAME=x",
    "password: 'a b c'": "password: '<secret>'",
    "token 12 of 50, tokens: 5, token: 7": "token 12 of 50, tokens: 5, token: 7",
    r"C:\Users\Kim Yeon Gu\AppData\x.py": r"C:\Users\<user>\AppData\x.py",
    r"C:\\Users\\bob\\x, D:/Users/bob: no": r"C:\\Users\\<user>\\x, D:/Users/<user>: no",
    r"C:\Users\Public\x /home/alice/x /mnt/c/Users/eve/x": r"C:\Users\Public\x /home/<user>/x /mnt/c/Users/<user>/x",
    "alice@10.0.0.2: a.b@lab.org": "<user>@10.0.0.2: <mail>",
    "link/ether 00:1a:2b:3c:4d:5e brd ff:ff:ff:ff:ff:ff": "link/ether <mac> brd <mac>",
    "10:21:07 00-1A-2B-3C-4D-5E": "10:21:07 <mac>",
    "fe80::211:22ff:fe33:4455%12 2001:4860::8888 ::1 a::b": "fe80::<mac> <public address> ::1 <public address>",
    "192.168.0.21 10.0.0.1 100.64.0.1 127.0.0.2 8.8.8.8": "192.168.0.21 10.0.0.1 100.64.0.1 127.0.0.2 <public address>",
    "nvidia-cublas==13.1.0.3 driver 31.0.15.3623": "nvidia-cublas==13.1.0.3 driver 31.0.15.3623",
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items())
def test_what_is_not_for_strangers_is_found_by_its_form(text: str, expected: str) -> None:
    assert Redactor().text(text) == expected
    assert Redactor().text(expected) == expected, "twice is once"


@pytest.mark.parametrize("form", sorted(spellings(PASSWORD)))
def test_a_known_secret_is_found_however_it_is_written(form: str) -> None:
    redactor = Redactor([PASSWORD])
    assert redactor.text(f"<b>{form}</b>") == "<b><secret></b>"
    assert redactor.counts["<secret>"] == 1


def test_a_known_account_is_found_as_a_word() -> None:
    redactor = Redactor(accounts=["alice", "김연구", "root"])
    assert redactor.text("Alice in alice_1, malice, root; 김연구가 \\uae40\\uc5f0\\uad6c") == (
        "<user> in <user>_1, malice, root; <user>가 <user>"
    )


def test_accounts_are_learned_from_home_folders() -> None:
    text = 'C:\\Users\\bob\\x /home/eve /home/root "C:\\\\Users\\\\\\uae40\\uc5f0\\\\x"'
    assert accounts_in(text) == {"bob", "eve", "김연"}


def test_values_are_secret_by_their_names_at_any_depth() -> None:
    values = {"ansible_password": "a1b2", "fleet_environment": {"HF_TOKEN": "x1y2", "OMP_NUM_THREADS": "1"},
              "fleet_secrets": ["WANDB_API_KEY"], "uv_env_secrets": ["HTTPS_PROXY"], "list": [{"secret": 1234}], "api_key": None, "token": True}  # fmt: skip
    assert secrets_in(values) == {"a1b2", "x1y2", "1234"}
    assert without_secrets(values) == {
        "ansible_password": "<secret>", "fleet_environment": {"HF_TOKEN": "<secret>", "OMP_NUM_THREADS": "1"},
        "fleet_secrets": ["WANDB_API_KEY"], "uv_env_secrets": ["HTTPS_PROXY"], "list": [{"secret": "<secret>"}], "api_key": None, "token": "<secret>",
    }  # fmt: skip


def test_secrets_come_from_the_environment_too_and_its_folder_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"WANDB_API_KEY": "w1x2", "MY_DB_PWD": "d1e2", "SPECIAL": "s1t2"}
    for name, value in {**secrets, "PWD": "/tmp/x", "OLDPWD": "/y"}.items():
        monkeypatch.setenv(name, value)
    found = archive.secrets_of_environment(["SPECIAL"])
    assert set(secrets.values()) <= found
    assert not {"/tmp/x", "/y"} & found


def test_the_newest_run_is_taken_unless_another_is_named(tmp_path: Path) -> None:
    assert archive.choose_run(tmp_path, "") == ""
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text("{}")
        os.utime(tmp_path / name / "plan.json", (number, number))
    (tmp_path / "c").mkdir()
    assert archive.choose_run(tmp_path, "") == "b"
    assert archive.choose_run(tmp_path, "a") == "a"
    with pytest.raises(archive.SupportError, match=r"fleet_run '../a' is not a run name\n  hint: "):
        archive.choose_run(tmp_path, "../a")


def test_what_a_host_sends_is_bounded(tmp_path: Path) -> None:
    sent = tmp_path / "x.tar.gz"
    with tarfile.open(sent, "w:gz") as tar:
        for name, size in (("../out", 1), ("/abs", 1), ("huge", 2_000_000), *((f"run/{n}", 1) for n in range(400))):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = archive.read_archive(sent)
    assert len(found) == 300
    assert {name.partition("/")[0] for name in found} == {"run"}
    sent.write_bytes(b"no archive")
    with pytest.raises(archive.SupportError, match="what it sent cannot be read"):
        archive.read_archive(sent)


def test_hostile_texts_and_names_stay_harmless(tmp_path: Path) -> None:
    files = {"hosts/pc1/run/\x1b[2J..\\x:y.log": b"\x1b[31mred\x07\x00 \xff", "hosts/pc1/run/\x1b[2J..\\x;y.log": b"b"}
    archive.write(archive.Bundle(files=files), tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as made:
        names = sorted(made.namelist())
        assert names == ["CONTENTS.txt", "hosts/pc1/run/__2J.._x_y.log", "hosts/pc1/run/__2J.._x_y.log_"]
        assert made.read(names[1]).decode() == "[31mred \ufffd"


def test_the_end_of_a_long_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    log.write_bytes(b"a" * 500_000 + b"end")
    kept = gather.tail(log)
    assert len(kept) < 210_000
    assert kept.startswith(b"... the beginning is left out ...\n")
    assert kept.endswith(b"end")
    (tmp_path / "secrets.json").write_text("{}")
    (tmp_path / "link.log").symlink_to("/etc/passwd")
    assert gather.run_files(tmp_path) == [log]


def test_a_program_that_is_not_there_is_said() -> None:
    assert gather.output_of(["no-such-program"]) == "$ no-such-program\nnot run: No such file or directory\n"
    assert gather.output_of(["false"]) == "$ false\n\nended with 1\n"


PLANTED = {
    "password": PASSWORD, "wandb": WANDB, "hugging face": HF, "account": "yeongu.kim", "another account": "박선생", "token": "t0ken-0f-mine",
    "mac": "00:1a:2b:3c:4d:5e", "public address": "203.0.114.9",
}  # fmt: skip


def plant(fleet: Fleet) -> None:
    """A run that has ended, with what must not leave the house in logs, plan, settings and the names of files."""
    config = f"training:\n  api_key: {PLANTED['token']}\n  hub: https://me:{PLANTED['token']}@example.org/\n"
    hosts = lay_out_hosts(
        {"name": name, "address": f"127.0.0.{n}", "processes": 1} for n, name in enumerate(fleet.hosts, 1)
    )
    command, variables = ("train.py", "--password", PASSWORD), {"worker1": {"HF_TOKEN": HF}}
    plan = Plan(run="r1", command=command, hosts=hosts, config=config, variables=variables)
    lines = [
        *(f"{kind} is {value}, in JSON {json.dumps(value)}" for kind, value in PLANTED.items()),
        r"File C:\Users\박선생\AppData\Local\x.py in main", "Training started with 2 processes across 2 nodes",
    ]  # fmt: skip
    for folder in (fleet.home("worker1") / "runs" / "r1", fleet.logs / "r1", fleet.logs / "r1" / "worker1"):
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(plan.to_json())
        for name in ("launcher.log", "rank0.log", f"notes of {PLANTED['account']} {PLANTED['token']}.txt"):
            (folder / name).write_text("\n".join(lines))
        (folder / "status.json").write_text(
            json.dumps({"run": "r1", "state": "failed", "host": PLANTED["another account"]})
        )
    (fleet.home("worker1") / "runs" / "r1" / "secrets.json").write_text(json.dumps({"WANDB_API_KEY": WANDB}))


def test_collect_makes_one_zip_without_secrets_and_names_hosts_that_do_not_answer(fleet: Fleet) -> None:
    plant(fleet)
    fleet.hosts["worker3"] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.3", "ansible_port": 9}
    fleet.variables |= {
        "ansible_user": PLANTED["account"], "ansible_password": PASSWORD, "my_secret": [PLANTED["token"]],
        "fleet_environment": {"HF_TOKEN": HF, "OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    temporary = fleet.folder / "temporary"
    temporary.mkdir()
    done = fleet.play("collect.yml", WANDB_API_KEY=WANDB, TMPDIR=str(temporary))
    assert [path.name for path in temporary.glob("*winfleet-*")] == [], "what was not redacted stays nowhere"
    assert done.returncode == 0, done.stdout
    found = list(fleet.logs.glob("support-*.zip"))
    assert len(found) == 1
    with zipfile.ZipFile(found[0]) as made:
        texts = {name: made.read(name).decode() for name in made.namelist()}
    everything = "\n".join([done.stdout, *texts, *texts.values()])
    for kind, value in PLANTED.items():
        holders = [name for name, text in texts.items() if any(form in name + text for form in spellings(value))]
        assert holders == [], kind
        assert value not in everything, kind
    listed = texts["CONTENTS.txt"]
    assert {line.split("kB")[-1].strip().partition(":")[0] for line in listed.splitlines() if ": " in line} >= set(
        texts
    )
    assert all(line.strip() in done.stdout for line in listed.splitlines()[2:]), "it says what is in it"
    assert "worker3: did not answer: " in listed
    assert "Training started with 2 processes across 2 nodes" in texts["hosts/worker1/run/launcher.log"]
    assert "Training started with 2 processes across 2 nodes" in texts["run/worker1/launcher.log"]
    assert "hosts/worker1/run/secrets.json" not in texts
    assert "- `Accelerate` version: " in texts["hosts/worker2/accelerate-env.txt"]
    assert "torch==2.13.0" in texts["hosts/worker1/packages.txt"]
    assert "inet 127.0.0.1/8" in texts["hosts/worker1/network.txt"]
    assert "GB free of" in texts["hosts/worker1/system.txt"]
    assert "runs/r1  failed" in texts["hosts/worker1/system.txt"]
    inventory = json.loads(texts["controller/inventory.json"])
    assert inventory["worker1"]["fleet_environment"] == {"HF_TOKEN": "<secret>", "OMP_NUM_THREADS": "1"}
    assert inventory["worker1"]["fleet_secrets"] == ["WANDB_API_KEY"]
    assert "ansible_password" not in inventory["worker1"]
    assert "look through it before you send it" in done.stdout
