#!/usr/bin/env bash
# Proves the lab on two PCs of its own, which it takes away again; a lab that is up beside it is left alone. Prints pass or FAIL, and at the
# end how many of them. Needs Ansible with pywinrm and ansible.windows on the PATH or beside $LAB_PYTHON, and openssl. Three to four minutes on two shared cores.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
LAB_DIR=$(mktemp -d)
export LAB_DIR LAB_PREFIX=${LAB_CHECK_PREFIX:-chk} LAB_NET=${LAB_CHECK_NET:-10.77.254} LAB_BRIDGE=${LAB_CHECK_BRIDGE:-winlabchk}
unset LAB_USER LAB_LOCALE LAB_ADAPTER LAB_PASSWORD
PATH=$(dirname "${LAB_PYTHON:-python3}"):$PATH
lab=$here/lab
one=${LAB_PREFIX}1 two=${LAB_PREFIX}2 owner=김연구
work=$(mktemp -d)
trap '"$lab" down; rm -rf "$work"' EXIT
touch "$work/ansible.cfg"
export ANSIBLE_CONFIG=$work/ansible.cfg ANSIBLE_NOCOLOR=1 ANSIBLE_HOST_KEY_CHECKING=0 ANSIBLE_DEPRECATION_WARNINGS=0
cd "$work" || exit 1
failed=0 passed=0
policy='HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'

check() { # NAME WANTED GOT: is WANTED in GOT?
  if [[ "$3" == *"$2"* ]]; then
    echo "pass  $1"
    passed=$((passed + 1))
  else
    echo "FAIL  $1: wanted *$2*, got: ${3:0:400}"
    failed=$((failed + 1))
  fi
}
address() { echo "$LAB_NET.$((10 + ${1#"$LAB_PREFIX"}))"; }
port() { # PC PORT [FROM]: what a port scan says
  if [ $# = 2 ]; then "$lab" scan "$1" "$2"; else "$lab" scan --from "$3" "$1" "$2"; fi | cut -d' ' -f2
}
becomes() { # PC PORT STATE [FROM]: the port's state, which may take three seconds to become
  local state
  for _ in 1 2 3 4; do
    state=$(port "$1" "$2" ${4:-})
    [ "$state" = "$3" ] && break
    sleep 0.5
  done
  echo "$state"
}
listens() { # PC PORT: does anything on the PC listen there? open or closed
  if ip netns exec "$1" ss -Htln "sport = :$2" | grep -q .; then echo open; else echo closed; fi
}
goes() { # PC PORT STATE: what `listens` says, within two seconds
  for _ in $(seq 20); do [ "$(listens "$1" "$2")" = "$3" ] && break; sleep 0.1; done
  listens "$1" "$2"
}
ask() { # PC MODULE ARGUMENTS [ANSIBLE OPTIONS]
  local pc=$1 module=$2 arguments=$3
  shift 3
  ansible all -i "$(address "$pc")," -m "ansible.windows.$module" -a "$arguments" -e ansible_connection=winrm -e ansible_port=5986 -e ansible_winrm_transport=ntlm \
    -e ansible_winrm_server_cert_validation=validate -e "ansible_winrm_ca_trust_path=$LAB_DIR/$pc.pem" -e ansible_user=lab -e ansible_password=lab "$@" 2>&1
}
script() { python3 -c 'import json, sys; print(json.dumps({"script": sys.stdin.read()}))'; } # stdin to win_powershell's arguments
sitting() { # PC OPTIONS: opens it, as its user would
  local pc=$1
  shift
  "$lab" run "$pc" --policy Bypass "$here/open.ps1" -CertificateFile "Z:${LAB_DIR//\//\\}\\$pc.pem" -ControllerAddress "$LAB_NET.1" "$@" 2>&1
}
at() { # PC COMMAND: what PowerShell says there
  "$lab" run "$1" powershell.exe -NoProfile -Command "$2" 2>&1
}

"$lab" setup || exit 1
began=$(date +%s%N)
"$lab" up 2 >/dev/null || exit 1
took=$((($(date +%s%N) - began) / 1000000))
check "two PCs from cache in under 30 s ($took ms)" yes "$([ "$took" -lt 30000 ] && echo yes)"

# 1. a freshly installed Korean PC
state=$LAB_DIR/$one/drive_c/lab/state.json
check 'code page 949' cp949 "$("$lab" run "$one" 'C:\lab\python\python.exe' -c 'import locale; print(locale.getpreferredencoding())')"
check 'Windows Python' '3.11 win32 AMD64' "$("$lab" run "$one" 'C:\lab\python\python.exe' -c 'import sys, platform; print(sys.version[:4], sys.platform, platform.machine())')"
check 'uv.exe' 'uv 0.' "$("$lab" run "$one" 'C:\lab\python\uv.exe' --version)"
check 'user and profile' "$owner C:\\users\\$owner C:\\users\\$owner\\AppData\\Local\\Temp" "$(at "$one" '"$env:USERNAME $env:USERPROFILE $env:TEMP"')"
check 'adapter, language' '이더넷 ko-KR 1042' "$(at "$one" '"$((Get-NetAdapter).Name) $((Get-Culture).Name) $((Get-CimInstance Win32_OperatingSystem).OSLanguage)"')"
check 'names in Korean' 'Windows 원격 관리' "$(at "$one" '(Get-NetFirewallRule -Name WINRM-HTTP-In-TCP).DisplayGroup')"
printf 'param($word) "script ran: $word"\n' >"$work/hello.ps1"
printf '@powershell -NoProfile -ExecutionPolicy Bypass -File "%%~dp0hello.ps1" door\r\n' >"$work/hello.cmd"
check 'execution policy Restricted' 'Restricted' "$(at "$one" Get-ExecutionPolicy)"
check 'it refuses a script' 'running scripts is disabled on this system' "$("$lab" run "$one" "$work/hello.ps1" x 2>&1)"
check 'a .cmd door gets around it' 'script ran: door' "$("$lab" run "$one" "$work/hello.cmd" 2>&1)"

# 2. the front door
for p in 5985 5986; do
  check "new PC: port $p listens not" closed "$(listens "$one" $p)"
  check "new PC: port $p is filtered" filtered "$(port "$one" $p)"
done
check 'what-if changes nothing' 'changes: 0' "$(sitting "$one" -WhatIf)"
check 'what-if opens nothing' closed "$(listens "$one" 5986)"
check 'open.ps1' 'changes: 4' "$(sitting "$one")"
check 'port 5986 open' open "$(becomes "$one" 5986 open)"
served=$(openssl s_client -connect "$(address "$one"):5986" </dev/null 2>/dev/null | openssl x509 -outform DER | sha1sum)
check 'the certificate of the listener is served' "$(openssl x509 -in "$LAB_DIR/$one.pem" -outform DER | sha1sum)" "$served"
check 'second open.ps1 changes nothing' 'changes: 0' "$(sitting "$one")"
check 'the other PC too' 'changes: 4' "$(sitting "$two")"
check 'state is read from outside' 5986 "$(grep -o '"LocalPorts": *"5986"' "$state")"

# 3. the firewall
check '5986 from an address that no rule allows' filtered "$(port "$one" 5986 "$two")"
check '5985 on a Public network, from the subnet' open "$(port "$one" 5985 "$two")"
at "$one" 'Get-NetFirewallRule -Name WINRM-HTTP-In-TCP | Disable-NetFirewallRule' >/dev/null
check 'its rule disabled' filtered "$(becomes "$one" 5985 filtered)"
at "$one" 'Set-NetConnectionProfile -NetworkCategory Private' >/dev/null
check 'another profile, another rule' open "$(becomes "$one" 5985 open)"
at "$one" "\$null = New-NetFirewallRule -Name ranks -DisplayName ranks -Protocol TCP -LocalPort 29500-29504 -RemoteAddress $(address "$two")" >/dev/null
check 'a range of ports, for one address' open "$(becomes "$one" 29504 open "$two")"
check 'not for another address' filtered "$(port "$one" 29504)"
check 'nor past its end' filtered "$(port "$one" 29505 "$two")"
at "$one" '$null = New-NetFirewallRule -Name stop -DisplayName stop -Action Block -Protocol TCP -LocalPort 29504' >/dev/null
check 'block beats allow' filtered "$(becomes "$one" 29504 filtered "$two")"
at "$one" 'Remove-NetFirewallRule -Name stop; Set-NetFirewallProfile -Name Private -AllowInboundRules False' >/dev/null
check 'all inbound blocked' filtered "$(becomes "$one" 5986 filtered)"
at "$one" 'Set-NetFirewallProfile -Name Private -AllowInboundRules NotConfigured -Enabled False' >/dev/null
check 'firewall off' open "$(becomes "$one" 29505 open)"
at "$one" 'Set-NetFirewallProfile -Name Private -Enabled True' >/dev/null
check 'and on' filtered "$(becomes "$one" 29505 filtered)"
check 'outbound passes' open "$(port "$two" 5985 "$one")"
check 'loopback passes' open "$(ip netns exec "$one" bash -c 'exec 3<>/dev/tcp/127.0.0.1/5986 && echo open')"
silent=$(ip netns exec "$two" python3 -c "
import socket
s = socket.socket(); s.settimeout(1)
try: s.connect(('$(address "$one")', 29501))
except Exception as error: print(type(error).__name__)")
check 'a port where nobody listens keeps silent' TimeoutError "$silent"
at "$one" "\$null = New-NetFirewallRule -Name program -DisplayName program -Program '%SystemDrive%\\lab\\Python\\python.exe' -RemoteAddress $LAB_NET.1" >/dev/null
"$lab" run "$one" 'C:\lab\python\python.exe' -c 'import socket, time; held = socket.create_server(("0.0.0.0", 40001)); time.sleep(8)' &
server=$!
for _ in $(seq 30); do [ "$(listens "$one" 40001)" = open ] && break; sleep 0.1; done
check 'a rule for a program' open "$(becomes "$one" 40001 open)"
check 'opens its ports alone' filtered "$(port "$one" 40002)"
wait $server
check 'and only while it listens' filtered "$(port "$one" 40001)"

# 4. NTLM over HTTPS
check 'win_ping' pong "$(ask "$one" win_ping '')"
check 'as the Korean user' pong "$(ask "$one" win_ping '' -e "ansible_user=$owner")"
check 'wrong password' 'ntlm: the specified credentials were rejected by the server' "$(ask "$one" win_ping '' -e ansible_password=no)"
check 'Basic refused' 'basic: the specified credentials were rejected by the server' "$(ask "$one" win_ping '' -e ansible_winrm_transport=basic)"
check 'other certificate' 'certificate verify failed: self-signed certificate' "$(ask "$one" win_ping '' -e "ansible_winrm_ca_trust_path=$LAB_DIR/$two.pem")"
check 'encrypted over HTTP' pong "$(ask "$one" win_ping '' -e ansible_winrm_scheme=http -e ansible_port=5985)"
"$lab" run "$one" reg delete "$policy" /v LocalAccountTokenFilterPolicy /f >/dev/null 2>&1
check 'filtered token' 'ntlm: Access is denied.' "$(ask "$one" win_ping '')"
check 'filtered token, but Administrator' pong "$(ask "$one" win_ping '' -e ansible_user=Administrator)"
"$lab" run "$one" reg add "$policy" /v LocalAccountTokenFilterPolicy /t REG_DWORD /d 1 /f >/dev/null 2>&1
"$lab" run "$one" net stop WinRM >/dev/null 2>&1
check 'service stopped' closed "$(goes "$one" 5986 closed)"
"$lab" run "$one" net start WinRM >/dev/null 2>&1
check 'service started' open "$(goes "$one" 5986 open)"

# 5. what outlives a shell
read -r beat <<'P'
-NoProfile -Command "for ($i = 0; $i -lt 600; $i++) { [IO.File]::WriteAllText(''C:\lab\FILE'', [string]$i); Start-Sleep -Milliseconds 200 }"
P
check 'task and child started' TASK-Running "$(ask "$one" win_powershell "$(script <<P
Start-Process powershell.exe -ArgumentList '${beat/FILE/child}'
\$action = New-ScheduledTaskAction -Execute powershell.exe -Argument '${beat/FILE/task}'
\$null = Register-ScheduledTask -TaskName smoke -Action \$action -Principal (New-ScheduledTaskPrincipal -UserId SYSTEM -RunLevel Highest) -Force
Start-ScheduledTask smoke
foreach (\$i in 1..50) { if ((Test-Path C:\\lab\\child) -and (Test-Path C:\\lab\\task)) { break }; Start-Sleep -Milliseconds 200 }
"TASK-\$((Get-ScheduledTask smoke).State) \$(Get-Content C:\\lab\\child)"
P
)")"
beats() {
  local before
  before=$(cat "$LAB_DIR/$one/drive_c/lab/$1")
  sleep 1.5
  if [ "$before" = "$(cat "$LAB_DIR/$one/drive_c/lab/$1")" ]; then echo dead; else echo alive; fi
}
check 'a child dies with its shell' dead "$(beats child)"
check 'a task outlives the shell' alive "$(beats task)"
check 'result while it runs' 267009 "$(ask "$one" win_powershell "$(script <<<'(Get-ScheduledTaskInfo smoke).LastTaskResult')")"
check 'Stop-ScheduledTask' 'Ready 267014' "$(ask "$one" win_powershell "$(script <<<'Stop-ScheduledTask smoke; "$((Get-ScheduledTask smoke).State) $((Get-ScheduledTaskInfo smoke).LastTaskResult)"')")"
check 'ends the tree' dead "$(beats task)"
check 'exit code of a task' '267011 7' "$(ask "$one" win_powershell "$(script <<'P'
$null = Register-ScheduledTask -TaskName seven -Action (New-ScheduledTaskAction -Execute cmd.exe -Argument '/c exit 7') -Force
$before = (Get-ScheduledTaskInfo seven).LastTaskResult; Start-ScheduledTask seven
while ((Get-ScheduledTask seven).State -eq 'Running') { Start-Sleep -Milliseconds 100 }
"$before $((Get-ScheduledTaskInfo seven).LastTaskResult)"
P
)")"
check 'reboot' 'CHANGED => ' "$(ask "$one" win_reboot 'reboot_timeout=60 post_reboot_delay=0')"

# 6. closed again, off, and new
check 'winrm delete' 'rc=0' "$(ask "$one" win_command 'winrm delete winrm/config/Listener?Address=*+Transport=HTTPS' -e ansible_winrm_scheme=http -e ansible_port=5985)"
check 'listener removed' closed "$(goes "$one" 5986 closed)"
sitting "$one" -Remove >/dev/null
check 'WinRM stopped' closed "$(goes "$one" 5985 closed)"
check 'and opened again' 'changes: 4' "$(sitting "$one")"
"$lab" halt "$one"
check 'switched off' off "$("$lab" status | grep "^$one ")"
"$lab" up 2 >/dev/null
check 'switched on, it is as it was' open "$(becomes "$one" 5986 open)"
"$lab" reset "$one"
check 'a new PC in its place' filtered "$(port "$one" 5986)"
"$lab" down
left=$(ip netns list | grep "^$LAB_PREFIX[0-9]"; ls -d "$LAB_DIR" "/etc/netns/$LAB_PREFIX"* 2>/dev/null; ip -br link | grep "$LAB_BRIDGE"; pgrep -af "$LAB_DIR")
check 'down leaves nothing' nothing "${left:-nothing}"
echo "$passed passed, $failed failed"
exit "$((failed > 0))"
