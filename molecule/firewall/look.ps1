#Requires -Version 5.1

# Looks at the rules with nothing of the role's; -Bend changes one of ours, -Foreign makes or removes one
# that only looks like it, and one that blocks a Python.
[CmdletBinding()]
param(
    [switch] $Bend,
    [ValidateSet('', 'make', 'remove')] [string] $Foreign = ''
)

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $Bend -or $Foreign -ne ''
if ($Bend) { Set-NetFirewallRule -Name winfleet-ports -RemoteAddress 192.0.2.1 }
if ($Foreign -eq 'make') {
    $values = @{ Direction = 'Inbound'; Action = 'Allow'; Protocol = 'TCP'; LocalPort = '29999'; RemoteAddress = '192.0.2.2' }
    $null = New-NetFirewallRule -Name winfleet-verify -DisplayName winfleet-ports @values
    $python = @{ Direction = 'Inbound'; Action = 'Block'; Program = 'C:\winfleet-verify\python.exe' }
    $null = New-NetFirewallRule -Name winfleet-verify-python -DisplayName winfleet-verify-python @python
}
if ($Foreign -eq 'remove') { Remove-NetFirewallRule -Name winfleet-verify, winfleet-verify-python }
$Ansible.Result = @(Get-NetFirewallRule -Name 'winfleet-*' | ForEach-Object {
        @{
            Id = $_.Name
            Grouping = $_.Group
            Enabled = "$($_.Enabled)" -eq 'True'
            Profiles = if ("$($_.Profile)" -eq 'Any') { 2147483647 } else { 0 }
            LocalPorts = @(($_ | Get-NetFirewallPortFilter).LocalPort) -join ','
            RemoteAddresses = @(($_ | Get-NetFirewallAddressFilter).RemoteAddress) -join ','
        }
    })
