@echo off
rem Double-click: runs worker_setup.ps1, which lies beside this file, as administrator. Arguments go on to it:
rem   worker_setup.cmd -MasterIP 192.168.1.100      worker_setup.cmd -CreateUser      worker_setup.cmd -Remove
setlocal DisableDelayedExpansion
set "WINFLEET_SELF=%~f0"
set "WINFLEET_ARGS=%*"
set "WINFLEET_SHELL=%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe"
rem The elevated copy gets the mark --elevated and waits for a key at its end, since its window would close; so does a double click.
set WINFLEET_WAIT=
if "%~1"=="" set WINFLEET_WAIT=1
if "%~1"=="--elevated" set WINFLEET_WAIT=1

rem fltmc answers administrators alone
fltmc >nul 2>&1
if not errorlevel 1 goto run
if "%~1"=="--elevated" goto refused
rem Names go through the environment: a path may hold blanks, apostrophes and Korean letters.
"%WINFLEET_SHELL%" -NoProfile -ExecutionPolicy Bypass -Command "$ErrorActionPreference = 'Stop'; try { Start-Process -Verb RunAs -FilePath $env:ComSpec -ArgumentList ('/d /c \"\"' + $env:WINFLEET_SELF + '\" --elevated ' + $env:WINFLEET_ARGS + '\"') } catch { exit 1 }"
if errorlevel 1 goto refused
exit /b 0

:run
if "%~1"=="--elevated" set "WINFLEET_ARGS=%WINFLEET_ARGS:~10%"
"%WINFLEET_SHELL%" -NoProfile -ExecutionPolicy Bypass -File "%~dp0worker_setup.ps1" %WINFLEET_ARGS%
set WINFLEET_CODE=%ERRORLEVEL%
if defined WINFLEET_WAIT pause
exit /b %WINFLEET_CODE%

:refused
echo error: administrator rights were not given, so nothing was changed
echo hint: run this again and answer Yes, or ask whoever administers this PC
if defined WINFLEET_WAIT pause
exit /b 1
