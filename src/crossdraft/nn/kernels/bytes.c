/* y = x W' + b with the weights and the rows rounded to bytes: for drafting heads, whose answers are only guesses.
 *
 * Each output's weights have a scale, and each row has one: its largest magnitude is 127. W is packed in blocks of BLOCK
 * outputs; within a block four inputs lie side by side. The weights are kept 128 higher, as numbers without a sign, which
 * vpdpbusd wants of one side; what that adds to a sum, 128 times the row's own, is taken off at its end. Sums are of whole
 * numbers, so a row is the same bits whatever its company.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lanes.h"

#define BLOCK 16
#define QUAD 4 /* inputs that are multiplied at once */
#define TILE 96

/* whether this machine multiplies bytes in its vectors; the plain form below is for tests */
int crossdraft_has_bytes(void)
{
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
	return 1;
#else
	return 0;
#endif
}

#if defined(__AVX512VNNI__)
#define VECTORS 1
#define SUMS __m512i
#define ZERO _mm512_setzero_si512()
#define LOAD(FROM) _mm512_loadu_si512(FROM)
#define STORE(TO, X) _mm512_storeu_si512(TO, X)
#define EVERY(X) _mm512_set1_epi32(X)
#define MORE(SUM, W, X) _mm512_dpbusd_epi32(SUM, W, X)
#define MAXR 12
#elif defined(__AVXVNNI__)
#define VECTORS 2
#define SUMS __m256i
#define ZERO _mm256_setzero_si256()
#define LOAD(FROM) _mm256_loadu_si256((const __m256i *)(FROM))
#define STORE(TO, X) _mm256_storeu_si256((__m256i *)(TO), X)
#define EVERY(X) _mm256_set1_epi32(X)
#define MORE(SUM, W, X) _mm256_dpbusd_avx_epi32(SUM, W, X)
#define MAXR 6
#else
#define MAXR 6
#endif

#define EACH _Pragma("GCC unroll 12") for

/* sums (R, BLOCK) of k inputs of R rows, `apart` bytes from each other, with those of a block */
#ifdef SUMS
#define KERNEL(R)                                                                                                       \
	static void rows_##R(const uint8_t *w, const int8_t *x, int32_t *sums, long k, long apart)                          \
	{                                                                                                                   \
		SUMS sum[R][VECTORS];                                                                                           \
		EACH (int r = 0; r < R; r++)                                                                                    \
			EACH (int j = 0; j < VECTORS; j++)                                                                          \
				sum[r][j] = ZERO;                                                                                       \
		for (long p = 0; p < k; p += QUAD, w += QUAD * BLOCK) {                                                         \
			SUMS four[VECTORS];                                                                                         \
			_mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);                                                         \
			EACH (int j = 0; j < VECTORS; j++)                                                                          \
				four[j] = LOAD(w + j * (QUAD * BLOCK / VECTORS));                                                       \
			EACH (int r = 0; r < R; r++) {                                                                              \
				int32_t some;                                                                                           \
				memcpy(&some, x + r * apart + p, 4);                                                                    \
				EACH (int j = 0; j < VECTORS; j++)                                                                      \
					sum[r][j] = MORE(sum[r][j], four[j], EVERY(some));                                                  \
			}                                                                                                           \
		}                                                                                                               \
		EACH (int r = 0; r < R; r++)                                                                                    \
			EACH (int j = 0; j < VECTORS; j++)                                                                          \
				STORE(sums + r * BLOCK + j * (BLOCK / VECTORS), sum[r][j]);                                             \
	}
#define AHEAD 4096 /* bytes: so far before their use weights are fetched */
#else
static void plain_rows(int rows, const uint8_t *w, const int8_t *x, int32_t *sums, long k, long apart)
{
	for (int r = 0; r < rows; r++)
		for (int i = 0; i < BLOCK; i++) {
			int32_t sum = 0;
			for (long p = 0; p < k; p++)
				sum += w[(p - p % QUAD) * BLOCK + i * QUAD + p % QUAD] * x[r * apart + p];
			sums[r * BLOCK + i] = sum;
		}
}

#define KERNEL(R)                                                                                                       \
	static void rows_##R(const uint8_t *w, const int8_t *x, int32_t *sums, long k, long apart)                          \
	{                                                                                                                   \
		plain_rows(R, w, x, sums, k, apart);                                                                            \
	}
#endif

KERNEL(1) KERNEL(2) KERNEL(3) KERNEL(4) KERNEL(5) KERNEL(6)
#if MAXR > 6
KERNEL(7) KERNEL(8) KERNEL(9) KERNEL(10) KERNEL(11) KERNEL(12)
#endif

typedef int8_t tiny __attribute__((vector_size(LANES), aligned(1), may_alias));

typedef void (*kernel)(const uint8_t *, const int8_t *, int32_t *, long, long);

static const kernel KERNELS[MAXR + 1] = {
	0, rows_1, rows_2, rows_3, rows_4, rows_5, rows_6,
#if MAXR > 6
	rows_7, rows_8, rows_9, rows_10, rows_11, rows_12,
#endif
};

/* k numbers as bytes; returns what a one is worth, and their sum in *whole. A row that is not finite is worth that; one that is
 * next to nothing is nothing. */
static float rounded(const bf16 *x, long k, int8_t *to, int32_t *whole)
{
	lanes high = {0};
	for (long c = 0; c < k; c += LANES) {
		/* a number without its sign is the larger, the larger its bits are; none is the largest */
		bits size = (bits)wide(x + c) & 0x7fffffff;
		counts above = size > (bits)high;
		high = (lanes)((above & (counts)size) | (~above & (counts)high));
	}
	float most = 0;
	for (int i = 0; i < LANES; i++)
		most = high[i] > most || high[i] != high[i] ? high[i] : most;
	int fits = most > 1e-30f && most < INFINITY;
	float by = fits ? 127 / most : 0;
	counts sum = {0};
	for (long c = 0; c < k; c += LANES) {
		/* in the lowest bits of so large a number there is room for whole ones alone */
		counts near = (counts)((fits ? wide(x + c) : (lanes){0}) * by + 12582912.0f) - 0x4b400000;
		*(tiny *)(to + c) = __builtin_convertvector(near, tiny);
		sum += near;
	}
	*whole = 0;
	for (int i = 0; i < LANES; i++)
		*whole += sum[i];
	return fits ? most / 127 : most < INFINITY ? 0 : most;
}

/* w (n, k) into out and scales (n), as the product below reads them; n a multiple of BLOCK, k of 16 and
 * at most 65536, for the sums' sake. 0 without memory, here and below */
int crossdraft_pack_bytes(const bf16 *w, uint8_t *out, float *scales, long n, long k)
{
	int8_t *row = malloc(k);
	if (!row)
		return 0;
	for (long o = 0; o < n; o++) {
		int32_t whole;
		scales[o] = rounded(w + o * k, k, row, &whole);
		uint8_t *block = out + (o - o % BLOCK) * k + o % BLOCK * QUAD;
		for (long p = 0; p < k; p++)
			block[(p - p % QUAD) * BLOCK + p % QUAD] = (uint8_t)(row[p] + 128);
	}
	free(row);
	return 1;
}

/* bytes that the product of m rows works in: of each its own, its scale, and its sum */
long crossdraft_space_of_bytes(long m, long k)
{
	return (m < TILE ? m : TILE) * (k + 8);
}

/* y (m, n) = x (m, k) W' + bias (n floats, or none), by all threads of a team together, which have x before and y after it */
void crossdraft_share_bytes(const uint8_t *w, const float *scales, const bf16 *x, const float *bias, bf16 *y, long m, long n,
                            long k, void *space)
{
	for (long first = 0; first < m; first += TILE) {
		long tile = m - first < TILE ? m - first : TILE;
		float *worth = space;
		int32_t *whole = (int32_t *)(worth + tile);
		int8_t *rows = (int8_t *)(whole + tile);
#pragma omp for schedule(static)
		for (long r = 0; r < tile; r++)
			worth[r] = rounded(x + (first + r) * k, k, rows + r * k, whole + r);
		long chunks = (tile + MAXR - 1) / MAXR;
#pragma omp for schedule(static)
		for (long o = 0; o < n; o += BLOCK) {
			int32_t sums[MAXR * BLOCK];
			long at = 0;
			for (long c = 0; c < chunks; c++) {
				long some = (tile - at + chunks - c - 1) / (chunks - c);
				KERNELS[some](w + o * k, rows + at * k, sums, k, k);
				for (long r = 0; r < some; r++)
					for (long i = 0; i < BLOCK; i += LANES) {
						counts exact = *(const counts *)(sums + r * BLOCK + i) - 128 * whole[at + r];
						lanes sum = __builtin_convertvector(exact, lanes) * (worth[at + r] * *(const lanes *)(scales + o + i));
						if (bias)
							sum += *(const lanes *)(bias + o + i);
						narrow(sum, y + (first + at + r) * n + o + i);
					}
				at += some;
			}
		}
	}
}

/* the same by so many threads */
int crossdraft_rows_of_bytes(const uint8_t *w, const float *scales, const bf16 *x, const float *bias, bf16 *y, long m, long n,
                             long k, int threads)
{
	void *space = malloc(crossdraft_space_of_bytes(m, k));
	(void)threads;
	if (!space)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	crossdraft_share_bytes(w, scales, x, bias, y, m, n, k, space);
	free(space);
	return 1;
}
