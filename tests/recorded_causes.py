"""Words of failures as they were recorded, each with the code of its cause.

Above a text stands who reported it; the others are our own words, or were seen here: with torch's Windows wheels under Wine, or in
network namespaces.
"""

POOL = "Task failed: ntlm: HTTPSConnectionPool(host='10.77.0.12', port=5986): Max retries exceeded with url: /wsman (Caused by "
CERTIFICATE = (
    f"{POOL}SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
)
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
    "refused": f'{POOL}NewConnectionError("…: Failed to establish a new connection: [Errno 111] Connection refused"))',
    "off": f'{POOL}NewConnectionError("…: Failed to establish a new connection: [Errno 113] No route to host"))',
    "firewalled": f"{POOL}ConnectTimeoutError(<… at 0x7f>, 'Connection to 10.77.0.12 timed out. (connect timeout=30)'))",
    "name-unknown": f"{POOL}NameResolutionError(\"…: Failed to resolve 'pc9' ([Errno -2] Name or service not known)\"))",
    "certificate-other": f"{CERTIFICATE}self-signed certificate (_ssl.c:1006)')))",
    "certificate-address": f"{CERTIFICATE}IP address mismatch, certificate is not valid for '10.77.0.12'. (_ssl.c:1006)')))",
    "certificate-expired": f"{CERTIFICATE}certificate has expired (_ssl.c:1006)')))",
    "clock-skew": f"{CERTIFICATE}certificate is not yet valid (_ssl.c:1006)')))",
    "certificate-file": "Task failed: ntlm: Could not find a suitable TLS CA certificate bundle, invalid path: /x/certificates/lab/pc2.pem",
    "dropped": "Task failed: winrm connection error: HTTPSConnectionPool(host='10.77.0.12', port=5986): Read timed out. (read timeout=10)",
    "wrong-protocol": f"{POOL}SSLError(SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)')))",
    "ssh-unreachable": (
        "Task failed: Data could not be sent to remote host '127.0.0.2'. Make sure this host can be reached over SSH: "
        "[Errno 32] Broken pipe"
    ),
    "ssh-key": "Failed to connect to the host via ssh: alice@10.0.0.2: Permission denied (publickey).",
}


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

# Other words for the same.
OTHERS = {
    "disk-full": [
        "RuntimeError: basic_ios::clear: iostream error",  # torch.save to /dev/full
        "SafetensorError: Error while serializing: I/O error: Os { code: 112, kind: StorageFull }",
        "OSError: [WinError 112] 디스크 공간이 부족합니다",
    ],
    "paging-file": [
        "OSError: [WinError 1455] 이 작업을 완료하기 위한 페이징 파일이 너무 작습니다",
        "RuntimeError: Couldn't open shared file mapping: <torch_1_2_3>, error code: <1455>",
    ],
    "file-denied": [
        "error: failed to create directory: 액세스가 거부되었습니다. (os error 5)",
        "PermissionError: [WinError 5] 액세스가 거부되었습니다: 'C:\\\\x'",
    ],
    "loader-ended": ["RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed. "],
    "torch-differs": [
        "pc2: torch 2.12.0, the other 2 have 2.13.0+cu130",
        "pc1, pc2: torch 2.13.0 on pc1 · 2.12.0 on pc2",
    ],
    "peer-gone": ["ConnectionResetError: [WinError 10054] 현재 연결은 원격 호스트에 의해 강제로 끊겼습니다"],
    # https://github.com/pytorch/pytorch/issues/139990, torch 2.5
    "libuv": ["RuntimeError: use_libuv was requested but PyTorch was build without libuv support"],
    # https://github.com/pytorch/pytorch/issues/136361 and torch/_inductor/cpp_builder.py
    "compiler-missing": [
        "RuntimeError: Cannot find a working triton installation. Either the package is not installed or it is too old.",
        "RuntimeError: Compiler: cl is not found.",
    ],
    # https://github.com/edenaion/EZ-CorridorKey/issues/60
    "app-control": ["DLL load failed while importing _C: An Application Control policy has blocked this file."],
    # https://github.com/2noise/ChatTTS/issues/886
    "dll-procedure": [
        'OSError: [WinError 193] %1 不是有效的 Win32 应用程序。 Error loading "D:\\x\\torch\\lib\\cublas64_12.dll" or one of its dependencies.'
    ],
    # https://github.com/nagadomi/nunif/issues/701
    "dll-missing": [
        '[WinError 1114] A dynamic link library (DLL) initialization routine failed. Error loading "...\\c10.dll" or one of its dependencies.'
    ],
    # https://github.com/astral-sh/uv/issues/17679, with an antivirus
    "file-held": [
        "`-> failed to rename file from C:\\x\\uv\\cache\\.tmpoKUsxT to C:\\x\\uv\\cache\\archive-v0\\goBugx: Accès refusé. (os error 5)"
    ],
    # https://github.com/KoljaB/LocalEmotionalAIVoiceChat/issues/1
    "cudnn": [
        "Could not locate cudnn_ops64_9.dll. Please make sure it is in your library path!\nInvalid handle. Cannot load symbol cudnnCreateTensorDescriptor"
    ],
    # https://github.com/alvinliu0/HumanGaussian/issues/4
    "hub-offline": [
        "(MaxRetryError(\"HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: /x/config.json"
    ],
    # https://github.com/vllm-project/vllm-ascend/issues/2248
    "rank-missing": [
        "torch.distributed.DistStoreError: wait timeout after 1800000ms, keys: /default_pg/0//54//cpu//0/2"
    ],
    # https://github.com/OptimalScale/LMFlow/issues/65
    "wandb-key": ["wandb: ERROR api_key not configured (no-tty). call wandb.login(key=[your_api_key])"],
}
