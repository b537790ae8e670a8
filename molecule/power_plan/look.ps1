#Requires -Version 5.1

# Looks at the active plan in the registry, where the role looks with powercfg: its GUID, and its values on mains.
[CmdletBinding()]
param()

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $false
$power = 'HKLM:\SYSTEM\CurrentControlSet\Control\Power'
$active = "$((Get-ItemProperty -LiteralPath "$power\User\PowerSchemes").ActivePowerScheme)"
$values = @{}
foreach ($path in '238c9fa8-0aad-41ed-83f4-97be242c8f20\29f6c1db-86da-48c5-9fdb-f2b67b1f44da',
    '2a737441-1930-4402-8d77-b2bebba308a3\48e6b7a6-50f5-4782-a5d4-53bb8f07e226',
    '501a4d13-42af-4429-9fd1-a8218c268e20\ee12f906-d277-404b-b6da-e5fa1a576df5') {
    $key = Get-ItemProperty -LiteralPath "$power\User\PowerSchemes\$active\$path" -ErrorAction SilentlyContinue
    if ($null -ne $key.ACSettingIndex) { $values["$active/$($path -replace '\\', '/')/ac"] = $key.ACSettingIndex }
}
$hibernate = if ((Get-ItemProperty -LiteralPath $power).HibernateEnabled) { 'on' } else { 'off' }
$Ansible.Result = @{ active = $active; values = $values; hibernate = $hibernate }
