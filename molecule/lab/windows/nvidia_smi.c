/* A double of nvidia-smi.exe: prints C:\lab\query-gpu.csv or C:\lab\query-compute-apps.csv, whichever it is asked for. */
#include <stdio.h>
#include <string.h>

int main(int count, char **words) {
    for (int at = 1; at < count; at++) {
        const char *name = NULL;
        if (!strncmp(words[at], "--query-gpu=", 12)) name = "C:\\lab\\query-gpu.csv";
        if (!strncmp(words[at], "--query-compute-apps=", 21)) name = "C:\\lab\\query-compute-apps.csv";
        FILE *file = name ? fopen(name, "r") : NULL;
        if (!file) continue;
        for (int byte; (byte = getc(file)) != EOF;) putchar(byte);
        fclose(file);
        return 0;
    }
    return 9;
}
