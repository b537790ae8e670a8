"""For each row of the table of causes what it must not take: {code: {text: code of the row that is right, "" for none}}.

A wrong cause costs a user more than none. These are the nearest words to a row's own that mean something else. Above a text stands
who reported it; the others are the words of another row, or were seen here.
"""

HUB = "HTTPSConnectionPool(host='huggingface.co', port=443)"
WSMAN = "HTTPSConnectionPool(host='10.77.0.12', port=5986): Max retries exceeded with url: /wsman (Caused by "
RECEIVER = "'fault_code': 's:Receiver', 'fault_subcode': 'w:InternalError'})"
LOAD = 'File "C:\\x\\Lib\\site-packages\\torch\\serialization.py", line 1033, in _legacy_load\n    magic_number = pickle_module.load(f)\n'
SPAWNED = (
    'File "C:\\x\\Lib\\multiprocessing\\popen_spawn_win32.py", line 95, in __init__\n    reduction.dump(process_obj, to_child)\n'
    'File "C:\\x\\Lib\\multiprocessing\\reduction.py", line 60, in dump\n    ForkingPickler(file, protocol).dump(obj)\n'
)
DDP = (
    "ValueError: DistributedDataParallel device_ids and output_device arguments only work with single-device/multiple-device GPU modules "
    "or CPU modules, but got device_ids"
)
MESH = "Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:152] timed out connecting: SO_ERROR: Connection refused"
CLOSED = (
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.12]:40123"
)

NOT_CONNECTIONS = {
    "proxy": {
        f'{WSMAN}NewConnectionError("Failed to establish a new connection: [Errno 111] Connection refused"))': "refused"
    },
    "certificate-expired": {"certificate verify failed: certificate is not yet valid (_ssl.c:1006)": "clock-skew"},
    "clock-skew": {"certificate verify failed: certificate has expired (_ssl.c:1006)": "certificate-expired"},
    "certificate-address": {"certificate verify failed: self-signed certificate (_ssl.c:1006)": "certificate-other"},
    "certificate-other": {
        "Could not find a suitable TLS CA certificate bundle, invalid path: /x/pc2.pem": "certificate-file"
    },
    "certificate-file": {
        "certificate verify failed: unable to get local issuer certificate (_ssl.c:1006)": "certificate-other"
    },
    "password": {"ntlm: Access is denied. (extended fault data: {'wsmanfault_code': 5})": "filtered-token"},
    "virus-remote": {"ntlm: Access is denied. (extended fault data: {'wsmanfault_code': 5})": "filtered-token"},
    # https://github.com/ansible/ansible/issues/75701, with Kaspersky
    "filtered-token": {
        f"Access is denied.  (extended fault data: {{'http_status_code': 500, 'wsmanfault_code': '2147942405', {RECEIVER}": "virus-remote"
    },
    "winrm-quota": {
        "The WS-Management service cannot process the request. The service is configured to not accept any remote shell requests.": ""
    },
    "shell-slow": {"Task failed: ntlm: the specified credentials were rejected by the server": "password"},
    "dropped": {
        f"{WSMAN}ConnectTimeoutError(<…>, 'Connection to 10.77.0.12 timed out. (connect timeout=30)'))": "firewalled"
    },
    "wrong-protocol": {"SSLError(1, '[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure')": ""},
    "name-unknown": {"Failed to establish a new connection: [Errno 113] No route to host": "off"},
    "ssh-key": {
        "Failed to connect to the host via ssh: ssh: connect to host 10.0.0.2 port 22: Connection timed out": "ssh-unreachable"
    },
    "refused": {"Failed to establish a new connection: [Errno 113] No route to host": "off"},
    "off": {"Failed to establish a new connection: [Errno 111] Connection refused": "refused"},
    "ssh-unreachable": {
        "Failed to connect to the host via ssh: alice@10.0.0.2: Permission denied (publickey).": "ssh-key"
    },
    "firewalled": {
        "winrm connection error: HTTPSConnectionPool(host='10.77.0.12', port=5986): Read timed out. (read timeout=10)": "dropped"
    },
}

NOT_FAILURES = {
    "locale": {"locale.Error: unsupported locale setting": ""},  # a script's own setlocale
    "hash-mismatch": {'RuntimeError: invalid hash value (expected "5c106cde", got "5a1b2c3d")': ""},  # torch.hub
    "index-certificate": {
        f"{HUB}: Max retries exceeded (Caused by SSLError(SSLCertVerificationError(1, 'certificate verify failed: self-signed certificate in certificate chain')))": "hub-offline"
    },
    "index-proxy": {
        "requests.exceptions.ProxyError: HTTPSConnectionPool(host='api.wandb.ai', port=443): Max retries exceeded with url: /graphql (Caused by "
        "ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 403 Forbidden')))": "",
        f"{HUB}: Max retries exceeded with url: /x (Caused by ProxyError('Cannot connect to proxy.'))": "hub-offline",
    },
    # https://github.com/huggingface/datasets/issues/7871
    "index-refused": {
        "RuntimeError: Data processing error: CAS service error : Reqwest Error: HTTP status client error (429 Too Many Requests), "
        "domain: https://cas-server.xethub.hf.co/v1/reconstructions/0": "hub-busy"
    },
    "index-timeout": {
        f"ReadTimeoutError: {HUB}: Read timed out. (read timeout=10)": "hub-offline",
        "error sending request for url (https://pypi.org/simple/six/)\n  cause: client error (Connect)\n  cause: operation timed out": "index-unreachable",
    },
    "index-unreachable": {
        "RuntimeError: error sending request for url (https://cas-server.xethub.hf.co/v1/x)": "",
        # https://github.com/pavona/pavona/issues/474
        "× Failed to download `mypy==0.991`\n├─▶ Failed to extract archive: mypy.whl\n╰─▶ Failed to download distribution due to network timeout. "
        "Try increasing\n      UV_HTTP_TIMEOUT (current value: 30s).": "index-timeout",
    },
    "python-missing": {
        "error: Failed to query Python interpreter at `C:\\x\\python.exe`\n  Caused by: Access is denied. (os error 5)": "file-denied"
    },
    "no-wheel": {"ValueError: No solution found for the assignment problem": ""},
    "torch-differs": {"pc2: torch 2.13.0+cu130, CUDA 13.0": ""},
    "shared-memory": {"OSError: [Errno 28] No space left on device: 'model.pt'": "disk-full"},
    "paging-file": {
        "OSError: [WinError 8] Not enough memory resources are available to process this command": "memory"
    },
    "disk-quota": {"OSError: [Errno 28] No space left on device: 'output/checkpoints/x'": "disk-full"},
    "disk-full": {
        "RuntimeError: unable to write to file </torch_722_783672312_1>: No space left on device (28)": "shared-memory"
    },
    "virus-script": {"OSError: [WinError 225] the file contains a virus or potentially unwanted software": "virus"},
    "app-control-script": {"ValueError: this tokenizer has no language mode 'ko'": ""},
    # https://github.com/ansible/ansible/issues/81468: PowerShell 7 lacks an assembly
    "virus-compiler": {"Failed to compile C# code: error CS0041: Unexpected error writing debug information": ""},
    "app-control": {
        'OSError: [WinError 126] The specified module could not be found. Error loading "C:\\x\\torch.dll"': "dll-missing"
    },
    "virus": {
        "This script contains malicious content and has been blocked by your antivirus software.": "virus-script"
    },
    "cloud-folder": {
        "PermissionError: [WinError 32] The process cannot access the file: 'C:\\\\Users\\\\x\\\\OneDrive\\\\a'": "file-held",
        "google.api_core.exceptions.GoogleAPICallError: the cloud operation failed": "",
    },
    "untrusted-link": {"[WinError 3] The system cannot find the path specified: 'D:\\\\data'": "path-missing"},
    "dll-procedure": {
        '[WinError 126] The specified module could not be found. Error loading "C:\\x\\fbgemm.dll"': "dll-missing"
    },
    "dll-missing": {
        "DLL load failed while importing _C: An Application Control policy has blocked this file.": "app-control",
        '[WinError 193] %1 is not a valid Win32 application. Error loading "D:\\x\\cublas64_12.dll"': "dll-procedure",
    },
    "path-long": {"[WinError 3] The system cannot find the path specified: 'C:\\\\winfleet\\\\runs'": "path-missing"},
    "network-share": {
        # https://github.com/Comfy-Org/ComfyUI/issues/11576: a socket's
        "OSError: [WinError 64] The specified network name is no longer available\nAccept failed on a socket": "",
        "[WinError 3] The system cannot find the path specified: 'D:\\\\data\\\\train'": "path-missing",
        "PermissionError: [WinError 5] Access is denied: 'C:\\\\Users\\\\lab\\\\data'": "file-denied",
        # https://github.com/astral-sh/uv/issues/6584, but for its number
        "error: Failed to query Python interpreter at `\\\\?\\C:\\x\\python.exe`\n  Caused by: Access is denied. (os error 5)": "file-denied",
        "FileNotFoundError: [Errno 2] No such file or directory: '..\\\\blobs\\\\ae8c63'": "file-missing",
        "PermissionError: [WinError 32] The process cannot access the file: '\\\\\\\\nas\\\\lab\\\\x'": "file-held",
    },
    "rename-exists": {
        "FileExistsError: [WinError 183] Cannot create a file when that file already exists: 'raw'": "ranks-race",
        "FileExistsError: [WinError 183] Cannot create a file when that file already exists: '..\\\\..\\\\blobs\\\\ae8c' -> 'C:\\\\x\\\\config.json'": "ranks-race",
    },
    "ranks-race": {
        "FileExistsError: [Errno 17] File exists: '/000000_locals'": "",  # shared memory that an earlier process left
        "PermissionError: [WinError 32] The process cannot access the file: 'model.safetensors'": "file-held",
        "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.arrow'": "file-missing",
        "FileExistsError: [WinError 183] Cannot create a file when that file already exists: 'a.tmp' -> 'a'": "rename-exists",
    },
    "path-missing": {
        "psutil.NoSuchProcess: No such process (os error 3)": "",
        "FileNotFoundError: [WinError 2] The system cannot find the file specified: 'C:\\\\x'": "file-missing",
    },
    # https://github.com/huggingface/datasets/issues/6917
    "file-held": {
        "PermissionError: [WinError 32] The process cannot access the file because it is being used by another process: 'C:/Users/Me/.cache/"
        "huggingface/datasets/Helsinki-NLP___parquet/0.0.0/2a3b91.incomplete\\\\parquet-train-00000-00000-of-NNNNN.arrow'": "ranks-race"
    },
    "symlink-denied": {"PermissionError: [WinError 5] Access is denied: 'snapshots'": "file-denied"},
    "file-denied": {
        "OSError: [WinError 10013] An attempt was made to access a socket in a way forbidden by its access permissions": "port-reserved",
        "PermissionError: [Errno 13] Permission denied: '\\\\\\\\192.168.0.5\\\\data\\\\train.bin'": "network-share",
        "Failed to compile C# code: CS1504 error: Source file could not be opened (Access is denied.)": "virus-compiler",
    },
    "memory": {"RuntimeError: CUDA error: out of memory": "cuda-out-of-memory"},
    "pair-closed": {"pc2 did not come within 600 s": "host-missing"},
    "port-closed": {
        "The client socket has timed out after 60000ms while trying to connect to (10.0.0.11, 29500).": "store-unreachable"
    },
    "content-differs": {"ValueError: the digest of data/train.bin is not what was sent": ""},
    "gloo-loopback": {f"{MESH}, remote=[10.0.0.12]:38917": "gloo-connect"},
    "gloo-device": {"makeDeviceForInterface(): Unable to find address for: eth7 (gloo)": "gloo-adapter"},
    "gloo-adapter": {"RuntimeError: makeDeviceForHostname(): unsupported gloo device": "gloo-device"},
    "libuv": {"RuntimeError: Distributed package doesn't have NCCL built in": "nccl-missing"},
    "port-reserved": {
        "[WinError 10048] Only one usage of each socket address (protocol/network address/port) is normally permitted": "port-taken"
    },
    "port-taken": {
        "[WinError 10013] An attempt was made to access a socket in a way forbidden by its access permissions, port: 29500": "port-reserved"
    },
    # https://github.com/torchgeo/torchgeo/issues/1198: it stands in the log of a good start, too
    "address-foreign": {
        "[W socket.cpp:601] [c10d] The client socket has failed to connect to [t2]:58152 (system error: 10049 - The requested address is not "
        "valid in its context.).": ""
    },
    "store-unreachable": {
        "[W socket.cpp:601] [c10d] The client socket has failed to connect to [t2]:58152 (system error: 10049).": ""
    },
    "rank-missing": {"Timed out waiting 1800000ms for recv operation to complete": "all-reduce-timeout"},
    "host-missing": {
        "rank 1 on pc2 did not join within 600 s: from pc2 (10.0.0.12) to pc1 (10.0.0.11) port 29500 or the dynamic ports": "pair-closed"
    },
    "nccl-missing": {"torch.distributed.DistBackendError: NCCL error in: x.cpp:1331": "nccl-failed"},
    "nccl-failed": {"RuntimeError: Distributed package doesn't have NCCL built in": "nccl-missing"},
    "task-password": {"nothing within 60 s, and Windows says 0x80070569 of its scheduled task: no right": "task-batch"},
    "task-batch": {"nothing within 60 s, and Windows says 0x8007052E of its scheduled task: wrong": "task-password"},
    "task-waits": {
        "nothing within 60 s, and Windows says 0xC0000135 of its scheduled task: a DLL": "dll-missing",
        "nothing within 60 s, and Windows says 0x00041301 of its scheduled task: it runs": "",
    },
    "task-refused": {
        "the scheduled task launcher was refused: The user name or password is incorrect.": "task-password"
    },
    "gpu-too-small": {
        "CUDA out of memory.\nno smaller batch: the command does not say its batch size": "batch-unknown"
    },
    "batch-unknown": {"CUDA out of memory.\nno smaller batch: batch_size is 1 already": "gpu-too-small"},
    "cuda-out-of-memory": {"RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate": "memory"},
    "cuda-kernel": {"RuntimeError: CUDA error: unspecified launch failure on the device": "gpu-lost"},
    "driver-old": {"RuntimeError: Found no NVIDIA driver on your system.": "no-gpu"},
    "cuda-build": {"RuntimeError: No CUDA GPUs are available (compiled with 13.0)": "no-gpu"},
    "no-gpu": {"The NVIDIA driver on your system is too old (found version 11080). No CUDA": "driver-old"},
    "gpu-number": {"RuntimeError: CUDA error: device-side assert triggered": "cuda-assert"},
    "devices-differ": {
        "ValueError: You can't train a model that has been loaded in 8-bit precision on a different device than the one you're training on.": "device-map"
    },
    "gpu-lost": {"RuntimeError: CUDA error: no kernel image is available for execution on the device": "cuda-kernel"},
    "cuda-assert": {"RuntimeError: CUDA error: unspecified launch failure": "gpu-lost"},
    "cudnn": {"RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": ""},
    "shapes-differ": {CLOSED: "peer-gone", "RuntimeError: The size of tensor a (4) must match the size of b (3)": ""},
    "all-reduce-timeout": {"DistStoreError: wait timeout after 1800000ms, keys: /default_pg/0": "rank-missing"},
    "gloo-connect": {CLOSED: "peer-gone"},
    "fp16-weights": {"RuntimeError: unscale_() has already been called on this optimizer": ""},
    "precision-no-gpu": {
        "ValueError: bf16 mixed precision requires PyTorch >= 1.10 and a supported device.": "bf16-missing"
    },
    "bf16-missing": {
        "ValueError: fp16 mixed precision requires a GPU": "precision-no-gpu",
        "TypeError: BF16 all reduce communication hook required CUDA 11+ and NCCL 2.10+": "bf16-hook",
    },
    "device-map": {
        f"{DDP} [0], output_device 0, and module parameters {{device(type='cpu')}}.": "device-ids",
        f"{DDP} [1], output_device 1, and module parameters {{device(type='cuda', index=0)}}.": "",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:1 and cuda:0!": "devices-differ",
    },
    # https://github.com/yuanzhoulvpi2017/zero_nlp/issues/115
    "device-ids": {
        f"{DDP} [0], output_device 0, and module parameters {{device(type='cuda', index=0), device(type='cuda', index=1)}}.": "device-map",
        f"{DDP} [1], output_device 1, and module parameters {{device(type='cuda', index=0)}}.": "",
    },
    "gloo-type": {
        "RuntimeError: expected scalar type Half but found Float": "dtypes-differ",
        "steps += 0.5\nRuntimeError: result type Float can't be cast to the desired output type Long": "",
    },
    "bf16-hook": {"ValueError: Your setup doesn't support bf16/gpu. CUDA 11+ is required": "bf16-missing"},
    "backend-device": {"RuntimeError: No backend type associated with device name": ""},
    "models-differ": {
        "RuntimeError: Error(s) in loading state_dict: size mismatch for model.weight": "checkpoint-other"
    },
    "dtypes-differ": {"RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)": ""},
    "no-grad": {"RuntimeError: One of the differentiated Tensors does not require grad": ""},
    "no-padding": {
        "ValueError: Unable to create tensor, you should probably activate truncation and/or padding": "lengths-differ"
    },
    "lengths-differ": {"RuntimeError: The size of tensor a (37) must match the size of tensor b (52)": ""},
    "index-range": {"IndexError: list index out of range": ""},
    "weights-only": {f"{LOAD}_pickle.UnpicklingError: pickle data was truncated": "file-damaged"},
    "loader-start": {
        "BrokenPipeError: [Errno 32] Broken pipe": "",
        f"{LOAD}EOFError: Ran out of input": "file-damaged",
        "RuntimeError: [gloo/transport/tcp/pair.cc:553] writev [10.0.0.12]:40123: Broken pipe": "peer-gone",
        "OSError: [Errno 22] Invalid argument: 'C:\\\\x\\\\epoch:3.pt'": "",
    },
    "loader-cut": {
        f"{LOAD}_pickle.UnpicklingError: pickle data was truncated": "file-damaged",
        f"{SPAWNED}EOFError: Ran out of input": "loader-start",
        'File "train.py", line 8, in <module>\n    state = read(f)\nEOFError: Ran out of input': "",
    },
    "loader-attribute": {
        f"{LOAD}AttributeError: Can't get attribute 'Net' on <module '__main__' from 'evaluate.py'>": ""
    },
    "file-damaged": {
        f"{SPAWNED}EOFError: Ran out of input": "loader-start",
        "OSError: image file is truncated (12 bytes not processed), failed reading": "",
    },
    "loader-main": {"AssertionError: daemonic processes are not allowed to start a process": ""},
    "loader-pickle": {
        "File \"/usr/lib/python3.11/copy.py\", line 161, in deepcopy\nTypeError: cannot pickle '_thread.lock' object": "",
        f"{LOAD}AttributeError: Can't pickle local object 'main.<locals>.net'": "",
        f"{SPAWNED}BrokenPipeError: [Errno 32] Broken pipe": "loader-start",
    },
    "loader-ended": {"rank 1 on pc2 failed: Signal 9 (SIGKILL) received by PID 4711": "killed"},
    "openmp-twice": {"OMP: Error #100: Fatal system error detected.": ""},
    "compiler-missing": {"ModuleNotFoundError: No module named 'triton'": "module-missing"},
    "checkpoint-other": {"KeyError: 'state_dict'": ""},
    "ddp-wrapped": {"AttributeError: 'Linear' object has no attribute 'generate'": ""},
    "ready-twice": {"Expected to have finished reduction in the prior iteration": "unused-parameters"},
    "unused-parameters": {"Expected to mark a variable ready only once.": "ready-twice"},
    "module-missing": {"AttributeError: module 'torch' has no attribute 'xla'": ""},
    "file-elsewhere": {"FileNotFoundError: [Errno 2] No such file or directory: 'out/vocab.json'": "file-missing"},
    "file-missing": {
        "FileNotFoundError: [Errno 2] No such file or directory: 'Z:\\\\data\\\\train.bin'": "network-share",
        "FileNotFoundError: [WinError 53] The network path was not found: '\\\\\\\\nas\\\\lab'": "network-share",
    },
    "code-page": {"UnicodeDecodeError: 'utf-8' codec can't decode byte 0xb0 in position 0: invalid start byte": ""},
    "hub-busy": {
        "wandb: 429 encountered (Too Many Requests), retrying request": "",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files": "hub-offline",
    },
    "hub-offline": {
        # https://github.com/EleutherAI/lm-evaluation-harness/issues/2202
        "huggingface_hub.utils._errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/api/x": "hub-busy"
    },
    "wandb-key": {"wandb: ERROR Error while calling W&B API: project not found": ""},
    "host-lost": {"the launcher was ended by SIGTERM": "signed-out"},
    "killed": {"Signal 6 (SIGABRT) received by PID 1": "crashed"},
    "crashed": {"rank 0 on pc1 failed (exit code 0xC000013A): ended without an exception": "signed-out"},
    "signed-out": {"rank 0 on pc1 failed (exit code 0xC0000005): ended without an exception": "crashed"},
    "peer-gone": {
        # https://github.com/pytorch/tutorials/issues/457: of a data loader's workers, no rank has ended
        f"{SPAWNED}BrokenPipeError: [Errno 32] Broken pipe": "loader-start",
        "ConnectionResetError: [WinError 10054] 현재 연결은 원격 호스트에 의해 강제로 끊겼습니다": "",
        "requests.exceptions.ConnectionError: ('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))": "",
        "asyncssh.misc.ConnectionLost: Connection closed by peer": "",
    },
    "ended": {"rank 1 on pc2 ended by SIGKILL": "killed"},
}
