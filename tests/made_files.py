"""Files that tests make: folders, wheels, certificates."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from programs import output_of


def fill(folder: Path, content: Mapping[str, bytes]) -> Path:
    """Writes the files below the folder."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any", code: str = "") -> None:
    """A wheel with one module of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", code)
        wheel.writestr(f"{meta}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{meta}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{meta}/RECORD", "")


def certificate(folder: Path, name: str) -> str:
    """A certificate of that name, as PEM; it lies in the folder, and its key beside it as `key`."""
    path = folder / f"{name}.crt"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    output_of("openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", "-keyout", folder / "key", "-out", path)
    return path.read_text()
