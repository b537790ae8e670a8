# What opens a new PC, at its shortest: remoting, a certificate, an HTTPS listener, a firewall rule. Prints what it changed; -Remove undoes it.
[CmdletBinding(SupportsShouldProcess)] param([string]$CertificateFile, [string[]]$ControllerAddress = 'LocalSubnet', [switch]$Remove)
$ErrorActionPreference = 'Stop'; $changes = @()
function Get-Listener { Get-ChildItem WSMan:\localhost\Listener | Where-Object { $_.Keys -contains 'Transport=HTTPS' } }
if ($Remove) {
    Get-Listener | Remove-Item -Recurse -Force
    Get-ChildItem Cert:\LocalMachine\My | Where-Object FriendlyName -eq 'winfleet-lab' | Remove-Item
    Get-NetFirewallRule -Name winfleet-lab -ErrorAction SilentlyContinue | Remove-NetFirewallRule
    Stop-Service WinRM; Set-Service WinRM -StartupType Manual; return
}
if ((Get-Service WinRM).Status -ne 'Running' -and $PSCmdlet.ShouldProcess('WinRM', 'Enable')) { Enable-PSRemoting -Force -SkipNetworkProfileCheck; $changes += 'remoting' }
$address = (Get-NetIPAddress -AddressFamily IPv4 | Where-Object IPAddress -ne '127.0.0.1').IPAddress
$certificate = Get-ChildItem Cert:\LocalMachine\My | Where-Object { $_.FriendlyName -eq 'winfleet-lab' -and $_.HasPrivateKey }
if (-not $certificate -and $PSCmdlet.ShouldProcess('certificate', 'Make')) {
    $certificate = New-SelfSignedCertificate -Subject "CN=$env:COMPUTERNAME" -TextExtension "2.5.29.17={text}DNS=$env:COMPUTERNAME&IPAddress=$address" -FriendlyName winfleet-lab
    $changes += 'certificate'
}
if ($certificate -and -not (Get-Listener)) { $null = New-Item WSMan:\localhost\Listener -Transport HTTPS -Address * -CertificateThumbPrint $certificate.Thumbprint -Force; $changes += 'listener' }
if (-not (Get-NetFirewallRule -Name winfleet-lab -ErrorAction SilentlyContinue) -and $PSCmdlet.ShouldProcess('firewall rule', 'Make')) {
    $null = New-NetFirewallRule -Name winfleet-lab -DisplayName winfleet-lab -Protocol TCP -LocalPort 5986 -RemoteAddress $ControllerAddress; $changes += 'rule'
}
if ($certificate) {
    $pem = '-----BEGIN CERTIFICATE-----', [Convert]::ToBase64String($certificate.RawData, 'InsertLineBreaks'), '-----END CERTIFICATE-----'
    [IO.File]::WriteAllText($CertificateFile, ($pem -join "`n").Replace("`r", '') + "`n")
}
"changes: $($changes.Count) $changes"
