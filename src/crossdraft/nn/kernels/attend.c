/* Attention of a few rows over a cache, each row along its own path: float32, one pass, no masks.
 *
 * Row s looks at slots 0 .. start - 1 and then at its path: slots start + path[0], start + path[1], ... (a chain's is
 * 0 .. s). Every score is one running sum over the channels, every softmax sums its weights by place (modulo LANES) and
 * then over these, every output channel is one running sum over the path in its order. So a row's bits depend on its own path
 * and on nothing else: not on where its keys lie, not on the other rows, not on how rows are grouped.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lanes.h"

#define QUERIES 12 /* scored together, at most */
#define AHEAD 32   /* slots: so far before their use keys and values are fetched */

/* LANES rows of as many channels, as channels of rows */
#if LANES == 8
static void turn(const float *const *rows, long at, lanes *out)
{
	__m256 r[8], t[8];
	for (int i = 0; i < 8; i++)
		r[i] = _mm256_loadu_ps(rows[i] + at);
	for (int i = 0; i < 8; i += 2) {
		t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
		t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
	}
	for (int i = 0; i < 8; i += 4) {
		r[i] = (__m256)_mm256_unpacklo_pd((__m256d)t[i], (__m256d)t[i + 2]);
		r[i + 1] = (__m256)_mm256_unpackhi_pd((__m256d)t[i], (__m256d)t[i + 2]);
		r[i + 2] = (__m256)_mm256_unpacklo_pd((__m256d)t[i + 1], (__m256d)t[i + 3]);
		r[i + 3] = (__m256)_mm256_unpackhi_pd((__m256d)t[i + 1], (__m256d)t[i + 3]);
	}
	for (int i = 0; i < 4; i++) {
		out[i] = (lanes)_mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
		out[i + 4] = (lanes)_mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
	}
}
#elif defined(__AVX512F__)
static void turn(const float *const *rows, long at, lanes *out)
{
	__m512 r[16], t[16];
	for (int i = 0; i < 16; i++)
		r[i] = _mm512_loadu_ps(rows[i] + at);
	for (int i = 0; i < 16; i += 2) {
		t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
		t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
	}
	for (int i = 0; i < 16; i += 4) {
		r[i] = (__m512)_mm512_unpacklo_pd((__m512d)t[i], (__m512d)t[i + 2]);
		r[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[i], (__m512d)t[i + 2]);
		r[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
		r[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
	}
	for (int i = 0; i < 4; i++) {
		t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
		t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
		t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
		t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
	}
	for (int i = 0; i < 4; i++) {
		out[i] = (lanes)_mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
		out[i + 4] = (lanes)_mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
		out[i + 8] = (lanes)_mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
		out[i + 12] = (lanes)_mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
	}
}
#else
static void turn(const float *const *rows, long at, lanes *out)
{
	for (int c = 0; c < LANES; c++)
		for (int i = 0; i < LANES; i++)
			out[c][i] = rows[i][at + c];
}
#endif

/* `many` queries side by side, channel by channel; more of the first where there are fewer */
static void beside(const float *const *queries, int count, long dim, int many, float *out)
{
	for (long c = 0; c < dim; c++)
		for (int i = 0; i < many; i++)
			out[c * many + i] = queries[i < count ? i : 0][c];
}

/* scores of LANES keys (turned) for MANY queries (beside each other); to[i] gets those of the first `count` ones */
#define SCORE(MANY)                                                                                                     \
	static void score_##MANY(const lanes *keys, const float *queries, float *const *to, int count, long dim)            \
	{                                                                                                                   \
		lanes sum[MANY], done[MANY];                                                                                    \
		EACH_QUERY(MANY) sum[i] = (lanes){0};                                                                           \
		for (long c = 0; c < dim; c++)                                                                                  \
			EACH_QUERY(MANY) sum[i] = plus(sum[i], keys[c], every(queries[c * MANY + i]));                              \
		/* by constant numbers only, or the sums would not stay in registers */                                         \
		EACH_QUERY(MANY) done[i] = sum[i];                                                                              \
		for (int i = 0; i < count; i++)                                                                                 \
			*(lanes *)to[i] = done[i];                                                                                  \
	}

#define EACH_QUERY(MANY) _Pragma("GCC unroll 12") for (int i = 0; i < MANY; i++)

SCORE(4)
SCORE(12)

/* how many queries are scored together where there are `count`: no row alone pays for twelve */
static int at_a_time(int count)
{
	return count <= 4 ? 4 : QUERIES;
}

static void score(const lanes *keys, const float *queries, float *const *to, int count, long dim)
{
	if (at_a_time(count) == 4)
		score_4(keys, queries, to, count, dim);
	else
		score_12(keys, queries, to, count, dim);
}

/* places that lie `apart`, a power of two, for each other */
static inline lanes swapped(lanes x, int apart)
{
	counts from;
	for (int i = 0; i < LANES; i++)
		from[i] = i ^ apart;
	return __builtin_shuffle(x, from);
}

/* scores into weights, in place; returns their sum. There is room for LANES more behind them. */
static float weigh(float *scores, long count)
{
	for (long i = count; i < count + LANES; i++)
		scores[i] = -INFINITY;
	lanes high = *(const lanes *)scores;
	for (long i = LANES; i < count; i += LANES) {
		lanes x = *(const lanes *)(scores + i);
		counts above = x > high;
		high = (lanes)((above & (counts)x) | (~above & (counts)high));
	}
	for (int apart = LANES / 2; apart; apart /= 2) {
		lanes other = swapped(high, apart);
		counts above = other > high;
		high = (lanes)((above & (counts)other) | (~above & (counts)high));
	}
	float most = high[0];
	lanes sum = {0};
	for (long i = 0; i < count; i += LANES) {
		lanes x = power(*(const lanes *)(scores + i) - most);
		*(lanes *)(scores + i) = x;
		sum += x;
	}
	for (int apart = LANES / 2; apart; apart /= 2)
		sum += swapped(sum, apart);
	return sum[0];
}

/* sums over the common slots, for MANY queries of WIDE of the `wide` vectors of channels */
#define EACH_VECTOR(WIDE) _Pragma("GCC unroll 8") for (int c = 0; c < WIDE; c++)
#define MIX(WIDE, MANY)                                                                                                 \
	static void mix_##WIDE(const float *values, long wide, const float *const *weights, long count, float *out)         \
	{                                                                                                                   \
		lanes sum[MANY][WIDE], value[WIDE];                                                                             \
		EACH_QUERY(MANY) EACH_VECTOR(WIDE) sum[i][c] = (lanes){0};                                                      \
		for (long s = 0; s < count; s++) {                                                                              \
			for (int c = 0; c < WIDE * LANES; c += 16)                                                                  \
				__builtin_prefetch(values + (s + AHEAD) * wide * LANES + c);                                            \
			EACH_VECTOR(WIDE) value[c] = *(const lanes *)(values + (s * wide + c) * LANES);                             \
			EACH_QUERY(MANY) EACH_VECTOR(WIDE) sum[i][c] = plus(sum[i][c], value[c], every(weights[i][s]));            \
		}                                                                                                               \
		EACH_QUERY(MANY) EACH_VECTOR(WIDE) *(lanes *)(out + (i * wide + c) * LANES) = sum[i][c];                        \
	}

/* as many queries as the registers hold: of all channels at once, or, of fewer registers, of two vectors of them */
#if LANES == 8
MIX(2, 6)

static long together(long wide)
{
	(void)wide;
	return 6;
}

static void mix(long wide, const float *values, const float *const *weights, long count, float *out)
{
	for (long c = 0; c < wide * LANES; c += 2 * LANES)
		mix_2(values + c, wide, weights, count, out + c);
}
#else
MIX(2, 12)
MIX(4, 6)
MIX(8, 3)

static long together(long wide)
{
	return 24 / wide;
}

static void mix(long wide, const float *values, const float *const *weights, long count, float *out)
{
	if (wide == 2)
		mix_2(values, wide, weights, count, out);
	else if (wide == 4)
		mix_4(values, wide, weights, count, out);
	else
		mix_8(values, wide, weights, count, out);
}
#endif

/* scores of `count` keys, one after the other, for all `many` queries (packed): a row of `stride` numbers for each, of which those
 * behind `count`, up to a whole vector, are written too and mean nothing */
static void score_keys(const float *keys, long count, const float *packed, long many, long dim, float *scores, long stride)
{
	const float *rows[LANES];
	float *to[QUERIES];
	lanes turned[128];
	for (long s = 0; s < count; s += LANES) {
		for (long c = 0; c < LANES * dim; c += 16)
			__builtin_prefetch(keys + (s + AHEAD) * dim + c);
		for (int i = 0; i < LANES; i++)
			rows[i] = keys + (s + i < count ? s + i : count - 1) * dim;
		for (long c = 0; c < dim; c += LANES)
			turn(rows, c, turned + c);
		for (long at = 0; at < many; at += QUERIES) {
			int some = many - at < QUERIES ? (int)(many - at) : QUERIES;
			for (int i = 0; i < some; i++)
				to[i] = scores + (at + i) * stride + s;
			score(turned, packed + at * dim, to, some, dim);
		}
	}
}

/* what the common slots gave (from), and a row's own path, over the sum of all weights; `wide` a constant where it is known */
static inline __attribute__((always_inline)) void along(long wide, const float *values, const int32_t *path,
                                                        const float *weights, long length, const float *from, float total,
                                                        float *to)
{
	lanes sum[16];
	for (long c = 0; c < wide; c++)
		sum[c] = *(const lanes *)(from + c * LANES);
	for (long s = 0; s < length; s++) {
		const float *value = values + (path ? path[s] : s) * wide * LANES;
		for (long c = 0; c < wide; c++)
			sum[c] = plus(sum[c], *(const lanes *)(value + c * LANES), every(weights[s]));
	}
	for (long c = 0; c < wide; c++)
		*(lanes *)(to + c * LANES) = sum[c] / total;
}

/* how many of a draft's slots a row looks at */
static long looked_at(const int32_t *paths, const int32_t *lengths, long row, long width)
{
	if (lengths)
		return lengths[row];
	return paths ? width : row + 1;
}

/* one key/value head, `many` queries: rows first .. of `groups` queries each; `slots` of a draft are there */
static void some_rows(const float *q, const float *keys, const float *values, float *out, const int32_t *paths,
                      const int32_t *lengths, long first, long last, long groups, long row_step, long start, long width,
                      long slots, long dim, float *space)
{
	long many = (last - first) * groups, stride = start + width + 2 * LANES, wide = dim / LANES, beyond = slots + LANES;
	float *scores = space, *sums = scores + many * stride, *drafts = sums + many, *packed = drafts + many * beyond;
	const float *queries[QUERIES];
	for (long at = 0; at < many; at += QUERIES) {
		int count = many - at < QUERIES ? (int)(many - at) : QUERIES;
		for (int i = 0; i < count; i++)
			queries[i] = q + (first + (at + i) / groups) * row_step + (at + i) % groups * dim;
		beside(queries, count, dim, at_a_time(count), packed + at * dim);
	}
	score_keys(keys, start, packed, many, dim, scores, stride);
	/* of the draft's keys each row takes those on its path: to score them all is cheaper than to gather some for each */
	score_keys(keys + start * dim, slots, packed, many, dim, drafts, beyond);
	for (long query = 0; query < many; query++) {
		long row = first + query / groups, length = looked_at(paths, lengths, row, width);
		float *own = scores + query * stride + start;
		for (long s = 0; s < length; s++)
			own[s] = drafts[query * beyond + (paths ? paths[row * width + s] : s)];
		sums[query] = weigh(scores + query * stride, start + length);
	}
	long most = together(wide);
	const float *weights[12];
	float common[768]; /* most * dim */
	for (long at = 0; at < many; at += most) {
		long count = many - at < most ? many - at : most;
		for (long i = 0; i < most; i++)
			weights[i] = scores + (at + (i < count ? i : 0)) * stride;
		mix(wide, values, weights, start, common);
		for (long i = 0; i < count; i++) {
			long row = first + (at + i) / groups, length = looked_at(paths, lengths, row, width);
			float *into = out + row * row_step + (at + i) % groups * dim;
			const int32_t *path = paths ? paths + row * width : 0;
			const float *from = common + i * wide * LANES, *drafted = values + start * dim;
			if (wide == 4)
				along(4, drafted, path, weights[i] + start, length, from, sums[at + i], into);
			else
				along(wide, drafted, path, weights[i] + start, length, from, sums[at + i], into);
		}
	}
}

/* q, out (rows, heads, groups, dim); k, v (rows, heads, dim) go into keys and values (heads, slots, dim; `head_step` floats a
 * head) at slots start + first ..; paths (rows, width), of numbers below first + rows, and lengths (rows; none: whole paths), or
 * no paths for a chain (width: rows). dim 32, 64 or 128. Returns 0 without memory. */
int crossdraft_attend(const float *q, const float *k, const float *v, float *keys, float *values, float *out,
                      const int32_t *paths, const int32_t *lengths, long rows, long heads, long groups, long dim,
                      long head_step, long start, long first, long width, int threads)
{
	for (long head = 0; head < heads; head++)
		for (long row = 0; row < rows; row++) {
			long to = head * head_step + (start + first + row) * dim, from = (row * heads + head) * dim;
			memcpy(keys + to, k + from, dim * sizeof(float));
			memcpy(values + to, v + from, dim * sizeof(float));
		}
	long at_once = 24 / groups > 0 ? 24 / groups : 1, parts = (rows + at_once - 1) / at_once;
	long many = at_once * groups, slots = first + rows;
	long room = many * (start + width + slots + 3 * LANES + 1) + (many + QUERIES) * dim;
	int failed = 0;
	(void)threads;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
	for (long task = 0; task < heads * parts; task++) {
		long head = task / parts, begin = task % parts * at_once;
		long end = begin + at_once < rows ? begin + at_once : rows;
		float *space = malloc(room * sizeof(float));
		if (!space) {
#pragma omp atomic write
			failed = 1;
			continue;
		}
		some_rows(q + head * groups * dim, keys + head * head_step, values + head * head_step, out + head * groups * dim,
		          paths, lengths, begin, end, groups, heads * groups * dim, start, width, slots, dim, space);
		free(space);
	}
	return !failed;
}
