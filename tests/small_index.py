"""A package index of this machine's loopback, with packages of some lines that are made on the spot."""

import base64
import hashlib
import http.server
import importlib.metadata
import io
import tarfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from winfleet.environments.lock import OURS

BACKEND = '''
import pathlib, zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "{file}-{version}-{tag}.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        wheel.writestr("{module}.py", "built = True\\n")
        wheel.writestr("{file}-{version}.dist-info/METADATA", """{metadata}""")
        wheel.writestr("{file}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        wheel.writestr("{file}-{version}.dist-info/RECORD", "")
    return name
'''

# A torch without GPUs, as far as it is asked before a training.
TORCH = """
__version__ = "2.13.0"
class cuda:
    device_count = staticmethod(lambda: 0)
class ones:
    def __init__(self, *size, device): pass
    __matmul__ = lambda self, other: self
    sum = lambda self: 64.0**3
"""


class SmallIndex:
    """Serves its folder's archives at `url`, in the words of PEP 503; as an HTTP proxy it is the index of every host.

    `asked` has each request's path, or the whole URL where it came to a proxy, and what it said to the proxy of who it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[tuple[str, str]]()
        folder.mkdir(parents=True, exist_ok=True)
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
                body = index.answer(self.path if self.path.startswith("/") else urlsplit(self.path).path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

            do_HEAD = do_GET  # uv asks for the size first

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str) -> bytes | None:
        """A package's page, or an archive."""
        _, _, place, *_ = [*path.split("/"), "", ""]
        if path.startswith("/simple/"):
            found = [
                each for each in sorted(self.folder.iterdir()) if each.name.partition("-")[0] == place.replace("-", "_")
            ]
            lines = [
                f'<a href="/files/{each.name}#sha256={digest(each.read_bytes())}">{each.name}</a>' for each in found
            ]
            return "\n".join(["<!DOCTYPE html><html><body>", *lines, "</body></html>"]).encode() if found else None
        archive = self.folder / path.rpartition("/")[2]
        return archive.read_bytes() if archive.is_file() else None

    def fill(self) -> None:
        """What winfleet needs, and some packages that a project may ask for."""
        for name in OURS:
            self.wheel(name, "7.0")
        self.wheel("torch", "2.13.0", code=TORCH)
        self.wheel("small-a", "1.0", "small-b<2")
        self.wheel("small-b", "1.0")
        self.source("pure-source", "1.5")

    def wheel_of_this_python(self, name: str) -> None:
        """A package as it is installed here."""
        found = importlib.metadata.distribution(name)
        with zipfile.ZipFile(self.folder / f"{name}-{found.version}-py3-none-any.whl", "w") as wheel:
            for path in found.files or ():
                if ".." not in path.parts and path.suffix != ".pyc":
                    wheel.write(str(path.locate()), str(path))

    def wheel(
        self, name: str, version: str, *needs: str, tags: Sequence[str] = ("py3-none-any",), code: str = ""
    ) -> None:
        """A package with a wheel for each tag."""
        file = name.replace("-", "_")
        for tag in tags:
            info = f"{file}-{version}.dist-info"
            members = {
                f"{file.lower()}.py": code or f"version = {version!r}\n", f"{info}/METADATA": metadata(name, version, needs),
                f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
            }  # fmt: skip
            record = "".join(f"{path},sha256={urlsafe(text.encode())},{len(text)}\n" for path, text in members.items())
            with zipfile.ZipFile(self.folder / f"{file}-{version}-{tag}.whl", "w") as wheel:
                for path, text in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                    wheel.writestr(path, text)

    def source(self, name: str, version: str, *needs: str, tag: str = "py3-none-any") -> None:
        """A package that is published as source alone; building it makes a wheel of this tag."""
        file = name.replace("-", "_")
        told = metadata(name, version, needs)
        backend = BACKEND.format(file=file, module=file.lower(), version=version, tag=tag, metadata=told)
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        project += f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {list(needs)!r}\n'
        with tarfile.open(self.folder / f"{file}-{version}.tar.gz", "w:gz") as archive:
            for path, text in {"pyproject.toml": project, "backend.py": backend, "PKG-INFO": told}.items():
                member = tarfile.TarInfo(f"{file}-{version}/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))


def metadata(name: str, version: str, needs: Sequence[str]) -> str:
    return f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {each}\n" for each in needs
    )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def urlsafe(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
