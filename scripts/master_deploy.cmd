@echo off
rem Double-click: deploys to the workers and trains by master_deploy.ps1, which lies beside this file. Arguments go on to it:
rem   master_deploy.cmd -WorkerIPs 192.168.1.101,192.168.1.102      master_deploy.cmd -SkipDeploy
setlocal DisableDelayedExpansion
set WINFLEET_WAIT=
if "%~1"=="" set WINFLEET_WAIT=1
"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe" -NoProfile -ExecutionPolicy Bypass -File "%~dp0master_deploy.ps1" %*
set WINFLEET_CODE=%ERRORLEVEL%
if defined WINFLEET_WAIT pause
exit /b %WINFLEET_CODE%
