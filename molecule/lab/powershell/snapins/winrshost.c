/* What Windows' own WinRM does around a command, for the lab under Wine. Build: x86_64-w64-mingw32-gcc -Os -s -municode -o winrshost.exe winrshost.c -ladvapi32 -luser32 -lshell32 -lws2_32 -lntdll
 *   winrshost shell NAME         makes the job object of a remote shell; prints LocalAccountTokenFilterPolicy (0 or 1); ends, and with it
 *                                everything in the job, when standard input closes
 *   winrshost run NAME           runs the command line in WINRS_COMMAND in that job and gives back its exit code
 *   winrshost service [NAME]     the body of the WinRM service, or of another one: C:\lab\NAME.running exists while it runs
 *   powershell …                 under that name, where Windows has it: runs the engine, which lies in C:\lab\powershell, in its own place, and is as
 *                                strict as Windows PowerShell 5.1: words behind -File go by file.ps1, modules of PowerShell 7 cannot be loaded
 *   fltmc                        under that name: succeeds for administrators. C:\lab\unelevated makes the PC's owner none until Start-Process -Verb RunAs
 *   winrshost sockets            prints PORT PID PROGRAM of each socket, for the firewall and Get-NetTCPConnection: to Linux all of them are wineserver's
 *   shutdown /r [/t N] | /a      under that name: asks the WinRM server to boot this PC anew, by way of C:\lab\reboot
 * The command's own children stay in the job, unless they are made with CREATE_BREAKAWAY_FROM_JOB, as on Windows. */
#include <winsock2.h>
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <shellapi.h>
#include <winternl.h>
#include <wchar.h>

static HANDLE open_job(const WCHAR *name)
{
    HANDLE job = CreateJobObjectW(NULL, name);
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_BREAKAWAY_OK;
    SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits);
    return job;
}

static int shell(const WCHAR *name)
{
    DWORD policy = 0, size = sizeof policy, n;
    char c;
    HANDLE job = open_job(name);
    GetDesktopWindow(); /* Wine's explorer.exe starts with the first window: here, out of the job, else it would die with some shell and leave a desk without one */
    RegGetValueW(HKEY_LOCAL_MACHINE, L"SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies\\System", L"LocalAccountTokenFilterPolicy",
                 RRF_RT_REG_DWORD | RRF_SUBKEY_WOW6464KEY, NULL, &policy, &size);
    WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), policy ? "1\n" : "0\n", 2, &n, NULL);
    while (ReadFile(GetStdHandle(STD_INPUT_HANDLE), &c, 1, &n, NULL) && n) ;
    TerminateJobObject(job, 1);
    return 0;
}

static int run(const WCHAR *name)
{
    static WCHAR command[32768];
    STARTUPINFOW start = {sizeof start};
    PROCESS_INFORMATION process;
    DWORD code;
    HANDLE job = OpenJobObjectW(JOB_OBJECT_ALL_ACCESS, FALSE, name);
    if (!job) return ERROR_INVALID_HANDLE; /* its shell has ended */
    GetEnvironmentVariableW(L"WINRS_COMMAND", command, 32768);
    SetEnvironmentVariableW(L"WINRS_COMMAND", NULL);
    AssignProcessToJobObject(job, GetCurrentProcess());
    CloseHandle(job); /* else the job would live as long as we do */
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    if (!CreateProcessW(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &process)) return GetLastError();
    CloseHandle(start.hStdInput);
    CloseHandle(start.hStdOutput);
    CloseHandle(start.hStdError);
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    return code;
}

static void quote(WCHAR *command, const WCHAR *word)
{
    wcscat(command, L" \"");
    wcscat(command, word);
    wcscat(command, L"\"");
}

/* The command line for the engine: what follows -File SCRIPT goes to file.ps1 by a variable, a word behind each U+001F. */
static void engine_line(WCHAR *command)
{
    static WCHAR words[32768];
    const WCHAR *line = GetCommandLineW(), *rest = line;
    BOOL quoted = FALSE;
    int count, i, file;
    WCHAR **all = CommandLineToArgvW(line, &count);
    wcscpy(command, L"C:\\lab\\powershell\\powershell.exe");
    for (file = 1; file < count && (all[file][0] == '-' || all[file - 1][0] == '-') && _wcsicmp(all[file], L"-File"); file++)
        if (!_wcsnicmp(all[file], L"-c", 2) || !_wcsnicmp(all[file], L"-e", 2)) { if (_wcsnicmp(all[file], L"-ex", 3)) file = count; }
    if (file + 2 < count)
    {
        for (i = 1; i < file; i++) quote(command, all[i]);
        wcscat(command, L" -File C:\\lab\\powershell\\file.ps1");
        for (i = file + 1; i < count; i++) { wcscat(words, L"\x1f"); wcscat(words, all[i]); }
        SetEnvironmentVariableW(L"LAB_FILE", words + 1);
        return;
    }
    for (; *rest && (quoted || (*rest != ' ' && *rest != '\t')); rest++) if (*rest == '"') quoted = !quoted;
    wcsncat(command, rest, 32700);
}

static int powershell(void)
{
    static WCHAR command[32768], modules[32768];
    STARTUPINFOW start = {sizeof start};
    PROCESS_INFORMATION process;
    DWORD code;
    GetEnvironmentVariableW(L"PSModulePath", modules, 32768);
    _wcslwr(modules);
    if (wcsstr(modules, L"\\powershell\\7\\"))
    {
        fputs("The 'Write-Host' command was found in the module 'Microsoft.PowerShell.Utility', but the module could not be loaded.\n", stderr);
        return 1;
    }
    engine_line(command);
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    if (!CreateProcessW(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &process)) return GetLastError();
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    return code;
}

static int fltmc(void)
{
    BOOL plain = GetFileAttributesW(L"C:\\lab\\unelevated") != INVALID_FILE_ATTRIBUTES;
    return plain && !GetEnvironmentVariableW(L"LAB_ELEVATED", NULL, 0);
}

struct handle_entry { ULONG pid; BYTE type; BYTE flags; USHORT handle; void *object; ULONG access; };
struct handle_list { ULONG count; struct handle_entry entries[1]; };

static int sockets(void)
{
    WSADATA data;
    SOCKET own;
    ULONG size = 1 << 16, i, got;
    BYTE type = 0;
    struct handle_list *list = NULL;
    WSAStartup(MAKEWORD(2, 2), &data);
    own = socket(AF_INET, SOCK_STREAM, 0);
    do list = realloc(list, size *= 2);
    while (NtQuerySystemInformation(16 /* SystemHandleInformation */, list, size, &got) == 0xc0000004 /* STATUS_INFO_LENGTH_MISMATCH */);
    for (i = 0; i < list->count; i++)
        if (list->entries[i].pid == GetCurrentProcessId() && list->entries[i].handle == (USHORT)own) type = list->entries[i].type;
    for (i = 0; i < list->count; i++)
    {
        struct handle_entry *entry = &list->entries[i];
        HANDLE process, copy;
        if (entry->type != type || entry->pid == GetCurrentProcessId()) continue;
        if (!(process = OpenProcess(PROCESS_DUP_HANDLE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE, entry->pid))) continue;
        if (DuplicateHandle(process, (HANDLE)(ULONG_PTR)entry->handle, GetCurrentProcess(), &copy, 0, FALSE, DUPLICATE_SAME_ACCESS))
        {
            struct sockaddr_storage name;
            int length = sizeof name;
            WCHAR path[4096];
            char text[12288];
            DWORD n = 4096;
            if (!getsockname((SOCKET)copy, (struct sockaddr *)&name, &length) && (name.ss_family == AF_INET || name.ss_family == AF_INET6)
                && QueryFullProcessImageNameW(process, 0, path, &n) && WideCharToMultiByte(CP_UTF8, 0, path, -1, text, sizeof text, NULL, NULL))
                printf("%d %lu %s\n", ntohs(((struct sockaddr_in *)&name)->sin_port), entry->pid, text); /* the port is where it is in either family */
            CloseHandle(copy);
        }
        CloseHandle(process);
    }
    return 0;
}

static WCHAR flag[MAX_PATH] = L"C:\\lab\\winrm.running", *own = L"WinRM";
static SERVICE_STATUS_HANDLE handle;
static HANDLE stopped;

static void report(DWORD state)
{
    SERVICE_STATUS status = {SERVICE_WIN32_OWN_PROCESS, state, state == SERVICE_RUNNING ? SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN : 0};
    SetServiceStatus(handle, &status);
}

static DWORD WINAPI control(DWORD code, DWORD type, void *data, void *context)
{
    if (code != SERVICE_CONTROL_STOP && code != SERVICE_CONTROL_SHUTDOWN) return NO_ERROR;
    DeleteFileW(flag);
    report(SERVICE_STOP_PENDING);
    SetEvent(stopped);
    return NO_ERROR;
}

static void WINAPI service(DWORD argc, WCHAR **argv)
{
    stopped = CreateEventW(NULL, TRUE, FALSE, NULL);
    handle = RegisterServiceCtrlHandlerExW(own, control, NULL);
    CreateDirectoryW(L"C:\\lab", NULL);
    CloseHandle(CreateFileW(flag, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL));
    report(SERVICE_RUNNING);
    WaitForSingleObject(stopped, INFINITE);
    report(SERVICE_STOPPED);
}

static int shut_down(int argc, WCHAR **argv)
{
    const WCHAR *file = L"C:\\lab\\reboot", *delay = L"30";
    BOOL restart = FALSE, abort = FALSE;
    char digits[16];
    DWORD n;
    HANDLE out;
    for (int i = 1; i < argc; i++)
    {
        if (!_wcsicmp(argv[i] + 1, L"r")) restart = TRUE;
        if (!_wcsicmp(argv[i] + 1, L"a")) abort = TRUE;
        if (!_wcsicmp(argv[i] + 1, L"t") && i + 1 < argc) delay = argv[++i];
    }
    if (abort) return DeleteFileW(file) ? 0 : 1116; /* no shutdown in progress */
    if (!restart) return ERROR_NOT_SUPPORTED;
    out = CreateFileW(file, GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
    if (out == INVALID_HANDLE_VALUE) return 1190; /* already scheduled */
    n = WideCharToMultiByte(CP_ACP, 0, delay, -1, digits, sizeof digits, NULL, NULL);
    if (n) WriteFile(out, digits, n - 1, &n, NULL);
    CloseHandle(out);
    return 0;
}

int wmain(int argc, WCHAR **argv)
{
    const WCHAR *name = wcsrchr(argv[0], '\\');
    name = name ? name + 1 : argv[0];
    SERVICE_TABLE_ENTRYW table[] = {{own, service}, {NULL, NULL}};
    if (!_wcsnicmp(name, L"powershell", 10)) return powershell();
    if (!_wcsnicmp(name, L"fltmc", 5)) return fltmc();
    if (!_wcsnicmp(name, L"shutdown", 8)) return shut_down(argc, argv);
    if (argc > 2 && !wcscmp(argv[1], L"shell")) return shell(argv[2]);
    if (argc > 2 && !wcscmp(argv[1], L"run")) return run(argv[2]);
    if (argc > 1 && !wcscmp(argv[1], L"sockets")) return sockets();
    if (argc > 2 && !wcscmp(argv[1], L"service"))
    {
        table[0].lpServiceName = own = argv[2];
        _snwprintf(flag, MAX_PATH - 1, L"C:\\lab\\%ls.running", own);
    }
    if (argc > 1 && !wcscmp(argv[1], L"service")) return !StartServiceCtrlDispatcherW(table);
    return ERROR_INVALID_PARAMETER;
}
