/* worker KIND KIBIBYTES [FILE]: a process that marks memory of one kind, and then waits.
 *
 * Each 4 KiB that it writes begin with LINTRUTH, its pid, the virtual address and a hash of the
 * kind (8 bytes each); the rest is noise, or a single repeated byte if THIN is set, so that the
 * dump packs well. /run/workers/PID tells its work.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not in all headers. */
enum { ADVISE_FREE = 8, ADVISE_PAGE_OUT = 21, ADVISE_GUARD = 102 };
enum { SET_NAME_OF_AREA = 0x53564d41, NAME_OF_ANONYMOUS = 0 };
enum { CALL_IO_URING_SETUP = 425, CALL_MEMFD_SECRET = 447 };
enum { HUGE_2_MIB = 21 << 26, MEMFD_HUGE = 4 };
enum { UNIT = 4096, HUGE_PAGE = 2 << 20, STACK = 65536, RING_PAGES = 17 };

static const char *kind, *path;
static size_t size;
static volatile char touched; /* the compiler must not leave out the read */

/* ---- for all kinds ---- */

static uint64_t noise(void) { /* xorshift64 */
    static uint64_t state;
    if (!state) state = 0x9E3779B97F4A7C15ull ^ (getpid() * 2654435761ull);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void mark(char *start, size_t length) {
    uint64_t hash = 5381;
    for (const char *letter = kind; *letter; letter++) hash = hash * 33 + *letter;
    for (size_t at = 0; at < length; at += UNIT) {
        uint64_t *words = (uint64_t *)(start + at);
        uint64_t head[3] = {getpid(), (uintptr_t)words, hash};
        if (getenv("THIN"))
            memset(words, 0x11 + at / UNIT % 0xe0, UNIT);
        else
            for (int i = 4; i < UNIT / 8; i++) words[i] = noise();
        memcpy(words, "LINTRUTH", 8);
        memcpy(words + 1, head, sizeof head);
    }
}

static void touch(const char *start, size_t length) {
    for (size_t at = 0; at < length; at += UNIT) touched += start[at];
}

static void note(const char *what, const void *start, size_t length) {
    char line[300], name[64];
    snprintf(name, sizeof name, "/run/workers/%d", getpid());
    int file = open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int written = snprintf(line, sizeof line, "%d %s %s 0x%lx 0x%zx\n", getpid(), kind, what,
                           (unsigned long)start, length);
    if (file >= 0 && write(file, line, written) < 0) perror(name);
    if (file >= 0) close(file);
}

/* This kernel has no such memory, but the process waits. */
static void miss(const char *what) {
    perror(what);
    note("MISSING", 0, 0);
}

static char *anonymous(size_t length, int flags) {
    char *start = mmap(0, length, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        miss(kind);
        exit(1);
    }
    return start;
}

/* Private memory in small pages, marked. */
static char *small_pages(void) {
    char *start = anonymous(size, MAP_PRIVATE);
    madvise(start, size, MADV_NOHUGEPAGE);
    mark(start, size);
    return start;
}

static char *mapped_file(int file, size_t length, int protection, int flags, off_t offset) {
    char *start = mmap(0, length, protection, flags, file, offset);
    return start == MAP_FAILED ? 0 : start;
}

static void wait_for_ever(void) {
    for (;;) pause();
}

static size_t half(void) { return size / 2 & ~(size_t)(UNIT - 1); }

/* ---- private memory ---- */

static void do_rand(void) { note("anonymous, small pages", small_pages(), size); }

static char *huge_pages(void) {
    size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uintptr_t start = (uintptr_t)anonymous(size + HUGE_PAGE, MAP_PRIVATE);
    start = (start + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    madvise((void *)start, size, MADV_HUGEPAGE);
    return (char *)start;
}

static void do_thp(void) {
    char *start = huge_pages();
    mark(start, size);
    note("anonymous, transparent huge pages", start, size);
}

static void write_zeros(char *start) {
    for (size_t at = 0; at < size; at += 8) *(volatile uint64_t *)(start + at) = 0;
}

static void do_zero(void) {
    char *start = anonymous(size, MAP_PRIVATE);
    madvise(start, size, MADV_NOHUGEPAGE);
    write_zeros(start);
    note("anonymous, zeros written", start, size);
}

static void do_zerothp(void) {
    char *start = huge_pages();
    write_zeros(start);
    note("anonymous, zeros written to huge pages", start, size);
}

static void do_zeropage(void) {
    char *start = anonymous(size, MAP_PRIVATE);
    madvise(start, size, MADV_NOHUGEPAGE);
    touch(start, size);
    note("anonymous, read only: the zero page", start, size);
}

static void do_fork(void) {
    char *start = small_pages();
    note("anonymous, of a parent", start, size);
    if (fork()) return;
    kind = "forkchild";
    mark(start, half());
    note("anonymous, first half copied on writing", start, size);
}

static void do_protnone(void) {
    char *start = small_pages();
    mprotect(start, size, PROT_NONE);
    note("anonymous, PROT_NONE", start, size);
}

static void do_sparse(void) {
    char *start = anonymous(size, MAP_PRIVATE | MAP_NORESERVE);
    madvise(start, size, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < size; at += 16 * UNIT) mark(start + at, UNIT);
    note("anonymous, every 16th page", start, size);
}

static void do_dontneed(void) {
    char *start = small_pages();
    madvise(start, half(), MADV_DONTNEED);
    note("anonymous, first half given back", start, size);
}

static void do_mlock(void) {
    char *start = small_pages();
    mlock(start, size);
    note("anonymous, locked", start, size);
}

static void do_ksm(void) {
    char *start = anonymous(size, MAP_PRIVATE);
    madvise(start, size, MADV_NOHUGEPAGE);
    memset(start, 0x5a, size);
    madvise(start, size, MADV_MERGEABLE);
    note("anonymous, merged", start, size);
}

static void do_guard(void) {
    char *start = small_pages();
    if (madvise(start, half(), ADVISE_GUARD)) perror("guard");
    note("anonymous, guard markers in the first half", start, size);
}

static void do_free(void) {
    char *start = small_pages();
    madvise(start, size, ADVISE_FREE);
    note("anonymous, may be freed", start, size);
}

static void do_pageout(void) {
    char *start = small_pages();
    if (madvise(start, half(), ADVISE_PAGE_OUT)) perror("pageout");
    touch(start, size / 8);
    note("anonymous, first half paged out, an eighth back", start, size);
}

static void do_huge2m(void) {
    char *start = anonymous(size, MAP_PRIVATE | MAP_HUGETLB | HUGE_2_MIB);
    mark(start, size);
    note("huge pages of the pool", start, size);
}

/* Regions of many kinds, each with other rights or another name than its neighbours. */
static void do_regions(void) {
    static const int rights[] = {PROT_READ, PROT_READ | PROT_EXEC, PROT_NONE,
                                 PROT_READ | PROT_WRITE | PROT_EXEC};
    char *start = anonymous(4 * size, MAP_PRIVATE);
    for (int i = 0; i < 4; i++) mprotect(start + i * size, size, rights[i]);
    note("anonymous, of four rights", start, 4 * size);
    char *named = anonymous(size, MAP_PRIVATE), *shared = anonymous(size, MAP_SHARED);
    prctl(SET_NAME_OF_AREA, NAME_OF_ANONYMOUS, named, size, "a name: 1/2");
    prctl(SET_NAME_OF_AREA, NAME_OF_ANONYMOUS, shared, size, "shared one");
    mark(named, size);
    note("anonymous, with a name", named, size);
    anonymous(size, MAP_PRIVATE | MAP_GROWSDOWN)[0] = 1;
    int segment = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    char *attached = segment < 0 ? (char *)-1 : shmat(segment, 0, 0);
    if (attached != (char *)-1) mark(attached, size);
    int file = open("/run/a file\nof two lines", O_RDWR | O_CREAT, 0600);
    if (file >= 0 && !ftruncate(file, 4 * size)) {
        mapped_file(file, size, PROT_READ, MAP_PRIVATE, 2 * size);
        mapped_file(file, size, PROT_READ | PROT_WRITE, MAP_SHARED, size);
    }
}

static void do_exit(void) {
    note("anonymous, freed by the end", small_pages(), size);
    exit(0);
}

/* ---- shared memory and files ---- */

static void do_shm(void) {
    char *start = anonymous(size, MAP_SHARED);
    mark(start, size);
    note("shared", start, size);
    if (fork()) return;
    kind = "shmchild";
    touch(start, size);
    note("shared, of the child", start, size);
}

static void do_file(void) {
    int file = open(path, O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        miss(path);
        return;
    }
    size = status.st_size;
    char *shared = mapped_file(file, size, PROT_READ, MAP_SHARED, 0);
    char *own = mapped_file(file, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
    if (!shared || !own) {
        miss(path);
        return;
    }
    touch(shared, size);
    note("file, shared", shared, size);
    mark(own, size / 4 & ~(size_t)(UNIT - 1));
    note("file, private, first quarter written", own, size);
}

static void do_open(void) {
    static char block[65536];
    int file = open(path, O_RDONLY);
    while (read(file, block, sizeof block) > 0) {
    }
    unlink(path);
    note("file, deleted, open", 0, 0);
}

/* Memory of an unnamed file descriptor; a part of it is unmapped again. */
static void anonymous_file(int file, size_t unmapped, const char *what) {
    char *start = 0;
    if (file >= 0 && !ftruncate(file, size))
        start = mapped_file(file, size, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    if (!start) {
        miss(what);
        return;
    }
    mark(start, size);
    if (unmapped) munmap(start, unmapped);
    note(what, start, size);
}

static void do_memfd(void) {
    anonymous_file(memfd_create("held", 0), half(), "memfd, first half unmapped");
}

static void do_memfdhuge(void) {
    anonymous_file(memfd_create("held", MEMFD_HUGE), HUGE_PAGE, "memfd of huge pages");
}

static void do_secret(void) {
    anonymous_file(syscall(CALL_MEMFD_SECRET, 0), 0, "secret, not in the kernel's own map");
}

/* ---- the kernel's memory, mapped ---- */

static void do_iouring(void) {
    enum { ENTRIES = 256, PARAMETERS = 30, RING = 4 * UNIT, SUBMISSIONS = 0x10000000 };
    unsigned parameters[PARAMETERS] = {0};
    int file = syscall(CALL_IO_URING_SETUP, ENTRIES, parameters);
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *ring = file < 0 ? 0 : mapped_file(file, RING, protection, flags, 0);
    if (!ring) {
        miss("io_uring");
        return;
    }
    note("io_uring, rings", ring, RING);
    note("io_uring, submissions", mapped_file(file, RING, protection, flags, SUBMISSIONS), RING);
}

static void do_packet(void) {
    enum { BLOCKS = 16, FRAME_SIZE = 2048, EVERY_PROTOCOL = 3 };
    unsigned block = size / BLOCKS & ~(UNIT - 1u);
    if (block < (unsigned)sysconf(_SC_PAGESIZE)) block = sysconf(_SC_PAGESIZE);
    struct tpacket_req ring = {block, BLOCKS, FRAME_SIZE, block / FRAME_SIZE * BLOCKS};
    int file = socket(AF_PACKET, SOCK_RAW, htons(EVERY_PROTOCOL));
    char *start = 0;
    if (file >= 0 && !setsockopt(file, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring))
        start = mapped_file(file, block * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    if (!start) {
        miss("packet");
        return;
    }
    touch(start, block * BLOCKS);
    note("packet ring", start, block * BLOCKS);
}

static void do_perf(void) {
    struct perf_event_attr event = {
        .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = 0, .disabled = 1};
    size_t length = RING_PAGES * sysconf(_SC_PAGESIZE);
    int file = syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
    char *start = 0;
    if (file >= 0) start = mapped_file(file, length, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    if (!start) {
        miss("perf");
        return;
    }
    touch(start, length);
    note("perf ring", start, length);
}

static void do_devmem(void) {
    enum { BIOS = 0xf0000, LENGTH = 0x10000 };
    int file = open("/dev/mem", O_RDONLY);
    char *start = file < 0 ? 0 : mapped_file(file, LENGTH, PROT_READ, MAP_SHARED, BIOS);
    if (!start) {
        miss("devmem");
        return;
    }
    touch(start, LENGTH);
    note("/dev/mem", start, LENGTH);
}

/* ---- odd processes ---- */

static void *idle(void *nothing) {
    wait_for_ever();
    return nothing;
}

static void do_leader(void) {
    note("anonymous, the first thread has ended", small_pages(), size);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, idle, 0);
    }
    pthread_exit(0);
}

static void do_zombie(void) {
    if (!fork()) {
        prctl(PR_SET_NAME, "undead");
        _exit(3);
    }
    note("anonymous, of a zombie's parent", small_pages(), size);
}

static int sharing_child(void *nothing) {
    (void)nothing;
    prctl(PR_SET_NAME, "vmchild");
    wait_for_ever();
    return 0;
}

static void do_clonevm(void) {
    note("anonymous, of two processes with one memory", small_pages(), size);
    clone(sharing_child, anonymous(STACK, MAP_PRIVATE) + STACK, CLONE_VM | SIGCHLD, 0);
}

static void do_name(void) {
    static const char *const names[] = {
        "a b",    "x\ny", "t\tab",      "\xff\xfe",        "\xc3\xa9\xc3\xa8", "<script>",
        "quote\"", "",     "back\\slash", "123456789012345", "(sd-pam)",         "a,b;c",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!fork()) {
            prctl(PR_SET_NAME, names[i]);
            wait_for_ever();
        }
}

static const struct {
    const char *name;
    void (*run)(void);
} KINDS[] = {
    {"rand", do_rand},         {"thp", do_thp},           {"zero", do_zero},
    {"zerothp", do_zerothp},   {"zeropage", do_zeropage}, {"fork", do_fork},
    {"protnone", do_protnone}, {"sparse", do_sparse},     {"dontneed", do_dontneed},
    {"mlock", do_mlock},       {"ksm", do_ksm},           {"guard", do_guard},
    {"free", do_free},         {"pageout", do_pageout},   {"huge2m", do_huge2m},
    {"exit", do_exit},         {"shm", do_shm},           {"file", do_file},
    {"open", do_open},         {"memfd", do_memfd},       {"memfdhuge", do_memfdhuge},
    {"secret", do_secret},     {"iouring", do_iouring},   {"packet", do_packet},
    {"perf", do_perf},         {"devmem", do_devmem},     {"leader", do_leader},
    {"zombie", do_zombie},     {"clonevm", do_clonevm},   {"name", do_name},
    {"regions", do_regions},
};

int main(int count, char **arguments) {
    if (count < 3) return 2;
    kind = arguments[1];
    size = ((size_t)atol(arguments[2]) << 10) & ~(size_t)(UNIT - 1);
    path = count > 3 ? arguments[3] : 0;
    mkdir("/run/workers", 0755);
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (!strcmp(kind, KINDS[i].name)) {
            KINDS[i].run();
            wait_for_ever();
        }
    return 2;
}
