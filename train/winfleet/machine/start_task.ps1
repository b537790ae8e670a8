#Requires -Version 5.1

# Starts a program as a scheduled task of this user: it outlives the WinRM session, and nobody need be signed in. The
# call comes as JSON on standard input, so that a password is on no command line.
$ErrorActionPreference = 'Stop'
try { [Console]::OutputEncoding = New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false } catch { Write-Verbose 'no console' }
trap {
    [Console]::Error.WriteLine("$($_.Exception.Message)")
    exit 1
}
$call = [Console]::In.ReadToEnd() | ConvertFrom-Json
$user = [Security.Principal.WindowsIdentity]::GetCurrent().Name
$kinds = @{ s4u = 'S4U'; interactive = 'Interactive'; password = 'Password' }

$task = @{
    TaskName = $call.name
    TaskPath = '\winfleet\'
    Description = 'Made by winfleet for a run; remove.yml takes it away'
    Action = New-ScheduledTaskAction -Execute $call.execute -Argument $call.arguments -WorkingDirectory $call.folder
    # A task's own settings are low priority, not on battery, an end after three days, and no start while an earlier one runs.
    Settings = New-ScheduledTaskSettingsSet -Priority 4 -MultipleInstances Parallel -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -ExecutionTimeLimit ([TimeSpan]::Zero)
    Force = $true
}
if ($call.logon -eq 'password') {
    $task.User = $user
    $task.Password = $call.password
} else {
    $task.Principal = New-ScheduledTaskPrincipal -UserId $user -LogonType $kinds[$call.logon] -RunLevel Limited
}
$null = Register-ScheduledTask @task
Start-ScheduledTask -TaskName $task.TaskName -TaskPath $task.TaskPath
