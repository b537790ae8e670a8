"""Words of failures as they were recorded, each with the code of its cause.

Above a text stands who reported it; the others are our own words, or were seen here: with torch's Windows wheels under Wine, or in
network namespaces.
"""

POOL = "Task failed: ntlm: HTTPSConnectionPool(host='10.77.0.12', port=5986): Max retries exceeded with url: /wsman (Caused by "
CERTIFICATE = (
    f"{POOL}SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
)
CONNECTIONS = {
    # https://github.com/ansible/ansible/issues/71941
    "proxy": f"{POOL}ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 403 Forbidden',)))",
    # https://github.com/wazuh/wazuh-ansible/issues/581, and with Kaspersky https://github.com/ansible-collections/ansible.windows/issues/275
    "virus-remote": (
        "Access is denied.  (extended fault data: {'transport_message': 'Bad HTTP response returned from server. Code 500', 'http_status_code': "
        "500, 'wsmanfault_code': '2147942405', 'fault_code': 's:Receiver', 'fault_subcode': 'w:InternalError'})"
    ),
    "shell-slow": "Task failed: ntlm: ",  # pywinrm's WinRMOperationTimeoutError, https://github.com/diyan/pywinrm/issues/123
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
    # https://github.com/ansible/ansible/issues/80526, in WSL
    "locale": "ERROR: Ansible could not initialize the preferred locale: unsupported locale setting",
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
    # https://github.com/ansible-collections/ansible.windows/issues/253 has the number; the sentence is ours
    "task-batch": "the launcher said nothing within 60 s, and Windows says 0x80070569 of its scheduled task: no right",
    # https://github.com/dahall/TaskScheduler/issues/231
    "task-password": (
        "the scheduled task launcher was refused: Logon failure: unknown user name or bad password. (Exception from HRESULT: 0x8007052E)"
    ),
    "task-waits": "the launcher said nothing within 60 s, and Windows says 0x00041303 of its scheduled task: it was not run yet",
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
    # https://github.com/clong/DetectionLab/issues/623
    "virus-script": (
        "Unhandled exception while executing module: At line:1 char:1\r\n+ #!powershell\r\n+ ~~~~~~~~~~~~\nThis script contains malicious "
        "content and has been blocked by your antivirus software."
    ),
    # https://github.com/ansible/ansible/issues/41534
    "app-control-script": "Method invocation is supported only on core types in this language mode",
    # https://github.com/ansible-collections/ansible.windows/issues/588
    "virus-compiler": "Failed to compile C# code:\nerror CS1504: Source file 'C:\\x\\AppData\\Local\\Temp\\a.0.cs' could not be opened ('Access is denied. ')",
    # https://github.com/astral-sh/uv/issues/17945
    "cloud-folder": (
        "Caused by: failed to hardlink file from C:\\x\\.venv\\AUTHORS to C:\\x\\uv\\cache\\AUTHORS: The cloud operation cannot be performed on a "
        "file with incompatible hardlinks. (os error 396)"
    ),
    # https://github.com/debpalash/VoiceStudio/pull/1964
    "untrusted-link": "[WinError 448] The path cannot be traversed because it contains an untrusted mount point: 'D:\\CodingStuff\\nodejs'",
    # https://github.com/pgadmin-org/pgadmin4/issues/2122 tells of it, with a share
    "network-share": "PermissionError: [WinError 5] Access is denied: '\\\\\\\\nas\\\\lab\\\\data'",
    "rename-exists": "FileExistsError: [WinError 183] 파일이 이미 있으므로 만들 수 없습니다: 'best.pt.tmp' -> 'best.pt'",
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
    # https://github.com/kohya-ss/sd-scripts/issues/252
    "precision-no-gpu": "ValueError: fp16 mixed precision requires a GPU",
    # https://github.com/tatsu-lab/stanford_alpaca/issues/133
    "bf16-missing": "ValueError: Your setup doesn't support bf16/gpu. You need torch>=1.10, using Ampere GPU with cuda>=11.0",
    # https://github.com/huggingface/transformers/issues/31557
    "device-map": "ValueError: You can't train a model that has been loaded with `device_map='auto'` in any distributed mode.",
    "bf16-hook": "TypeError: BF16 all reduce communication hook required CUDA 11+ and NCCL 2.10+ or XPU and XCCL",
    # https://github.com/unslothai/unsloth-zoo/issues/129
    "backend-device": "RuntimeError: No backend type associated with device type cpu",
    "models-differ": (
        "RuntimeError: DDP expects same model across all ranks, but Rank 0 has 62 params, while rank 1 has inconsistent 0 params."
    ),
    # https://github.com/vihangd/alpaca-qlora/issues/8
    "no-padding": (
        "ValueError: Asking to pad but the tokenizer does not have a padding token. Please select a token to use as `pad_token` "
        "`(tokenizer.pad_token = tokenizer.eos_token e.g.)`"
    ),
    # https://github.com/avishkarsaha/translating-images-into-maps/issues/8, Windows
    "loader-start": (
        '  File "E:\\ananconda\\lib\\multiprocessing\\popen_spawn_win32.py", line 93, in __init__\n    reduction.dump(process_obj, to_child)\n'
        "BrokenPipeError: [Errno 32] Broken pipe"
    ),
    "loader-cut": "_pickle.UnpicklingError: pickle data was truncated",
    "loader-attribute": "AttributeError: Can't get attribute 'MyDataset' on <module '__main__' (built-in)>",
    # https://github.com/huggingface/datasets/issues/7506, four ranks
    "hub-busy": (
        "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: "
        "https://huggingface.co/api/datasets/HuggingFaceFW/fineweb/paths-info"
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
    "peer-gone": [
        "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
        # https://github.com/modal-labs/modal-examples/issues/1558
        "[W510 TCPStore.cpp:106] [c10d] sendBytes failed on SocketImpl(fd=62, addr=[::ffff:172.20.14.147]:54761, remote=[…]:46989): Broken pipe",
        # https://github.com/meta-pytorch/torchx/issues/540, the store's
        "RuntimeError: Broken pipe",
    ],
    # https://github.com/inyong37/Study/issues/2, in Korean; https://github.com/pytorch/pytorch/issues/31465
    "loader-start": [
        (
            "~\\Anaconda3\\envs\\x\\lib\\multiprocessing\\reduction.py in dump(obj, file, protocol)\n---> 60     ForkingPickler(file, protocol).dump(obj)\n"
            "BrokenPipeError: [Errno 32] Broken pipe"
        ),
        # https://github.com/dragen1860/MAML-Pytorch/issues/33
        (
            'File "D:\\ProgramData\\Anaconda3\\lib\\multiprocessing\\spawn.py", line 115, in _main\n    self = reduction.pickle.load(from_parent)\n'
            "EOFError: Ran out of input"
        ),
        "    ForkingPickler(file, protocol).dump(obj)\nOSError: [Errno 22] Invalid argument",
    ],
    "loader-pickle": [
        # https://github.com/yanx27/EverybodyDanceNow_reproduce_pytorch/issues/6
        "    ForkingPickler(file, protocol).dump(obj)\nTypeError: can't pickle module objects",
        # https://github.com/Janspiry/Image-Super-Resolution-via-Iterative-Refinement/issues/141, lmdb
        "TypeError: cannot pickle 'Environment' object",
        "TypeError: h5py objects cannot be pickled",
    ],
    # https://github.com/nolanaatama/sd-1click-colab/issues/5
    "file-damaged": [
        (
            '  File "/x/torch/serialization.py", line 1002, in _legacy_load\n    magic_number = pickle_module.load(f, **pickle_load_args)\n'
            "_pickle.UnpicklingError: pickle data was truncated"
        ),
    ],
    # https://github.com/edenaion/EZ-CorridorKey/issues/60, https://github.com/astral-sh/uv/issues/6584, https://github.com/BlenderKit/Blendkit/issues/1106
    "app-control": [
        "DLL load failed while importing _C: An Application Control policy has blocked this file.",
        (
            "error: Failed to query Python interpreter at `\\\\?\\C:\\x\\.venv\\Scripts\\python.exe`\n  Caused by: This program is blocked by group policy. For more "
            "information, contact your system administrator. (os error 1260)"
        ),
        "File C:\\x\\setup.ps1 cannot be loaded because its operation is blocked by software restriction policies, such as those created by Group Policy.",
        "OSError: [WinError 1260] Ce programme est bloqué par une stratégie de groupe.",
    ],
    # https://github.com/RubyMetric/rbenv-for-windows/issues/27
    "app-control-script": [
        "无法调用方法。此语言模式仅支持核心类型的方法调用。\n+ FullyQualifiedErrorId : MethodInvocationNotSupportedInConstrainedLanguage",
        "Cannot add type. Definition of new types is not supported in this language mode.",
    ],
    # https://github.com/ansible-collections/ansible.windows/issues/657
    "virus-compiler": [
        (
            "internal error: failed to run exec_wrapper action module_powershell_wrapper: Failed to compile C# code:\nerror CS0016: Could not write to "
            "output file 'c:\\x\\Temp\\a.dll' -- 'The process cannot access the file because it is being used by another process. '"
        )
    ],
    # https://github.com/astral-sh/uv/issues/19616, in German
    "untrusted-link": [
        "Caused by: Der Pfad kann nicht durchlaufen werden, da er einen nicht vertrauenswürdigen Bereitstellungspunkt enthält. (os error 448)"
    ],
    "network-share": [
        "OSError: [WinError 59] An unexpected network error occurred: '\\\\\\\\nas01\\\\abc\\\\workbook.xlsx'",  # https://github.com/xlwings/xlwings/issues/2698
        "System error 53 has occurred.\nThe network path was not found.",  # https://github.com/microsoft/azure-pipelines-tasks/issues/4782
        "Cannot find path 'W:\\data' because it does not exist.",
        "FileNotFoundError: [WinError 3] The system cannot find the path specified: 'Z:\\\\data\\\\train'",
        "FileNotFoundError: [Errno 2] No such file or directory: '//nas/lab/train.bin'",
        "OSError: [WinError 1326] 사용자 이름 또는 암호가 올바르지 않습니다: '\\\\\\\\192.168.0.5\\\\data'",
        "OSError: [WinError 1272] You can't access this shared folder because your organization's security policies block unauthenticated guest access",
        "PermissionError: [Errno 13] Permission denied: '\\\\\\\\?\\\\UNC\\\\nas\\\\lab\\\\train.bin'",
        "OSError: Unable to open file (unable to open file: name = '\\\\nas\\lab\\a.h5', errno = 13, error message = 'Permission denied')",
    ],
    "gloo-type": [
        # https://github.com/intel/torch-xpu-ops/issues/1508 has the words; an average of whole numbers
        "    work = group.allreduce([tensor], opts) in distributed_c10d.py\nRuntimeError: result type Float can't be cast to the desired output type Long",
        "RuntimeError: Cannot use ReduceOp.AVG with Gloo",  # before torch 2.8, https://github.com/pytorch/pytorch/pull/149781
    ],
    "no-gpu": [
        "RuntimeError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!"
    ],  # https://github.com/tatsu-lab/stanford_alpaca/issues/258
    "ranks-race": [
        # https://github.com/axolotl-ai-cloud/axolotl/issues/948
        "FileNotFoundError: [Errno 2] No such file or directory: 'model/tmp-checkpoint-49' -> 'model/checkpoint-49'",
        # https://github.com/FanqingM/MM-Eureka-V0/issues/8
        "OSError: [Errno 39] Directory not empty: '/root/results/tmp-checkpoint-s0yubqtr' -> '/root/results/checkpoint-50'",
        # https://github.com/hiyouga/LlamaFactory/issues/3065
        "FileNotFoundError: [Errno 2] No such file or directory: '/x/.cache/huggingface/datasets/json/0.0.0/ab/cache-1.arrow'",
        "FileExistsError: [Errno 17] File exists: '/path/to/run_dir/log/validation'",  # https://github.com/allenai/allennlp/issues/3841
        "[rank8]: FileExistsError: [Errno 17] File exists: 'checkpoints/epoch_0'",  # https://github.com/NVIDIA-NeMo/Automodel/pull/3686
        "FileExistsError: [WinError 183] 파일이 이미 있으므로 만들 수 없습니다: 'C:\\\\winfleet\\\\runs\\\\r\\\\work\\\\raw'",
        # https://github.com/huggingface/datasets/issues/590
        (
            "PermissionError: [WinError 32] The process cannot access the file because it is being used by another process: "
            "'C:\\\\Users\\\\x\\\\.cache\\\\huggingface\\\\datasets\\\\squad\\\\tmpsau1bep1'"
        ),
        "PermissionError: [WinError 5] Access is denied: 'C:\\\\x\\\\c4.incomplete' -> 'C:\\\\x\\\\c4'",  # https://github.com/huggingface/datasets/issues/2937
    ],
    # https://github.com/rmihaylov/falcontune/issues/33 and https://github.com/chenyiwan/chatglm-6b-fine-tuning/issues/11
    "device-map": [
        "ValueError: You can't train a model that has been loaded in 8-bit precision on multiple devices in any distributed mode.",
        (
            "ValueError: DistributedDataParallel device_ids and output_device arguments only work with single-device/multiple-device GPU modules or CPU "
            "modules, but got device_ids [1], output_device 1, and module parameters {device(type='cuda', index=0), \ndevice(type='cuda', index=1)}."
        ),
    ],
    # https://github.com/Linaqruf/kohya-trainer/issues/246
    "bf16-missing": ["ValueError: bf16 mixed precision requires PyTorch >= 1.10 and a supported device."],
    # https://github.com/huggingface/transformers/issues/4122
    "no-padding": [
        "ValueError: You are attempting to pad samples but the tokenizer you are using (GPT2Tokenizer) does not have one."
    ],
    # https://github.com/astral-sh/uv/issues/8198
    "index-timeout": [
        "  Caused by: Failed to extract archive: x.tar.zst\n  Caused by: error decoding response body\n  Caused by: operation timed out",
        "Read timed out: HTTPSConnectionPool(host='files.pythonhosted.org', port=443): Read timed out.",
    ],
    "index-proxy": [
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 "
            "Proxy Authentication Required'))': /simple/six/"
        )
    ],
    "memory": [
        "RuntimeError: Couldn't open shared event: <torch_5064_1>, error code: <1450>",
        "OSError: [WinError 1450] Insufficient system resources exist to complete the requested service",
    ],
    # https://github.com/pytorch/pytorch/issues/139990, torch 2.5
    "libuv": ["RuntimeError: use_libuv was requested but PyTorch was build without libuv support"],
    # https://github.com/pytorch/pytorch/issues/136361 and torch/_inductor/cpp_builder.py
    "compiler-missing": [
        "RuntimeError: Cannot find a working triton installation. Either the package is not installed or it is too old.",
        "RuntimeError: Compiler: cl is not found.",
    ],
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
