# What the roles' scripts and plugins/windows/winfleet_host.ps1 share. Ansible sends it beside the module; the action winfleet_powershell
# puts its text into a script, in place of the line that requires it. Written for Windows PowerShell 5.1.

function Find-NvidiaSmi {
    # NVIDIA's own tool: on PATH, or where older drivers put it; nothing without a driver.
    @(Get-Command -Name nvidia-smi.exe -CommandType Application -ErrorAction SilentlyContinue | ForEach-Object { $_.Source }) +
        "$env:ProgramFiles\NVIDIA Corporation\NVSMI\nvidia-smi.exe" | Where-Object { Test-Path -LiteralPath $_ } | Select-Object -First 1
}

function Get-OtherFirewall {
    # Names of firewalls besides Windows' own, as they registered with the Security Center; a Server has none.
    @(Get-CimInstance -Namespace root/SecurityCenter2 -ClassName FirewallProduct -ErrorAction SilentlyContinue | ForEach-Object { "$($_.displayName)" } |
            Where-Object { $_ } | Sort-Object -Unique)
}

function Test-FirewallService {
    # Whether the service behind Windows' firewall runs: without it no rule can be read or made.
    $service = Get-Service -Name mpssvc -ErrorAction SilentlyContinue
    [bool]($service -and "$($service.Status)" -eq 'Running')
}

function Invoke-Native {
    # Output lines of a program; an error that names the call where it fails.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [string] $Program, [string[]] $Arguments = @())

    $ErrorActionPreference = 'Continue'  # 5.1 makes a terminating error of the first line on stderr
    $lines = & $Program @Arguments 2>&1
    $code = $LASTEXITCODE
    if ($code -ne 0) { throw "$Program $Arguments ended with exit code ${code}: $("$lines".Trim())" }
    $lines | Where-Object { $_ -isnot [System.Management.Automation.ErrorRecord] } | ForEach-Object { "$_" }
}

function Read-Note {
    # What was noted at an earlier run; nothing where there is no note.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [string] $Path)

    if (-not (Test-Path -LiteralPath $Path)) { return }
    try { [IO.File]::ReadAllText($Path) | ConvertFrom-Json }
    catch { throw "$Path is not readable: $_" }
}

function Save-Note {
    [CmdletBinding()]
    param([Parameter(Mandatory)] [string] $Path, [Parameter(Mandatory)] [System.Collections.IDictionary] $Note)

    $null = [IO.Directory]::CreateDirectory((Split-Path -Path $Path))
    [IO.File]::WriteAllText($Path, (ConvertTo-Json -InputObject $Note -Depth 4))
}
