#!/usr/bin/env bash
# Makes what completes an unpacked powershell.exe folder: build_snapins.sh ENGINE OUT. No .NET SDK; needs Wine, gcc-mingw-w64-x86-64 and python3.
# Puts into OUT snap-in assemblies, native helpers, and the list of assemblies that names them; ENGINE stays as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
engine=$(cd "$1" && pwd)
out=$(mkdir -p "$2" && cd "$2" && pwd)
wine_dlls=${WINE_DLLS:-/usr/lib/x86_64-linux-gnu/wine/x86_64-windows}
work=$(mktemp -d)
finish() {
  local socket
  wineserver -k 2>/dev/null || true
  wineserver -w || true
  socket=$(cat "$WINEPREFIX/wineserver" 2>/dev/null || true) # Debian's Wine names the folder of the server's socket here
  [[ $socket != wine-?????? ]] || rm -rf "/tmp/$socket"
  rm -rf "$work"
}
trap finish EXIT
export WINEPREFIX=$work/prefix WINEARCH=win64 WINEDEBUG=-all DOTNET_EnableWriteXorExecute=0
windows() { echo "Z:$1" | tr / '\\'; }

# native helpers; labwin32.dll forwards every name of kernel32 and advapi32 but its own
own=$(grep -oE '\bLab_[A-Za-z0-9]+' "$here/snapins/labwin32.c" | sed 's/Lab_//' | sort -u)
{
  echo EXPORTS
  for name in $own; do echo "$name = Lab_$name"; done
  for dll in kernel32 advapi32; do
    x86_64-w64-mingw32-objdump -p "$wine_dlls/$dll.dll" | sed -n '/Name Pointer\] Table/,/^$/p' | grep -oE '[A-Za-z_][A-Za-z0-9_]*$' | sed "s/.*/& = $dll.&/"
  done | grep -vE " Table$|^($(echo $own | tr ' ' '|')) = " | sort -u -k1,1
} >"$work/labwin32.def"
x86_64-w64-mingw32-gcc -Os -s -shared -o "$out/labwin32.dll" "$here/snapins/labwin32.c" "$work/labwin32.def" -ladvapi32
x86_64-w64-mingw32-gcc -Os -s -Wall -municode -o "$out/winrshost.exe" "$here/snapins/winrshost.c" -ladvapi32 -luser32 -lshell32 -lws2_32 -lntdll

cp "$engine/powershell.deps.json" "$here/snapins/file.ps1" "$out/"
# snap-ins, and their names among the assemblies that the host may load
for snapin in Remoting:Microsoft.WSMan.Management Security,Compiled:Microsoft.PowerShell.Security; do
  name=${snapin#*:}
  sources=$(for source in $(tr , ' ' <<<"${snapin%%:*}"); do printf '%s;' "$(windows "$here/snapins/$source.cs")"; done)
  wine "$engine/powershell.exe" -ExecutionPolicy Bypass -File "$(windows "$here/snapins/compile.ps1")" "${sources%;}" "$name" "$(windows "$work/$name.dll")" 2>&1 | cat
  cp "$work/$name.dll" "$out/"
  python3 - "$out/powershell.deps.json" "$name.dll" <<'P'
import json, sys
path, name = sys.argv[1:]
data = json.load(open(path))
for target in data["targets"].values():
    for package, entry in target.items():
        if package.startswith("powershell/"):
            entry["runtime"].setdefault(name, {})
json.dump(data, open(path, "w"), indent=2)
P
done
