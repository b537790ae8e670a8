#Requires -Version 5.1

# Makes, mends and removes the firewall rules of winfleet: Group `winfleet`, Name `winfleet-...`. Both must fit: whatever
# else is in the firewall belongs to somebody else. `winfleet-winrm-https` belongs to scripts/worker_setup.ps1.
[CmdletBinding(SupportsShouldProcess)]
param(
    [ValidateSet('present', 'absent')]
    [string] $State = 'present',

    # IPv4 addresses of all workers
    [string[]] $Workers = @(),

    # the controller's address; empty: where this WinRM connection comes from
    [string] $Controller = '',

    # programs that gloo's ports are open for; none: for every program
    [string[]] $Programs = @(),

    # the port at which this connection arrives
    [int] $Port = 5986
)

#AnsibleRequires -PowerShell Ansible.ModuleUtils.Winfleet

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $false
$group = 'winfleet'
$clusterPorts = '29500-29504'
$warnings = New-Object -TypeName System.Collections.Generic.List[string]

function Get-Rule {
    # Rules that fit the query; none is no error, anything else is.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [hashtable] $Query)

    $failures = $null
    Get-NetFirewallRule @Query -ErrorAction SilentlyContinue -ErrorVariable failures
    foreach ($failure in $failures) {
        if ("$($failure.CategoryInfo.Category)" -ne 'ObjectNotFound') { throw $failure }
    }
}

function Get-OwnRule {
    [CmdletBinding()]
    param()

    Get-Rule -Query @{ Group = $group; PolicyStore = 'PersistentStore' } |
        Where-Object { $_.Name -like 'winfleet-*' -and $_.Name -ne 'winfleet-winrm-https' }
}

function ConvertTo-List {
    # Windows shows one value as a string and several as an array, an address with or without the mask of one host.
    [CmdletBinding()]
    param([AllowNull()] [object] $Value)

    @($Value) -join ',' -split ',' | ForEach-Object { $_.Trim() -replace '/(32|255\.255\.255\.255)$' } |
        Where-Object { $_ } | Sort-Object -Unique
}

function ConvertTo-Shape {
    # What is compared, and what --diff shows.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [object] $Rule)

    $port = $Rule | Get-NetFirewallPortFilter
    $address = $Rule | Get-NetFirewallAddressFilter
    $application = $Rule | Get-NetFirewallApplicationFilter
    [ordered]@{
        enabled = "$($Rule.Enabled)"
        direction = "$($Rule.Direction)"
        action = "$($Rule.Action)"
        profile = "$($Rule.Profile)"
        protocol = "$($port.Protocol)"
        local_port = (ConvertTo-List $port.LocalPort) -join ','
        local_address = (ConvertTo-List $address.LocalAddress) -join ','
        remote_address = @(ConvertTo-List $address.RemoteAddress)
        program = "$($application.Program)"
    }
}

function New-Shape {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory)] [string] $LocalPort,
        [Parameter(Mandatory)] [string[]] $RemoteAddress,
        [string] $Program = 'Any'
    )

    [ordered]@{
        enabled = 'True'
        direction = 'Inbound'
        action = 'Allow'
        profile = 'Any'
        protocol = 'TCP'
        local_port = $LocalPort
        local_address = 'Any'
        remote_address = @(ConvertTo-List $RemoteAddress)
        program = $Program
    }
}

function ConvertTo-Text {
    [CmdletBinding()]
    param([AllowNull()] [object] $Shape)

    if ($null -eq $Shape) { '' } else { ConvertTo-Json -InputObject $Shape -Compress }
}

function Get-DynamicPort {
    # First and last port that the host gives to outgoing and unnamed sockets. netsh's words are localised, its numbers are not.
    [CmdletBinding()]
    param()

    $numbers = @(Invoke-Native -Program netsh.exe -Arguments int, ipv4, show, dynamicport, tcp |
            ForEach-Object { if ($_ -match ':\s*(\d+)\s*$') { [int]$Matches[1] } })
    if ($numbers.Count -eq 2) { return $numbers[0], ($numbers[0] + $numbers[1] - 1) }
    $warnings.Add('netsh did not tell the range of dynamic ports; 49152-65535, the default of Windows, was taken')
    49152, 65535
}

function Find-Controller {
    # Who is connected to WinRM now. Behind NAT, as in WSL, only this side knows the controller's address.
    [CmdletBinding()]
    param()

    if ($Controller) { return $Controller }
    $own = @(Get-NetIPAddress | ForEach-Object { $_.IPAddress })
    $seen = @(Get-NetTCPConnection -LocalPort $Port -State Established -ErrorAction SilentlyContinue |
            ForEach-Object { "$($_.RemoteAddress)" -replace '^::ffff:' -replace '%.*$' } |
            Where-Object { $_ -notin $own } | Sort-Object -Unique)
    if ($seen.Count -eq 0) {
        $warnings.Add("no connection to port $Port shows the controller's address, so no rule lets it in; set firewall_controller")
    }
    if ($seen.Count -gt 1) {
        $warnings.Add("$($seen -join ' and ') are connected to port $Port, and all are let in; set firewall_controller to the controller's address")
    }
    $seen
}

function Test-Overlap {
    # Whether a rule's ports, as Windows shows them, meet one of the ranges. Words such as RPC are no port of ours.
    [CmdletBinding()]
    param([AllowNull()] [object] $LocalPort, [Parameter(Mandatory)] [string[]] $Ranges)

    foreach ($part in @(ConvertTo-List $LocalPort)) {
        if ($part -notmatch '^(\d+)(?:-(\d+))?$') { continue }
        $first = [int]$Matches[1]
        $last = if ($Matches[2]) { [int]$Matches[2] } else { $first }
        foreach ($range in $Ranges) {
            $from, $to = $range -split '-'
            if ($first -le [int]$to -and $last -ge [int]$from) { return $true }
        }
    }
    $false
}

function Find-Obstacle {
    # What beats our rules: Block rules for Python or our ports, policies that ignore local rules, and other firewalls.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [string[]] $Ranges)

    $query = @{ Direction = 'Inbound'; Action = 'Block'; Enabled = 'True'; PolicyStore = 'ActiveStore' }
    foreach ($rule in Get-Rule -Query $query) {
        $port = $rule | Get-NetFirewallPortFilter
        if ("$($port.Protocol)" -notin 'TCP', '6', 'Any') { continue }
        $meets = Test-Overlap -LocalPort $port.LocalPort -Ranges $Ranges
        $application = $rule | Get-NetFirewallApplicationFilter
        $program = "$($application.Program)"
        $python = $program -match '(^|\\)python[^\\]*\.exe$'
        $everyPort = ((ConvertTo-List $port.LocalPort) -join ',') -in '', '*', 'Any'
        if (($python -and ($meets -or $everyPort)) -or ($program -in '', 'Any' -and $meets -and -not $application.Package)) {
            $what = if ($python) { $program } else { "TCP $((ConvertTo-List $port.LocalPort) -join ',')" }
            $warnings.Add("the rule `"$($rule.DisplayName)`" blocks $what and beats every rule that allows; disable it: Disable-NetFirewallRule -Name '$($rule.Name)'")
        }
    }

    $used = @(Get-NetConnectionProfile -ErrorAction SilentlyContinue |
            ForEach-Object { "$($_.NetworkCategory)" -replace 'DomainAuthenticated', 'Domain' } | Sort-Object -Unique)
    foreach ($fwProfile in Get-NetFirewallProfile -PolicyStore ActiveStore) {
        if ("$($fwProfile.Name)" -notin $used -or "$($fwProfile.Enabled)" -eq 'False') { continue }
        if ("$($fwProfile.AllowInboundRules)" -eq 'False') {
            $warnings.Add("the $($fwProfile.Name) profile lets nothing in, whatever rules say (AllowInboundRules is False)")
        }
        if ("$($fwProfile.AllowLocalFirewallRules)" -eq 'False') {
            $warnings.Add("a group policy ignores local rules in the $($fwProfile.Name) profile (AllowLocalPolicyMerge is false); ask for the rules there")
        }
    }

    foreach ($name in Get-OtherFirewall) {
        $warnings.Add("the firewall $name is registered there, and Windows' rules may not count; let in there TCP $($Ranges -join ' and ') from the cluster, and $Port from here")
    }
}

function Set-Rule {
    [CmdletBinding(SupportsShouldProcess)]
    param([Parameter(Mandatory)] [string] $Name, [Parameter(Mandatory)] [object] $Shape, [switch] $Exists)

    $values = @{
        Name = $Name
        Enabled = $Shape.enabled
        Direction = $Shape.direction
        Action = $Shape.action
        Profile = $Shape.profile
        Protocol = $Shape.protocol
        LocalPort = $Shape.local_port
        LocalAddress = $Shape.local_address
        RemoteAddress = $Shape.remote_address
        Program = $Shape.program
    }
    if ($Exists) { Set-NetFirewallRule @values; return }
    $taken = Get-Rule -Query @{ Name = $Name; PolicyStore = 'PersistentStore' }
    if ($taken) { throw "a firewall rule named $Name is there that is not of the group ${group}: rename or remove it" }
    $display = "$Name (TCP $($Shape.local_port), the cluster only)"
    $null = New-NetFirewallRule @values -DisplayName $display -Group $group -Description 'Made by winfleet, role firewall.'
}

if (-not (Test-FirewallService)) {
    throw "the service of Windows' firewall (mpssvc) does not run, and without it no rule can be set`nhint: Set-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Services\mpssvc Start 2 there, then restart the PC"
}

$before = [ordered]@{}
foreach ($rule in Get-OwnRule | Sort-Object -Property Name) { $before[$rule.Name] = ConvertTo-Shape $rule }

$after = [ordered]@{}
if ($State -eq 'present') {
    if (-not $Workers) { throw 'no address of a worker is known, and a rule without addresses would let everybody in' }
    $dynamic = (Get-DynamicPort) -join '-'
    if (-not $Programs) { $Programs = @('Any') }
    $count = 0
    foreach ($program in $Programs) {
        $count++
        $name = if ($count -eq 1) { 'winfleet-gloo' } else { "winfleet-gloo-$count" }
        $after[$name] = New-Shape -LocalPort $dynamic -RemoteAddress $Workers -Program $program
    }
    $after['winfleet-ports'] = New-Shape -LocalPort $clusterPorts -RemoteAddress (@($Workers) + @(Find-Controller))
    if ([int]($dynamic -split '-')[0] -le $Port -and $Programs -eq 'Any') {
        $warnings.Add("the range of dynamic ports, $dynamic, holds those of other services, WinRM's too, and other workers may reach them; set firewall_programs")
    }
    Find-Obstacle -Ranges $clusterPorts, $dynamic
}

foreach ($name in @($after.Keys)) {
    if ((ConvertTo-Text $before[$name]) -eq (ConvertTo-Text $after[$name])) { continue }
    $Ansible.Changed = $true
    if ($PSCmdlet.ShouldProcess($name, 'Set firewall rule')) {
        Set-Rule -Name $name -Shape $after[$name] -Exists:($null -ne $before[$name])
    }
}
foreach ($name in @($before.Keys | Where-Object { -not $after.Contains($_) })) {
    $Ansible.Changed = $true
    if ($PSCmdlet.ShouldProcess($name, 'Remove firewall rule')) { Remove-NetFirewallRule -Name $name }
}

$Ansible.Diff = @{ before = $before; after = $after }
$Ansible.Result = @{ rules = $after; warnings = $warnings.ToArray() }
