<#
.SYNOPSIS
Trains on all GPUs of this PC, without Ansible, Linux or administrator rights. 이 PC의 모든 GPU로 학습합니다.
.DESCRIPTION
Works from a checkout of the repository, or an unpacked zip of it. The first run makes the environment (of train\uv.lock; for a script
of your own that of the uv.lock, requirements.txt or pyproject.toml in its folder) below C:\winfleet, or where that cannot be written, below %LOCALAPPDATA%\winfleet; later runs find it there. Without an NVIDIA GPU it
trains on the CPU. Exit status: 0 finished, 1 failed, 2 nothing was started, 3 stopped.
.PARAMETER Auto
As many processes as this PC has GPUs. Several PCs: scripts\master_deploy.ps1.
.PARAMETER Config
Settings of the training (YAML). Default: train\configs\train_config.yaml. A script of your own gets them as --config FILE.
.PARAMETER Processes
Another number of processes.
.PARAMETER Prove
Trains nothing of yours: proves what only a real PC can show, asks before, and writes a file that you may send. Words for it after --, as -- --yes.
.PARAMETER Folder
Where the environment is made, in place of C:\winfleet.
.PARAMETER Uv
The program uv, version 0.8 or newer. Default: the one in the folder, the one on the PATH, or the one that train\uv.lock names.
.PARAMETER Python
The python.exe (3.11 or newer) from which the environment is made. Default: a Python 3.11 that uv finds or fetches.
.PARAMETER Wheels
Folder with all wheels, for a PC without internet.
.PARAMETER Command
A script of your own and its arguments, after --. Without a script, arguments of the example's trainer.
.EXAMPLE
.\scripts\launch_distributed.ps1 -Auto
.EXAMPLE
.\scripts\launch_distributed.ps1 -Auto -Prove
.EXAMPLE
.\scripts\launch_distributed.ps1 -Auto -Processes 2 -- my_train.py --epochs 3
#>
#Requires -Version 5.1
[CmdletBinding(SupportsShouldProcess, PositionalBinding = $false)]
param(
    [switch]$Auto, [switch]$Prove, [string]$Config, [ValidateRange(0, 64)][int]$Processes, [string]$Folder, [string]$Uv, [string]$Python, [string]$Wheels,
    [Parameter(ValueFromRemainingArguments)][string[]]$Command
)

Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue' # progress bars cost seconds in Windows PowerShell

$train = Join-Path (Split-Path $PSScriptRoot) 'train'
$pythonVersion = '3.11' # as uv_env_python_version

function ConvertTo-Argument([string]$Word) {
    # One word of a command line, as programs take it apart. 5.1's own `&` leaves quotation marks and last backslashes as they are.
    if ($Word -and $Word -notmatch '[\s"]') { return $Word }
    '"' + ($Word -replace '(\\*)"', '$1$1\"' -replace '(\\+)$', '$1$1') + '"'
}

function Invoke-Program([string]$Path, [string[]]$Words, [switch]$Quiet) {
    # Runs a program in the current folder: its exit status, or with -Quiet its output, nothing where it fails.
    $start = New-Object Diagnostics.ProcessStartInfo -Property @{
        FileName = $Path; Arguments = ($Words | ForEach-Object { ConvertTo-Argument $_ }) -join ' '; UseShellExecute = $false
        WorkingDirectory = (Get-Location -PSProvider FileSystem).ProviderPath; RedirectStandardOutput = $Quiet; RedirectStandardError = $Quiet
    }
    $process = [Diagnostics.Process]::Start($start)
    if (-not $Quiet) { $process.WaitForExit(); return $process.ExitCode }
    $problems = $process.StandardError.ReadToEndAsync()
    $said = $process.StandardOutput.ReadToEnd().Trim()
    $process.WaitForExit()
    Write-Verbose "$Path $($start.Arguments): $($process.ExitCode) $($problems.Result)"
    if ($process.ExitCode -eq 0) { $said }
}

function Test-Folder([string]$Path) {
    # Whether this user may write there; the folder is made, but not under -WhatIf.
    try {
        if ($WhatIfPreference -and -not (Test-Path -LiteralPath $Path)) { return $true }
        $null = [IO.Directory]::CreateDirectory($Path)
        $probe = Join-Path $Path ([IO.Path]::GetRandomFileName())
        [IO.File]::WriteAllText($probe, '')
        [IO.File]::Delete($probe)
        $true
    } catch { $false }
}

function Find-Folder {
    $choices = if ($Folder) { $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Folder) } else { "$env:SystemDrive\winfleet", "$env:LOCALAPPDATA\winfleet" }
    foreach ($one in $choices) {
        if ($one -match '[^\x20-\x7e]') {
            throw "$one has letters that are not ASCII, and some packages cannot open files below such a folder`nhint: -Folder D:\winfleet, or any other folder that you may write (다른 폴더를 지정하십시오)"
        }
        if (Test-Folder $one) { return $one }
    }
    throw "$($choices -join ' and ') cannot be written`nhint: give a folder that you may write: -Folder D:\winfleet"
}

function Find-Uv {
    if ($Uv) { return Resolve-Given Uv $Uv }
    $ours = Join-Path $base 'agent\uv.exe'
    foreach ($one in @($ours) + @(Get-Command uv.exe -CommandType Application -ErrorAction SilentlyContinue | ForEach-Object { $_.Source })) {
        if ((Test-Path -LiteralPath $one) -and "$(Invoke-Program $one '--version' -Quiet)" -match '^uv (\d+\.\d+)' -and [version]$Matches[1] -ge [version]'0.8') { return $one }
    }
    if ($PSCmdlet.ShouldProcess($ours, 'Fetch uv from PyPI')) { Save-Uv $ours; $ours }
}

function Save-Uv([string]$Target) {
    # The wheel that train\uv.lock names, with its SHA-256; uv.exe is a file in it.
    $lock = [IO.File]::ReadAllText((Join-Path $train 'uv.lock'))
    if ($lock -notmatch 'url = "([^"]+/uv-[^"/]+-py3-none-win_amd64\.whl)", hash = "sha256:([0-9a-f]{64})"') { throw "$train\uv.lock names no uv for Windows`nhint: get the repository anew, or give -Uv" }
    $url, $wanted = $Matches[1], $Matches[2]
    $wheel = "$Target.whl"
    $null = [IO.Directory]::CreateDirectory((Split-Path $Target))
    Write-Host "Fetching $url"
    try {
        [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12 # 5.1 may offer older ones alone
        Invoke-WebRequest -Uri $url -OutFile $wheel -UseBasicParsing
    } catch { throw "uv cannot be fetched: $($_.Exception.Message)`nhint: without internet give -Uv, -Python and -Wheels, which may lie on a USB stick" }
    $found = (Get-FileHash -LiteralPath $wheel -Algorithm SHA256).Hash
    if ($found -ne $wanted) {
        Remove-Item -LiteralPath $wheel
        throw "$url has the SHA-256 $found, train\uv.lock says $wanted`nhint: something on the way changed it: try another network, or give -Uv"
    }
    Add-Type -AssemblyName System.IO.Compression.FileSystem
    $zip = [IO.Compression.ZipFile]::OpenRead($wheel)
    try {
        $entry = $zip.Entries | Where-Object { $_.Name -eq 'uv.exe' } | Select-Object -First 1
        [IO.Compression.ZipFileExtensions]::ExtractToFile($entry, $Target, $true)
    } finally { $zip.Dispose() }
    Remove-Item -LiteralPath $wheel
}

function Resolve-Given([string]$Name, [string]$Path) {
    # The full path of a file that the user gave.
    if (-not (Test-Path -LiteralPath $Path -PathType Leaf)) { throw "no file $Path`nhint: give the path of a program to -$Name, or leave it out" }
    (Resolve-Path -LiteralPath $Path).ProviderPath
}

function Find-GivenPython {
    $path = Resolve-Given Python $Python
    $version = Invoke-Program $path @('-I', '-c', 'import sys; print(sys.version_info >= (3, 11), sys.version.split()[0])') -Quiet
    if ("$version" -notlike 'True *') { throw "$path is $(if ($version) { "Python $($version.Split()[1])" } else { 'no Python' })`nhint: give a python.exe of 3.11 or newer to -Python" }
    $path
}

function Find-Python([string]$Program) {
    # A Python that uv finds or fetches; nothing under -WhatIf where it would be fetched.
    $offline = if ($Wheels) { '--offline' }
    $found = Invoke-Program $Program (@('python', 'find', '--no-project', $offline, $pythonVersion) | Where-Object { $_ }) -Quiet
    if ($found) { return $found }
    if ($Wheels) { throw "no Python $pythonVersion on this PC`nhint: install one, or give the path of a python.exe, 3.11 or newer, to -Python" }
    if (-not $PSCmdlet.ShouldProcess($env:UV_PYTHON_INSTALL_DIR, "Fetch Python $pythonVersion")) { return }
    Write-Host "Fetching Python $pythonVersion"
    $null = Invoke-Program $Program @('python', 'install', '--quiet', '--no-bin', $pythonVersion)
    $found = Invoke-Program $Program @('python', 'find', '--no-project', $pythonVersion) -Quiet
    if (-not $found) { throw "Python $pythonVersion cannot be fetched; uv said why above`nhint: install Python $pythonVersion from python.org, or give -Python" }
    $found
}

try {
    if (-not $Auto) { throw "-Auto is missing`nhint: launch_distributed.ps1 -Auto trains on this PC; several PCs: master_deploy.ps1" }
    $base = Find-Folder
    # Nothing of ours lies below the user's folder.
    $env:UV_CACHE_DIR = Join-Path $base 'agent\cache'
    $env:UV_PYTHON_INSTALL_DIR = Join-Path $base 'agent\interpreters'
    $env:PYTHONPATH = $train
    $env:PYTHONUTF8 = '1'
    $interpreter = if ($Python) { Find-GivenPython }
    $program = Find-Uv
    if ($program -and -not $interpreter) { $interpreter = Find-Python $program }
    if (-not $program -or -not $interpreter) { Write-Host 'What if: then the environment would be made, and the training started.'; exit 0 }
    $words = @('-m', 'winfleet.one_pc', '--home', $base, '--uv', $program)
    if ($Wheels) { $words += '--wheels', $Wheels }
    if ($Config) { $words += '--config', $Config }
    if ($Processes) { $words += '--processes', "$Processes" }
    if ($Prove) { $words += '--prove' }
    if ($WhatIfPreference) { $words += '--dry-run' }
    $words += '--'
    $words += @($Command | Where-Object { $null -ne $_ } | Select-Object -Skip ([int]("$(@($Command)[0])" -eq '--')))
    exit (Invoke-Program $interpreter $words)
} catch {
    $Host.UI.WriteErrorLine("error: $($_.Exception.Message)")
    exit 2
}
