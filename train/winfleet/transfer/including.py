"""Files that are sent although git ignores them (fleet_include): patterns, and which names are secrets. Standard library alone.

Ansible's modules use this file on hosts that have no winfleet yet, as folders.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

# Never proposed, and sent only where a pattern names the very file.
SECRETS = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*.asc", "id_rsa*",
    "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".npmrc", ".pgpass", ".htpasswd", "kubeconfig", "*.token",
    ".token", "token", "hf_token*", "*credential*", "*secret*", "*password*", "*passwd*", "*api_key*", "*apikey*", "service*account*.json",
    "vault*.yml", "vault*.yaml", "kaggle.json",
)  # fmt: skip
SECRET_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".azure", ".config", "secrets", ".secrets"})


def as_patterns(value: object) -> list[str]:
    """fleet_include as a list: it may be a list, or a text with commas as -e gives it."""
    parts = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return [pattern for part in parts if (pattern := str(part).strip())]


def is_secret(path: PurePosixPath) -> bool:
    """Whether a file holds keys or passwords, as far as its name tells."""
    name = path.name.lower()
    return any(fnmatchcase(name, secret) for secret in SECRETS) or bool(SECRET_FOLDERS.intersection(path.parts[:-1]))


def expression(pattern: str) -> re.Pattern[str]:
    """What a pattern means, as in .gitignore: * stays in a folder, ** does not, a folder means all in it.

    Without a slash it is meant in every folder.
    """
    bare = pattern.replace("\\", "/").rstrip("/")
    while bare.startswith("./"):
        bare = bare[2:]
    anchored = "/" in bare
    words = re.split(r"(\*\*/|\*\*|\*|\?)", bare.lstrip("/"))
    means = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(means.get(word, re.escape(word)) for word in words)
    inside = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    return re.compile(f"{'' if anchored else '(?:.*/)?'}{text}{inside}", re.DOTALL)


def chosen(ignored: Iterable[PurePosixPath], patterns: Sequence[str]) -> list[PurePosixPath]:
    """Those of the ignored files that a pattern asks for; a secret only where the pattern names that file itself."""
    wanted = [(expression(pattern), PurePosixPath(pattern).name) for pattern in patterns]
    return [
        path for path in ignored
        if any(means.fullmatch(str(path)) and (name == path.name or not is_secret(path)) for means, name in wanted)
    ]  # fmt: skip


def in_vain(names: Iterable[PurePosixPath], patterns: Sequence[str]) -> list[str]:
    """Patterns that match none of the files."""
    texts = [str(name) for name in names]
    return [pattern for pattern in patterns if not any(map(expression(pattern).fullmatch, texts))]
