r"""Pieces of expressions for causes_table.py: frames that tell whose an exception is, and paths that lead to other computers.

Python shows a path with each backslash twice: '\\\\nas\\lab'.
"""

from __future__ import annotations

from typing import Final

# A process that is started anew (multiprocessing's spawn, the only way on Windows), as data loader workers are.
SPAWN: Final = (
    r"popen_spawn|reduction\.(?:dump|pickle|py)|multiprocessing[\\/]+spawn\.py|spawn_main|ForkingPickler|__mp_main__"
)
# Who reads objects from a file.
FILES: Final = (
    r"serialization\.py|torch\.load|(?<!reduction\.)pickle\.load|np\.load|npyio\.py|\.pkl\b|\.npy\b|safetensors"
)
# Who pickles for another reason than to start a process.
COPIES: Final = rf"{FILES}|torch\.save|deepcopy|[\\/]copy\.py|distributed_c10d|joblib|cloudpickle|pickle\.dump"

_BEGIN: Final = r"(?:\A|(?<=[\s'\"`(=\[<,|]))"
# On another computer: \\server\share, \\?\UNC\server\share or //server/share; not \\?\C:\, \\.\pipe, \\wsl$.
SHARE: Final = (
    rf"(?:{_BEGIN}(?:(?:\\\\){{1,2}}\?\\{{1,2}}UNC\\|(?:\\\\){{1,2}}(?![?.\\]|wsl[.$])[\w.-]+\\)|['\"]//[\w.-]+/\w)"
)
# A letter that is a disk of the PC's own in few PCs.
LETTER: Final = rf"{_BEGIN}[L-Zl-z]:[\\/]"
# What is said of a path that is not there, and of one that is not opened.
NOT_THERE: Final = r"(?:WinError (?:2|3|21)\]|\[Errno 2\]|os error [23]\)|No such file|[Cc]annot find (?:the|path|drive)|drive with the name|찾을 수 없습니다)"
NOT_OPENED: Final = (
    rf"(?:{NOT_THERE}|WinError (?:5|51|52|54|55|58|59|64|65|66|71|121|1208|1222|1231|1265|1326|1327|1331|1909)\]"
    r"|\[Errno (?:5|13|22)\]|os error (?:5|51|53|54|55|58|59|64|65|67|121|1203|1219|1231|1272|1312|1326)\)"
    r"|[Dd]enied|거부되었습니다|[Uu]nable to (?:\w+ )?open)"
)
