/* y = x W' + b for a few bfloat16 rows x and a large matrix W, at the speed at which W comes from memory.
 *
 * W is packed in blocks of BLOCK outputs; within a block, as many pairs of inputs lie side by side, as vdpbf16ps takes them.
 * A block is multiplied with at most MAXR rows at a time, from the caches once the first rows have brought it there,
 * while the next block is fetched. Each output of each row is summed over the inputs in one order, so it is the same bits
 * however many rows there are.
 *
 * With AMX, MAXR rows are two tiles. Without AVX512_BF16 the rows are widened to floats first, and the halves of a pair
 * are multiplied one after the other: on AVX-512, on AVX2, or, to test packing and blocks on any machine, as plain floats.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 32
#define MAXR 32
#define TILE (8 * MAXR)
#define STEP 32 /* inputs of a tile */
#define ROWS_OF_TILE 16

typedef bf16 input;

/* Linux gives a process the tiles when it asks for them (ARCH_REQ_XCOMP_PERM of XTILEDATA) */
int crossdraft_begin(void)
{
	return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

/* eight tiles of 16 rows of 64 bytes; what was there before, which other libraries of the process may count on */
typedef struct {
	uint8_t palette, start, none[14];
	uint16_t bytes[16];
	uint8_t rows[16];
} __attribute__((aligned(64))) tiles;

static void begin_tiles(tiles *before)
{
	static const tiles ours = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
	/* not by gcc's intrinsics, which say of eight bytes alone that they are read or written */
	__asm__ volatile("sttilecfg %0" : "=m"(*before));
	__asm__ volatile("ldtilecfg %0" : : "m"(ours));
}

static void end_tiles(const tiles *before)
{
	if (before->palette)
		__asm__ volatile("ldtilecfg %0" : : "m"(*before));
	else
		_tile_release();
}

/* x: `rows` of them, padded to whole tiles */
static void product(long rows, const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n,
                    const char *ahead, long step)
{
	float out[MAXR * BLOCK];
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (long p = 0; p < k; p += STEP, w += STEP * BLOCK, x += STEP) {
		for (long i = 0; i < STEP / 2; i++, ahead += step) {
			_mm_prefetch(ahead, _MM_HINT_T1);
			_mm_prefetch(ahead + 64, _MM_HINT_T1);
		}
		_tile_loadd(6, w, 4 * BLOCK);
		_tile_loadd(7, w + BLOCK, 4 * BLOCK);
		_tile_loadd(4, x, 2 * k);
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 4, 7);
		if (rows > ROWS_OF_TILE) {
			_tile_loadd(5, x + ROWS_OF_TILE * k, 2 * k);
			_tile_dpbf16ps(2, 5, 6);
			_tile_dpbf16ps(3, 5, 7);
		}
	}
	_tile_stored(0, out, 4 * BLOCK);
	_tile_stored(1, out + 16, 4 * BLOCK);
	if (rows > ROWS_OF_TILE) {
		_tile_stored(2, out + ROWS_OF_TILE * BLOCK, 4 * BLOCK);
		_tile_stored(3, out + ROWS_OF_TILE * BLOCK + 16, 4 * BLOCK);
	}
	for (long r = 0; r < rows; r++)
		for (int i = 0; i < BLOCK; i += 16) {
			__m512 sum = _mm512_loadu_ps(out + r * BLOCK + i);
			if (bias)
				sum = _mm512_add_ps(sum, _mm512_loadu_ps(bias + i));
			_mm256_storeu_si256((__m256i *)(y + r * n + i), (__m256i)_mm512_cvtneps_pbh(sum));
		}
}

#elif defined(__AVX512BF16__)
#include <immintrin.h>

#define BLOCK 32
#define MAXR 14
#define TILE (14 * MAXR)

typedef bf16 input;

#define KERNEL(R)                                                                                                       \
	static void rows_##R(const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n, const char *ahead,  \
	                     long step)                                                                                     \
	{                                                                                                                   \
		__m512 a[R], b[R];                                                                                              \
		for (int r = 0; r < R; r++) {                                                                                   \
			a[r] = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();                                                  \
			b[r] = bias ? _mm512_loadu_ps(bias + 16) : _mm512_setzero_ps();                                             \
		}                                                                                                               \
		for (long p = 0; p < k / 2; p++) {                                                                              \
			__m512bh u = (__m512bh)_mm512_loadu_si512(w + p * 2 * BLOCK);                                               \
			__m512bh v = (__m512bh)_mm512_loadu_si512(w + p * 2 * BLOCK + BLOCK);                                       \
			_mm_prefetch(ahead + p * step, _MM_HINT_T1);                                                                \
			_mm_prefetch(ahead + p * step + 64, _MM_HINT_T1);                                                           \
			for (int r = 0; r < R; r++) {                                                                               \
				int32_t two;                                                                                            \
				memcpy(&two, x + r * k + 2 * p, 4);                                                                     \
				__m512bh t = (__m512bh)_mm512_set1_epi32(two);                                                          \
				a[r] = _mm512_dpbf16_ps(a[r], u, t);                                                                    \
				b[r] = _mm512_dpbf16_ps(b[r], v, t);                                                                    \
			}                                                                                                           \
		}                                                                                                               \
		for (int r = 0; r < R; r++) {                                                                                   \
			_mm256_storeu_si256((__m256i *)(y + r * n), (__m256i)_mm512_cvtneps_pbh(a[r]));                             \
			_mm256_storeu_si256((__m256i *)(y + r * n + 16), (__m256i)_mm512_cvtneps_pbh(b[r]));                        \
		}                                                                                                               \
	}

#else

typedef float input;

static float wide(bf16 value)
{
	uint32_t bits = (uint32_t)value << 16;
	float out;
	memcpy(&out, &bits, 4);
	return out;
}

/* to the nearest, ties to even */
static bf16 narrow(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, 4);
	return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__)
#include <immintrin.h>

#define BLOCK 32
#define MAXR 14
#define TILE (4 * MAXR)
#define FLOATS __m512
#define ALL(NAME) _mm512_##NAME
#define LOAD(FROM) _mm512_loadu_si512(FROM)
#define AND(X, Y) _mm512_and_si512(X, Y)
#define FLOAT(X) _mm512_castsi512_ps(X)

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define BLOCK 16
#define MAXR 6
#define TILE (8 * MAXR)
#define FLOATS __m256
#define ALL(NAME) _mm256_##NAME
#define LOAD(FROM) _mm256_loadu_si256((const __m256i *)(FROM))
#define AND(X, Y) _mm256_and_si256(X, Y)
#define FLOAT(X) _mm256_castsi256_ps(X)

#else

#define BLOCK 32
#define MAXR 14
#define TILE (14 * MAXR)

static void plain_rows(int rows, const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n)
{
	for (int r = 0; r < rows; r++)
		for (long i = 0; i < BLOCK; i++) {
			float sum = bias ? bias[i] : 0.0f;
			for (long p = 0; p < k / 2; p++) {
				const bf16 *pair = w + p * 2 * BLOCK + 2 * i;
				sum += wide(pair[0]) * x[r * k + 2 * p];
				sum += wide(pair[1]) * x[r * k + 2 * p + 1];
			}
			y[r * n + i] = narrow(sum);
		}
}

#define KERNEL(R)                                                                                                       \
	static void rows_##R(const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n, const char *ahead,  \
	                     long step)                                                                                     \
	{                                                                                                                   \
		(void)ahead;                                                                                                    \
		(void)step;                                                                                                     \
		plain_rows(R, w, x, bias, y, k, n);                                                                             \
	}
#endif

#ifndef KERNEL
/* u and v: BLOCK / 2 outputs each; of every pair, the lower half is the earlier input */
#define KERNEL(R)                                                                                                       \
	static void rows_##R(const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n, const char *ahead,  \
	                     long step)                                                                                     \
	{                                                                                                                   \
		FLOATS a[R], b[R], u, v;                                                                                        \
		float out[BLOCK];                                                                                               \
		for (int r = 0; r < R; r++) {                                                                                   \
			a[r] = bias ? ALL(loadu_ps)(bias) : ALL(setzero_ps)();                                                      \
			b[r] = bias ? ALL(loadu_ps)(bias + BLOCK / 2) : ALL(setzero_ps)();                                          \
		}                                                                                                               \
		for (long p = 0; p < k / 2; p++, w += 2 * BLOCK) {                                                              \
			_mm_prefetch(ahead + p * step, _MM_HINT_T1);                                                                \
			if (BLOCK == 32)                                                                                            \
				_mm_prefetch(ahead + p * step + 64, _MM_HINT_T1);                                                       \
			u = FLOAT(ALL(slli_epi32)(LOAD(w), 16));                                                                    \
			v = FLOAT(ALL(slli_epi32)(LOAD(w + BLOCK), 16));                                                            \
			for (int r = 0; r < R; r++) {                                                                               \
				FLOATS t = ALL(set1_ps)(x[r * k + 2 * p]);                                                              \
				a[r] = ALL(fmadd_ps)(u, t, a[r]);                                                                       \
				b[r] = ALL(fmadd_ps)(v, t, b[r]);                                                                       \
			}                                                                                                           \
			u = FLOAT(AND(LOAD(w), ALL(set1_epi32)((int)0xffff0000)));                                                  \
			v = FLOAT(AND(LOAD(w + BLOCK), ALL(set1_epi32)((int)0xffff0000)));                                          \
			for (int r = 0; r < R; r++) {                                                                               \
				FLOATS t = ALL(set1_ps)(x[r * k + 2 * p + 1]);                                                          \
				a[r] = ALL(fmadd_ps)(u, t, a[r]);                                                                       \
				b[r] = ALL(fmadd_ps)(v, t, b[r]);                                                                       \
			}                                                                                                           \
		}                                                                                                               \
		for (int r = 0; r < R; r++) {                                                                                   \
			ALL(storeu_ps)(out, a[r]);                                                                                  \
			ALL(storeu_ps)(out + BLOCK / 2, b[r]);                                                                      \
			for (int i = 0; i < BLOCK; i++)                                                                             \
				y[r * n + i] = narrow(out[i]);                                                                          \
		}                                                                                                               \
	}
#endif
#endif

#ifdef KERNEL
KERNEL(1) KERNEL(2) KERNEL(3) KERNEL(4) KERNEL(5) KERNEL(6)
#if MAXR > 6
KERNEL(7) KERNEL(8) KERNEL(9) KERNEL(10) KERNEL(11) KERNEL(12) KERNEL(13) KERNEL(14)
#endif

typedef void (*kernel)(const bf16 *, const input *, const float *, bf16 *, long, long, const char *, long);

static const kernel KERNELS[MAXR + 1] = {
	0, rows_1, rows_2, rows_3, rows_4, rows_5, rows_6,
#if MAXR > 6
	rows_7, rows_8, rows_9, rows_10, rows_11, rows_12, rows_13, rows_14,
#endif
};

static void product(long rows, const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n,
                    const char *ahead, long step)
{
	KERNELS[rows](w, x, bias, y, k, n, ahead, step);
}

#define STEP 2
#define ROWS_OF_TILE 1

typedef int tiles; /* there are none */

static void begin_tiles(tiles *before)
{
	*before = 0;
}

static void end_tiles(const tiles *before)
{
	(void)before;
}

/* whether the kernels may run in this process */
int crossdraft_begin(void)
{
	return 1;
}
#endif

/* what the number of inputs must be a multiple of */
long crossdraft_step(void)
{
	return STEP;
}

/* w (n, k) into out, as the product below reads it; n a multiple of 32, k of STEP */
void crossdraft_pack(const bf16 *w, bf16 *out, long n, long k)
{
	for (long o = 0; o < n; o += BLOCK)
		for (long p = 0; p < k / 2; p++)
			for (long i = 0; i < BLOCK; i++)
				memcpy(out + o * k + p * 2 * BLOCK + 2 * i, w + (o + i) * k + 2 * p, 4);
}

/* whether the rows must be copied, for the kernels read them in whole tiles, and some as floats */
static int copied(long m)
{
	return sizeof(input) != sizeof(bf16) || m % ROWS_OF_TILE;
}

static void copy(const bf16 *x, long m, long k, input *to)
{
#ifdef __AVX512BF16__
	memcpy(to, x, m * k * sizeof(input));
#else
	for (long i = 0; i < m * k; i++)
		to[i] = wide(x[i]);
#endif
	memset(to + m * k, 0, (ROWS_OF_TILE - 1 - (m - 1) % ROWS_OF_TILE) * k * sizeof(input));
}

/* y (m, n) = x (m, k) W' + bias (n floats, or none); 0 without memory */
int crossdraft_rows(const bf16 *w, const bf16 *x, const float *bias, bf16 *y, long m, long n, long k, int threads)
{
	input *space = 0;
	(void)threads;
	if (copied(m) && !(space = malloc(((m < TILE ? m : TILE) + ROWS_OF_TILE) * k * sizeof(input))))
		return 0;
	/* of many rows, so many at a time as stay in the cache beside a block */
	for (long first = 0; first < m; first += TILE) {
		long tile = m - first < TILE ? m - first : TILE;
		long chunks = (tile + MAXR - 1) / MAXR;
		const input *read = space;
		if (space)
			copy(x + first * k, tile, k, space);
		else
			read = (const input *)(x + first * k);
#pragma omp parallel num_threads(threads) if (threads > 1)
		{
			tiles before;
			begin_tiles(&before);
#pragma omp for schedule(static)
			for (long o = 0; o < n; o += BLOCK) {
				const bf16 *block = w + o * k;
				long at = 0;
				for (long c = 0; c < chunks; c++) {
					/* shared out evenly, but for tiles, which are filled */
					long rows = (tile - at + chunks - c - 1) / (chunks - c);
					rows = (rows + ROWS_OF_TILE - 1) / ROWS_OF_TILE * ROWS_OF_TILE;
					if (rows > tile - at)
						rows = tile - at;
					/* every chunk of rows fetches its share of the next block */
					const char *ahead = (const char *)(block + BLOCK * k) + c * (2 * BLOCK * k / chunks);
					product(rows, block, read + at * k, bias ? bias + o : 0, y + (first + at) * n + o, k, n, ahead,
					        4 * BLOCK / chunks);
					at += rows;
				}
			}
			end_tiles(&before);
		}
	}
	free(space);
	return 1;
}
