#Requires -Version 5.1

# What a user wants to know of a worker, in one look. Changes nothing.
[CmdletBinding(SupportsShouldProcess)]
param()

#AnsibleRequires -PowerShell Ansible.ModuleUtils.Winfleet

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $false

function Get-Gpu {
    # NVIDIA's own tool knows memory and driver; without it Windows knows the names.
    [CmdletBinding()]
    param()

    $tool = Find-NvidiaSmi
    if ($tool) {
        $ErrorActionPreference = 'Continue'
        $lines = & $tool '--query-gpu=name,memory.total,driver_version' '--format=csv,noheader,nounits' 2>$null
        if ($LASTEXITCODE -eq 0) {
            foreach ($line in $lines) {
                $name, $memory, $driver = $line -split ',' | ForEach-Object { $_.Trim() }
                [ordered]@{ name = $name; memory_mb = [int]($memory -replace '\D'); driver = $driver }
            }
            return
        }
    }
    foreach ($card in Get-CimInstance -ClassName Win32_VideoController | Where-Object { $_.Name -like '*NVIDIA*' }) {
        [ordered]@{ name = $card.Name; memory_mb = $null; driver = $null }
    }
}

function Get-Adapter {
    [CmdletBinding()]
    param()

    $addresses = @(Get-NetIPAddress -AddressFamily IPv4)
    foreach ($adapter in Get-NetAdapter | Where-Object { "$($_.Status)" -eq 'Up' }) {
        [ordered]@{
            name = $adapter.Name
            mbit = [long]($adapter.Speed / 1000000)
            addresses = @($addresses | Where-Object { $_.InterfaceIndex -eq $adapter.ifIndex } | ForEach-Object { $_.IPAddress })
        }
    }
}

$system = Get-CimInstance -ClassName Win32_OperatingSystem
$computer = Get-CimInstance -ClassName Win32_ComputerSystem
$processors = @(Get-CimInstance -ClassName Win32_Processor)
$version = Get-ItemProperty -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
$disk = Get-CimInstance -ClassName Win32_LogicalDisk -Filter "DeviceID='$($env:SystemDrive)'"
$build = if ($version.UBR) { "$($system.BuildNumber).$($version.UBR)" } else { "$($system.BuildNumber)" }

$Ansible.Result = [ordered]@{
    name = $env:COMPUTERNAME
    windows = "$($system.Caption)" -replace '^Microsoft '
    build = $build
    powershell = "$($PSVersionTable.PSVersion)"
    processor = "$($processors[0].Name)".Trim()
    cores = [int]($processors | Measure-Object -Property NumberOfCores -Sum).Sum
    threads = [int]($processors | Measure-Object -Property NumberOfLogicalProcessors -Sum).Sum
    memory_gb = [int][Math]::Round($computer.TotalPhysicalMemory / 1GB)
    disk_gb = [int][Math]::Floor($disk.Size / 1GB)
    disk_free_gb = [int][Math]::Floor($disk.FreeSpace / 1GB)
    gpus = @(Get-Gpu)
    adapters = @(Get-Adapter)
    networks = @(Get-NetConnectionProfile -ErrorAction SilentlyContinue | ForEach-Object { "$($_.NetworkCategory)" } | Sort-Object -Unique)
    battery = @(Get-CimInstance -ClassName Win32_Battery).Count -gt 0
}
