#Requires -Version 5.1

# Lists what Windows PowerShell 5.1 would not understand in the given scripts, a line each: FILE KIND LINE: WHAT. Needs the parser of
# PowerShell 7, which knows what is newer. What is refused stands in the lists below, and nowhere else.
[CmdletBinding()]
param([Parameter(Mandatory)] [string] $List) # a file with a path a line

$tokensOf7 = 'QuestionMark', 'QuestionQuestion', 'QuestionQuestionEquals', 'QuestionDot', 'QuestionLBracket', 'AndAnd', 'OrOr', 'Clean'
$commandsOf7 = 'ConvertFrom-CliXml', 'ConvertFrom-Markdown', 'ConvertTo-CliXml', 'Disable-ExperimentalFeature', 'Enable-ExperimentalFeature',
    'Get-Error', 'Get-ExperimentalFeature', 'Get-MarkdownOption', 'Get-PSSubsystem', 'Get-SecureRandom', 'Get-Uptime', 'Join-String', 'Remove-Alias',
    'Remove-Service', 'Set-MarkdownOption', 'Show-Markdown', 'Start-ThreadJob', 'Switch-Process', 'Test-Json'
$parametersOf7 = @{
    'ConvertFrom-Json' = 'AsHashtable', 'DateKind', 'Depth', 'NoEnumerate'
    'ConvertFrom-SecureString' = 'AsPlainText'
    'ConvertTo-Csv' = 'NoHeader', 'QuoteFields', 'UseQuotes'
    'ConvertTo-Json' = 'AsArray', 'EnumsAsStrings', 'EscapeHandling'
    'Export-Csv' = 'IncludeTypeInformation', 'NoHeader', 'QuoteFields', 'UseQuotes'
    'ForEach-Object' = 'AsJob', 'Parallel', 'ThrottleLimit', 'TimeoutSeconds', 'UseNewRunspace'
    'Get-ChildItem' = 'FollowSymlink'
    'Get-Content' = 'AsByteStream'
    'Get-Date' = 'AsUTC', 'UnixTimeSeconds'
    'Get-Random' = 'Shuffle'
    'Import-Module' = 'UseWindowsPowerShell'
    'Invoke-RestMethod' = 'AllowUnencryptedAuthentication', 'Authentication', 'CustomMethod', 'FollowRelLink', 'Form', 'HttpVersion', 'MaximumRetryCount',
        'NoProxy', 'Resume', 'ResponseHeadersVariable', 'RetryIntervalSec', 'SkipCertificateCheck', 'SkipHeaderValidation', 'SkipHttpErrorCheck', 'SslProtocol',
        'StatusCodeVariable', 'Token'
    'Join-Path' = 'Extension'
    'New-Guid' = 'Empty', 'InputObject'
    'Read-Host' = 'MaskInput'
    'Select-Object' = 'CaseInsensitive', 'SkipIndex'
    'Select-String' = 'Culture', 'NoEmphasis', 'Raw'
    'Set-Content' = 'AsByteStream'
    'Set-Service' = 'Credential', 'Force', 'SecurityDescriptorSddl'
    'Sort-Object' = 'Bottom', 'Stable', 'Top'
    'Split-Path' = 'Extension', 'LeafBase'
    'Start-Process' = 'Environment'
    'Test-Connection' = 'IPv4', 'IPv6', 'MtuSize', 'Ping', 'Repeat', 'ResolveDestination', 'TargetName', 'TcpPort', 'Traceroute'
}
$parametersOf7['Invoke-WebRequest'] = $parametersOf7['Invoke-RestMethod']
$parametersOf7['Add-Content'] = $parametersOf7['Set-Content']
$variablesOf7 = 'EnabledExperimentalFeatures', 'IsCoreCLR', 'IsLinux', 'IsMacOS', 'IsWindows', 'PSNativeCommandArgumentPassing',
    'PSNativeCommandUseErrorActionPreference', 'PSStyle'
# of .NET 5 and later, where 5.1 has .NET Framework
$methodsOf7 = 'AppendAllBytes', 'AsSpan', 'CreateFromPem', 'CreateFromPemFile', 'ExportCertificatePem', 'ExportPkcs8PrivateKey', 'ExportRSAPrivateKey', 'Fill',
    'FromHexString', 'GetItems', 'GetRelativePath', 'HashData', 'ReadAllTextAsync', 'ReplaceLineEndings', 'ToHexString', 'WriteAllTextAsync'
$typesOf7 = 'semver', 'System.Management.Automation.SemanticVersion', 'System.Text.Json.JsonSerializer', 'System.OperatingSystem', 'OperatingSystem'
$encodingsOf7 = 'ansi', 'utf8BOM', 'utf8NoBOM'
$verbs = 'Add', 'Assert', 'Clear', 'Close', 'Compare', 'Confirm', 'ConvertFrom', 'ConvertTo', 'Copy', 'Disable', 'Enable', 'Exit', 'Export', 'Find', 'Format', 'Get',
    'Grant', 'Import', 'Install', 'Invoke', 'Join', 'Measure', 'Move', 'New', 'Open', 'Out', 'Read', 'Register', 'Remove', 'Rename', 'Repair', 'Reset',
    'Resolve', 'Restart', 'Restore', 'Resume', 'Revoke', 'Save', 'Select', 'Send', 'Set', 'Show', 'Split', 'Start', 'Stop', 'Suspend', 'Test', 'Trace',
    'Uninstall', 'Unregister', 'Update', 'Use', 'Wait', 'Watch', 'Write'

function Find-Node {
    [CmdletBinding()]
    param([Parameter(Mandatory)] [object] $Tree, [Parameter(Mandatory)] [string] $Kind)

    $Tree.FindAll({ $args[0].GetType().Name -eq $Kind }.GetNewClosure(), $true)
}

function Find-Newer {
    [CmdletBinding()]
    param([Parameter(Mandatory)] [string] $Path)

    $tokens = $null
    $errors = $null
    $tree = [System.Management.Automation.Language.Parser]::ParseFile($Path, [ref]$tokens, [ref]$errors)
    foreach ($one in $errors) { 'error {0}: {1}' -f $one.Extent.StartLineNumber, $one.Message }
    foreach ($one in $tokens) {
        if ("$($one.Kind)" -in $tokensOf7) { 'token {0}: {1}' -f $one.Extent.StartLineNumber, $one.Text }
        # 0b101, and the suffixes of integers beside l and d
        if ("$($one.Kind)" -eq 'Number' -and $one.Text -match '^0b|^(0x[0-9a-f]+|\d+)(u|ul|y|uy|s|us|n)$') { 'number {0}: {1}' -f $one.Extent.StartLineNumber, $one.Text }
    }
    if ($tree.ScriptRequirements -and $tree.ScriptRequirements.RequiredPSVersion -gt [version]'5.1') { 'requires 1: {0}' -f $tree.ScriptRequirements.RequiredPSVersion }
    foreach ($one in Find-Node -Tree $tree -Kind PipelineAst) {
        if ($one.Background) { 'background {0}: &' -f $one.Extent.StartLineNumber }
    }
    foreach ($one in Find-Node -Tree $tree -Kind CommandAst) {
        $line = $one.Extent.StartLineNumber
        $name = "$($one.GetCommandName())"
        if ($name -in $commandsOf7) { "command ${line}: $name" }
        $before = $null
        foreach ($part in $one.CommandElements) {
            if ($part -is [System.Management.Automation.Language.CommandParameterAst]) {
                if ($parametersOf7[$name] -contains $part.ParameterName) { "parameter $($part.Extent.StartLineNumber): $name -$($part.ParameterName)" }
                $before = $part.ParameterName
                continue
            }
            if ($before -eq 'Encoding' -and "$part" -in $encodingsOf7) { "encoding $($part.Extent.StartLineNumber): $part" }
            $before = $null
        }
        # the third part of a path, where 5.1 knows two
        $parts = @($one.CommandElements | Where-Object { $_ -isnot [System.Management.Automation.Language.CommandParameterAst] })
        if ($name -eq 'Join-Path' -and $parts.Count -gt 3) { "parameter ${line}: Join-Path with more than two parts" }
    }
    foreach ($one in Find-Node -Tree $tree -Kind VariableExpressionAst) {
        if ("$($one.VariablePath)" -in $variablesOf7) { "variable $($one.Extent.StartLineNumber): $one" }
    }
    foreach ($one in Find-Node -Tree $tree -Kind InvokeMemberExpressionAst) {
        if ("$($one.Member)" -in $methodsOf7) { "method $($one.Extent.StartLineNumber): $($one.Member)" }
    }
    foreach ($kind in 'TypeExpressionAst', 'TypeConstraintAst') {
        foreach ($one in Find-Node -Tree $tree -Kind $kind) {
            if ($one.TypeName.FullName -in $typesOf7) { "type $($one.Extent.StartLineNumber): $($one.TypeName.FullName)" }
        }
    }
    foreach ($one in Find-Node -Tree $tree -Kind FunctionDefinitionAst) {
        if (($one.Name -split '-')[0] -notin $verbs) { "verb $($one.Extent.StartLineNumber): $($one.Name)" }
    }
}

foreach ($path in [IO.File]::ReadAllLines($List)) {
    foreach ($found in Find-Newer -Path $path) { "$(Split-Path -Path $path -Leaf) $found" }
}
