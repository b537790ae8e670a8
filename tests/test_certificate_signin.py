"""Signing in by certificate, as the guide has it: its own lines, typed on this machine and on a PC of the lab."""

import json
import shlex
import subprocess

import yaml
from conftest import ROOT
from test_docs import blocks
from windows_lab import MASTER, PASSWORD, NewPc, in_the_lab, windows

GUIDE = (ROOT / "docs" / "distributed_training_guide.en.md").read_text("utf-8")
SECTION = GUIDE.partition("### Where NTLM is off")[2].partition("\n### ")[0]
ASKED = "(Get-Credential winfleet)"
CREDENTIAL = f"""
Set-Location '{{folder}}'
$password = New-Object Security.SecureString
'{PASSWORD}'.ToCharArray() | ForEach-Object {{{{ $password.AppendChar($_) }}}}
$credential = New-Object Management.Automation.PSCredential 'lab', $password
"""


@in_the_lab
def test_the_guides_lines_sign_in_by_a_certificate_without_a_password(pc: NewPc) -> None:
    (key,), there, variables = (lines for _, lines in blocks(SECTION))
    subprocess.run(shlex.split(key), cwd=pc.folder, check=True, capture_output=True)
    settings = yaml.safe_load("\n".join(variables).replace("/home/me/keys", str(pc.folder)))
    pc.setup("-MasterIP", MASTER)
    trust = pc.folder / "pc.pem"
    trust.write_text(pc.worker()["certificate"])
    refused = "certificate: the specified credentials were rejected by the server"
    assert refused in pc.win_ping(trust, settings)

    typed = "\n".join(there)
    assert typed.count(ASKED) == 1
    said = pc.do(CREDENTIAL.format(folder=windows(pc.folder)) + typed.replace(ASKED, "$credential"))
    assert "error" not in said.lower(), said
    assert "pong" in pc.win_ping(trust, settings)

    state = pc.raw()
    state["clientcertificates"][0]["Password"] = "of before"  # the account has a new one since
    (pc.lab.prefix(pc.name) / "lab" / "state.json").write_text(json.dumps(state))
    assert refused in pc.win_ping(trust, settings)
