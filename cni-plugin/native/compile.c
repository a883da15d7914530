/*
 * Compiles a script for the host (host.c): JavaScript on stdin, QuickJS bytecode as a C array on stdout. Runs
 * while the plugin is built. Bytecode is the same for all little-endian machines, and belongs to the very
 * library it was made with.
 */
#include <quickjs/quickjs.h>
#include <stdio.h>
#include <stdlib.h>

static char *read_all(FILE *file, size_t *length) {
  size_t room = 1 << 20;
  char *text = malloc(room);
  *length = 0;
  while (text != NULL) {
    *length += fread(text + *length, 1, room - 1 - *length, file);
    if (*length < room - 1) break;
    room *= 2;
    text = realloc(text, room);
  }
  if (text != NULL) text[*length] = 0; /* JS_Eval asks for it. */
  return text;
}

int main(void) {
  JSRuntime *runtime = JS_NewRuntime();
  JSContext *context = runtime == NULL ? NULL : JS_NewContext(runtime);
  size_t length;
  char *source = read_all(stdin, &length);
  if (context == NULL || source == NULL) return 1;
  /* Names and lines would only show in stack traces, which the plugin never prints. */
  JS_SetStripInfo(runtime, JS_STRIP_DEBUG);
  JSValue script = JS_Eval(context, source, length, "ovpn-cni", JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_COMPILE_ONLY);
  if (JS_IsException(script)) {
    JSValue error = JS_GetException(context);
    const char *text = JS_ToCString(context, error);
    fprintf(stderr, "%s\n", text == NULL ? "the script cannot be compiled" : text);
    return 1;
  }
  size_t size;
  uint8_t *bytecode = JS_WriteObject(context, &size, script, JS_WRITE_OBJ_BYTECODE);
  if (bytecode == NULL) return 1;
  printf("#include <stddef.h>\n#include <stdint.h>\nconst size_t plugin_size = %zu;\nconst uint8_t plugin[] = {", size);
  for (size_t i = 0; i < size; i++) printf("%s%u,", i % 32 == 0 ? "\n" : "", bytecode[i]);
  printf("\n};\n");
  return ferror(stdout) || fflush(stdout) != 0;
}
