# What plugins/windows/winfleet_host.ps1 runs programs with and makes the agent's Python by. Ansible sends it beside the module.
# Written for Windows PowerShell 5.1.

$runtimeNames = 'msvcp140', 'vcruntime140', 'vcruntime140_1' # what torch needs of the Visual C++ runtime

function Invoke-Program {
    # Runs a program with bytes on its standard input; @{ code; out; err }. 5.1's own `&` would change their encoding.
    param([string]$Program, [string]$Line, [string]$Folder, [string]$Text = '', [System.Collections.IDictionary]$Variables = @{})

    $start = New-Object -TypeName System.Diagnostics.ProcessStartInfo -Property @{
        FileName = $Program; Arguments = $Line; WorkingDirectory = $Folder; UseShellExecute = $false; CreateNoWindow = $true
        RedirectStandardInput = $true; RedirectStandardOutput = $true; RedirectStandardError = $true
        StandardOutputEncoding = [Text.Encoding]::UTF8; StandardErrorEncoding = [Text.Encoding]::UTF8
    }
    foreach ($name in $Variables.Keys) { $start.EnvironmentVariables[$name] = "$($Variables[$name])" }
    $process = [Diagnostics.Process]::Start($start)
    $problems = $process.StandardError.ReadToEndAsync()
    $bytes = (New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false).GetBytes($Text)
    $process.StandardInput.BaseStream.Write($bytes, 0, $bytes.Length)
    $process.StandardInput.Close()
    $said = $process.StandardOutput.ReadToEnd()
    $process.WaitForExit()
    @{ code = $process.ExitCode; out = $said; err = $problems.Result }
}

function Get-UvVariable {
    # Our variables of uv, then the user's and the secrets, which win. Windows' own certificates where nobody says otherwise:
    # what a company or an antivirus has put before the internet is known there.
    param([hashtable]$Ours, [System.Collections.IDictionary]$Users, [System.Collections.IDictionary]$Secrets)

    $found = $Ours.Clone()
    foreach ($table in $Users, $Secrets) {
        if ($table) { foreach ($name in $table.Keys) { $found[$name] = "$($table[$name])" } }
    }
    $said = @('UV_SYSTEM_CERTS', 'UV_NATIVE_TLS' | Where-Object { $found.ContainsKey($_) -or (Test-Path -Path "env:$_") })
    if (-not $said) { $found['UV_SYSTEM_CERTS'] = 'true' }
    $found
}

function Remove-Secret {
    # A program's words without secrets, and without passwords of URLs among them.
    param([string]$Text, [System.Collections.IDictionary]$Secrets)

    if ($Secrets) {
        foreach ($value in $Secrets.Values) {
            if (-not $value) { continue }
            $Text = $Text.Replace("$value", '***')
            if ("$value" -match '^\w+://[^/@]*?:([^/]+)@') { $Text = $Text.Replace($Matches[1], '***') }
        }
    }
    $Text
}

function Find-SystemPython {
    # @{ path; version } of the first Python of this minor that the PC has and that may be taken, as
    # train/winfleet/environments/interpreters.py has it; nothing where there is none.
    param([string]$Uv, [string]$Version, [string]$Folder, [hashtable]$Variables)

    $line = "python list $Version --no-managed-python --only-installed --offline --output-format json"
    $done = Invoke-Program -Program $Uv -Line $line -Folder $Folder -Variables $Variables
    try { $all = ConvertFrom-Json -InputObject $done.out } catch { return }
    foreach ($one in $all) {
        if ($one.implementation -ne 'cpython' -or $one.variant -notin 'default', $null -or $one.arch -eq 'x86') { continue }
        if (-not $one.path) { continue }
        $path = [IO.Path]::Combine($Folder, $one.path) # uv shows what lies below its own folder without it
        if ($path -match '[^\x00-\x7f]') { continue }
        $place = [IO.Path]::GetDirectoryName($path)
        $conda = @($place, [IO.Path]::GetDirectoryName($place) | Where-Object { $_ -and (Test-Path -LiteralPath ([IO.Path]::Combine($_, 'conda-meta'))) })
        if (-not $conda) { return @{ path = $path; version = $one.version } }
    }
}

function New-AgentPython {
    # Has uv make a Python at Target: from the interpreter that is given, else of uv's own, fetched where it is not there, else of
    # one that this PC has. @{ code; err; line; note }, of uv's last call.
    param([string]$Uv, [string]$Target, [string]$Interpreter, [string]$Version, [bool]$Offline, [hashtable]$Variables)

    $folder = [IO.Path]::GetDirectoryName($Uv)
    $network = if ($Interpreter -or $Offline) { '--offline' }
    $from = if ($Interpreter) { "`"$Interpreter`"" } else { "$Version --managed-python" }
    $line = "venv --quiet --clear $network --python $from `"$Target`""
    $done = Invoke-Program -Program $Uv -Line $line -Folder $folder -Variables $Variables
    $note = ''
    if ($done.code -and -not $Interpreter) {
        $taken = Find-SystemPython -Uv $Uv -Version $Version -Folder $folder -Variables $Variables
        if ($taken) {
            $words = @($done.err -split "`n" | ForEach-Object { $_.Trim() } | Where-Object { $_ -match '^(cause|error): ' })
            $why = if ($words) { $words[-1] -replace '^\w+: ' } else { 'it did not say why' }
            $note = "uv has no Python $Version of its own and could not fetch one ($why); $($taken.path) ($($taken.version)) is taken"
            $line = "venv --quiet --clear --offline --python `"$($taken.path)`" `"$Target`""
            $done = Invoke-Program -Program $Uv -Line $line -Folder $folder -Variables $Variables
        }
    }
    @{ code = $done.code; err = $done.err; line = $line; note = $note }
}

function Get-FileVersion {
    # Of a library; 0.0.0.0 where it is not there.
    param([string]$Path)

    if (-not (Test-Path -LiteralPath $Path)) { return [version]'0.0.0.0' }
    $found = [Diagnostics.FileVersionInfo]::GetVersionInfo($Path)
    [version]"$($found.FileMajorPart).$($found.FileMinorPart).$($found.FileBuildPart).$($found.FilePrivatePart)"
}

function Get-CRuntime {
    # Versions of these in Windows' own folder; empty for what is not there.
    $found = @{}
    foreach ($name in $runtimeNames) {
        $path = [IO.Path]::Combine([Environment]::SystemDirectory, "$name.dll")
        $found[$name] = if (Test-Path -LiteralPath $path) { "$(Get-FileVersion -Path $path)" } else { '' }
    }
    $found
}

function Get-Python {
    # @{ version; lacks } of an interpreter: lacks are the parts of the Visual C++ runtime that it does not find, looked for as torch
    # does. Nothing where it does not tell.
    param([string]$Program)

    if (-not $Program) { return }
    $code = "import ctypes, platform`nprint(platform.python_version())`nfor name in '$($runtimeNames -join ' ')'.split():`n" +
        "    try: ctypes.CDLL(name + '.dll')`n    except OSError: print(name)"
    $done = Invoke-Program -Program $Program -Line '-I -' -Folder $env:SystemRoot -Text $code
    $lines = @($done.out -split "`n" | ForEach-Object { $_.Trim() } | Where-Object { $_ })
    if (-not $done.code -and $lines) { @{ version = $lines[0]; lacks = @($lines | Select-Object -Skip 1) } }
}

function Copy-CRuntime {
    # Lays the libraries of From beside a python.exe, where neither Windows nor that folder has the same or a newer one.
    param([string]$From, [string]$Folder)

    foreach ($file in Get-ChildItem -Path "$From\*.dll") {
        $ours = Get-FileVersion -Path $file.FullName
        $target = [IO.Path]::Combine($Folder, $file.Name)
        if ((Get-FileVersion -Path ([IO.Path]::Combine([Environment]::SystemDirectory, $file.Name))) -ge $ours) { continue }
        if ((Get-FileVersion -Path $target) -ge $ours) { continue }
        try { Copy-Item -LiteralPath $file.FullName -Destination $target -Force } catch { if (-not (Test-Path -LiteralPath $target)) { throw } } # an older one is in use
    }
}
