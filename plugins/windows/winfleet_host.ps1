#!powershell
#Requires -Module Ansible.ModuleUtils.Legacy
#AnsibleRequires -PowerShell Ansible.ModuleUtils.Winfleet
#AnsibleRequires -PowerShell Ansible.ModuleUtils.WinfleetPython

# What a task asks of a Windows host; plugins/modules/winfleet_host.py documents it and is the same for Linux. `look`
# needs no Python there, and `agent` brings one. All else is train/winfleet/host/remote.py, run by the agent's Python.
# Written for Windows PowerShell 5.1, without C# of its own: compiling it would cost a second a task.

$ErrorActionPreference = 'Stop'
$params = Parse-Args $args -supports_check_mode $true
$check = Get-AnsibleParam -obj $params -name '_ansible_check_mode' -type 'bool' -default $false
$operation = Get-AnsibleParam -obj $params -name 'operation' -type 'str' -default 'look'
$base = Get-AnsibleParam -obj $params -name 'home' -type 'str' -failifempty $true
$given = Get-AnsibleParam -obj $params -name 'arguments' -default @{}
$secrets = Get-AnsibleParam -obj $params -name 'secrets' -default @{}
if ($base -match '^~($|[\\/])') { $base = $env:USERPROFILE + $base.Substring(1) }
$base = [IO.Path]::GetFullPath([Environment]::ExpandEnvironmentVariables($base))
$agent = [IO.Path]::Combine($base, 'agent')
$python = [IO.Path]::Combine($agent, 'python\Scripts\python.exe')
$mark = [IO.Path]::Combine($agent, 'bundle') # names what the agent's Python was made of, once it is whole
# Nothing of ours lies below the user's folder, whose name may not be ASCII.
$variables = @{ PYTHONUTF8 = '1'; UV_CACHE_DIR = [IO.Path]::Combine($agent, 'cache'); UV_PYTHON_INSTALL_DIR = [IO.Path]::Combine($agent, 'interpreters') }
$installer = 'https://aka.ms/vs/17/release/vc_redist.x64.exe'

function Invoke-Agent {
    # Asks the agent's Python; its answer, or this task fails with its words.
    $package = [IO.Path]::Combine($agent, @(Get-Digest agent)[0])
    if ($operation -in 'swarm', 'rehearse') {
        # Behind NAT, as in WSL, only this side knows the controller's address.
        $given.controllers = @($given.controllers | Where-Object { $_ }) + @(Get-NetTCPConnection -LocalPort $given.port -State Established -ErrorAction SilentlyContinue |
                ForEach-Object { "$($_.RemoteAddress)" -replace '^::ffff:' } | Sort-Object -Unique)
    }
    $call = @{ operation = $operation; home = $base; arguments = $given; check = $check }
    if ($secrets.Count) { $call.arguments.secrets = $secrets }
    $done = Invoke-Program -Program $python -Line '-m winfleet.host.remote' -Folder $package -Text (ConvertTo-Json -InputObject $call -Depth 20 -Compress) -Variables $variables
    $last = @($done.out.Trim() -split "`n")[-1]
    try { $answer = ConvertFrom-Json -InputObject $last } catch { $answer = $null }
    if ($null -eq $answer) {
        Fail-Json -obj @{ changed = $false } -message "$python ended with $($done.code): $($done.err.Trim())"
    }
    if ($answer.PSObject.Properties['failed']) { Fail-Json -obj @{ changed = $false } -message $answer.msg }
    $found = @{}
    foreach ($property in $answer.PSObject.Properties) { $found[$property.Name] = $property.Value }
    $found
}

function Get-OrNull {
    # What a question answers; nothing where this PC cannot tell.
    param([scriptblock]$Question)

    try { & $Question } catch { return }
}

function Get-RegistryValue {
    param([string]$Key, [string]$Name)

    (Get-ItemProperty -LiteralPath "HKLM:\$Key" -ErrorAction SilentlyContinue).$Name
}

function ConvertTo-Number {
    # nvidia-smi says [N/A] for what a driver does not tell.
    param([string]$Text)

    if ($Text -match '^\d+$') { [long]$Text }
}

function Invoke-NvidiaSmi {
    # Rows of its answer, each a list of cells; nothing without a driver, or where it does not know a field.
    param([string]$Line, [int]$Cells)

    $tool = Find-NvidiaSmi
    if (-not $tool) { return }
    $done = Invoke-Program -Program $tool -Line "$Line --format=csv,noheader,nounits" -Folder $env:SystemRoot
    if ($done.code) { return }
    foreach ($row in $done.out -split "`n") {
        $found = @($row -split ', ' | ForEach-Object { $_.Trim() })
        if ($found.Count -eq $Cells) { , $found }
    }
}

function Get-Gpu {
    # Name, driver, memory (MiB), compute capability and processes of each NVIDIA GPU; nothing where there is none.
    $rows = @(Invoke-NvidiaSmi -Line '--query-gpu=name,driver_version,memory.total,uuid,memory.free,compute_cap' -Cells 6)
    if (-not $rows) { $rows = @(Invoke-NvidiaSmi -Line '--query-gpu=name,driver_version,memory.total' -Cells 3) } # before 510
    $users = @()
    if ($rows) { $users = @(Invoke-NvidiaSmi -Line '--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory' -Cells 4) }
    foreach ($row in $rows) {
        $mine = @($users | Where-Object { $row[3] -and $_[0] -eq $row[3] })
        @{
            name = $row[0]; driver = $row[1]; memory_mib = [long](ConvertTo-Number $row[2]); free_mib = ConvertTo-Number $row[4]; capability = $row[5]
            processes = @($mine | ForEach-Object { @{ name = ($_[2] -split '[\\/]')[-1]; pid = ConvertTo-Number $_[1]; mib = ConvertTo-Number $_[3] } })
        }
    }
}

function Get-Adapter {
    # Adapters that are up, by .NET: the cmdlets need a second for it.
    foreach ($adapter in [Net.NetworkInformation.NetworkInterface]::GetAllNetworkInterfaces()) {
        if ("$($adapter.OperationalStatus)" -ne 'Up') { continue }
        $addresses = @($adapter.GetIPProperties().UnicastAddresses | Where-Object { "$($_.Address.AddressFamily)" -eq 'InterNetwork' })
        @{
            name = $adapter.Name; description = $adapter.Description; type = "$($adapter.NetworkInterfaceType)"
            mbit = $(if ($adapter.Speed -gt 0) { [long]($adapter.Speed / 1e6) })
            addresses = @($addresses | ForEach-Object { "$($_.Address)" })
        }
    }
}

function Get-Power {
    # GUID of the active plan, and when it sleeps on mains. Of the numbers below the setting the last two are mains and battery.
    $sleep = '238c9fa8-0aad-41ed-83f4-97be242c8f20 29f6c1db-86da-48c5-9fdb-f2b67b1f44da'
    $done = Invoke-Program -Program powercfg.exe -Line "/qh SCHEME_CURRENT $sleep" -Folder $env:SystemRoot
    $numbers = @([regex]::Matches($done.out, ':\s*0x([0-9a-fA-F]{1,8})\s*$', 'Multiline') | ForEach-Object { [Convert]::ToInt64($_.Groups[1].Value, 16) })
    $plan = if ($done.out -match '[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}') { $Matches[0].ToLowerInvariant() }
    @{ plan = $plan; sleep_seconds = $(if ($numbers.Count -ge 2) { $numbers[-2] }) }
}

function Get-PendingRestart {
    # Why Windows wants a restart.
    $windows = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion'
    if (Test-Path -LiteralPath "$windows\WindowsUpdate\Auto Update\RebootRequired") { 'Windows Update' }
    if (Test-Path -LiteralPath "$windows\Component Based Servicing\RebootPending") { 'installed components' }
    $names = 'SYSTEM\CurrentControlSet\Control\ComputerName'
    $now = Get-RegistryValue -Key "$names\ActiveComputerName" -Name ComputerName
    $next = Get-RegistryValue -Key "$names\ComputerName" -Name ComputerName
    if ($now -and $next -and $now -ne $next) { "the new name $next" }
}

function Get-ActiveHour {
    # First and last of the hours in which Windows Update does not restart this PC by itself.
    foreach ($name in 'ActiveHoursStart', 'ActiveHoursEnd') { Get-RegistryValue -Key SOFTWARE\Microsoft\WindowsUpdate\UX\Settings -Name $name }
}

function Get-Firewall {
    # Enabled rules that block, the profiles in use that are on, and other firewalls. train/winfleet/preflight/hosts.py judges them.
    $others = @(Get-OrNull { Get-OtherFirewall })
    if (-not (Test-FirewallService)) { return @{ running = $false; others = $others; blocks = @(); profiles = @() } }
    $rules = Get-NetFirewallRule -Direction Inbound -Action Block -Enabled True -PolicyStore ActiveStore -ErrorAction SilentlyContinue
    $blocks = foreach ($rule in $rules) {
        $port = $rule | Get-NetFirewallPortFilter
        $application = $rule | Get-NetFirewallApplicationFilter
        if ($application.Package) { continue } # a program of the Store
        @{ name = $rule.Name; title = $rule.DisplayName; program = "$($application.Program)"; protocol = "$($port.Protocol)"; ports = @($port.LocalPort) -join ',' }
    }
    $used = @(Get-NetConnectionProfile -ErrorAction SilentlyContinue | ForEach-Object { "$($_.NetworkCategory)" -replace 'DomainAuthenticated', 'Domain' })
    $profiles = foreach ($one in Get-NetFirewallProfile -PolicyStore ActiveStore) {
        if ("$($one.Name)" -notin $used -or "$($one.Enabled)" -eq 'False') { continue }
        @{ name = "$($one.Name)"; inbound_rules = "$($one.AllowInboundRules)" -ne 'False'; local_rules = "$($one.AllowLocalFirewallRules)" -ne 'False' }
    }
    @{ running = $true; others = $others; blocks = @($blocks); profiles = @($profiles) }
}

function Get-PortNumber {
    # Numbers in lines of netsh's answer; its words are localised.
    param([string]$Line, [string]$Pattern)

    $done = Invoke-Program -Program netsh.exe -Line $Line -Folder $env:SystemRoot
    foreach ($found in [regex]::Matches($done.out, $Pattern, 'Multiline')) { , @($found.Groups | Select-Object -Skip 1 | ForEach-Object { [int]$_.Value }) }
}

function Get-DynamicPort {
    # First and last port that Windows hands out by chance.
    $first, $count = @(Get-PortNumber -Line 'int ipv4 show dynamicport tcp' -Pattern ':\s*(\d+)\s*$') | ForEach-Object { $_[0] }
    if ($count) { $first, ($first + $count - 1) }
}

function Get-ExcludedPort {
    # Ranges, first and last port, that WinNAT and others keep.
    Get-PortNumber -Line 'int ipv4 show excludedportrange protocol=tcp' -Pattern '^\s*(\d+)\s+(\d+)(?:\s+\*)?\s*$'
}

function Get-Digest {
    # Names made of digests of what was sent or made here, newest first. An environment counts once it is whole.
    param([string]$Kind)

    @(Get-ChildItem -LiteralPath ([IO.Path]::Combine($base, $Kind)) -Directory -Force -ErrorAction SilentlyContinue |
            Where-Object { $_.Name -match '^[0-9a-f]{12}$' -and ($Kind -ne 'env' -or (Test-Path -LiteralPath ([IO.Path]::Combine($_.FullName, 'winfleet.json')))) } |
            Sort-Object -Property LastWriteTimeUtc -Descending | ForEach-Object { $_.Name })
}

function Find-PortError {
    # Why the port cannot be listened on: nothing for it can, `taken`, or the system's name of the error.
    param([string]$Address, [int]$Port)

    $listener = New-Object -TypeName System.Net.Sockets.TcpListener -ArgumentList ([Net.IPAddress]::Parse($Address)), $Port
    $listener.ExclusiveAddressUse = $true
    try { $listener.Start() } catch {
        $reason = $_.Exception.GetBaseException()
        if ("$($reason.SocketErrorCode)" -eq 'AddressAlreadyInUse') { return 'taken' }
        return "$($reason.SocketErrorCode)"
    } finally { $listener.Stop() }
}

function Find-Owner {
    param([int]$Port)

    $connection = Get-NetTCPConnection -LocalPort $Port -State Listen -ErrorAction SilentlyContinue | Select-Object -First 1
    $process = if ($connection) { Get-Process -Id $connection.OwningProcess -ErrorAction SilentlyContinue }
    if ($process) { "$($process.ProcessName) (pid $($process.Id))" } else { 'another process' }
}

function Test-Writable {
    # Whether a file can be made there: it is gone once it is closed.
    param([string]$Folder)

    try {
        [IO.File]::Create(([IO.Path]::Combine($Folder, ".winfleet-$PID")), 1, [IO.FileOptions]::DeleteOnClose).Close()
        $true
    } catch { $false }
}

function Test-Ours {
    # Whether a port is that of an environment that is being made, or of a transfer: who does it has its lock open
    # (train/winfleet/core/files.py). A rerun goes on with it.
    param([int]$Port)

    $folder = @{ 29502 = 'env'; 29503 = 'swarm' }[$Port]
    if (-not $folder) { return $false }
    foreach ($lock in Get-ChildItem -Path "$base\$folder\*.lock" -ErrorAction SilentlyContinue) {
        try { [IO.File]::Open($lock.FullName, 'Open', 'Read', 'None').Close() } catch { return $true }
    }
    $false
}

function Get-RunState {
    # As launcher/runs.py has it: "lost" where the launcher is gone.
    param([string]$Folder)

    $file = [IO.Path]::Combine($Folder, 'status.json')
    if (-not (Test-Path -LiteralPath $file)) { return 'none' }
    try { $status = [IO.File]::ReadAllText($file) | ConvertFrom-Json } catch { return 'none' }
    if ($status.state -notin 'starting', 'running') { return "$($status.state)" }
    $process = Get-Process -Id $status.launcher_pid -ErrorAction SilentlyContinue
    # another program may have its number since
    $begin = if ($process) { ($process.StartTime.ToUniversalTime() - [DateTime]'1970-01-01').TotalSeconds }
    if ($process -and $process.ProcessName -like 'python*' -and $begin -lt $status.started + 5) { "$($status.state)" } else { 'lost' }
}

function Find-Host {
    # Everything that the preflight judges. Changes nothing.
    $address = try {
        [Net.Dns]::GetHostAddresses($given.address) | Where-Object { $_.AddressFamily -eq 'InterNetwork' } | Select-Object -First 1 -ExpandProperty IPAddressToString
    } catch { '' }
    $taken = @{}
    $problem = ''
    if ($address) {
        foreach ($port in 29500..29504) {
            $found = Find-PortError -Address $address -Port $port
            if ($found -eq 'taken' -and (Test-Ours -Port $port)) { continue }
            if ($found -eq 'taken') { $taken["$port"] = Find-Owner -Port $port }
            elseif ($found -eq 'AccessDenied') { $taken["$port"] = 'Windows itself (error 10013)' }
            elseif ($found) { $problem = $found }
        }
    }
    $near = $base
    while ($near -and -not (Test-Path -LiteralPath $near)) { $near = [IO.Path]::GetDirectoryName($near) }
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $runs = @(Get-ChildItem -Path "$base\runs\*\status.json" -ErrorAction SilentlyContinue | ForEach-Object { $_.Directory })
    $packages = @(Get-Digest agent)
    $adapters = @(Get-OrNull { Get-Adapter })
    $own = [Net.Dns]::GetHostName()
    $given_python = Get-OrNull { Get-Python -Program $given.interpreter }
    $build = "$($system.BuildNumber).$(Get-RegistryValue -Key 'SOFTWARE\Microsoft\Windows NT\CurrentVersion' -Name UBR)".TrimEnd('.')
    @{
        os = 'Windows'; release = "$("$($system.Caption)" -replace '^Microsoft ') $build"; cores = [Environment]::ProcessorCount
        python = $(if ($given_python) { $given_python.version }); python_lacks = @(if ($given_python) { $given_python.lacks }); runtime = Get-OrNull { Get-CRuntime }
        memory_gib = [Math]::Round($system.TotalVisibleMemorySize / 1MB, 1)
        memory_free_gib = $(if ($system.FreePhysicalMemory) { [Math]::Round($system.FreePhysicalMemory / 1MB, 1) })
        disk_free_gb = $(if ($near) { [Math]::Round((New-Object -TypeName System.IO.DriveInfo -ArgumentList $near).AvailableFreeSpace / 1e9, 1) } else { 0 })
        home = $base; writable = ($near -and (Test-Writable -Folder $near)); address = "$address"; address_error = $problem; ports_taken = $taken
        name = $own; resolves = @(Get-OrNull { [Net.Dns]::GetHostAddresses($own) | ForEach-Object { "$_" } })
        adapter = "$(($adapters | Where-Object { $address -in $_.addresses } | Select-Object -First 1).name)"; adapters = $adapters
        dynamic_ports = @(Get-OrNull { Get-DynamicPort })
        excluded_ports = @(if ($taken.Values -like 'Windows itself*') { Get-OrNull { Get-ExcludedPort } })
        gpus = @(Get-OrNull { Get-Gpu })
        power = Get-OrNull { Get-Power }
        reboot = @(Get-OrNull { Get-PendingRestart }); active_hours = @(Get-OrNull { Get-ActiveHour })
        firewall = Get-OrNull { Get-Firewall }
        app_control = Get-RegistryValue -Key SYSTEM\CurrentControlSet\Control\CI\Policy -Name VerifiedAndReputablePolicyState
        long_paths = (Get-RegistryValue -Key SYSTEM\CurrentControlSet\Control\FileSystem -Name LongPathsEnabled) -eq 1
        run_state = if ($given.run) { Get-RunState -Folder ([IO.Path]::Combine($base, "runs\$($given.run)")) } else { 'none' }
        going_on = @($runs | Where-Object { (Get-RunState -Folder $_.FullName) -in 'starting', 'running' } | ForEach-Object { $_.Name })
        agent = @{ bundle = $(if (Test-Path -LiteralPath $mark) { [IO.File]::ReadAllText($mark) } else { '' }); package = "$($packages[0])" }
        there = @{ code = @(Get-Digest code); data = @(Get-Digest data); agent = $packages; env = @(Get-Digest env) }
        clock = ([DateTime]::UtcNow - [DateTime]'1970-01-01').TotalSeconds
    }
}

function Remove-Folder {
    # Scanners hold files for moments, and then a folder is not empty yet when its turn comes.
    param([string]$Path)

    foreach ($attempt in 1..5) {
        try {
            if (Test-Path -LiteralPath $Path) { [IO.Directory]::Delete($Path, $true) }
            return
        } catch {
            if ($attempt -eq 5) { throw }
            Start-Sleep -Milliseconds 500
        }
    }
}

function Stop-AtUv {
    param([string]$Line, [hashtable]$Done, [string]$Hint)

    $said = Remove-Secret -Text $Done.err.Trim() -Secrets $secrets.uv
    Fail-Json -obj @{ changed = $true } -message "``uv $Line`` failed with $($Done.code): $said`n$Hint"
}

function Install-CRuntime {
    # What torch needs of the Visual C++ runtime, beside the Python of uv's own that Target was made of. Another one is its owner's.
    param([string]$Runtime, [string]$Target)

    $home_line = [IO.File]::ReadAllLines([IO.Path]::Combine($Target, 'pyvenv.cfg')) | Where-Object { $_ -match '^home\s*=' } | Select-Object -First 1
    $from = ($home_line -replace '^home\s*=').Trim()
    if ($from -like "$($variables.UV_PYTHON_INSTALL_DIR)\*") { Copy-CRuntime -From $Runtime -Folder $from }
    $found = Get-OrNull { Get-Python -Program $python }
    if ($found.lacks) {
        $message = "the Python of $from does not find $($found.lacks -join ', ') of the Visual C++ runtime, which torch needs`nhint: install $installer on this host"
        Fail-Json -obj @{ changed = $true } -message $message
    }
}

function Install-Agent {
    # `package` (a zip, base64) and `digest`; `bundle`, a zip with uv.exe and wheels, where the agent's Python is to be made.
    if (-not (Test-Path -LiteralPath $base)) {
        # A folder below C:\ lets every user of the PC change what is in it.
        $null = New-Item -Path $base -ItemType Directory
        $owner = [Security.Principal.WindowsIdentity]::GetCurrent().User.Value
        $rights = '*S-1-5-18', '*S-1-5-32-544', "*$owner" | ForEach-Object { "/grant `"$($_):(OI)(CI)F`"" }
        $done = Invoke-Program -Program "$env:SystemRoot\System32\icacls.exe" -Line "`"$base`" /inheritance:r $rights" -Folder $env:SystemRoot
        if ($done.code) {
            Remove-Item -LiteralPath $base
            Fail-Json -obj @{ changed = $false } -message "the rights of $base cannot be set: $($done.out.Trim())`nhint: set fleet_home to a disk with NTFS"
        }
    }
    $null = New-Item -Path $agent -ItemType Directory -Force
    Add-Type -AssemblyName System.IO.Compression.FileSystem
    if ($given.bundle) {
        $wheels = [IO.Path]::Combine($agent, 'wheels')
        if (Test-Path -LiteralPath $wheels) { Remove-Item -LiteralPath $wheels -Recurse -Force }
        [IO.Compression.ZipFile]::ExtractToDirectory($given.bundle, $wheels)
        $uv = [IO.Path]::Combine($agent, 'uv.exe')
        Move-Item -LiteralPath ([IO.Path]::Combine($wheels, 'uv.exe')) -Destination $uv -Force
        $target = [IO.Path]::Combine($agent, 'python')
        $settings = Get-UvVariable -Ours $variables -Users $given.environment -Secrets $secrets.uv
        $made = New-AgentPython -Uv $uv -Target $target -Interpreter $given.interpreter -Version $given.python_version -Offline $given.offline -Variables $settings
        if ($made.code) {
            $hint = 'hint: a host that cannot fetch a Python needs uv_env_interpreter, the path of one on it, or a proxy or mirror in uv_env_environment'
            Stop-AtUv -Line $made.line -Done $made -Hint $hint
        }
        Install-CRuntime -Runtime ([IO.Path]::Combine($wheels, 'runtime')) -Target $target
        $line = "pip install --quiet --offline --no-index --find-links `"$wheels`" --python `"$python`" $($given.packages -join ' ')"
        $done = Invoke-Program -Program $uv -Line $line -Folder $agent -Variables $settings
        if ($done.code) { Stop-AtUv -Line $line -Done $done -Hint 'hint: run again; if it fails again, remove that folder first' }
        $told.note = $made.note
        [IO.File]::WriteAllText($mark, $given.named)
    }
    $target = [IO.Path]::Combine($agent, $given.digest)
    if (-not (Test-Path -LiteralPath $target)) {
        $archive = "$target.zip"
        [IO.File]::WriteAllBytes($archive, [Convert]::FromBase64String($given.package))
        if (Test-Path -LiteralPath "$target.new") { Remove-Item -LiteralPath "$target.new" -Recurse -Force }
        [IO.Compression.ZipFile]::ExtractToDirectory($archive, "$target.new")
        Rename-Item -LiteralPath "$target.new" -NewName $given.digest
        Remove-Item -LiteralPath $archive
    }
    (Get-Item -LiteralPath $target).LastWriteTimeUtc = [DateTime]::UtcNow
}

switch ($operation) {
    'look' { Exit-Json -obj @{ changed = $false; host = Find-Host } }
    'agent' {
        $told = @{ changed = $true; note = '' }
        if (-not $check) { Install-Agent }
        Exit-Json -obj $told
    }
    default {
        $isUndone = $operation -eq 'prove' -and $given.what -eq 'undo' -and -not (Test-Path -Path ([IO.Path]::Combine($base, 'proof')), ([IO.Path]::Combine($base, 'runs\proof-*')) -ErrorAction SilentlyContinue | Where-Object { $_ })
        if ($isUndone) { Exit-Json -obj @{ changed = $false; undone = @() } } # also where nothing of ours is here, or an older version
        if (-not (Test-Path -LiteralPath $python) -or -not (Get-Digest agent)) {
            # Nothing of ours is here, so nothing is going on.
            if ($operation -in 'stop', 'remove') { Exit-Json -obj @{ changed = $false; stopped = @(); removed = @() } }
            if ($check) { Exit-Json -obj @{ changed = $true; missing = @(); versions = @{}; python = '' } }
            Fail-Json -obj @{ changed = $false } -message "no winfleet below $base`nhint: run deploy_and_train.yml, which brings it"
        }
        $answer = Invoke-Agent
        if ($operation -eq 'remove' -and -not $check) {
            Get-ScheduledTask -TaskPath '\winfleet\' -ErrorAction SilentlyContinue | Unregister-ScheduledTask -Confirm:$false
            Remove-Folder -Path $agent
            $answer.removed = @($answer.removed) + $agent
            if (-not @(Get-ChildItem -LiteralPath $base -Force)) { Remove-Item -LiteralPath $base }
            $answer.changed = $true
        }
        Exit-Json -obj $answer
    }
}
