/* SPDX-License-Identifier: MIT */
/* --cpu: any text must give a model or an error, and any model must answer any CPUID leaf. */
#include "engine/x86/model.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cpu_model model;
    struct cpuid_context context = {0};
    struct err err = {0};
    uint32_t out[4];
    char *text;

    if (size < 10)
        return 0;
    context.apic_id = data[8];
    context.cpu_count = 1 + data[9] % 64;
    text = malloc(size - 9);
    memcpy(text, data + 10, size - 10);
    text[size - 10] = 0;
    if (cpu_model_parse(&model, text, &err))
        cpu_model_cpuid(&model, &context, le32(data), le32(data + 4), out);
    else if (!err.text[0])
        abort();
    free(text);
    return 0;
}
