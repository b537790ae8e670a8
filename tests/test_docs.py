"""What the documents say can be typed: every command in them is one that exists, with the options and variables it is given."""

import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from programs import ANSIBLE, output_of, run_forked
from winfleet.proofs.claims import by_name
from winfleet.proofs.claims_table import CLAIMS, PROVED_BY_PROGRAM

PAIRS = {"README.ko.md": "README.md", "docs/distributed_training_guide.md": "docs/distributed_training_guide.en.md",
         "docs/troubleshooting.md": "docs/troubleshooting.en.md"}  # fmt: skip
DOCUMENTS = ["README.md", "README.ko.md", "DISTRIBUTED_QUICK_START.md"]
DOCUMENTS += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
LINKED = [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", "molecule/lab/README.md"]
LINKED += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "roles").glob("*/README.md"))
NOT_COMMANDS = {"text", "yaml", "python", "ini", "json"}  # a fenced block without a language holds commands

# Not run here, and why. The first word of the command.
ELSEWHERE = {
    "source": "changes the reader's own shell", "export": "the same", "read": "asks the reader",
    "nvidia-smi": "needs a GPU", "ipconfig": "Windows'", "netstat": "Windows'", "tasklist": "Windows'", "findstr": "Windows'",
    "Get-Service": "Windows'", "Get-ScheduledTask": "Windows'",
}  # fmt: skip


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """(language, lines) of the fenced blocks of a document."""
    for language, body in re.findall(r"^[ >]*```([\w-]*)\n(.*?)^[ >]*```", text, re.MULTILINE | re.DOTALL):
        yield language, body.splitlines()


def fenced(document: str) -> list[str]:
    """Commands of the document's fenced blocks; where lines begin with `$ ` the others are output."""
    found = []
    for language, lines in blocks((ROOT / document).read_text("utf-8")):
        if language in NOT_COMMANDS:
            continue
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(typed))
        found += [line for raw in joined.split("\n") if (line := re.sub(r"(^|\s)#.*", "", raw).strip())]
    return found


def inline(document: str) -> list[str]:
    """Commands of ours that stand in the text, between backquotes."""
    text = re.sub(r"^[ >]*```.*?^[ >]*```", "", (ROOT / document).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", text)
    ours = r"(ansible-playbook \w|make \w|python -m winfleet|(\.\\scripts\\)?\w+\.(cmd|ps1) -)"
    return [span for span in spans if re.match(ours, span)]


def split(command: str) -> list[str]:
    """Words of a command. A backslash is Windows', never an escape."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    return [word for word in lexer if word != "…"]


def parts(command: str) -> Iterator[list[str]]:
    """The commands of a line that `&&`, `|` or `;` join, without variables that are set before them."""
    for joined, words in itertools.groupby(split(command), lambda word: set(word) <= set("&|;")):
        if not joined:
            yield list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


def keys(*patterns: str) -> set[str]:
    return {
        name for pattern in patterns for path in ROOT.glob(pattern) for name in yaml.safe_load(path.read_text("utf-8"))
    }


VARIABLES = keys("group_vars/*.yml", "roles/*/defaults/main.yml")


def check_playbook(words: list[str]) -> None:
    """ansible-playbook itself reads the command; the embedded inventory stands in for the reader's."""
    given, rest = [], iter(words[1:])
    for word in rest:
        if word == "-i":
            inventory = next(rest)
            assert re.fullmatch(r"inventory|INVENTORY|inventories/[\w-]+", inventory), inventory
        elif word == "-e":
            value = next(rest)
            for name in re.findall(r'"(\w+)": ', value)[:1] if value.startswith("{") else [value.partition("=")[0]]:
                assert name in VARIABLES, f"{name} is no variable of group_vars or of a role"
            given += ["-e", value]
        elif word in ("--vault-password-file", "--limit"):
            assert next(rest)  # the reader's
        else:
            given.append(word)
    program = Path(sys.executable).with_name("ansible-playbook")
    done = run_forked(ROOT, program, "-i", "inventory", "--syntax-check", *given, shared=ANSIBLE)
    assert done.returncode == 0, done.stdout + done.stderr


def check_make(words: list[str]) -> None:
    """make knows the targets, and the Makefile the variables."""
    settings = [word.partition("=")[0] for word in words[1:] if "=" in word]
    targets = [word for word in words[1:] if "=" not in word]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [name for name in settings if not re.search(rf"^{name} \?=", makefile, re.MULTILINE)] == []
    if targets:
        output_of("make", "-n", *targets)


def check_python(words: list[str]) -> None:
    """The module or script is there and has the options."""
    own = itertools.takewhile(lambda word: word != "--", words[2:])  # what follows is for the reader's script
    options = [word for word in own if word.startswith("--")]
    path = f"train/{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
    known = (ROOT / path).read_text("utf-8")
    if options and words[1] == "-m":
        known = output_of(sys.executable, "-m", words[2], "--help")
    assert [word for word in options if word not in known] == []


def parameters(script: Path) -> set[str]:
    """Names in the script's own param block, with those that PowerShell adds."""
    text = script.read_text("utf-8-sig")
    begin = re.search(r"^param\s*\(", text, re.MULTILINE | re.IGNORECASE)
    assert begin is not None, f"{script.name} has no param block"
    depth, end = 1, begin.end()
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    added = {"whatif", "confirm"} if "SupportsShouldProcess" in text[: begin.start()] else set()
    return {name.lower() for name in re.findall(r"\$(\w+)", text[begin.end() : end])} | added | {"verbose"}


def check_script(words: list[str]) -> None:
    """A script of scripts/, its .cmd or its .ps1; both take the same parameters."""
    name = words[0].removeprefix(".").replace("\\", "/").lstrip("/").removeprefix("scripts/")
    assert (ROOT / "scripts" / name).is_file(), name
    known = parameters(ROOT / "scripts" / f"{Path(name).stem}.ps1")
    own = itertools.takewhile(lambda word: word != "--" and not word.endswith(".py"), words[1:])
    assert [word for word in own if re.match(r"-[A-Za-z]", word) and word[1:].lower() not in known] == []


def check_path(words: list[str]) -> None:
    """A program of this repository; paths and scenarios that are named are there."""
    program = words[0].removeprefix(".venv/bin/")
    assert program in ("molecule", "pytest") or (ROOT / program).is_file() or program.startswith("python"), words[0]
    named = [word for word in words[1:] if re.match(r"(tests|bench|scripts|train)/", word)]
    if "-s" in words and words[words.index("-s") + 1].islower():
        named.append(f"molecule/{words[words.index('-s') + 1]}/molecule.yml")
    assert [path for path in named if not (ROOT / path).exists()] == []


def check(words: list[str]) -> None:
    """Proves one command as far as it can be here."""
    program = words[0].lower() if words[0].endswith((".cmd", ".ps1")) else words[0]
    if words[0] in ELSEWHERE:
        return
    if program == "ansible-playbook":
        check_playbook(words)
    elif program == "make":
        check_make(words)
    elif program == "python":
        check_python(words)
    elif program.endswith((".cmd", ".ps1")):
        check_script(words)
    elif program == "ansible":
        output_of("ansible-doc", "--snippet", "--type", "module", words[words.index("-m") + 1])
    else:
        check_path(words)


def commands() -> dict[str, list[str]]:
    """Every command -> the documents that have it."""
    found: dict[str, list[str]] = {}
    for document in DOCUMENTS:
        for command in dict.fromkeys([*fenced(document), *inline(document)]):
            found.setdefault(command, []).append(document)
    return found


@pytest.mark.parametrize(
    "command", [pytest.param(text, id=f"{where[0]}: {text}") for text, where in commands().items()]
)
def test_a_command_in_a_document_exists(command: str) -> None:
    for words in parts(command):
        if words:
            check(words)


def test_every_document_was_read() -> None:
    found = commands()
    assert len(found) > 40
    assert {document for where in found.values() for document in where} == set(DOCUMENTS)
    programs = {words[0] for command in found for words in parts(command) if words}
    assert sorted(set(ELSEWHERE) - programs) == [], "entries that nothing needs"


@pytest.mark.parametrize("korean", PAIRS)
def test_korean_and_english_have_the_same_commands(korean: str) -> None:
    english = PAIRS[korean]
    assert fenced(korean) == fenced(english)
    assert set(inline(korean)) == set(inline(english))


@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if name not in ("docs/architecture.md", "docs/testing.md")]
)
def test_a_variable_in_a_users_document_is_one(document: str) -> None:
    roles = "|".join(path.name for path in (ROOT / "roles").iterdir())
    names = set(re.findall(rf"`(?:[^`\n]*\s)?((?:fleet|{roles})_\w+)(?![\w.])", (ROOT / document).read_text("utf-8")))
    assert sorted(names - VARIABLES) == []


def anchors(document: Path) -> set[str]:
    """GitHub's names for the headings."""
    titles = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", LINKED)
def test_links_lead_somewhere(document: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text("utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", ["docs/claims.md", "docs/testing.md"])
def test_tests_and_files_that_the_documents_name_exist(document: str) -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    text = (ROOT / document).read_text("utf-8")
    missing = {
        name
        for name in re.findall(r"\btest_\w+", text)
        if f"def {name}(" not in code and not (ROOT / "tests" / f"{name}.py").exists()
    }
    folders = r"(?<![\w/.…])(?:\.github|bench|molecule|plugins|roles|scripts|tests|train)"
    missing |= {path for path in re.findall(rf"{folders}/[\w./-]*\w", text) if not (ROOT / path).exists()}
    assert sorted(missing) == []


def test_the_document_of_claims_is_that_of_the_table(tmp_path: Path) -> None:
    output_of(sys.executable, "docs/claims.py", tmp_path)
    text = (tmp_path / "claims.md").read_text("utf-8")
    assert text == (ROOT / "docs/claims.md").read_text("utf-8"), "run `make docs`"
    assert re.findall(r"(?m)^\| .+? · `([a-z\d-]+)` \| ", text) == [claim.name for claim in CLAIMS]


def test_a_claim_has_a_name_of_its_own_and_says_what_proves_it() -> None:
    names = by_name(CLAIMS).keys()
    assert [name for name in names if not re.fullmatch(r"[a-z\d]+(-[a-z\d]+)*", name)] == []
    assert sorted(set(PROVED_BY_PROGRAM) - names) == []
    for claim in CLAIMS:
        by_program = claim.name in PROVED_BY_PROGRAM
        assert claim.here or claim.real or by_program, f"nothing proves {claim.name}"
        assert claim.here or not claim.proved, f"nothing is named that proves {claim.name} here"
        assert bool(claim.needs) == bool(claim.real or by_program), (
            f"{claim.name} is unproven without a way to prove it"
        )
        assert not (claim.real and by_program), f"prove.yml proves {claim.name}: its command has no place"
        assert not claim.text.endswith("."), claim.name
