#!/usr/bin/env bash
# Makes a freshly installed Windows in PREFIX, with the Windows Python of PYTHON as C:\lab\python: make_template.sh PREFIX PYTHON PASSWD
# Wine takes the user's name from PASSWD, which stands in place of /etc/passwd here, and code pages and language from LC_ALL.
set -euo pipefail
if [ "${LAB_INSIDE:-}" != 1 ]; then exec unshare --mount env LAB_INSIDE=1 "$0" "$@"; fi
mount --bind "$3" /etc/passwd
export WINEPREFIX=$1 WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='
log=$(mktemp)
trap 'code=$?; [ $code = 0 ] || cat "$log" >&2; rm -f "$log"; exit $code' EXIT
add() { wine reg add "$1" /v "$2" /t "$3" /d "$4" /f; }
{
  wineboot -i
  wine winecfg -v win10
  # What every program of the PC needs, whoever starts it: .NET's W^X mapping crashes under Wine 8, which also lacks the NUMA call of Intel's OpenMP
  system='HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment'
  add "$system" DOTNET_EnableWriteXorExecute REG_SZ 0
  add "$system" KMP_AFFINITY REG_SZ disabled
  # Microsoft's own C++ runtime where a program brings it: with Wine's std::mutex, gloo hangs in its first collective; and our C runtime
  for library in ucrtbase msvcp140 msvcp140_1 msvcp140_2 msvcp140_atomic_wait concrt140 vcruntime140 vcruntime140_1; do
    add 'HKCU\Software\Wine\DllOverrides' "$library" REG_SZ native,builtin
  done
  add 'HKLM\SYSTEM\CurrentControlSet\Control\Power' HibernateEnabled REG_DWORD 1 # as on a new PC
  add 'HKCU\Software\Wine\DllOverrides' shutdown.exe REG_SZ native # ours: it asks the lab to boot the PC anew
  add 'HKCU\Environment' TEMP REG_EXPAND_SZ '%USERPROFILE%\AppData\Local\Temp'
  add 'HKCU\Environment' TMP REG_EXPAND_SZ '%USERPROFILE%\AppData\Local\Temp'
  # that of Windows' firewall, which every boot starts; its cmdlets ask whether it runs
  wine sc create mpssvc binPath= 'C:\windows\system32\winrshost.exe service mpssvc' start= auto DisplayName= 'Windows Defender Firewall'
} >"$log" 2>&1 </dev/null
wineserver -w || true
# Debian's Wine names the folder of the server's socket here, and each PC shall make its own
socket=$(cat "$WINEPREFIX/wineserver" 2>/dev/null || true)
rm -f "$WINEPREFIX/wineserver"
[[ $socket != wine-?????? ]] || rm -rf "/tmp/$socket"
mkdir -p "$WINEPREFIX/drive_c/lab"
cp -a --reflink=auto "$2" "$WINEPREFIX/drive_c/lab/python"
"$(dirname "$0")/make_ucrt.sh" "$WINEPREFIX/drive_c/windows/system32"
cp "$2/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32" # Wine 8 has none; whoever brings a uv.exe needs it
# folders of its own, where Wine points to those of the Linux user
for folder in "$WINEPREFIX"/drive_c/users/*/*; do
  [ ! -L "$folder" ] || { rm "$folder"; mkdir "$folder"; }
done
mkdir -p "$WINEPREFIX"/drive_c/users/"$(head -1 "$3" | cut -d: -f1)"/AppData/Local/Temp
