/* SPDX-License-Identifier: MIT */
/* guest-run: a machine with nothing but an engine, memory, the debug port 0x402 (shown on stdout),
 * the exit port 0xf4 and a device's page at SCRATCH that keeps what is written, for test guests.
 * Loads one image by its Multiboot header.
 *
 *   guest-run [--engine soft|kvm] [--cpu MODEL] [--cpus N] [--timeout SECONDS] IMAGE */
#include "base/clock.h"
#include "base/log.h"
#include "engine/choose.h"
#include "engine/x86/model.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RAM_SIZE (64 * MiB)
#define SCRATCH  0x10000000

struct run {
    struct vm vm;
    struct mem mem;
    struct bus mmio, pio;
    struct region debug, exit, scratch;
    struct cpu_model model;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool over;
    int status;
};

struct multiboot { /* with address fields; Multiboot 0.6.96, 3.1 */
    uint32_t magic, flags, checksum, header, load, load_end, bss_end, entry;
};

static struct run run;

static void end(int status, const char *why)
{
    pthread_mutex_lock(&run.lock);
    if (!run.over) {
        if (why)
            printf("Bail out! %s\n", why);
        fflush(stdout);
        run.over = true;
        run.status = status;
        pthread_cond_broadcast(&run.ended);
    }
    pthread_mutex_unlock(&run.lock);
}

static uint64_t port_read(void *dev, uint64_t offset, unsigned size)
{
    return 0xe9; /* the debug console says that it is there */
}

static void debug_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    putchar((int)(value & 0xff));
}

static void exit_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    end((int)(value & 0xff), NULL);
}

static uint8_t scratch[PAGE_SIZE];

static uint64_t scratch_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, scratch + offset, size);
    return value;
}

static void scratch_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    memcpy(scratch + offset, &value, size);
}

static const struct region_ops scratch_ops = {scratch_read, scratch_write, 1, 8};
static const struct region_ops debug_ops = {port_read, debug_write, 1, 1};
static const struct region_ops exit_ops = {port_read, exit_write, 1, 4};

static void on_shutdown(struct vm *vm, struct vcpu *cpu)
{
    struct vcpu_state *s = malloc(sizeof *s);

    if (s) {
        vm->engine->get(cpu, s);
        printf("# vCPU %u: triple fault at cs:rip %x:%llx, rsp %llx, cr2 %llx\n", cpu->id,
               s->seg[1].sel, (unsigned long long)s->rip, (unsigned long long)s->reg[4],
               (unsigned long long)s->cr2);
    }
    free(s);
    end(3, "triple fault");
}

static void on_broken(struct vm *vm, struct vcpu *cpu, const struct err *err)
{
    end(4, err->text);
}

static const struct vm_events events = {.shutdown = on_shutdown, .broken = on_broken};

static bool load(const char *path, uint32_t *entry, struct err *err)
{
    FILE *f = fopen(path, "rb");
    static uint8_t image[4 * MiB];
    struct multiboot h = {0};
    size_t len, at;

    if (!f)
        return err_set(err, errno, "%s: %s", path, strerror(errno));
    len = fread(image, 1, sizeof image, f);
    fclose(f);
    for (at = 0; at + sizeof h <= len && at < 8192; at += 4) {
        memcpy(&h, image + at, sizeof h);
        if (h.magic == 0x1badb002 && h.magic + h.flags + h.checksum == 0 && (h.flags & 0x10000))
            break;
    }
    if (at + sizeof h > len || at >= 8192 || h.header - h.load > at || h.load_end < h.load)
        return err_set(err, EINVAL, "%s: no Multiboot header with addresses", path);
    at -= h.header - h.load;
    *entry = h.entry;
    if (h.load_end - h.load > len - at ||
        mem_write(&run.mem, h.load, image + at, h.load_end - h.load))
        return err_set(err, EINVAL, "%s: does not fit", path);
    return true;
}

static bool set_entry(uint32_t entry, struct err *err)
{
    struct vcpu_state *s = malloc(sizeof *s);
    bool done;

    if (!s)
        return err_set(err, ENOMEM, "no memory");
    vcpu_state_reset(s, true, 0);
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = (struct x86_seg){.limit = 0xffffffff, .sel = 0x10, .attr = 0xc093};
    s->seg[1].attr = 0xc09b;
    s->seg[1].sel = 8;
    s->cr0 = 0x11;
    s->rip = entry;
    s->reg[0] = 0x2badb002;
    done = run.vm.engine->set(run.vm.cpu[0], s, err);
    free(s);
    return done;
}

static bool assemble(const char *engine, const char *model, unsigned cpus, struct err *err)
{
    struct engine_choice choice;
    struct cpu_offer offer;

    pthread_mutex_init(&run.lock, NULL);
    pthread_cond_init(&run.ended, NULL);
    mem_init(&run.mem);
    bus_init(&run.mmio, BIT(52));
    bus_init(&run.pio, 0x10000);
    vm_init(&run.vm);
    run.debug = (struct region){.name = "debug", .base = 0x402, .size = 1, .ops = &debug_ops};
    run.exit = (struct region){.name = "exit", .base = 0xf4, .size = 4, .ops = &exit_ops};
    run.scratch = (struct region){
        .name = "scratch", .base = SCRATCH, .size = sizeof scratch, .ops = &scratch_ops};
    run.vm.events = &events;
    run.vm.mem = &run.mem;
    run.vm.mmio = &run.mmio;
    run.vm.pio = &run.pio;
    run.vm.model = &run.model;
    return engine_choose(engine, &choice, err) && choice.ops->offer(&offer, err) &&
           cpu_model_make(&run.model, model, &offer, err) &&
           mem_add(&run.mem, "ram", 0, RAM_SIZE, false, err) &&
           bus_add(&run.pio, &run.debug, err) && bus_add(&run.pio, &run.exit, err) &&
           bus_add(&run.mmio, &run.scratch, err) && vm_open(&run.vm, choice.ops, cpus, err);
}

static void wait_end(unsigned seconds)
{
    struct timespec t;
    int e = 0;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += seconds;
    pthread_mutex_lock(&run.lock);
    while (!run.over && !e)
        e = pthread_cond_timedwait(&run.ended, &run.lock, &t);
    pthread_mutex_unlock(&run.lock);
    if (e) {
        vm_pause(&run.vm);
        for (unsigned i = 0; i < run.vm.cpu_count; i++) {
            static struct vcpu_state s;

            run.vm.engine->get(run.vm.cpu[i], &s);
            printf("# vCPU %u at cs:rip %x:%llx rflags %llx run %d\n", i, s.seg[1].sel,
                   (unsigned long long)s.rip, (unsigned long long)s.rflags, s.run);
        }
        end(124, "timeout");
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"cpu", 1, NULL, 'c'},
                                            {"cpus", 1, NULL, 'n'},
                                            {"timeout", 1, NULL, 't'},
                                            {"engine", 1, NULL, 'e'},
                                            {0}};
    unsigned cpus = 1, timeout = 60;
    const char *engine = "soft", *model = "";
    struct err err = {0};
    uint32_t entry = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (c) {
        case 'c': model = optarg; break;
        case 'n': cpus = (unsigned)atoi(optarg); break;
        case 't': timeout = (unsigned)atoi(optarg); break;
        case 'e': engine = optarg; break;
        default: return 2;
        }
    }
    if (optind + 1 != argc)
        return 2;
    if (!assemble(engine, model, cpus, &err) || !load(argv[optind], &entry, &err) ||
        !set_entry(entry, &err) || !vm_start(&run.vm, &err)) {
        fprintf(stderr, "guest-run: %s\n", err.text);
        return 1;
    }
    vm_resume(&run.vm);
    wait_end(timeout);
    if (atomic_load(&run.vm.cpu[0]->count[COUNT_EMULATED]))
        printf("# %llu instructions were completed by the soft engine\n",
               (unsigned long long)atomic_load(&run.vm.cpu[0]->count[COUNT_EMULATED]));
    vm_close(&run.vm);
    mem_close(&run.mem);
    bus_close(&run.mmio);
    bus_close(&run.pio);
    return run.status;
}
