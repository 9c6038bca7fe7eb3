// A client that costs next to nothing: one request after the other on each connection.
//
//     client PORT BODY_FILE CONNECTIONS SECONDS RATE
//
// RATE is in requests a second, evenly spaced, over connections that are free; 0: every connection
// asks again as soon as it has its answer; -1: all are open first, then each asks once, all together.
// Prints requests and server-sent events that have come, failures, the median of seconds from a
// request (or when it was due) to its last byte, and seconds until the last one had its answer.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 16 };

struct connection {
  int fd, busy, chunked;
  double since_s;
  long left;  // of the body; -1: its head has not ended
  size_t filled;
  char in[ROOM + 1];
};

static struct sockaddr_in there;
static char *request;
static size_t request_length;
static int epoll;
static long requests, events, failures, under_way;
static double *times_s, last_s;
static size_t kept, room;

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(struct connection *c) {
  failures++;
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
  under_way -= c->busy;
  c->busy = 0;
}

static void reach(struct connection *c) {
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&there, sizeof there)) return fail(c);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &wanted);
}

static void ask(struct connection *c, double since_s) {
  if (c->fd < 0) reach(c);
  if (c->fd < 0) return;
  c->busy = 1, c->left = -1, c->filled = 0, c->since_s = since_s;
  under_way++;
  if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) fail(c);
}

static void end(struct connection *c) {
  c->busy = 0;
  requests++, under_way--;
  if (kept == room) times_s = realloc(times_s, (room = room ? 2 * room : 4096) * sizeof *times_s);
  last_s = now_s();
  times_s[kept++] = last_s - c->since_s;
}

static void head(struct connection *c, char *stop) {
  char *length = strcasestr(c->in, "\r\ncontent-length:");
  c->chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != 0;
  c->left = length ? strtol(length + 17, 0, 10) : 0;
  if (strncmp(c->in + 9, "200", 3)) failures++;
  size_t body = c->in + c->filled - (stop + 4);
  memmove(c->in, stop + 4, body);
  c->filled = body;
}

// What has come of the body; whether that was all. A chunked one ends with its empty chunk.
static int body(struct connection *c) {
  if (!c->chunked) {
    c->left -= c->filled;
    c->filled = 0;
    return c->left <= 0;
  }
  c->in[c->filled] = 0;
  int over = c->filled >= 5 && !memcmp(c->in + c->filled - 5, "0\r\n\r\n", 5);
  char *at = c->in, *next;
  while ((next = memmem(at, c->in + c->filled - at, "data: ", 6))) events++, at = next + 6;
  size_t rest = over ? 0 : c->filled - (at - c->in) < 5 ? c->filled - (at - c->in) : 5;
  memmove(c->in, c->in + c->filled - rest, rest);
  c->filled = rest;
  return over;
}

static void hear(struct connection *c) {
  ssize_t got = recv(c->fd, c->in + c->filled, ROOM - c->filled, 0);
  if (got <= 0) return fail(c);
  c->filled += got;
  c->in[c->filled] = 0;
  if (c->left < 0) {
    char *stop = strstr(c->in, "\r\n\r\n");
    if (!stop) return;
    head(c, stop);
  }
  if (c->busy && body(c)) end(c);
}

static int by_size(const void *a, const void *b) {
  double d = *(const double *)a - *(const double *)b;
  return (d > 0) - (d < 0);
}

int main(int count, char **words) {
  if (count != 6)
    return fprintf(stderr, "usage: client PORT BODY_FILE CONNECTIONS SECONDS RATE\n"), 2;
  int connections = atoi(words[3]);
  double seconds = atof(words[4]), rate = atof(words[5]);
  FILE *file = fopen(words[2], "r");
  char *text = malloc(1 << 20);
  if (!file) return perror(words[2]), 1;
  size_t length = fread(text, 1, 1 << 20, file);
  request = malloc(length + 512);
  request_length = sprintf(request,
                           "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%s\r\n"
                           "content-type: application/json\r\nauthorization: Bearer x\r\n"
                           "content-length: %zu\r\n\r\n",
                           words[1], length);
  memcpy(request + request_length, text, length);
  request_length += length;
  signal(SIGPIPE, SIG_IGN);
  there.sin_family = AF_INET;
  there.sin_port = htons(atoi(words[1]));
  there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  epoll = epoll_create1(0);
  struct connection *all = calloc(connections, sizeof *all);
  for (int k = 0; k < connections; k++) all[k].fd = -1;
  for (int k = 0; rate < 0 && k < connections; k++) reach(&all[k]);
  double start = last_s = now_s();
  for (int k = 0; rate < 0 && k < connections; k++) ask(&all[k], start);
  long due = 0;
  for (double now = start; now < start + seconds; now = now_s()) {
    if (rate < 0 && !under_way) break;
    for (int k = 0; rate >= 0 && k < connections; k++) {
      if (all[k].busy || (rate && due > (now - start) * rate)) continue;
      ask(&all[k], rate ? start + due++ / rate : now);
    }
    struct epoll_event found[256];
    int n = epoll_wait(epoll, found, 256, 1);
    for (int k = 0; k < n; k++) {
      struct connection *c = found[k].data.ptr;
      if (c->fd >= 0) hear(c);
    }
  }
  if (kept) qsort(times_s, kept, sizeof *times_s, by_size);
  double median_s = kept ? times_s[kept / 2] : 0.0;
  printf("%ld %ld %ld %.6f %.6f\n", requests, events, failures, median_s, last_s - start);
}
