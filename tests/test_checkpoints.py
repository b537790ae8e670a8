"""Checkpoints: found by their names, judged whole or not, compared among hosts, and brought from one to another."""

import http.client
import json
import pickle
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import HashStore
from winfleet.checkpoints.agreement import Decision, ExchangeError, Holding, Inventory, Transfer, decide
from winfleet.checkpoints.desk import GivingServer, Taker, checked
from winfleet.checkpoints.exchange import Exchange, read_brought
from winfleet.checkpoints.find import find, newest_of_each, pointers, read_name, to_resume
from winfleet.checkpoints.results import find_results
from winfleet.checkpoints.whole import trouble_of
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.core.serving import serving
from winfleet.runs.work import prepare_work


@pytest.mark.parametrize(
    ("name", "family", "number"),
    [
        ("checkpoint-500", "checkpoint-#", (500,)),
        ("step_000136", "step_#", (136,)),
        ("epoch_3.pt", "epoch_#.pt", (3,)),
        ("epoch=3-step=400.ckpt", "epoch=#-step=#.ckpt", (400, 3)),
        ("model_epoch3_loss0.42.pth.tar", "model_epoch#_loss*.pth.tar", (3,)),
        ("global_step100", "global_step#", (100,)),
        ("optim_000500_rank0.pt", "optim_#_rank*.pt", (500,)),
        ("iter_0000100", "iter_#", (100,)),
        ("random_states_0.pkl", None, None),
        ("rng_state_1.pth", None, None),
        ("model-00001-of-00002.safetensors", None, None),
        ("resnet50.pt", None, None),
        ("llama-7b.safetensors", None, None),
        ("version_0", None, None),
        ("ckpt.pt", None, None),
    ],
)
def test_the_number_that_counts_is_found_in_a_name(
    name: str, family: str | None, number: tuple[int, ...] | None
) -> None:
    found = read_name(name)
    assert (found and (found.family, found.number)) == ((family, number) if family else None)


def places(*paths: str) -> list[str]:
    return [one.place for one in newest_of_each(find(paths))]


@pytest.mark.parametrize(
    ("paths", "newest"),
    [
        (["out/checkpoint-500/model.safetensors", "out/checkpoint-1000/rng_state_1.pth"], ["out/checkpoint-1000"]),
        (["epoch_3.pt", "epoch_10.pt", "step_2/model.bin", "step_1/model.bin"], ["epoch_10.pt", "step_2"]),
        (["b/model_000500.pt", "b/meta_000500.json", "b/optim_000500_rank0.pt", "b/model_000400.pt"], ["b/model_000500.pt"]),
        (["lightning_logs/version_0/checkpoints/epoch=3-step=400.ckpt"], ["lightning_logs/version_0/checkpoints/epoch=3-step=400.ckpt"]),
        (["out/ckpt.pt", "nets/net_1.pt", "nets/net_2.pt"], ["nets/net_1.pt", "nets/net_2.pt", "out/ckpt.pt"]),
        (["runs/train/exp/weights/last.pt", "runs/train/exp/weights/best.pt"], ["runs/train/exp/weights/best.pt", "runs/train/exp/weights/last.pt"]),
        (["checkpoints/500/model.pt", "checkpoints/1000/model.pt"], ["checkpoints/1000"]),
        (["images_step_500/a.png", "data/train.pt", "wandb/x/model.pt", "out/step_5.incomplete/model.pt", ".cache/a.pt"], []),
    ],
)  # fmt: skip
def test_checkpoints_are_found_where_people_write_them(paths: list[str], newest: list[str]) -> None:
    assert places(*paths) == newest


def test_a_file_that_names_the_newest_checkpoint_goes_with_it() -> None:
    paths = ["out/global_step5/mp_rank_00_model_states.pt", "out/latest", "out/log.txt", "latest"]
    assert pointers(paths, find(paths)) == ["out/latest"]


def test_a_family_wins_over_single_files_and_one_that_is_called_a_checkpoint_over_others() -> None:
    times = {"out/step_5/model.pt": 1.0, "last.pt": 2.0, "best.pt": 3.0}
    assert [one and one.place for one in (to_resume(find(times), times), to_resume(find(["last.pt", "best.pt"]), times))] == [
        "out/step_5", "last.pt",
    ]  # fmt: skip
    assert to_resume([], {}) is None


# -- whole or not


def test_what_was_not_written_to_its_end_is_noticed(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(5_000)}, tmp_path / "a.pt")
    save_file({"w": torch.zeros(5_000)}, tmp_path / "a.safetensors")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": list(range(99))}, protocol=4))
    (tmp_path / "a.json").write_text('{"step": 5}')
    torch.save({"w": torch.zeros(5)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = list(tmp_path.iterdir())
    assert [path.name for path in whole if trouble_of(path)] == []
    for path in whole:
        if path.name != "old.pt":  # an old format without an end of its own
            path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "lost.ckpt").write_bytes(bytes(64))
    assert {path.name: trouble_of(path) for path in tmp_path.iterdir()} == {
        "a.pt": "ends too soon", "a.safetensors": "ends too soon", "a.pkl": "ends too soon", "a.json": "is no whole JSON",
        "old.pt": "", "empty.pt": "is empty", "lost.ckpt": "begins with zeros",
    }  # fmt: skip
    assert trouble_of(tmp_path / "gone.pt") == "cannot be read (No such file or directory)"


# -- what hosts agree on


def host(name: str, files: dict[str, int], brought: tuple[str, ...] = (), **values: Any) -> Inventory:
    """Files by path; the number is their time of change, and their size as well."""
    held = {path: Holding(size=number, mtime_ns=number, brought=path in brought) for path, number in files.items()}
    return replace(Inventory(host=name, free_bytes=10**12, files=held), **values)


def agreed(*hosts: Inventory) -> Decision:
    tokens = {(one, other): f"{one}{other}" for one in range(len(hosts)) for other in range(len(hosts))}
    decision = decide(dict(enumerate(hosts)), tokens)
    assert Decision.from_json(decision.to_json()) == decision
    return decision


def moves(decision: Decision) -> dict[str, list[str]]:
    return {f"{one.source}>{one.target}": sorted(one.files) for one in decision.transfers}


def test_each_host_gets_what_it_lacks_of_the_newest_member_alone() -> None:
    old = {f"out/checkpoint-500/{name}": 1 for name in ("model.safetensors", "optimizer.pt")}
    new = {f"out/checkpoint-1000/{name}": 2 for name in ("model.safetensors", "optimizer.pt", "rng_state_0.pth")}
    decision = agreed(
        host("pc1", {**old, **new}), host("pc2", {"out/checkpoint-1000/rng_state_1.pth": 2}), host("pc3", {})
    )
    assert moves(decision) == {
        "0>1": sorted(new), "0>2": sorted(new), "1>0": ["out/checkpoint-1000/rng_state_1.pth"], "1>2": ["out/checkpoint-1000/rng_state_1.pth"],
    }  # fmt: skip
    assert decision.resume == "out/checkpoint-1000"
    assert decision.aside == {}


def test_what_two_hosts_wrote_under_one_name_stays_each_ones_own_and_what_was_brought_is_brought_anew() -> None:
    assert moves(agreed(host("pc1", {"ckpt.pt": 1}), host("pc2", {"ckpt.pt": 2}))) == {}
    stale = host("pc2", {"ckpt.pt": 1}, brought=("ckpt.pt",))
    assert moves(agreed(host("pc1", {"ckpt.pt": 5}), stale)) == {"0>1": ["ckpt.pt"]}
    assert moves(agreed(host("pc1", {"ckpt.pt": 1}), stale)) == {}, "it is the newest already"
    assert moves(agreed(host("pc1", {}), stale)) == {"1>0": ["ckpt.pt"]}, "who wrote it has lost its disk"


@pytest.mark.parametrize(
    ("hosts", "why"),
    [
        ([host("pc1", {"s/step_2/m.pt": 2, "s/step_1/m.pt": 1}), host("pc2", {"s/step_2/m.pt": 2}, bad={"s/step_2/m.pt": "ends too soon"})], "m.pt ends too soon on pc2"),
        ([host("pc1", {"s/step_2/m.pt": 2, "s/step_1/m.pt": 1, "s/step_1/o.pt": 1})], "it has no o.pt, which s/step_1 has"),
        ([host("pc1", {"s/step_2/x.index.json": 2, "s/step_2/m.pt": 2, "s/step_1/m.pt": 1}, needs={"s/step_2/x.index.json": ["s/step_2/m2.pt"]})], "it has no m2.pt"),
    ],
)  # fmt: skip
def test_the_next_older_one_that_is_whole_is_taken(hosts: list[Inventory], why: str) -> None:
    decision = agreed(*hosts)
    assert decision.resume == "s/step_1"
    assert decision.aside == {"s/step_2": list(range(len(hosts)))}
    assert (
        decision.said[0]
        == f"Checkpoint s/step_2 is not whole ({why}): s/step_1 is taken; it is called step_2.incomplete now"
    )


def test_a_trainers_folder_without_its_last_file_is_not_whole_and_a_saved_model_alone_is() -> None:
    names = ("model.safetensors", "training_args.bin", "optimizer.pt", "trainer_state.json")
    old = {f"out/checkpoint-500/{name}": 1 for name in names}
    decision = agreed(host("pc1", {**old, **{f"out/checkpoint-1000/{name}": 2 for name in names[:3]}}))
    assert decision.resume == "out/checkpoint-500"
    first = agreed(host("pc1", {f"out/checkpoint-500/{name}": 1 for name in names[:3]}))
    assert first.aside == {"out/checkpoint-500": [0]}
    saved = agreed(host("pc1", {f"models/step_{step}/{name}": step for step in (1, 2) for name in names[:2]}))
    assert (saved.resume, saved.aside) == ("models/step_2", {})


def test_a_single_file_that_is_half_written_comes_from_a_host_that_has_it_whole() -> None:
    bad = {"ckpt.pt": "ends too soon"}
    decision = agreed(host("pc1", {"ckpt.pt": 1}, bad=bad), host("pc2", {"ckpt.pt": 2}))
    assert decision.aside == {"ckpt.pt": [0]}
    assert moves(decision) == {"1>0": ["ckpt.pt"]}
    nowhere = agreed(host("pc1", {"ckpt.pt": 1}, bad=bad), host("pc2", {}))
    assert (nowhere.resume, moves(nowhere), nowhere.aside) == ("", {}, {"ckpt.pt": [0]})


def test_two_families_are_two_checkpoints() -> None:
    decision = agreed(
        host("pc1", {"epoch_1.pt": 1, "epoch_2.pt": 4, "step_100/m.pt": 2, "step_200/m.pt": 3}), host("pc2", {})
    )
    assert moves(decision) == {"0>1": ["epoch_2.pt", "step_200/m.pt"]}
    assert decision.resume == "epoch_2.pt", "written last"


def test_a_disk_without_room_is_named_before_anything_is_done() -> None:
    with pytest.raises(
        ExchangeError,
        match=r"^pc2 has no room for the newest checkpoint: it lacks 9\.0 GB of it, and 5\.0 GB are free\nhint: make room",
    ):
        agreed(host("pc1", {"ckpt.pt": 9 * 10**9}), host("pc2", {}, free_bytes=5 * 10**9))


def test_what_comes_through_the_store_is_data() -> None:
    for text in ("[", "[]", "{}", '{"files": 3}', '{"files": {"a": {"x": 1}}}'):
        with pytest.raises(ExchangeError):
            Inventory.from_json(text)
        with pytest.raises(ExchangeError):
            Decision.from_json(text)


# -- the results of a run


@pytest.mark.parametrize(
    ("paths", "model", "checkpoint"),
    [
        (["output/model/model.safetensors", "output/checkpoints/step_5/model.safetensors", "output/x.txt"], "output/model", "output/checkpoints/step_5"),
        (["out/config.json", "out/model.safetensors", "out/checkpoint-5/model.safetensors", "out/checkpoint-5/trainer_state.json"], "out", "out/checkpoint-5"),
        (["lora/adapter_model.safetensors", "lora/adapter_config.json"], "lora", ""),
        (["sd/model_index.json", "sd/unet/diffusion_pytorch_model.safetensors", "sd/vae/diffusion_pytorch_model.bin"], "sd", ""),
        (["mnist_cnn.pt", "log.txt"], "mnist_cnn.pt", ""),
        (["out/ckpt.pt"], "", "out/ckpt.pt"),
        (["checkpoint.pth.tar", "model_best.pth.tar"], "model_best.pth.tar", "checkpoint.pth.tar"),
        (["lightning_logs/version_0/checkpoints/epoch=1-step=10.ckpt"], "", "lightning_logs/version_0/checkpoints/epoch=1-step=10.ckpt"),
        (["result.txt"], "", ""),
    ],
)  # fmt: skip
def test_the_final_model_and_the_newest_checkpoint_are_told_from_the_rest(
    paths: list[str], model: str, checkpoint: str
) -> None:
    found = find_results(dict.fromkeys(paths, 1.0))
    assert (found.model, found.checkpoint) == (model, checkpoint)


def test_older_members_are_no_result() -> None:
    found = find_results({"s/step_1/m.pt": 1.0, "s/step_2/m.pt": 2.0, "last.pt": 3.0})
    assert found.older == {"s/step_1/m.pt"}


# -- from host to host


class Hosts:
    """Hosts of one run on loopback addresses, whose exchanges run as threads."""

    def __init__(self, folder: Path, count: int) -> None:
        hosts = lay_out_hosts(
            [{"name": f"pc{n}", "address": f"127.0.0.{n}", "processes": 1} for n in range(1, count + 1)]
        )
        self.plan = Plan(run="r", command=("train.py",), hosts=hosts)
        self.folders = [folder / host.name / "runs" / "r" for host in hosts]
        for run in self.folders:
            run.mkdir(parents=True)
            prepare_work(self.plan, run)
        self.said: list[list[str]] = [[] for _ in hosts]

    def write(self, machine_rank: int, name: str, content: object) -> Path:
        path = self.folders[machine_rank] / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
        return path

    def exchange(self) -> list[Decision | BaseException]:
        store, results = HashStore(), dict[int, Decision | BaseException]()
        over = threading.Event()

        def wait(ready: Callable[[], bool]) -> None:
            while not ready():
                if over.is_set():
                    raise RuntimeError("the run has ended")
                time.sleep(0.01)

        def run(machine_rank: int) -> None:
            host = self.plan.host(machine_rank)
            one = Exchange(self.plan, host, self.folders[machine_rank], self.said[machine_rank].append, is_new=False)
            try:
                results[machine_rank] = one.prepare(store, range(len(self.folders)), wait)
            except (RuntimeError, OSError) as error:
                over.set()
                results[machine_rank] = error

        threads = [threading.Thread(target=run, args=(machine_rank,)) for machine_rank in range(len(self.folders))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [result for _, result in sorted(results.items())]


def test_a_third_host_gets_parts_of_two_and_a_file_that_was_brought_is_replaced_by_its_writers_next(
    tmp_path: Path,
) -> None:
    hosts = Hosts(tmp_path, 3)
    hosts.write(0, "out/체크 포인트/step_5/model.pt", torch.zeros(300_000))
    hosts.write(1, "out/체크 포인트/step_5/rng_1.pt", 1)
    hosts.write(0, "ckpt.pt", 1)
    own = hosts.write(2, "rng.pt", "of pc3")
    hosts.write(0, "rng.pt", "of pc1")
    assert [getattr(one, "resume", one) for one in hosts.exchange()] == ["out/체크 포인트/step_5"] * 3
    found = [
        sorted(path.relative_to(run / "work").as_posix() for path in (run / "work").rglob("*.pt"))
        for run in hosts.folders
    ]
    assert found == [["ckpt.pt", "out/체크 포인트/step_5/model.pt", "out/체크 포인트/step_5/rng_1.pt", "rng.pt"]] * 3
    assert torch.load(own) == "of pc3"
    assert not (hosts.folders[2] / "bringing").exists()

    said = len(hosts.said[0])
    assert all(isinstance(one, Decision) and not one.transfers for one in hosts.exchange()), (
        "there is nothing left to do"
    )
    assert hosts.said[0][said:] == ["Newest whole checkpoint of this run: out/체크 포인트/step_5"]

    hosts.write(0, "ckpt.pt", 2)
    hosts.write(1, "ckpt.pt", "its own now")
    (decision, *_) = hosts.exchange()
    assert isinstance(decision, Decision)
    assert moves(decision) == {"0>2": ["ckpt.pt"]}
    assert [torch.load(run / "work" / "ckpt.pt") for run in hosts.folders] == [2, "its own now", 2]
    assert read_brought(hosts.folders[2])["ckpt.pt"]["size"] == (hosts.folders[0] / "work" / "ckpt.pt").stat().st_size


def test_links_are_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2)
    hosts.write(0, "out/model.pt", 1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (hosts.folders[1] / "work" / "out").symlink_to(outside)
    _, second = hosts.exchange()
    assert str(second) == "out/model.pt leads through a link, which is not followed"
    assert list(outside.iterdir()) == []
    for name in ("../a", "/a", "a/../b", "a\\b", "", "a//b", "./a"):
        with pytest.raises(ExchangeError):
            checked(tmp_path, name)


def test_nobody_else_gets_anything(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"content")
    stat = (tmp_path / "a.pt").stat()
    given = Transfer(
        source=0, target=1, token="right", files={"a.pt": (stat.st_size, stat.st_mtime_ns), "b.pt": (1, 1)}
    )

    def ask(path: str, address: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5, source_address=(address, 0))
        connection.request("GET", path)
        return connection.getresponse().status

    with serving(server := GivingServer("127.0.0.1", 0, tmp_path, [given], {1: "127.0.0.2", 2: "127.0.0.3"})):
        asked = ["/right/a.pt", "/wrong/a.pt", "/right/c.pt", "/right/..%2Fa.pt", "/right/b.pt"]
        assert [ask(path, "127.0.0.2") for path in asked] == [200, 403, 403, 403, 404]
        with pytest.raises((http.client.HTTPException, OSError)):
            ask("/right/a.pt", "127.0.0.3")
        (tmp_path / "a.pt").write_bytes(b"changed!")
        assert ask("/right/a.pt", "127.0.0.2") == 409
        taker = Taker(given, "127.0.0.2", "127.0.0.1", server.server_port, "pc1")
        with pytest.raises(ExchangeError, match=r"pc1 does not give a\.pt: it has changed meanwhile"):
            list(taker.take(tmp_path / "work", tmp_path / "scratch", lambda _: False))


def test_zip_files_that_are_whole_are_read_by_their_end_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", json.dumps([1]))
    assert trouble_of(tmp_path / "a.npz") == ""
