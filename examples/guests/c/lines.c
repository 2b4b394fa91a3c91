/* WASI: counts the lines of standard input, or of each file that is named.
   wasm-executor invoke lines.wasm --argv lines --argv /a.txt --file /a.txt=FILE */
#include <stdio.h>

static int count(FILE *file, const char *name) {
    long lines = 0;
    for (int byte; (byte = getc(file)) != EOF;) lines += byte == '\n';
    printf("%ld %s\n", lines, name);
    return ferror(file) ? 1 : 0;
}

int main(int count_of_arguments, char **arguments) {
    if (count_of_arguments < 2) return count(stdin, "-");
    for (int at = 1; at < count_of_arguments; at++) {
        FILE *file = fopen(arguments[at], "r");
        if (file == NULL) {
            fprintf(stderr, "%s: no such file\n", arguments[at]);
            return 1;
        }
        count(file, arguments[at]);
        fclose(file);
    }
    return 0;
}
