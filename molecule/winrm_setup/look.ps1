#Requires -Version 5.1

# Looks at WinRM with nothing of the role's; -Memory sets the quota that the role is to raise.
[CmdletBinding()]
param([int] $Memory = 0)

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $Memory -gt 0
if ($Memory) { Set-Item -Path WSMan:\localhost\Shell\MaxMemoryPerShellMB -Value $Memory -Force -WarningAction SilentlyContinue }
$shell = Get-WSManInstance -ResourceURI winrm/config/winrs
$listeners = @(Get-WSManInstance -ResourceURI winrm/config/Listener -Enumerate)
$Ansible.Result = @{
    memory = "$($shell.MaxMemoryPerShellMB)"
    processes = "$($shell.MaxProcessesPerShell)"
    shells = "$($shell.MaxShellsPerUser)"
    thumbprints = @($listeners | Where-Object { $_.Transport -eq 'HTTPS' } | ForEach-Object { "$($_.CertificateThumbprint)" })
}
