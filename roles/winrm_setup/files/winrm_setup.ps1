#Requires -Version 5.1

# Keeps WinRM as the cluster needs it: service, HTTPS listener, certificate, quotas. Makes a new certificate before the old
# one expires, and switches the listener to it only when it is told so (SwitchTo), after the controller has come to trust it.
[CmdletBinding(SupportsShouldProcess)]
param(
    [ValidateSet('present', 'absent')]
    [string] $State = 'present',

    # a certificate that expires within so many days is replaced; a new one lasts ten years
    [ValidateRange(-1, 3000)]
    [int] $RenewDays = 60,

    # thumbprint of the new certificate, once the controller trusts it
    [string] $SwitchTo = '',

    # smallest value by name, below WSMan:\localhost\Shell
    [System.Collections.IDictionary] $Quotas = @{}
)

#AnsibleRequires -PowerShell Ansible.ModuleUtils.Winfleet

$ErrorActionPreference = 'Stop'
$Ansible.Changed = $false
$friendlyName = 'winfleet'
$file = Join-Path -Path $env:ProgramData -ChildPath 'winfleet\winrm.json'
$resource = 'winrm/config/Listener'
$warnings = New-Object -TypeName System.Collections.Generic.List[string]
$before = [ordered]@{}
$after = [ordered]@{}

function Get-Listener {
    # The HTTPS listener, one with our certificate first; nothing where there is none.
    [CmdletBinding()]
    param()

    $found = foreach ($item in Get-ChildItem -Path WSMan:\localhost\Listener | Where-Object { $_.Keys -contains 'Transport=HTTPS' }) {
        $address = @($item.Keys | Where-Object { $_ -like 'Address=*' })[0] -replace '^Address='
        Get-WSManInstance -ResourceURI $resource -SelectorSet @{ Transport = 'HTTPS'; Address = $address }
    }
    $ours = @(Get-Certificate | ForEach-Object { $_.Thumbprint })
    $found | Sort-Object -Property { ("$($_.CertificateThumbprint)" -replace '\s').ToUpperInvariant() -notin $ours } | Select-Object -First 1
}

function Get-Certificate {
    # Our certificates with a key, the longest valid first.
    [CmdletBinding()]
    param()

    Get-ChildItem -Path Cert:\LocalMachine\My | Where-Object { $_.FriendlyName -eq $friendlyName -and $_.HasPrivateKey } |
        Sort-Object -Property NotAfter -Descending
}

function Get-Name {
    # Names and addresses in a certificate, in the words that New-SelfSignedCertificate takes. Windows would show them localised.
    [CmdletBinding()]
    param([Parameter(Mandatory)] [object] $Certificate)

    $raw = ($Certificate.Extensions | Where-Object { $_.Oid.Value -eq '2.5.29.17' }).RawData
    if (-not $raw) { return }
    $at = if ($raw[1] -gt 0x80) { 2 + $raw[1] - 0x80 } else { 2 }
    while ($at + 1 -lt $raw.Length) {
        $tag, $length = $raw[$at], $raw[$at + 1]
        if ($length -gt 0x7f) { throw "a name in the certificate $($Certificate.Thumbprint) is longer than 127 characters" }
        [byte[]] $value = $raw[($at + 2)..($at + 1 + $length)]
        if ($tag -eq 0x82) { "DNS=$([Text.Encoding]::ASCII.GetString($value))" }
        if ($tag -eq 0x87) { "IPAddress=$([Net.IPAddress]::new($value))" }
        $at += 2 + $length
    }
}

function Get-LastingAddress {
    # IPv4 addresses of physical adapters, and those at which somebody is connected to WinRM: those of WSL, Hyper-V and VPNs change.
    [CmdletBinding()]
    param()

    $physical = @(Get-NetAdapter -Physical -ErrorAction SilentlyContinue | ForEach-Object { $_.ifIndex })
    $used = @(Get-NetTCPConnection -LocalPort 5985, 5986 -State Established -ErrorAction SilentlyContinue | ForEach-Object { "$($_.LocalAddress)" -replace '^::ffff:' })
    Get-NetIPAddress -AddressFamily IPv4 |
        Where-Object { $_.IPAddress -notlike '127.*' -and ($physical -contains $_.InterfaceIndex -or $used -contains $_.IPAddress) } |
        ForEach-Object { $_.IPAddress }
}

function New-Certificate {
    # For the names and addresses of the old one; without an old one, for those of this PC. The subject is always a new one: of
    # two certificates with one subject OpenSSL tries the first only, and the controller has to trust both for a while.
    [CmdletBinding(SupportsShouldProcess)]
    param([AllowNull()] [object] $Old)

    $names = @(if ($Old) { Get-Name -Certificate $Old })
    if (-not $names) {
        $names = @("DNS=$env:COMPUTERNAME") + @(Get-LastingAddress | ForEach-Object { "IPAddress=$_" })
    }
    $values = @{
        CertStoreLocation = 'Cert:\LocalMachine\My'
        FriendlyName = $friendlyName
        Subject = "CN=$env:COMPUTERNAME, OU=winfleet $([DateTime]::UtcNow.ToString('yyyyMMddHHmmss'))"
        NotBefore = (Get-Date).AddDays(-1)  # for a controller whose clock is behind
        NotAfter = (Get-Date).AddYears(10)
        TextExtension = "2.5.29.17={text}$($names -join '&')", '2.5.29.37={text}1.3.6.1.5.5.7.3.1'
    }
    $made = New-SelfSignedCertificate @values
    Get-Item -LiteralPath "Cert:\LocalMachine\My\$($made.Thumbprint)"  # PowerShell 7 hands out a copy without methods
}

function ConvertTo-Pem {
    [CmdletBinding()]
    param([Parameter(Mandatory)] [object] $Certificate)

    $text = [Convert]::ToBase64String($Certificate.RawData) -replace '(.{64})', "`$1`n"
    "-----BEGIN CERTIFICATE-----`n$($text.TrimEnd())`n-----END CERTIFICATE-----`n"
}

function Set-ListenerCertificate {
    # Changes the listener in place, so that there is never none.
    [CmdletBinding(SupportsShouldProcess)]
    param([AllowNull()] [object] $Listener, [Parameter(Mandatory)] [string] $Thumbprint)

    if (-not $Listener) {
        $null = New-Item -Path WSMan:\localhost\Listener -Transport HTTPS -Address * -CertificateThumbPrint $Thumbprint -Force
        return
    }
    $selector = @{ Transport = 'HTTPS'; Address = $Listener.Address }
    $null = Set-WSManInstance -ResourceURI $resource -SelectorSet $selector -ValueSet @{ CertificateThumbprint = $Thumbprint }
}

function Get-Day {
    [CmdletBinding()]
    param([AllowNull()] [object] $Certificate)

    if ($Certificate) { $Certificate.NotAfter.ToUniversalTime().ToString('yyyy-MM-dd') } else { 'none' }
}

function Read-Earlier {
    # What was there before us, each with what we set: the service's start type, and quotas by name.
    [CmdletBinding()]
    param()

    $earlier = [ordered]@{}
    $read = Read-Note -Path $file
    if (-not $read) { return $earlier }
    foreach ($property in $read.PSObject.Properties) {
        $earlier[$property.Name] = [ordered]@{ before = "$($property.Value.before)"; set = "$($property.Value.set)" }
    }
    $earlier
}

function Update-Service {
    [CmdletBinding(SupportsShouldProcess)]
    param([Parameter(Mandatory)] [System.Collections.IDictionary] $Earlier)

    $service = Get-Service -Name WinRM
    $before['service'] = "$($service.Status), $($service.StartType)"
    $after['service'] = 'Running, Automatic'
    if ("$($service.StartType)" -ne 'Automatic') {
        $Ansible.Changed = $true
        $Earlier['StartType'] = [ordered]@{ before = "$($service.StartType)"; set = 'Automatic' }
        if ($PSCmdlet.ShouldProcess('WinRM', 'Start automatically')) {
            Save-Note -Path $file -Note $Earlier
            Set-Service -Name WinRM -StartupType Automatic
        }
    }
    if ("$($service.Status)" -ne 'Running') {
        $Ansible.Changed = $true
        if ($PSCmdlet.ShouldProcess('WinRM', 'Start')) { Start-Service -Name WinRM }
    }
}

function Update-Quota {
    # Raises what is too small; never lowers.
    [CmdletBinding(SupportsShouldProcess)]
    param([Parameter(Mandatory)] [System.Collections.IDictionary] $Earlier)

    foreach ($name in @($Quotas.Keys | Sort-Object)) {
        $item = Get-Item -Path "WSMan:\localhost\Shell\$name"
        $before[$name] = "$($item.Value)"
        $after[$name] = "$($item.Value)"
        # 0 stands for no limit
        if ([long]$item.Value -ge [long]$Quotas[$name] -or [long]$item.Value -eq 0) { continue }
        if ("$($item.SourceOfValue)" -eq 'GPO') {
            $warnings.Add("a group policy keeps $name at $($item.Value); $($Quotas[$name]) is needed")
            continue
        }
        $after[$name] = "$($Quotas[$name])"
        $Ansible.Changed = $true
        $Earlier[$name] = [ordered]@{ before = "$($item.Value)"; set = "$($Quotas[$name])" }
        if ($PSCmdlet.ShouldProcess($name, 'Raise quota')) {
            Save-Note -Path $file -Note $Earlier
            Set-Item -Path "WSMan:\localhost\Shell\$name" -Value $Quotas[$name] -Force -WarningAction SilentlyContinue
        }
    }
}

function Update-Certificate {
    # Returns a certificate that the controller has to trust before the listener may have it; nothing where all is well.
    [CmdletBinding(SupportsShouldProcess)]
    param()

    $listener = Get-Listener
    $thumbprint = ("$($listener.CertificateThumbprint)" -replace '\s').ToUpperInvariant()
    $used = if ($thumbprint) { Get-Item -LiteralPath "Cert:\LocalMachine\My\$thumbprint" -ErrorAction SilentlyContinue }
    $limit = (Get-Date).AddDays($RenewDays)
    $before['certificate'] = "$(if ($listener) { 'HTTPS' } else { 'no HTTPS listener' }), until $(Get-Day $used)"
    $after['certificate'] = $before['certificate']
    if ($used -and $used.FriendlyName -ne $friendlyName) {
        if ($used.NotAfter -lt $limit) {
            $warnings.Add("the HTTPS listener's certificate is not ours and expires on $(Get-Day $used): replace it there and here")
        }
        return
    }
    if ($used -and $used.NotAfter -ge $limit) { return }

    $Ansible.Changed = $true
    $after['certificate'] = 'HTTPS, for ten years from now'
    $next = Get-Certificate | Where-Object { $_.Thumbprint -ne $thumbprint -and $_.NotAfter -ge $limit } |
        Sort-Object -Property { $_.Thumbprint -ne $SwitchTo } | Select-Object -First 1
    if (-not $next) {
        if (-not $PSCmdlet.ShouldProcess($friendlyName, 'Make certificate')) { return }
        $next = New-Certificate -Old $used
    }
    $after['certificate'] = "HTTPS, until $(Get-Day $next)"
    # Where the old one serves nobody there is nothing to keep.
    if (-not $used -or $SwitchTo -eq $next.Thumbprint) {
        if ($PSCmdlet.ShouldProcess($next.Thumbprint, 'Switch the HTTPS listener')) {
            Set-ListenerCertificate -Listener $listener -Thumbprint $next.Thumbprint
            Get-Certificate | Where-Object { $_.Thumbprint -ne $next.Thumbprint -and $_.NotAfter -le $next.NotAfter } |
                ForEach-Object { Remove-Item -LiteralPath "Cert:\LocalMachine\My\$($_.Thumbprint)" -DeleteKey }
        }
    }
    $next
}

function Restore-Earlier {
    # Only what is still as we set it: what somebody changed later is theirs.
    [CmdletBinding(SupportsShouldProcess)]
    param([Parameter(Mandatory)] [System.Collections.IDictionary] $Earlier)

    foreach ($name in @($Earlier.Keys)) {
        $wanted = $Earlier[$name]
        if ($name -eq 'StartType') {
            $now = "$((Get-Service -Name WinRM).StartType)"
        }
        elseif ($Quotas.Contains($name)) {
            $now = "$((Get-Item -Path "WSMan:\localhost\Shell\$name").Value)"
        }
        else { continue }
        $before[$name] = $now
        $after[$name] = $now
        if ($now -ne $wanted.set) { continue }
        $after[$name] = $wanted.before
        if (-not $PSCmdlet.ShouldProcess($name, 'Restore')) { continue }
        if ($name -eq 'StartType') { Set-Service -Name WinRM -StartupType $wanted.before }
        else { Set-Item -Path "WSMan:\localhost\Shell\$name" -Value $wanted.before -Force -WarningAction SilentlyContinue }
    }
    if (Test-Path -LiteralPath $file) {
        $Ansible.Changed = $true
        if ($PSCmdlet.ShouldProcess($file, 'Remove')) { Remove-Item -LiteralPath $file }
    }
}

$new = $null
$earlier = Read-Earlier
if ($State -eq 'present') {
    Update-Service -Earlier $earlier
    Update-Quota -Earlier $earlier
    $new = Update-Certificate
    foreach ($name in 'Auth\Basic', 'AllowUnencrypted') {
        if ("$((Get-Item -Path "WSMan:\localhost\Service\$name").Value)" -eq 'true') {
            $warnings.Add("WinRM allows $name and winfleet does not need it; unless somebody else does: Set-Item WSMan:\localhost\Service\$name false")
        }
    }
}
else {
    Restore-Earlier -Earlier $earlier
}

$Ansible.Diff = @{ before = $before; after = $after }
$Ansible.Result = @{
    # what the controller has to trust, and whether the listener waits for it
    certificate = if ($new) { ConvertTo-Pem -Certificate $new } else { '' }
    thumbprint = if ($new) { $new.Thumbprint } else { '' }
    waits = [bool]($new -and "$((Get-Listener).CertificateThumbprint)" -ne $new.Thumbprint)
    warnings = $warnings.ToArray()
}
