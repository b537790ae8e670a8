"""As nanoGPT's configurator.py: changes the globals of the script that executes it, by a file of settings and by --key=value."""

import sys
from ast import literal_eval

for arg in sys.argv[1:]:
    if "=" not in arg:
        exec(open(arg).read())  # noqa: SIM115
    else:
        key, val = arg.removeprefix("--").split("=")
        assert key in globals(), key
        try:
            globals()[key] = literal_eval(val)
        except (SyntaxError, ValueError):
            globals()[key] = val
