#!/usr/bin/env bash
# Debian packages that some tests need, installed where that can be done; else one line says what is missing.
set -euo pipefail
declare -A packages=([sshd]=openssh-server [ip]=iproute2)
missing=()
for program in "${!packages[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null
else
  echo "tests that need ${missing[*]} are skipped: not root, or no apt; install them to run all tests"
fi
