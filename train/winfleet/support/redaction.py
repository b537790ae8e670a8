"""Takes out of a text what a stranger is not to see: secrets, account names, home folders, MAC addresses, public addresses.

Values that are known are replaced wherever they stand; what is not known is found by its form. Pure functions on texts.
"""

from __future__ import annotations

import base64
import collections
import html
import ipaddress
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

SECRET, USER, MAC, ADDRESS, MAIL = "<secret>", "<user>", "<mac>", "<public address>", "<mail>"
# Names of variables whose values are secret. `tokens`, as in max_tokens or tokens/s, counts something.
SECRET_NAME: Final = re.compile(
    r"pass(word|wd|phrase)|[_.-]pwd($|[_.-])|secret|token(?!s|iz)|api_?-?key|access_?-?key|private_?-?key|credential",
    re.IGNORECASE,
)
NAMES_OF_SECRETS: Final = ("fleet_secrets", "uv_env_secrets")  # hold names alone
SHORTEST_SECRET: Final = 4  # characters; a shorter value stands by chance all over a text
PUBLIC_ACCOUNTS: Final = {"root", "administrator", "system", "public", "default", "all users", "user", ""}

NAME: Final = r"""[\w.-]*(?:pass(?:word|wd|phrase)|secret|token(?!s|iz)|api_?-?key|access_?-?key|private_?-?key|credential)[\w.-]*"""
FORMS: Final = (
    (SECRET, re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)),
    (SECRET, re.compile(r"\$ANSIBLE_VAULT;[^\n]*(?:\n\s*[0-9a-f]+)*")),
    (SECRET, re.compile(r"(?<=://)[^/\s:@\"'<>]+(?::[^/\s@\"'<>]*)?(?=@)")),  # of a URL, user:password or a token
    (SECRET, re.compile(r"\b(?:hf|npm|pypi)_?[A-Za-z0-9-]{24,}")),
    (SECRET, re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{20,}")),
    (SECRET, re.compile(r"\b(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})")),
    (SECRET, re.compile(r"\b(?:xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|wandb_v\d_\w{20,})")),
    (SECRET, re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")),  # a JSON web token
    (SECRET, re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")),  # a key of W&B; a commit looks the same
    (SECRET, re.compile(r"(?i)(?<=\bbearer )[\w.~+/=-]{8,}|(?<=\bauthorization: basic )[\w+/=]{8,}")),
    (MAIL, re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")),
    (USER, re.compile(r"\b[\w.-]+(?=@(?:\d{1,3}\.){3}\d)")),  # alice@10.0.0.2
    (MAC, re.compile(r"(?i)(?<![0-9a-f:-])(?:[0-9a-f]{2}([:-]))(?:[0-9a-f]{2}\1){4,18}[0-9a-f]{2}(?![0-9a-f:-])")),
)
ASSIGNED: Final = re.compile(  # token: abc, "api_key": "abc", --password abc, MY_SECRET=abc
    rf"""(?i)(?P<head>(?<![\w.-])(?:{NAME}["'\\]*\s*[:=]\s*(?:!unsafe )?|--{NAME}\s+))(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s"',;&}}\]]+)"""
)
NUMBER: Final = re.compile(r"""["']?-?[\d.]+["'\\]*""")
HARMLESS: Final = re.compile(
    r"""["']?(?:true|false|null|none|yes|no|on|off|\[?|\{?|<[a-z ]+>|)["'\\]*""", re.IGNORECASE
)
SEPARATOR: Final = r"(?:\\\\|\\|/)+?"
HOME: Final = re.compile(  # the folder's name may have blanks where a separator follows, and \uac00 of JSON
    rf"(?i)(?P<head>(?:\b[a-z]:{SEPARATOR}(?:users|documents and settings)|/mnt/[a-z]/users|(?<![\w.])/(?:home|users)){SEPARATOR})"
    r"""(?P<name>(?:\\u[0-9a-f]{4}|[^\\/:*?"'<>|\s])+(?:(?: (?:\\u[0-9a-f]{4}|[^\\/:*?"'<>|\s])+){1,3}(?=[\\/]))?)"""
)
IPV4: Final = re.compile(r"(?<![\w.=+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")  # not a version, as in package==1.2.3.4
IPV6: Final = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{3,39}(?:%\w+)?(?![\w:<])")


class Redactor:
    """Redacts texts and counts what it took out, by kind."""

    def __init__(self, secrets: Iterable[str] = (), accounts: Iterable[str] = ()) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._secrets = _any_of(
            {form for value in secrets if len(value) >= SHORTEST_SECRET for form in spellings(value)}
        )
        self._accounts: set[str] = set()
        self._names: re.Pattern[str] | None = None
        self.learn(accounts)

    def learn(self, accounts: Iterable[str]) -> None:
        """These account names are taken out from now on, as whole words."""
        fresh = {name for name in accounts if name.lower() not in PUBLIC_ACCOUNTS} - self._accounts
        if fresh:
            self._accounts |= fresh
            spelled = {
                form for name in self._accounts for form in spellings(name) if form.lower() not in PUBLIC_ACCOUNTS
            }
            words = {form for form in spelled if form.isascii() and form.isprintable() and "\\" not in form}
            # a Korean name stands before a particle without a blank
            parts = [rf"(?<![^\W_])(?:{_alternatives(words)})(?![^\W_])"] if words else []
            parts += [_alternatives(spelled - words)] if spelled - words else []
            self._names = re.compile("|".join(parts), re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text without what is not for strangers."""
        if self._secrets is not None:
            text = self._sub(self._secrets, SECRET, text)
        for kind, form in FORMS:
            text = self._sub(form, kind, text)
        text = ASSIGNED.sub(self._assigned, text)
        text = HOME.sub(self._home, text)
        if self._names is not None:
            text = self._sub(self._names, USER, text)
        return IPV6.sub(self._address, IPV4.sub(self._address, text))

    def _sub(self, form: re.Pattern[str], kind: str, text: str) -> str:
        text, count = form.subn(kind, text)
        self.counts[kind] += count
        return text

    def _assigned(self, found: re.Match[str]) -> str:
        value = found["value"]
        if HARMLESS.fullmatch(value) or (NUMBER.fullmatch(value) and "token" in found["head"].lower()):
            return found[0]
        self.counts[SECRET] += 1
        quote = value[0] if value[0] in "\"'" else ""
        return f"{found['head']}{quote}{SECRET}{quote}"

    def _home(self, found: re.Match[str]) -> str:
        if found["name"].lower() in PUBLIC_ACCOUNTS:
            return found[0]
        self.counts[USER] += 1
        return f"{found['head']}{USER}"

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0].partition("%")[0])
        except ValueError:
            return found[0]
        if address.version == 6 and not (address.is_loopback or address.is_unspecified):  # may hold the MAC address
            self.counts[ADDRESS] += 1
            return "fe80::<mac>" if address.is_link_local else ADDRESS
        if not address.is_global:
            return found[0]
        self.counts[ADDRESS] += 1
        return ADDRESS


def accounts_in(text: str) -> set[str]:
    """Names of the home folders that a text names, those of JSON as they are read."""
    found = set()
    for match in HOME.finditer(text):
        name = match["name"]
        if re.search(r"\\u[0-9a-f]{4}", name, re.IGNORECASE):
            name = json.loads(f'"{name}"')
        found.add(name)
    return {name for name in found if name.lower() not in PUBLIC_ACCOUNTS and name != USER}


def secrets_in(variables: Mapping[str, Any]) -> set[str]:
    """Values of variables whose name says that they are secret, at any depth."""
    found: set[str] = set()
    _walk(variables, found.add)
    return found


def _walk(values: Any, add: Callable[[str], None], *, secret: bool = False) -> None:
    if isinstance(values, Mapping):
        for name, value in values.items():
            if name in NAMES_OF_SECRETS:
                continue
            _walk(value, add, secret=secret or bool(SECRET_NAME.search(str(name))))
    elif isinstance(values, list | tuple):
        for value in values:
            _walk(value, add, secret=secret)
    elif (
        secret
        and isinstance(values, str | int)
        and not isinstance(values, bool)
        and not HARMLESS.fullmatch(str(values))
    ):
        add(str(values))


def without_secrets(values: Any) -> Any:
    """The same variables, each value whose name says that it is secret replaced."""
    if isinstance(values, Mapping):
        return {
            name: SECRET
            if SECRET_NAME.search(str(name)) and value and name not in NAMES_OF_SECRETS
            else without_secrets(value)
            for name, value in values.items()
        }
    return [without_secrets(value) for value in values] if isinstance(values, list | tuple) else values


def spellings(value: str) -> set[str]:
    """How a value may stand in a text: as it is, in JSON, YAML, HTML, a URL or base64."""
    as_json = json.dumps(value)[1:-1]
    encoded = base64.b64encode(value.encode()).decode().rstrip("=")
    forms = {value, as_json, json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value), repr(value)[1:-1],
             urllib.parse.quote(value), urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value),
             value.replace("'", "''")}  # fmt: skip
    return forms | ({encoded} if len(encoded) >= 8 else set())


def _alternatives(values: Iterable[str]) -> str:
    return "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))


def _any_of(values: set[str]) -> re.Pattern[str] | None:
    return re.compile(_alternatives(values)) if values else None
