/* A least-recently-used table from identities to slots, with an undo log, on arrays of identities at once.
 *
 * All memory belongs to the caller (numpy arrays, lru_native.py). Slots form a doubly linked list from the most to the
 * least recently used; a hash table of open addressing finds the slot of an identity. An entry of the undo log says
 * what one access did: undone in reverse order, the slot it concerned is always at the head of the list.
 */
#include <stdint.h>

#define NONE (-1)
#define ADDED (-2)    /* the access took a free slot */
#define REPLACED (-3) /* the access took the slot of the least recently used identity */

/* 16 bytes: a slot's own is one line of the cache. */
typedef struct {
    int64_t identity;
    int32_t previous; /* the slot used next after this one, or NONE */
    int32_t next;     /* the slot used last before this one, or NONE */
} Node;

typedef struct {
    Node *node;        /* (Q,) */
    int32_t *free;     /* (Q,) free slots, the next to be taken last */
    int32_t *table;    /* (mask + 1,) slots or NONE */
    int64_t mask;      /* a power of 2 of at least 4Q, less one: short chains */
    int64_t free_count;
    int32_t head, tail;
    int64_t *log_identity; /* what REPLACED took the place of */
    int32_t *log_previous; /* a hit: `previous` of the slot before it; otherwise ADDED or REPLACED */
    int64_t log_count;
} Lru;

/* The finaliser of SplitMix64: neighbouring identities go to unrelated places. */
static int64_t place_of(const Lru *lru, int64_t identity) {
    uint64_t x = (uint64_t)identity + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (int64_t)((x ^ (x >> 31)) & (uint64_t)lru->mask);
}

static int32_t find(const Lru *lru, int64_t identity) {
    int64_t place = place_of(lru, identity);
    for (; lru->table[place] != NONE; place = (place + 1) & lru->mask)
        if (lru->node[lru->table[place]].identity == identity)
            return lru->table[place];
    return NONE;
}

static void enter(Lru *lru, int32_t slot, int64_t identity) {
    int64_t place = place_of(lru, identity);
    lru->node[slot].identity = identity;
    while (lru->table[place] != NONE)
        place = (place + 1) & lru->mask;
    lru->table[place] = slot;
}

/* Takes a slot's entry out of the table and moves those behind it up, so that no chain is broken. */
static void erase(Lru *lru, int32_t slot) {
    int64_t hole = place_of(lru, lru->node[slot].identity);
    while (lru->table[hole] != slot)
        hole = (hole + 1) & lru->mask;
    for (int64_t place = (hole + 1) & lru->mask; lru->table[place] != NONE; place = (place + 1) & lru->mask) {
        int64_t wanted = place_of(lru, lru->node[lru->table[place]].identity);
        if (((place - wanted) & lru->mask) >= ((place - hole) & lru->mask)) {
            lru->table[hole] = lru->table[place];
            hole = place;
        }
    }
    lru->table[hole] = NONE;
}

static void take_out(Lru *lru, int32_t slot) {
    int32_t previous = lru->node[slot].previous, next = lru->node[slot].next;
    if (previous == NONE) lru->head = next; else lru->node[previous].next = next;
    if (next == NONE) lru->tail = previous; else lru->node[next].previous = previous;
}

/* Puts a slot behind `previous`, or at the head for NONE. */
static void put_behind(Lru *lru, int32_t slot, int32_t previous) {
    int32_t next = previous == NONE ? lru->head : lru->node[previous].next;
    lru->node[slot].previous = previous;
    lru->node[slot].next = next;
    if (previous == NONE) lru->head = slot; else lru->node[previous].next = slot;
    if (next == NONE) lru->tail = slot; else lru->node[next].previous = slot;
}

/* Tables of many slots do not fit the caches nearest to the processor: what comes next is fetched ahead. */
static void fetch_ahead(const Lru *lru, const int64_t *identity, int64_t i, int64_t n) {
    if (i + 8 < n)
        __builtin_prefetch(&lru->table[place_of(lru, identity[i + 8])]);
    if (i + 4 < n) {
        int32_t slot = lru->table[place_of(lru, identity[i + 4])];
        if (slot != NONE)
            __builtin_prefetch(&lru->node[slot]);
    }
}

/* Uses each identity in turn. The log has room for n more entries where `record` is set. */
void lru_access(Lru *lru, const int64_t *identity, int64_t n, int64_t *slot_out, uint8_t *hit_out, int32_t record) {
    for (int64_t i = 0; i < n; i++) {
        fetch_ahead(lru, identity, i, n);
        int64_t replaced = NONE;
        int32_t entry, slot = find(lru, identity[i]);
        hit_out[i] = slot != NONE;
        if (slot != NONE) {
            entry = lru->node[slot].previous;
            take_out(lru, slot);
        } else {
            if (lru->free_count > 0) {
                entry = ADDED;
                slot = lru->free[--lru->free_count];
            } else {
                entry = REPLACED;
                slot = lru->tail;
                replaced = lru->node[slot].identity;
                erase(lru, slot);
                take_out(lru, slot);
                if (lru->tail != NONE) /* the next to be replaced */
                    __builtin_prefetch(&lru->table[place_of(lru, lru->node[lru->tail].identity)]);
            }
            enter(lru, slot, identity[i]);
        }
        put_behind(lru, slot, NONE);
        slot_out[i] = slot;
        if (record) {
            lru->log_previous[lru->log_count] = entry;
            lru->log_identity[lru->log_count++] = replaced;
        }
    }
}

/* The slot of each identity, or NONE; nothing is used. */
void lru_view(const Lru *lru, const int64_t *identity, int64_t n, int64_t *slot_out) {
    for (int64_t i = 0; i < n; i++) {
        fetch_ahead(lru, identity, i, n);
        slot_out[i] = find(lru, identity[i]);
    }
}

/* Undoes the last n recorded accesses; the log holds as many. */
void lru_rollback(Lru *lru, int64_t n) {
    for (; n > 0; n--) {
        int32_t slot = lru->head, entry = lru->log_previous[--lru->log_count];
        if (n > 4)
            __builtin_prefetch(&lru->table[place_of(lru, lru->log_identity[lru->log_count - 4])]);
        take_out(lru, slot);
        if (lru->head != NONE) /* the next to be undone */
            __builtin_prefetch(&lru->table[place_of(lru, lru->node[lru->head].identity)]);
        if (entry >= NONE) {
            put_behind(lru, slot, entry);
            continue;
        }
        erase(lru, slot);
        if (entry == ADDED) {
            lru->free[lru->free_count++] = slot;
        } else {
            enter(lru, slot, lru->log_identity[lru->log_count]);
            put_behind(lru, slot, lru->tail);
        }
    }
}

/* All slots in use, most recently used first; returns how many. */
int64_t lru_order(const Lru *lru, int64_t *slot_out) {
    int64_t count = 0;
    for (int32_t slot = lru->head; slot != NONE; slot = lru->node[slot].next)
        slot_out[count++] = slot;
    return count;
}

/* Fills an empty table with slots and their identities, most recently used first. */
void lru_fill(Lru *lru, const int64_t *identity, const int64_t *slot, int64_t n) {
    for (int64_t i = n - 1; i >= 0; i--) {
        enter(lru, (int32_t)slot[i], identity[i]);
        put_behind(lru, (int32_t)slot[i], NONE);
    }
}
