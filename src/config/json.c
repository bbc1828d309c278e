/* SPDX-License-Identifier: MIT */
/* The config as JSON: walks the field tables, so a new field needs no code here. */
#include "config/tables.h"
#include <jansson.h>
#include <stdlib.h>

static const struct array { /* the lists inside struct config */
    const char *name;
    const struct field *fields;
    size_t offset, stride, count_offset;
    uint32_t max;
} arrays[] = {
    {"disk", config_disk_fields, offsetof(struct config, disk), sizeof(struct config_disk),
     offsetof(struct config, disk_count), CONFIG_DISKS},
    {"net", config_net_fields, offsetof(struct config, net), sizeof(struct config_net),
     offsetof(struct config, net_count), CONFIG_NETS},
    {"port", config_port_fields, offsetof(struct config, port), sizeof(struct config_port),
     offsetof(struct config, port_count), CONFIG_PORTS},
    {"share", config_share_fields, offsetof(struct config, share), sizeof(struct config_share),
     offsetof(struct config, share_count), CONFIG_SHARES},
};

static json_t *number_to_json(const struct field *f, const void *at)
{
    switch (f->kind) {
    case FIELD_BOOL: return json_boolean(*(const bool *)at);
    case FIELD_U8: return json_integer(*(const uint8_t *)at);
    case FIELD_U16: return json_integer(*(const uint16_t *)at);
    case FIELD_U32: return json_integer(*(const uint32_t *)at);
    case FIELD_U64:
    case FIELD_SIZE_KIND: return json_integer((json_int_t) * (const uint64_t *)at);
    case FIELD_ENUM_KIND: return json_string(f->names[*(const int *)at]);
    case FIELD_TEXT_KIND: return json_string(at);
    case FIELD_BYTES_KIND:
    case FIELD_TABLE_KIND: break;
    }
    return NULL;
}

static json_t *table_to_json(const struct field *table, const void *from)
{
    json_t *object = json_object();

    for (const struct field *f = table; f->name; f++) {
        json_t *value = number_to_json(f, (const char *)from + f->offset);

        if (!value || json_object_set_new(object, f->name, value)) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

char *config_to_json(const struct config *c)
{
    json_t *root = table_to_json(config_fields, c);
    char *text;

    for (unsigned i = 0; root && i < ARRAY_SIZE(arrays); i++) {
        const struct array *a = &arrays[i];
        uint32_t count = *(const uint32_t *)((const char *)c + a->count_offset);
        const char *item = (const char *)c + a->offset;
        json_t *list = json_array();
        bool good = list != NULL;

        for (uint32_t k = 0; good && k < count; k++, item += a->stride)
            good = !json_array_append_new(list, table_to_json(a->fields, item));
        if (json_object_set_new(root, a->name, list) || !good) {
            json_decref(root);
            root = NULL;
        }
    }
    text = root ? json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
    json_decref(root);
    return text;
}

static bool member_from_json(const struct field *table, void *to, const char *key, json_t *value,
                             struct err *err)
{
    char number[32];
    const char *text = json_string_value(value);

    if (json_is_boolean(value))
        text = json_is_true(value) ? "on" : "off";
    if (json_is_integer(value)) {
        snprintf(number, sizeof number, "%llu", (unsigned long long)json_integer_value(value));
        text = number;
    }
    if (!text)
        return err_set(err, EINVAL, "config member %s: must be text, a number, true or false", key);
    return field_set(table, to, key, text, err);
}

static const struct array *find_array(const char *key)
{
    for (unsigned i = 0; i < ARRAY_SIZE(arrays); i++)
        if (!strcmp(key, arrays[i].name))
            return &arrays[i];
    return NULL;
}

static bool table_from_json(const struct field *table, void *to, json_t *object, struct err *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(object))
        return err_set(err, EINVAL, "config: a list holds something that is not an object");
    json_object_foreach(object, key,
                        value) if (!member_from_json(table, to, key, value, err)) return false;
    return true;
}

static bool array_from_json(struct config *c, const struct array *a, json_t *list, struct err *err)
{
    uint32_t *count = (uint32_t *)((char *)c + a->count_offset);
    char *to = (char *)c + a->offset;
    size_t i;
    json_t *item;

    if (!json_is_array(list) || json_array_size(list) > a->max)
        return err_set(err, EINVAL, "config member %s: must be a list of at most %u", a->name,
                       a->max);
    json_array_foreach(
        list, i, item) if (!table_from_json(a->fields, to + i * a->stride, item, err)) return false;
    *count = (uint32_t)json_array_size(list);
    return true;
}

static bool root_from_json(struct config *c, json_t *root, struct err *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(root))
        return err_set(err, EINVAL, "config: must be one JSON object");
    json_object_foreach(root, key, value)
    {
        const struct array *a = find_array(key);

        if (!(a ? array_from_json(c, a, value, err)
                : member_from_json(config_fields, c, key, value, err)))
            return false;
    }
    return true;
}

bool config_from_json(struct config *c, const char *text, size_t len, struct err *err)
{
    memset(c, 0, sizeof *c);
    return config_read_json(c, text, len, err);
}

bool config_read_json(struct config *c, const char *text, size_t len, struct err *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    bool good;

    config_defaults_zeroed(c);
    if (!root)
        return err_set(err, EINVAL, "config line %d: %s", why.line, why.text);
    good = root_from_json(c, root, err);
    json_decref(root);
    return good;
}
