# What the three .cmd files beside it hand their words to: binds them, and runs the script of the same name. powershell.exe -File would take
# --, a colon and --config for its own (PowerShell issues 16432, 20208); words on its command line behind a comment stay as they were typed.
#Requires -Version 5.1
Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'

function Read-Word([string]$Packed) {
    # What Format-Word has packed.
    $parts = [Text.Encoding]::Unicode.GetString([Convert]::FromBase64String($Packed)).Split([char]0)
    $parts | Select-Object -Skip 1 | Select-Object -First ($parts.Count - 2)
}

function Format-Word([string[]]$Words) {
    [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes((@('words') + $Words + '' -join [char]0)))
}

function Find-Parameter([string]$Word, $Parameters) {
    # The parameters that -Word may stand for: that name, or all that begin so.
    if ($Word -notmatch '^-[A-Za-z]+$') { return }
    $name = $Word.Substring(1)
    if ($Parameters.ContainsKey($name)) { return $name }
    $Parameters.Keys | Where-Object { $_ -like "$name*" }
}

function Split-Word([string[]]$Words, $Parameters) {
    # What the script's parameters get, and the rest, untouched: all behind -- and all that is no parameter.
    $named, $rest = @{}, @()
    $takesRest = @($Parameters.Values | ForEach-Object { $_.Attributes } | Where-Object { $_ -is [Management.Automation.ParameterAttribute] -and $_.ValueFromRemainingArguments }).Count
    for ($place = 0; $place -lt $Words.Count; $place++) {
        $word = $Words[$place]
        if ($word -ceq '--') { $rest += @($Words | Select-Object -Skip ($place + 1)); break }
        $found = @(Find-Parameter $word $Parameters)
        if ($found.Count -gt 1) { throw "$word may be -$($found -join ' or -')`nhint: write it out, or put -- before the words of your own script" }
        if (-not $found) {
            if (-not $takesRest -and $word -like '-*') { throw "there is no $word`nhint: the parameters are -$(@($Parameters.Keys | Where-Object { $_ -notin [Management.Automation.PSCmdlet]::CommonParameters }) -join ', -')" }
            $rest += $word
        } elseif ($Parameters[$found[0]].SwitchParameter) { $named[$found[0]] = $true }
        elseif ($place + 1 -ge $Words.Count) { throw "$word needs a value behind it" }
        else { $place++; $named[$found[0]] = $Words[$place] }
    }
    $named, $rest
}

function Start-Elevated([string]$Door, [string[]]$Words) {
    # An elevated process inherits no variables and sees no mapped drives.
    $share = if ($Door -match '^[A-Za-z]:') { Get-CimInstance Win32_LogicalDisk -Filter "DeviceID='$($Door.Substring(0, 2))'" | Where-Object { $_.DriveType -eq 4 } | ForEach-Object { $_.ProviderName } }
    if ($share) { $Door = $share + $Door.Substring(2) }
    $lost = 'echo error: the administrator does not see this folder& echo hint: copy it to a disk of this PC, and run it there& pause'
    try { Start-Process -Verb RunAs -FilePath $env:ComSpec -ArgumentList "/d /c if exist `"$Door`" (`"$Door`" --elevated $(Format-Word $Words)) else ($lost)" }
    catch { throw "administrator rights were not given, so nothing was changed`nhint: run this again and answer Yes, or ask whoever administers this PC" }
}

$door = $env:WINFLEET_DOOR
$words = @([Environment]::GetCommandLineArgs() | Select-Object -Skip 6) # powershell -NoProfile -ExecutionPolicy Bypass -Command TEXT
$elevated = $words.Count -gt 0 -and $words[0] -ceq '--elevated'
$isWaiting = $elevated -or -not $words # a window that would close: a double click's, or the elevated one
$code = 2
try {
    if ($elevated) { $words = @(Read-Word $words[1]) }
    if ($env:WINFLEET_ELEVATE -and -not $elevated) { Start-Elevated $door $words; $isWaiting = $false; $code = 0 }
    else {
        $script = $ExecutionContext.InvokeCommand.GetCommand([IO.Path]::ChangeExtension($door, '.ps1'), 'ExternalScript')
        if (-not $script) { throw "there is no $([IO.Path]::ChangeExtension($door, '.ps1'))`nhint: unpack the whole zip first, and copy the whole folder scripts" }
        $named, $rest = Split-Word $words $script.Parameters
        foreach ($one in @($env:WINFLEET_ALWAYS | Where-Object { $_ })) { $named[$one] = $true }
        $global:LASTEXITCODE = 0 # for a script that runs to its end
        & $script @named @rest
        $code = $LASTEXITCODE
    }
} catch { $Host.UI.WriteErrorLine("error: $($_.Exception.Message)") }
if ($isWaiting) { & $env:ComSpec /d /c pause }
exit $code
