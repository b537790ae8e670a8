"""The report of a run: what it says, how it takes damaged and hostile files, and that the page needs nothing else."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAM, Browser
from programs import call
from report_runs import GPU, SECONDS, START, Page, Run, eventful, pieces_drawn
from winfleet import report
from winfleet.view import plots, records


def run_main(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    return report.main([str(folder)]), *capsys.readouterr()


def test_closing_line_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Run(tmp_path / "20261124-0745").write()
    said = "validation loss fell from 5.614 to 2.430 · 2 processes on 2 hosts · 0:58 · report: "
    assert run_main(folder, capsys) == (0, f"{said}{folder.as_posix()}/report.html\n", "")
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([2.0, 3.5], "validation loss rose from 2.000 to 3.500"),
        ([2.0, 9.0, 2.0001], "validation loss stayed at 2.000"),
        ([math.nan, 4e-4, math.inf, 1e-5], "validation loss fell from 0.0004 to 1e-05"),
    ],
)
def test_closing_line_says_how_the_loss_moved(tmp_path: Path, values: list[float], said: str) -> None:
    run = Run(tmp_path)
    run.metrics["worker1"] = [{"step": step, "logged": {"val/loss": value}} for step, value in enumerate(values)]
    assert run.line() == f"{said} · 2 processes on 2 hosts · 0:58 · report: x.html"


def test_closing_line_falls_back_to_the_training_loss_then_to_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for rank, name in enumerate(run.hosts):  # the mean of the ranks: 6 and 4 at first, 3 and 2 at last
        run.metrics[name] = [{"step": 1 + rank, "loss": 6.0 - 2 * rank}, {"step": 300 - rank, "loss": 3.0 - rank}]
    assert run.line().startswith("training loss fell from 5.000 to 2.500 · ")
    run.metrics = {"worker1": [], "worker2": []}
    assert run.line().startswith("the script reported no loss · ")


def test_a_host_that_was_lost_on_the_way_does_not_count_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    before, after = {"generation": 1, "step": 1}, {"generation": 2, "step": 90}
    run.metrics = {"worker1": [{**before, "loss": 6.0}, {**after, "loss": 2.0}], "worker2": [{**before, "loss": 8.0}]}
    assert run.line().startswith("training loss fell from 7.000 to 2.000 · ")
    run.metrics["worker2"] = [{**after, "loss": 3.0}]  # and one that joined later does not count at the beginning
    assert run.line().startswith("training loss fell from 6.000 to 2.500 · ")


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["finished", None], "lost"), (["running", None], "running"), (["failed", None], "failed"),
        ([None, None], "lost"), (["finished", "stopped"], "stopped"),
    ],
)  # fmt: skip
def test_state_of_the_run(tmp_path: Path, states: list[str | None], state: str) -> None:
    run = Run(tmp_path)
    for status, one in zip(run.status.values(), states, strict=True):
        status.update(state=one)  # None makes the status unreadable
    data = run.load()
    assert data.state == state
    assert len(data.notes) == states.count(None)
    word = {"lost": "host lost", "running": "still running"}.get(state, state)
    assert report.closing_line(data, Path("x.html")).startswith(f"{word} · validation loss fell")


def test_page_asks_for_nothing_and_can_be_heard_and_its_ids_are_its_own(tmp_path: Path) -> None:
    html = Run(tmp_path, gpus=True).page()
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|http-equiv', "", html)
    assert "default-src 'none'" in html
    assert re.findall(r"(?:fill|stroke): ?#[0-9a-f]{6}", html) == []  # plots take their colours from the page
    page = Page(html)
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "img", "object", "embed", "base"} == set()
    assert [link["href"] for link in page.all("a")] == [
        "worker1/rank0.log", "worker2/rank1.log", "worker1/launcher.log", "worker2/launcher.log",
    ]  # fmt: skip
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    plotted = page.all("svg")
    assert len(plotted) == 8
    assert all(plot["role"] == "img" and len(str(plot["aria-label"])) > 20 for plot in plotted)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50
    assert {str(use["xlink:href"]) for use in page.all("use")} <= {f"#{one}" for one in ids}


def test_page_shows_hosts_ranks_digests_and_values(tmp_path: Path) -> None:
    for step in ("step_999999", "step_1000000", "step_000020", "latest"):
        (tmp_path / "output" / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "output" / "checkpoints" / step / "model.safetensors").touch()
    (tmp_path / "output" / "model").mkdir()
    (tmp_path / "output" / "model" / "model.safetensors").touch()
    run = Run(tmp_path, gpus=True)
    run.metrics["worker2"] += [{"step": 300, "loss": bad} for bad in (math.nan, math.inf)]
    page = Page(run.page())
    text = " ".join(page.text.split())
    assert "Validation loss fell from 5.614 to 2.430 in 300 steps, with 2 processes on 2 hosts, in 0:58." in text
    said = ["10.0.0.12", GPU, "2.13.0+cpu", "0c0de0c0de00", "e27e27e27e27", "9.00 GiB", "0:02worker1Rank 0/2"]
    said += ["train.py --config {config}", "learning_rate: 0.001", "rank 1 on worker2 that were NaN or infinite: 2."]
    assert [one for one in said if one not in text] == []
    assert [link["href"] for link in page.all("a")][:2] == ["output/model", "output/checkpoints/step_1000000"]


def test_failed_run_shows_the_first_cause_on_top(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.fail("ValueError: Expected 3 channels, got 4", ["Traceback (most recent call last):", "    x = conv(x)"])
    html = run.page()
    text = " ".join(Page(html).text.split())
    assert "Rank 1 on worker2 failed at step 173 of 300 after 0:31; until then validation loss fell" in text
    assert "rank 1 on worker2 failed (exit code 1): ValueError: Expected 3 channels, got 4" in text
    assert "Traceback (most recent call last):\n    x = conv(x)</pre>" in html
    first, later = html.index("ValueError: Expected 3 channels"), html.index("RuntimeError: Connection closed by peer")
    assert first < later < html.index("<svg")


def test_the_summary_of_a_failed_attempt_is_that_attempts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name, status in run.status.items():
        begun = START + 1_000
        status.update(
            state="failed",
            started=begun,
            time=begun + 9,
            cause={"host": name, "text": "ValueError: x", "rank": 0, "time": begun + 8},
        )
        status["ranks"][0].update(step=0, loss=None)
    assert run.line().startswith("failed · the script reported no loss · 2 processes on 2 hosts · 0:09")
    for name in run.hosts:
        run.metrics[name].append({"generation": 1, "step": 301, "time": START + 1_005, "loss": 1.25})
    assert run.line().startswith("failed · training loss stayed at 1.250 ·")
    run.status["worker1"]["state"] = run.status["worker2"]["state"] = "stopped"
    assert run.line().startswith("stopped · validation loss fell from 5.614 to 2.430")


@pytest.mark.parametrize("generation", [1, 2])  # a new launch begins with 1 again
def test_restart_breaks_the_lines(tmp_path: Path, generation: int) -> None:
    run = Run(tmp_path)
    assert [pieces_drawn(run.page(), key) for key in ("loss", "cpu")] == [[1, 1, 1], [1, 1]]
    for rank, name in enumerate(run.hosts):
        run.metrics[name] = run.course(rank, 1, 1, 180) + run.course(rank, generation, 151, 300)
        run.usage[name] += [{**line, "time": line["time"] + 3_600} for line in run.usage[name]]
    assert [pieces_drawn(run.page(), key) for key in ("loss", "cpu")] == [[2, 2, 2], [2, 2]]


def test_sum_is_the_ranks_together_although_they_note_other_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for rank, name in enumerate(run.hosts):
        steps = range(1 + rank, 300, 3 + rank)
        run.metrics[name] = [{"step": step, "samples_per_second": 100.0 * (1 + rank) + step} for step in steps]
    (piece,) = plots.together(run.load().metrics, 1, "sum")
    assert [value for _, value in piece] == pytest.approx([300 + 2 * step for step, _ in piece])
    assert len(piece) > 80


def test_many_ranks_share_one_entry_in_the_legend(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.plan["hosts"] = [{**run.plan["hosts"][0], "processes": 24}]
    folder = run.write()
    for rank in range(24):
        text = "".join(json.dumps(line) + "\n" for line in run.course(rank % 5, 1, 1, 300))
        (folder / "worker1" / f"metrics-rank{rank}.jsonl").write_text(text)
    html = report.render(report.load(folder))
    assert html.count("each of 24 ranks") == 2  # loss and samples per second
    assert len(pieces_drawn(html, "loss")) == 25


def test_long_runs_are_thinned_but_mean_and_peak_are_of_all(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics["worker1"] = [{"step": step, "loss": 7.0 + (step == 500)} for step in range(1, 30_001)]
    track = run.load().metrics[0]
    assert 1_000 < len(track.samples) <= records.MAX_POINTS + 1
    assert (track.samples[0].x, track.samples[-1].x) == (1, 30_000)
    assert track.mean[0] == pytest.approx(7 + 1 / 30_000)
    assert track.peak[0] == 8


def test_events_of_all_hosts_share_a_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for skew, status in enumerate(run.status.values()):
        texts = [(0, "Training started"), (1, f"only {skew}"), (40, "Training started"), (50 + 30 * skew, "alone")]
        status["events"] = [{"time": START + after + skew, "text": text} for after, text in texts]
    events = [(said.hosts, said.text) for said in run.load().events]
    both, one, other = (["worker1", "worker2"], "Training started"), ["worker1"], ["worker2"]
    assert events == [both, (one, "only 0"), (other, "only 1"), both, (one, "alone"), (other, "alone")]


def test_what_is_missing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    folder = Run(tmp_path / "run").write()
    (tmp_path / "plan.json").write_bytes((folder / "plan.json").read_bytes())
    html = report.render(report.load(tmp_path))
    assert "<svg" not in html
    for said in ("the script reported no loss", "No readable status came home from worker1.", "Host lost", "No events"):
        assert said in html, said


def test_of_huge_files_and_lines_cut_off_a_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_FILE", 1_000)
    monkeypatch.setattr("winfleet.core.status.MAX_BYTES", 2_000)
    run = Run(tmp_path)
    run.metrics["worker1"] = [{"step": step, "loss": 1.0} for step in range(100, 200)]  # 29 bytes a line
    run.status["worker2"]["events"] *= 100
    folder = run.write()
    with (folder / "worker1" / "metrics-rank0.jsonl").open("a") as file:
        file.write('{"step": 200, "los')  # cut off
    data = report.load(folder)
    assert [sample.x for sample in data.metrics[0].samples] == list(range(100, 200, 3))
    assert [machine.known for machine in data.machines] == [True, False]


HOSTILE = "\x1b[31mred\x1b[0m\x07 <script>alert(1)</script> \u202egnp.exe\x00\x08 \ud800 \"' onload=x"


def test_hostile_text_is_cut_and_shown_as_text(tmp_path: Path) -> None:
    run = Run(tmp_path)
    long = HOSTILE + "A" * 2**17
    run.fail(long, [long])
    run.plan.update(command=[long], config=long, code=HOSTILE, backend=HOSTILE)
    run.plan["hosts"][0].update(os=HOSTILE, gpus=[HOSTILE], adapter=HOSTILE)
    for status in run.status.values():
        status.update(events=[{"time": START, "text": HOSTILE}], versions={"python": HOSTILE, "platform": HOSTILE})
        status["ranks"][0]["state"] = HOSTILE
    run.metrics["worker1"].append({"generation": 1, "step": 300, "logged": {"val_loss" + long: 1.0}})
    html = run.page()
    page = Page(html)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.all("script") == []
    assert page.text.count("<script>alert(1)</script> gnp.exe") >= 12
    assert report.MAX_VALUE - 100 < max(map(len, re.findall("A+", html))) <= report.MAX_VALUE
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", html) == []


@pytest.mark.parametrize("wrong", [True, 10**400, math.nan, "x", {"rank": {}}])
def test_wrong_types_everywhere(tmp_path: Path, wrong: Any) -> None:
    run = Run(tmp_path)
    status, metrics, usage = run.status["worker1"], run.metrics["worker1"], run.usage["worker1"]
    metrics += [{**metrics[0], key: wrong} for key in metrics[0]] + [{**metrics[1], "logged": wrong}, wrong]
    metrics += [{"generation": wrong, "step": wrong, "logged": {"validation_loss": wrong, "": wrong}}]
    usage += [{**usage[0], "ranks": wrong}, {**usage[0], "time": wrong}, wrong]
    usage += [{"time": START, "ranks": [{**usage[0]["ranks"][0], key: wrong}]} for key in usage[0]["ranks"][0]]
    status["ranks"] += [{**status["ranks"][0], key: wrong} for key in status["ranks"][0]]
    status.update(dict.fromkeys(("started", "time", "versions", "cause", "events", "generation"), wrong))
    text = Page(run.page()).text
    assert "5.614" in text
    assert "nan" not in text.lower().replace("were nan", "")
    run.metrics = {name: lines[:2] for name, lines in run.metrics.items()}  # plots take most of the time
    run.usage = {name: lines[:2] for name, lines in run.usage.items()}
    for values, keys in ((run.plan, list(run.plan)), (run.plan["hosts"][0], list(run.plan["hosts"][0]))):
        for key in keys:
            kept, values[key] = values[key], wrong
            try:
                assert run.page().endswith("</html>\n")
            except report.ReportError as error:
                assert "is not a readable plan" in str(error)  # noqa: PT017
            values[key] = kept


@pytest.mark.skipif(os.name == "nt", reason="making links needs a right on Windows")
def test_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    other, folder = Run(tmp_path / "other").write(), Run(tmp_path / "run").write()
    for host, name in (("worker1", ""), ("worker2", "status.json")):
        (folder / host).rename(folder / "moved") if not name else (folder / host / name).unlink()
        (folder / host / name).symlink_to(other / host / name)
    assert [machine.known for machine in report.load(folder).machines] == [False, False]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (None, r"error: no folder `.+`\nhint: give the folder of a run, for example logs/.+\n"),
        ("", r"error: `.+` has no plan.json\nhint: give the folder of one run, not the folder of all runs\n"),
        ("[" * 99_999, r"error: `.+/plan.json` is not a readable plan\nhint: copy plan.json from any of .+\n"),
    ],
)
def test_folder_of_which_no_report_can_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plan: str | None, message: str
) -> None:
    if plan:
        (tmp_path / "plan.json").write_text(plan, "utf-8")
    code, out, err = run_main(tmp_path / "run" if plan is None else tmp_path, capsys)
    assert (code, out) == (2, "")
    assert re.fullmatch(message, err)


def test_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Run(tmp_path).write()
    (folder / "report.html" / "x").mkdir(parents=True)  # in the way
    code, out, err = run_main(folder, capsys)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: `.*report.html` cannot be written: .+\nhint: make the folder writable for you\n", err)
    assert list(folder.glob("*.tmp")) == []


def test_control_node_without_the_packages(tmp_path: Path) -> None:
    code = f"""if True:
        import sys, winfleet.report
        assert not {{"matplotlib", "numpy", "jinja2", "torch"}} & set(sys.modules)
        sys.modules["jinja2"] = None
        sys.exit(winfleet.report.main([{str(Run(tmp_path).write())!r}]))
    """
    done = call(sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("\nhint: make the report on the control node, with winfleet[control]\n")


def test_page_says_where_the_time_goes_and_whether_it_was_predicted_and_links_the_stacks(tmp_path: Path) -> None:
    run = eventful(tmp_path)
    page = Page(run.page())
    links = [link["href"] or "" for link in page.all("a")]
    assert [link for link in links if "stack" in link] == ["worker1/rank0.stack.txt", "worker2/rank1.stack.txt"]
    text = " ".join(page.text.split())
    said = ["In the mean of all ranks 63 % compute, 18 % communication and 18 % data loading.", "71 °C",
            "Rank 1 on worker2 is slowest: 32 % of its step is data loading.", "Predicted and measured"]  # fmt: skip
    assert [one for one in said if one not in text] == []
    (tmp_path / "prediction.json").write_text('{"planned": []}')
    text = Page(run.page()).text
    assert "Predicted and measured" not in text
    assert "prediction.json cannot be read" in text
    (tmp_path / "prediction.json").unlink()
    assert "prediction" not in Page(run.page()).text.lower()


def test_predicted_and_measured_stand_side_by_side(tmp_path: Path) -> None:
    run = eventful(tmp_path).load()
    assert run.prediction is not None
    found = report._forecast(run)
    assert found is not None
    rows = {row.name: row for row in found["rows"]}
    assert rows["Seconds of a step"].measured == pytest.approx(0.19), "the slowest rank's: 0.12 + 0.01 + 0.06"
    assert rows["… loading data"].measured == pytest.approx(0.06)
    assert rows["… loading data"].difference == pytest.approx(500)
    assert rows["Seconds of a step"].predicted == run.prediction.planned.step_seconds


def test_restarts_and_the_like_are_marked_at_their_step(tmp_path: Path) -> None:
    signs = [(sign.x, sign.word) for sign in plots.panels(eventful(tmp_path).load(), "")[0].signs]
    assert [word for _, word in signs] == ["restart", "out of memory", "stuck"]
    assert [step for step, _ in signs] == pytest.approx([300 * at / SECONDS for at in (14, 26, 41)], abs=3)


@pytest.mark.skipif(PROGRAM is None, reason="no chromium")
def test_a_browser_shows_the_page_on_a_laptop_a_phone_and_paper(tmp_path: Path) -> None:
    run = eventful(tmp_path / "run")
    run.plan["command"] = ["train.py", "--name", "x" * 300]
    run.fail("ValueError: Expected 3 channels, got 4 " + "y" * 200, ["    x = conv(x)" + " " * 90 + "#"])
    assert report.main([str(run.write())]) == 0
    page = (run.folder / "report.html").as_uri()
    with Browser(tmp_path / "profile") as browser:
        for width, scheme in ((1366, "light"), (1366, "dark"), (390, "light")):
            browser.open(page, width, scheme=scheme)
            assert browser.value("document.documentElement.scrollWidth") <= width, "nothing hangs over the edge"
            wide = "[...document.querySelectorAll('figure svg')].filter(one => one.getBoundingClientRect().width < 250)"
            assert browser.value(f"{wide}.length") == 0, "plots can be read"
            cut = "[...document.querySelectorAll('svg text')].filter(one => { const text = one.getBoundingClientRect(), figure = one.closest('figure').getBoundingClientRect(); return text.left < figure.left || text.right > figure.right }).map(one => one.textContent)"
            assert browser.value(cut) == [], "no word of a plot is cut off"
            colors = browser.value("getComputedStyle(document.body).backgroundColor")
            assert (colors == "rgb(15, 19, 24)") == (scheme == "dark")
        paper = browser.paper()
        assert set(browser.requests) == {page}, "it asks the network for nothing"
        assert browser.complaints == []
    assert paper.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 6
