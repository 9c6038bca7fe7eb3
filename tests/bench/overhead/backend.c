// A backend that costs next to nothing: OpenAI's answers, fixed, from one thread.
//
//     backend PORT INTERVAL_US
//
// A POST is answered with JSON, or, if its body asks for a stream, with `max_tokens` events, one each
// INTERVAL_US (0: at once); a GET with a list of one model. An event is one HTTP chunk and one write.
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

enum { MOST = 65536, ROOM = 1 << 17 };

struct client {
  int events_left;
  uint64_t due_us;
  size_t filled;
  char *in;
};

static struct client clients[MOST];  // by file descriptor
static int epoll, most_fd;
static uint64_t interval_us;

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static void leave(int fd) {
  clients[fd].events_left = 0;
  clients[fd].filled = 0;
  close(fd);
}

static void say(int fd, const char *text, size_t length) {
  while (length) {  // its socket's buffer holds all that is ever under way
    ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);
    if (sent <= 0) return;
    text += sent;
    length -= sent;
  }
}

static void answer(int fd, const char *body) {
  char text[1024];
  int n = snprintf(text, sizeof text,
                   "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                   strlen(body), body);
  say(fd, text, n);
}

static void event(int fd) {
  struct client *c = &clients[fd];
  const char *last = --c->events_left ? "" : "data: [DONE]\n\n";
  char data[512], text[640];
  int n = snprintf(data, sizeof data,
                   "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,"
                   "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},"
                   "\"finish_reason\":%s}]}\n\n%s",
                   *last ? "\"length\"" : "null", last);
  n = snprintf(text, sizeof text, "%x\r\n%s\r\n%s", n, data, *last ? "0\r\n\r\n" : "");
  say(fd, text, n);
  c->due_us += interval_us;
}

static void begin_stream(int fd, int events) {
  static const char head[] =
      "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
  say(fd, head, sizeof head - 1);
  clients[fd].events_left = events;
  clients[fd].due_us = now_us() + interval_us;
  while (!interval_us && clients[fd].events_left) event(fd);
}

static const char missing[] = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

// Answer what is there of whole requests, one after the other.
static void serve(int fd) {
  struct client *c = &clients[fd];
  for (;;) {
    c->in[c->filled] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    size_t body = length && length < end ? strtoul(length + 17, 0, 10) : 0;
    size_t whole = end + 4 - c->in + body;
    if (c->filled < whole) return;
    char after = c->in[whole];
    c->in[whole] = 0;
    const char *tokens = strstr(end, "\"max_tokens\":"), *stream = strstr(end, "\"stream\":");
    if (!strncmp(c->in, "GET /makespan/", 14))
      say(fd, missing, sizeof missing - 1);  // it is no agent
    else if (c->in[0] != 'P')
      answer(fd, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"}]}");
    else if (stream && strncmp(stream + 9 + strspn(stream + 9, " "), "true", 4) == 0)
      begin_stream(fd, tokens ? atoi(tokens + 13) : 16);
    else
      answer(fd,
             "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\","
             "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"So it is.\"},"
             "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":12,"
             "\"total_tokens\":52}}");
    c->in[whole] = after;
    memmove(c->in, c->in + whole, c->filled -= whole);
  }
}

int main(int count, char **words) {
  if (count != 3) return fprintf(stderr, "usage: backend PORT INTERVAL_US\n"), 2;
  interval_us = strtoul(words[2], 0, 10);
  signal(SIGPIPE, SIG_IGN);
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&here, sizeof here) || listen(listener, 8192))
    return perror("backend: cannot listen"), 1;
  epoll = epoll_create1(0);
  struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener}, found[256];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
  for (uint64_t look_us = 0;;) {
    int n = epoll_wait(epoll, found, 256, interval_us ? 1 : -1);
    for (int k = 0; k < n; k++) {
      int fd = found[k].data.fd;
      if (fd == listener) {
        int client = accept(listener, 0, 0);
        if (client < 0 || client >= MOST) continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!clients[client].in) clients[client].in = malloc(ROOM + 1);
        if (client > most_fd) most_fd = client;
        wanted.data.fd = client;
        epoll_ctl(epoll, EPOLL_CTL_ADD, client, &wanted);
        continue;
      }
      struct client *c = &clients[fd];
      ssize_t got = c->filled < ROOM ? recv(fd, c->in + c->filled, ROOM - c->filled, 0) : 0;
      if (got <= 0) {
        leave(fd);
        continue;
      }
      c->filled += got;
      serve(fd);
    }
    uint64_t now = now_us();
    if (!interval_us || now < look_us) continue;
    look_us = now + 1000;
    for (int fd = 0; fd <= most_fd; fd++)
      if (clients[fd].events_left && clients[fd].due_us <= now) event(fd);
  }
}
