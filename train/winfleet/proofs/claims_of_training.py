"""Claims about a training: tasks and processes, ranks, GPUs. A new one goes into its group."""

from __future__ import annotations

from typing import Final

from .claims import Claim

TASKS: Final = (
    Claim(
        name="outlives-connection",
        text="What is started on a PC outlives the connection, with which a shell's processes end",
        here="the scheduled task of train/winfleet/machine/start_task.ps1",
        proved=("lab",),
    ),
    Claim(
        name="task-settings",
        text=(
            "A task has Priority 4, both battery switches off, no time limit (ExecutionTimeLimit PT0S) and MultipleInstances "
            "Parallel, so that it starts while an earlier one of ours still runs; RunLevel is Limited for `s4u` and "
            "`interactive`. Windows' own are low priority, an end on battery and after three days"
        ),
        here=(
            "train/winfleet/machine/start_task.ps1; Parallel is seen in "
            "`test_a_task_that_windows_does_not_start_is_told_with_its_result_and_the_fix`, the registration of the others is "
            "unproven"
        ),
        proved=("lab",),
        needs=("windows",),
    ),
    Claim(
        name="task-runs",
        text="A task starts with nobody signed in, and its result is read",
        here=(
            "every run in the lab is such a task, as `test_the_first_deploy_trains_and_brings_all_home`; a result is read in "
            "`test_a_task_that_windows_does_not_start_is_told_with_its_result_and_the_fix`"
        ),
        proved=("lab",),
        needs=("windows",),
    ),
    Claim(
        name="task-cuda",
        text=(
            "CUDA and NVML work in a task where nobody is signed in (S4U, session 0): `status.json` has `gpus` true and "
            "`gpu_percent`, and the loss falls. Where they do not, `-e launch_logon=interactive`"
        ),
        needs=("windows", "gpu"),
    ),
    Claim(
        name="task-refused",
        text="What Windows says when it refuses a task is readable, in any code page of its console",
        here="train/winfleet/machine/start_task.ps1 sets UTF-8 and says its own last word",
        real="on 5.1: DEPLOY with an account that may not register tasks shows Windows' words",
        needs=("windows",),
    ),
    Claim(
        name="task-not-started",
        text=(
            "A task that is registered and does not start is named by what Windows says of its last run: no right to sign in "
            "as a batch job, a wrong password, nobody signed in"
        ),
        here=(
            "`task_result` in train/winfleet/machine/windows.py, "
            "`test_a_task_that_windows_does_not_start_is_told_with_its_result_and_the_fix`; the numbers are Microsoft's "
            "documented ones"
        ),
        proved=("lab",),
        real="take the right `Log on as a batch job` from the account (secpol.msc), then DEPLOY says `0x80070569` and `[task-batch]`",
        needs=("windows",),
    ),
    Claim(
        name="task-password",
        text="A task may sign in by password, which is on no command line",
        here=(
            "`launch_logon: password` hands `ansible_password` over on standard input; that it is registered so is seen in "
            "`test_a_task_that_windows_does_not_start_is_told_with_its_result_and_the_fix`"
        ),
        proved=("lab",),
        real="DEPLOY with it, and `status.yml` after signing out shows the ranks",
        needs=("windows",),
    ),
    Claim(
        name="task-share",
        text="A network share or a mapped letter, which a task by `launch_logon: s4u` does not see, is named once the script fails",
        here="`network-share` in the table of causes",
        proved=("linux",),
        real=r"DEPLOY with a script that reads `\\NAS\share` names it, then `-e launch_logon=password` reads it",
        needs=("windows",),
    ),
    Claim(
        name="task-entra",
        text="An account of Entra ID, which has no S4U, is named: the error names `launch_logon`",
        here="`start_task` in train/winfleet/machine/windows.py",
        real="DEPLOY with such an account ends with that error",
        needs=("windows",),
    ),
    Claim(
        name="launcher-killed",
        text="Ranks end with a launcher that is killed, no python.exe stays, and the other hosts name it",
        here=(
            "the job object (`end_children_with_me` in train/winfleet/machine/windows.py); in the lab "
            "`test_the_end_of_a_launcher_ends_its_ranks_and_the_run`, on Linux "
            "`test_a_killed_launcher_leaves_no_rank_and_the_other_host_names_it`"
        ),
        proved=("lab", "linux"),
        needs=("windows",),
    ),
    Claim(
        name="rank-killed",
        text="A killed rank, which gloo does not notice, ends the run on all hosts, and is named",
        here=(
            "the launchers' rendezvous; a rank that raises: in the lab "
            "`test_a_rank_that_raises_ends_all_ranks_of_both_hosts_and_all_go_on_from_rank_0s_checkpoint`, on Linux "
            "`test_a_failure_on_one_host_ends_the_other_within_15_seconds`; one that is killed finds its cause on Linux: "
            "`test_a_rank_that_is_ended_finds_its_cause`"
        ),
        proved=("lab", "linux"),
        needs=("windows",),
    ),
    Claim(
        name="ctrl-c",
        text="Ctrl-C on one PC, while `launch_distributed.ps1 -Auto` trains, ends launcher and ranks; no python.exe is left, and the exit status is 3",
        here="`test_ctrl_c_ends_launcher_and_ranks_and_their_status_is_handed_on`",
        proved=("linux",),
        needs=("windows",),
    ),
    Claim(
        name="own-pids",
        text=r"Pids are those of the processes themselves, although `Scripts\python.exe` of an environment only starts the base interpreter",
        here=(
            "processes say them: `Meter` in train/winfleet/rank/meter.py, `Board` in train/winfleet/launcher/board.py; "
            "`test_the_end_of_a_launcher_ends_its_ranks_and_the_run` ends a launcher by it"
        ),
        proved=("lab",),
    ),
)

TRAINING: Final = (
    Claim(
        name="trains",
        text="All ranks train, the loss falls, the backend is shown, and the run ends with the closing line",
        here="in the lab `test_the_first_deploy_trains_and_brings_all_home`, on Linux molecule/default",
        proved=("lab", "linux"),
        needs=("windows", "gpu"),
    ),
    Claim(
        name="stop-and-continue",
        text="A stop is a checkpoint, and the run that is continued goes on there",
        here=(
            "in the lab `test_an_own_script_on_one_and_two_ranks_is_seen_refused_stopped_and_continued`, on Linux "
            "`test_a_run_is_left_going_followed_again_seen_refused_stopped_and_continued`"
        ),
        proved=("lab", "linux"),
        needs=("windows",),
    ),
    Claim(
        name="prediction",
        text="Predicted and measured speed, samples/s in the report, differ by 10 % at most",
        here=(
            "a step between namespaces on a limited link, within 15 %: "
            "`test_a_real_step_between_namespaces_on_a_limited_link_takes_as_long_as_predicted`"
        ),
        proved=("linux",),
        needs=("windows", "gpu"),
    ),
    Claim(
        name="remote-machines",
        text="`status.yml` lists the ranks of real remote machines",
        here="two PCs of the lab; on Linux a namespace with its own sshd",
        proved=("lab", "linux"),
        real="`ansible-playbook deploy_and_train.yml -i inventories/lab`: the validation loss falls, and `status.yml` lists the ranks of both",
        needs=("windows",),
    ),
    Claim(
        name="gloo-adapters",
        text="gloo takes the plan's address, although it finds no adapter whose name is not ASCII (`이더넷`), or takes its IPv6 address",
        here=(
            "`bind_gloo` in train/winfleet/runner.py; in the lab, whose adapter is `이더넷`; on Linux "
            "`test_all_listen_on_the_plans_address_alone_and_stop_after_the_same_step_with_a_checkpoint`"
        ),
        proved=("lab", "linux"),
    ),
    Claim(
        name="no-libuv",
        text="Ranks meet although Windows' wheels have no libuv store, without which `torchrun` fails but for `use_libuv=False`",
        here="train/winfleet/launcher/rendezvous.py, with the real Windows wheel",
        proved=("lab",),
    ),
    Claim(
        name="output-utf8",
        text="Output in a pipe or file is UTF-8 and not in the ANSI code page",
        here=(
            "PYTHONUTF8=1 for the agent's Python and for ranks (`prepare_environment` in train/winfleet/runs/environment.py): "
            "`test_a_rank_that_raises_ends_all_ranks_of_both_hosts_and_all_go_on_from_rank_0s_checkpoint` says Korean words"
        ),
        proved=("lab",),
    ),
    Claim(
        name="by-hand",
        text="`accelerate launch`, typed on each PC, starts the training",
        here="accelerate.yaml has the command: `test_the_generated_configuration_serves_accelerate_launch_typed_on_each_pc`",
        proved=("lab",),
    ),
    Claim(
        name="console-bars",
        text="Lines of winfleet stand beside a progress bar and not in it, in a Windows console",
        here="in a pipe and in a terminal: tests/test_console.py",
        proved=("linux",),
        real=(
            r"`scripts\launch_distributed.ps1 -Auto -- bar.py` in Windows PowerShell and in Windows Terminal, where bar.py is "
            "`BAR` of that test (`-Processes 1`): each line with `[INFO]` begins at the left edge, none stands in the bar, "
            "and the bar is drawn on below it"
        ),
        needs=("windows",),
    ),
    Claim(
        name="console-view",
        text="The live view shows a run, and a stuck rank of it, in a Windows console",
        real=r"`python -m winfleet.status --run logs\RUN` in Windows PowerShell: the table is shown anew each second, without codes between the words",
        needs=("windows",),
    ),
)

GPU: Final = (
    Claim(
        name="oom-real",
        text=(
            "A real CUDA out of memory halves the batch until one fits, says `OOM on rank 0`, and the run finishes; an "
            "`.oom.yaml` beside the settings has the values"
        ),
        here=(
            "torch's exception, raised on the CPU (tests/scripts/small_gpu.py): "
            "`test_memory_that_runs_out_on_one_host_halves_the_batch_on_both_down_to_one`"
        ),
        proved=("linux",),
        needs=("gpu",),
    ),
    Claim(
        name="memory-fallback",
        text=(
            "A driver that moves to the PC's memory what the GPU's does not hold, instead of an error, is named in the guide; "
            "no check can, as NVIDIA's driver tells no program how this is set"
        ),
        here="[the guide](distributed_training_guide.en.md) names the setting",
        real=(
            "with `Prefer No Sysmem Fallback` in its Control Panel a batch that is too large ends in `OOM on rank`: in train/ "
            "on a PC with a GPU, after `python make_text.py data`, with `batch_size: 4096` and `context: 1024` in a copy "
            "`big.yaml` of the settings: `python -m winfleet.launch --auto -- train.py --config big.yaml` halves until a "
            "batch fits and exits with 0, and `big.oom.yaml` has the values. Without, `make watch` shows memory at the GPU's "
            "limit and few samples/s"
        ),
        needs=("windows", "gpu"),
    ),
    Claim(
        name="nvml-agrees",
        text="NVML says of use, memory, temperature and clock of GPUs what nvidia-smi says",
        needs=("gpu",),
    ),
    Claim(
        name="gpu-order",
        text="NVML's order of GPUs, which is not CUDA's, is ours",
        here="CUDA_DEVICE_ORDER=PCI_BUS_ID in `prepare_environment` (train/winfleet/runs/environment.py)",
        real="with two kinds of GPU: `nvidia-smi` and `gpu_percent` in `status.json` agree",
        needs=("gpu",),
    ),
    Claim(
        name="old-and-new-gpus",
        text="A GPU that torch's build does not know is named: new CUDA builds drop old ones, old builds do not know new ones",
        here=(
            "`check_driver` in train/winfleet/preflight/hosts.py by compute capability, "
            "`test_one_fault_is_one_line_with_its_fix`; then a matrix product on each device once the environment is made "
            "(`PROVE` in train/winfleet/environments/environment.py)"
        ),
        proved=("linux",),
        real="DEPLOY to a PC with a GTX 10xx, and to one with an RTX 50xx and a driver below 580: each is named, or trains by a build that knows it",
        needs=("windows", "gpu"),
    ),
    Claim(
        name="nccl-one-pc",
        text="Several GPUs in one PC train by NCCL",
        real=(
            "in an empty folder with a script of yours `python -m winfleet.launch --auto -- train.py`: `plan.json` below "
            '`logs/` has `"backend": "nccl"`, and it exits with 0'
        ),
        needs=("gpu",),
    ),
    Claim(
        name="nccl-pcs",
        text="GPUs in several PCs train by NCCL",
        real=(
            '`ansible-playbook deploy_and_train.yml -i inventories/lab`: `logs/<run>/plan.json` has `"backend": "nccl"`, and '
            "the validation loss falls"
        ),
        needs=("gpu",),
    ),
    Claim(
        name="ultralytics",
        text="Ultralytics trains on GPUs",
        here=(
            "seen on Linux, by hand, with ultralytics 8.4.190 and a torch.cuda that only says that there are GPUs: its own "
            "program reaches the process group with `device=0,0` for two processes, is refused where its list has another "
            "length, and needs CUDA from there on"
        ),
        real=(
            '`fleet_command="yolo.py"`, in which `YOLO("yolo11n.yaml").train(data="coco8.yaml", epochs=1, device="0,0")` '
            "stands, on two PCs with a GPU each: the run finishes with `2 processes on 2 hosts`, and nothing says `Not "
            "distributed`"
        ),
        needs=("gpu",),
    ),
    Claim(
        name="gpu-communication",
        text="A step's communication with GPUs, which DDP notes by CUDA events, is told",
        real="`make watch`, two GPUs, one of them with `nvidia-smi -lgc 300`: the other one's communication is longer, and this one is named slowest",
        needs=("gpu",),
    ),
    Claim(
        name="gpu-speed",
        text="Several GPUs are faster than one, as the guide says",
        real="the two commands of [the guide](distributed_training_guide.en.md#expected-speed): the report's samples/s, divided",
        needs=("gpu",),
    ),
    Claim(
        name="averaging",
        text=(
            "Hosts that send nothing for N steps and then what has changed hold the same weights afterwards, bit for bit, and "
            "what all save together is the mean"
        ),
        here=(
            "plain torch, Trainer and Lightning, unmodified: tests/test_averaging.py; on the lab's PCs a plain script, and the "
            "default one: `test_hosts_of_one_and_two_ranks_average_and_hold_the_same_weights_bit_for_bit`"
        ),
        proved=("lab", "linux"),
        real=(
            "DEPLOY with `-e fleet_average_every=32`, two PCs with a GPU each: the run finishes, the report says how often hosts "
            "averaged and how far they were apart, and the time that ranks wait is below a tenth of a step"
        ),
        needs=("windows", "gpu"),
    ),
    Claim(
        name="gradients-fp16",
        text="Gradients in 16 bits train as those in 32, and what does not fit is sent in 32",
        here="`test_gradients_in_16_bits_train_as_those_in_32`, `test_what_does_not_fit_into_16_bits_is_sent_in_32`",
        proved=("linux",),
        real="DEPLOY with `-e fleet_gradients=fp16`, two PCs with a GPU each: the same loss, and less communication in a step",
        needs=("windows", "gpu"),
    ),
)
