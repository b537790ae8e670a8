"""Shows a run to its user: a line a play, a line a change, an error once. With -v it is Ansible's own output."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default
from winfleet.core.causes import describe_failed, describe_interpreter, describe_unreachable

DOCUMENTATION = """
name: winfleet
type: stdout
short_description: What a user of winfleet wants to see
description: A line for each play and each change, and each error once. With -v everything that Ansible shows.
extends_documentation_fragment: [default_callback, result_format_callback]
"""


def short(event: Callable[..., None]) -> Callable[..., None]:
    """What we show of an event. From -v on it is Ansible's own output."""

    @functools.wraps(event)
    def shown(self: Any, *given: Any, **named: Any) -> None:
        show = event if self._display.verbosity == 0 else getattr(Default, event.__name__)
        show(self, *given, **named)

    return shown


def told(host: str, result: Mapping[str, Any]) -> str:
    """Why a task failed, with what its program printed where that is known."""
    said = "\n".join(str(result.get(part, "")) for part in ("module_stderr", "module_stdout", "stderr", "exception"))
    return describe_failed(host, str(result.get("msg", "failed without a message")), said)


class CallbackModule(Default):
    """Ansible's own output from -v on; else whole lines, good in a terminal and in a log file."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "winfleet"

    def __init__(self) -> None:
        super().__init__()
        self._play_name = ""

    @short
    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play begins: it is named once it does something."""
        self._play = play
        name = play.get_name().strip()
        if name != self._play_name:
            self._play_name = name
            self._display.display(name)

    @short
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Tasks are named where they change something."""

    @short
    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Says nothing."""

    @short
    def v2_playbook_on_no_hosts_matched(self) -> None:
        """The inventory's group is empty."""

    @short
    def v2_runner_on_ok(self, result: Any) -> None:
        """A change is a line, and so is what the host notes of it."""
        if result._result.get("changed"):
            self._display.display(f"  {result._host.get_name()}: {result._task.name}", color=constants.COLOR_CHANGED)
        if note := result._result.get("note"):
            self._display.display(f"  {result._host.get_name()}: {note}")

    @short
    def v2_runner_item_on_ok(self, result: Any) -> None:
        """The task's own line says it."""

    @short
    def v2_runner_on_skipped(self, result: Any) -> None:
        """Says nothing."""

    @short
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """The message, once."""
        if not ignore_errors and "results" not in result._result:  # items were shown one by one
            name = result._host.get_name()
            windows = any(group.name == "windows" for group in result._host.get_groups())
            known = "" if windows else describe_interpreter(name, result._result)
            self._say_error(result, known or told(name, result._result))

    @short
    def v2_runner_item_on_failed(self, result: Any) -> None:
        """The item's message."""
        self._say_error(result, told(result._host.get_name(), result._result))

    @short
    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Where a check judges it, it says so itself."""
        if not result._task.ignore_unreachable:
            self._say_error(result, describe_unreachable(result._host.get_name(), str(result._result.get("msg", ""))))

    @short
    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The counts of tasks tell a user nothing."""

    def _say_error(self, result: Any, text: str) -> None:
        host, text = result._host.get_name(), text.strip()
        everywhere = result._task.run_once or host == "localhost" or text.startswith(host)
        where = "" if everywhere else f"{host}: "
        self._display.display(f"error: {where}{text}", color=constants.COLOR_ERROR, stderr=True)
