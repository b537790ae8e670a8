#Requires -Version 5.1

# Keeps a PC awake and fast while it is on mains: timeouts, USB, PCI Express, and the plan where the PC has no battery, as a plan
# counts on battery, too. What was there before each change goes to power.json, from which `absent` restores it.
# Older versions changed the plan of laptops, and turned hibernation off for mains and battery: `present` takes that back.
[CmdletBinding(SupportsShouldProcess)]
param(
    [ValidateSet('present', 'absent')]
    [string] $State = 'present',

    # the plan to use where the PC has it and no battery; PCs with Modern Standby have none but their own
    [string] $Plan = '8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c'
)

#AnsibleRequires -PowerShell Ansible.ModuleUtils.Winfleet

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $false
$file = Join-Path -Path $env:ProgramData -ChildPath 'winfleet\power.json'
$guid = '[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}'

# Subgroup and setting; every value becomes 0, which is "never" or "off".
$settings = [ordered]@{
    'sleep after' = '238c9fa8-0aad-41ed-83f4-97be242c8f20', '29f6c1db-86da-48c5-9fdb-f2b67b1f44da'
    'sleep after an unattended wake' = '238c9fa8-0aad-41ed-83f4-97be242c8f20', '7bc4a2f9-d8fc-4469-b07b-33eb785aaca0'
    'hibernate after' = '238c9fa8-0aad-41ed-83f4-97be242c8f20', '9d7815a6-7ee4-497e-8888-515a05f02364'
    'disk off after' = '0012ee47-9041-4b5d-9b77-535fba8b1442', '6738e2c4-e8a5-4a42-b16a-e040e769756e'
    'closing the lid' = '4f971e89-eebd-4455-a8de-9e59040e7347', '5ca83367-6e45-459f-a27b-476b1d01c936'
    'USB selective suspend' = '2a737441-1930-4402-8d77-b2bebba308a3', '48e6b7a6-50f5-4782-a5d4-53bb8f07e226'
    'PCI Express link state' = '501a4d13-42af-4429-9fd1-a8218c268e20', 'ee12f906-d277-404b-b6da-e5fa1a576df5'
}

function Get-Plan {
    # All plans; the active one has a star. Names and labels are localised, GUID and star are not.
    [CmdletBinding()]
    param()

    foreach ($line in Invoke-Native -Program powercfg.exe -Arguments /list) {
        if ($line -match $guid) {
            [pscustomobject]@{ Id = $Matches[0].ToLowerInvariant(); Active = $line.TrimEnd().EndsWith('*') }
        }
    }
}

function Get-MainsValue {
    # A plan's values on mains by GUID of the setting, hidden ones too. Of the numbers below a setting the last two are
    # those on mains and on battery; a setting that the PC does not have is not listed.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [string] $Id)

    $values = @{}
    $setting = $null
    $numbers = @()
    foreach ($line in @(Invoke-Native -Program powercfg.exe -Arguments /qh, $Id) + $Id) {
        if ($line -match $guid) {
            $found = $Matches[0].ToLowerInvariant()
            if ($setting -and $numbers.Count -ge 2) { $values[$setting] = $numbers[-2] }
            $setting = $found
            $numbers = @()
        }
        elseif ($line -match ':\s*0x([0-9a-fA-F]{1,8})\s*$') {
            $numbers += [Convert]::ToInt64($Matches[1], 16)
        }
    }
    $values
}

function Test-Hibernation {
    # Whether hibernation is on. powercfg /a tells it in localised words only.
    [CmdletBinding()]
    param()

    $key = Get-ItemProperty -LiteralPath HKLM:\SYSTEM\CurrentControlSet\Control\Power -ErrorAction SilentlyContinue
    foreach ($name in 'HibernateEnabled', 'HibernateEnabledDefault') {
        if ($null -ne $key.$name) { return [bool]$key.$name }
    }
    $false
}

function Read-Earlier {
    # What was there before us: plan, the plan we set, values by "plan/subgroup/setting", and that an older version turned
    # hibernation off.
    [CmdletBinding()]
    param()

    $earlier = [ordered]@{ plan = $null; plan_set = $null; hibernation = $null; values = [ordered]@{} }
    $read = Read-Note -Path $file
    if (-not $read) { return $earlier }
    foreach ($name in 'plan', 'plan_set') { if ("$($read.$name)" -match "^$guid$") { $earlier[$name] = "$($read.$name)" } }
    if ($null -ne $read.hibernation) { $earlier.hibernation = [bool]$read.hibernation }
    foreach ($value in $read.values.PSObject.Properties) {
        if ($value.Name -match "^$guid/$guid/$guid$") { $earlier.values[$value.Name] = [long]$value.Value }
    }
    $earlier
}

function Set-MainsValue {
    [CmdletBinding(SupportsShouldProcess)]
    param([Parameter(Mandatory)] [string] $Path, [Parameter(Mandatory)] [long] $Value)

    $null = Invoke-Native -Program powercfg.exe -Arguments (@('/setacvalueindex') + ($Path -split '/') + "$Value")
}

function Get-State {
    # What is compared, and what --diff shows.
    [CmdletBinding()]
    param([string] $Active, [string] $Target, [hashtable] $Values, [bool] $Hibernation)

    $shown = [ordered]@{ plan = $Active; hibernation = if ($Hibernation) { 'on' } else { 'off' } }
    foreach ($name in $settings.Keys) {
        $id = $settings[$name][1]
        if ($Values.ContainsKey($id)) { $shown["$name ($Target)"] = $Values[$id] }
    }
    $shown
}

$plans = @(Get-Plan)
$active = "$(($plans | Where-Object { $_.Active } | Select-Object -First 1).Id)"
if (-not $active) { throw 'powercfg /list shows no active power plan' }
$known = @($plans | ForEach-Object { $_.Id })
$battery = @(Get-CimInstance -ClassName Win32_Battery).Count -gt 0
$earlier = Read-Earlier
$hibernation = Test-Hibernation
$paths = @{}
$outdated = $State -eq 'present' -and $earlier.hibernation -eq $true

if ($State -eq 'present') {
    $theirs = $battery -and $active -eq $earlier.plan_set -and $earlier.plan -in $known
    $target = if ($theirs) { $earlier.plan } elseif (-not $battery -and $Plan -in $known) { $Plan } else { $active }
    $values = Get-MainsValue -Id $target
    $before = Get-State -Active $active -Target $target -Values $values -Hibernation $hibernation
    foreach ($name in $settings.Keys) {
        $sub, $id = $settings[$name]
        if ($values.ContainsKey($id) -and $values[$id] -ne 0) {
            $paths["$target/$sub/$id"] = 0
            $earlier.values["$target/$sub/$id"] = $values[$id]
            $values[$id] = 0
        }
    }
    if ($theirs) { $earlier.plan = $earlier.plan_set = $null }
    elseif ($active -ne $target) { $earlier.plan = $active; $earlier.plan_set = $target }
    $activate = $target
    $hibernate = $hibernation -or $outdated
    $earlier.hibernation = $null
}
else {
    # Only what is still as we set it: what somebody changed later is theirs.
    $target = if ($earlier.plan_set -in $known) { $earlier.plan_set } else { $active }
    $values = Get-MainsValue -Id $target
    $before = Get-State -Active $active -Target $target -Values $values -Hibernation $hibernation
    foreach ($path in @($earlier.values.Keys)) {
        $scheme, $sub, $id = $path -split '/'
        if ($scheme -notin $known) { continue }
        $now = if ($scheme -eq $target) { $values } else { Get-MainsValue -Id $scheme }
        if ($now[$id] -eq 0) {
            $paths[$path] = $earlier.values[$path]
            if ($scheme -eq $target) { $values[$id] = $earlier.values[$path] }
        }
    }
    $back = $earlier.plan -and $earlier.plan -in $known -and $active -eq $earlier.plan_set
    $activate = if ($back) { $earlier.plan } else { $active }
    $hibernate = $hibernation -or $earlier.hibernation -eq $true
}

$after = Get-State -Active $activate -Target $target -Values $values -Hibernation $hibernate
$forget = $State -eq 'absent' -and (Test-Path -LiteralPath $file)
$Ansible.Changed = $paths.Count -gt 0 -or $activate -ne $active -or $hibernate -ne $hibernation -or $outdated -or $forget
if ($Ansible.Changed -and $PSCmdlet.ShouldProcess($target, 'Set power plan')) {
    if ($State -eq 'present') { Save-Note -Path $file -Note $earlier }
    foreach ($path in $paths.Keys) { Set-MainsValue -Path $path -Value $paths[$path] }
    # Values of the active plan count from its next activation on.
    $null = Invoke-Native -Program powercfg.exe -Arguments /setactive, $activate
    if ($hibernate -ne $hibernation) { $null = Invoke-Native -Program powercfg.exe -Arguments /hibernate, on }
    if ($forget) { Remove-Item -LiteralPath $file }
}

$Ansible.Diff = @{ before = $before; after = $after }
$Ansible.Result = @{ plan = $activate; high_performance = $activate -eq $Plan; warnings = @() }
