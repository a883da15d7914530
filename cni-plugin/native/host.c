/*
 * The process around the plugin: QuickJS with the plugin's bytecode inside, and the few calls of the operating
 * system that the plugin makes, as the object `host` (src/host.ts says what each is to do). All of them block
 * and none of them blocks for ever: a call of the plugin does one thing after the other and ends.
 *
 * What fails throws an Error whose `code` is the name of the errno, as in Node.js, or one of these:
 * EOF (the other end closed before it was done).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <quickjs/quickjs.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The bytecode (compile.c). */
extern const size_t plugin_size;
extern const uint8_t plugin[];
extern char **environ;

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static JSValue fail_with(JSContext *context, const char *code) {
  JSValue error = JS_NewError(context);
  JS_DefinePropertyValueStr(context, error, "message", JS_NewString(context, code), JS_PROP_C_W_E);
  JS_DefinePropertyValueStr(context, error, "code", JS_NewString(context, code), JS_PROP_C_W_E);
  return JS_Throw(context, error);
}

static JSValue fail(JSContext *context, int number) {
  const char *name = strerrorname_np(number);
  return fail_with(context, name == NULL ? "EUNKNOWN" : name);
}

/* --- time --- */

static int64_t now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Milliseconds for poll(2) until then; never negative, which would mean for ever. */
static int remaining(int64_t deadline) {
  int64_t left = deadline - now_ms();
  return left < 0 ? 0 : left > 1000000000 ? 1000000000 : (int)left;
}

/* --- bytes that grow --- */

struct buffer {
  char *bytes;
  size_t length, room;
};

/* Reads what is there: 1 for something, 0 for the end, -1 with errno; EMSGSIZE when it is more than `limit`. */
static int read_some(int fd, struct buffer *buffer, size_t limit) {
  if (buffer->length == buffer->room) {
    size_t room = buffer->room == 0 ? 16384 : buffer->room * 2;
    char *bytes = realloc(buffer->bytes, room);
    if (bytes == NULL) return -1;
    buffer->bytes = bytes;
    buffer->room = room;
  }
  ssize_t count;
  do count = read(fd, buffer->bytes + buffer->length, buffer->room - buffer->length);
  while (count < 0 && errno == EINTR);
  if (count <= 0) return (int)count;
  buffer->length += (size_t)count;
  if (buffer->length > limit) {
    errno = EMSGSIZE;
    return -1;
  }
  return 1;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(const unsigned char *bytes, size_t length) {
  for (size_t i = 0; i < length;) {
    unsigned char first = bytes[i++];
    if (first < 0x80) continue;
    int more = first >= 0xc2 && first <= 0xdf ? 1 : (first & 0xf0) == 0xe0 ? 2 : first >= 0xf0 && first <= 0xf4 ? 3 : 0;
    if (more == 0 || length - i < (size_t)more) return false;
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (bytes[i] < low || bytes[i] > high) return false;
    for (i++; --more > 0; i++) {
      if ((bytes[i] & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

static JSValue text_of(JSContext *context, const struct buffer *buffer, size_t length) {
  if (!is_utf8((const unsigned char *)buffer->bytes, length)) return fail(context, EILSEQ);
  return JS_NewStringLen(context, buffer->bytes == NULL ? "" : buffer->bytes, length);
}

/* --- arguments --- */

/* A path or name for the kernel, which would read only up to a NUL. Free it by JS_FreeCString. */
static const char *path_argument(JSContext *context, JSValueConst value) {
  size_t length;
  const char *text = JS_ToCStringLen(context, &length, value);
  if (text != NULL && strlen(text) != length) {
    JS_FreeCString(context, text);
    fail(context, EINVAL);
    return NULL;
  }
  return text;
}

static int64_t number_argument(JSContext *context, JSValueConst value) {
  int64_t number = 0;
  JS_ToInt64(context, &number, value);
  return number < 0 ? 0 : number;
}

/* --- streams --- */

/* readStdin(maxBytes, ms): everything up to the end of stdin. */
static JSValue read_stdin(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  size_t limit = (size_t)number_argument(context, arguments[0]);
  int64_t deadline = now_ms() + number_argument(context, arguments[1]);
  struct buffer buffer = {0};
  for (;;) {
    struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = poll(&wait, 1, remaining(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) errno = ETIMEDOUT;
    int got = ready > 0 ? read_some(STDIN_FILENO, &buffer, limit) : -1;
    if (got == 0) break;
    if (got < 0) {
      int number = errno;
      free(buffer.bytes);
      return fail(context, number);
    }
  }
  JSValue text = text_of(context, &buffer, buffer.length);
  free(buffer.bytes);
  return text;
}

static bool write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t count = write(fd, bytes, length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes += count;
    length -= (size_t)count;
  }
  return true;
}

/* write(fd, text): stdout or stderr. */
static JSValue write_stream(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  int fd = (int)number_argument(context, arguments[0]);
  size_t length;
  const char *text = JS_ToCStringLen(context, &length, arguments[1]);
  if (text == NULL) return JS_EXCEPTION;
  bool written = write_all(fd, text, length);
  int number = errno;
  JS_FreeCString(context, text);
  return written ? JS_UNDEFINED : fail(context, number);
}

/* --- the agent's socket --- */

/* Sends a line within the deadline; the reply may be on its way already when the far end stops reading. */
static bool send_line(int fd, const char *bytes, size_t length, int64_t deadline) {
  while (length > 0) {
    ssize_t count = send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count >= 0) {
      bytes += count;
      length -= (size_t)count;
      continue;
    }
    if (errno != EAGAIN && errno != EINTR) return false;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    if (poll(&wait, 1, remaining(deadline)) == 0) {
      errno = ETIMEDOUT;
      return false;
    }
  }
  return true;
}

/* The reply's line without its newline; its length, or -1 with errno (ENODATA: closed before the newline). */
static ssize_t receive_line(int fd, struct buffer *buffer, size_t limit, int64_t deadline) {
  for (;;) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    int ready = poll(&wait, 1, remaining(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) errno = ETIMEDOUT;
    size_t before = buffer->length;
    int got = ready > 0 ? read_some(fd, buffer, limit) : -1;
    if (got == 0) errno = ENODATA;
    if (got <= 0) return -1;
    char *newline = memchr(buffer->bytes + before, '\n', buffer->length - before);
    if (newline != NULL) return newline - buffer->bytes;
  }
}

/* Which half of an exchange failed: a request that was not sent was not served. */
static JSValue fail_in(JSContext *context, const char *phase, int number) {
  JSValue thrown = number == ENODATA ? fail_with(context, "EOF") : fail(context, number);
  JSValue error = JS_GetException(context);
  JS_DefinePropertyValueStr(context, error, "phase", JS_NewString(context, phase), JS_PROP_C_W_E);
  JS_Throw(context, error);
  return thrown;
}

/* exchange(path, line, connectMs, replyMs, maxBytes): one line to a Unix socket and one line back. */
static JSValue exchange(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = path_argument(context, arguments[0]);
  if (path == NULL) return JS_EXCEPTION;
  bool fits = strlen(path) < sizeof(address.sun_path);
  if (fits) strcpy(address.sun_path, path);
  JS_FreeCString(context, path);
  if (!fits) return fail_in(context, "connect", ENAMETOOLONG);
  int64_t connect_ms = number_argument(context, arguments[2]);
  /* A listener whose backlog is full lets connect(2) wait; SO_SNDTIMEO bounds that (unix(7), net/unix/af_unix.c). */
  struct timeval bound = {.tv_sec = connect_ms / 1000, .tv_usec = connect_ms % 1000 * 1000};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound)) != 0 ||
      connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
    int number = errno == EAGAIN ? ETIMEDOUT : errno;
    if (fd >= 0) close(fd);
    return fail_in(context, "connect", number);
  }
  int64_t deadline = now_ms() + number_argument(context, arguments[3]);
  size_t length;
  const char *line = JS_ToCStringLen(context, &length, arguments[1]);
  if (line == NULL) {
    close(fd);
    return JS_EXCEPTION;
  }
  struct buffer buffer = {0};
  ssize_t got = send_line(fd, line, length, deadline)
                    ? receive_line(fd, &buffer, (size_t)number_argument(context, arguments[4]), deadline)
                    : -1;
  int number = errno;
  JS_FreeCString(context, line);
  close(fd);
  JSValue reply = got >= 0 ? text_of(context, &buffer, (size_t)got)
                           : fail_in(context, buffer.length > 0 ? "answer" : "reply", number);
  free(buffer.bytes);
  return reply;
}

/* --- other plugins --- */

/* isExecutable(path): whether it is a file that may be executed. */
static JSValue is_executable(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  const char *path = path_argument(context, arguments[0]);
  if (path == NULL) return JS_EXCEPTION;
  struct stat found;
  bool is = stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0;
  JS_FreeCString(context, path);
  return JS_NewBool(context, is);
}

struct child {
  pid_t pid;
  int in, out;
};

/* The environment of this process with one variable set anew. Only for use before an exec. */
static char **environment_with(char *variable) {
  size_t count = 0, name = (size_t)(strchr(variable, '=') - variable) + 1;
  while (environ[count] != NULL) count++;
  char **copy = calloc(count + 2, sizeof(char *));
  if (copy == NULL) return NULL;
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    if (strncmp(environ[i], variable, name) != 0) copy[kept++] = environ[i];
  }
  copy[kept] = variable;
  return copy;
}

static bool start(struct child *child, const char *path, char *command) {
  char **environment = environment_with(command);
  int in[2], out[2];
  if (environment == NULL || pipe2(in, O_CLOEXEC) != 0) return false;
  if (pipe2(out, O_CLOEXEC) != 0) {
    close(in[0]), close(in[1]);
    return false;
  }
  pid_t parent = getpid();
  child->pid = fork();
  if (child->pid == 0) {
    /* A runtime that gives up kills this process: what it started goes too. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    signal(SIGPIPE, SIG_DFL);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    char *arguments[] = {(char *)path, NULL};
    execve(path, arguments, environment);
    _exit(127);
  }
  int number = errno;
  free(environment);
  close(in[0]), close(out[1]);
  child->in = in[1];
  child->out = out[0];
  if (child->pid > 0) {
    fcntl(child->in, F_SETFL, O_NONBLOCK);
    return true;
  }
  close(in[1]), close(out[0]);
  errno = number;
  return false;
}

/* Feeds stdin and gathers stdout until stdout ends; errno otherwise. */
static bool converse(struct child *child, const char *input, size_t length, struct buffer *output, size_t limit,
                     int64_t deadline) {
  for (;;) {
    if (length == 0 && child->in >= 0) {
      close(child->in);
      child->in = -1;
    }
    struct pollfd waits[] = {{.fd = child->out, .events = POLLIN}, {.fd = child->in, .events = POLLOUT}};
    int ready = poll(waits, 2, remaining(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) errno = ETIMEDOUT;
    if (ready <= 0) return false;
    if (waits[1].revents != 0) {
      ssize_t count = write(child->in, input, length);
      /* A plugin need not read its input to the end. */
      if (count < 0 && errno != EAGAIN && errno != EINTR) length = 0;
      if (count > 0) input += count, length -= (size_t)count;
    }
    if (waits[0].revents != 0) {
      int got = read_some(child->out, output, limit);
      if (got <= 0) return got == 0;
    }
  }
}

/* execute(path, command, input, ms, maxBytes): another plugin with another CNI_COMMAND; { exitCode, stdout }. */
static JSValue execute(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  const char *path = path_argument(context, arguments[0]);
  const char *command = path == NULL ? NULL : path_argument(context, arguments[1]);
  size_t length = 0;
  const char *input = command == NULL ? NULL : JS_ToCStringLen(context, &length, arguments[2]);
  if (input == NULL) return JS_EXCEPTION;
  int64_t deadline = now_ms() + number_argument(context, arguments[3]);
  char variable[64];
  snprintf(variable, sizeof(variable), "CNI_COMMAND=%s", command);
  struct child child;
  struct buffer output = {0};
  int status = 0;
  bool done = start(&child, path, variable);
  int number = errno;
  if (done) {
    done = converse(&child, input, length, &output, (size_t)number_argument(context, arguments[4]), deadline);
    number = errno;
    if (!done) kill(child.pid, SIGKILL);
    if (child.in >= 0) close(child.in);
    close(child.out);
    while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) continue;
  }
  JS_FreeCString(context, path);
  JS_FreeCString(context, command);
  JS_FreeCString(context, input);
  JSValue text = done ? text_of(context, &output, output.length) : fail(context, number);
  free(output.bytes);
  if (JS_IsException(text)) return text;
  JSValue result = JS_NewObject(context);
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  JS_DefinePropertyValueStr(context, result, "exitCode", JS_NewInt32(context, code), JS_PROP_C_W_E);
  JS_DefinePropertyValueStr(context, result, "stdout", text, JS_PROP_C_W_E);
  return result;
}

/* --- files --- */

static bool sync_folder(const char *folder) {
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool synced = fd >= 0 && fsync(fd) == 0;
  int number = errno;
  if (fd >= 0) close(fd);
  errno = number;
  return synced;
}

static bool write_file(const char *folder, const char *name, const char *bytes, size_t length) {
  char temporary[4200], target[4200];
  if ((size_t)snprintf(temporary, sizeof(temporary), "%s/.%d-%s.part", folder, (int)getpid(), name) >= sizeof(temporary)) {
    errno = ENAMETOOLONG;
    return false;
  }
  snprintf(target, sizeof(target), "%s/%s", folder, name);
  /* The folder above it too: the agent may never have run. Others must not be able to write there. */
  char above[4200];
  snprintf(above, sizeof(above), "%s", folder);
  char *slash = strrchr(above, '/');
  if (slash != NULL && slash != above) {
    *slash = 0;
    if (mkdir(above, 0700) != 0 && errno != EEXIST) return false;
  }
  if (mkdir(folder, 0700) != 0 && errno != EEXIST) return false;
  int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  bool written = write_all(fd, bytes, length) && fsync(fd) == 0;
  written = close(fd) == 0 && written && rename(temporary, target) == 0 && sync_folder(folder);
  if (!written) {
    int number = errno;
    unlink(temporary);
    errno = number;
  }
  return written;
}

/* writeFile(folder, name, text): whole or not at all, and on the disk when it returns. Makes the folder. */
static JSValue write_file_call(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  const char *folder = path_argument(context, arguments[0]);
  const char *name = folder == NULL ? NULL : path_argument(context, arguments[1]);
  size_t length;
  const char *text = name == NULL ? NULL : JS_ToCStringLen(context, &length, arguments[2]);
  if (text == NULL) return JS_EXCEPTION;
  bool written = write_file(folder, name, text, length);
  int number = errno;
  JS_FreeCString(context, folder);
  JS_FreeCString(context, name);
  JS_FreeCString(context, text);
  return written ? JS_UNDEFINED : fail(context, number);
}

/* ipFamily(text): 4, 6 or 0, by inet_pton(3): no zones, no short forms. */
static JSValue ip_family(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  size_t length;
  const char *text = JS_ToCStringLen(context, &length, arguments[0]);
  if (text == NULL) return JS_EXCEPTION;
  struct in6_addr address;
  int family = strlen(text) != length ? 0 : inet_pton(AF_INET, text, &address) == 1 ? 4 : inet_pton(AF_INET6, text, &address) == 1 ? 6 : 0;
  JS_FreeCString(context, text);
  return JS_NewInt32(context, family);
}

/* exit(code): at once; what was allocated goes with the process. */
static JSValue exit_call(JSContext *context, JSValueConst self, int count, JSValueConst *arguments) {
  (void)self, (void)count;
  _exit((int)number_argument(context, arguments[0]));
}

/* --- the start --- */

static const struct {
  const char *name;
  JSCFunction *function;
  int arguments;
} calls[] = {
    {"readStdin", read_stdin, 2},        {"write", write_stream, 2},  {"exchange", exchange, 5},
    {"isExecutable", is_executable, 1},  {"execute", execute, 5},     {"writeFile", write_file_call, 3},
    {"ipFamily", ip_family, 1},          {"exit", exit_call, 1},
};

/* The variables of the specification. Of a text that is no UTF-8, U+FFFD stands in the place of what is not. */
static JSValue environment(JSContext *context) {
  JSValue object = JS_NewObject(context);
  for (char **variable = environ; *variable != NULL; variable++) {
    char *equals = strchr(*variable, '=');
    if (equals == NULL || strncmp(*variable, "CNI_", 4) != 0) continue;
    JSAtom name = JS_NewAtomLen(context, *variable, (size_t)(equals - *variable));
    JS_DefinePropertyValue(context, object, name, JS_NewString(context, equals + 1), JS_PROP_C_W_E);
    JS_FreeAtom(context, name);
  }
  return object;
}

static int complain(JSContext *context) {
  JSValue error = JS_GetException(context);
  const char *text = JS_ToCString(context, error);
  fprintf(stderr, "ovpn-cni: a defect: %s\n", text == NULL ? "out of memory" : text);
  return 1;
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  JSRuntime *runtime = JS_NewRuntime();
  JSContext *context = runtime == NULL ? NULL : JS_NewContextRaw(runtime);
  if (context == NULL) {
    fprintf(stderr, "ovpn-cni: out of memory\n");
    return 1;
  }
  /* Just what the plugin uses: each of these takes a part of the start. */
  JS_AddIntrinsicBaseObjects(context);
  JS_AddIntrinsicRegExp(context);
  JS_AddIntrinsicJSON(context);
  JS_AddIntrinsicMapSet(context);

  JSValue host = JS_NewObject(context);
  for (size_t i = 0; i < COUNT(calls); i++) {
    JSValue function = JS_NewCFunction(context, calls[i].function, calls[i].name, calls[i].arguments);
    JS_DefinePropertyValueStr(context, host, calls[i].name, function, JS_PROP_C_W_E);
  }
  JS_DefinePropertyValueStr(context, host, "env", environment(context), JS_PROP_C_W_E);
  JS_DefinePropertyValueStr(context, host, "isTerminal", JS_NewBool(context, isatty(STDIN_FILENO)), JS_PROP_C_W_E);
  JSValue global = JS_GetGlobalObject(context);
  JS_DefinePropertyValueStr(context, global, "host", host, JS_PROP_C_W_E);

  JSValue script = JS_ReadObject(context, plugin, plugin_size, JS_READ_OBJ_BYTECODE);
  if (JS_IsException(script) || JS_IsException(JS_EvalFunction(context, script))) return complain(context);
  /* The plugin ends by exit(); here it has forgotten to. */
  return 1;
}
