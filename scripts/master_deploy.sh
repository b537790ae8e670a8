#!/usr/bin/env bash
# The half of master_deploy.ps1 that runs in WSL: copies the repository, in whose folder it is started, to ~/winfleet,
# because Ansible ignores ansible.cfg below /mnt/c, and has `make deploy` ask or deploy there. Its one argument holds
# the words for winfleet.deploy, each ended by a NUL, in base64, so that no shell on the way changes them.
set -euo pipefail
target=${WINFLEET_TARGET:-$HOME/winfleet}
words=()
mapfile -d '' -t words < <(base64 -d <<<"${1-}")

fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 2; }

python=
for name in python3.11 python3.12 python3.13 python3; do
  if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$name; break; fi
done
system=$(. /etc/os-release && echo "$PRETTY_NAME")
[[ -n $python ]] || fail "$system has $(python3 -V 2>/dev/null || echo 'no Python'), needed is 3.11 or newer" \
  'in PowerShell: wsl --install -d Ubuntu-24.04, then master_deploy.cmd -Distribution Ubuntu-24.04'
if ! command -v make >/dev/null || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  fail "$system lacks make or the module venv of $python" "in WSL: sudo apt update && sudo apt install -y make $python-venv"
fi

if [[ $(pwd -P) != "$(readlink -m "$target")" ]]; then
  echo "Copying $PWD to $target"
  mkdir -p "$target"
  # what was made here or there stays: environments, clusters, runs
  tar -c --exclude-vcs --exclude=./.venv --exclude=./.cache --exclude=./logs --exclude=./data \
    --exclude='*.egg-info' --exclude=__pycache__ . | tar -x --no-same-permissions --no-same-owner -C "$target"
fi
cd "$target"
arguments=
(( ${#words[@]} == 0 )) || arguments=$(printf '%q ' "${words[@]}")
exec make --no-print-directory deploy PYTHON="$python" ARGS="${arguments//\$/\$\$}"
