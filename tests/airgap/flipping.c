/* One thread changes an address all the time while another uses it: to see whether what is judged is what is used.
   usage: flipping HOW ALLOWED_PORT FORBIDDEN_PORT TIMES   (HOW: connect, sendto or sendmsg) */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in address;
static volatile int going = 1;
static in_port_t ports[2];

static void *flip(void *unused)
{
    for (unsigned n = 0; going; n++)
        *(volatile in_port_t *)&address.sin_port = ports[n & 1];
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int datagrams = strcmp(argv[1], "connect") != 0, times = atoi(argv[4]);
    if (argc != 5)
        return 2;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ports[0] = htons(atoi(argv[2]));
    ports[1] = htons(atoi(argv[3]));
    address.sin_port = ports[0];
    pthread_create(&thread, 0, flip, 0);
    while (times--) {
        int fd = socket(AF_INET, datagrams ? SOCK_DGRAM : SOCK_STREAM, 0);
        struct iovec part = {"x", 1};
        struct msghdr message = {&address, sizeof address, &part, 1, 0, 0, 0};
        if (!datagrams)
            connect(fd, (struct sockaddr *)&address, sizeof address);
        else if (!strcmp(argv[1], "sendto"))
            sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address);
        else
            sendmsg(fd, &message, 0);
        close(fd);
    }
    going = 0;
    pthread_join(thread, 0);
    return 0;
}
