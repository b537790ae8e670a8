"""The table of causes: every row is found by real words, and no row stands in another's way.

Words are provoked here where that takes a moment on Linux; the others were recorded. docs/testing.md says which is which.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, ROOT, SCRIPTS
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from uv import find_uv_bin
from winfleet.core.causes import (
    advise,
    describe_failed,
    describe_unreachable,
    explain,
    fill_in,
    name_exit_code,
)
from winfleet.core.causes_table import CONNECTION, FAILURE, Row
from winfleet.core.errors import HostError
from winfleet.core.plan import Host, Plan
from winfleet.core.status import Cause, describe_failure
from winfleet.environments import environment
from winfleet.launcher.agent import as_cause, join_failure
from winfleet.launcher.rendezvous import PlanRendezvous

POOL = "Task failed: ntlm: HTTPSConnectionPool(host='10.77.0.12', port=5986): Max retries exceeded with url: /wsman (Caused by "
CONNECTIONS = {
    "password": "Task failed: ntlm: the specified credentials were rejected by the server",
    "filtered-token": (
        "Task failed: ntlm: Access is denied. (extended fault data: {'transport_message': 'Bad HTTP response returned "
        "from server. Code 500', 'http_status_code': 500, 'wsmanfault_code': 5, 'fault_subcode': 'w:AccessDenied'})"
    ),
    "winrm-quota": (  # https://github.com/diyan/pywinrm/issues/124
        "Task failed: ntlm: The WS-Management service cannot process the request. This user is allowed a maximum number of 1500 "
        "concurrent operations, which has been exceeded. Close existing operations for this user, or raise the quota for this user."
    ),
    "refused": POOL + 'NewConnectionError("…: Failed to establish a new connection: [Errno 111] Connection refused"))',
    "off": POOL + 'NewConnectionError("…: Failed to establish a new connection: [Errno 113] No route to host"))',
    "firewalled": POOL
    + "ConnectTimeoutError(<… at 0x7f>, 'Connection to 10.77.0.12 timed out. (connect timeout=30)'))",
    "name-unknown": POOL
    + "NameResolutionError(\"…: Failed to resolve 'pc9' ([Errno -2] Name or service not known)\"))",
    "certificate-other": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "self-signed certificate (_ssl.c:1006)')))"
    ),
    "certificate-address": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP "
        "address mismatch, certificate is not valid for '10.77.0.12'. (_ssl.c:1006)')))"
    ),
    "certificate-expired": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "certificate has expired (_ssl.c:1006)')))"
    ),
    "clock-skew": (
        POOL + "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "certificate is not yet valid (_ssl.c:1006)')))"
    ),
    "certificate-file": (
        "Task failed: ntlm: Could not find a suitable TLS CA certificate bundle, invalid path: /x/certificates/lab/pc2.pem"
    ),
    "dropped": (
        "Task failed: winrm connection error: HTTPSConnectionPool(host='10.77.0.12', port=5986): Read timed out. (read timeout=10)"
    ),
    "wrong-protocol": POOL + "SSLError(SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)')))",
    "ssh-unreachable": (
        "Task failed: Data could not be sent to remote host '127.0.0.2'. Make sure this host can be reached over SSH: "
        "[Errno 32] Broken pipe"
    ),
    "ssh-key": "Failed to connect to the host via ssh: alice@10.0.0.2: Permission denied (publickey).",
}


# Recorded. Above a text stands who reported it; the others are our own words, or were seen here: with torch's Windows wheels
# under Wine, or in network namespaces.
RECORDED = {
    "file-elsewhere": (
        "FileNotFoundError: [Errno 2] No such file or directory: 'out/vocab.json'\npc1, which has rank 0, has this file; pc2 has not"
    ),
    # https://github.com/astral-sh/uv/issues/16233
    "index-certificate": (
        "error: Request failed after 3 retries\n  Caused by: error sending request for url (https://github.com/astral-sh/python-build-standalone/"
        "releases/download/x.tar.gz)\n  Caused by: client error (Connect)\n  Caused by: invalid peer certificate: UnknownIssuer"
    ),
    "port-closed": "pc2 -> pc1: TCP port 29500 (the ranks' TCPStore) of 10.0.0.11 cannot be reached: timed out",
    "content-differs": "pc2: data/0123456789ab there has the digest fedcba987654, not what was sent",
    "gloo-loopback": (
        "RuntimeError: Gloo connectFullMesh failed with [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:152] "
        "timed out connecting: SO_ERROR: Connection refused, remote=[127.0.1.1]:33159$0"
    ),
    "gloo-connect": (
        "RuntimeError: Gloo connectFullMesh failed with [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.h:311] "
        "Connect timeout [none]"
    ),
    # https://github.com/RVC-Boss/GPT-SoVITS/issues/2626, torch 2.8.0
    "gloo-device": "RuntimeError: makeDeviceForHostname(): unsupported gloo device",
    "libuv": "DistStoreError: use_libuv was requested but PyTorch was built without libuv support, run with USE_LIBUV=0 to disable it.",
    # https://github.com/forkineye/ESPixelStick/pull/374, with the ranges that Windows kept
    "port-reserved": "OSError: [WinError 10013] An attempt was made to access a socket in a way forbidden by its access permissions",
    # https://github.com/huggingface/accelerate/issues/2107
    "nccl-failed": (
        "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1331, unhandled system error "
        "(run with NCCL_DEBUG=INFO for details), NCCL version 2.18.1\nncclSystemError: System call (e.g. socket, malloc) or external library "
        "call failed or device error."
    ),
    # https://github.com/houmain/keymapper/issues/324
    "task-refused": "the scheduled task launcher was refused: No mapping between account names and security IDs was done.\n(14,8):UserId:",
    # https://github.com/ultralytics/ultralytics/issues/1238
    "shared-memory": "RuntimeError: unable to write to file </torch_722_783672312_1>: No space left on device (28)",
    # https://github.com/thu-ml/tianshou/issues/527
    "paging-file": (
        "OSError: [WinError 1455] The paging file is too small for this operation to complete. Error loading "
        '"E:\\Anaconda3\\lib\\site-packages\\torch\\lib\\caffe2_detectron_ops_gpu.dll" or one of its dependencies.'
    ),
    # https://github.com/KennthShang/HostG/issues/7
    "disk-quota": "OSError: [Errno 122] Disk quota exceeded: 'out/intermediate.ntw'",
    # https://github.com/pytorch/pytorch/issues/182008
    "app-control": (
        "[WinError 4551] An Application Control policy has blocked this file. Error loading "
        '"C:\\x\\Python311\\site-packages\\torch\\lib\\torch.dll" or one of its dependencies.'
    ),
    # https://github.com/pypa/pip/issues/12009
    "virus": (
        "ERROR: Could not install packages due to an OSError: [WinError 225] Operation did not complete successfully because the file contains "
        "a virus or potentially unwanted software"
    ),
    # https://github.com/guoyww/AnimateDiff/issues/374
    "dll-procedure": (
        "OSError: [WinError 127] The specified procedure could not be found. Error loading "
        '"C:\\x\\venv\\Lib\\site-packages\\torch\\lib\\torch_python.dll" or one of its dependencies.'
    ),
    # https://github.com/pytorch/pytorch/issues/131662, torch 2.4.0+cu121
    "dll-missing": (
        "[WinError 126] The specified module could not be found. Error loading "
        '"c:\\Users\\x\\anaconda3\\envs\\DL\\Lib\\site-packages\\torch\\lib\\fbgemm.dll" or one of its dependencies.'
    ),
    # https://github.com/rdiff-backup/rdiff-backup/issues/236, whose path was too long
    "path-missing": "[WinError 3] The system cannot find the path specified: b'h:/RdiffBackup/x/Recent/rdiff-backup.tmp.160879'",
    # https://github.com/platformio/platformio-home/issues/1459
    "file-held": (
        "[WinError 32] The process cannot access the file because it is being used by another process: "
        "'C:\\\\Users\\\\x\\\\OneDrive\\\\Documents\\\\a' -> 'C:\\\\Users\\\\x\\\\OneDrive\\\\Documents\\\\b'"
    ),
    # https://github.com/huggingface/huggingface_hub/pull/1067
    "symlink-denied": (
        "OSError: [WinError 1314] A required privilege is not held by the client: '..\\\\..\\\\blobs\\\\ae8c63daedbd4206d7d40126955d4e6ab1c80f8f' -> "
        "'C:\\\\Users\\\\x\\\\.cache\\\\huggingface\\\\hub\\\\models--distilbert-base-uncased\\\\snapshots\\\\043235d6\\\\.gitattributes'"
    ),
    # https://github.com/murong-xu/CADS/issues/4
    "cuda-out-of-memory": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of which 12.73 GiB is "
        "free. Including non-PyTorch memory, this process has 18.73 GiB memory in use. Of the allocated memory 9.08 GiB is allocated by PyTorch, "
        "and 9.35 GiB is reserved by PyTorch but unallocated."
    ),
    "gpu-too-small": "OutOfMemoryError: CUDA out of memory.\nno smaller batch: no batch was drawn yet, so the model alone does not fit",
    "batch-unknown": (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.\nno smaller batch: batch_size is 8, but the script drew "
        "batches of 16, so it means something else"
    ),
    # https://github.com/ostris/ai-toolkit/issues/530, Windows
    "cuda-kernel": (
        "CUDA error: no kernel image is available for execution on the device CUDA kernel errors might be asynchronously reported at some other "
        "API call, so the stacktrace below might be incorrect."
    ),
    # https://github.com/lllyasviel/stable-diffusion-webui-forge/issues/2053
    "driver-old": (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11070). Please update your GPU driver by downloading and "
        "installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
    ),
    # https://github.com/Grace9994/CoMoSVC/issues/6
    "no-gpu": "RuntimeError: No CUDA GPUs are available",
    # https://github.com/lich99/ChatGLM-finetune-LoRA/issues/16, by accelerate launch
    "gpu-number": "RuntimeError: CUDA error: invalid device ordinal\nCUDA kernel errors might be asynchronously reported at some other API call",
    # https://github.com/minghaochen/chatglm3-base-tuning/issues/8
    "devices-differ": "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:2 and cuda:0!",
    # https://github.com/IDKiro/action-recognition/issues/9, Windows
    "gpu-lost": "RuntimeError: CUDA error: unspecified launch failure",
    # https://github.com/layumi/Person_reID_baseline_pytorch/issues/372
    "cuda-assert": "RuntimeError: CUDA error: device-side assert triggered",
    # https://github.com/NVIDIA/TensorRT/issues/2911
    "cudnn": "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    # https://github.com/meta-pytorch/csprng/issues/115
    "openmp-twice": "OMP: Error #15: Initializing libiomp5md.dll, but found libiomp5md.dll already initialized.\nOMP: Hint This means that multiple copies",
    # https://github.com/Google-Health/medgemma/issues/61
    "hub-offline": "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files.",
    # https://github.com/fraunhoferhhi/Self-Organizing-Gaussians/issues/4, Windows
    "wandb-key": "wandb.errors.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[your_api_key])",
    "host-lost": "lost pc2: no beat of its launcher for 10 s",
    "signed-out": "exit code 0xC000013A",  # https://github.com/MicrosoftDocs/azure-docs/issues/77504
    # https://github.com/RVC-Project/Retrieval-based-Voice-Conversion-WebUI/issues/1882
    "peer-gone": "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:10895",
    "ended": "ended without an exception",
}
# code -> the test that has the failure happen
FAILURES_IN_A_SCRIPT = (
    "nccl-missing", "port-taken", "store-unreachable", "address-foreign", "gloo-adapter", "shapes-differ", "all-reduce-timeout", "memory",
    "cuda-build", "disk-full", "path-long", "file-denied", "file-missing", "module-missing", "code-page", "loader-ended", "loader-pickle",
    "loader-main", "checkpoint-other", "rank-missing", "compiler-missing", "ddp-wrapped", "ready-twice", "unused-parameters",
)  # fmt: skip
UV_FAILURES = ("hash-mismatch", "index-refused", "index-unreachable", "python-missing", "no-wheel", "torch-differs")
PROVOKED = {
    "test_a_failure_in_a_script_finds_its_cause": FAILURES_IN_A_SCRIPT,
    "test_a_failure_of_uv_finds_its_cause": UV_FAILURES,
    "test_a_rank_that_is_ended_finds_its_cause": ("killed", "crashed"),
    "test_a_host_that_does_not_come_is_named": ("host-missing",),
    "test_a_closed_way_is_named_with_its_direction": ("pair-closed",),
}


def test_every_row_was_seen() -> None:
    assert set(CONNECTIONS) == {row.code for row in CONNECTION}
    provoked = [code for codes in PROVOKED.values() for code in codes]
    assert sorted([*RECORDED, *provoked]) == sorted(row.code for row in FAILURE), "once each"


@pytest.mark.parametrize("row", [*CONNECTION, *FAILURE], ids=lambda row: row.code)
def test_a_row_is_whole(row: Row) -> None:
    found = explain(row.shows, rows=CONNECTION if row in CONNECTION else FAILURE)
    assert found is not None
    assert found.code == row.code, "what it shows finds another row first"
    assert re.search(r"[가-힣]", row.cause_ko)
    assert re.search(r"[가-힣]", row.fix_ko)
    assert (row.cause + row.fix).isascii(), "consoles have code pages"
    assert not row.cause.endswith(".")
    assert not row.fix.endswith(".")


@pytest.mark.parametrize(("code", "text"), RECORDED.items(), ids=RECORDED.keys())
def test_a_recorded_failure_finds_its_cause(code: str, text: str) -> None:
    said = advise(text, "연구실-2")
    assert re.fullmatch(rf"\n  cause: [^\n]+ \[{code}\]\n  hint: [^\n]+", said), said
    assert "{host}" not in said
    assert "  " not in said.replace("\n  ", "")


@pytest.fixture(scope="module")
def in_a_script(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What tests/scripts/failures.py got to hear."""
    done = subprocess.run([sys.executable, SCRIPTS / "failures.py"], cwd=tmp_path_factory.mktemp("failures"), env=ENVIRONMENT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, str] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("code", FAILURES_IN_A_SCRIPT)
def test_a_failure_in_a_script_finds_its_cause(code: str, in_a_script: dict[str, str]) -> None:
    found = explain(in_a_script[code])
    assert found is not None, in_a_script[code]
    assert found.code == code, in_a_script[code]


class Refusing(BaseHTTPRequestHandler):
    """A package index that wants a sign-in."""

    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


@pytest.mark.parametrize("code", UV_FAILURES)
def test_a_failure_of_uv_finds_its_cause(
    code: str, tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    given = {
        "uv": find_uv_bin(), "base": sys.executable, "python_version": "3.11", "wheels": "", "torch_backend": "", "torch": "2.13.0",
        "requirements": f"six==1.17.0 --hash=sha256:{'0' * 64}\n", "digest": "0" * 64, "python": "", "refuse": False, "direct": {},
    }  # fmt: skip
    monkeypatch.setenv("UV_INDEX_URL", index if code == "index-refused" else "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    if code == "hash-mismatch":
        make_wheel(wheels / "six-1.17.0-py3-none-any.whl")
    if code in ("hash-mismatch", "no-wheel"):
        given["wheels"] = str(wheels)
    if code == "python-missing":
        given.update(base="3.99")
    if code == "torch-differs":
        given.update(python=sys.executable, direct={"torch": ["2.12.1"]})
    with pytest.raises(HostError) as raised:
        environment.ensure(tmp_path / "home", given, check=False)
    found = explain(str(raised.value))
    assert found is not None, raised.value
    assert found.code == code, raised.value
    assert code == "torch-differs" or f"[{code}]\n  hint: " in str(raised.value)
    assert ("set uv_env_wheels" in str(raised.value)) == code.startswith("index-")


def make_wheel(path: Path) -> None:
    """A package without content."""
    import zipfile

    with zipfile.ZipFile(path, "w") as wheel:
        folder = f"{path.name.partition('-py3')[0]}.dist-info"
        name, version = path.name.split("-")[:2]
        wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{folder}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{folder}/RECORD", "")


HOSTS = [
    Host(name=name, address=f"127.0.0.{rank + 1}", machine_rank=rank, processes=1, first_rank=rank) for rank, name in enumerate(("pc1", "pc2"))
]  # fmt: skip


@pytest.mark.parametrize(("code", "signal"), [("killed", 9), ("crashed", 6)])
def test_a_rank_that_is_ended_finds_its_cause(code: str, signal: int, tmp_path: Path) -> None:
    script = f"import os; os.kill(os.getpid(), {signal})"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=done.returncode, error_file="")
    (tmp_path / "rank0.log").write_text(
        "Connection closed by peer is what a log may say, long before\n" * (signal == 9)
    )
    assert f"[{code}]\n  hint: " in describe_failure(as_cause(0, failure, HOSTS[0], tmp_path))


def test_a_host_that_does_not_come_is_named() -> None:
    alone = PlanRendezvous(run_id="r", machine_rank=0, num_machines=2, address="127.0.8.1", ranks_port=29590,
                           start_timeout=0.5, names={0: "pc1", 1: "pc2"})  # fmt: skip
    with pytest.raises(Exception, match="pc2 did not come") as raised:
        alone.next_rendezvous()
    assert "[host-missing]\n  hint: look at that host's launcher.log" in advise(str(raised.value))


def test_a_closed_way_is_named_with_its_direction() -> None:
    text = join_failure([1], HOSTS[1], Plan(run="r", command=("x.py",), hosts=tuple(HOSTS)))
    said = describe_failure(Cause(host="pc1", text=text))
    assert "cause: packets from pc2 to pc1 do not arrive, so gloo waits: a firewall or antivirus on pc1, " in said
    assert "what else guards pc1 (127.0.0.1)" in said


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause(host="pc1", rank=0, exit_code=0xC0000005, text="ended without an exception"), "crashed"),
        (Cause(host="pc1", rank=0, exit_code=-1073741819, text="ended without an exception"), "crashed"),
        (Cause(host="pc1", rank=0, exit_code=0xC0000135, text="ended without an exception"), "dll-missing"),
        (Cause(host="pc1", rank=0, exit_code=1, text="ended without an exception"), "ended"),
        (Cause(host="pc1", rank=0, exit_code=1, text="ended without an exception", lines=("[WinError 1455]",)), "paging-file"),
        (Cause(host="pc1", rank=0, exit_code=-6, text="Signal 6 (SIGABRT) received by PID 1", lines=("op.preamble.length <= op.nbytes",)), "shapes-differ"),
        (Cause(host="pc1", rank=0, exit_code=1, text="ValueError: no", lines=("[WinError 1455]",)), ""),
        (Cause(host="pc1", text="FileNotFoundError: [Errno 2] No such file or directory: 'code/0'"), ""),
        (Cause(host="pc1", text="OSError: [Errno 28] No space left on device"), "disk-full"),
        (Cause(host="pc1", rank=0, text="OutOfMemoryError: CUDA out of memory"), "cuda-out-of-memory"),
        (Cause(host="pc1", rank=0, text="OutOfMemoryError: CUDA out of memory\nno smaller batch: it is 1\nhint: a smaller model"), ""),
    ],
)  # fmt: skip
def test_what_a_rank_said_decides_then_its_log_then_its_exit_code(cause: Cause, code: str) -> None:
    said = describe_failure(cause)
    assert (re.findall(r"\n  cause: .* \[([\w-]+)\]\n  hint: ", said) or [""])[0] == code, said


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("disk-full", "RuntimeError: basic_ios::clear: iostream error"),  # torch.save to /dev/full
        ("disk-full", "SafetensorError: Error while serializing: I/O error: Os { code: 112, kind: StorageFull }"),
        ("disk-full", "OSError: [WinError 112] 디스크 공간이 부족합니다"),
        ("paging-file", "OSError: [WinError 1455] 이 작업을 완료하기 위한 페이징 파일이 너무 작습니다"),
        ("paging-file", "RuntimeError: Couldn't open shared file mapping: <torch_1_2_3>, error code: <1455>"),
        ("file-denied", "error: failed to create directory: 액세스가 거부되었습니다. (os error 5)"),
        ("file-denied", "PermissionError: [WinError 5] 액세스가 거부되었습니다: 'C:\\\\x'"),
        ("loader-ended", "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed. "),
        ("torch-differs", "pc2: torch 2.12.0, the other 2 have 2.13.0+cu130"),
        ("torch-differs", "pc1, pc2: torch 2.13.0 on pc1 · 2.12.0 on pc2"),
        ("peer-gone", "ConnectionResetError: [WinError 10054] 현재 연결은 원격 호스트에 의해 강제로 끊겼습니다"),
        # https://github.com/pytorch/pytorch/issues/139990, torch 2.5
        ("libuv", "RuntimeError: use_libuv was requested but PyTorch was build without libuv support"),
        # https://github.com/pytorch/pytorch/issues/136361 and torch/_inductor/cpp_builder.py
        (
            "compiler-missing",
            "RuntimeError: Cannot find a working triton installation. Either the package is not installed or it is too old.",
        ),
        ("compiler-missing", "RuntimeError: Compiler: cl is not found."),
        # https://github.com/edenaion/EZ-CorridorKey/issues/60
        ("app-control", "DLL load failed while importing _C: An Application Control policy has blocked this file."),
        # https://github.com/2noise/ChatTTS/issues/886
        (
            "dll-procedure",
            'OSError: [WinError 193] %1 不是有效的 Win32 应用程序。 Error loading "D:\\x\\torch\\lib\\cublas64_12.dll" or one of its dependencies.',
        ),
        # https://github.com/nagadomi/nunif/issues/701
        (
            "dll-missing",
            '[WinError 1114] A dynamic link library (DLL) initialization routine failed. Error loading "...\\c10.dll" or one of its dependencies.',
        ),
        # https://github.com/astral-sh/uv/issues/17679, with an antivirus
        (
            "file-held",
            "`-> failed to rename file from C:\\x\\uv\\cache\\.tmpoKUsxT to C:\\x\\uv\\cache\\archive-v0\\goBugx: Accès refusé. (os error 5)",
        ),
        # https://github.com/KoljaB/LocalEmotionalAIVoiceChat/issues/1
        (
            "cudnn",
            "Could not locate cudnn_ops64_9.dll. Please make sure it is in your library path!\nInvalid handle. Cannot load symbol cudnnCreateTensorDescriptor",
        ),
        # https://github.com/alvinliu0/HumanGaussian/issues/4
        (
            "hub-offline",
            "(MaxRetryError(\"HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: /x/config.json",
        ),
        # https://github.com/vllm-project/vllm-ascend/issues/2248
        (
            "rank-missing",
            "torch.distributed.DistStoreError: wait timeout after 1800000ms, keys: /default_pg/0//54//cpu//0/2",
        ),
        # https://github.com/OptimalScale/LMFlow/issues/65
        ("wandb-key", "wandb: ERROR api_key not configured (no-tty). call wandb.login(key=[your_api_key])"),
    ],
)
def test_other_words_for_the_same_find_it_too(code: str, text: str) -> None:
    found = explain(text)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize(
    "text",
    [
        # https://github.com/huggingface/accelerate/issues/2468
        "torch.distributed.DistNetworkError: The client socket has failed to connect to any network address of (10.0.0.11, 1040).",
        "DistNetworkError: The client socket has timed out after 60000ms while trying to connect to (10.0.0.11, 29500).",
    ],
)
def test_a_store_that_does_not_answer_is_named_by_its_address(text: str) -> None:
    assert "cause: the first host's store does not answer 10.0.0.11: " in advise(text)


def test_a_warning_of_torch_is_no_cause() -> None:
    """https://github.com/torchgeo/torchgeo/issues/1198: it stands in the log of a good start, too."""
    warning = (
        "[W socket.cpp:601] [c10d] The client socket has failed to connect to [t2]:58152 (system error: 10049 - The requested address is not "
        "valid in its context.)."
    )
    assert explain(warning) is None
    found = explain(f"{warning}\nOSError: [WinError 10049] The requested address is not valid in its context")
    assert found is not None
    assert found.code == "address-foreign"


def test_exit_codes_of_windows_are_named_as_windows_does() -> None:
    assert [name_exit_code(code) for code in (0, 1, -9, 0xC0000409, -1073740791)] == [
        "0", "1", "-9", "0xC0000409", "0xC0000409",
    ]  # fmt: skip


def test_a_name_without_a_value_leaves_no_gap() -> None:
    assert (
        fill_in("the store {address}{where} of {host}", {"address": "", "where": "", "host": "pc1"})
        == "the store of pc1"
    )


@pytest.mark.parametrize(
    "text", ["[Errno 111] Input/output error (os error 5)", "Broken pipe (os error 32)", "No such process (os error 3)"]
)
def test_numbers_of_linux_are_not_those_of_windows(text: str) -> None:
    found = explain(text)
    assert found is None or found.code == "peer-gone"


def test_both_documents_are_those_of_the_table(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "troubleshooting.py", tmp_path], check=True)
    for name in ("troubleshooting.md", "troubleshooting.en.md"):
        assert (tmp_path / name).read_text("utf-8") == (ROOT / "docs" / name).read_text("utf-8"), "run `make docs`"


def test_the_document_on_tests_tells_which_causes_were_provoked() -> None:
    text = (ROOT / "docs" / "testing.md").read_text("utf-8")
    for test, codes in PROVOKED.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{test}` |"))
        assert re.findall(r"`([a-z-]+)`", line.partition("|")[2].partition("|")[2]) == list(codes), "in docs/testing.md"


@pytest.mark.parametrize(("code", "text"), CONNECTIONS.items(), ids=CONNECTIONS.keys())
def test_recorded_words_are_turned_into_their_cause(code: str, text: str) -> None:
    found = explain(text, "연구실-2", CONNECTION)
    assert found is not None
    assert found.code == code
    said = describe_unreachable("연구실-2", text)
    assert said.startswith(f"did not answer: {found.cause} [{code}]\n  hint: ")
    assert "{host}" not in said


def test_http_spoken_to_an_https_port_is_told_too() -> None:
    text = "ntlm: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))"
    assert describe_unreachable("pc2", text).startswith("did not answer: http and https were mixed up")


def test_unknown_words_are_shown_as_they_are() -> None:
    assert (
        describe_unreachable("pc2", "something new")
        == "did not answer: something new\n  hint: try `ansible pc2 -m ping`"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"Task failed: {POOL.partition('ntlm: ')[2]}ConnectTimeoutError(<…>, 'Connection to 10.77.0.12 timed out. (connect timeout=10)'))",
        "WinRM was not set up: Task failed: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
        CONNECTIONS["dropped"],
    ],
)
def test_a_task_that_failed_of_its_connection_says_that_it_broke_off(text: str) -> None:
    said = describe_failed("pc2", text)
    assert said.startswith("did not answer: the connection broke off in the middle of a task: ")
    assert said.endswith(
        "[dropped]\n  hint: check pc2 and its network, then run the same command again: what is done stays done"
    )


def test_a_task_that_failed_of_something_else_has_its_own_words() -> None:
    assert describe_failed("pc2", "no such file: timed out") == "no such file: timed out"
