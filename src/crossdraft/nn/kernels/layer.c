/* A decoder layer but for its attention: norm, rotation, gate, and with the products of rows.c each half in one call; and with
 * attend.c all layers of a pass in one, and a drafting head in two. bfloat16 in and out, float32 inside; each row by itself, in
 * one order, so its bits do not depend on the other rows. Sizes are multiples of 16, of a layer's matrices of 32. Of each half,
 * one team of threads shares out the rows, and of the products the outputs.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lanes.h"

/* y = x w / sqrt(sum x^2 + floor^2); w carries sqrt(dim) */
void crossdraft_norm(const bf16 *x, const float *w, bf16 *y, long rows, long dim, float floor)
{
	for (long r = 0; r < rows; r++, x += dim, y += dim) {
		lanes squares = {0};
		for (long c = 0; c < dim; c += LANES) {
			lanes value = wide(x + c);
			squares += value * value;
		}
		float sum = floor * floor;
		for (int i = 0; i < LANES; i++)
			sum += squares[i];
		float length = sqrtf(sum);
		for (long c = 0; c < dim; c += LANES)
			narrow(wide(x + c) * *(const lanes *)(w + c) / length, y + c);
	}
}

/* y = silu(gate) up, of rows [gate | up] of 2 dim */
void crossdraft_gate(const bf16 *both, bf16 *y, long rows, long dim)
{
	for (long r = 0; r < rows; r++, both += 2 * dim, y += dim)
		for (long c = 0; c < dim; c += LANES) {
			lanes gate = wide(both + c);
			counts below = gate < 0.0f;
			lanes small = power((lanes)((below & (counts)gate) | (~below & (counts)-gate)));
			lanes one = (lanes){0} + 1.0f;
			lanes share = (lanes)((below & (counts)small) | (~below & (counts)one)) / (1.0f + small);
			narrow(gate * share * wide(both + dim + c), y + c);
		}
}

#if LANES == 8
static const counts EVEN = {0, 0, 2, 2, 4, 4, 6, 6};
static const counts ODD = {1, 1, 3, 3, 5, 5, 7, 7};
static const counts SWAPPED = {1, 0, 3, 2, 5, 4, 7, 6};
static const lanes SIGN = {-1, 1, -1, 1, -1, 1, -1, 1};
#else
static const counts EVEN = {0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14};
static const counts ODD = {1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15};
static const counts SWAPPED = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
static const lanes SIGN = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
#endif

/* a row [queries | keys | values] of `turned` + `plain` numbers. The first `turned` are pairs and turn by the row's angle
 * (cosine, sine for each pair of a head of dim), the first `queries` of them are scaled. To float32. */
static void split(const bf16 *x, const float *turns, float *q, float *k, float *v, long queries, long turned, long plain,
                  long dim, float scale)
{
	for (long at = 0; at < turned; at += dim) {
		int is_query = at < queries;
		float *to = is_query ? q + at : k + at - queries;
		float by = is_query ? scale : 1.0f;
		for (long c = 0; c < dim; c += LANES) {
			lanes value = wide(x + at + c), turn = *(const lanes *)(turns + c);
			lanes cosine = __builtin_shuffle(turn, EVEN), sine = __builtin_shuffle(turn, ODD);
			lanes other = __builtin_shuffle(value, SWAPPED);
			*(lanes *)(to + c) = (value * cosine + other * (sine * SIGN)) * by;
		}
	}
	for (long c = 0; c < plain; c += LANES)
		*(lanes *)(v + c) = wide(x + turned + c);
}

/* rows.c */
long crossdraft_space(long m, long k);
void crossdraft_share(const bf16 *w, const bf16 *x, const float *bias, bf16 *y, long m, long n, long k, void *space);

/* bytes.c */
long crossdraft_space_of_bytes(long m, long k);
void crossdraft_share_bytes(const uint8_t *w, const float *scales, const bf16 *x, const float *bias, bf16 *y, long m, long n,
                            long k, void *space);

/* a packed matrix (n, k), of bytes where there are scales; bias: none, or n floats */
typedef struct {
	const void *w;
	const float *bias, *scales;
	long n, k;
} linear;

/* a decoder layer: q, k and v in one matrix, gate and up in another. norm_in: none, where rows come normalised */
typedef struct {
	linear qkv, out, gate_up, down;
	const float *norm_in, *norm_mid;
	long heads, kv_heads, dim;
	float floor, scale;
} layer;

/* by all threads of a team together, here and below */
static void apply(const linear *by, const bf16 *x, bf16 *y, long rows, void *space)
{
	if (by->scales)
		crossdraft_share_bytes(by->w, by->scales, x, by->bias, y, rows, by->n, by->k, space);
	else
		crossdraft_share(by->w, x, by->bias, y, rows, by->n, by->k, space);
}

static long space_of(const linear *by, long rows)
{
	return by->scales ? crossdraft_space_of_bytes(rows, by->k) : crossdraft_space(rows, by->k);
}

static void norm_rows(const bf16 *x, const float *w, bf16 *y, long rows, long dim, float floor)
{
#pragma omp for schedule(static)
	for (long r = 0; r < rows; r++)
		crossdraft_norm(x + r * dim, w, y + r * dim, 1, dim, floor);
}

/* y += x */
static void add_rows(bf16 *y, const bf16 *x, long rows, long dim)
{
#pragma omp for schedule(static)
	for (long r = 0; r < rows; r++)
		for (long c = r * dim; c < (r + 1) * dim; c += LANES)
			narrow(wide(y + c) + wide(x + c), y + c);
}

/* one allocation for what a half works in: `numbers` of bfloat16, behind as many bytes for the copies of its products */
static bf16 *work(long bytes, long numbers, void **copies)
{
	long aligned = (bytes + 63) / 64 * 64;
	*copies = malloc(aligned + numbers * sizeof(bf16));
	return *copies ? (bf16 *)((char *)*copies + aligned) : 0;
}

/* q, k and v of rows x, behind the input norm where `normed`; the rest as split. 0 without memory, here and below */
int crossdraft_project(const layer *of, const bf16 *x, int normed, const float *turns, long turn_step, float *q, float *k,
                       float *v, long rows, int threads)
{
	long width = of->qkv.k, queries = of->heads * of->dim, keys = of->kv_heads * of->dim;
	void *copies;
	bf16 *reads = work(space_of(&of->qkv, rows), rows * (width + of->qkv.n), &copies), *all = reads + rows * width;
	(void)threads;
	if (!reads)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	{
		if (normed)
			norm_rows(x, of->norm_in, reads, rows, width, of->floor);
		apply(&of->qkv, normed ? reads : x, all, rows, copies);
#pragma omp for schedule(static)
		for (long r = 0; r < rows; r++)
			split(all + r * of->qkv.n, turns + r * turn_step, q + r * queries, k + r * keys, v + r * keys, queries,
			      queries + keys, keys, of->dim, of->scale);
	}
	free(copies);
	return 1;
}

/* y = x + what attention mixed, through its output matrix */
int crossdraft_join(const layer *of, const float *mixed, const bf16 *x, bf16 *y, long rows, int threads)
{
	long width = of->out.k;
	void *copies;
	bf16 *reads = work(space_of(&of->out, rows), rows * width, &copies);
	(void)threads;
	if (!reads)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	{
#pragma omp for schedule(static)
		for (long r = 0; r < rows; r++)
			for (long c = r * width; c < (r + 1) * width; c += LANES)
				narrow(*(const lanes *)(mixed + c), reads + c);
		apply(&of->out, reads, y, rows, copies);
		add_rows(y, x, rows, of->out.n);
	}
	free(copies);
	return 1;
}

/* x += its feed-forward */
int crossdraft_feed(const layer *of, bf16 *x, long rows, int threads)
{
	long width = of->gate_up.k, inner = of->down.k;
	long before = space_of(&of->gate_up, rows), behind = space_of(&of->down, rows);
	void *copies;
	bf16 *reads = work(before > behind ? before : behind, rows * (width + 3 * inner), &copies);
	bf16 *both = reads + rows * width, *gated = both + rows * 2 * inner;
	(void)threads;
	if (!reads)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	{
		norm_rows(x, of->norm_mid, reads, rows, width, of->floor);
		apply(&of->gate_up, reads, both, rows, copies);
#pragma omp for schedule(static)
		for (long r = 0; r < rows; r++)
			crossdraft_gate(both + r * 2 * inner, gated + r * inner, 1, inner);
		apply(&of->down, gated, reads, rows, copies);
		add_rows(x, reads, rows, width);
	}
	free(copies);
	return 1;
}

/* attend.c */
int crossdraft_attend(const float *q, const float *k, const float *v, float *keys, float *values, float *out,
                      const int32_t *paths, const int32_t *lengths, long rows, long heads, long groups, long dim,
                      long head_step, long start, long first, long width, int threads);

/* rows x through `count` layers of one shape to y, which is not x: what the calls above give, one after the other. reads: what
 * the first layer's attention takes as it is; none: x behind that layer's norm. keys and values lie layer by layer,
 * `layer_step` floats apart; they and the paths are as crossdraft_attend takes them. taps: where the rows behind each layer
 * are copied to; none: nowhere */
int crossdraft_stack(const layer *const *of, long count, const bf16 *x, const bf16 *reads, const float *turns, long turn_step,
                     float *keys, float *values, long layer_step, long head_step, const int32_t *paths, const int32_t *lengths,
                     long start, long first, long width, bf16 *const *taps, bf16 *y, long rows, int threads)
{
	const layer *any = of[0];
	long size = rows * any->out.n, some_keys = rows * any->kv_heads * any->dim, queries = rows * any->heads * any->dim;
	float *q = aligned_alloc(64, ((2 * queries + 2 * some_keys) * sizeof(float) + size * sizeof(bf16) + 63) / 64 * 64);
	if (!q)
		return 0;
	float *mixed = q + queries, *k = mixed + queries, *v = k + some_keys;
	bf16 *spare = (bf16 *)(v + some_keys);
	int done = 1;
	for (long i = 0; i < count && done; i++) {
		bf16 *to = (count - i) % 2 ? y : spare;
		int given = i == 0 && reads;
		done = crossdraft_project(of[i], given ? reads : x, !given, turns, turn_step, q, k, v, rows, threads) &&
		       crossdraft_attend(q, k, v, keys + i * layer_step, values + i * layer_step, mixed, paths, lengths, rows,
		                         any->kv_heads, any->heads / any->kv_heads, any->dim, head_step, start, first, width,
		                         threads) &&
		       crossdraft_join(of[i], mixed, x, to, rows, threads) && crossdraft_feed(of[i], to, rows, threads);
		if (taps[i])
			memcpy(taps[i], to, size * sizeof(bf16));
		x = to;
	}
	free(q);
	return done;
}

/* a drafting head around its one layer. Before it, of each row's embedding and feature, side by side: one matrix, or a norm for
 * each, of which the feature's may stand for the feature from there on. Behind it: a norm, or none, and the output matrix */
typedef struct {
	layer within;
	linear fuse, words;
	const float *norm_embed, *norm_feat, *norm_out;
	long is_normed;
} head;

/* rows of a draft, or verified ones, through a head to y. above: which of feats is each row's; none: its own. Caches and paths
 * as crossdraft_stack takes them */
int crossdraft_level(const head *of, const bf16 *feats, const int64_t *above, const bf16 *embeds, const float *turns,
                     long turn_step, float *keys, float *values, long head_step, const int32_t *paths, const int32_t *lengths,
                     long start, long first, long width, bf16 *y, long rows, int threads)
{
	const layer *within = &of->within;
	long dim = within->out.n;
	int is_fused = of->fuse.w != 0;
	void *copies;
	bf16 *x = work(is_fused ? space_of(&of->fuse, rows) : 0, rows * 3 * dim, &copies), *both = x + rows * dim, *no_tap = 0;
	if (!x)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	{
#pragma omp for schedule(static)
		for (long r = 0; r < rows; r++) {
			const bf16 *embed = embeds + r * dim, *feat = feats + (above ? above[r] : r) * dim;
			bf16 *pair = both + 2 * r * dim;
			if (is_fused) {
				memcpy(pair, embed, dim * sizeof(bf16));
				memcpy(pair + dim, feat, dim * sizeof(bf16));
			} else {
				crossdraft_norm(embed, of->norm_embed, pair, 1, dim, within->floor);
				crossdraft_norm(feat, of->norm_feat, pair + dim, 1, dim, within->floor);
				memcpy(x + r * dim, of->is_normed ? pair + dim : feat, dim * sizeof(bf16));
			}
		}
		if (is_fused)
			apply(&of->fuse, both, x, rows, copies);
	}
	const bf16 *reads = !is_fused ? both : within->norm_in ? 0 : x;
	int done = crossdraft_stack(&within, 1, x, reads, turns, turn_step, keys, values, 0, head_step, paths, lengths, start, first,
	                            width, &no_tap, y, rows, threads);
	free(copies);
	return done;
}

/* what a head's rows x say: its output matrix, behind its norm */
int crossdraft_words(const head *of, const bf16 *x, bf16 *scores, long rows, int threads)
{
	long dim = of->words.k;
	void *copies;
	bf16 *normed = work(space_of(&of->words, rows), rows * dim, &copies);
	(void)threads;
	if (!normed)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	{
		if (of->norm_out)
			norm_rows(x, of->norm_out, normed, rows, dim, of->within.floor);
		apply(&of->words, of->norm_out ? normed : x, scores, rows, copies);
	}
	free(copies);
	return 1;
}
