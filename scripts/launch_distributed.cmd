@echo off
rem Double-click: trains on all GPUs of this PC by launch_distributed.ps1, which lies beside this file. Arguments go on to it:
rem   launch_distributed.cmd -Processes 2      launch_distributed.cmd -- my_train.py --epochs 3
setlocal DisableDelayedExpansion
set WINFLEET_WAIT=
if "%~1"=="" set WINFLEET_WAIT=1
set WINFLEET_AUTO=-Auto
if /i "%~1"=="-Auto" set WINFLEET_AUTO=
"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe" -NoProfile -ExecutionPolicy Bypass -File "%~dp0launch_distributed.ps1" %WINFLEET_AUTO% %*
set WINFLEET_CODE=%ERRORLEVEL%
if defined WINFLEET_WAIT pause
exit /b %WINFLEET_CODE%
