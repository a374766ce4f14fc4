/* What a person's programs do on Windows, for tests: one thing a call, or several that are read from stdin, a line each.
 *
 *   write PATH|TEXT   append PATH|TEXT   rename FROM|TO   remove PATH   mkdir PATH   rmdir PATH
 *   hold PATH         opens a file such that nobody else may touch it, until stdin ends
 *
 * Each line that was done is answered with `ok`, the first that was not with `error CODE`, which ends the program. */
#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <windows.h>

enum { LINE_MAX_BYTES = 8192 };

static HANDLE held = INVALID_HANDLE_VALUE;

static WCHAR *wide(const char *text) {
    static WCHAR buffers[2][LINE_MAX_BYTES];
    static int next;
    next = !next;
    MultiByteToWideChar(CP_UTF8, 0, text, -1, buffers[next], LINE_MAX_BYTES);
    return buffers[next];
}

static BOOL put(const char *path, const char *text, DWORD access, DWORD how) {
    DWORD written;
    HANDLE file = CreateFileW(wide(path), access, FILE_SHARE_READ, NULL, how, 0, NULL);
    if (file == INVALID_HANDLE_VALUE) return FALSE;
    BOOL done = WriteFile(file, text, strlen(text), &written, NULL);
    CloseHandle(file);
    return done;
}

static BOOL act(char *line) {
    char *what = strtok(line, " "), *path = strtok(NULL, "|"), *rest = strtok(NULL, "");
    if (!what || !path) return FALSE;
    if (!rest) rest = "";
    if (!strcmp(what, "write")) return put(path, rest, GENERIC_WRITE, CREATE_ALWAYS);
    if (!strcmp(what, "append")) return put(path, rest, FILE_APPEND_DATA, OPEN_EXISTING);
    if (!strcmp(what, "rename")) {
        WCHAR from[LINE_MAX_BYTES];
        wcscpy(from, wide(path));
        return MoveFileExW(from, wide(rest), MOVEFILE_REPLACE_EXISTING);
    }
    if (!strcmp(what, "remove")) return DeleteFileW(wide(path));
    if (!strcmp(what, "mkdir")) return CreateDirectoryW(wide(path), NULL);
    if (!strcmp(what, "rmdir")) return RemoveDirectoryW(wide(path));
    if (!strcmp(what, "hold")) {
        held = CreateFileW(wide(path), GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
        return held != INVALID_HANDLE_VALUE;
    }
    return FALSE;
}

int main(void) {
    char line[LINE_MAX_BYTES];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!act(line)) {
            printf("error %lu\n", GetLastError());
            return 1;
        }
        printf("ok\n");
        fflush(stdout);
    }
    return 0;
}
