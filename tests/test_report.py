"""The report of a run: what it says, how it takes damaged and hostile files, and that the page needs nothing else."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from winfleet import report

START = 1_795_560_300.0
SECONDS = 58


class Run:
    """A folder as it comes home: 2 hosts with one rank each, 300 steps, a validation every 50, usage once a second."""

    def __init__(self, folder: Path, *, state: str = "finished", steps: int = 300, gpus: bool = False) -> None:
        self.folder, self.steps, self.gpus = folder, steps, gpus
        self.hosts = ["worker1", "worker2"]
        self.random = random.Random(7)
        self.plan: dict[str, Any] = {
            "run": "20261124-0745",
            "command": ["train.py", "--config", "{config}"],
            "code": "0c0de0c0de00",
            "data": None,
            "environment": "e27e27e27e27",
            "backend": "gloo",
            "config": "max_steps: 300\nlearning_rate: 0.001\n",
            "hosts": [self._planned(rank, name) for rank, name in enumerate(self.hosts)],
        }
        self.status = {name: self._status(rank, name, state) for rank, name in enumerate(self.hosts)}
        self.metrics = {name: self.course(rank, 1, 1, steps) for rank, name in enumerate(self.hosts)}
        self.usage = {name: self._usage(rank) for rank, name in enumerate(self.hosts)}

    def _planned(self, rank: int, name: str) -> dict[str, Any]:
        return {
            "name": name, "address": f"10.0.0.{rank + 11}", "adapter": "eth0", "machine_rank": rank, "processes": 1,
            "first_rank": rank, "os": "Linux", "gpus": ["NVIDIA GeForce RTX 4090"] if self.gpus else [],
        }  # fmt: skip

    def _status(self, rank: int, name: str, state: str) -> dict[str, Any]:
        return {
            "run": "20261124-0745", "host": name, "machine_rank": rank, "state": state, "generation": 1,
            "time": START + SECONDS + 0.4, "started": START, "world_size": 2, "nodes": 2, "launcher_pid": 4711,
            "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "accelerate": "1.15.0", "platform": "Linux-6.1"},
            "ranks": [{
                "rank": rank, "local_rank": 0, "pid": 4712, "state": "ended", "step": self.steps, "steps": 300,
                "loss": 2.5, "samples_per_second": 81.0, "cpu_percent": 0.0, "memory_mib": 612.0, "gpu_percent": None,
                "gpu_memory_mib": None, "beat": START + SECONDS, "exit_code": 0,
            }],
            "cause": None,
            "events": [{"time": START + 2, "text": f"Rank {rank}/2 initialized"}],
        }  # fmt: skip

    def course(self, rank: int, generation: int, first: int, last: int) -> list[Any]:
        """Lines of a metrics file: each rank notes the steps at which its own half second is over."""
        lines: list[Any] = []
        for step in range(first, last + 1):
            at = {"time": START + step * SECONDS / 300, "generation": generation, "step": step}
            if step == first or step % (3 + rank) == 0:
                rate = None if step == first else 80 + self.random.gauss(0, 3)
                lines.append({**at, "loss": self._loss(step) + self.random.gauss(0, 0.12), "samples_per_second": rate})
            if rank == 0 and (step == 1 or step % 50 == 0):
                lines.append({**at, "logged": {"validation_loss": round(self._loss(step), 3), "learning_rate": 1e-3}})
        return lines

    @staticmethod
    def _loss(step: int) -> float:
        return 2.3 + 3.35 * math.exp(-step / 92.32)

    def _usage(self, rank: int) -> list[Any]:
        def entry(second: int) -> dict[str, Any]:
            return {
                "rank": rank, "cpu_percent": 90 + self.random.gauss(0, 4),
                "memory_mib": 600 + 20 * math.tanh(second / 9),
                "gpu_percent": 95 + self.random.gauss(0, 2) if self.gpus else None,
                "gpu_memory_mib": 9_216.0 if self.gpus else None,
            }  # fmt: skip

        return [{"time": START + second, "ranks": [entry(second)]} for second in range(SECONDS)]

    def fail(self, exception: str, lines: list[str], step: int = 173) -> None:
        """Rank 1 fails; rank 0, whose clock is behind, lost its peer."""
        for (name, status), after in zip(self.status.items(), (30.1, 30.6), strict=True):
            rank = status["machine_rank"]
            status.update(state="failed", time=START + 31.5)
            status["ranks"][0].update(step=step, exit_code=1, state="failed")
            text, tail = (exception, lines) if rank == 1 else ("RuntimeError: Connection closed by peer", [])
            status["cause"] = {
                "host": name, "rank": rank, "exit_code": 1, "text": text, "lines": tail, "time": START + after,
            }  # fmt: skip
            self.metrics[name] = [line for line in self.metrics[name] if line["step"] <= step]

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(json.dumps(self.plan), "utf-8")
        for rank, name in enumerate(self.hosts):
            home = self.folder / name
            home.mkdir(exist_ok=True)
            (home / "status.json").write_text(json.dumps(self.status[name]), "utf-8")
            write_lines(home / f"metrics-rank{rank}.jsonl", self.metrics[name])
            write_lines(home / "usage.jsonl", self.usage[name])
            (home / f"rank{rank}.log").write_text("done\n", "utf-8")
            (home / "launcher.log").write_text("Initializing distributed training...\n", "utf-8")
        return self.folder


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> str:
    return report.render(report.load(folder))


def drawn_lines(html: str, key: str) -> list[list[str]]:
    """The pieces (one for each pen-down) of every coloured line in a plot."""
    svg = next(part for part in html.split("<figure")[1:] if f'"{key}-' in part).split("</figure>")[0]
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--(?:c\d|total|muted)\)', svg)
    return [re.split(r"(?=M )", path.strip())[1:] for path in paths]


def run_main(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = report.main([str(folder)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- the closing line


def test_closing_line_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Run(tmp_path / "20261124-0745").write()
    code, out, err = run_main(folder, capsys)
    assert (code, err) == (0, "")
    assert out == (
        "validation loss fell from 5.614 to 2.430 · 2 processes on 2 hosts · 0:58 · "
        f"report: {folder.as_posix()}/report.html\n"
    )
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert [path.name for path in folder.iterdir() if "report" in path.name] == ["report.html"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([2.0, 3.5], "validation loss rose from 2.000 to 3.500"),
        ([2.0, 9.0, 2.0001], "validation loss stayed at 2.000"),
        ([0.00042, 1e-5], "validation loss fell from 0.00042 to 1e-05"),
        ([math.nan, 4.0, math.inf, 3.0], "validation loss fell from 4.000 to 3.000"),
    ],
)
def test_closing_line_says_how_the_loss_moved(tmp_path: Path, values: list[float], said: str) -> None:
    run = Run(tmp_path)
    run.metrics["worker1"] = [
        {"time": START, "generation": 1, "step": step, "logged": {"val/loss": value}}
        for step, value in enumerate(values)
    ]
    data = report.load(run.write())
    assert report.closing_line(data, Path("x.html")) == f"{said} · 2 processes on 2 hosts · 0:58 · report: x.html"


def test_closing_line_falls_back_to_the_training_loss_then_to_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for rank, name in enumerate(run.hosts):  # the mean of the ranks: 6 and 4 at first, 3 and 2 at last
        run.metrics[name] = [{"generation": 1, "step": 1 + rank, "loss": 6.0 - 2 * rank},
                             {"generation": 1, "step": 300 - rank, "loss": 3.0 - rank}]  # fmt: skip
    run.write()
    line = report.closing_line(report.load(tmp_path), Path("x.html"))
    assert line == "training loss fell from 5.000 to 2.500 · 2 processes on 2 hosts · 0:58 · report: x.html"
    for rank, name in enumerate(run.hosts):
        (tmp_path / name / f"metrics-rank{rank}.jsonl").unlink()
    line = report.closing_line(report.load(tmp_path), Path("x.html"))
    assert line == "the script reported no loss · 2 processes on 2 hosts · 0:58 · report: x.html"
    assert "The script reported no loss." in page_of(tmp_path)


def test_a_host_that_was_lost_on_the_way_does_not_count_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    before, after = {"generation": 1, "step": 1}, {"generation": 2, "step": 90}
    run.metrics = {"worker1": [{**before, "loss": 6.0}, {**after, "loss": 2.0}], "worker2": [{**before, "loss": 8.0}]}
    assert report._result(report.load(run.write())) == ("training loss", 7.0, 2.0)
    run.metrics["worker2"] = [{**after, "loss": 3.0}]  # and one that joined later does not count at the beginning
    assert report._result(report.load(run.write())) == ("training loss", 6.0, 2.5)


def test_of_values_that_all_ranks_log_the_lowest_rank_counts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for rank, name in enumerate(run.hosts):
        run.metrics[name] = [{"generation": 1, "step": 1, "logged": {"eval_loss": 3.0 + rank}}]
    assert report._result(report.load(run.write())) == ("validation loss", 3.0, 3.0)


def test_closing_line_of_a_run_that_did_not_finish_says_so_first(tmp_path: Path) -> None:
    run = Run(tmp_path, state="stopped")
    run.plan["hosts"] = run.plan["hosts"][:1]
    line = report.closing_line(report.load(run.write()), Path("x.html"))
    assert line == "stopped · validation loss fell from 5.614 to 2.430 · 1 process on 1 host · 0:58 · report: x.html"


def test_durations_reach_into_hours(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for status in run.status.values():
        status["time"] = START + 2 * 3600 + 3 * 60 + 4
    assert " · 2:03:04 · " in report.closing_line(report.load(run.write()), Path("x.html"))


# -- the page


def test_page_is_one_file_and_asks_for_nothing(tmp_path: Path) -> None:
    html = page_of(Run(tmp_path, gpus=True).write())
    addresses = re.findall(r"""https?://[^"'\s<]*""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", html))
    assert addresses == []
    page = Page(html)
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "img", "object", "embed", "base"} == set()
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert [link["href"] for link in page.all("a")] == [
        "worker1/rank0.log", "worker2/rank1.log", "worker1/launcher.log", "worker2/launcher.log",
    ]  # fmt: skip
    assert "default-src 'none'" in html


def test_page_can_be_heard_and_its_ids_are_its_own(tmp_path: Path) -> None:
    page = Page(page_of(Run(tmp_path, gpus=True).write()))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    plots = page.all("svg")
    assert len(plots) == 6
    assert all(plot["role"] == "img" and len(str(plot["aria-label"])) > 20 for plot in plots)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) > 50
    assert len(ids) == len(set(ids))
    targets = {str(use["xlink:href"]) for use in page.all("use")}
    assert targets <= {f"#{one}" for one in ids}


def test_page_shows_hosts_ranks_digests_and_values(tmp_path: Path) -> None:
    run = Run(tmp_path, gpus=True)
    (tmp_path / "output" / "model").mkdir(parents=True)
    for step in ("step_000100", "step_000300", "step_000020", "latest"):
        (tmp_path / "output" / "checkpoints" / step).mkdir(parents=True)
    html = page_of(run.write())
    text = " ".join(Page(html).text.split())
    assert "Validation loss fell from 5.614 to 2.430 in 300 steps, with 2 processes on 2 hosts, in 0:58." in text
    said = ["10.0.0.12", "NVIDIA GeForce RTX 4090", "2.13.0+cpu", "0c0de0c0de00", "e27e27e27e27", "9.0 GiB"]
    said += ["train.py --config {config}", "learning_rate: 0.001", "Rank 1/2 initialized"]
    assert [one for one in said if one not in text] == []
    links = [link["href"] for link in Page(html).all("a")]
    assert links[:2] == ["output/model", "output/checkpoints/step_000300"]


def test_mean_and_peak_in_the_rank_table_are_of_the_whole_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.usage["worker1"] = [
        {
            "time": START + second,
            "ranks": [{"rank": 0, "cpu_percent": second % 2 * 100, "memory_mib": 500 + second % 7}],
        }
        for second in range(14_000)
    ]
    (track,) = (track for track in report.load(run.write()).usage if track.rank == 0)
    assert len(track.samples) <= 4_000
    assert track.mean[0] == pytest.approx(50)
    assert track.peak[1] == 506


def test_failed_run_shows_the_first_cause_on_top(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.fail("ValueError: Expected 3 channels, got 4", ["Traceback (most recent call last):", "    x = conv(x)"])
    data = report.load(run.write())
    assert report.closing_line(data, Path("x.html")).startswith("failed · validation loss fell from 5.614 to 2.960 · ")
    html = report.render(data)
    text = " ".join(Page(html).text.split())
    assert "Rank 1 on worker2 failed at step 173 of 300 after 0:31; until then validation loss fell" in text
    assert "Rank 1 on worker2 ended with exit code 1 after 0:31." in text
    assert "Traceback (most recent call last):\n    x = conv(x)</pre>" in html
    first, later = html.index("ValueError: Expected 3 channels"), html.index("RuntimeError: Connection closed by peer")
    assert first < later < html.index("<svg")


def test_restart_breaks_the_lines(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert [len(pieces) for pieces in drawn_lines(page_of(run.write()), "loss")] == [1, 1, 1]
    for rank, name in enumerate(run.hosts):
        run.metrics[name] = run.course(rank, 1, 1, 180) + run.course(rank, 2, 151, 300)
    html = page_of(run.write())
    assert [len(pieces) for pieces in drawn_lines(html, "loss")] == [2, 2, 2]
    assert "The run started 2 times" in html
    for line in drawn_lines(html, "loss"):
        for piece in line:
            x = [float(point.split()[0]) for point in re.split(r"[ML] ", piece.replace("\n", " ")) if point.strip()]
            assert x == sorted(x)


def test_steps_that_repeat_in_one_generation_break_the_lines_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for rank, name in enumerate(run.hosts):
        run.metrics[name] = run.course(rank, 1, 1, 180) + run.course(rank, 1, 151, 300)
    assert [len(pieces) for pieces in drawn_lines(page_of(run.write()), "loss")] == [2, 2, 2]


def test_sum_is_the_ranks_together_although_they_note_other_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for rank, name in enumerate(run.hosts):
        run.metrics[name] = [
            {"generation": 1, "step": step, "loss": 1.0, "samples_per_second": 100.0 * (1 + rank) + step}
            for step in range(1 + rank, 300, 3 + rank)
        ]
    x, y = report._together(report.load(run.write()).metrics, 1, mean=False)
    assert y[:-1] == pytest.approx([300 + 2 * step for step in x[:-1]])
    assert len(x) > 80


def test_many_ranks_share_one_entry_in_the_legend(tmp_path: Path) -> None:
    run = Run(tmp_path)
    folder = run.write()
    for rank in range(24):
        write_lines(folder / "worker1" / f"metrics-rank{rank}.jsonl", run.course(rank % 5, 1, 1, 300))
    html = page_of(folder)
    assert "each of 25 ranks" in html
    assert "rank 3 · worker1" not in html
    assert len(drawn_lines(html, "loss")) == 26


def test_long_runs_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics["worker1"] = [{"generation": 1, "step": step, "loss": 30_000 / step} for step in range(1, 30_001)]
    data = report.load(run.write())
    samples = data.metrics[0].samples
    assert 1_000 < len(samples) <= 4_000
    assert (samples[0].x, samples[-1].x) == (1, 30_000)
    assert len(report.render(data)) < 600_000


# -- damaged and hostile files


def test_what_is_missing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"run": "r", "hosts": [{"name": "worker1", "processes": 2}]}', "utf-8")
    html = page_of(tmp_path)
    assert "<svg" not in html
    for said in ("The script reported no loss.", "No CPU use was measured.", "Nothing came home from worker1.",
                 "State unknown", "No events were noted."):  # fmt: skip
        assert said in html, said


def test_last_line_cut_off_is_left_out(tmp_path: Path) -> None:
    folder = Run(tmp_path).write()
    path = folder / "worker2" / "metrics-rank1.jsonl"
    whole = report.load(folder).metrics[1].samples
    path.write_bytes(path.read_bytes()[:-9])
    assert report.load(folder).metrics[1].samples == whole[:-1]


def test_status_cut_off_is_said(tmp_path: Path) -> None:
    folder = Run(tmp_path).write()
    path = folder / "worker2" / "status.json"
    path.write_bytes(path.read_bytes()[:-30])
    data = report.load(folder)
    assert data.state == "finished"
    assert data.notes == ("The status of worker2 is missing or unreadable.",)


def test_large_files_are_read_in_part_with_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Run(tmp_path).write()
    lines = [{"generation": 1, "step": step, "loss": 1.0} for step in range(20_000)]
    write_lines(folder / "worker1" / "metrics-rank0.jsonl", lines)
    monkeypatch.setattr(report, "MAX_LINES_BYTES", 64 * 1_024)
    read = [line["step"] for line in report._lines(folder / "worker1" / "metrics-rank0.jsonl")]
    assert (read[0], read[-1]) == (0, 19_999)
    assert 1_000 < len(read) < 2_500
    assert read == sorted(set(read))


def test_blocks_that_meet_lose_no_line_and_repeat_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"n": {number:9}}}\n' for number in range(1, 1_001)))
    blocks = [(start, start + 100) for start in range(0, path.stat().st_size, 100)]  # some begin where a line begins
    monkeypatch.setattr(report, "_blocks", lambda _size: blocks)
    assert [line["n"] for line in report._lines(path)] == list(range(1, 1_001))


HOSTILE = "\x1b[31mred\x1b[0m\x1b]0;title\x07 <script>alert(1)</script> \u202egnp.exe\x00\x08 \ud800 \"' onload=x"


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.fail(HOSTILE, [HOSTILE, "10%\r100%"])
    run.plan.update(run=HOSTILE, command=[HOSTILE], config=HOSTILE, code=HOSTILE, backend=HOSTILE)
    run.plan["hosts"][0].update(address=HOSTILE, os=HOSTILE, gpus=[HOSTILE])
    for status in run.status.values():
        status.update(events=[{"time": START, "text": HOSTILE}], versions={"python": HOSTILE, "platform": HOSTILE})
        status["ranks"][0]["state"] = HOSTILE
    run.metrics["worker1"].append({"generation": 1, "step": 300, "logged": {HOSTILE: 1.0}})
    html = page_of(run.write())
    page = Page(html)
    assert page.all("script") == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("red <script>alert(1)</script> gnp.exe") >= 12
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", html) == []
    assert "10%\n100%" in html
    assert "[31m" not in html


def test_megabyte_strings_are_cut(tmp_path: Path) -> None:
    run = Run(tmp_path)
    long = "A" * 2**20
    run.fail(long, [long])
    run.plan.update(config=long, command=[long])
    for status in run.status.values():
        status["events"] = [{"time": START, "text": "\x1b[0m" * 2**18 + long}]
    run.metrics["worker2"].insert(5, {"generation": 1, "step": 5, "logged": {long: 1.0}})
    html = page_of(run.write())
    assert "A" * 2_000 + "…" in html
    assert len(html) < 300_000
    assert max(map(len, re.findall("A+", html))) == 20_000


@pytest.mark.parametrize(
    "wrong", [None, True, -5, 1e300, 10**400, math.nan, "x", [], [[]], {}, [{}], [None], {"rank": {}}]
)
def test_wrong_types_everywhere(tmp_path: Path, wrong: Any) -> None:
    run = Run(tmp_path)
    plan, status, metrics, usage = run.plan, run.status["worker1"], run.metrics["worker1"], run.usage["worker1"]
    metrics += [{**metrics[0], key: wrong} for key in metrics[0]] + [{**metrics[1], "logged": wrong}, wrong]
    metrics += [{"generation": wrong, "step": wrong, "logged": {"validation_loss": wrong, "": wrong}}]
    usage += [{**usage[0], "ranks": wrong}, {**usage[0], "time": wrong}, wrong]
    usage += [{"time": START, "ranks": [{**usage[0]["ranks"][0], key: wrong}]} for key in usage[0]["ranks"][0]]
    status["ranks"] += [{**status["ranks"][0], key: wrong} for key in status["ranks"][0]]
    status.update(dict.fromkeys(("started", "time", "versions", "cause", "events", "state", "generation"), wrong))
    plan["hosts"] += [{**plan["hosts"][0], key: wrong} for key in plan["hosts"][0]] + [wrong]
    plan.update(dict.fromkeys(("command", "code", "data", "environment", "backend", "config", "run"), wrong))
    html = page_of(run.write())
    assert "5.614" in html
    assert "nan" not in Page(html).text.lower().replace("nan or infinity", "")


@pytest.mark.parametrize("name", ["plan", "status"])
@pytest.mark.parametrize("wrong", [None, 7, "x", [], {}])
def test_whole_documents_of_a_wrong_type(tmp_path: Path, name: str, wrong: Any) -> None:
    folder = Run(tmp_path).write()
    path = folder / "plan.json" if name == "plan" else folder / "worker1" / "status.json"
    path.write_text(json.dumps(wrong), "utf-8")
    if name == "plan" and wrong != {}:
        with pytest.raises(report.ReportError, match="is not a readable plan"):
            report.load(folder)
    else:
        assert page_of(folder).endswith("</html>\n")


def test_deep_nesting_is_no_document(tmp_path: Path) -> None:
    folder = Run(tmp_path).write()
    (folder / "worker1" / "status.json").write_text("[" * 200_000, "utf-8")
    assert "The status of worker1 is missing or unreadable." in report.load(folder).notes


def test_huge_documents_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Run(tmp_path).write()
    path = folder / "worker1" / "status.json"
    path.write_text(path.read_text("utf-8") + " " * 10_000, "utf-8")
    monkeypatch.setattr(report, "MAX_JSON_BYTES", 10_000)
    assert report.load(folder).notes == ("The status of worker1 is missing or unreadable.",)


def test_losses_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics["worker2"] += [
        {"generation": 1, "step": 301 + i, "loss": bad} for i, bad in enumerate((math.nan, math.inf))
    ]
    data = report.load(run.write())
    assert data.notes == ("Rank 1 on worker2 reported a loss of NaN or infinity 2 times.",)
    assert data.metrics[1].samples[-1].values[0] is None


@pytest.mark.skipif(os.name == "nt", reason="making links needs a right on Windows")
def test_names_and_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    Run(tmp_path / "other").write()
    run = Run(tmp_path / "run")
    folder = run.write()
    run.plan["hosts"][0]["name"] = "../other/worker1"
    (folder / "plan.json").write_text(json.dumps(run.plan), "utf-8")
    status = folder / "worker2" / "status.json"
    status.unlink()
    status.symlink_to(tmp_path / "other" / "worker2" / "status.json")
    data = report.load(folder)
    assert [host.state for host in data.hosts] == ["", ""]
    assert "Nothing came home from ../other/worker1." in data.notes


def test_first_host_decides_and_the_others_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.status["worker2"]["state"] = "running"
    data = report.load(run.write())
    assert (data.state, data.notes) == ("finished", ("worker2 was last seen running.",))
    run.status["worker1"]["state"] = "running"
    run.status["worker2"]["state"] = "failed"
    assert report.load(run.write()).state == "failed"


# -- the command


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "error: no folder `{folder}`\nhint: give the folder of a run, for example logs/20261124-0745\n"),
        ("", "error: `{folder}` has no plan.json\nhint: give the folder of one run, not the folder of all runs\n"),
        (
            '{"run": "x"',
            (
                "error: `{folder}/plan.json` is not a readable plan\n"
                "hint: copy plan.json from any of the run's hosts, it is the same on all\n"
            ),
        ),
    ],
)
def test_folder_of_which_no_report_can_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str | None, message: str
) -> None:
    folder = tmp_path / "run"
    if make is not None:
        folder.mkdir()
    if make:
        (folder / "plan.json").write_text(make, "utf-8")
    assert run_main(folder, capsys) == (2, "", message.format(folder=folder))


def test_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Run(tmp_path).write()
    (folder / "report.html").mkdir()  # in the way
    (folder / "report.html" / "x").touch()
    code, out, err = run_main(folder, capsys)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: `.*report.html` cannot be written: .+\nhint: make the folder writable for you\n", err)


def test_folder_that_may_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Run(tmp_path / "run").write()

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # the tests may run as root, who may read everything
    assert run_main(folder, capsys) == (
        2, "", f"error: `{folder}` cannot be read: Permission denied\nhint: make it readable for you\n",
    )  # fmt: skip


def test_control_node_without_the_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Run(tmp_path).write()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = run_main(folder, capsys)
    assert (code, out) == (2, "")
    assert err.endswith("\nhint: make the report on the control node, with winfleet[control]\n")


def test_events_of_all_hosts_share_a_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for skew, status in enumerate(run.status.values()):
        texts = [(0, "Training started"), (1, f"only {skew}"), (40, "Training started"), (50 + 30 * skew, "alone")]
        status["events"] = [{"time": START + after + skew, "text": text} for after, text in texts]
    events = [(event.hosts, event.text) for event in report.load(run.write()).events]
    both = (("worker1", "worker2"), "Training started")
    one, other = ("worker1",), ("worker2",)
    assert events == [both, (one, "only 0"), (other, "only 1"), both, (one, "alone"), (other, "alone")]


def test_import_is_light() -> None:
    code = "import sys, winfleet.report; print(sorted({'matplotlib', 'numpy', 'jinja2', 'torch'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_render_takes_seconds_at_most(tmp_path: Path) -> None:
    folder = Run(tmp_path, gpus=True).write()
    begin = time.monotonic()
    page_of(folder)
    assert time.monotonic() - begin < 10  # about 1 s; the rest is for a busy machine
