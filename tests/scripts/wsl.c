/* Stands in for wsl.exe up to its border: `--list` prints wsl.list, which lies beside it, as it is; anything else is written to
   wsl.called, an argument a line, the folder first, and ends with 7. */
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
        WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), bytes, (DWORD)size, &written, NULL);
        return size ? 0 : 1;
    }
    FILE *called = beside(L".called", L"wb");
    wchar_t folder[MAX_PATH];
    GetCurrentDirectoryW(MAX_PATH, folder);
    write_line(called, folder);
    for (int place = 1; place < count; place++) write_line(called, words[place]);
    fclose(called);
    return 7;
}
