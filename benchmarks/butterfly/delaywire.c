/* delaywire: a wire between two network namespaces, with a length and a speed.
 *
 *   gcc -O2 -o delaywire delaywire.c
 *   delaywire NAMESPACE INTERFACE NAMESPACE INTERFACE DELAY_US BITS_PER_S QUEUE_BYTES
 *
 * It makes a TUN interface in each namespace. A packet that leaves through one comes
 * out of the other when the packets before it are through, its own bits are through,
 * and DELAY_US microseconds have passed. What finds more than QUEUE_BYTES waiting is
 * dropped, as a router would. It says "ready", and runs until it is ended.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 8192, LARGEST = 1536, BURST = 32 };

struct packet {
    int64_t due; /* nanoseconds */
    int size;
    char data[LARGEST];
};

struct direction {
    int from, to;
    struct packet *slots;
    unsigned first, last;  /* counted on for ever; their difference is what is inside */
    int64_t waiting;       /* bytes */
    int64_t free_at;       /* when the last bit so far is through */
};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int interface_in(const char *space, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", space);
    int home = open("/proc/self/ns/net", O_RDONLY), there = open(path, O_RDONLY);
    if (there < 0 || setns(there, CLONE_NEWNET)) fail(path);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    struct ifreq asked = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    strncpy(asked.ifr_name, name, IFNAMSIZ - 1);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &asked)) fail("/dev/net/tun");
    if (setns(home, CLONE_NEWNET)) fail("setns");
    close(home);
    close(there);
    return tun;
}

static void take(struct direction *d, int64_t delay, double nanos_a_byte, int64_t most) {
    static char spare[LARGEST];
    for (int k = 0; k < BURST; k++) {
        int room = d->last - d->first < SLOTS && d->waiting < most;
        struct packet *p = &d->slots[d->last % SLOTS];
        int size = read(d->from, room ? p->data : spare, LARGEST);
        if (size <= 0) return;
        if (!room) continue;
        int64_t at = now();
        if (d->free_at < at) d->free_at = at;
        d->free_at += (int64_t)(size * nanos_a_byte);
        p->due = d->free_at + delay;
        p->size = size;
        d->waiting += size;
        d->last++;
    }
}

static int64_t give(struct direction *d) { /* returns when the next one is due */
    while (d->first != d->last) {
        struct packet *p = &d->slots[d->first % SLOTS];
        if (p->due > now()) return p->due;
        if (write(d->to, p->data, p->size) < 0 && errno == EAGAIN) return now() + 50000;
        d->waiting -= p->size;
        d->first++;
    }
    return INT64_MAX;
}

int main(int count, char **told) {
    if (count != 8) {
        fprintf(stderr, "delaywire: seven arguments, see the top of delaywire.c\n");
        return 2;
    }
    int one = interface_in(told[1], told[2]), other = interface_in(told[3], told[4]);
    int64_t delay = atoll(told[5]) * 1000, most = atoll(told[7]);
    double nanos_a_byte = 8e9 / atof(told[6]);
    size_t size = SLOTS * sizeof(struct packet);
    struct direction ways[2] = {{one, other, malloc(size)}, {other, one, malloc(size)}};
    struct pollfd ends[2] = {{one, POLLIN, 0}, {other, POLLIN, 0}};
    prctl(PR_SET_TIMERSLACK, 1000);
    prctl(PR_SET_PDEATHSIG, 15);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t next = INT64_MAX, left;
        for (int k = 0; k < 2; k++) {
            int64_t due = give(&ways[k]);
            if (due < next) next = due;
        }
        left = next == INT64_MAX ? 1000000000 : next - now();
        if (left < 0) left = 0;
        struct timespec wait = {left / 1000000000, left % 1000000000};
        ppoll(ends, 2, &wait, NULL);
        for (int k = 0; k < 2; k++) take(&ways[k], delay, nanos_a_byte, most);
    }
}
