/* A map as JSON: as its process says it, with what the host says. */
#include "cli/look/draw.h"

#include "frontend/report/json.h"

static void draw_slot(const struct map_slot *slot, struct json *json)
{
	json_object(json, NULL);
	json_unsigned(json, "as", slot->as_id);
	json_unsigned(json, "id", slot->id);
	json_unsigned(json, "gfn", slot->gfn);
	json_unsigned(json, "pages", slot->pages);
	json_unsigned(json, "hva", slot->hva);
	json_bool(json, "log", slot->is_logged);
	json_bool(json, "readonly", slot->is_readonly);
	json_bool(json, "guest_memfd", slot->is_gmem);
	json_array(json, "rows");
	for (size_t at = 0; at < slot->cell_count; at++) {
		json_array(json, NULL);
		json_unsigned(json, NULL, slot->cells[at].gfn);
		json_unsigned(json, NULL, slot->cells[at].pages);
		for (size_t i = 0; i < MAP_COUNT; i++)
			json_unsigned(json, NULL, slot->cells[at].counts[i]);
		json_end(json);
	}
	json_end(json);
	json_end(json);
}

static void draw_tables(const struct map_tables *tables, struct json *json)
{
	json_object(json, "tables");
	json_unsigned(json, "tdp_4k", tables->tdp[1]);
	json_unsigned(json, "tdp_2m", tables->tdp[2]);
	json_unsigned(json, "tdp_1g", tables->tdp[3]);
	json_unsigned(json, "tdp_512g", tables->tdp[4]);
	json_unsigned(json, "shadow_pages", tables->shadow_pages);
	json_unsigned(json, "used", tables->used);
	json_unsigned(json, "taken_bytes", tables->taken_bytes);
	json_end(json);
}

void draw_json(const struct map *map, struct json *json)
{
	json_object(json, "memory");
	json_unsigned(json, "cell_pages", map->cell_pages);
	json_bool(json, "is_cut", map->is_cut);
	json_bool(json, "knows_host", map->knows_host);
	json_object(json, "totals");
	json_unsigned(json, "pages", map->total.pages);
	for (size_t i = 0; i < MAP_COUNT; i++)
		json_unsigned(json, map_names[i], map->total.counts[i]);
	json_end(json);
	json_array(json, "columns");
	json_string(json, NULL, "gfn");
	json_string(json, NULL, "pages");
	for (size_t i = 0; i < MAP_COUNT; i++)
		json_string(json, NULL, map_names[i]);
	json_end(json);
	json_array(json, "slots");
	for (size_t i = 0; i < map->slot_count; i++)
		draw_slot(&map->slots[i], json);
	json_end(json);
	draw_tables(&map->tables, json);
	json_end(json);
}
