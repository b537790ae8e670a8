"""What a project without a lock asks for: the lines of its requirements.txt or pyproject.toml, each with its place.

Some lines are left to torch's build, as pip freeze writes what torch alone brings; some cannot travel to workers.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

# What torch's CUDA builds bring with them: NVIDIA's libraries by name, not all that begins with nvidia-, as nvidia-ml-py.
OF_TORCH: Final = re.compile(
    r"nvidia-(cublas|cuda-[a-z-]+|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparselt|nccl|nvjitlink|nvshmem|nvtx)(-cu\d+)?"
    r"|nvidia-[a-z-]+-cu\d+|cuda-(bindings|pathfinder|toolkit)|(pytorch-)?triton(-rocm|-xpu)?"
)
BUILD: Final = re.compile(r"(?<===)(\s*[^\s;,+]+)\+(cu\d+|cpu|rocm[\d.]+|xpu)\b")  # ==2.5.1+cu121
BUILDS: Final = "download.pytorch.org"  # the index of torch's builds
HARMLESS: Final = (
    "--prefer-binary",
    "--use-feature",
    "--trusted-host",
    "--no-binary",
    "--only-binary",
    "--require-hashes",
)
WEB: Final = ("http://", "https://")
VERSION_CONTROL: Final = re.compile(r"(?:.*@\s*)?(git|hg|svn|bzr)\+")
A_PATH: Final = re.compile(r"\.{1,2}$|[.~]{0,2}/|[A-Za-z]:[\\/]|\.{1,2}\\|.*\.(whl|zip|tar\.gz|tgz)$")

SAY_PATH: Final = (
    "build it into a wheel and put that into a folder that uv_env_own_wheels names, or copy its code into your project"
)
SAY_GIT: Final = "put a released version in its place, as NAME==VERSION; or build a wheel of it and copy its package into your project"
SAY_EDITABLE: Final = "remove the line: the project's own code is sent anyway, and lies in the working folder"
SAY_CONDA: Final = "such a path is conda's own: write NAME==VERSION, as `pip list --format=freeze` does"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """One requirement as the user wrote it."""

    place: str  # requirements.txt:3
    text: str
    requirement: Requirement

    @property
    def name(self) -> str:
        """The package, in its normal form."""
        return str(canonicalize_name(self.requirement.name))

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(kw_only=True, slots=True)
class Wishes:
    """All that a project asks for."""

    files: list[str] = field(default_factory=list)  # those that were read, below the project
    wanted: list[Wish] = field(default_factory=list)
    limits: list[Wish] = field(default_factory=list)  # of -c files: they ask for nothing
    indexes: list[str] = field(default_factory=list)  # besides the usual one
    links: list[str] = field(default_factory=list)  # pages with archives
    prereleases: bool = False
    left: list[str] = field(default_factory=list)  # to torch's build
    refused: list[str] = field(default_factory=list)  # paragraphs: place, line, why, hint


def read_wishes(project: Path, python_version: str) -> Wishes | None:
    """What the project asks for, None where it says nothing. Raises OSError and UnicodeDecodeError."""
    if (project / "requirements.txt").is_file():
        wishes = Wishes()
        read_requirements(project / "requirements.txt", project, wishes)
        return wishes
    if (project / "pyproject.toml").is_file():
        return read_pyproject(project, python_version)
    return None


def read_requirements(path: Path, project: Path, wishes: Wishes, *, limits: bool = False) -> None:
    """Adds the file's lines, and those of files that it includes. Raises OSError and UnicodeDecodeError."""
    name = named(path, project)
    if name in wishes.files:
        return
    wishes.files.append(name)
    for number, line in logical_lines(decode(path.read_bytes())):
        take_line(line, f"{name}:{number}", path.parent, project, wishes, limits=limits)


def named(path: Path, project: Path) -> str:
    """The path as a user of the project would say it."""
    path = path.resolve()
    return path.relative_to(project.resolve()).as_posix() if path.is_relative_to(project.resolve()) else str(path)


def decode(content: bytes) -> str:
    """The text; Windows PowerShell's `pip freeze > requirements.txt` writes UTF-16. Raises UnicodeDecodeError."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, line) without comments and empty ones; a backslash at the end joins the next."""
    begun, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun or number
        joined += line.removesuffix("\\")
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            continue
        if plain := re.sub(r"(^|\s)#.*$", "", joined).strip():
            yield begun, plain
        begun, joined = 0, ""
    if plain := joined.strip():
        yield begun, plain


def take_line(line: str, place: str, folder: Path, project: Path, wishes: Wishes, *, limits: bool) -> None:
    """Sorts one line of a requirements file in."""
    if line.startswith("-"):
        take_option(line, place, folder, project, wishes)
        return
    text = re.split(r"\s--?[a-zA-Z]", line)[0].strip()  # hashes and the like: the new lock has its own
    if why := why_it_cannot_travel(text):
        wishes.refused.append(f"{place}: {text}: {why}")
        return
    if text.startswith(WEB):
        text = f"{name_of_wheel(text)} @ {text}"
    take(text, place, wishes, limits=limits)


def why_it_cannot_travel(text: str) -> str:
    """Why a worker cannot have what the line names, and what to write; "" where it can."""
    if VERSION_CONTROL.match(text):
        return f"a repository is no release, so workers cannot have it\n  hint: {SAY_GIT}"
    if "file:" in text:
        return (
            f"the file lies on one machine, so workers cannot have it\n  hint: {SAY_CONDA if '@' in text else SAY_PATH}"
        )
    if text.startswith(WEB):
        return "" if name_of_wheel(text) else "an address needs a name\n  hint: write NAME @ ADDRESS"
    if " @ " not in text and A_PATH.match(text):
        return f"the path lies on this machine, so workers cannot have it\n  hint: {SAY_PATH}"
    return ""


def name_of_wheel(address: str) -> str:
    """The package whose wheel an address is; "" for another kind of file."""
    try:
        return str(parse_wheel_filename(unquote(urlsplit(address).path.rpartition("/")[2]))[0])
    except InvalidWheelFilename:
        return ""


def take(text: str, place: str, wishes: Wishes, *, limits: bool = False) -> None:
    """One requirement: what is torch's own is left to torch's build, what is none is refused."""
    bare = BUILD.sub(r"\1", text)
    try:
        requirement = Requirement(bare)
    except InvalidRequirement as error:
        conda = re.fullmatch(r"([\w.-]+)=([\w.]+)=\S+", text)
        hint = f"that is conda's own form: write {conda[1]}=={conda[2]}" if conda else "write it as NAME==VERSION"
        wishes.refused.append(f"{place}: {text}: {str(error).splitlines()[0]}\n  hint: {hint}")
        return
    wish = Wish(place=place, text=text, requirement=requirement)
    if OF_TORCH.fullmatch(wish.name):
        wishes.left.append(text)
        return
    if bare != text:
        wishes.left.append(text)
    (wishes.limits if limits else wishes.wanted).append(wish)


def take_option(line: str, place: str, folder: Path, project: Path, wishes: Wishes) -> None:
    """A line that is an option of pip."""
    option, _, value = re.sub(r"^(-[a-zA-Z])(?=[^\s=-])|[\s=]+", r"\1 ", line, count=1).partition(
        " "
    )  # -rFILE, --requirement=FILE
    value = value.strip("\"' ")
    if option in ("-r", "--requirement", "-c", "--constraint"):
        take_file(line, value, place, folder, project, wishes, limits="c" in option[:3])
    elif option in ("-e", "--editable"):
        wishes.refused.append(f"{place}: {line}: an editable package is one of this machine\n  hint: {SAY_EDITABLE}")
    elif option in ("-i", "--index-url", "--extra-index-url", "-f", "--find-links"):
        take_index(line, value, place, wishes, links=option in ("-f", "--find-links"))
    elif option == "--pre":
        wishes.prereleases = True
    elif option not in HARMLESS:
        wishes.refused.append(f"{place}: {line}: winfleet does not know this option\n  hint: remove the line")


def take_file(line: str, value: str, place: str, folder: Path, project: Path, wishes: Wishes, *, limits: bool) -> None:
    """-r or -c: the file is read as if its lines stood there."""
    path = folder / value
    if value.startswith(WEB) or not path.is_file():
        wishes.refused.append(f"{place}: {line}: no such file\n  hint: copy it into the project, or remove the line")
        return
    read_requirements(path, project, wishes, limits=limits)


def take_index(line: str, value: str, place: str, wishes: Wishes, *, links: bool) -> None:
    """An index or a page with archives that workers are told of as well; the index of torch's builds is left to them."""
    if BUILDS in value:
        wishes.left.append(line)
    elif not value.startswith(WEB):
        wishes.refused.append(
            f"{place}: {line}: the path lies on this machine, so workers cannot have it\n  hint: {SAY_PATH}"
        )
    elif "@" in urlsplit(value).netloc:
        wishes.refused.append(
            f"{place}: the address holds a password, which would be written down on each worker\n"
            "  hint: set UV_INDEX on this machine and on the workers in its place"
        )
    else:
        (wishes.links if links else wishes.indexes).append(value)


def read_pyproject(project: Path, python_version: str) -> Wishes | None:
    """The dependencies of a pyproject.toml; None where the file is for tools alone. Raises OSError, UnicodeDecodeError."""
    wishes, path = Wishes(files=["pyproject.toml"]), project / "pyproject.toml"
    lines = path.read_text("utf-8").splitlines()
    try:
        told = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        wishes.refused.append(f"pyproject.toml: {error}\n  hint: correct the file")
        return wishes
    about: dict[str, Any] = told.get("project", {})
    if "dependencies" in about.get("dynamic", []) or "dependencies" in told.get("tool", {}).get("poetry", {}):
        wishes.refused.append(
            "pyproject.toml: only another tool knows its dependencies\n"
            "  hint: write them into a requirements.txt beside it, as `poetry export` does"
        )
        return wishes
    if not about:
        return None
    if why := refuses_python(str(about.get("requires-python", "")), python_version):
        wishes.refused.append(why)
    sources = told.get("tool", {}).get("uv", {}).get("sources", {})
    for text in about.get("dependencies", []):
        number = next((number for number, line in enumerate(lines, 1) if text in line.replace("\\", "")), 1)
        place = f"pyproject.toml:{number}"
        if why := why_it_cannot_travel(text) or why_source_cannot(text, sources):
            wishes.refused.append(f"{place}: {text}: {why}")
        else:
            take(text, place, wishes)
    return wishes


def why_source_cannot(text: str, sources: dict[str, Any]) -> str:
    """Why a package of [tool.uv.sources] cannot be had by workers; "" where it is in an index."""
    name = canonicalize_name(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0])
    of = {str(canonicalize_name(key)): value for key, value in sources.items()}.get(str(name), {})
    entries = of if isinstance(of, list) else [of]
    if any("git" in entry for entry in entries):
        return f"tool.uv.sources takes it from a repository\n  hint: {SAY_GIT}"
    if any("path" in entry or entry.get("workspace") for entry in entries):
        return f"tool.uv.sources takes it from this machine\n  hint: {SAY_PATH}"
    return ""


def refuses_python(wanted: str, python_version: str) -> str:
    """That the project is not for the workers' Python; "" where it is."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        if SpecifierSet(wanted).contains(f"{python_version}.99") or SpecifierSet(wanted).contains(
            f"{python_version}.0"
        ):
            return ""
    except InvalidSpecifier:
        return ""
    return (
        f'pyproject.toml: requires-python is "{wanted}", and workers get Python {python_version}\n'
        "  hint: set uv_env_python_version to one that it takes"
    )
