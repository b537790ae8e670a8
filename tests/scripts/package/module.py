"""Started as `-m package.module`."""

import sys

from package import NAME

print(f"{NAME} {__name__} {sys.argv[1:]}", flush=True)
