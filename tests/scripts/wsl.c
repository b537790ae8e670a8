/* Stands in for wsl.exe up to its border: `--list` prints wsl.list, which lies beside it, as it is; anything else is written to
   wsl.called, an argument a line, the folder first, then the variables that WSLENV lets through, and ends with 7. An empty wsl.list is
   a PC without WSL: it waits for a key, which standard input may bring or not, a minute long. */
#include <stdio.h>
#include <wchar.h>
#include <windows.h>

static FILE *beside(const wchar_t *ending, const wchar_t *mode) {
    wchar_t path[MAX_PATH];
    GetModuleFileNameW(NULL, path, MAX_PATH);
    wcscpy(wcsrchr(path, L'.'), ending);
    return _wfopen(path, mode);
}

static void write_line(FILE *file, const wchar_t *text) {
    char line[4096];
    WideCharToMultiByte(CP_UTF8, 0, text, -1, line, sizeof line, NULL, NULL);
    fprintf(file, "%s\n", line);
}

int wmain(int count, wchar_t **words) {
    if (count > 1 && wcscmp(words[1], L"--list") == 0) {
        FILE *list = beside(L".list", L"rb");
        char bytes[4096];
        size_t size = list ? fread(bytes, 1, sizeof bytes, list) : 0;
        DWORD written;
        if (list && !size) Sleep(60000);
        WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), bytes, (DWORD)size, &written, NULL);
        return size ? 0 : 1;
    }
    FILE *called = beside(L".called", L"wb");
    wchar_t folder[MAX_PATH];
    GetCurrentDirectoryW(MAX_PATH, folder);
    write_line(called, folder);
    for (int place = 1; place < count; place++) write_line(called, words[place]);
    wchar_t names[4096] = L"", value[4096], *next = NULL;
    GetEnvironmentVariableW(L"WSLENV", names, 4096);
    for (wchar_t *name = wcstok_s(names, L":", &next); name; name = wcstok_s(NULL, L":", &next)) {
        wchar_t *flags = wcschr(name, L'/'), line[8300];
        if (flags) *flags++ = 0;
        if (flags && *flags && !wcschr(flags, L'u')) continue; /* /w: to Windows alone */
        if (!GetEnvironmentVariableW(name, value, 4096)) continue;
        swprintf(line, 8300, L"%ls=%ls", name, value);
        write_line(called, line);
    }
    fclose(called);
    return 7;
}
