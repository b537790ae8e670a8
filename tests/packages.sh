#!/usr/bin/env bash
# Debian packages that some tests need, installed where that can be done; else one line says what is missing.
set -euo pipefail
declare -A packages=([sshd]=openssh-server [ip]=iproute2)
missing=()
for program in "${!packages[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
browser=chromium-headless-shell # Debian's; Ubuntu has none as a package
command -v "$browser" >/dev/null || command -v chromium >/dev/null || missing+=("$browser")
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update >/dev/null
  if ! apt-cache show "$browser" >/dev/null 2>&1; then
    missing=("${missing[@]/$browser/}")
    echo "tests that need $browser are skipped: apt has none"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${missing[@]} >/dev/null
else
  echo "tests that need ${missing[*]} are skipped: not root, or no apt; install them to run all tests"
fi
