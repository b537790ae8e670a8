"""Writes docs/troubleshooting.md (Korean) and docs/troubleshooting.en.md from the table of causes: `make docs`.

python docs/troubleshooting.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from winfleet.core.causes_table import CONNECTION, CONTROLLER, END, MACHINE, PACKAGES, RACES, START, TRAINING, Row

HERE: Final = Path(__file__).resolve().parent
SECTIONS: Final = (  # rows, English title, Korean title
    (CONTROLLER, "Ansible does not start", "Ansible이 시작되지 않을 때"),
    (CONNECTION, "A worker cannot be reached", "워커에 연결되지 않을 때"),
    (PACKAGES, "Packages cannot be installed", "패키지가 설치되지 않을 때"),
    (START, "A training does not start", "학습이 시작되지 않을 때"),
    (MACHINE, "Disk, memory, files, and what guards them", "디스크, 메모리, 파일과 보안 프로그램"),
    ((*RACES, *TRAINING), "The training fails", "학습이 실패할 때"),
    (END, "A process or a host ends", "프로세스나 호스트가 끝날 때"),
)
MADE: Final = (
    "<!-- Made by `make docs` from train/winfleet/core/causes_table.py. Change that table, not this file. -->\n"
)
ENGLISH: Final = """# Troubleshooting

A command that fails shows the cause in words, its code in brackets, and a hint. This page has all of them: search it for the code, or for
the words that you see. Words in capitals stand for yours: HOST is the host's name. What is not here, a person may see in
the file that `ansible-playbook collect.yml -i INVENTORY` makes. [한국어](troubleshooting.md)
"""
KOREAN: Final = """# 문제 해결

명령이 실패하면 원인을 말과 괄호 안의 코드로, 해결책을 hint로 보여 줍니다. 이 문서에는 그 모두가 있으니 코드나 화면에 보이는 문구로
찾으십시오. 대문자는 여러분의 값입니다. HOST는 호스트의 이름입니다. 여기에 없는 것은
`ansible-playbook collect.yml -i INVENTORY`가 만드는 파일을 도와줄 사람에게 보내십시오. [English](troubleshooting.en.md)
"""


def page(head: str, titles: Sequence[str], why: str, fix: str, korean: bool) -> str:
    """One document."""
    parts = [MADE + head, "\n".join(f"- [{title}](#{anchor(title)})" for title in titles) + "\n"]
    for (rows, *_), title in zip(SECTIONS, titles, strict=True):
        parts.append(f"## {title}\n")
        for row in rows:
            cause, cure = (row.cause_ko, row.fix_ko) if korean else (row.cause, row.fix)
            parts.append(
                f"### {row.code}\n\n```text\n{row.shows}\n```\n\n- {why}: {sentence(cause, row)}\n- {fix}: {sentence(cure, row)}\n"
            )
    return "\n".join(parts)


def anchor(title: str) -> str:
    """GitHub's name for a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def sentence(text: str, row: Row) -> str:
    """The text with capitals for what differs from case to case, ending as a sentence."""
    text = re.sub(r"(\{\w+\})\{\w+\}", r"\1", text)  # of two that exclude each other
    for name in ("host", *re.compile(row.symptom).groupindex):
        text = text.replace(f"{{{name}}}", name.upper())
    text = text[:1].upper() + text[1:] if text.isascii() else text
    return text if text.endswith(".") else f"{text}."


def main() -> None:
    """Writes both documents into the folder that is given, or beside this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    english = page(ENGLISH, [title for _, title, _ in SECTIONS], "Why", "Fix", korean=False)
    korean = page(KOREAN, [title for *_, title in SECTIONS], "원인", "해결", korean=True)
    (folder / "troubleshooting.en.md").write_text(english, "utf-8")
    (folder / "troubleshooting.md").write_text(korean, "utf-8")


if __name__ == "__main__":
    main()
