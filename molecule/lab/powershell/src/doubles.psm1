# Doubles for Windows-only facilities. State: one JSON file, so that a second run sees what the first one did.
# Editable without a compiler; a new public function must also be named in Modules/LabDoubles/LabDoubles.psd1.
Set-StrictMode -Off
function Get-LabStatePath { if ($env:LAB_STATE) { $env:LAB_STATE } elseif ($IsWindows) { 'C:\lab\state.json' } else { '/tmp/lab-state.json' } }
function Get-LabDefaults {
    @{
        firewall = Get-LabFirewallDefaults; fwprofiles = @{ '1' = $true; '2' = $true; '4' = $true }; netprofile = 'Public'
        power = @{ active = '381b4222-f694-41f0-9685-ff5bb260df2e'; values = @{}; schemes = [ordered]@{
                '381b4222-f694-41f0-9685-ff5bb260df2e' = 'Balanced'; '8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c' = 'High performance'; 'a1841308-3541-4fab-bc81-f71556f20b4a' = 'Power saver' } }
        wsman = @{ 'Client\TrustedHosts' = ''; 'Client\AllowUnencrypted' = 'false'; 'Client\Auth\Basic' = 'true'; 'Service\AllowUnencrypted' = 'false'; 'Service\IPv4Filter' = '*'; 'Service\IPv6Filter' = '*'; 'Service\MaxConcurrentOperationsPerUser' = '1500'; 'Service\MaxConnections' = '300'; 'Service\EnumerationTimeoutms' = '240000'; 'Service\CertificateThumbprint' = ''; 'Service\Auth\CbtHardeningLevel' = 'Relaxed'; 'Service\Auth\Basic' = 'false'; 'Service\Auth\Kerberos' = 'true'; 'Service\Auth\Negotiate' = 'true'; 'Service\Auth\Certificate' = 'false'; 'Service\Auth\CredSSP' = 'false'; 'Shell\AllowRemoteShellAccess' = 'true'; 'Shell\IdleTimeout' = '7200000'; 'Shell\MaxConcurrentUsers' = '2147483647'; 'Shell\MaxProcessesPerShell' = '2147483647'; 'Shell\MaxShellRunTime' = '2147483647'; 'Shell\MaxMemoryPerShellMB' = '2147483647'; 'Shell\MaxShellsPerUser' = '2147483647'; 'MaxBatchItems' = '32000'; 'MaxProviderRequests' = '4294967295'; 'MaxTimeoutms' = '60000'; 'MaxEnvelopeSizekb' = '500' }
        listeners = @(); sessions = $false; users = @{}; account = @{}; administrators = @(); tasks = @{}; taskfolders = @('\')
    }
}
# of the rules that Windows 10 and 11 have from the start: those of WinRM and ping, disabled; their names are in the PC's language
function Get-LabFirewallDefaults {
    $korean = [Globalization.CultureInfo]::CurrentCulture.TwoLetterISOLanguageName -eq 'ko'
    $winrm, $winrmGroup, $ping, $pingGroup = if ($korean) { "Windows $([char[]](0xC6D0, 0xACA9) -join '') $([char[]](0xAD00, 0xB9AC) -join '')(HTTP-In)", "Windows $([char[]](0xC6D0, 0xACA9) -join '') $([char[]](0xAD00, 0xB9AC) -join '')", "$([char[]](0xD30C, 0xC77C) -join '') $([char]0xBC0F) $([char[]](0xD504, 0xB9B0, 0xD130) -join '') $([char[]](0xACF5, 0xC720) -join '')($([char[]](0xC5D0, 0xCF54) -join '') $([char[]](0xC694, 0xCCAD) -join '') - ICMPv4-In)", "$([char[]](0xD30C, 0xC77C) -join '') $([char]0xBC0F) $([char[]](0xD504, 0xB9B0, 0xD130) -join '') $([char[]](0xACF5, 0xC720) -join '')" }
    else { 'Windows Remote Management (HTTP-In)', 'Windows Remote Management', 'File and Printer Sharing (Echo Request - ICMPv4-In)', 'File and Printer Sharing' }
    foreach ($x in @('WINRM-HTTP-In-TCP', 4, 'LocalSubnet'), @('WINRM-HTTP-In-TCP-NoScope', 3, '*')) {
        [ordered]@{ Name = $winrm; Description = 'Inbound rule for Windows Remote Management via WS-Management. [TCP 5985]'; ApplicationName = 'System'; Protocol = 6; LocalPorts = '5985'; RemotePorts = '*'; LocalAddresses = '*'; RemoteAddresses = $x[2]; IcmpTypesAndCodes = '*'; Direction = 1; InterfaceTypes = 'All'; Enabled = $false; Grouping = $winrmGroup; Profiles = $x[1]; Action = 1; Id = $x[0] }
    }
    foreach ($x in @('FPS-ICMP4-ERQ-In', 4, 'LocalSubnet'), @('FPS-ICMP4-ERQ-In-NoScope', 1, '*')) {
        [ordered]@{ Name = $ping; Description = 'Echo Request messages are sent as ping requests to other nodes.'; Protocol = 1; LocalAddresses = '*'; RemoteAddresses = $x[2]; IcmpTypesAndCodes = '8:*'; Direction = 1; InterfaceTypes = 'All'; Enabled = $false; Grouping = $pingGroup; Profiles = $x[1]; Action = 1; Id = $x[0] }
    }
}
function Read-LabState {
    $s = Get-LabDefaults; $p = Get-LabStatePath
    if ([IO.File]::Exists($p)) { $j = ConvertFrom-Json ([IO.File]::ReadAllText($p)) -AsHashtable; foreach ($k in @($j.Keys)) { $s[$k] = $j[$k] } }
    $s
}
function Write-LabState($State) {
    $p = Get-LabStatePath; $null = [IO.Directory]::CreateDirectory([IO.Path]::GetDirectoryName($p))
    $t = "$p.$PID"; [IO.File]::WriteAllText($t, (ConvertTo-Json $State -Depth 20)); [IO.File]::Move($t, $p, $true)
}
function New-LabError($Message, $Id, $Category = 'ObjectNotFound', $Target) { [Management.Automation.ErrorRecord]::new([Exception]::new($Message), $Id, $Category, $Target) }

# ---- COM doubles ----
class LabFwRule {
    [object]$Name; [object]$Description; [object]$ApplicationName; [object]$ServiceName; [int]$Protocol = 256
    [object]$LocalPorts; [object]$RemotePorts; [string]$LocalAddresses = '*'; [string]$RemoteAddresses = '*'; [object]$IcmpTypesAndCodes = '*'
    [int]$Direction = 1; [object]$Interfaces; [string]$InterfaceTypes = 'All'; [bool]$Enabled = $false; [object]$Grouping; [int]$Profiles = 0x7fffffff
    [bool]$EdgeTraversal = $false; [int]$Action = 1; [int]$EdgeTraversalOptions = 0; [int]$SecureFlags = 0
    [object]$LocalAppPackageId; [object]$LocalUserOwner; [object]$LocalUserAuthorizedList; [object]$RemoteUserAuthorizedList; [object]$RemoteMachineAuthorizedList
    hidden [string]$Id = [guid]::NewGuid().ToString()
}
function script:ConvertTo-FwRule($h) { $r = [LabFwRule]::new(); foreach ($k in $h.Keys) { if ($null -ne $h[$k]) { $r.$k = $h[$k] } }; $r }
function script:ConvertFrom-FwRule($r) { $h = [ordered]@{}; foreach ($p in [LabFwRule].GetProperties()) { $h[$p.Name] = $r.($p.Name) }; $h }
# a rule as COM would hand it out: one address is shown with its mask; a changed property is stored at once
function script:Format-FwAddress([string]$a) {
    if ($a -in '', '*') { return '*' }
    ($a -split ',' | ForEach-Object { $x = $_.Trim()
        if ($x -match '^\d+\.\d+\.\d+\.\d+$') { "$x/255.255.255.255" }
        elseif ($x -match '^(\d+\.\d+\.\d+\.\d+)/(\d{1,2})$') { $b = [uint32]0; $n = [int]$Matches[2]; if ($n) { $b = [uint32]([uint64]4294967295 -shl (32 - $n) -band 4294967295) }; "$($Matches[1])/" + ((24, 16, 8, 0 | ForEach-Object { ($b -shr $_) -band 255 }) -join '.') }
        else { $x } }) -join ','
}
function script:Save-FwRule($r) {
    $s = Read-LabState; $r.LocalAddresses = Format-FwAddress $r.LocalAddresses; $r.RemoteAddresses = Format-FwAddress $r.RemoteAddresses
    if ($r.Protocol -in 6, 17) { if (-not $r.LocalPorts) { $r.LocalPorts = '*' }; if (-not $r.RemotePorts) { $r.RemotePorts = '*' } }
    $s.firewall = @(@($s.firewall | Where-Object { $_ -and $_.Id -ne $r.Id }) + @(ConvertFrom-FwRule $r)); Write-LabState $s
}
function script:New-FwRuleObject($r, [switch]$Live) {
    $o = [pscustomobject]@{}
    foreach ($p in [LabFwRule].GetProperties()) {
        $n = $p.Name
        $o | Add-Member -MemberType ScriptProperty -Name $n -Value ([scriptblock]::Create("`$this.PSObject.Properties['_r'].Value.$n")) -SecondValue ([scriptblock]::Create("param(`$v) `$r = `$this.PSObject.Properties['_r'].Value; `$r.$n = $(if ($n -like '*Addresses') { '& $this.PSObject.Properties[''_fmt''].Value $v' } else { '$v' }); if (`$this.PSObject.Properties['_live'].Value) { & `$this.PSObject.Properties['_save'].Value `$r }"))
    }
    $o.PSObject.Properties.Add([psnoteproperty]::new('_r', $r)); $o.PSObject.Properties.Add([psnoteproperty]::new('_live', [bool]$Live)); $o.PSObject.Properties.Add([psnoteproperty]::new('_save', $null))
    $o.PSObject.Properties['_save'].Value = ${function:Save-FwRule}; $o.PSObject.Properties.Add([psnoteproperty]::new('_fmt', ${function:Format-FwAddress}))
    $o
}
function New-ComDouble {
    param([string]$ProgId)
    switch ($ProgId) {
        'HNetCfg.FWRule' { return New-FwRuleObject ([LabFwRule]::new()) }
        'HNetCfg.FwPolicy2' {
            $list = [Collections.ArrayList]@(@((Read-LabState).firewall) | Where-Object { $_ } | ForEach-Object { New-FwRuleObject (ConvertTo-FwRule $_) -Live })
            # the Rules collection: enumerable, with Add, Remove and Item
            $rules = $list
            $null = Add-Member -InputObject $rules -MemberType ScriptMethod -Name Add -Force -Value { param($x) $x.PSObject.Properties['_live'].Value = $true; & $x.PSObject.Properties['_save'].Value $x.PSObject.Properties['_r'].Value; $null = $this.Insert($this.Count, $x) }
            $null = Add-Member -InputObject $rules -MemberType ScriptMethod -Name Remove -Force -Value { param($n) Remove-LabFwRule $n; for ($i = $this.Count - 1; $i -ge 0; $i--) { if ($this[$i].Name -eq $n) { $this.RemoveAt($i) } } }
            $o = [pscustomobject]@{ Rules = $null; CurrentProfileTypes = 2 }
            $o.PSObject.Properties['Rules'].Value = $rules
            $o | Add-Member -MemberType ScriptMethod -Name FirewallEnabled -Value { param($p) [bool](Read-LabState).fwprofiles["$p"] }
            return $o
        }
        # Wine's own task service hangs: use the *-ScheduledTask cmdlets, which have doubles below
        'Schedule.Service' { throw 'Schedule.Service has no double here; use the *-ScheduledTask cmdlets' }
        'WScript.Shell' { return $null }
    }
}
function Remove-LabFwRule($Name) { $s = Read-LabState; $s.firewall = @($s.firewall | Where-Object { $_ -and $_.Name -ne $Name }); Write-LabState $s }

# ---- firewall and network cmdlets ----
$script:proto = @{ TCP = 6; UDP = 17; ICMPv4 = 1; ICMPv6 = 58; Any = 256 }; $script:prof = @{ Domain = 1; Private = 2; Public = 4 }
function script:ConvertTo-NetRule($h) {
    $n = if ($h.RuleName) { $h.RuleName } else { $h.Name }
    $p = if ($h.Profiles -eq 0x7fffffff) { 'Any' } else { (@('Domain', 'Private', 'Public') | Where-Object { $h.Profiles -band $prof[$_] }) -join ', ' }
    [pscustomobject]@{ PSTypeName = 'LabNetFirewallRule'; Name = $h.Id; InstanceID = $h.Id; DisplayName = $h.Name; Description = $h.Description; DisplayGroup = $h.Grouping; Group = $h.Grouping; Enabled = $(if ($h.Enabled) { 'True' } else { 'False' }); Profile = $p; Direction = @{ 1 = 'Inbound'; 2 = 'Outbound' }[[int]$h.Direction]; Action = @{ 0 = 'Block'; 1 = 'Allow' }[[int]$h.Action]; LocalPort = $h.LocalPorts; RemoteAddress = $h.RemoteAddresses; Protocol = ($proto.Keys | Where-Object { $proto[$_] -eq $h.Protocol }); Program = $h.ApplicationName }
}
# mpssvc has this file while it runs (winrshost.c); without the service the firewall's cmdlets end so
function script:Test-LabFirewall($Cmdlet) {
    if (-not $IsWindows -or [IO.File]::Exists('C:\lab\mpssvc.running')) { return $true }
    $Cmdlet.WriteError((New-LabError 'There are no more endpoints available from the endpoint mapper. ' "Windows System Error 1753,$($Cmdlet.MyInvocation.MyCommand.Name)" 'NotSpecified' 'MSFT_NetFirewallRule')); $false
}
function Get-NetFirewallRule {
    [CmdletBinding()] param([Parameter(Position = 0)][Alias('ID')][string[]]$Name, [string[]]$DisplayName, [string[]]$DisplayGroup, [string[]]$Group, [string]$Direction, [string]$Enabled, [string]$Action, [switch]$All, [string]$PolicyStore)
    if (-not (Test-LabFirewall $PSCmdlet)) { return }
    $r = @((Read-LabState).firewall | Where-Object { $_ } | ForEach-Object { ConvertTo-NetRule $_ })
    foreach ($f in @('Name', $Name), @('DisplayName', $DisplayName), @('DisplayGroup', $DisplayGroup), @('Group', $Group)) {
        if (-not $f[1]) { continue }
        $prop = $f[0]; $hit = @(foreach ($x in $f[1]) { $m = @($r | Where-Object { $_.$prop -like $x }); if (-not $m -and $x -notmatch '[*?]') { $PSCmdlet.WriteError((New-LabError "No MSFT_NetFirewallRule objects found with property '$(@{Name='InstanceID';DisplayName='DisplayName';DisplayGroup='DisplayGroup';Group='RuleGroup'}[$prop])' equal to '$x'.  Verify the value of the property and retry." 'CmdletizationQuery_NotFound_InstanceID,Get-NetFirewallRule' 'ObjectNotFound' $x)) }; $m }); $r = $hit
    }
    if ($Direction) { $r = @($r | Where-Object Direction -eq $Direction) }; if ($Action) { $r = @($r | Where-Object Action -eq $Action) }; if ($Enabled) { $r = @($r | Where-Object Enabled -eq $Enabled) }
    $r
}
function New-NetFirewallRule {
    [CmdletBinding(SupportsShouldProcess)] param([string]$Name, [Parameter(Mandatory)][string]$DisplayName, [string]$Description, [string]$Group, $Enabled = 'True', [string[]]$Profile = 'Any', [string]$Direction = 'Inbound', [string]$Action = 'Allow', [string[]]$LocalAddress = '*', [string[]]$RemoteAddress = '*', [string]$Protocol = 'Any', [string[]]$LocalPort, [string[]]$RemotePort, [string]$Program, [string]$Service, [string]$InterfaceType, [string]$EdgeTraversalPolicy, [string]$PolicyStore)
    if (-not (Test-LabFirewall $PSCmdlet)) { return }
    $s = Read-LabState
    if ($Name -and @($s.firewall | Where-Object { $_.Id -eq $Name })) { $PSCmdlet.WriteError((New-LabError 'Cannot create a file when that file already exists.' 'Windows System Error 183,New-NetFirewallRule' 'ResourceExists' $Name)); return }
    if (-not $PSCmdlet.ShouldProcess($DisplayName)) { return }
    $r = [LabFwRule]::new(); if ($Name) { $r.Id = $Name }; $r.Name = $DisplayName; $r.Description = $Description; $r.Grouping = $Group; Set-LabRuleProps $r $PSBoundParameters; $r.Enabled = "$Enabled" -eq 'True'; Save-FwRule $r; ConvertTo-NetRule (ConvertFrom-FwRule $r)
}
function script:Set-LabRuleProps($r, $b) {
    $any = { param($v) $x = (@($v) | ForEach-Object { if ($_ -eq 'Any') { '*' } else { $_ } }) -join ','; $x }
    switch ($b.Keys) {
        'Profile' { $r.Profiles = 0; foreach ($p in ($b.Profile -join ',') -split ',') { if ($p.Trim() -eq 'Any') { $r.Profiles = 0x7fffffff } else { $r.Profiles = $r.Profiles -bor $prof[$p.Trim()] } } }
        'Direction' { $r.Direction = @{ Inbound = 1; Outbound = 2 }[$b.Direction] } 'Action' { $r.Action = @{ Allow = 1; Block = 0 }[$b.Action] }
        'Protocol' { $r.Protocol = if ($proto.ContainsKey($b.Protocol)) { $proto[$b.Protocol] } else { [int]$b.Protocol } }
        'LocalPort' { $r.LocalPorts = & $any $b.LocalPort } 'RemotePort' { $r.RemotePorts = & $any $b.RemotePort } 'LocalAddress' { $r.LocalAddresses = & $any $b.LocalAddress } 'RemoteAddress' { $r.RemoteAddresses = & $any $b.RemoteAddress }
        'Program' { $r.ApplicationName = if ($b.Program -ne 'Any') { $b.Program } } 'Service' { $r.ServiceName = $b.Service } 'Enabled' { $r.Enabled = "$($b.Enabled)" -eq 'True' } 'Description' { $r.Description = $b.Description } 'NewDisplayName' { $r.Name = $b.NewDisplayName }
    }
}
function Set-NetFirewallRule {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string[]]$Name, [string[]]$DisplayName, [string[]]$DisplayGroup, [Parameter(ValueFromPipeline)]$InputObject, $Enabled, [string[]]$Profile, [string]$Direction, [string]$Action, [string[]]$LocalAddress, [string[]]$RemoteAddress, [string]$Protocol, [string[]]$LocalPort, [string[]]$RemotePort, [string]$Program, [string]$Service, [string]$Description, [string]$NewDisplayName, [switch]$PassThru)
    process {
        $q = @{}; foreach ($k in 'Name', 'DisplayName', 'DisplayGroup') { if ($PSBoundParameters[$k]) { $q[$k] = $PSBoundParameters[$k] } }
        $t = if ($InputObject) { $InputObject } else { Get-NetFirewallRule @q -ErrorVariable ev; }
        foreach ($x in $t) { if ($PSCmdlet.ShouldProcess($x.DisplayName)) { $r = ConvertTo-FwRule ((Read-LabState).firewall | Where-Object { $_.Id -eq $x.Name }); Set-LabRuleProps $r $PSBoundParameters; Save-FwRule $r; if ($PassThru) { ConvertTo-NetRule (ConvertFrom-FwRule $r) } } }
    }
}
function Enable-NetFirewallRule { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string[]]$Name, [string[]]$DisplayName, [string[]]$DisplayGroup, [Parameter(ValueFromPipeline)]$InputObject) process { Set-NetFirewallRule @PSBoundParameters -Enabled True } }
function Disable-NetFirewallRule { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string[]]$Name, [string[]]$DisplayName, [string[]]$DisplayGroup, [Parameter(ValueFromPipeline)]$InputObject) process { Set-NetFirewallRule @PSBoundParameters -Enabled False } }
function Remove-NetFirewallRule {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string[]]$Name, [string[]]$DisplayName, [string[]]$DisplayGroup, [Parameter(ValueFromPipeline)]$InputObject)
    process { $q = @{}; foreach ($k in 'Name', 'DisplayName', 'DisplayGroup') { if ($PSBoundParameters[$k]) { $q[$k] = $PSBoundParameters[$k] } }; foreach ($x in $(if ($InputObject) { $InputObject } else { Get-NetFirewallRule @q })) { if ($PSCmdlet.ShouldProcess($x.DisplayName)) { $s = Read-LabState; $s.firewall = @($s.firewall | Where-Object { $_.Id -ne $x.Name }); Write-LabState $s } } }
}
function Get-NetFirewallPortFilter { [CmdletBinding()] param([Parameter(ValueFromPipeline)][Alias('AssociatedNetFirewallRule')]$InputObject) process { [pscustomobject]@{ Protocol = $InputObject.Protocol; LocalPort = $InputObject.LocalPort } } }
function Get-NetFirewallAddressFilter { [CmdletBinding()] param([Parameter(ValueFromPipeline)][Alias('AssociatedNetFirewallRule')]$InputObject) process { $r = (Read-LabState).firewall | Where-Object { $_.Id -eq $InputObject.Name }; $f = { param($a) $x = @("$a" -split ',' | ForEach-Object { ($_ -replace '/255\.255\.255\.255$', '') -replace '^\*?$', 'Any' }); if ($x.Count -eq 1) { $x[0] } else { $x } }; [pscustomobject]@{ InstanceID = $InputObject.Name; LocalAddress = & $f $r.LocalAddresses; RemoteAddress = & $f $r.RemoteAddresses } } }
function Get-NetFirewallApplicationFilter { [CmdletBinding()] param([Parameter(ValueFromPipeline)][Alias('AssociatedNetFirewallRule')]$InputObject) process { [pscustomobject]@{ InstanceID = $InputObject.Name; Program = $(if ($InputObject.Program) { $InputObject.Program } else { 'Any' }) } } }
function Get-NetFirewallProfile { [CmdletBinding()] param([Parameter(Position = 0)][Alias('Profile')][string[]]$Name = @('Domain', 'Private', 'Public'), [string]$PolicyStore) if (-not (Test-LabFirewall $PSCmdlet)) { return }; $s = Read-LabState; foreach ($n in $Name) { $x = $s.fwprofile_settings; [pscustomobject]@{ Name = $n; Enabled = [Microsoft.PowerShell.Cmdletization.GeneratedTypes.NetSecurity.GpoBoolean]$(if ($s.fwprofiles["$($prof[$n])"]) { 'True' } else { 'False' }); DefaultInboundAction = $(if ($x."$n/DefaultInboundAction") { $x."$n/DefaultInboundAction" } else { 'NotConfigured' }); DefaultOutboundAction = $(if ($x."$n/DefaultOutboundAction") { $x."$n/DefaultOutboundAction" } else { 'NotConfigured' }); AllowInboundRules = $(if ($x."$n/AllowInboundRules") { $x."$n/AllowInboundRules" } else { 'NotConfigured' }); AllowLocalFirewallRules = $(if ($x."$n/AllowLocalFirewallRules") { $x."$n/AllowLocalFirewallRules" } else { 'NotConfigured' }); NotifyOnListen = 'True'; LogFileName = '%systemroot%\system32\LogFiles\Firewall\pfirewall.log' } } }
function Set-NetFirewallProfile { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][Alias('Profile')][string[]]$Name = @('Domain', 'Private', 'Public'), $Enabled, [string]$DefaultInboundAction, [string]$DefaultOutboundAction, [string]$AllowInboundRules, [string]$AllowLocalFirewallRules, [switch]$All, [Parameter(ValueFromPipeline)]$InputObject) process { if (-not (Test-LabFirewall $PSCmdlet)) { return }; if ($InputObject) { $Name = $InputObject.Name }; $s = Read-LabState; if (-not $s.fwprofile_settings) { $s.fwprofile_settings = @{} }; foreach ($n in $Name) { if ($PSCmdlet.ShouldProcess($n)) { if ($null -ne $Enabled) { $s.fwprofiles["$($prof[$n])"] = "$Enabled" -eq 'True' }; foreach ($k in 'DefaultInboundAction', 'DefaultOutboundAction', 'AllowInboundRules', 'AllowLocalFirewallRules') { if ($PSBoundParameters[$k]) { $s.fwprofile_settings["$n/$k"] = $PSBoundParameters[$k] } } } }; Write-LabState $s } }
function Get-NetConnectionProfile { [CmdletBinding()] param([string]$Name, [string]$InterfaceAlias, [int]$InterfaceIndex, [string]$NetworkCategory) $o = [pscustomobject]@{ Name = 'Network'; InterfaceAlias = @(Get-LabNics)[0].Name; InterfaceIndex = @(Get-LabNics)[0].LabIndex; NetworkCategory = (Read-LabState).netprofile; IPv4Connectivity = 'Internet'; IPv6Connectivity = 'NoTraffic' }; if (-not $NetworkCategory -or $NetworkCategory -eq $o.NetworkCategory) { $o } }
function Set-NetConnectionProfile { [CmdletBinding(SupportsShouldProcess)] param([Parameter(ValueFromPipeline)]$InputObject, [string]$Name, [string]$InterfaceAlias, [int]$InterfaceIndex, [ValidateSet('Public', 'Private')][string]$NetworkCategory, [switch]$PassThru) process { if ($PSCmdlet.ShouldProcess('Network')) { $s = Read-LabState; $s.netprofile = $NetworkCategory; Write-LabState $s } } }
function script:Get-LabNics([switch]$All) { $i = 0; foreach ($n in [Net.NetworkInformation.NetworkInterface]::GetAllNetworkInterfaces()) { $i++; if ($All -or $n.NetworkInterfaceType -ne 'Loopback') { $n | Add-Member -NotePropertyName LabIndex -NotePropertyValue $i -PassThru -Force } } }
# Hyper-V's own are named so, and are no hardware
function Get-NetAdapter { [CmdletBinding()] param([Parameter(Position = 0)][string[]]$Name = '*', [switch]$Physical) foreach ($n in Get-LabNics) { $i = $n.LabIndex; $made = $n.Name -like 'vEthernet*'; if ($Physical -and $made) { continue }; if ($Name | Where-Object { $n.Name -like $_ }) { [pscustomobject]@{ Name = $n.Name; InterfaceDescription = $n.Description; ifIndex = $i; InterfaceIndex = $i; Status = "$($n.OperationalStatus)"; Speed = [uint64][Math]::Max(0, $n.Speed); MediaConnectionState = 'Connected'; Virtual = $made; HardwareInterface = -not $made; ConnectorPresent = -not $made; MacAddress = ($n.GetPhysicalAddress().GetAddressBytes() | ForEach-Object { $_.ToString('X2') }) -join '-'; LinkSpeed = $(if ($n.Speed -ge 1e9) { "$($n.Speed / 1e9) Gbps" } else { "$($n.Speed / 1e6) Mbps" }) } } } }
function Get-NetIPAddress { [CmdletBinding()] param([Parameter(Position = 0)][string[]]$IPAddress, [string]$AddressFamily, [string[]]$InterfaceAlias, [int[]]$InterfaceIndex) foreach ($n in Get-LabNics -All) { $i = $n.LabIndex; foreach ($a in $n.GetIPProperties().UnicastAddresses) { $f = if ($a.Address.AddressFamily -eq 'InterNetwork') { 'IPv4' } else { 'IPv6' }; if (($AddressFamily -and $f -ne $AddressFamily) -or ($InterfaceAlias -and -not ($InterfaceAlias | Where-Object { $n.Name -like $_ })) -or ($InterfaceIndex -and $i -notin $InterfaceIndex) -or ($IPAddress -and "$($a.Address)" -notin $IPAddress)) { continue }; [pscustomobject]@{ IPAddress = "$($a.Address)"; InterfaceAlias = $n.Name; InterfaceIndex = $i; AddressFamily = $f; PrefixLength = $a.PrefixLength; PrefixOrigin = 'Dhcp'; AddressState = 'Preferred' } } } }
function Get-NetIPConfiguration { [CmdletBinding()] param([switch]$Detailed) foreach ($n in Get-LabNics) { [pscustomobject]@{ InterfaceAlias = $n.Name; InterfaceIndex = $n.LabIndex; NetAdapter = Get-NetAdapter -Name $n.Name; NetProfile = Get-NetConnectionProfile; IPv4Address = @(Get-NetIPAddress -AddressFamily IPv4 -InterfaceAlias $n.Name); IPv4DefaultGateway = @($n.GetIPProperties().GatewayAddresses | ForEach-Object { [pscustomobject]@{ NextHop = "$($_.Address)" } }); DNSServer = @() } } }
function script:Get-LabSocketOwner {
    # Port -> id of the first process that holds a socket of it. .NET does not tell, and to Linux all sockets are wineserver's.
    $owners = @{}
    foreach ($line in $(if ($IsWindows) { & "$env:SystemRoot\system32\winrshost.exe" sockets })) { $port, $id, $null = $line -split ' ', 3; if (-not $owners.ContainsKey([int]$port)) { $owners[[int]$port] = [int]$id } }
    $owners
}
function Get-NetTCPConnection {
    [CmdletBinding()] param([int[]]$LocalPort, [string]$State, [int[]]$RemotePort)
    $g = [Net.NetworkInformation.IPGlobalProperties]::GetIPGlobalProperties()
    $r = @($g.GetActiveTcpListeners() | ForEach-Object { [pscustomobject]@{ LocalAddress = "$($_.Address)"; LocalPort = $_.Port; RemoteAddress = '0.0.0.0'; RemotePort = 0; State = 'Listen'; OwningProcess = 0 } }) + @($g.GetActiveTcpConnections() | ForEach-Object { [pscustomobject]@{ LocalAddress = "$($_.LocalEndPoint.Address)"; LocalPort = $_.LocalEndPoint.Port; RemoteAddress = "$($_.RemoteEndPoint.Address)"; RemotePort = $_.RemoteEndPoint.Port; State = "$($_.State)"; OwningProcess = 0 } })
    $r = @($r | Where-Object { (-not $LocalPort -or $_.LocalPort -in $LocalPort) -and (-not $State -or $_.State -eq $State) -and (-not $RemotePort -or $_.RemotePort -in $RemotePort) })
    if (-not $r -and $LocalPort) { $PSCmdlet.WriteError((New-LabError "No MSFT_NetTCPConnection objects found with property 'LocalPort' equal to '$LocalPort'.  Verify the value of the property and retry." 'CmdletizationQuery_NotFound_LocalPort,Get-NetTCPConnection')); return }
    $owners = Get-LabSocketOwner
    foreach ($one in $r) { if ($owners.ContainsKey([int]$one.LocalPort)) { $one.OwningProcess = $owners[[int]$one.LocalPort] }; $one }
}
function Test-NetConnection {
    [CmdletBinding()] param([Parameter(Position = 0)][string]$ComputerName = 'localhost', [Parameter(Position = 1)][int]$Port, [string]$InformationLevel)
    $c = [Net.Sockets.TcpClient]::new(); $ok = $false; try { $ok = $c.ConnectAsync($ComputerName, $Port).Wait(5000) } catch { } finally { $c.Dispose() }
    if (-not $ok) { Write-Warning "TCP connect to ($ComputerName : $Port) failed" }
    if ($InformationLevel -eq 'Quiet') { $ok } else { [pscustomobject]@{ ComputerName = $ComputerName; RemoteAddress = $ComputerName; RemotePort = $Port; TcpTestSucceeded = $ok } }
}

# ---- WinRM: the configuration is a double, the service (service manager) and the listeners are real: see ../wsman_server.py ----
function script:ConvertFrom-WSManPath([string]$p) { ($p -replace '^.*?WSMan::?', '').Trim('\', '/') -replace '/', '\' -replace '^localhost\\?', '' }
$script:listenerParts = 'Address', 'Transport', 'Port', 'Hostname', 'Enabled', 'URLPrefix', 'CertificateThumbprint'
function script:New-WSManError($Message, $Category = 'InvalidOperation') { New-LabError $Message 'WsManError' $Category }
function Get-WSManDouble([string]$Path, [bool]$Children) {
    $s = Read-LabState; $k = ConvertFrom-WSManPath $Path; $w = $s.wsman
    $mk = { param($key, $val) [pscustomobject]@{ PSPath = "Microsoft.WSMan.Management\WSMan::localhost\$key"; PSParentPath = "Microsoft.WSMan.Management\WSMan::localhost\$($key -replace '\\?[^\\]*$', '')"; PSChildName = ($key -split '\\')[-1]; Name = ($key -split '\\')[-1]; Value = $val; Type = $(if ($null -eq $val) { 'Container' } else { 'System.String' }); PSIsContainer = $null -eq $val } }
    $listener = { param($l) $o = & $mk "Listener\$($l.Id)" $null; $o | Add-Member Keys @("Transport=$($l.Transport)", "Address=$($l.Address)"); $o }
    if ($k -eq 'Listener' -or $k -like 'Listener\*') {
        $ls = @($s.listeners | Where-Object { $_ }); $rest = ($k -split '\\', 3)
        if ($rest.Count -eq 1) { if ($Children) { foreach ($l in $ls) { & $listener $l } } else { & $mk 'Listener' $null }; return }
        foreach ($x in @($ls | Where-Object { $_.Id -like $rest[1] })) { if ($rest.Count -eq 2 -and -not $Children) { & $listener $x } else { foreach ($n in $listenerParts) { if ($rest.Count -lt 3 -or $n -like $rest[2]) { & $mk "Listener\$($x.Id)\$n" "$($x[$n])" } } } }
        return
    }
    if (-not $Children -and $w.ContainsKey($k)) { & $mk $k $w[$k]; return }
    $sub = @($w.Keys | Where-Object { $k -eq '' -or $_ -like "$k\*" } | Sort-Object)
    if (-not $Children) { if ($sub) { & $mk $k $null }; return }
    $seen = @{}; foreach ($x in $sub) { $r = if ($k) { $x.Substring($k.Length + 1) } else { $x }; $h = ($r -split '\\')[0]; if ($seen[$h]) { continue }; $seen[$h] = 1; $f = if ($k) { "$k\$h" } else { $h }; & $mk $f $(if ($w.ContainsKey($f)) { $w[$f] }) }
    if ($k -eq '') { & $mk 'Listener' $null }
}
function Set-WSManDouble([string]$Path, $Value, [bool]$Concatenate) {
    $s = Read-LabState; $k = ConvertFrom-WSManPath $Path; $v = if ($Value -is [bool]) { "$Value".ToLower() } else { "$Value" }
    if ($k -match '^Listener\\([^\\]+)\\([^\\]+)$') { foreach ($l in $s.listeners) { if ($l.Id -like $Matches[1]) { $l[@($listenerParts | Where-Object { $_ -eq $Matches[2] })[0]] = $v } } }
    else {
        if (-not $s.wsman.ContainsKey($k)) { throw "Cannot find path '$Path' because it does not exist." }
        if ($Concatenate -and $s.wsman[$k]) { $v = "$($s.wsman[$k]),$v" }; $s.wsman[$k] = $v
    }
    Write-LabState $s
}
function script:Add-LabListener([string]$Transport, [string]$Address, [hashtable]$Values) {
    if ($Transport -notin 'HTTP', 'HTTPS' -or -not $Address) { throw 'The WS-Management service cannot process the request because the selectors for the resource are not valid.' }
    $s = Read-LabState; if (@($s.listeners | Where-Object { $_ -and $_.Transport -eq $Transport -and $_.Address -eq $Address })) { throw 'The WS-Management service cannot create the resource because the resource already exists.' }
    if ($Transport -eq 'HTTPS') {
        $thumb = "$($Values.CertificateThumbprint)" -replace '\s', ''
        if (-not $thumb) { throw 'Cannot create a WinRM listener on HTTPS because this machine does not have an appropriate certificate. To be used for SSL, a certificate must have a CN matching the hostname, be appropriate for Server Authentication, and not be expired, revoked, or self-signed.' }
        $c = Get-Item -LiteralPath "Cert:\LocalMachine\My\$thumb" -ErrorAction SilentlyContinue
        if (-not $c -or -not $c.HasPrivateKey) { throw 'The WinRM client cannot process the request. The certificate thumbprint is not valid, or the certificate cannot be found in the local machine store. Verify that the thumbprint is correct.' }
        $name = ($c.Subject -replace '^.*?CN=', '') -replace ',.*$', ''
        if ($Values.Hostname -and $Values.Hostname -ne $name -and $Values.Hostname -notin @($c.DnsNameList | ForEach-Object { "$($_.Unicode)" })) { throw "The WinRM client cannot process the request. The certificate CN and the hostname that were provided do not match." }
    }
    $l = @{ Id = "Listener_$(Get-Random -Minimum 100000000 -Maximum 2000000000)"; Transport = $Transport.ToUpper(); Address = $Address; Port = $(if ($Values.Port) { "$($Values.Port)" } elseif ($Transport -eq 'HTTPS') { '5986' } else { '5985' }); Hostname = "$($Values.Hostname)"; Enabled = $(if ("$($Values.Enabled)" -eq 'false') { 'false' } else { 'true' }); URLPrefix = $(if ($Values.URLPrefix) { $Values.URLPrefix } else { 'wsman' }); CertificateThumbprint = "$thumb".ToUpper() }
    $s.listeners = @(@($s.listeners | Where-Object { $_ }) + $l); Write-LabState $s; $l
}
function New-WSManDouble([string]$Path, $Parameters, $Credential) {
    if ((ConvertFrom-WSManPath $Path) -eq 'ClientCertificate') {
        # who shows a certificate of this issuer and name is that account, by its password of now
        if (-not $Credential) { throw 'The WS-Management service cannot process the request. The user name or password was not given.' }
        $s = Read-LabState; $m = [ordered]@{ Subject = $Parameters.Subject; Issuer = $Parameters.Issuer.ToUpper(); URI = $Parameters.URI; Enabled = $Parameters.Enabled; UserName = $Credential.UserName; Password = $Credential.GetNetworkCredential().Password }
        $s.clientcertificates = @(@($s.clientcertificates | Where-Object { $_ -and ($_.Subject -ne $m.Subject -or $_.Issuer -ne $m.Issuer) }) + $m); Write-LabState $s
        [pscustomobject]@{ PSChildName = "ClientCertificate_$(Get-Random -Minimum 100000000 -Maximum 2000000000)"; Keys = "URI=$($m.URI)", "Subject=$($m.Subject)", "Issuer=$($m.Issuer)" }; return
    }
    if ((ConvertFrom-WSManPath $Path) -ne 'Listener') { throw "no double for New-Item $Path" }
    $v = @{ Hostname = $Parameters.HostName; CertificateThumbprint = $Parameters.CertificateThumbPrint; URLPrefix = $Parameters.URLPrefix; Enabled = $Parameters.Enabled }; if ($Parameters.Port) { $v.Port = $Parameters.Port }
    $l = Add-LabListener $Parameters.Transport $Parameters.Address $v; Get-WSManDouble "WSMan:\localhost\Listener\$($l.Id)" $false
}
function Remove-WSManDouble([string]$Path) { $k = ConvertFrom-WSManPath $Path; if ($k -like 'Listener\*') { $id = ($k -split '\\')[1]; $s = Read-LabState; $s.listeners = @($s.listeners | Where-Object { $_ -and $_.Id -notlike $id }); Write-LabState $s } }
# winrm/config/Listener?Address=*+Transport=HTTPS, or the same with a selector set
function script:Read-WSManUri([string]$Uri, $Selectors) {
    $h = @{}; if ($Selectors) { foreach ($k in $Selectors.Keys) { $h[$k] = $Selectors[$k] } }
    $path, $query = ($Uri -replace '^.*schemas\.microsoft\.com/wbem/wsman/1/', 'winrm/' -replace '^wsman/', 'winrm/') -split '\?', 2
    foreach ($pair in "$query" -split '\+') { if ($pair -match '^(\w+)=(.*)$') { $h[$Matches[1]] = $Matches[2] } }
    [pscustomobject]@{ Path = ($path -replace '^winrm/config/?', '').Trim('/') -replace '/', '\' -replace '^Winrs$', 'Shell'; Selectors = $h }
}
function script:Find-LabListener($u) { @((Read-LabState).listeners | Where-Object { $_ -and (-not $u.Selectors.Transport -or $_.Transport -eq $u.Selectors.Transport) -and (-not $u.Selectors.Address -or $_.Address -eq $u.Selectors.Address) }) }
function Get-WSManInstance {
    [CmdletBinding()] param([Parameter(Mandatory, Position = 0)][string]$ResourceURI, [hashtable]$SelectorSet, [switch]$Enumerate)
    $u = Read-WSManUri $ResourceURI $SelectorSet
    if ($u.Path -eq 'Listener') {
        $ls = Find-LabListener $u; if (-not $ls -and -not $Enumerate) { $PSCmdlet.WriteError((New-WSManError 'The WS-Management service cannot process the request. The service cannot find the resource identified by the resource URI and selectors.' 'ObjectNotFound')); return }
        foreach ($l in $ls) { $o = [ordered]@{}; foreach ($n in $listenerParts) { $o[$n] = "$($l[$n])" }; $o.ListeningOn = @('127.0.0.1') + @(Get-NetIPAddress -AddressFamily IPv4 | Where-Object { $_.IPAddress -ne '127.0.0.1' } | ForEach-Object { $_.IPAddress }); [pscustomobject]$o }
        return
    }
    $o = [ordered]@{}; foreach ($c in Get-WSManDouble "WSMan:\localhost\$($u.Path)" $true) { if (-not $c.PSIsContainer) { $o[$c.Name] = $c.Value } }; [pscustomobject]$o
}
function New-WSManInstance {
    [CmdletBinding()] param([Parameter(Mandatory, Position = 0)][string]$ResourceURI, [Parameter(Position = 1)][hashtable]$SelectorSet, [Parameter(Position = 2)][hashtable]$ValueSet = @{})
    $u = Read-WSManUri $ResourceURI $SelectorSet; if ($u.Path -ne 'Listener') { throw "no double for New-WSManInstance $ResourceURI" }
    try { $l = Add-LabListener $u.Selectors.Transport $u.Selectors.Address $ValueSet } catch { $PSCmdlet.ThrowTerminatingError((New-WSManError "$_")) }
    [pscustomobject]@{ Address = 'http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous'; ReferenceParameters = "Listener?Address=$($l.Address)+Transport=$($l.Transport)" }
}
function Set-WSManInstance {
    [CmdletBinding()] param([Parameter(Mandatory, Position = 0)][string]$ResourceURI, [Parameter(Position = 1)][hashtable]$SelectorSet, [hashtable]$ValueSet)
    $u = Read-WSManUri $ResourceURI $SelectorSet
    if ($u.Path -eq 'Listener') { foreach ($l in Find-LabListener $u) { foreach ($k in $ValueSet.Keys) { Set-WSManDouble "WSMan:\localhost\Listener\$($l.Id)\$k" $ValueSet[$k] $false } } }
    else { foreach ($k in $ValueSet.Keys) { Set-WSManDouble "WSMan:\localhost\$($u.Path)\$k" $ValueSet[$k] $false } }
    Get-WSManInstance $ResourceURI -SelectorSet $SelectorSet
}
function Remove-WSManInstance { [CmdletBinding()] param([Parameter(Mandatory, Position = 0)][string]$ResourceURI, [Parameter(Position = 1)][hashtable]$SelectorSet) $u = Read-WSManUri $ResourceURI $SelectorSet; $gone = @(Find-LabListener $u | ForEach-Object { $_.Id }); if (-not $gone) { $PSCmdlet.WriteError((New-WSManError 'The WS-Management service cannot process the request. The service cannot find the resource identified by the resource URI and selectors.' 'ObjectNotFound')); return }; foreach ($id in $gone) { Remove-WSManDouble "WSMan:\localhost\Listener\$id" } }
function Set-WSManQuickConfig {
    [CmdletBinding(SupportsShouldProcess)] param([switch]$Force, [switch]$SkipNetworkProfileCheck, [switch]$UseSSL)
    if (-not $SkipNetworkProfileCheck -and (Read-LabState).netprofile -eq 'Public') { $PSCmdlet.WriteError((New-WSManError 'WinRM firewall exception will not work since one of the network connection types on this machine is set to Public. Change the network connection type to either Domain or Private and try again.')); return }
    if (-not $PSCmdlet.ShouldProcess('WinRM')) { return }
    if ($IsWindows) {
        Set-Service WinRM -StartupType Automatic; Start-Service WinRM
        $key = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'; if (-not (Test-Path $key)) { $null = New-Item $key -Force }
        $null = New-ItemProperty $key -Name LocalAccountTokenFilterPolicy -Value 1 -PropertyType DWord -Force
    }
    if (-not @((Read-LabState).listeners | Where-Object { $_ -and $_.Transport -eq 'HTTP' })) { $null = Add-LabListener HTTP '*' @{} }
    Enable-NetFirewallRule -Name WINRM-HTTP-In-TCP, WINRM-HTTP-In-TCP-NoScope
}
function Enable-LabRemoting([switch]$SkipNetworkProfileCheck) {
    Set-WSManQuickConfig -Force -SkipNetworkProfileCheck:$SkipNetworkProfileCheck
    $s = Read-LabState; $s.sessions = $true; Write-LabState $s
}
function Disable-LabRemoting([switch]$SkipNetworkProfileCheck) {
    $s = Read-LabState; $s.sessions = $false; Write-LabState $s
    Write-Warning "Disabling the session configurations does not undo all the changes made by the Enable-PSRemoting or Enable-PSSessionConfiguration cmdlet. You might have to manually undo the changes by following these steps:`n    1. Stop and disable the WinRM service.`n    2. Delete the listener that accepts requests on any IP address.`n    3. Disable the firewall exceptions for WS-Management communications.`n    4. Restore the value of the LocalAccountTokenFilterPolicy to 0, which restricts remote access to members of the Administrators group on the computer."
}
function Test-WSMan {
    [CmdletBinding()] param([Parameter(Position = 0)][string]$ComputerName = 'localhost', [int]$Port, [switch]$UseSSL, $Credential, [string]$Authentication)
    $ls = @((Read-LabState).listeners | Where-Object { $_ -and $_.Enabled -ne 'false' -and $_.Transport -eq $(if ($UseSSL) { 'HTTPS' } else { 'HTTP' }) }); if ($Port) { $ls = @($ls | Where-Object Port -eq "$Port") }
    $up = -not $IsWindows -or "$((Get-Service WinRM -ErrorAction SilentlyContinue).Status)" -eq 'Running'
    if (-not $ls -or -not $up) { $PSCmdlet.WriteError((New-WSManError 'The client cannot connect to the destination specified in the request. Verify that the service on the destination is running and is accepting requests. Consult the logs and documentation for the WS-Management service running on the destination, most commonly IIS or WinRM. If the destination is the WinRM service, run the following command on the destination to analyze and configure the WinRM service: "winrm quickconfig".')); return }
    [pscustomobject]@{ wsmid = 'http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd'; ProtocolVersion = 'http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd'; ProductVendor = 'Microsoft Corporation'; ProductVersion = 'OS: 0.0.0 SP: 0.0 Stack: 3.0' }
}

# ---- session configurations: one, closed to the network until Enable-PSRemoting; local accounts: the caller, and those made here ----
# `account` in the state file overrides what Get-LocalUser says of the caller, for example {"PrincipalSource": "MicrosoftAccount"}
function Get-PSSessionConfiguration {
    [CmdletBinding()] param([Parameter(Position = 0)][string[]]$Name = '*', [switch]$Force)
    if ("$((Get-Service WinRM).Status)" -ne 'Running') { $PSCmdlet.ThrowTerminatingError((New-WSManError 'The client cannot connect to the destination specified in the request. Verify that the service on the destination is running and is accepting requests.')) }
    $deny = if ((Read-LabState).sessions) { '' } else { '(D;;GA;;;NU)' }
    [pscustomobject]@{ Name = 'microsoft.powershell'; PSVersion = '5.1'; Enabled = 'True'; SecurityDescriptorSddl = "O:NSG:BAD:P$deny(A;;GA;;;BA)(A;;GA;;;IU)(A;;GA;;;RM)S:P(AU;FA;GA;;;WD)(AU;SA;GXGW;;;WD)" } | Where-Object { $n = $_.Name; $Name | Where-Object { $n -like $_ } }
}
function Set-PSSessionConfiguration { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Mandatory, Position = 0)][string]$Name, [string]$SecurityDescriptorSddl, [switch]$Force, [switch]$NoServiceRestart) if ($PSCmdlet.ShouldProcess($Name)) { $s = Read-LabState; $s.sessions = $SecurityDescriptorSddl -notmatch ';NU\)'; Write-LabState $s } }
function Disable-PSSessionConfiguration { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string[]]$Name, [switch]$Force, [switch]$NoServiceRestart) if ($PSCmdlet.ShouldProcess("$Name")) { $s = Read-LabState; $s.sessions = $false; Write-LabState $s } }
function Unregister-PSSessionConfiguration { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Mandatory, Position = 0)][string]$Name, [switch]$Force, [switch]$NoServiceRestart) throw "no double for Unregister-PSSessionConfiguration $Name" }
function Get-LocalUser {
    [CmdletBinding(DefaultParameterSetName = 'Name')] param([Parameter(Position = 0, ParameterSetName = 'Name')][string[]]$Name = '*', [Parameter(ParameterSetName = 'SID')][Security.Principal.SecurityIdentifier[]]$SID)
    $s = Read-LabState; $me = [ordered]@{ Name = [Environment]::UserName; SID = [Security.Principal.WindowsIdentity]::GetCurrent().User.Value; Enabled = $true; PasswordRequired = $true; PasswordLastSet = '2026-01-01'; PrincipalSource = 'Local'; Description = '' }
    foreach ($k in @($s.account.Keys)) { $me[$k] = $s.account[$k] }
    $all = @($me) + @($s.users.Values) | Where-Object { $_ } | ForEach-Object { $u = [pscustomobject]$_; if ($u.PasswordLastSet) { $u.PasswordLastSet = [datetime]$u.PasswordLastSet }; $u }
    $wanted = if ($SID) { $SID | ForEach-Object { $_.Value } } else { $Name }
    foreach ($x in $wanted) {
        $hit = @($all | Where-Object { if ($SID) { "$($_.SID)" -eq $x } else { $_.Name -like $x } })
        if (-not $hit -and $x -notmatch '[*?]') { $PSCmdlet.WriteError((New-LabError "User $x was not found." 'UserNotFound,Microsoft.PowerShell.Commands.GetLocalUserCommand' 'ObjectNotFound' $x)) }
        $hit
    }
}
function New-LocalUser {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(Mandatory, Position = 0)][string]$Name, [Parameter(Mandatory)][securestring]$Password, [string]$Description, [string]$FullName, [switch]$AccountNeverExpires, [switch]$PasswordNeverExpires, [switch]$UserMayNotChangePassword)
    if (Get-LocalUser -Name $Name -ErrorAction SilentlyContinue) { $PSCmdlet.WriteError((New-LabError "User $Name already exists." 'UserExists,Microsoft.PowerShell.Commands.NewLocalUserCommand' 'ResourceExists' $Name)); return }
    if (-not $PSCmdlet.ShouldProcess($Name)) { return }
    $s = Read-LabState; $s.users[$Name] = @{ Name = $Name; SID = "S-1-5-21-0-0-0-$(1100 + $s.users.Count)"; Enabled = $true; PasswordRequired = $true; PasswordLastSet = (Get-Date).ToString('s'); PrincipalSource = 'Local'; Description = $Description }; Write-LabState $s
    Get-LocalUser -Name $Name
}
function Remove-LocalUser { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Mandatory, Position = 0)][string]$Name) if (-not (Get-LocalUser -Name $Name)) { return }; if ($PSCmdlet.ShouldProcess($Name)) { $s = Read-LabState; $null = $s.users.Remove($Name); $s.administrators = @($s.administrators | Where-Object { $_ -ne $Name }); Write-LabState $s } }
function Get-LocalGroupMember { [CmdletBinding()] param([string]$Group, [Security.Principal.SecurityIdentifier]$SID, [string]$Member) if ($SID.Value -ne 'S-1-5-32-544') { throw "no double for the group $Group $SID" }; foreach ($n in @([Environment]::UserName) + @((Read-LabState).administrators | Where-Object { $_ })) { [pscustomobject]@{ ObjectClass = 'User'; Name = "$([Environment]::MachineName)\$n"; PrincipalSource = 'Local'; SID = (Get-LocalUser -Name $n).SID } } }
function Add-LocalGroupMember { [CmdletBinding(SupportsShouldProcess)] param([string]$Group, [Security.Principal.SecurityIdentifier]$SID, [Parameter(Mandatory)][string[]]$Member) foreach ($m in $Member) { if (@(Get-LocalGroupMember -SID $SID | Where-Object { $_.Name -like "*\$m" })) { $PSCmdlet.WriteError((New-LabError "$m is already a member of group Administrators." 'MemberExists,Microsoft.PowerShell.Commands.AddLocalGroupMemberCommand' 'ResourceExists' $m)); continue }; if ($PSCmdlet.ShouldProcess($m)) { $s = Read-LabState; $s.administrators = @(@($s.administrators | Where-Object { $_ }) + $m); Write-LabState $s } } }
function Remove-LocalGroupMember { [CmdletBinding(SupportsShouldProcess)] param([string]$Group, [Security.Principal.SecurityIdentifier]$SID, [Parameter(Mandatory)][string[]]$Member) if ($PSCmdlet.ShouldProcess("$Member")) { $s = Read-LabState; $s.administrators = @($s.administrators | Where-Object { $_ -notin $Member }); Write-LabState $s } }

# ---- certificates: real ones, kept as PEM files under C:\lab\certs; the Cert: drive shows them (Security.cs) ----
function script:Resolve-CertStore([string]$Location) { $w = [LabSecurity.Certificates]::Split($Location); if ($w.Count -ne 2) { throw "Cannot find path '$Location' because it does not exist." }; "$($w[0])\$($w[1])" }
function New-SelfSignedCertificate {
    [CmdletBinding(SupportsShouldProcess)] param([string[]]$DnsName = @(), [string]$Subject, [string]$CertStoreLocation = 'Cert:\LocalMachine\My', [datetime]$NotBefore = (Get-Date).AddMinutes(-10), [datetime]$NotAfter = (Get-Date).AddYears(1), [string]$FriendlyName, [string]$KeyAlgorithm = 'RSA', [int]$KeyLength = 2048, [string]$HashAlgorithm = 'SHA256', [string]$KeyExportPolicy, [string[]]$KeyUsage, [string]$KeyUsageProperty, [string]$KeySpec, [string]$Provider, [string]$Type, [string[]]$TextExtension = @())
    if ($KeyAlgorithm -ne 'RSA') { throw "no double for KeyAlgorithm $KeyAlgorithm" }
    $dns = @($DnsName); $ip = @()
    foreach ($x in $TextExtension) { if ($x -match '^2\.5\.29\.17=\{text\}(.*)$') { foreach ($n in $Matches[1] -split '&') { $k, $v = $n -split '=', 2; if ($k -eq 'DNS') { $dns += $v } elseif ($k -in 'IPAddress', 'IP') { $ip += $v } } } }
    if (-not $Subject) { $Subject = "CN=$($dns[0])" } elseif ($Subject -notmatch '=') { $Subject = "CN=$Subject" }
    if ($PSCmdlet.ShouldProcess($Subject)) { [LabSecurity.Certificates]::Make((Resolve-CertStore $CertStoreLocation), $Subject, @($dns | Where-Object { $_ }), $ip, $NotBefore, $NotAfter, $FriendlyName, $KeyLength) }
}
function Export-Certificate {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(Mandatory, ValueFromPipeline)]$Cert, [Parameter(Mandatory, Position = 0)][string]$FilePath, [string]$Type = 'CERT', [switch]$Force, [switch]$NoClobber)
    process { if ($Cert -is [string]) { $Cert = Get-Item $Cert }; if ($PSCmdlet.ShouldProcess($FilePath)) { $f = $PSCmdlet.GetUnresolvedProviderPathFromPSPath($FilePath); [IO.File]::WriteAllBytes($f, $Cert.RawData); Get-Item -LiteralPath $f } }
}
function Import-Certificate {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(Mandatory, Position = 0)][string]$FilePath, [string]$CertStoreLocation = 'Cert:\LocalMachine\My')
    $f = $PSCmdlet.GetUnresolvedProviderPathFromPSPath($FilePath); if ($PSCmdlet.ShouldProcess($f)) { [LabSecurity.Certificates]::Add((Resolve-CertStore $CertStoreLocation), [Security.Cryptography.X509Certificates.X509CertificateLoader]::LoadCertificateFromFile($f), $null, '') }
}

# ---- WMI ----
# the WinRM server touches C:\lab\booted when it starts the PC
function script:Get-LabBoot { $f = [IO.Path]::Combine([IO.Path]::GetDirectoryName((Get-LabStatePath)), 'booted'); if ([IO.File]::Exists($f)) { [IO.File]::GetLastWriteTime($f) } else { (Get-Date).AddMilliseconds(-[Environment]::TickCount64) } }
function Get-CimInstance {
    [CmdletBinding()] param([Parameter(Position = 0)][Alias('Class')][string]$ClassName, [string]$Namespace, [string]$Filter, [string]$Query, [string[]]$Property, [string]$ComputerName, $CimSession, [Parameter(ValueFromPipeline)]$InputObject)
    if ($Query -match '(?i)select\s+.+\s+from\s+(\w+)(?:\s+where\s+(.+))?') { $ClassName = $Matches[1]; $Filter = $Matches[2] }
    if ($Namespace -match '^root[/\\]SecurityCenter2$') {
        # `firewalls` in the state file are the names of those that registered; Windows' own is none of them. A Server (`server`) has no such namespace
        $s = Read-LabState; $id = 'Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstanceCommand'
        if ($s.server) { $PSCmdlet.WriteError((New-LabError 'Invalid namespace ' "HRESULT 0x8004100e,$id" 'MetadataError' $Namespace)); return }
        if ($ClassName -ne 'FirewallProduct') { $PSCmdlet.WriteError((New-LabError 'Invalid class ' "HRESULT 0x80041010,$id" 'MetadataError' $ClassName)); return }
        foreach ($x in $s.firewalls | Where-Object { $_ }) { $o = [pscustomobject]@{ displayName = $x; instanceGuid = "{$([guid]::NewGuid())}"; pathToSignedProductExe = 'C:\other\firewall.exe'; pathToSignedReportingExe = 'C:\other\firewall.exe'; productState = [uint32]266240; timestamp = 'Sun, 29 Nov 2026 00:00:00 GMT' }; $o.PSObject.TypeNames.Insert(0, "Microsoft.Management.Infrastructure.CimInstance#root/SecurityCenter2/$ClassName"); $o }
        return
    }
    $boot = Get-LabBoot; $mem = [GC]::GetGCMemoryInfo().TotalAvailableMemoryBytes; $v = [Environment]::OSVersion.Version
    $r = switch ($ClassName) {
        'Win32_OperatingSystem' { [pscustomobject]@{ Caption = 'Microsoft Windows 11 Pro'; Version = "$($v.Major).$($v.Minor).$($v.Build)"; BuildNumber = "$($v.Build)"; OSArchitecture = '64-bit'; ProductType = [uint32]1; OperatingSystemSKU = [uint32]48; CSName = [Environment]::MachineName; LastBootUpTime = $boot; InstallDate = $boot; LocalDateTime = Get-Date; TotalVisibleMemorySize = [uint64]($mem / 1KB); FreePhysicalMemory = [uint64]($mem / 2KB); SystemDirectory = 'C:\windows\system32'; WindowsDirectory = 'C:\windows'; SystemDrive = 'C:'; Name = 'Microsoft Windows 11 Pro'; Description = ''; Locale = '{0:x4}' -f [Globalization.CultureInfo]::CurrentCulture.LCID; OSLanguage = [uint32][Globalization.CultureInfo]::InstalledUICulture.LCID; MUILanguages = @([Globalization.CultureInfo]::InstalledUICulture.Name); NumberOfProcesses = 10; SerialNumber = '00330-80000-00000-AA000'; Status = 'OK'; RegisteredUser = 'lab'; Organization = '' } }
        'Win32_ComputerSystem' { [pscustomobject]@{ Name = [Environment]::MachineName; DNSHostName = [Environment]::MachineName; Domain = 'WORKGROUP'; PartOfDomain = $false; DomainRole = [uint16]0; Workgroup = 'WORKGROUP'; Manufacturer = 'Lab'; Model = 'Double'; SystemType = 'x64-based PC'; TotalPhysicalMemory = [uint64]$mem; NumberOfProcessors = [uint32]1; NumberOfLogicalProcessors = [uint32][Environment]::ProcessorCount; UserName = [Environment]::UserName; PrimaryOwnerName = 'lab'; PrimaryOwnerContact = ''; PCSystemType = [uint16]1; AutomaticManagedPagefile = $true; HypervisorPresent = $true } }
        'Win32_Processor' { [pscustomobject]@{ Name = 'Lab CPU'; Manufacturer = 'GenuineIntel'; NumberOfCores = [uint32][Environment]::ProcessorCount; NumberOfLogicalProcessors = [uint32][Environment]::ProcessorCount; MaxClockSpeed = [uint32]2000; Architecture = [uint16]9; DeviceID = 'CPU0'; SocketDesignation = 'S0'; AddressWidth = 64 } }
        'Win32_VideoController' { [pscustomobject]@{ Name = 'Lab Display'; DriverVersion = '1.0'; AdapterRAM = [uint32]1073741824; PNPDeviceID = 'LAB\0'; VideoProcessor = 'Lab' } }
        'Win32_LogicalDisk' { foreach ($d in [IO.DriveInfo]::GetDrives()) { try { if ($d.DriveType -eq 'Fixed') { [pscustomobject]@{ DeviceID = $d.Name.TrimEnd('\'); DriveType = [uint32]3; Size = [uint64]$d.TotalSize; FreeSpace = [uint64]$d.AvailableFreeSpace; FileSystem = 'NTFS'; VolumeName = '' } } } catch { } }; $m = (Read-LabState).drives; if ($m) { foreach ($k in $m.Keys) { [pscustomobject]@{ DeviceID = $k; DriveType = [uint32]4; ProviderName = $m[$k]; FileSystem = 'NTFS' } } } } # mapped drives, as `net use` makes them
        'Win32_PowerPlan' { $p = (Read-LabState).power; foreach ($k in $p.schemes.Keys) { [pscustomobject]@{ InstanceID = "Microsoft:PowerPlan\{$k}"; ElementName = $p.schemes[$k]; IsActive = $k -eq $p.active } } }
        'Win32_NetworkAdapterConfiguration' { foreach ($n in Get-LabNics) { $i = $n.LabIndex; $ip = $n.GetIPProperties(); [pscustomobject]@{ Index = $i; InterfaceIndex = $i; Description = $n.Description; IPEnabled = $true; IPAddress = @($ip.UnicastAddresses | ForEach-Object { "$($_.Address)" }); MACAddress = ($n.GetPhysicalAddress().GetAddressBytes() | ForEach-Object { $_.ToString('X2') }) -join ':'; DefaultIPGateway = @($ip.GatewayAddresses | ForEach-Object { "$($_.Address)" }); DNSDomain = $null; DNSServerSearchOrder = @(); DHCPEnabled = $true; SettingID = $n.Id } } }
        'Win32_NetworkAdapter' { foreach ($n in Get-LabNics) { $i = $n.LabIndex; [pscustomobject]@{ Speed = [uint64][Math]::Max(0, $n.Speed); NetEnabled = $true; Index = $i; InterfaceIndex = $i; Name = $n.Description; NetConnectionID = $n.Name; NetConnectionStatus = 2; MACAddress = ''; PhysicalAdapter = $true } } }
        'Win32_Bios' { [pscustomobject]@{ SerialNumber = 'LAB0001'; SMBIOSBIOSVersion = '1.0'; ReleaseDate = [datetime]'2020-01-01'; Manufacturer = 'Lab'; Version = 'LAB - 1' } }
        'Win32_PhysicalMemory' { [pscustomobject]@{ Capacity = [uint64]$mem; Speed = [uint32]3200; BankLabel = 'BANK 0'; DeviceLocator = 'DIMM 0'; Manufacturer = 'Lab' } }
        'Win32_DiskDrive' { [pscustomobject]@{ Index = [uint32]0; DeviceID = '\\.\PHYSICALDRIVE0'; Model = 'Lab Disk'; Size = [uint64]([IO.DriveInfo]::GetDrives() | Where-Object DriveType -eq 'Fixed' | Select-Object -First 1).TotalSize; MediaType = 'Fixed hard disk media'; InterfaceType = 'SCSI'; Status = 'OK' } }
        'Win32_TimeZone' { $z = [TimeZoneInfo]::Local; [pscustomobject]@{ StandardName = $z.StandardName; Caption = $z.DisplayName; Bias = [int]$z.BaseUtcOffset.TotalMinutes } }
        'Win32_ComputerSystemProduct' { [pscustomobject]@{ Name = 'Double'; Vendor = 'Lab'; Version = '1'; UUID = '00000000-0000-4000-8000-000000000001'; IdentifyingNumber = 'LAB0001' } }
        'Win32_UserAccount' { [pscustomobject]@{ Name = [Environment]::UserName; Domain = [Environment]::MachineName; LocalAccount = $true; Disabled = $false } }
        'Win32_Battery' { foreach ($name in (Read-LabState).batteries | Where-Object { $_ }) { [pscustomobject]@{ Name = $name; BatteryStatus = [uint16]2; EstimatedChargeRemaining = [uint16]100 } } }
        'Win32_Product' { } 'Win32_QuickFixEngineering' { } 'Win32_UserProfile' { } 'Win32_PageFileSetting' { } 'Win32_PageFileUsage' { }
        'Win32_Service' { foreach ($x in Get-Service) { [pscustomobject]@{ Name = $x.ServiceName; DisplayName = $x.DisplayName; State = "$($x.Status)"; StartMode = "$($x.StartType)"; ProcessId = 0 } } }
        'Win32_Process' { foreach ($x in Get-Process) { [pscustomobject]@{ ProcessId = $x.Id; Name = "$($x.ProcessName).exe"; CommandLine = $x.ProcessName; ParentProcessId = 0 } } }
        default { $PSCmdlet.WriteError((New-LabError 'Invalid class ' 'HRESULT 0x80041010,Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstanceCommand' 'MetadataError' $ClassName)); return }
    }
    if ($Filter) { $e = $Filter -replace '(?<![<>!])=', ' -eq ' -replace '<>|!=', ' -ne ' -replace '(?i)\bLIKE\b', '-like' -replace '(?i)\band\b', '-and' -replace '(?i)\bor\b', '-or' -replace '%', '*' -replace '(?i)\btrue\b', '1' -replace '(?i)\bfalse\b', '0' -replace '\b([A-Za-z]\w+)(?=\s*-(eq|ne|like|gt|lt))', '$$_.$1'; $r = $r | Where-Object ([scriptblock]::Create($e)) }
    foreach ($o in $r) { $o.PSObject.TypeNames.Insert(0, "Microsoft.Management.Infrastructure.CimInstance#root/cimv2/$ClassName"); $o }
}
function Get-WmiObject { [CmdletBinding()] param([Parameter(Position = 0)][string]$Class, [string]$Namespace, [string]$Filter, [string]$Query, [string[]]$Property, [string]$ComputerName) $null = $PSBoundParameters.Remove('Class'); if ($Class) { $PSBoundParameters.ClassName = $Class }; Get-CimInstance @PSBoundParameters }
function New-CimInstance { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string]$ClassName, [hashtable]$Property = @{}, [string]$Namespace, [switch]$ClientOnly) if (-not $ClientOnly) { throw "no double for New-CimInstance $ClassName without -ClientOnly" }; $o = [pscustomobject]$Property; $o.PSObject.TypeNames.Insert(0, "Microsoft.Management.Infrastructure.CimInstance#root/cimv2/$ClassName"); $o }
function Invoke-CimMethod {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(ValueFromPipeline)]$InputObject, [string]$ClassName, [string]$Namespace, [string]$Query, [Parameter(Position = 1)][Alias('Name')][string]$MethodName, [hashtable]$Arguments)
    process {
        if ($MethodName -eq 'Activate' -and $InputObject.InstanceID -match '\{(.+)\}') { $s = Read-LabState; $s.power.active = $Matches[1]; Write-LabState $s; return [pscustomobject]@{ ReturnValue = [uint32]0 } }
        # a process that WMI starts belongs to no shell: Ansible's async lives by it
        if ($ClassName -eq 'Win32_Process' -and $MethodName -eq 'Create') { return [pscustomobject]@{ ReturnValue = [uint32]0; ProcessId = [uint32][LabRemoting.Apart]::Run($Arguments.CommandLine, $Arguments.CurrentDirectory, $true, [uint32]$Arguments.ProcessStartupInformation.CreateFlags) } }
        throw "no double for CIM method $MethodName"
    }
}
function Get-ComputerInfo { [CmdletBinding()] param([Parameter(Position = 0)][string[]]$Property) $o = Get-CimInstance Win32_OperatingSystem; $c = Get-CimInstance Win32_ComputerSystem; [pscustomobject]@{ WindowsProductName = $o.Caption; OsName = $o.Caption; OsVersion = $o.Version; OsBuildNumber = $o.BuildNumber; OsArchitecture = $o.OSArchitecture; CsName = $c.Name; CsTotalPhysicalMemory = $c.TotalPhysicalMemory; CsManufacturer = $c.Manufacturer; CsModel = $c.Model } }

# ---- scheduled tasks ----
function New-ScheduledTaskAction { [CmdletBinding()] param([Parameter(Mandatory, Position = 0)][string]$Execute, [Parameter(Position = 1)][string]$Argument, [string]$WorkingDirectory, [string]$Id) [pscustomobject]@{ Execute = $Execute; Arguments = $Argument; WorkingDirectory = $WorkingDirectory } }
function New-ScheduledTaskTrigger { [CmdletBinding()] param([switch]$AtLogOn, [switch]$AtStartup, [switch]$Once, [switch]$Daily, [switch]$Weekly, [datetime]$At, [string]$User, [timespan]$RandomDelay, [timespan]$RepetitionInterval, [timespan]$RepetitionDuration, [string[]]$DaysOfWeek, [int]$DaysInterval, [int]$WeeksInterval) $k = @('AtLogOn', 'AtStartup', 'Once', 'Daily', 'Weekly' | Where-Object { $PSBoundParameters[$_] })[0]; [pscustomobject]@{ Kind = $k; StartBoundary = $(if ($At) { $At.ToString('s') }); UserId = $User; Enabled = $true; Delay = $null; RepetitionInterval = "$RepetitionInterval" } }
function New-ScheduledTaskPrincipal { [CmdletBinding()] param([Parameter(Position = 0)][string]$UserId, [string]$GroupId, [string]$LogonType, [string]$RunLevel = 'Limited') [pscustomobject]@{ UserId = $UserId; GroupId = $GroupId; LogonType = $LogonType; RunLevel = $RunLevel } }
function New-ScheduledTaskSettingsSet { [CmdletBinding()] param([switch]$AllowStartIfOnBatteries, [switch]$DontStopIfGoingOnBatteries, [switch]$StartWhenAvailable, [switch]$Hidden, [switch]$DontStopOnIdleEnd, [switch]$WakeToRun, [switch]$RunOnlyIfNetworkAvailable, [switch]$Disable, [timespan]$ExecutionTimeLimit = '3.00:00:00', [timespan]$RestartInterval, [int]$RestartCount, [string]$MultipleInstances = 'IgnoreNew', [int]$Priority = 7, [string]$Compatibility) [pscustomobject]@{ Enabled = -not $Disable; ExecutionTimeLimit = [Xml.XmlConvert]::ToString($ExecutionTimeLimit); MultipleInstances = $MultipleInstances; RestartCount = $RestartCount; RestartInterval = "$RestartInterval"; StartWhenAvailable = [bool]$StartWhenAvailable; Hidden = [bool]$Hidden; Priority = $Priority; DisallowStartIfOnBatteries = -not $AllowStartIfOnBatteries; StopIfGoingOnBatteries = -not $DontStopIfGoingOnBatteries } }
function New-ScheduledTask { [CmdletBinding()] param($Action, $Trigger, $Principal, $Settings, [string]$Description) [pscustomobject]@{ Actions = @($Action); Triggers = @($Trigger); Principal = $Principal; Settings = $Settings; Description = $Description } }
function script:Get-TaskDir { $d = [IO.Path]::Combine([IO.Path]::GetDirectoryName((Get-LabStatePath)), 'tasks'); $null = [IO.Directory]::CreateDirectory($d); $d }
function script:Get-TaskProc($t) { if (-not $t.RunPid) { return }; $p = $null; try { $p = [Diagnostics.Process]::GetProcessById([int]$t.RunPid) } catch { return }; try { if ($t.RunStart -and [Math]::Abs(($p.StartTime.ToUniversalTime() - [datetime]::Parse($t.RunStart, $null, 'RoundtripKind').ToUniversalTime()).TotalSeconds) -gt 5) { return } } catch { }; $p }
function script:Get-TaskResult($t) { if (Get-TaskProc $t) { return [uint32]267009 }; $f = "$($t.RcFile)"; if ($f -and [IO.File]::Exists($f)) { $x = ([IO.File]::ReadAllText($f)).Trim(); if ($x -ne '') { return [BitConverter]::ToUInt32([BitConverter]::GetBytes([int]$x), 0) } }; if ($t.RunPid) { return [uint32]267014 }; [uint32]267011 }
function script:ConvertTo-Task($key, $t) {
    $st = if ($t.Settings -and $t.Settings.Enabled -eq $false) { 'Disabled' } elseif (Get-TaskProc $t) { 'Running' } else { 'Ready' }
    $o = { param($h) if ($h) { [pscustomobject]$h } }
    [pscustomobject]@{ PSTypeName = 'Microsoft.Management.Infrastructure.CimInstance#Root/Microsoft/Windows/TaskScheduler/MSFT_ScheduledTask'; TaskName = $t.TaskName; TaskPath = $t.TaskPath; URI = $key; State = $st; Description = $t.Description; Author = $t.Author; Actions = @($t.Actions | ForEach-Object { & $o $_ }); Triggers = @($t.Triggers | ForEach-Object { & $o $_ }); Principal = & $o $t.Principal; Settings = & $o $t.Settings }
}
function Register-ScheduledTask {
    [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string]$TaskName, [Parameter(Position = 1)][string]$TaskPath = '\', $Action, $Trigger, $Principal, $Settings, [string]$User, [string]$Password, [string]$RunLevel, [string]$Description, [Parameter(ValueFromPipeline)]$InputObject, [string]$Xml, [switch]$Force)
    process {
        if ($TaskName -match '^(\\.*\\)([^\\]+)$') { $TaskPath = $Matches[1]; $TaskName = $Matches[2] }; $TaskPath = '\' + $TaskPath.Trim('\') + '\'; if ($TaskPath -eq '\\') { $TaskPath = '\' }
        $key = "$TaskPath$TaskName"; $s = Read-LabState
        if ($s.tasks.ContainsKey($key) -and -not $Force) { $PSCmdlet.WriteError((New-LabError 'Cannot create a file when that file already exists.' 'HRESULT 0x800700b7,Register-ScheduledTask' 'ResourceExists' 'PS_ScheduledTask')); return }
        if (-not $PSCmdlet.ShouldProcess($key)) { return }
        if ($InputObject) { $Action = $InputObject.Actions; $Trigger = $InputObject.Triggers; $Principal = $InputObject.Principal; $Settings = $InputObject.Settings; $Description = $InputObject.Description }
        if ($User) { $Principal = New-ScheduledTaskPrincipal -UserId $User -RunLevel $(if ($RunLevel) { $RunLevel } else { 'Limited' }) -LogonType $(if ($Password) { 'Password' } else { 'Interactive' }) }
        if (-not $Principal) { $Principal = New-ScheduledTaskPrincipal -UserId ([Environment]::UserName) -LogonType Interactive }; if (-not $Settings) { $Settings = New-ScheduledTaskSettingsSet }
        $old = $s.tasks[$key]; $t = @{ TaskName = $TaskName; TaskPath = $TaskPath; Description = $Description; Author = [Environment]::UserName; Actions = @($Action); Triggers = @($Trigger | Where-Object { $_ }); Principal = $Principal; Settings = $Settings }
        if ($old) { foreach ($k in 'RunPid', 'RunStart', 'RcFile', 'LastRun') { if ($old[$k]) { $t[$k] = $old[$k] } } }
        $s.tasks[$key] = $t; Write-LabState $s; ConvertTo-Task $key (Read-LabState).tasks[$key]
    }
}
function Set-ScheduledTask { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string]$TaskName, [Parameter(Position = 1)][string]$TaskPath = '\', $Action, $Trigger, $Principal, $Settings, [string]$User, [string]$Password, [Parameter(ValueFromPipeline)]$InputObject) process { if ($InputObject) { Register-ScheduledTask -TaskName $InputObject.TaskName -TaskPath $InputObject.TaskPath -InputObject $InputObject -Force } else { $t = Get-ScheduledTask -TaskName $TaskName -TaskPath $TaskPath -ErrorAction Stop; if ($Action) { $t.Actions = @($Action) }; if ($Trigger) { $t.Triggers = @($Trigger) }; if ($Principal) { $t.Principal = $Principal }; if ($Settings) { $t.Settings = $Settings }; Register-ScheduledTask -TaskName $t.TaskName -TaskPath $t.TaskPath -InputObject $t -Force } } }
function Get-ScheduledTask {
    [CmdletBinding()] param([Parameter(Position = 0, ValueFromPipelineByPropertyName)][string[]]$TaskName, [Parameter(Position = 1, ValueFromPipelineByPropertyName)][string[]]$TaskPath)
    process {
        $s = Read-LabState; $hit = @(foreach ($k in @($s.tasks.Keys | Sort-Object)) { $t = $s.tasks[$k]; if ((-not $TaskName -or ($TaskName | Where-Object { $t.TaskName -like $_.TrimStart('\') -or $k -like $_ })) -and (-not $TaskPath -or ($TaskPath | Where-Object { $t.TaskPath -like $_ }))) { ConvertTo-Task $k $t } })
        if (-not $hit -and $TaskName -and "$TaskName" -notmatch '[*?]') { $PSCmdlet.WriteError((New-LabError "No MSFT_ScheduledTask objects found with property 'TaskName' equal to '$TaskName'.  Verify the value of the property and retry." 'CmdletizationQuery_NotFound_TaskName,Get-ScheduledTask' 'ObjectNotFound' "$TaskName")); return }
        $hit
    }
}
function script:Resolve-Task($TaskName, $TaskPath, $InputObject, $c) { if ($InputObject) { $InputObject; return }; $q = @{ TaskName = $TaskName }; if ($TaskPath) { $q.TaskPath = $TaskPath }; $t = Get-ScheduledTask @q -ErrorAction SilentlyContinue; if (-not $t) { $c.WriteError((New-LabError 'The system cannot find the file specified.' "HRESULT 0x80070002,$($c.MyInvocation.MyCommand.Name)" 'ObjectNotFound' 'PS_ScheduledTask')) }; $t }
function Start-ScheduledTask {
    [CmdletBinding()] param([Parameter(Position = 0)][string]$TaskName, [Parameter(Position = 1)][string]$TaskPath, [Parameter(ValueFromPipeline)]$InputObject)
    process {
        foreach ($t in Resolve-Task $TaskName $TaskPath $InputObject $PSCmdlet) {
            if ($t.State -eq 'Running' -and $t.Settings.MultipleInstances -ne 'Parallel') { continue }
            # a file tasks\NAME.refused holds the result (a signed number) with which Windows would not start that task
            $no = [IO.Path]::Combine((Get-TaskDir), "$($t.TaskName).refused")
            if ([IO.File]::Exists($no)) { $s = Read-LabState; $x = $s.tasks[$t.URI]; $x.RunPid = $null; $x.RcFile = $no; Write-LabState $s; continue }
            $a = $t.Actions[0]; $id = [guid]::NewGuid().ToString('n'); $d = Get-TaskDir; $rc = [IO.Path]::Combine($d, "$id.rc"); $wd = if ($a.WorkingDirectory) { [Environment]::ExpandEnvironmentVariables($a.WorkingDirectory) } elseif ($IsWindows) { 'C:\windows\system32' } else { '/' }
            $exe = [Environment]::ExpandEnvironmentVariables($a.Execute).Trim('"'); $arg = [Environment]::ExpandEnvironmentVariables("$($a.Arguments)")
            # the double's task engine is this same program: it runs the action with null handles and writes the exit code
            $spec = [IO.Path]::Combine($d, "$id.json"); [IO.File]::WriteAllText($spec, (ConvertTo-Json @{ exe = $exe; arg = $arg; wd = $wd; rc = $rc }))
            $p = [LabRemoting.Apart]::StartTask($spec)
            $s = Read-LabState; $x = $s.tasks[$t.URI]; $x.RunPid = $p.Id; $x.RunStart = $p.StartTime.ToUniversalTime().ToString('o'); $x.RcFile = $rc; $x.LastRun = (Get-Date).ToString('o'); Write-LabState $s
        }
    }
}
function Stop-ScheduledTask {
    [CmdletBinding()] param([Parameter(Position = 0)][string]$TaskName, [Parameter(Position = 1)][string]$TaskPath, [Parameter(ValueFromPipeline)]$InputObject)
    process { foreach ($t in Resolve-Task $TaskName $TaskPath $InputObject $PSCmdlet) { $x = (Read-LabState).tasks[$t.URI]; $p = Get-TaskProc $x; if ($p) { [LabPwsh.Detached]::KillTree($p.Id); $null = $p.WaitForExit(5000) } } }
}
function Unregister-ScheduledTask { [CmdletBinding(SupportsShouldProcess)] param([Parameter(Position = 0)][string]$TaskName, [Parameter(Position = 1)][string]$TaskPath, [Parameter(ValueFromPipeline)]$InputObject) process { $t0 = if ($InputObject) { $InputObject } else { $q = @{ TaskName = $TaskName }; if ($TaskPath) { $q.TaskPath = $TaskPath }; Get-ScheduledTask @q }; foreach ($t in $t0) { if ($PSCmdlet.ShouldProcess($t.URI)) { $s = Read-LabState; $null = $s.tasks.Remove($t.URI); Write-LabState $s } } } }
function Enable-ScheduledTask { [CmdletBinding()] param([Parameter(Position = 0)][string]$TaskName, [string]$TaskPath, [Parameter(ValueFromPipeline)]$InputObject) process { foreach ($t in Resolve-Task $TaskName $TaskPath $InputObject $PSCmdlet) { $s = Read-LabState; $s.tasks[$t.URI].Settings.Enabled = $true; Write-LabState $s; Get-ScheduledTask $t.URI } } }
function Disable-ScheduledTask { [CmdletBinding()] param([Parameter(Position = 0)][string]$TaskName, [string]$TaskPath, [Parameter(ValueFromPipeline)]$InputObject) process { foreach ($t in Resolve-Task $TaskName $TaskPath $InputObject $PSCmdlet) { $s = Read-LabState; $s.tasks[$t.URI].Settings.Enabled = $false; Write-LabState $s; Get-ScheduledTask $t.URI } } }
function Get-ScheduledTaskInfo { [CmdletBinding()] param([Parameter(Position = 0, ValueFromPipelineByPropertyName)][string]$TaskName, [Parameter(Position = 1)][string]$TaskPath, [Parameter(ValueFromPipeline)]$InputObject) process { foreach ($t in Resolve-Task $TaskName $TaskPath $(if ($InputObject -isnot [string]) { $InputObject }) $PSCmdlet) { $x = (Read-LabState).tasks[$t.URI]; [pscustomobject]@{ TaskName = $t.TaskName; TaskPath = $t.TaskPath; LastRunTime = $(if ($x.LastRun) { [datetime]$x.LastRun } else { [datetime]'1999-11-30' }); LastTaskResult = Get-TaskResult $x; NextRunTime = $null; NumberOfMissedRuns = 0 } } } }

# ---- programs: a copy of powershell.exe named NAME.exe calls this; it prints, and returns the exit code ----
function Invoke-LabProgram([string]$Name, [string[]]$Arguments) {
    $program = "Invoke-Lab_$Name"
    if (-not (Get-Command $program -ErrorAction SilentlyContinue)) { [Console]::Error.WriteLine("no double for $Name"); return 127 }
    & $program $Arguments
}
function script:Resolve-LabScheme($State, [string]$Scheme) {
    $id = switch ($Scheme) { 'SCHEME_CURRENT' { $State.power.active } 'SCHEME_MIN' { '8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c' } 'SCHEME_BALANCED' { '381b4222-f694-41f0-9685-ff5bb260df2e' } 'SCHEME_MAX' { 'a1841308-3541-4fab-bc81-f71556f20b4a' } default { $Scheme } }
    if ($State.power.schemes.Contains($id)) { $id }
}
# subgroup, setting, value on mains, on battery: what a new Windows has, all of them seconds or indexes
$script:powerDefaults = @(
    @('0012ee47-9041-4b5d-9b77-535fba8b1442', '6738e2c4-e8a5-4a42-b16a-e040e769756e', 1200, 600), @('238c9fa8-0aad-41ed-83f4-97be242c8f20', '29f6c1db-86da-48c5-9fdb-f2b67b1f44da', 1800, 900),
    @('238c9fa8-0aad-41ed-83f4-97be242c8f20', '7bc4a2f9-d8fc-4469-b07b-33eb785aaca0', 120, 120), @('238c9fa8-0aad-41ed-83f4-97be242c8f20', '9d7815a6-7ee4-497e-8888-515a05f02364', 10800, 10800),
    @('2a737441-1930-4402-8d77-b2bebba308a3', '48e6b7a6-50f5-4782-a5d4-53bb8f07e226', 1, 1), @('4f971e89-eebd-4455-a8de-9e59040e7347', '5ca83367-6e45-459f-a27b-476b1d01c936', 1, 1), @('501a4d13-42af-4429-9fd1-a8218c268e20', 'ee12f906-d277-404b-b6da-e5fa1a576df5', 1, 2))
function script:Get-LabPowerValue($Power, $Scheme, $Sub, $Setting, $Source) {
    $stored = $Power.values["$Scheme/$Sub/$Setting/$Source"]; if ($null -ne $stored) { return [int]$stored }
    foreach ($d in $powerDefaults) { if ($d[1] -eq $Setting) { return $(if ($Source -eq 'ac') { $d[2] } else { $d[3] }) } }; 0
}
function script:Invoke-Lab_powercfg([string[]]$a) {
    $s = Read-LabState; $p = $s.power; $verb = "$($a[0])".TrimStart('/', '-').ToLower()
    $invalid = { [Console]::Out.WriteLine('Invalid Parameters -- try "/?" for help'); 1 }
    switch -Regex ($verb) {
        '^getactivescheme$' { [Console]::Out.WriteLine("Power Scheme GUID: $($p.active)  ($($p.schemes[$p.active]))"); return 0 }
        '^l(ist)?$' {
            [Console]::Out.WriteLine("`r`nExisting Power Schemes (* Active)`r`n-----------------------------------")
            foreach ($k in $p.schemes.Keys) { [Console]::Out.WriteLine("Power Scheme GUID: $k  ($($p.schemes[$k]))$(if ($k -eq $p.active) { ' *' })") }
            return 0
        }
        '^s(etactive)?$' { $id = Resolve-LabScheme $s $a[1]; if (-not $id) { return & $invalid }; $p.active = $id; Write-LabState $s; return 0 }
        '^duplicatescheme$' {
            $id = Resolve-LabScheme $s $a[1]; if (-not $id) { return & $invalid }
            $new = if ($a[2]) { $a[2] } else { [guid]::NewGuid().ToString() }; $p.schemes[$new] = $p.schemes[$id]; Write-LabState $s
            [Console]::Out.WriteLine("Power Scheme GUID: $new  ($($p.schemes[$id]))"); return 0
        }
        '^(x|change)$' { if ("$($a[1])" -notmatch '^(monitor|disk|standby|hibernate)-timeout-(ac|dc)$' -or "$($a[2])" -notmatch '^\d+$') { return & $invalid }; $p.values["$($p.active)/$($a[1])"] = [int]$a[2]; Write-LabState $s; return 0 }
        '^set(ac|dc)valueindex$' {
            $id = Resolve-LabScheme $s $a[1]; if (-not $id -or $a.Count -lt 5 -or $a[4] -notmatch '^(0x[0-9a-f]+|\d+)$') { return & $invalid }
            $p.values["$id/$($a[2].ToLower())/$($a[3].ToLower())/$($verb.Substring(3, 2))"] = [int]$a[4]; Write-LabState $s; return 0
        }
        '^q(uery|h)?$' {
            $id = Resolve-LabScheme $s $(if ($a[1]) { $a[1] } else { 'SCHEME_CURRENT' }); if (-not $id) { return & $invalid }
            [Console]::Out.WriteLine("Power Scheme GUID: $id  ($($p.schemes[$id]))")
            $shown = @($powerDefaults | Where-Object { $a.Count -lt 3 -or $_[0] -eq $a[2] } | Where-Object { $a.Count -lt 4 -or $_[1] -eq $a[3] })
            if ($a.Count -ge 4 -and -not $shown) { $shown = @(, @("$($a[2])".ToLower(), "$($a[3])".ToLower())) }
            $sub = ''
            foreach ($d in $shown) {
                if ($d[0] -ne $sub) { $sub = $d[0]; [Console]::Out.WriteLine("  Subgroup GUID: $sub  (Subgroup)") }
                [Console]::Out.WriteLine("    Power Setting GUID: $($d[1])  (Setting)`r`n      Minimum Possible Setting: 0x00000000`r`n      Maximum Possible Setting: 0xffffffff`r`n      Possible Settings increment: 0x00000001`r`n      Possible Settings units: Seconds")
                foreach ($source in 'AC', 'DC') { [Console]::Out.WriteLine(('    Current {0} Power Setting Index: 0x{1:x8}' -f $source, (Get-LabPowerValue $p $id $d[0] $d[1] $source.ToLower()))) }
                [Console]::Out.WriteLine('')
            }
            return 0
        }
        '^h(ibernate)?$' { if ($a[1] -notin 'on', 'off') { return & $invalid }; $p.hibernate = $a[1]; Write-LabState $s
            if ($IsWindows) { $key = 'HKLM:\SYSTEM\CurrentControlSet\Control\Power'; if (-not (Test-Path $key)) { $null = New-Item $key -Force }; $null = New-ItemProperty $key -Name HibernateEnabled -Value ([int]($a[1] -eq 'on')) -PropertyType DWord -Force }
            return 0 }
        default { return & $invalid }
    }
}
# GPUs come from `gpus` in the state file: a list of {name, "memory.total", "driver_version", "utilization.gpu", …}; none means no driver
function script:Invoke-Lab_nvidia-smi([string[]]$a) {
    $gpus = @((Read-LabState).gpus | Where-Object { $_ })
    if (-not $gpus) { [Console]::Out.WriteLine("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running."); return 9 }
    $query = ($a | Where-Object { $_ -like '--query-gpu=*' }) -replace '^--query-gpu=', ''; $format = "$($a | Where-Object { $_ -like '--format=*' })"
    if ("$($a[0])" -in '-L', '--list-gpus') { $i = 0; foreach ($g in $gpus) { [Console]::Out.WriteLine("GPU $i`: $($g.name) (UUID: GPU-$i)"); $i++ }; return 0 }
    if (-not $query) { foreach ($g in $gpus) { [Console]::Out.WriteLine("| $($g.name) | $($g.'memory.total')MiB |") }; return 0 }
    $fields = $query -split ','
    if ($format -notlike '*noheader*') { [Console]::Out.WriteLine($fields -join ', ') }
    $i = 0
    foreach ($g in $gpus) {
        $row = foreach ($f in $fields) { if ($f -eq 'index') { "$i" } elseif ($f -eq 'count') { "$($gpus.Count)" } elseif ($null -ne $g[$f]) { $unit = if ($format -like '*nounits*') { '' } elseif ($f -like 'memory.*') { ' MiB' } elseif ($f -like 'utilization.*') { ' %' } else { '' }; "$($g[$f])$unit" } else { '[N/A]' } }
        [Console]::Out.WriteLine($row -join ', '); $i++
    }
    0
}
# netsh int ipv4 show dynamicport tcp: `dynamicport` in the state file is "start count"
function script:Invoke-Lab_netsh([string[]]$a) {
    if ("$($a -join ' ')" -ne 'int ipv4 show dynamicport tcp') { [Console]::Out.WriteLine("The following command was not found: $($a -join ' ')."); return 1 }
    $start, $count = "$(if ((Read-LabState).dynamicport) { (Read-LabState).dynamicport } else { '49152 16384' })" -split ' '
    [Console]::Out.WriteLine("`r`nProtocol tcp Dynamic Port Range`r`n---------------------------------`r`nStart Port      : $start`r`nNumber of Ports : $count`r`n"); return 0
}
# winrm.cmd: quickconfig, get, enumerate, create, set, delete of the WSMan configuration
function script:Write-LabElement($Object, [string]$Indent = '    ') { foreach ($p in $Object.PSObject.Properties) { [Console]::Out.WriteLine("$Indent$($p.Name)$(if ("$($p.Value)") { " = $(@($p.Value) -join ', ')" })") } }
function script:Invoke-Lab_winrm([string[]]$a) {
    $verb = "$($a[0])".ToLower(); $rest = @($a | Select-Object -Skip 1 | Where-Object { $_ -notmatch '^-' })
    $values = @{}; foreach ($x in [regex]::Matches("$($rest | Select-Object -Skip 1)", '(\w+)\s*=\s*"?([^";}]*)"?')) { $values[$x.Groups[1].Value] = $x.Groups[2].Value }
    try {
        switch -Regex ($verb) {
            '^(quickconfig|qc)$' { Set-WSManQuickConfig -Force -ErrorAction Stop; [Console]::Out.WriteLine('WinRM has been updated to receive requests.') }
            '^(get|g)$' { $i = Get-WSManInstance $rest[0] -ErrorAction Stop; [Console]::Out.WriteLine(($rest[0] -split '[/?]')[-1]); Write-LabElement $i }
            '^(enumerate|enum|e)$' { foreach ($i in Get-WSManInstance $rest[0] -Enumerate) { [Console]::Out.WriteLine('Listener'); Write-LabElement $i; [Console]::Out.WriteLine('') } }
            '^(create|c)$' { $null = New-WSManInstance $rest[0] -ValueSet $values -ErrorAction Stop; [Console]::Out.WriteLine('ResourceCreated') }
            '^(set|s)$' { $i = Set-WSManInstance $rest[0] -ValueSet $values -ErrorAction Stop; Write-LabElement $i }
            '^(delete|d)$' { Remove-WSManInstance $rest[0] -ErrorAction Stop }
            default { [Console]::Error.WriteLine("no double for winrm $verb"); return 1 }
        }
        return 0
    } catch { [Console]::Error.WriteLine("WSManFault`r`n    Message = $_`r`n`r`nError number:  -2144108269 0x80338113"); return 1 }
}
