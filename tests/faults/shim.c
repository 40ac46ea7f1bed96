/* Counts the writes of a process below one folder, and makes the n-th one go wrong. Preloaded (LD_PRELOAD); see writes.py.

   faults_arm(root, mode, at, log): mode 0 only counts, and writes every one into the descriptor `log`; mode 1 kills the
   process before the write number `at`; mode 2 refuses it and all later ones that need space, as a full disk does. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, RENAME, UNLINK, MKDIR, RMDIR, TRUNCATE, SYNC };

static int armed, mode, sink = -1;
static long at, count;
static char root[PATH_MAX];
static size_t root_length;

void faults_arm(const char *where, int how, long which, int log) {
    armed = 0;
    strncpy(root, where, sizeof root - 1);
    root_length = strlen(root);
    mode = how, at = which, count = 0, sink = log;
    armed = 1;
}

long faults_count(void) { return count; }
void faults_disarm(void) { armed = 0; }

static int inside(const char *path) {
    return armed && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return 1;
}

static void whole(int dir, const char *path, char *out) {
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    char base[PATH_MAX] = "";
    if (dir == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else if (!of_fd(dir, base)) base[0] = 0;
    snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, path);
}

/* One write is about to happen. True: refuse it. */
static int event(int kind, const char *path, const char *other, int64_t offset, const void *data, uint32_t length, int needs) {
    ++count;
    if (mode == 1 && count == at) kill(getpid(), SIGKILL);
    if (mode == 2 && count >= at && needs) {
        errno = ENOSPC;
        return 1;
    }
    if (mode == 0 && sink >= 0) {
        uint32_t head[4] = {(uint32_t)kind, (uint32_t)strlen(path), (uint32_t)strlen(other), length};
        syscall(SYS_write, sink, head, sizeof head);
        syscall(SYS_write, sink, &offset, sizeof offset);
        syscall(SYS_write, sink, path, head[1]);
        syscall(SYS_write, sink, other, head[2]);
        if (length) syscall(SYS_write, sink, data, length);
    }
    return 0;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int opened(int dir, const char *path, int flags) {
    char full[PATH_MAX];
    if (!armed || !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE) return 0;
    whole(dir, path, full);
    struct stat there;
    int is_new = stat(full, &there) != 0;
    if (!inside(full) || (!is_new && !(flags & O_TRUNC))) return 0;
    return event(OPEN, full, "", flags & O_TRUNC ? 1 : 0, NULL, 0, is_new);
}

#define OPENER(name, dir, ...) \
    mode_t how = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); how = va_arg(rest, mode_t); va_end(rest); } \
    if (opened(dir, path, flags)) return -1; \
    REAL(name); \
    return real(__VA_ARGS__, flags, how)

int open(const char *path, int flags, ...) { OPENER(open, AT_FDCWD, path); }
int open64(const char *path, int flags, ...) { OPENER(open64, AT_FDCWD, path); }
int openat(int dir, const char *path, int flags, ...) { OPENER(openat, dir, dir, path); }
int openat64(int dir, const char *path, int flags, ...) { OPENER(openat64, dir, dir, path); }

static int written(int fd, const void *data, size_t length, int64_t offset) {
    char path[PATH_MAX];
    struct stat there;
    if (!armed || !of_fd(fd, path) || !inside(path) || fstat(fd, &there) || !S_ISREG(there.st_mode)) return 0;
    if (offset < 0) offset = fcntl(fd, F_GETFL) & O_APPEND ? there.st_size : lseek(fd, 0, SEEK_CUR);
    return event(WRITE, path, "", offset, data, (uint32_t)length, 1);
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    return written(fd, data, length, -1) ? -1 : real(fd, data, length);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    REAL(pwrite);
    return written(fd, data, length, offset) ? -1 : real(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    REAL(pwrite64);
    return written(fd, data, length, offset) ? -1 : real(fd, data, length, offset);
}

static int renamed(int from_dir, const char *from, int to_dir, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    if (!armed) return 0;
    whole(from_dir, from, old), whole(to_dir, to, new);
    return inside(old) && event(RENAME, old, new, 0, NULL, 0, 0);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    return renamed(AT_FDCWD, from, AT_FDCWD, to) ? -1 : real(from, to);
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(renameat);
    return renamed(from_dir, from, to_dir, to) ? -1 : real(from_dir, from, to_dir, to);
}

static int named(int kind, int dir, const char *path, int needs) {
    char full[PATH_MAX];
    if (!armed) return 0;
    whole(dir, path, full);
    return inside(full) && event(kind, full, "", 0, NULL, 0, needs);
}
int unlink(const char *path) { REAL(unlink); return named(UNLINK, AT_FDCWD, path, 0) ? -1 : real(path); }
int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    return named(flags & AT_REMOVEDIR ? RMDIR : UNLINK, dir, path, 0) ? -1 : real(dir, path, flags);
}
int rmdir(const char *path) { REAL(rmdir); return named(RMDIR, AT_FDCWD, path, 0) ? -1 : real(path); }
int mkdir(const char *path, mode_t how) {
    struct stat there;
    REAL(mkdir);
    return stat(path, &there) && named(MKDIR, AT_FDCWD, path, 1) ? -1 : real(path, how);
}

static int truncated(int fd, int64_t length) {
    char path[PATH_MAX];
    return armed && of_fd(fd, path) && inside(path) && event(TRUNCATE, path, "", length, NULL, 0, 0);
}
int ftruncate(int fd, off_t length) { REAL(ftruncate); return truncated(fd, length) ? -1 : real(fd, length); }
int ftruncate64(int fd, off64_t length) { REAL(ftruncate64); return truncated(fd, length) ? -1 : real(fd, length); }

static int synced(int fd) {
    char path[PATH_MAX];
    return armed && of_fd(fd, path) && inside(path) && event(SYNC, path, "", 0, NULL, 0, 0);
}
int fsync(int fd) { REAL(fsync); return synced(fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return synced(fd) ? -1 : real(fd); }
