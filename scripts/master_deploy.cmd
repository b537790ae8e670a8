@echo off
rem Double-click: deploys to the workers and trains by master_deploy.ps1, which lies beside this file. Arguments go on to it:
rem   master_deploy.cmd -WorkerIPs 192.168.1.101,192.168.1.102      master_deploy.cmd -SkipDeploy
setlocal DisableDelayedExpansion
set "WINFLEET_DOOR=%~f0"
set "WINFLEET_ALWAYS="
set WINFLEET_ELEVATE=
rem From PowerShell 7 this would lead Windows PowerShell to the modules of 7, which it cannot load.
set "PSModulePath="
set "WINFLEET_LOOK=if ($ExecutionContext.SessionState.LanguageMode -ne 'FullLanguage') { Write-Host 'error: Smart App Control or a policy of this PC keeps PowerShell from running scripts that nobody has signed'; Write-Host 'hint: unblock the downloaded zip and unpack it anew (README.md); if that is not enough, switch Smart App Control off in Windows Security, or ask whoever administers this PC'; & $env:ComSpec /d /c pause; exit 2 }"
set "WINFLEET_BINDER=%~dp0door.ps1"
if not exist "%WINFLEET_BINDER%" (echo error: door.ps1 is not beside %~nx0& echo hint: unpack the whole zip first, and copy the whole folder scripts& pause& exit /b 2)
"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe" -NoProfile -ExecutionPolicy Bypass -Command "%WINFLEET_LOOK%; $global:LASTEXITCODE = 2; try { & $env:WINFLEET_BINDER } catch { Write-Host ('error: ' + $_); & $env:ComSpec /d /c pause }; exit $LASTEXITCODE #" %*
exit /b %ERRORLEVEL%
