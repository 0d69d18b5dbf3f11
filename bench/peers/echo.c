/* What the kernel alone can carry: an echo over a unix socket pair, without any interpreter.
 *
 *     echo pingpong  SIZE 1        WARMUP_SECONDS SECONDS
 *     echo spinning  SIZE 1        WARMUP_SECONDS SECONDS
 *     echo pipelined SIZE INFLIGHT WARMUP_SECONDS SECONDS
 *
 * Frames are a 4-byte header and SIZE bytes. In ping-pong both sides block; the server returns each
 * frame when it has all of it. Spinning is the same with each side on a core of its own, where it
 * asks for bytes until there are some: no wake-up, and so no scheduler, is in the figure. Pipelined, the server returns bytes as they come: it is the limit,
 * not a fair fight. Replies are compared with what was sent during the whole warm-up. Prints one
 * line of JSON; any failure goes to stderr with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 4, CHUNK = 256 << 10, SEND_AHEAD = 1 << 20, MAX_TIMES = 4 << 20 };

static void fail(const char *system_call)
{
    perror(system_call);
    exit(1);
}

static void give_up(const char *reason)
{
    fprintf(stderr, "%s\n", reason);
    exit(1);
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) < 0)
        fail("clock_gettime");
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu_of(pid_t pid)
{
    clockid_t clock;
    if (clock_getcpuclockid(pid, &clock) != 0)
        fail("clock_getcpuclockid");
    return seconds(clock);
}

static int receive_flags = 0;

/* Run on the first or the last of the cores that we may use. */
static void move_to(int last)
{
    cpu_set_t allowed, one;
    int chosen = -1;
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
        fail("sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE && (last || chosen < 0); cpu++)
        if (CPU_ISSET(cpu, &allowed))
            chosen = cpu;
    CPU_ZERO(&one);
    CPU_SET(chosen, &one);
    if (sched_setaffinity(0, sizeof one, &one) < 0)
        fail("sched_setaffinity");
}

/* Return 0 on end of file before the first byte, 1 when `size` bytes have come. */
static int receive_exactly(int fd, char *buffer, size_t size)
{
    for (size_t have = 0; have < size;) {
        ssize_t n = recv(fd, buffer + have, size - have, receive_flags);
        if (n < 0 && receive_flags && errno == EAGAIN)
            continue;
        if (n == 0 && have == 0)
            return 0;
        if (n <= 0)
            fail("recv");
        have += n;
    }
    return 1;
}

static void send_all(int fd, const char *buffer, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(fd, buffer + sent, size - sent, MSG_NOSIGNAL);
        if (n <= 0)
            fail("send");
        sent += n;
    }
}

static void serve_frames(int fd, size_t frame)
{
    char *buffer = malloc(frame);
    while (receive_exactly(fd, buffer, frame))
        send_all(fd, buffer, frame);
}

static void serve_chunks(int fd)
{
    static char buffer[CHUNK];
    ssize_t n;
    while ((n = recv(fd, buffer, CHUNK, 0)) > 0)
        send_all(fd, buffer, n);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(double completed, double elapsed, double client, double server)
{
    if (completed < 1)
        give_up("no call completed within the measuring window");
    client *= 1e6 / completed;
    server *= 1e6 / completed;
    printf("{\"rate\": %.6f, \"client_cpu\": %.6f, \"server_cpu\": %.6f, \"cpu\": %.6f",
           completed / elapsed, client, server, client + server);
}

static void ping_pong(int fd, pid_t server, const char *sent, size_t frame, double warmup,
                      double window)
{
    char *got = malloc(frame);
    double *times = malloc(MAX_TIMES * sizeof *times);
    size_t count = 0;
    for (double end = seconds(CLOCK_MONOTONIC) + warmup; seconds(CLOCK_MONOTONIC) < end;) {
        send_all(fd, sent, frame);
        if (!receive_exactly(fd, got, frame) || memcmp(sent, got, frame) != 0)
            give_up("wrong answer");
    }
    double client_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), server_cpu = cpu_of(server);
    double begun = seconds(CLOCK_MONOTONIC), end = begun + window, now = begun;
    while (now < end && count < MAX_TIMES) {
        double before = now;
        send_all(fd, sent, frame);
        if (!receive_exactly(fd, got, frame))
            give_up("the server is gone");
        now = seconds(CLOCK_MONOTONIC);
        times[count++] = now - before;
    }
    report(count, now - begun, seconds(CLOCK_PROCESS_CPUTIME_ID) - client_cpu,
           cpu_of(server) - server_cpu);
    qsort(times, count, sizeof *times, by_value);
    printf(", \"p50\": %.3f, \"p99\": %.3f}\n", times[count / 2] * 1e6,
           times[count * 99 / 100] * 1e6);
}

/* Compare bytes from stream offset `at` with the frame that is sent over and over. */
static void check_stream(const char *sent, size_t frame, size_t at, const char *got, size_t size)
{
    while (size > 0) {
        size_t offset = at % frame, n = frame - offset < size ? frame - offset : size;
        if (memcmp(sent + offset, got, n) != 0)
            give_up("wrong answer");
        at += n, got += n, size -= n;
    }
}

static void pipelined(int fd, pid_t server, const char *sent, size_t frame, size_t ahead,
                      size_t inflight, double warmup, double window)
{
    static char got[CHUNK];
    size_t out = 0, in = 0, in_before = 0;
    double client_cpu = 0, server_cpu = 0, begun = 0, now = seconds(CLOCK_MONOTONIC);
    double start = now + warmup;
    int warm = 0;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    for (;;) {
        now = seconds(CLOCK_MONOTONIC);
        if (!warm && now >= start) {
            warm = 1, in_before = in, begun = now;
            client_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), server_cpu = cpu_of(server);
        }
        if (warm && now >= begun + window)
            break;
        size_t allowed = (in / frame + inflight) * frame;
        if (out < allowed) {
            size_t offset = out % frame, n = ahead - offset;
            ssize_t done = send(fd, sent + offset, n < allowed - out ? n : allowed - out,
                                MSG_NOSIGNAL);
            if (done < 0 && errno != EAGAIN)
                fail("send");
            out += done > 0 ? done : 0;
        }
        ssize_t n = recv(fd, got, CHUNK, 0);
        if (n > 0) {
            if (!warm)
                check_stream(sent, frame, in, got, n);
            in += n;
        } else if (n == 0 || errno != EAGAIN) {
            fail("recv");
        } else {
            struct pollfd ready = {fd, POLLIN | (out < allowed ? POLLOUT : 0), 0};
            poll(&ready, 1, -1);
        }
    }
    report(in / frame - in_before / frame, now - begun,
           seconds(CLOCK_PROCESS_CPUTIME_ID) - client_cpu, cpu_of(server) - server_cpu);
    puts("}");
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    int spinning = strcmp(argv[1], "spinning") == 0;
    int blocking = spinning || strcmp(argv[1], "pingpong") == 0;
    size_t frame = strtoul(argv[2], NULL, 10) + HEADER, inflight = strtoul(argv[3], NULL, 10);
    double warmup = atof(argv[4]), window = atof(argv[5]);
    /* Several frames in a row, so that many small ones leave with one send. */
    size_t copies = SEND_AHEAD / frame + 2, ahead = frame * copies;
    char *sent = malloc(ahead);
    for (size_t i = 0; i < ahead; i++)
        sent[i] = (char)((i % frame) * 131 + ((i % frame) >> 8));

    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        fail("socketpair");
    if (spinning)
        receive_flags = MSG_DONTWAIT;
    pid_t server = fork();
    if (server < 0)
        fail("fork");
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        if (spinning)
            move_to(1);
        if (blocking)
            serve_frames(pair[1], frame);
        else
            serve_chunks(pair[1]);
        _exit(0);
    }
    close(pair[1]);
    if (spinning)
        move_to(0);
    if (blocking)
        ping_pong(pair[0], server, sent, frame, warmup, window);
    else
        pipelined(pair[0], server, sent, frame, ahead, inflight, warmup, window);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return 0;
}
