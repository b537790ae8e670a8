#!/bin/bash
# Builds both trees beside the old ones and swaps them in: bash build.sh [win|linux ...]
set -e
cd "$(dirname "$0")"; here=$PWD; refs=$(ls -d /usr/share/dotnet/packs/Microsoft.NETCore.App.Ref/10.*/ref/net10.0 | tail -1)
for t in ${@:-win linux}; do
  new=$here/out/.$t.new; rm -rf "$new"
  dotnet publish src/powershell.csproj -c Release -r $t-x64 --self-contained -p:LabR2R=${LabR2R:-1} -o "$new" -v q -nologo 2>&1 | grep -E "error|warn" || true
  [ -s "$new/powershell.dll" ]
  mkdir -p "$new/ref" "$new/Modules/LabDoubles"; cp "$refs"/*.dll "$new/ref/"
  rm -f "$new"/*.xml; cp src/LabDoubles.psd1 "$new/Modules/LabDoubles/" 2>/dev/null || true; cp src/doubles.psm1 "$new/" 2>/dev/null || true
  rm -rf "$here/out/.$t.old"; [ -d "$here/out/$t" ] && mv "$here/out/$t" "$here/out/.$t.old"; mv "$new" "$here/out/$t"; rm -rf "$here/out/.$t.old"
done
