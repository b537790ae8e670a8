<#
.SYNOPSIS
Deploys to the workers and trains, from a Windows PC as the master. 워커에 배포하고 학습을 시작합니다.
.DESCRIPTION
Ansible needs Linux, so this finds WSL, copies the repository to ~/winfleet there, and runs `make deploy` in it. Without arguments that
asks for the workers, the account and the folders. Needs no administrator rights, once WSL is installed.
.PARAMETER WorkerIPs
Addresses of the workers, all of the cluster. Then nothing is asked but the password, and a yes to certificates that are new.
.PARAMETER SkipDeploy
Trains at once with what the workers have already.
.PARAMETER Distribution
The WSL distribution, in place of the default one.
.PARAMETER Arguments
Words for winfleet.deploy, such as --user lab --project C:\work\mine; `--help` lists them.
.EXAMPLE
.\scripts\master_deploy.ps1
.EXAMPLE
.\scripts\master_deploy.ps1 -WorkerIPs 192.168.1.101,192.168.1.102
.EXAMPLE
.\scripts\master_deploy.ps1 -SkipDeploy -WorkerIPs 192.168.1.101
#>
#Requires -Version 5.1
[CmdletBinding(SupportsShouldProcess, PositionalBinding = $false)]
param(
    [string[]]$WorkerIPs, [switch]$SkipDeploy, [string]$Distribution,
    [Parameter(ValueFromRemainingArguments)][string[]]$Arguments
)

Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'

$root = Split-Path $PSScriptRoot
$install = 'as administrator: wsl --install -d Ubuntu-24.04, then restart, and open Ubuntu once (관리자 PowerShell에서 실행하십시오)'

function Find-Wsl {
    $found = Get-Command wsl.exe -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    if (-not $found) { throw "this PC has no WSL`nhint: $install" }
    $found.Source
}

function Find-Distribution([string]$Wsl) {
    # The one that was asked for, or the default, which is listed first. Docker's own have no package manager.
    $env:WSL_UTF8 = '1' # else it writes UTF-16; older versions do so all the same
    # Where WSL is not installed it waits for a key: without input and window it cannot, and is not waited for long.
    $process = [Diagnostics.Process]::Start((New-Object Diagnostics.ProcessStartInfo -Property @{
        FileName = $Wsl; Arguments = '--list --quiet'; UseShellExecute = $false; CreateNoWindow = $true; RedirectStandardInput = $true; RedirectStandardOutput = $true
    }))
    $process.StandardInput.Close()
    $listed = New-Object IO.MemoryStream
    $copied = $process.StandardOutput.BaseStream.CopyToAsync($listed)
    if (-not $process.WaitForExit(20000)) {
        $process.Kill()
        throw "wsl.exe named no distribution within 20 s: WSL is not installed, or does not start`nhint: $install"
    }
    $null = $copied.Wait(5000)
    $encoding = if ($listed.ToArray() -contains 0) { [Text.Encoding]::Unicode } else { [Text.Encoding]::UTF8 }
    $lines = @($encoding.GetString($listed.ToArray()) -split '\s*\n' | Where-Object { $_ -and $_ -notlike 'docker-desktop*' })
    if ($process.ExitCode -or -not $lines) { throw "WSL has no Linux distribution`nhint: $install" }
    if (-not $Distribution) { return $lines[0] }
    if ($lines -notcontains $Distribution) { throw "WSL has no distribution $Distribution, but $($lines -join ', ')`nhint: wsl --install -d $Distribution" }
    $Distribution
}

function Get-Word {
    # The words for winfleet.deploy. By -File a list arrives as one text with commas.
    $addresses = @($WorkerIPs | ForEach-Object { "$_" -split '[,\s]+' } | Where-Object { $_ })
    foreach ($one in $addresses) {
        if ($one -notmatch '^[A-Za-z0-9][A-Za-z0-9.-]*\z') { throw "-WorkerIPs `"$one`" is no address of a PC`nhint: as in -WorkerIPs 192.168.1.101,192.168.1.102" }
    }
    if ($addresses) { '--workers', ($addresses -join ',') }
    if ($SkipDeploy) { '--skip-deploy' }
    $Arguments | Where-Object { $null -ne $_ -and $_ -ne '--' }
}

try {
    $words = @(Get-Word)
    $wsl = Find-Wsl
    $name = Find-Distribution $wsl
    $text = ($words | ForEach-Object { "$_`0" }) -join ''
    $packed = [Convert]::ToBase64String((New-Object Text.UTF8Encoding $false).GetBytes($text))
    if (-not $PSCmdlet.ShouldProcess("~/winfleet in $name", "Copy $root there, and run make deploy $words")) { exit 0 }
    # WSL gets only what WSLENV names
    $shared = @('WINFLEET_USER', 'WINFLEET_PASSWORD' | Where-Object { [Environment]::GetEnvironmentVariable($_) } | ForEach-Object { "$_/u" })
    $env:WSLENV = @(@($env:WSLENV) + $shared | Where-Object { $_ }) -join ':'
    Push-Location -LiteralPath $root # WSL starts in the same folder
    try { & $wsl --distribution $name --exec bash scripts/master_deploy.sh $packed } finally { Pop-Location }
    exit $LASTEXITCODE
} catch {
    $Host.UI.WriteErrorLine("error: $($_.Exception.Message)")
    exit 2
}
