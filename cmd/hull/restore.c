/* SPDX-License-Identifier: MIT */
/* hull restore: a saved machine goes on in the foreground, as hull run would run it.
 *
 * What the machine is comes from the snapshot; the command line says only how it meets this host:
 * sockets, consoles, networks, limits. */
#include "hull.h"
#include "saved_config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(void)
{
    printf("Usage: hull restore DIR [options]\n\n"
           "Lets the machine that hull snapshot saved in DIR go on, in the foreground.\n"
           "Its memory is read from DIR as it is needed: leave the files alone while it runs.\n\n"
           "Options:\n"
           "  --temporary         what it writes to its disks is dropped at its end; without this\n"
           "                      it writes to the saved disks, and DIR cannot be restored again\n"
           "  --verify            first compare all of the saved memory with its checksums\n"
           "  --paused            wait for QMP's cont\n"
           "  --qmp, --serial, --console, --net, --name, --engine, --timeout, --user,\n"
           "  --exit-on-panic, --no-sandbox      as of hull run; --net once for each interface\n"
           "\nExamples:\n"
           "  hull restore saved\n"
           "  hull restore saved --temporary --qmp m.sock --net user,forward=tcp:2222:22\n"
           "\nThe exit status is that of hull run.\n");
}

int cmd_restore(int argc, char **argv)
{
    static struct config config;
    struct saved_options o = {0};
    struct err err = {0};

    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help();
            return EXIT_DONE;
        }
    if (!saved_options_read(&o, argc, argv, &err))
        return usage_error("restore", &err);
    if (!saved_options_apply(&o, &config, &err)) {
        log_error("%s", err.text);
        free(o.rest);
        return EXIT_FAILED;
    }
    free(o.rest);
    return run_machine(&config);
}
