/* One thread exchanges what a descriptor's number stands for while another uses it: to see whether the socket that is
   judged is the socket that is used.
   usage: swapping HOW PORT TIMES [USER]
   HOW: fastopen, sendmsg, rights, many; connect: as this USER, with an address that is exchanged, too. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static union {
    struct sockaddr any;
    struct sockaddr_in internet;
    struct sockaddr_un local;
} address, both[2];
static volatile int going = 1, harmless, other;
static int used, swaps_address;

static void *swap(void *unused)
{
    for (unsigned n = 0; going; n++) {
        if (swaps_address)
            memcpy(&address, &both[n & 1], sizeof address);
        dup2(n & 1 ? other : harmless, used);
    }
    return unused;
}

int main(int argc, char **argv)
{
    static char room[CMSG_SPACE(sizeof(int))];
    struct iovec part = {"x", 1};
    struct mmsghdr message = {{&address, sizeof address.internet, &part, 1, 0, 0, 0}, 0};
    struct cmsghdr *control = (struct cmsghdr *)room;
    int pair[2], times;
    pthread_t thread;
    if (argc < 4 || (argc > 4 && setuid(atoi(argv[4]))))
        return 2;
    times = atoi(argv[3]);
    int connects = !strcmp(argv[1], "connect"), fast = !strcmp(argv[1], "fastopen");
    int rights = !strcmp(argv[1], "rights"), many = !strcmp(argv[1], "many");
    both[1].internet.sin_family = AF_INET;
    both[1].internet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    both[1].internet.sin_port = htons(atoi(argv[2]));
    both[0].local.sun_family = AF_UNIX;
    strcpy(both[0].local.sun_path, "/");
    address = both[1];
    swaps_address = connects;
    socketpair(AF_UNIX, rights ? SOCK_DGRAM : SOCK_STREAM, 0, pair);
    harmless = pair[0];
    used = dup(harmless);
    other = socket(AF_INET, fast || connects ? SOCK_STREAM : SOCK_DGRAM, 0);
    if (rights) {
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof(int));
        message.msg_hdr.msg_control = room;
        message.msg_hdr.msg_controllen = sizeof room;
    }
    pthread_create(&thread, 0, swap, 0);
    while (times--) {
        if (connects) {
            harmless = socket(AF_UNIX, SOCK_STREAM, 0);
            connect(used, &address.any, sizeof address);
            close(harmless);
        } else if (fast)
            sendto(used, "x", 1, MSG_FASTOPEN | MSG_DONTWAIT, &address.any, sizeof address.internet);
        else if (many)
            sendmmsg(used, &message, 1, MSG_DONTWAIT);
        else
            sendmsg(used, &message.msg_hdr, MSG_DONTWAIT);
    }
    going = 0;
    pthread_join(thread, 0);
    return 0;
}
