<#
.SYNOPSIS
Opens this Windows PC to the winfleet master, and takes that back. 이 PC를 winfleet 워커로 준비하고, 되돌립니다.
.DESCRIPTION
Enables PowerShell remoting (also on a Public network), makes an HTTPS listener on port 5986 with a certificate of its own, opens the
firewall for it, and writes <host>.worker.yml, from which the master knows this PC and its certificate. Basic and unencrypted
connections stay off; port 5985 stays closed if it was. The earlier state is kept in %ProgramData%\winfleet\setup.json.
Needs administrator rights, takes under a minute, and may be run again at any time.
.PARAMETER MasterIP
IPv4 address of the master. WinRM is opened to it alone; without it to the local subnet, or to the master of an earlier run.
.PARAMETER CreateUser
Makes the local administrator `winfleet`, for PCs whose owner signs in with a Microsoft account or without a password.
.PARAMETER Remove
Takes back what this script did here.
.PARAMETER OutFile
Where to write the worker's file. Default: <host>.worker.yml beside this script, or in %ProgramData%\winfleet.
.EXAMPLE
.\scripts\worker_setup.ps1 -MasterIP 192.168.1.100
.EXAMPLE
.\scripts\worker_setup.ps1 -Remove -WhatIf
#>
#Requires -Version 5.1
[CmdletBinding(SupportsShouldProcess)]
param([string]$MasterIP, [switch]$CreateUser, [switch]$Remove, [string]$OutFile)

Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue' # progress bars cost seconds in Windows PowerShell

$computer = $env:COMPUTERNAME
$folder = Join-Path $env:ProgramData 'winfleet'
$setupFile = Join-Path $folder 'setup.json'
$policyKey = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'
$policyName = 'LocalAccountTokenFilterPolicy'
$trustedHosts = 'WSMan:\localhost\Client\TrustedHosts'
$store = 'Cert:\LocalMachine\My'
$ruleName = 'winfleet-winrm-https'
$listenerUri = 'winrm/config/Listener'
$https = @{ Address = '*'; Transport = 'HTTPS' }
$utf8 = New-Object Text.UTF8Encoding $false # without BOM
$changes = @()
$setup = @{}

# ---- what everything else stands on ----
function Invoke-Change {
    # Does one change, or says under -WhatIf that it would.
    [CmdletBinding(SupportsShouldProcess)]
    param([Parameter(Mandatory)][string]$Change, [Parameter(Mandatory)][string]$Sentence, [Parameter(Mandatory)][scriptblock]$Action)
    if (-not $PSCmdlet.ShouldProcess($computer, $Sentence)) { return }
    $null = & $Action
    $script:changes += $Change
    Write-Host "  + $Sentence"
}

function Write-Note([string]$Text) { Write-Host "  - $Text" }
function Write-Fact([string]$Name, $Value) { Write-Host ('  {0,-9} {1}' -f $Name, $Value) }

function Invoke-Program([string]$Path, [string[]]$Arguments) {
    # Output of a program that may be missing or may fail: then nothing.
    $ErrorActionPreference = 'Continue' # in 5.1 a line on stderr would be an exception
    try { $lines = & $Path @Arguments 2>$null; if ($LASTEXITCODE -eq 0) { $lines } } catch { Write-Verbose "$_" }
}

function Read-Setup {
    if (-not (Test-Path -LiteralPath $setupFile)) { return }
    # Anybody may make files below %ProgramData%: only what an administrator wrote is believed.
    $owner = (Get-Acl -LiteralPath $setupFile).GetOwner([Security.Principal.SecurityIdentifier]).Value
    if ($owner -notin 'S-1-5-18', 'S-1-5-32-544', [Security.Principal.WindowsIdentity]::GetCurrent().User.Value) {
        throw "$setupFile belongs to $owner, not to an administrator: look at it, remove it, and run this again"
    }
    try { $read = ConvertFrom-Json ([IO.File]::ReadAllText($setupFile)) }
    catch { throw "$setupFile is damaged, so the earlier state is not known: remove the file and run this again" }
    foreach ($property in $read.PSObject.Properties) { $setup[$property.Name] = $property.Value }
}

function Write-Setup {
    if (-not (Test-Path -LiteralPath $folder)) {
        $null = [IO.Directory]::CreateDirectory($folder) # full rights to SYSTEM and Administrators, reading to Users
        $null = Invoke-Program icacls.exe @($folder, '/inheritance:r', '/grant:r', '*S-1-5-18:(OI)(CI)F', '*S-1-5-32-544:(OI)(CI)F', '*S-1-5-32-545:(OI)(CI)RX')
    }
    [IO.File]::WriteAllText("$setupFile.new", (ConvertTo-Json $setup -Depth 6), $utf8)
    Move-Item -LiteralPath "$setupFile.new" -Destination $setupFile -Force
}

# Every change first writes down what was there before it; the first note stays, whatever later runs find.
function Save-Earlier([string]$Key, $Value) { if (-not $setup.ContainsKey($Key)) { $setup[$Key] = $Value; Write-Setup } }
function Clear-Earlier([string]$Key) { if ($setup.ContainsKey($Key)) { $setup.Remove($Key); Write-Setup } }

function Assert-Ready {
    $me = New-Object Security.Principal.WindowsPrincipal ([Security.Principal.WindowsIdentity]::GetCurrent())
    if (-not $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
        throw 'this needs administrator rights: double-click scripts\worker_setup.cmd (관리자 권한이 필요합니다: worker_setup.cmd를 더블클릭하십시오)'
    }
    $part = '(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)'
    if ($masterGiven -and ($MasterIP -notmatch "^$part(\.$part){3}\z" -or $MasterIP -match '^(0|127|22[4-9]|2[3-5]\d)\.')) {
        throw "-MasterIP `"$MasterIP`" is not the IPv4 address of a PC: give it as in -MasterIP 192.168.1.100 (마스터의 IPv4 주소가 아닙니다)"
    }
    if (-not (Test-FirewallService)) {
        throw "the service of Windows' firewall (mpssvc) does not run, and without it no rule can be set or taken back (Windows 방화벽 서비스가 꺼져 있습니다)`nhint: Set-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Services\mpssvc Start 2, restart this PC, and run this again"
    }
}

# ---- looking ----
function Test-WinRM { "$((Get-Service WinRM).Status)" -eq 'Running' }
function Get-OurCertificate { Get-ChildItem $store | Where-Object { $_.FriendlyName -eq 'winfleet' -and $_.HasPrivateKey } }
function Get-WinRMRule { Get-NetFirewallRule -Name 'WINRM-*' -ErrorAction SilentlyContinue }

function Get-Policy([string]$Name = $policyName) {
    $values = Get-ItemProperty -LiteralPath $policyKey -ErrorAction SilentlyContinue
    if ($values -and $values.PSObject.Properties[$Name]) { $values.$Name }
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

function Get-Listener([string]$Transport, [string]$Address = '*') {
    if (Test-WinRM) { Get-WSManInstance $listenerUri -Enumerate | Where-Object { $_.Transport -eq $Transport -and $_.Address -like $Address } }
}

function Get-SessionConfiguration {
    # Who may open PowerShell sessions: each configuration's descriptor. Nothing where Windows does not tell.
    if (-not (Test-WinRM)) { return }
    try { $found = @(Get-PSSessionConfiguration -WarningAction SilentlyContinue) } catch { $found = @() }
    foreach ($one in $found) {
        $sddl = $one.PSObject.Properties['SecurityDescriptorSddl']
        $on = $one.PSObject.Properties['Enabled']
        @{ name = $one.Name; sddl = $(if ($sddl) { "$($sddl.Value)" } else { '' }); enabled = -not ($on -and "$($on.Value)" -eq 'False') }
    }
}

function Get-Address {
    $cards = @(Get-NetAdapter)
    $physical = @(Get-NetAdapter -Physical -ErrorAction SilentlyContinue | ForEach-Object { $_.ifIndex }) # not those of WSL, Hyper-V and VPNs
    foreach ($ip in @(Get-NetIPAddress -AddressFamily IPv4 | Where-Object { $_.IPAddress -notlike '127.*' -and "$($_.AddressState)" -eq 'Preferred' })) {
        $card = $cards | Where-Object { $_.ifIndex -eq $ip.InterfaceIndex } | Select-Object -First 1
        $speed = if ($card -and $card.Speed -and $card.Speed -lt 1e13) { [int][Math]::Round($card.Speed / 1e6) } else { 0 } # 2^64-1: unknown
        # not called `address`: every .NET array has a method of that name
        [pscustomobject]@{ name = $ip.InterfaceAlias; ip = $ip.IPAddress; mbps = $speed; index = $ip.InterfaceIndex; lasting = $physical -contains $ip.InterfaceIndex }
    }
}

function Find-OwnAddress($Addresses, [string]$Target) {
    # The address from which Windows would send there: in the target's subnet, if there is one, else on the default route. Sends nothing.
    $socket = New-Object Net.Sockets.Socket 'InterNetwork', 'Dgram', 'Udp'
    try { $socket.Connect($Target, 9); $own = "$($socket.LocalEndPoint.Address)" } catch { $own = '' } finally { $socket.Close() }
    if ($Addresses.ip -contains $own) { $own } else { @(@($Addresses | Where-Object { $_.lasting }) + $Addresses)[0].ip }
}

function Test-Certificate($Certificate, $Addresses) {
    # Is it good for a month, self-signed, and for all these addresses? In a certificate an address is tag 87, length 04, four bytes.
    $now = Get-Date
    if ($Certificate.NotAfter -lt $now.AddDays(30) -or $Certificate.NotBefore -gt $now -or $Certificate.Issuer -ne $Certificate.Subject) { return $false }
    $names = $Certificate.Extensions | Where-Object { $_.Oid.Value -eq '2.5.29.17' } | Select-Object -First 1
    if (-not $names) { return $false }
    $hex = [BitConverter]::ToString($names.RawData)
    -not ($Addresses | Where-Object { $hex -notlike "*87-04-$([BitConverter]::ToString(([Net.IPAddress]$_.ip).GetAddressBytes()))*" })
}

function Get-Account {
    # The account that the master shall use, and what is wrong with it as far as Windows tells.
    if ($CreateUser -or $setup.ContainsKey('account')) { return @{ name = 'winfleet'; filtered = $true; trouble = '' } }
    $me = [Security.Principal.WindowsIdentity]::GetCurrent()
    $domain, $name = $me.Name -split '\\', 2
    $account = @{ name = $me.Name; filtered = $false; trouble = '' }
    if ($me.User.Value -like 'S-1-12-1-*') { $account.trouble = 'signs in through Entra ID (Azure AD), which NTLM cannot do' }
    elseif ($me.User.Value -notlike 'S-1-5-21-*') { $account.trouble = 'is a service account and has no password' }
    if ($domain -ne $computer) { return $account }
    $account.name = $name
    $account.filtered = $me.User.Value -notlike '*-500' # the built-in Administrator keeps its rights over the network
    if ($account.filtered -and (Get-Policy TypeOfAdminApprovalMode) -eq 2) {
        $account.trouble = 'is the hidden one that Administrator protection elevates with, and nobody knows its password (관리자 보호)'
        return $account
    }
    try { $user = Get-LocalUser -SID $me.User.Value } catch { return $account }
    if ("$($user.PrincipalSource)" -eq 'MicrosoftAccount') { $account.trouble = 'is a Microsoft account: the master may not be able to sign in with it (Microsoft 계정)' }
    elseif (-not $user.PasswordLastSet) { $account.trouble = 'seems to have no password, and Windows lets nobody in over the network without one (암호 없음)' }
    elseif (-not $user.PasswordRequired) { $account.trouble = 'needs no password here: if it has none, the master cannot sign in (암호가 없으면 접속할 수 없습니다)' }
    $account
}

function Find-NvidiaSmi {
    # NVIDIA's own tool: on PATH, or where older drivers put it; nothing without a driver.
    @(Get-Command -Name nvidia-smi.exe -CommandType Application -ErrorAction SilentlyContinue | ForEach-Object { $_.Source }) +
        "$env:ProgramFiles\NVIDIA Corporation\NVSMI\nvidia-smi.exe" | Where-Object { Test-Path -LiteralPath $_ } | Select-Object -First 1
}

function Get-Gpu {
    $program = Find-NvidiaSmi
    $lines = if ($program) { Invoke-Program $program @('--query-gpu=name,memory.total,driver_version', '--format=csv,noheader,nounits') }
    foreach ($line in $lines) {
        $name, $memory, $driver = "$line" -split '\s*,\s*'
        @{ name = $name; memory_mib = $(if ($memory -match '^\d+$') { [int]$memory } else { 0 }); driver = $driver }
    }
    if ($lines) { return }
    foreach ($card in @(Get-CimInstance Win32_VideoController)) { # it tells of 4 GiB at most
        @{ name = $card.Name; memory_mib = [int]([double]$card.AdapterRAM / 1MB); driver = $card.DriverVersion }
    }
}

function Get-PythonVersion {
    $found = Get-Command python.exe, py.exe -All -CommandType Application -ErrorAction SilentlyContinue
    foreach ($one in @($found | Where-Object { $_.Source -notlike '*\WindowsApps\*' })) { # there lies the Store's stub
        if ("$(Invoke-Program $one.Source @('--version'))" -match '^Python (\S+)') { return $Matches[1] }
    }
}

# ---- changing: remoting ----
function Enable-Remoting {
    $service = Get-Service WinRM
    if (-not (Test-WinRM) -or "$($service.StartType)" -ne 'Automatic') {
        Invoke-Change service 'WinRM runs, and starts with Windows' {
            Save-Earlier service @{ start = "$($service.StartType)"; status = "$($service.Status)" }
            Set-Service WinRM -StartupType Automatic
            Start-Service WinRM
        }
    }
    if ((Test-WinRM) -and $setup['service'] -and $setup['service'].status -ne 'Running' -and -not $setup.ContainsKey('quiet')) {
        # The service did not run, so its listeners were closed: those for HTTP are switched off.
        $asleep = @(Get-Listener HTTP | Where-Object { "$($_.Enabled)" -eq 'true' } | ForEach-Object { $_.Address })
        if ($asleep) { Invoke-Change quiet 'Port 5985, closed so far, stays closed' { Save-Earlier quiet $asleep; Set-Http $asleep 'false' } }
        elseif (-not $WhatIfPreference) { Save-Earlier quiet @() }
    }
    $sessions = @(Get-SessionConfiguration) # NU: whoever comes over the network
    $open = $sessions | Where-Object { $_.name -match '^(microsoft\.powershell|PowerShell\.\d+)$' -and $_.enabled -and $_.sddl -notmatch '\(D;[^)]*;(NU|S-1-5-2)\)' }
    if (-not $open -and ($sessions -or -not $setup.ContainsKey('sessions'))) {
        Invoke-Change remoting 'PowerShell remoting is enabled' {
            Save-Earlier sessions $sessions
            Save-Earlier policy (Get-Policy)
            $rules = @(Get-WinRMRule)
            Save-Earlier enabling @{
                http = @(Get-Listener HTTP | ForEach-Object { $_.Address }); known = @($rules | ForEach-Object { $_.Name })
                on = @($rules | Where-Object { "$($_.Enabled)" -eq 'True' } | ForEach-Object { $_.Name })
            }
            Enable-PSRemoting -Force -SkipNetworkProfileCheck -WarningAction SilentlyContinue
        }
    }
    if ($setup.ContainsKey('enabling')) { Invoke-Change http 'Port 5985 is as it was before' { Reset-Http } }
}

function Set-Http($Addresses, [string]$Enabled) {
    foreach ($one in @(Get-Listener HTTP | Where-Object { $Addresses -contains $_.Address })) {
        Set-WSManInstance $listenerUri -SelectorSet @{ Address = $one.Address; Transport = 'HTTP' } -ValueSet @{ Enabled = $Enabled }
    }
}

function Reset-Http {
    # Enable-PSRemoting makes an HTTP listener and enables the rules for 5985: what was not there before goes again.
    $was = $setup['enabling']
    foreach ($one in @(Get-Listener HTTP | Where-Object { @($was.http) -notcontains $_.Address })) {
        Remove-WSManInstance $listenerUri -SelectorSet @{ Address = $one.Address; Transport = 'HTTP' }
    }
    foreach ($rule in @(Get-WinRMRule)) {
        if (@($was.known) -notcontains $rule.Name) { Remove-NetFirewallRule -Name $rule.Name }
        elseif (@($was.on) -notcontains $rule.Name -and "$($rule.Enabled)" -eq 'True') { Disable-NetFirewallRule -Name $rule.Name }
    }
    Clear-Earlier enabling
}

function Restore-SessionConfiguration($Was) {
    if (-not $Was) { Write-Warning 'Who may open PowerShell sessions was not known before: Disable-PSRemoting closes them.'; return }
    foreach ($now in @(Get-SessionConfiguration)) {
        $then = $Was | Where-Object { $_.name -eq $now.name } | Select-Object -First 1
        $quietly = @{ Name = $now.name; Force = $true; NoServiceRestart = $true; WarningAction = 'SilentlyContinue' }
        if (-not $then) { Unregister-PSSessionConfiguration @quietly; continue }
        if ($then.sddl -and $then.sddl -ne $now.sddl) { $null = Set-PSSessionConfiguration @quietly -SecurityDescriptorSddl $then.sddl }
        if (-not $then.enabled -and $now.enabled) { Disable-PSSessionConfiguration @quietly }
    }
}

function Set-Policy($Value) {
    if ($null -eq $Value) { Remove-ItemProperty -LiteralPath $policyKey -Name $policyName; return }
    if (-not (Test-Path -LiteralPath $policyKey)) { $null = New-Item $policyKey -Force } # -Force on a key that is there would empty it
    $null = New-ItemProperty -LiteralPath $policyKey -Name $policyName -Value $Value -PropertyType DWord -Force
}

function New-Account {
    if (-not $WhatIfPreference) { Save-Earlier account winfleet }
    if (-not (Get-LocalUser -Name winfleet -ErrorAction SilentlyContinue)) {
        Invoke-Change user 'The local account winfleet is made' {
            $password = $null
            try { $password = Read-Host 'Password for winfleet, Enter: one is made (winfleet 계정의 암호, Enter: 자동 생성)' -AsSecureString } catch { Write-Verbose "$_" }
            if (-not $password -or -not $password.Length) {
                $letters = 'abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789'
                $random = New-Object byte[] 20
                [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($random)
                $made = 'Wf7-' + -join ($random | ForEach-Object { $letters[$_ % $letters.Length] })
                $password = New-Object Security.SecureString
                $made.ToCharArray() | ForEach-Object { $password.AppendChar($_) }
                Write-Host "  Password of winfleet, shown only now (지금만 표시됩니다): $made"
            }
            Save-Earlier user $true
            New-LocalUser -Name winfleet -Password $password -AccountNeverExpires -PasswordNeverExpires -Description 'The winfleet master signs in with this account'
        }
    } elseif (-not $setup.ContainsKey('user')) { Write-Note 'The account winfleet was here before: it is used, and its password stays as it is.' }
    try { $members = @(Get-LocalGroupMember -SID S-1-5-32-544 | ForEach-Object { ($_.Name -split '\\')[-1] }) } catch { $members = @() } # fails on orphaned members
    if ($members -notcontains 'winfleet') {
        Invoke-Change administrator 'winfleet is an administrator' {
            Save-Earlier administrator $true
            try { Add-LocalGroupMember -SID S-1-5-32-544 -Member winfleet } catch { if ($_.FullyQualifiedErrorId -notlike 'MemberExists*') { throw } }
        }
    }
}

# ---- changing: the door ----
function New-OurCertificate($Addresses) {
    $names = @([Net.Dns]::GetHostName(), $computer | Sort-Object -Unique | ForEach-Object { 'DNS=' + (New-Object Globalization.IdnMapping).GetAscii($_) })
    $names += @($Addresses | ForEach-Object { "IPAddress=$($_.ip)" })
    # 2.5.29.17 the names, 2.5.29.37 for servers; a day back, for PCs whose clock is ahead of the master's
    $made = New-SelfSignedCertificate -CertStoreLocation $store -Subject "CN=$computer" -FriendlyName winfleet -NotBefore (Get-Date).AddDays(-1) `
        -NotAfter (Get-Date).AddYears(5) -TextExtension "2.5.29.17={text}$($names -join '&')", '2.5.29.37={text}1.3.6.1.5.5.7.3.1'
    $script:thumbprint = $made.Thumbprint # in PowerShell 7 this object is a copy without methods: the caller reads the certificate anew
    Save-Earlier certificate $true
}

function Set-Listener($Addresses) {
    # Puts our certificate behind the HTTPS listener, or leaves the user's own if the master can check that. Returns the certificate.
    $listener = Get-Listener HTTPS | Where-Object { $_.Address -eq '*' } | Select-Object -First 1
    $was = if ($listener) { @{ CertificateThumbprint = "$($listener.CertificateThumbprint)" -replace '\s'; Hostname = "$($listener.Hostname)"; Port = "$($listener.Port)"; Enabled = "$($listener.Enabled)" } }
    $served = if ($listener) { Get-ChildItem $store | Where-Object { $_.Thumbprint -eq $was.CertificateThumbprint } }
    $sound = $listener -and $was.Port -eq '5986' -and $was.Enabled -eq 'true'
    $ours = $served -and $served.FriendlyName -eq 'winfleet'
    if ($sound -and $served -and -not $ours -and (Test-Certificate $served $Addresses)) {
        Write-Note "The HTTPS listener with the certificate $($served.Thumbprint) was here before and stays as it is."
        return $served
    }
    $certificate = Get-OurCertificate | Where-Object { ($_.Subject -eq "CN=$computer" -or $_.Subject -like "CN=$computer, OU=winfleet *") -and (Test-Certificate $_ $Addresses) } | Sort-Object NotAfter | Select-Object -Last 1
    if (-not $certificate) {
        Invoke-Change certificate 'A certificate for this PC and its addresses is made' { New-OurCertificate $Addresses }
        if (-not $WhatIfPreference) { $certificate = Get-Item -LiteralPath "$store\$thumbprint" }
    }
    $values = @{ Hostname = $computer; Port = '5986'; Enabled = 'true' }
    if ($certificate) { $values.CertificateThumbprint = $certificate.Thumbprint }
    if (-not $listener) {
        Invoke-Change listener 'WinRM listens with HTTPS on port 5986' { Save-Earlier listener $null; New-WSManInstance $listenerUri -SelectorSet $https -ValueSet $values }
    } elseif (-not $sound -or -not $certificate -or $was.CertificateThumbprint -ne $certificate.Thumbprint) {
        if (-not $ours) { Write-Note "The HTTPS listener here had port $($was.Port) and the certificate $($was.CertificateThumbprint): -Remove gives them back." }
        Invoke-Change listener 'The HTTPS listener has port 5986 and our certificate' {
            Save-Earlier listener $(if (-not $ours) { $was })
            Set-WSManInstance $listenerUri -SelectorSet $https -ValueSet $values
        }
    }
    if (-not $certificate) { return }
    $old = @(Get-OurCertificate | Where-Object { $_.Thumbprint -ne $certificate.Thumbprint })
    if ($old) { Invoke-Change 'old certificate' 'Our certificate of before is removed' { $old | ForEach-Object { Remove-OurCertificate $_ } } }
    $certificate
}

function Remove-OurCertificate($Certificate) {
    $key = [Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($Certificate)
    if ($key -and $key.PSObject.Properties['Key']) { $key.Key.Delete() } # else the key's file would stay
    Remove-Item -LiteralPath "$store\$($Certificate.Thumbprint)"
}

function Set-Rule([string]$Remote) {
    $name = if ($setup.ContainsKey('rule')) { $setup['rule'] } else { $ruleName }
    $rule = Get-NetFirewallRule -Name $name -ErrorAction SilentlyContinue
    if ($rule -and -not $setup.ContainsKey('rule')) {
        if ("$($rule.Group)" -eq 'winfleet') { Write-Note "The firewall rule $name was here before, in our group: it is used, and -Remove takes it away." }
        else {
            Write-Note "The firewall rule $name was made by hand: it stays as it is, and ours is $name-2."
            $name = "$name-2"
            $rule = Get-NetFirewallRule -Name $name -ErrorAction SilentlyContinue
        }
    }
    $wanted = @{ Enabled = 'True'; Direction = 'Inbound'; Action = 'Allow'; Profile = 'Any'; Protocol = 'TCP'; LocalPort = '5986'; RemoteAddress = $Remote }
    if ($rule) {
        $port = $rule | Get-NetFirewallPortFilter
        $now = "$($rule.Enabled) $($rule.Direction) $($rule.Action) $($rule.Profile) $($port.Protocol) $($port.LocalPort) $(($rule | Get-NetFirewallAddressFilter).RemoteAddress)"
        if ($now -eq "True Inbound Allow Any TCP 5986 $Remote") { return }
    }
    Invoke-Change rule "The firewall lets $Remote in on TCP port 5986" {
        Save-Earlier rule $name
        if ($rule) { Set-NetFirewallRule -Name $name @wanted }
        else { New-NetFirewallRule -Name $name -Group winfleet -DisplayName 'winfleet: WinRM over HTTPS' -Description 'worker_setup.ps1 -Remove removes it' @wanted }
    }
}

function Get-TrustedHost {
    # The list without our entry, as the user wrote it.
    if (Test-WinRM) { ("$((Get-Item $trustedHosts).Value)" -replace "(^|,)\s*$([regex]::Escape("$($setup['trust'])"))\s*(?=,|`$)").TrimStart(',') }
}

function Set-Trust([string]$Master) {
    $others = "$(Get-TrustedHost)"
    $wanted = (@($others, $Master) | Where-Object { $_ }) -join ','
    if (@($others -split '[,\s]+') -contains '*' -or @($others -split '[,\s]+') -contains $Master) { return }
    if ((Test-WinRM) -and "$((Get-Item $trustedHosts).Value)" -eq $wanted) { return }
    Invoke-Change trust "TrustedHosts contains $Master" {
        $setup['trust'] = $Master # in place of the master of an earlier run
        Write-Setup
        Set-Item $trustedHosts -Value $wanted -Force
    }
}

# ---- the worker's file ----
function Get-Fact($Addresses, [string]$Own) {
    $windows = Get-CimInstance Win32_OperatingSystem
    $index = ($Addresses | Where-Object { $_.ip -eq $Own } | Select-Object -First 1).index
    $network = Get-NetConnectionProfile -ErrorAction SilentlyContinue | Where-Object { $_.InterfaceIndex -eq $index } | Select-Object -First 1
    @{
        windows = $windows.Version; edition = $windows.Caption; python = Get-PythonVersion; gpus = @(Get-Gpu); adapters = $Addresses
        network_category = $(if ($network) { "$($network.NetworkCategory)" }); ram_gib = [Math]::Round((Get-CimInstance Win32_ComputerSystem).TotalPhysicalMemory / 1GB, 1)
        disk_free_gb = [Math]::Round(([IO.DriveInfo]$env:SystemDrive).AvailableFreeSpace / 1e9, 1)
    }
}

function Write-Facts($Facts) {
    Write-Host ''
    Write-Fact Host $computer
    foreach ($one in $Facts.adapters) {
        $speed = if ($one.mbps) { "$($one.mbps) Mbit/s" } else { 'speed unknown' }
        Write-Fact Address "$($one.ip)  $($one.name)  $speed$(if (-not $one.lasting) { '  virtual, not in the certificate' })"
    }
    Write-Fact Windows "$($Facts.edition) $($Facts.windows), network $($Facts.network_category)"
    Write-Fact Memory "$($Facts.ram_gib) GiB"
    Write-Fact Disk "$($Facts.disk_free_gb) GB free"
    foreach ($one in $Facts.gpus) { Write-Fact GPU "$($one.name)  $($one.memory_mib) MiB  driver $($one.driver)" }
    if (-not $Facts.gpus) { Write-Fact GPU none }
    Write-Fact Python $(if ($Facts.python) { $Facts.python } else { 'none (winfleet brings its own)' })
}

function ConvertTo-Quoted($Text) { if ("$Text") { "'" + ("$Text" -replace '[\x00-\x1f\x7f-\x9f]', ' ' -replace "'", "''") + "'" } else { 'null' } }

function Write-Worker($Facts, [string]$Own, [string]$User, $Certificate) {
    $digest = [BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($Certificate.RawData)) -replace '-', ':'
    Write-Fact SHA-256 $digest
    $lines = @(
        "# A worker of winfleet, written by worker_setup.ps1: add it on the master. Nothing in it is secret."
        "name: $(ConvertTo-Quoted $computer)", "address: $(ConvertTo-Quoted $Own)", 'port: 5986', "user: $(ConvertTo-Quoted $User)"
        "certificate_sha256: $(ConvertTo-Quoted $digest)", 'certificate: |', '  -----BEGIN CERTIFICATE-----'
        [regex]::Matches([Convert]::ToBase64String($Certificate.RawData), '.{1,64}') | ForEach-Object { "  $($_.Value)" }
        '  -----END CERTIFICATE-----', 'facts:'
        foreach ($key in 'windows', 'edition', 'python', 'network_category') { "  ${key}: $(ConvertTo-Quoted $Facts[$key])" }
        "  ram_gib: $($Facts.ram_gib)", "  disk_free_gb: $($Facts.disk_free_gb)", "  gpus:$(if (-not $Facts.gpus) { ' []' })"
        foreach ($one in $Facts.gpus) { "  - {name: $(ConvertTo-Quoted $one.name), memory_mib: $($one.memory_mib), driver: $(ConvertTo-Quoted $one.driver)}" }
        '  adapters:'
        foreach ($one in $Facts.adapters) { "  - {name: $(ConvertTo-Quoted $one.name), address: $(ConvertTo-Quoted $one.ip), mbps: $($one.mbps)}" }
    )
    $file = if ($OutFile) { $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($OutFile) } else { Join-Path $PSScriptRoot "$computer.worker.yml" }
    $text = ($lines -join "`r`n") + "`r`n"
    try { [IO.File]::WriteAllText($file, $text, $utf8) }
    catch {
        Write-Note "$file cannot be written: $($_.Exception.GetBaseException().Message)"
        $file = Join-Path $folder "$computer.worker.yml"
        Write-Setup # makes the folder
        [IO.File]::WriteAllText($file, $text, $utf8)
    }
    $setup['file'] = $file
    Write-Setup
    $file
}

function Test-Door([string]$Own) {
    foreach ($try in 1..20) {
        $client = New-Object Net.Sockets.TcpClient
        try { if ($client.BeginConnect($Own, 5986, $null, $null).AsyncWaitHandle.WaitOne(2000) -and $client.Connected) { return $true } } finally { $client.Close() }
        Start-Sleep -Milliseconds 200
    }
    $false
}

# ---- the two ways ----
function Install-Worker {
    $addresses = @(Get-Address)
    if (-not $addresses) { throw 'this PC has no IPv4 address: connect it to the network and run this again (네트워크에 연결한 뒤 다시 실행하십시오)' }
    $master = if ($masterGiven) { $MasterIP } else { "$($setup['master'])" }
    if ($masterGiven -and $addresses.ip -contains $MasterIP) { Write-Warning "-MasterIP $MasterIP is this PC itself: right only if this PC is the master too." }
    if (-not $master) { Write-Note 'Without -MasterIP the whole local subnet may connect, with a password (같은 서브넷 전체에 열립니다).' }
    elseif (-not $masterGiven) { Write-Note "The master of the last run, $master, still holds; -MasterIP gives another." }
    foreach ($name in Get-OtherFirewall) {
        Write-Warning "The firewall $name is registered here: rules of Windows' own may not count. Let in there TCP 5986 and 29500-29504, and 49152-65535 from the other workers (다른 방화벽에서도 여십시오)."
    }
    $own = Find-OwnAddress $addresses $(if ($master) { $master } else { '192.0.2.1' }) # an address that is nowhere: the default route
    foreach ($one in $addresses) { if ($one.ip -eq $own) { $one.lasting = $true } } # a bridge or a switch of the LAN is no card either
    $account = Get-Account
    if ($account.trouble) { Write-Warning "The account $($account.name) $($account.trouble). Hint: worker_setup.cmd -CreateUser makes one for the master." }

    if ($CreateUser) { New-Account }
    Enable-Remoting
    if ($account.filtered -and (Get-Policy) -ne 1) {
        Invoke-Change policy 'Local administrators keep their rights over the network' { Save-Earlier policy (Get-Policy); Set-Policy 1 }
    }
    $certificate = Set-Listener @($addresses | Where-Object { $_.lasting })
    Set-Rule $(if ($master) { $master } else { 'LocalSubnet' })
    if ($masterGiven) { Set-Trust $master }
    foreach ($key in 'Service\Auth\Basic', 'Service\AllowUnencrypted') {
        if ((Test-WinRM) -and "$((Get-Item "WSMan:\localhost\$key").Value)" -eq 'true') { Write-Warning "WinRM's $key is on. It was before, and winfleet does not need it: Set-Item WSMan:\localhost\$key false" }
    }

    $facts = Get-Fact $addresses $own
    Write-Facts $facts
    if ($WhatIfPreference) { return }
    if ($masterGiven) { $setup['master'] = $master }
    $file = Write-Worker $facts $own $account.name $certificate
    if (-not (Test-Door $own)) { Write-Warning "Port 5986 does not answer on $own yet: look at the service WinRM." }
    Write-Host @"

This PC is ready ($own, account $($account.name)). Next, on the master:
  1. Copy this file to it: $file
  2. There run scripts\master_deploy.ps1 (Linux or WSL: ansible-playbook add_workers.yml)
준비되었습니다. 다음은 마스터 PC에서:
  1. 이 파일을 마스터로 복사하십시오: $file
  2. 마스터에서 scripts\master_deploy.ps1 을 실행하십시오 (Linux, WSL: ansible-playbook add_workers.yml)
To take it back / 되돌리기: scripts\worker_setup.cmd -Remove
"@
}

function Uninstall-Worker {
    if (-not $setup.Count) { Write-Note "No note of an earlier run ($setupFile): only what bears our name is removed." }
    $service = Get-Service WinRM
    $asleep = @($setup['quiet'] | Where-Object { $_ })
    if (-not (Test-WinRM) -and ($asleep -or @('trust', 'listener', 'enabling', 'sessions' | Where-Object { $setup.ContainsKey($_) }))) {
        Invoke-Change start 'WinRM runs while its settings are restored' {
            Save-Earlier service @{ start = "$($service.StartType)"; status = "$($service.Status)" }
            if ("$($service.StartType)" -eq 'Disabled') { Set-Service WinRM -StartupType Manual }
            Start-Service WinRM
        }
    }
    if ($setup.ContainsKey('file') -and (Test-Path -LiteralPath $setup['file'])) { Invoke-Change file "$($setup['file']) is removed" { Remove-Item -LiteralPath $setup['file'] } }
    if ($setup.ContainsKey('trust')) { Invoke-Change trust 'TrustedHosts is as it was' { Set-Item $trustedHosts -Value "$(Get-TrustedHost)" -Force; Clear-Earlier trust } }
    $rules = @(Get-NetFirewallRule -Name $ruleName, "$ruleName-2" -ErrorAction SilentlyContinue | Where-Object { "$($_.Group)" -eq 'winfleet' })
    if ($rules) { Invoke-Change rule 'Our firewall rule is removed' { $rules | ForEach-Object { Remove-NetFirewallRule -Name $_.Name }; Clear-Earlier rule } }
    $certificates = @(Get-OurCertificate)
    $listener = Get-Listener HTTPS | Where-Object { $_.Address -eq '*' } | Select-Object -First 1
    $served = if ($listener) { Get-ChildItem $store | Where-Object { $_.Thumbprint -eq ("$($listener.CertificateThumbprint)" -replace '\s') } }
    if ($listener -and $(if ($served) { $served.FriendlyName -eq 'winfleet' } else { $setup.ContainsKey('listener') })) {
        Invoke-Change listener 'The HTTPS listener is as it was' {
            $was = $setup['listener']
            if (-not $was) { Remove-WSManInstance $listenerUri -SelectorSet $https }
            else { Set-WSManInstance $listenerUri -SelectorSet $https -ValueSet @{ CertificateThumbprint = $was.CertificateThumbprint; Hostname = $was.Hostname; Port = $was.Port; Enabled = $was.Enabled } }
            Clear-Earlier listener
        }
    }
    if ($certificates) { Invoke-Change certificate 'Our certificate and its key are removed' { $certificates | ForEach-Object { Remove-OurCertificate $_ } } }
    if ($setup.ContainsKey('enabling')) { Invoke-Change http 'Port 5985 is as it was before' { Reset-Http } }
    if ($asleep) { Invoke-Change quiet 'The listener for port 5985 is as it was' { Set-Http $asleep 'true'; Clear-Earlier quiet } }
    if ($setup.ContainsKey('policy') -and (Get-Policy) -ne $setup['policy']) { Invoke-Change policy 'Rights over the network are as they were' { Set-Policy $setup['policy'] } }
    if ($setup.ContainsKey('sessions')) {
        Invoke-Change remoting 'PowerShell sessions are as they were' { Restore-SessionConfiguration @($setup['sessions'] | Where-Object { $_ }); Clear-Earlier sessions }
    }
    $was = $setup['service']
    if ($was) {
        Invoke-Change service 'The service WinRM is as it was' {
            Set-Service WinRM -StartupType $was.start
            if ($was.status -ne 'Running') { Stop-Service WinRM -Force }
            Clear-Earlier service
        }
    }
    $account = if ($setup.ContainsKey('account')) { Get-LocalUser | Where-Object { $_.Name -eq 'winfleet' } }
    if ($account -and $setup.ContainsKey('user')) { Invoke-Change user 'The account winfleet is removed' { Remove-LocalUser -Name winfleet } }
    elseif ($account -and $setup.ContainsKey('administrator')) { Invoke-Change administrator 'winfleet is no administrator' { Remove-LocalGroupMember -SID S-1-5-32-544 -Member winfleet } }
    if (Test-Path -LiteralPath $setupFile) {
        Invoke-Change note 'Our note is removed' { Remove-Item -LiteralPath $setupFile; if (-not (Get-ChildItem -LiteralPath $folder -Force)) { Remove-Item -LiteralPath $folder } }
    }
}

$masterGiven = $PSBoundParameters.ContainsKey('MasterIP')
try {
    Assert-Ready
    Read-Setup
    Write-Host "winfleet $(if ($Remove) { 'takes back its set-up of' } else { 'sets up' }) $computer"
    if ($Remove) { Uninstall-Worker } else { Install-Worker }
    Write-Host "changes: $($changes.Count) $($changes -join ', ')"
    exit 0
} catch {
    $hint = if ($_.FullyQualifiedErrorId -ne $_.Exception.Message) { # not one of our own sentences
        " (line $($_.InvocationInfo.ScriptLineNumber))`nhint: run it again and it goes on from here; -Remove takes back what was done"
    }
    $Host.UI.WriteErrorLine("error: $($_.Exception.Message)$hint")
    exit 1
}
