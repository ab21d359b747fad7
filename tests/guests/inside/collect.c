/* collect WHERE MEBIBYTES [COMMAND]: the kernel's records of each page, process and file page.
 *
 * It runs inside the guest. COMMAND is run first, then every other process is stopped. The records
 * are read into memory that was allocated and locked before, so that reading changes no page. Then
 * the host is told READY, and saves memory; when the guest goes on, the records are written to
 * WHERE, one for each file, and the machine is switched off. WHERE is a disk, or `port` for QEMU's
 * debug port (isa-debugcon), for kernels without a driver for such a disk.
 *
 * A record is "REC1", the name (92 bytes, padded with zeros), the size (8 bytes) and the contents,
 * padded to 8 bytes. The last record is called END, or LOST if there was no room for all of them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__) || defined(__i386__)
#include <sys/io.h>
#define HAS_PORTS 1
#endif

enum { MOST_PROCESSES = 8192, NAME_SIZE = 92, PAGES_AT_ONCE = 8192, MOST_FILE_PAGES = 1 << 16 };
static const size_t RESERVE = 4096;               /* left free for data written in one go */
static const uint64_t PRESENT = 1ull << 63;       /* in an entry of /proc/PID/pagemap */
static const uint64_t FRAME = (1ull << 55) - 1;   /* likewise */
static const uint64_t LONGEST_ADDRESS = 1ull << 48;

struct record {
    char magic[4];
    char name[NAME_SIZE];
    uint64_t size;
};

static char *buffer;
static size_t capacity, used;
static struct record *current;
static int device = -1, is_port;
static int lost;     /* pieces without room: the host refuses such a truth */
static int is_after; /* after the dump: records may be written out at any time */
static uint64_t page_size;

static int pids[MOST_PROCESSES], pid_count;
static uint64_t entries[PAGES_AT_ONCE];
static char maps[1 << 20], file_list[1 << 16];
static unsigned char is_cached[MOST_FILE_PAGES];
static int own_pagemap;

/* ---- records ---- */

static void begin(const char *name) {
    used = (used + 7) & ~7ul;
    current = (struct record *)(buffer + used);
    memset(current, 0, sizeof *current);
    memcpy(current->magic, "REC1", 4);
    strncpy(current->name, name, NAME_SIZE - 1);
    used += sizeof *current;
}

#ifdef HAS_PORTS
enum { DEBUG_PORT = 0xe9 };

static void write_to_port(void) { outsb(DEBUG_PORT, buffer, used); }
#else
static void write_to_port(void) {}
#endif

static void write_out(void) {
    if (is_port) {
        write_to_port();
        used = 0;
        return;
    }
    for (size_t done = 0; done < used;) {
        ssize_t size = write(device, buffer + done, used - done);
        if (size <= 0) {
            perror("collect: write");
            break;
        }
        done += size;
    }
    used = 0;
}

static void flush(void) {
    used = (used + 7) & ~7ul;
    write_out();
}

static void end(void) {
    current->size = (buffer + used) - (char *)(current + 1);
    if (is_after && used > capacity / 3) flush();
}

static void append(const void *data, size_t size) {
    if (used + size + RESERVE > capacity) {
        lost++;
        return;
    }
    memcpy(buffer + used, data, size);
    used += size;
}

/* A whole file as one record. */
static void record_file(const char *path, const char *name) {
    int file = open(path, O_RDONLY);
    if (file < 0) return;
    begin(name);
    for (;;) {
        size_t room = used + RESERVE < capacity ? capacity - used - RESERVE : 0;
        if (!room) lost++;
        ssize_t size = read(file, buffer + used, room > 1 << 20 ? 1 << 20 : room);
        if (size <= 0) break;
        used += size;
    }
    close(file);
    end();
}

/* ---- small things ---- */

static int is_number(const char *text) {
    return *text && strspn(text, "0123456789") == strlen(text);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static size_t read_text(const char *path, char *text, size_t size) {
    size_t length = 0;
    int file = open(path, O_RDONLY);
    if (file < 0) return 0;
    for (ssize_t got; (got = read(file, text + length, size - 1 - length)) > 0;) length += got;
    close(file);
    text[length] = 0;
    return length;
}

static void list_processes(void) {
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(folder));)
        if (is_number(entry->d_name) && pid_count < MOST_PROCESSES)
            pids[pid_count++] = atoi(entry->d_name);
    closedir(folder);
}

/* The number of processes, without kernel threads, that run or wait for a disk. */
static int count_busy(void) {
    int busy = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[64], text[600];
        snprintf(path, sizeof path, "/proc/%d/stat", pids[i]);
        if (pids[i] == getpid() || !read_text(path, text, sizeof text)) continue;
        char *behind = strrchr(text, ')'); /* the name may have any characters */
        if (!behind) continue;
        int is_thread = pids[i] == 2 || atoi(behind + 4) == 2;
        busy += !is_thread && (behind[2] == 'R' || behind[2] == 'D');
    }
    return busy;
}

static void wait_for_calm(void) {
    for (int tries = 0, calm = 0; tries < 600 && calm < 5; tries++) {
        pid_count = 0;
        list_processes();
        calm = count_busy() ? 0 : calm + 1;
        usleep(300000);
    }
}

/* ---- the pages of files ---- */

/* One file's resident pages: u32 number of the file, u32 page in the file, u64 frame. */
static void record_file_pages(const char *path, int number, int stays_mapped) {
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0) return;
    size_t pages = fstat(file, &status) ? 0 : (status.st_size + page_size - 1) / page_size;
    if (pages > MOST_FILE_PAGES) pages = MOST_FILE_PAGES;
    char *start = pages ? mmap(0, pages * page_size, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
    close(file);
    if (start == MAP_FAILED) return;
    madvise(start, pages * page_size, MADV_RANDOM); /* read nothing ahead */
    if (!mincore(start, pages * page_size, is_cached)) {
        volatile char touched = 0;
        for (size_t page = 0; page < pages; page++)
            if (is_cached[page] & 1) touched += start[page * page_size];
        for (size_t page = 0; page < pages; page++) {
            uint64_t entry = 0, at = ((uintptr_t)start / page_size + page) * 8;
            if (!(is_cached[page] & 1) || pread64(own_pagemap, &entry, 8, at) != 8) continue;
            if (!(entry & PRESENT)) continue;
            uint32_t which[2] = {number, page};
            entry &= FRAME;
            append(which, sizeof which);
            append(&entry, sizeof entry);
        }
    }
    if (!stays_mapped) munmap(start, pages * page_size);
}

/* The files of /files.list; a line that begins with + stays mapped. `names` is a record's name. */
static void record_files(const char *name, const char *names, int may_stay) {
    if (!read_text("/files.list", file_list, sizeof file_list)) return;
    if (names) {
        begin(names);
        int number = 0;
        for (char *line = file_list, *stop; (stop = strchr(line, '\n')); line = stop + 1) {
            struct stat status;
            *stop = 0;
            memset(&status, 0, sizeof status);
            int is_lost = stat(line + 1, &status);
            used += sprintf(buffer + used, "%d\t%u:%u\t%llu\t%lld\t%c\t%d\t%s\n", number++,
                            major(status.st_dev), minor(status.st_dev),
                            (unsigned long long)status.st_ino, (long long)status.st_size, *line,
                            is_lost, line + 1);
            *stop = '\n';
        }
        end();
    }
    begin(name);
    int number = 0;
    for (char *line = file_list, *stop; (stop = strchr(line, '\n')); line = stop + 1) {
        *stop = 0;
        record_file_pages(line + 1, number++, may_stay && *line == '+');
        *stop = '\n';
    }
    end();
}

/* ---- processes ---- */

static void record_processes(const char *folder, const char *const *files) {
    for (int i = 0; i < pid_count; i++)
        for (const char *const *file = files; *file; file++) {
            char path[64], name[64];
            snprintf(path, sizeof path, "/proc/%d/%s", pids[i], *file);
            snprintf(name, sizeof name, "%s/%d.%s", folder, pids[i], *file);
            record_file(path, name);
        }
}

/* A process's maps, and in `path` its pagemap; another thread's if the first has ended. */
static int read_maps(int pid, char *path, size_t size) {
    snprintf(path, size, "/proc/%d/maps", pid);
    if (read_text(path, maps, sizeof maps)) {
        snprintf(path, size, "/proc/%d/pagemap", pid);
        return 1;
    }
    snprintf(path, size, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    int found = 0;
    for (struct dirent *entry; threads && !found && (entry = readdir(threads));) {
        if (!is_number(entry->d_name)) continue;
        snprintf(path, size, "/proc/%d/task/%.10s/maps", pid, entry->d_name);
        if (!read_text(path, maps, sizeof maps)) continue;
        snprintf(path, size, "/proc/%d/task/%.10s/pagemap", pid, entry->d_name);
        found = 1;
    }
    if (threads) closedir(threads);
    return found;
}

/* Present pages: u32 pid, u32 upper bits of the entry, u64 virtual address, u64 frame. */
static void record_range(int pagemap, int pid, uint64_t start, uint64_t stop) {
    while (start < stop) {
        size_t count = (stop - start) / page_size;
        if (count > PAGES_AT_ONCE) count = PAGES_AT_ONCE;
        ssize_t size = pread64(pagemap, entries, count * 8, start / page_size * 8);
        if (size <= 0) break;
        for (ssize_t i = 0; i < size / 8; i++) {
            if (!(entries[i] & PRESENT)) continue;
            uint32_t head[2] = {pid, entries[i] >> 55};
            uint64_t tail[2] = {start + i * page_size, entries[i] & FRAME};
            append(head, sizeof head);
            append(tail, sizeof tail);
        }
        start += size / 8 * page_size;
    }
}

static void record_pagemaps(void) {
    char path[64];
    begin("pagemap.bin");
    for (int i = 0; i < pid_count; i++) {
        if (!read_maps(pids[i], path, sizeof path)) continue;
        int pagemap = open(path, O_RDONLY);
        for (char *line = maps; pagemap >= 0 && line && *line;) {
            unsigned long long start, stop;
            if (sscanf(line, "%llx-%llx", &start, &stop) == 2 && start < LONGEST_ADDRESS)
                record_range(pagemap, pids[i], start, stop);
            line = strchr(line, '\n');
            if (line) line++;
        }
        if (pagemap >= 0) close(pagemap);
    }
    end();
}

/* Each process's maps, as they were read for its pagemap. */
static void record_maps(void) {
    char path[64], name[64];
    for (int i = 0; i < pid_count; i++) {
        if (!read_maps(pids[i], path, sizeof path)) continue;
        snprintf(name, sizeof name, "maps/%d", pids[i]);
        begin(name);
        append(maps, strlen(maps));
        end();
    }
}

/* ---- the moment of the dump ---- */

#ifdef HAS_PORTS
enum { PORT = 0x2f8, LINE_STATUS = PORT + 5, CAN_SEND = 0x20, HAS_DATA = 1 };

/* Uses the second serial port without the kernel, and spins until the host sends a byte. */
static void tell_host(const char *text) {
    outb(0, PORT + 1); /* no interrupts */
    outb(3, PORT + 3); /* 8 bits, no parity */
    outb(7, PORT + 2); /* clear the queues */
    for (; *text; text++) {
        while (!(inb(LINE_STATUS) & CAN_SEND)) {
        }
        outb(*text, PORT);
    }
    while (!(inb(LINE_STATUS) & HAS_DATA)) {
    }
    (void)inb(PORT);
}
#else
enum { SECONDS_FOR_HOST = 6 };

/* Without ports: uses the console, and spins long enough for the host to stop the machine. */
static void tell_host(const char *text) {
    if (write(1, text, strlen(text)) < 0) perror("collect: READY");
    for (double start = now(); now() - start < SECONDS_FOR_HOST;) {
    }
}
#endif

static void be_alone(int is_alone) {
    struct sched_param priority;
    memset(&priority, 0, sizeof priority);
    priority.sched_priority = is_alone ? 50 : 0;
    /* The library's function does nothing in musl. */
    syscall(SYS_sched_setscheduler, 0, is_alone ? SCHED_FIFO : SCHED_OTHER, &priority);
}

static void record_before(void) {
    static const char *const of_process[] = {"comm", "status", 0};
    static const char *const of_system[] = {"meminfo", "buddyinfo", "zoneinfo", "slabinfo", 0};
    double start = now();
    record_processes("pid0", of_process);
    for (const char *const *file = of_system; *file; file++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s", *file);
        record_file(path, *file);
    }
    record_file("/proc/kpageflags", "kpageflags.a");
    record_pagemaps();
    record_maps();
    record_file("/proc/kpagecount", "kpagecount");
    record_file("/proc/kpageflags", "kpageflags.b");
    begin("timing.txt");
    used += sprintf(buffer + used, "collect_start=%.3f collect_end=%.3f self_pid=%d page=%d lost=%d\n",
                    start, now(), getpid(), (int)page_size, lost);
    end();
}

static void record_workers(void) {
    DIR *folder = opendir("/run/workers");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char path[64], name[64];
        if (!is_number(entry->d_name)) continue;
        snprintf(path, sizeof path, "/run/workers/%.20s", entry->d_name);
        snprintf(name, sizeof name, "workers/%.20s", entry->d_name);
        record_file(path, name);
    }
}

static void record_after(void) {
    static const char *const of_process[] = {"comm", "status", "cmdline", 0};
    static const char *const of_system[][2] = {
        {"/proc/iomem", "iomem"},
        {"/proc/kallsyms", "kallsyms"},
        {"/proc/cmdline", "cmdline"},
        {"/proc/version", "version"},
        {"/proc/cpuinfo", "cpuinfo"},
        {"/proc/mounts", "mounts"},
        {"/sys/kernel/vmcoreinfo", "vmcoreinfo"},
        {"/sys/devices/system/cpu/vulnerabilities/meltdown", "meltdown"},
    };
    record_files("files2.bin", 0, 0);
    record_processes("pid", of_process);
    for (size_t i = 0; i < sizeof of_system / sizeof *of_system; i++) {
        flush(); /* the list of symbols needs nearly all the room */
        record_file(of_system[i][0], of_system[i][1]);
    }
    begin("dmesg");
    int size = klogctl(3, buffer + used, 1 << 20); /* SYSLOG_ACTION_READ_ALL */
    if (size > 0) used += size;
    end();
    record_workers();
    record_file("/sys/kernel/btf/vmlinux", "btf_vmlinux");
    begin(lost ? "LOST" : "END");
    end();
    flush();
}

/* Touch all memory that will be written to, so that no page is allocated later. */
static int take_memory(size_t size) {
    capacity = size;
    buffer = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1,
                  0);
    if (buffer == MAP_FAILED) return -1;
    memset(entries, 1, sizeof entries);
    memset(maps, 1, sizeof maps);
    memset(pids, 0, sizeof pids);
    memset(file_list, 1, sizeof file_list);
    memset(is_cached, 1, sizeof is_cached);
    return mlockall(MCL_CURRENT);
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    page_size = sysconf(_SC_PAGESIZE);
    setvbuf(stdout, 0, _IONBF, 0);
#ifdef HAS_PORTS
    if (iopl(3)) perror("collect: iopl");
#endif
    if (take_memory(atol(arguments[2]) << 20)) perror("collect: memory");
    wait_for_calm();
    if (count > 3) {
        printf("collect: the command ended with %d\n", system(arguments[3]));
        sleep(1);
    }
    own_pagemap = open("/proc/self/pagemap", O_RDONLY);
    pid_count = 0;
    list_processes();
    for (int i = 0; i < pid_count; i++)
        if (pids[i] != 1 && pids[i] != getpid()) kill(pids[i], SIGSTOP);
    printf("collect: %d processes\n", pid_count);
    sync();
    sleep(2);
    record_files("files.bin", "files.tsv", 1);
    sleep(1);
    be_alone(1);
    record_before();
    tell_host("READY\n");
    be_alone(0);
    is_port = !strcmp(arguments[1], "port");
    device = is_port ? -1 : open(arguments[1], O_WRONLY);
    if (!is_port && device < 0) perror(arguments[1]);
    is_after = 1;
    record_after();
    if (!is_port) fsync(device);
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
