# What powershell.exe -File does with a script and its words, where Program.cs is kinder: its console host makes a parameter of whatever begins with
# a dash, and splits that at its first colon; then the engine's own binder decides. LAB_FILE has the script and the words (winrshost.c).
$script, $words = $env:LAB_FILE -split [char]31
Remove-Item Env:\LAB_FILE
$command = [Management.Automation.Runspaces.Command]::new($script)
$pending = ''
foreach ($word in $words) {
    $at = $word.IndexOf(':')
    $name, $value = [NullString]::Value, $word
    if ($pending) { $name, $pending = $pending, '' }
    elseif ($word.Length -gt 1 -and $word[0] -eq '-') {
        if ($at -ge 0 -and $at -eq $word.Length - 1) { $pending = $word.TrimEnd(':'); continue }
        $name, $value = if ($at -ge 0) { $word.Substring(0, $at), $word.Substring($at + 1) } else { $word, $null }
    }
    $command.Parameters.Add([Management.Automation.Runspaces.CommandParameter]::new($name, $value))
}
$shell = [PowerShell]::Create([Management.Automation.RunspaceMode]::CurrentRunspace)
$shell.Commands.AddCommand($command).AddCommand('Out-Default').Commands[0].MergeMyResults('Error', 'Output')
$global:LASTEXITCODE = 0
try { $shell.Invoke() } catch { $Host.UI.WriteErrorLine("$($_.Exception.GetBaseException().Message)"); exit 1 }
exit $LASTEXITCODE
