/* y = x W' + b for a few bfloat16 rows x and a large matrix W, at the speed at which W comes from memory.
 *
 * W is packed in blocks of BLOCK outputs; within a block, as many pairs of inputs lie side by side, as vdpbf16ps takes them.
 * A block is multiplied with at most MAXR rows at a time, from the caches once the first rows have brought it there,
 * while the next block is fetched. Each output of each row is summed over the inputs in one order, so it is the same bits
 * however many rows there are.
 *
 * With AMX, MAXR rows are two tiles. Without AVX512_BF16, or where it is left out because floats are faster, the rows are
 * widened to floats first, and the halves of a pair are multiplied one after the other: on AVX-512, on AVX2, or, to test
 * packing and blocks on any machine, as plain floats.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

/* whether pairs are multiplied as they are; decided before immintrin.h is read, behind which gcc defines such names anew */
#if defined(__AVX512BF16__) && !defined(FLOATS_ARE_FASTER)
#define PAIRS
#endif

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
static void product(long rows, const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n, long tile,
                    const char *ahead, long step)
{
	float out[MAXR * BLOCK];
	(void)tile;
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

/* row r of a tile of m; behind the last one zeros up to whole tiles */
static void copy(const bf16 *x, long r, long m, long k, input *to)
{
	memcpy(to + r * k, x + r * k, k * sizeof(input));
	if (r == m - 1)
		memset(to + m * k, 0, (ROWS_OF_TILE - 1 - r % ROWS_OF_TILE) * k * sizeof(input));
}

/* numbers of a tile of m rows, and the distance from row to row */
static long room(long m, long k)
{
	return (m + ROWS_OF_TILE) * k;
}

static long distance(long k)
{
	return k;
}

#else

/* Rows are kept PANEL inputs at a time, at a distance that the compiler knows, so that any row's inputs are addressed
 * without a register for each row. */
#define PANEL 1536
#define STRIDE (PANEL + 16)

/* to the nearest, ties to even */
static bf16 narrow(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, 4);
	return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#ifdef PAIRS
#include <immintrin.h>

typedef bf16 input;

#define BLOCK 32
#define MAXR 14
#define TILE (14 * MAXR)
#define VECTORS 2
#define FLOATS __m512
#define ALL(NAME) _mm512_##NAME

/* sum[] += inputs p and p + 1 of rows times those of a block */
#define ADD_PAIR(R)                                                                                                     \
	__m512bh two[VECTORS];                                                                                              \
	_mm_prefetch(ahead + 64, _MM_HINT_T1);                                                                              \
	EACH (int j = 0; j < VECTORS; j++)                                                                                  \
		two[j] = (__m512bh)_mm512_loadu_si512(w + 32 * j);                                                              \
	EACH (int r = 0; r < R; r++) {                                                                                      \
		int32_t pair;                                                                                                   \
		memcpy(&pair, x + r * STRIDE + p, 4);                                                                           \
		EACH (int j = 0; j < VECTORS; j++)                                                                              \
			sum[r][j] = _mm512_dpbf16_ps(sum[r][j], two[j], (__m512bh)_mm512_set1_epi32(pair));                         \
	}

#else

typedef float input;

#define BLOCK 16

static float wide(bf16 value)
{
	uint32_t bits = (uint32_t)value << 16;
	float out;
	memcpy(&out, &bits, 4);
	return out;
}

#if defined(__AVX512F__)
#include <immintrin.h>

#define VECTORS 1
#define MAXR 28
#define TILE (4 * MAXR)
#define FLOATS __m512
#define ALL(NAME) _mm512_##NAME
#define LOAD(FROM) _mm512_loadu_si512(FROM)
#define AND(X, Y) _mm512_and_si512(X, Y)
#define FLOAT(X) _mm512_castsi512_ps(X)

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define VECTORS 2
#define MAXR 6
#define TILE (8 * MAXR)
#define FLOATS __m256
#define ALL(NAME) _mm256_##NAME
#define LOAD(FROM) _mm256_loadu_si256((const __m256i *)(FROM))
#define AND(X, Y) _mm256_and_si256(X, Y)
#define FLOAT(X) _mm256_castsi256_ps(X)

#else

#define MAXR 6
#define TILE (8 * MAXR)

static void plain_rows(int rows, const bf16 *w, const float *x, float *sums, long k)
{
	for (int r = 0; r < rows; r++)
		for (long i = 0; i < BLOCK; i++)
			for (long p = 0; p < k; p++)
				sums[r * BLOCK + i] += wide(w[(p - p % 2) * BLOCK + 2 * i + p % 2]) * x[r * STRIDE + p];
}

#define KERNEL(R)                                                                                                       \
	static void rows_##R(const bf16 *w, const input *x, float *sums, long k, const char *ahead, long step)              \
	{                                                                                                                   \
		(void)ahead;                                                                                                    \
		(void)step;                                                                                                     \
		plain_rows(R, w, x, sums, k);                                                                                   \
	}
#endif

/* of every pair in a register, the lower half is the earlier input */
#define ADD_HALVES(R, AT, HALF)                                                                                         \
	EACH (int j = 0; j < VECTORS; j++)                                                                                  \
		half[j] = FLOAT(HALF(LOAD(w + 2 * j * (BLOCK / VECTORS))));                                                     \
	EACH (int r = 0; r < R; r++) {                                                                                      \
		FLOATS t = ALL(set1_ps)(x[r * STRIDE + AT]);                                                                    \
		EACH (int j = 0; j < VECTORS; j++)                                                                              \
			sum[r][j] = ALL(fmadd_ps)(half[j], t, sum[r][j]);                                                           \
	}
#define LOWER(X) ALL(slli_epi32)(X, 16)
#define UPPER(X) AND(X, ALL(set1_epi32)((int)0xffff0000))
#define ADD_PAIR(R)                                                                                                     \
	FLOATS half[VECTORS];                                                                                               \
	ADD_HALVES(R, p, LOWER)                                                                                             \
	ADD_HALVES(R, p + 1, UPPER)
#endif

#define EACH _Pragma("GCC unroll 28") for

#ifndef KERNEL
/* sums (R, BLOCK) += k inputs of R rows times those of a block */
#define KERNEL(R)                                                                                                       \
	static void rows_##R(const bf16 *w, const input *x, float *sums, long k, const char *ahead, long step)              \
	{                                                                                                                   \
		FLOATS sum[R][VECTORS];                                                                                         \
		EACH (int r = 0; r < R; r++)                                                                                    \
			EACH (int j = 0; j < VECTORS; j++)                                                                          \
				sum[r][j] = ALL(loadu_ps)(sums + r * BLOCK + j * (BLOCK / VECTORS));                                    \
		for (long p = 0; p < k; p += 2, w += 2 * BLOCK, ahead += step) {                                                \
			_mm_prefetch(ahead, _MM_HINT_T1);                                                                           \
			ADD_PAIR(R)                                                                                                 \
		}                                                                                                               \
		EACH (int r = 0; r < R; r++)                                                                                    \
			EACH (int j = 0; j < VECTORS; j++)                                                                          \
				ALL(storeu_ps)(sums + r * BLOCK + j * (BLOCK / VECTORS), sum[r][j]);                                    \
	}
#endif

KERNEL(1) KERNEL(2) KERNEL(3) KERNEL(4) KERNEL(5) KERNEL(6)
#if MAXR > 6
KERNEL(7) KERNEL(8) KERNEL(9) KERNEL(10) KERNEL(11) KERNEL(12) KERNEL(13) KERNEL(14)
#endif
#if MAXR > 14
KERNEL(15) KERNEL(16) KERNEL(17) KERNEL(18) KERNEL(19) KERNEL(20) KERNEL(21)
KERNEL(22) KERNEL(23) KERNEL(24) KERNEL(25) KERNEL(26) KERNEL(27) KERNEL(28)
#endif

typedef void (*kernel)(const bf16 *, const input *, float *, long, const char *, long);

static const kernel KERNELS[MAXR + 1] = {
	0, rows_1, rows_2, rows_3, rows_4, rows_5, rows_6,
#if MAXR > 6
	rows_7, rows_8, rows_9, rows_10, rows_11, rows_12, rows_13, rows_14,
#endif
#if MAXR > 14
	rows_15, rows_16, rows_17, rows_18, rows_19, rows_20, rows_21,
	rows_22, rows_23, rows_24, rows_25, rows_26, rows_27, rows_28,
#endif
};

/* x: the first of the rows in a tile of `tile`, as copied below */
static void product(long rows, const bf16 *w, const input *x, const float *bias, bf16 *y, long k, long n, long tile,
                    const char *ahead, long step)
{
	float sums[MAXR * BLOCK];
	for (long r = 0; r < rows; r++)
		for (long i = 0; i < BLOCK; i++)
			sums[r * BLOCK + i] = bias ? bias[i] : 0.0f;
	for (long p = 0; p < k; p += PANEL)
		KERNELS[rows](w + p * BLOCK, x + p / PANEL * tile * STRIDE, sums, k - p < PANEL ? k - p : PANEL,
		              ahead + p / 2 * step, step);
	for (long r = 0; r < rows; r++)
		for (long i = 0; i < BLOCK; i++)
			y[r * n + i] = narrow(sums[r * BLOCK + i]);
}

/* row r of a tile of m, in panels */
static void copy(const bf16 *x, long r, long m, long k, input *to)
{
	for (long first = 0; first < k; first += PANEL) {
		const bf16 *from = x + r * k + first;
		input *into = to + (first / PANEL * m + r) * STRIDE;
		long count = k - first < PANEL ? k - first : PANEL;
#ifdef PAIRS
		memcpy(into, from, count * sizeof(input));
#else
		for (long i = 0; i < count; i++)
			into[i] = wide(from[i]);
#endif
	}
}

/* numbers of a tile of m rows, and the distance from row to row */
static long room(long m, long k)
{
	return (k + PANEL - 1) / PANEL * m * STRIDE;
}

static long distance(long k)
{
	(void)k;
	return STRIDE;
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

/* bytes that the product of m rows works in */
long crossdraft_space(long m, long k)
{
	return room(m < TILE ? m : TILE, k) * sizeof(input);
}

/* y (m, n) = x (m, k) W' + bias (n floats, or none), by all threads of a team together, which have x before and y after it */
void crossdraft_share(const bf16 *w, const bf16 *x, const float *bias, bf16 *y, long m, long n, long k, void *space)
{
	input *copies = space;
	tiles before;
	begin_tiles(&before);
	/* of many rows, so many at a time as stay in the cache beside a block */
	for (long first = 0; first < m; first += TILE) {
		long tile = m - first < TILE ? m - first : TILE;
		long chunks = (tile + MAXR - 1) / MAXR;
#pragma omp for schedule(static)
		for (long r = 0; r < tile; r++)
			copy(x + first * k, r, tile, k, copies);
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
				product(rows, block, copies + at * distance(k), bias ? bias + o : 0, y + (first + at) * n + o, k, n, tile,
				        ahead, 4 * BLOCK / chunks);
				at += rows;
			}
		}
	}
	end_tiles(&before);
}

/* the same by so many threads; 0 without memory */
int crossdraft_rows(const bf16 *w, const bf16 *x, const float *bias, bf16 *y, long m, long n, long k, int threads)
{
	void *space = malloc(crossdraft_space(m, k));
	(void)threads;
	if (!space)
		return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
	crossdraft_share(w, x, bias, y, m, n, k, space);
	free(space);
	return 1;
}
